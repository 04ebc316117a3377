// A report: a job and its findings as they were, in one file without a controller.

import { h } from "./dom.js";
import { moment } from "./words.js";
import * as job from "./job.js";
import * as finding from "./finding.js";

const { taken_us, documents } = JSON.parse(document.getElementById("documents").textContent);
const main = document.getElementById("main");
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => {
  document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
  document.dispatchEvent(new Event("themechange"));
};
dark.addEventListener("change", paint);
paint();
main.replaceChildren(h("p", { class: "quiet" }, `As it was at ${moment(taken_us)}.`));
for (const one of documents) {
  const body = h("article", { id: one.view === "finding" ? one.finding.id : "job" });
  main.append(body);
  (one.view === "finding" ? finding : job).create(body)(one);
}
// Links lead to views of the page; here everything is on one.
for (const link of main.querySelectorAll("a[href^='#/']")) {
  const id = decodeURIComponent(link.getAttribute("href").split("/")[2] || "");
  link.setAttribute("href", document.getElementById(id) ? `#${id}` : "#job");
}
