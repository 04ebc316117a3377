// Which view is shown, in which colours, and whether the controller is there.

import { h } from "./dom.js";
import { follow } from "./live.js";
import { clock, duration, findingLink, jobLink } from "./words.js";
import * as fleet from "./fleet.js";
import * as job from "./job.js";
import * as finding from "./finding.js";

const main = document.getElementById("main");
const line = document.getElementById("line");
let stop = () => {};

function route() {
  const [, kind = "", name = ""] = location.hash.split("/");
  const id = decodeURIComponent(name);
  if (kind === "job") return { view: job, query: `job=${encodeURIComponent(id)}`, path: [[`job ${id}`, jobLink(id)]], title: `${id} – C4` };
  if (kind === "finding") return { view: finding, query: `finding=${encodeURIComponent(id)}`, path: [[id, findingLink(id)]], title: `${id} – C4` };
  return { view: fleet, query: "", path: [], title: "C4" };
}

function crumbs(path) {
  const items = [["C4", "#/"], ...path];
  document.getElementById("path").replaceChildren(...items.map(([text, link], i) =>
    h("li", {}, h("a", { href: link, "aria-current": i === items.length - 1 ? "page" : null }, text))));
}

function show() {
  stop();
  const { view, query, path, title } = route();
  crumbs(path);
  document.title = title;
  const banner = h("div", { class: "banner", role: "alert", hidden: true });
  const body = h("div", {}, h("p", { class: "quiet" }, "Asking the controller…"));
  main.replaceChildren(banner, body);
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
  let update, asOf;
  stop = follow(query, {
    onDocument(document_) {
      asOf = Date.now() * 1000;
      if (document_.error) {
        update = undefined;
        body.replaceChildren(h("h1", {}, "Not here"), h("p", {}, document_.error), h("p", {}, h("a", { href: "#/" }, "All jobs")));
        return;
      }
      if (!update) {
        body.replaceChildren();
        update = view.create(body);
      }
      const began = performance.now();
      update(document_);
      performance.measure("draw", { start: began });
      if (document_.job && document_.view === "finding") crumbs([[`job ${document_.finding.job}`, jobLink(document_.finding.job)], ...path]);
    },
    onState(state, silent) {
      line.className = `line ${state}`;
      document.body.classList.toggle("lost", state === "lost");
      line.textContent = { live: "live", waiting: "reconnecting…", lost: "controller lost" }[state];
      banner.hidden = state !== "lost";
      if (state === "lost") {
        const seen = asOf ? ` What you see is of ${clock(asOf)} UTC, ${duration(silent * 1e6)} ago; jobs go on without it.` : "";
        const text = `The controller does not answer.${seen}`;
        // Said once, not every half second.
        banner.replaceChildren(text);
      }
    },
  });
}

// Colours: as the system has them, unless told otherwise.
const system = matchMedia("(prefers-color-scheme: dark)");
const THEMES = { system: ["◐", "as the system has them"], dark: ["●", "dark"], light: ["○", "light"] };
function chosen() {
  try {
    return localStorage.getItem("c4-theme") in THEMES ? localStorage.getItem("c4-theme") : "system";
  } catch {
    return "system";
  }
}
function paint(theme) {
  const dark = theme === "dark" || (theme === "system" && system.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  const button = document.getElementById("theme");
  button.textContent = THEMES[theme][0];
  button.setAttribute("aria-label", `Colours: ${THEMES[theme][1]}`);
  document.dispatchEvent(new Event("themechange"));
}
document.getElementById("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(chosen()) + 1) % names.length];
  try {
    localStorage.setItem("c4-theme", next);
  } catch { /* Kept for this page only. */ }
  paint(next);
});
system.addEventListener("change", () => paint(chosen()));
addEventListener("hashchange", show);
addEventListener("keydown", (event) => {
  const typing = /^(input|select|textarea)$/i.test(event.target.tagName);
  if (event.key === "/" && !typing) {
    const filter = document.querySelector("input[type=search]");
    if (filter) {
      event.preventDefault();
      filter.focus();
    }
  }
});
paint(chosen());
show();
