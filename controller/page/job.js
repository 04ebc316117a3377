// One job: its ranks, its pace, its network, and what happened to it.

import { weather } from "./actions.js";
import { facts, h, section, table } from "./dom.js";
import { card, downtime, happened } from "./fleet.js";
import { createPictures } from "./scene.js";
import { you } from "./session.js";
import { clock, duration, findingLink, number, percent, tone } from "./words.js";

export function create(body) {
  const head = section(h("section", { "aria-label": "The job" }));
  const ranks = section(h("section", { class: "card", "aria-label": "Ranks that do not run" }));
  const outages = section(h("section", { class: "card half", "aria-label": "Downtime" }));
  const changes = section(h("section", { class: "card half", "aria-label": "When the iteration time changed" }));
  const past = section(h("section", { class: "card half", "aria-label": "Findings that are over" }));
  const events = section(h("section", { class: "card half", "aria-label": "What happened" }));
  const pictures = createPictures();
  body.append(head.element, h("div", { class: "cards" }, pictures.elements, ranks.element, changes.element, outages.element, past.element, events.element));
  return (doc) => {
    const open = doc.findings.filter((finding) => !finding.cleared_us);
    head.show([doc.job, open, doc.states, doc.blind_spots, doc.steer, you().decides], () => heading(doc, open));
    pictures.update(doc.scene, { changes: doc.changes, marks: open.map((finding) => ({ at_us: finding.since_us, text: finding.kind })), live: true });
    ranks.show(doc.troubled, troubled);
    changes.show(doc.changes, (list) => list.length ? [h("h2", {}, "When the iteration time changed"), h("ul", { class: "plain" }, list.map((change) => h("li", {}, change.sentence)))] : []);
    outages.show([doc.outages, doc.downtime], () => doc.outages.length ? [h("h2", {}, "Downtime"), downtime(doc.downtime, "In all: "), doc.outages.map(outage)] : []);
    past.show(doc.findings.filter((finding) => finding.cleared_us).slice(0, 20), (over) => over.length ? [h("h2", {}, "Findings that are over"), over.map(card)] : []);
    events.show(doc.events, happened);
  };
}

function heading({ job, blind_spots, steer }, open) {
  const noise = job.iteration_noise ? ` ± ${percent(job.iteration_noise)}` : "";
  return [
    h("h1", {}, job.name, " ", h("span", { class: `chip ${tone(job.state)}` }, job.state)),
    open.map(card),
    weather(steer),
    job.missing.length ? h("div", { class: "doubt" }, h("strong", {}, "What is missing to judge it: "), job.missing.join("; ")) : null,
    facts([
      ["Ranks", job.world_size && job.world_size !== job.ranks_seen ? `${number(job.ranks_seen)} of ${number(job.world_size)}` : number(job.ranks_seen)],
      ["Iteration", duration(job.iteration_us) + noise],
      ["Iterations seen", number(job.iterations)],
      ["Restarts", String(job.restarts)],
      ["Incarnation", String(job.incarnation)],
    ]),
    blind_spots.length ? h("details", { "data-key": "blind" }, h("summary", {}, "What cannot be seen in it"), h("ul", {}, blind_spots.map((spot) => h("li", {}, spot)))) : null,
  ];
}

function troubled(rows) {
  if (!rows.length) return [];
  return [h("h2", {}, "Ranks that do not run"), table(rows.length >= 200 ? "The first 200" : `${number(rows.length)} in all`, [
    ["Rank", true, (rank) => (rank.rank === null ? "–" : String(rank.rank))],
    ["State", false, (rank) => h("span", { class: `chip ${{ dead: "bad", stopped: "bad", waiting: "warn", unknown: "warn" }[rank.state] || "plain"}` }, rank.state)],
    ["Node", false, (rank) => rank.node],
    ["GPU", true, (rank) => (rank.gpu === null ? "–" : String(rank.gpu))],
    ["Process", true, (rank) => String(rank.pid)],
    ["Enqueued", true, (rank) => number(rank.enqueued)],
    ["Started", true, (rank) => number(rank.started)],
    ["Completed", true, (rank) => number(rank.completed)],
  ], rows, "stack")];
}

export function outage(one) {
  const over = one.progress_us ? `, progress again at ${clock(one.progress_us)}` : ", not over yet";
  const from = one.checkpoint === null ? "no checkpoint was ever reported" : `from checkpoint ${number(one.checkpoint)}`;
  return h("div", {},
    h("h3", {}, h("a", { href: findingLink(one.finding) }, `fault at ${clock(one.fault_us)} UTC`)),
    h("p", { class: "small" }, `found at ${clock(one.detected_us)}`, one.stopped_us ? `, stopped at ${clock(one.stopped_us)}` : "", over, `; ${from}`),
    one.parts ? downtime(one.parts, "Cost: ") : null);
}
