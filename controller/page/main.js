// Which view is shown, in which colours, and whether the controller is there.

import { h } from "./dom.js";
import { follow } from "./live.js";
import { ask, hasToken, signIn, you } from "./session.js";
import { clock, duration, fabricLink, findingLink, jobLink } from "./words.js";
import * as fleet from "./fleet.js";
import * as job from "./job.js";
import * as finding from "./finding.js";
import * as fabric from "./fabric.js";

const main = document.getElementById("main");
const line = document.getElementById("line");
let stop = () => {};

function route() {
  const [, kind = "", name = ""] = location.hash.split("/");
  const id = decodeURIComponent(name);
  if (kind === "job") return { view: job, query: `job=${encodeURIComponent(id)}`, path: [[`job ${id}`, jobLink(id)]], title: `${id} – C4` };
  if (kind === "finding") return { view: finding, query: `finding=${encodeURIComponent(id)}`, path: [[id, findingLink(id)]], title: `${id} – C4` };
  if (kind === "fabric") return { view: fabric, query: "fabric=true", path: [["fabric", fabricLink]], title: "fabric – C4" };
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
    onStranger() {
      line.className = "line waiting";
      line.textContent = "signed out";
      body.replaceChildren(...signInForm());
      body.querySelector("#token").focus();
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

// Whoever the controller does not know says who they are.
function signInForm() {
  const token = h("input", { type: "password", id: "token", autocomplete: "current-password", required: true });
  const wrong = h("p", { class: "banner", role: "alert", hidden: true });
  const submit = async (event) => {
    event.preventDefault();
    signIn(token.value);
    const who = await ask().catch((error) => ({ why: `The controller does not answer: ${error.message}` }));
    if (who.role) return show();
    signIn("");
    wrong.hidden = false;
    wrong.replaceChildren(who.why || "This token is not known here, or may not look at jobs.");
    token.select();
  };
  return [h("h1", {}, "Sign in"),
    h("p", {}, "This controller shows jobs to those it knows. Give a token, as ", h("code", {}, "c4-controller --new-token viewer NAME"), " makes them; operators may also decide. Or open this page with a client certificate."),
    h("form", { class: "card signin", onsubmit: submit }, h("input", { type: "text", autocomplete: "username", value: "c4", hidden: true }), h("label", { for: "token" }, "Token"), token, h("button", { type: "submit", class: "yes" }, "Sign in"), wrong,
      h("p", { class: "quiet small" }, "It is kept in this tab until the tab is closed, or you sign out."))];
}

// Who looks, where that matters: on a machine where nobody signs in it says nothing.
function showYou() {
  const who = you();
  const signedIn = who.via !== "nothing";
  const limited = !signedIn && who.role && !who.decides;
  document.getElementById("you").replaceChildren(...[
    signedIn && who.role ? h("span", { class: "quiet small" }, `${who.name} (${who.role})`) : "",
    hasToken() ? h("button", { type: "button", onclick: () => { signIn(""); show(); } }, "Sign out")
      : limited ? h("button", { type: "button", onclick: () => main.replaceChildren(...signInForm()) }, "Sign in") : "",
  ].filter((part) => part));
}
document.addEventListener("you", showYou);

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
// A page that is kept for the way back must not hold its connection meanwhile.
addEventListener("pagehide", () => stop());
addEventListener("pageshow", (event) => event.persisted && show());
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
