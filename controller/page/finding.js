// One finding: the sentence, what it rests on, and what was done.

import { step, trail, weather } from "./actions.js";
import { facts, h, section, table } from "./dom.js";
import { outage } from "./job.js";
import { createPictures } from "./scene.js";
import { you } from "./session.js";
import { KINDS, clock, count, duration, fabricLink, jobLink, moment, percent } from "./words.js";

export function create(body) {
  const head = section(h("section", { "aria-label": "The finding" }));
  const suspects = section(h("section", { class: "card", "aria-label": "Suspects" }));
  const done = section(h("section", { class: "card half", "aria-label": "What was done" }));
  const health = section(h("section", { class: "card", "aria-label": "Health of the suspects" }));
  const evidence = section(h("section", { class: "card", "aria-label": "What it rests on" }));
  const pictures = createPictures();
  body.append(head.element, h("div", { class: "cards" }, h("div", { class: "column half" }, suspects.element, health.element), done.element, pictures.elements, evidence.element));
  return ({ finding, scene, changes, mode, outage: downtime, steps, trail: told, steer }) => {
    head.show(finding, heading);
    suspects.show([finding.suspects, finding.suspects_total], () => accused(finding));
    done.show([finding.actions, mode, downtime, steps, told, steer.pause, steer.breaker, you().decides], () => actions({ finding, mode, downtime, steps, told, steer }));
    pictures.update(scene, { changes, marks: [{ at_us: finding.since_us, text: "fault" }], finding });
    health.show([finding.suspects, scene && scene.health], () => sensors(finding, scene));
    evidence.show([finding.evidence, finding.explains, finding.refuted_by], () => rests(finding));
  };
}

function heading(finding) {
  const over = finding.cleared_us;
  return [
    h("p", {}, h("span", { class: `chip ${over ? "plain" : "bad"}` }, over ? `over: ${KINDS[finding.kind]}` : KINDS[finding.kind] || finding.kind), " ",
      finding.job ? h("a", { href: jobLink(finding.job) }, `job ${finding.job}`) : finding.kind === "path_fault" ? h("a", { href: fabricLink }, "fabric") : null),
    h("h1", {}, finding.summary),
    facts([
      ["Since", moment(finding.since_us)],
      ["Found after", duration(finding.detected_us - finding.since_us)],
      ["Over", over ? `${clock(over)} UTC` : "no"],
      ["That the job suffers", percent(finding.certainty)],
      ["That these are to blame", percent(finding.confidence)],
      ["Id", h("code", {}, finding.id)],
    ]),
  ];
}

const who = (suspect) => [
  suspect.rank !== null && `rank ${suspect.rank}`,
  suspect.gpu !== null && `GPU ${suspect.gpu}`,
  suspect.nic && `NIC ${suspect.nic}`,
  suspect.node && `node ${suspect.node}`,
].filter((part) => part).join(", ");

function accused(finding) {
  return [h("h2", {}, "Suspects"), finding.suspects.length ? table(
    finding.suspects_total > finding.suspects.length ? `The first ${finding.suspects.length} of ${finding.suspects_total}, the likeliest first` : "The likeliest first", [
      ["Who", false, (suspect) => who(suspect) || "–"],
      ["Link", false, (suspect) => (suspect.link ? `${suspect.link.src} → ${suspect.link.dst}` : "–")],
      ["Score", true, (suspect) => suspect.score.toFixed(2)],
    ], finding.suspects, "stack") : h("p", { class: "quiet" }, "Nobody is accused.")];
}

const MODES = {
  observe: "Mode observe: C4 says what it would do and does nothing.",
  approve: "Mode approve: C4 waits for an operator's yes.",
  auto: "Mode auto: C4 acts by itself, within its rails.",
};

function actions({ finding, mode, downtime, steps, told, steer }) {
  // Of a controller that was started again, only what it wrote down is left.
  const lines = told.length ? trail(told) : finding.actions.length ? h("ol", { class: "trail" }, finding.actions.map((action) => h("li", {}, action))) : null;
  return [h("h2", {}, "What C4 did, or would do"),
    weather({ ...steer, actions: [], actions_total: 0 }),
    steps.map((action) => step(action)),
    lines || (steps.length ? null : h("p", { class: "quiet" }, "Nothing so far.")),
    h("p", { class: "quiet small" }, MODES[mode] || ""),
    downtime ? outage(downtime) : null];
}

// Notes at a glance: the worst of the suspects' own nodes first. What sensors say of others, and many times, is folded away.
const NOTES = 4;
const SEVERITIES = ["fatal", "warning", "info"];

function sensors(finding, scene) {
  const nodes = new Set(finding.suspects.map((suspect) => suspect.node));
  const notes = (scene ? scene.health : []).map((note) => ({ ...note, near: nodes.has(note.node) }));
  const rank = (note) => SEVERITIES.indexOf(note.severity);
  notes.sort((a, b) => b.near - a.near || rank(a) - rank(b) || b.at_us - a.at_us);
  const place = (one) => [one.node, one.gpu !== null && `GPU ${one.gpu}`, one.nic].filter((part) => part).join(" ");
  const list = (some) => h("ul", { class: "plain" }, some.map((one) => h("li", {},
    h("span", { class: `chip ${{ fatal: "bad", warning: "warn" }[one.severity] || "plain"}` }, one.severity), " ",
    h("strong", {}, place(one)), " ", one.detail, " ", h("code", {}, one.code), h("div", { class: "quiet small" },
      `${clock(one.at_us)} UTC${one.until_us ? ` until ${clock(one.until_us)}` : ""}${one.near ? "" : "; another node of the job"}`))));
  const first = notes.filter((one) => one.near).slice(0, NOTES), others = notes.filter((one) => !first.includes(one)).slice(0, 60);
  return [h("h2", {}, "Health of the suspects"),
    first.length ? list(first) : h("p", { class: "quiet" }, "Sensors reported nothing about them."),
    others.length ? h("details", { "data-key": "health" }, h("summary", {}, `${count(others.length, "other note")} of this job's nodes`), list(others)) : null];
}

function value(thing) {
  if (Array.isArray(thing)) return h("ul", { class: "plain" }, thing.map((item) => h("li", {}, value(item))));
  if (thing !== null && typeof thing === "object") return Object.entries(thing).map(([name, item]) => h("div", {}, h("span", { class: "quiet" }, `${name.replaceAll("_", " ")}: `), value(item)));
  return typeof thing === "number" && !Number.isInteger(thing) ? String(Number(thing.toPrecision(4))) : String(thing);
}

// The same line once, with how often it was there.
function together(lines) {
  const counts = new Map();
  for (const line of lines) counts.set(line, (counts.get(line) || 0) + 1);
  return [...counts].map(([line, n]) => (n > 1 ? `${line} (${n} times)` : line));
}

function rests(finding) {
  return [h("h2", {}, "What it rests on"),
    h("dl", { class: "evidence" }, Object.entries(finding.evidence).filter(([, thing]) => thing !== null).map(([name, thing]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, value(thing))])),
    finding.explains.length ? [h("h3", {}, "It explains"), h("ul", {}, together(finding.explains).map((text) => h("li", {}, text)))] : null,
    finding.refuted_by ? [h("h3", {}, "What would show it wrong"), h("p", {}, finding.refuted_by)] : null];
}
