// All jobs: what is wrong, in one look.

import { isolated, weather } from "./actions.js";
import { facts, h, section, table } from "./dom.js";
import { sentence } from "./fabric.js";
import { you } from "./session.js";
import { KINDS, clock, count, duration, fabricLink, findingLink, jobLink, moment, number, percent, tone } from "./words.js";

export function create(body) {
  const now = section(h("section", { "aria-label": "What is wrong now" }));
  const jobs = section(h("div", {}));
  const side = section(h("section", { class: "card", "aria-label": "The cluster" }));
  const events = section(h("section", { class: "card", "aria-label": "What happened" }));
  const past = section(h("section", { class: "card", "aria-label": "Findings that are over" }));
  let latest;
  const filter = h("input", { type: "search", placeholder: "Filter ( / )", "aria-label": "Filter jobs by name or state", oninput: () => list() });
  const list = () => {
    const wanted = filter.value.trim().toLowerCase();
    const shown = latest.jobs.filter((job) => `${job.name} ${job.state}`.toLowerCase().includes(wanted));
    jobs.show([shown, latest.jobs_total], () => jobTable(shown, latest.jobs_total));
  };
  body.append(now.element, h("div", { class: "cards" },
    h("div", { class: "column wide" },
      h("section", { class: "card", "aria-label": "Jobs" }, h("div", { class: "tools" }, h("h2", {}, "Jobs"), filter), jobs.element),
      past.element),
    h("div", { class: "column narrow" }, side.element, events.element)));
  return (doc) => {
    latest = doc;
    const open = doc.findings.filter((finding) => !finding.cleared_us);
    const states = doc.jobs.map((job) => job.state);
    now.show([open, states, doc.nodes_lost, doc.nodes, doc.steer.actions, doc.steer.pause, doc.steer.breaker, you().decides], () => [headline(doc, open), waiting(doc.steer)]);
    list();
    side.show([doc.steer.isolated, doc.fabric, doc.nodes, doc.nodes_lost, doc.lost, doc.ranks, doc.mode, doc.downtime, doc.version], () => cluster(doc));
    events.show(doc.events, happened);
    past.show(doc.findings.filter((finding) => finding.cleared_us).slice(0, 20), (over) => [h("h2", {}, "Findings that are over"),
      over.length ? over.map(card) : h("p", { class: "quiet" }, "None.")]);
  };
}

function headline(doc, open) {
  if (open.length) {
    const ill = new Set(open.map((finding) => finding.job).filter((job) => job)).size;
    const where = ill ? ` in ${ill === 1 ? "one job" : `${ill} jobs`}` : "";
    return [h("h1", {}, `${open.length === 1 ? "One thing is" : `${number(open.length)} things are`} wrong${where}`), open.map(card)];
  }
  const unknown = doc.jobs.filter((job) => job.state === "unknown");
  if (unknown.length || doc.nodes_lost) {
    const what = [unknown.length && `${count(unknown.length, "job")} cannot be judged`, doc.nodes_lost && `${count(doc.nodes_lost, "node")} of ${number(doc.nodes)} out of sight`];
    return [h("h1", {}, "Nothing is known to be wrong"), h("p", { class: "doubt" }, what.filter((text) => text).join("; "), ". Nobody is accused for what cannot be seen.")];
  }
  if (!doc.nodes) return [h("h1", {}, "No agent has connected yet"), h("p", {}, "Start ", h("code", {}, "c4-agent"), " on the nodes, with this controller's address.")];
  const learning = doc.jobs.filter((job) => job.state === "learning").length;
  const text = doc.jobs_total ? `${count(doc.jobs_total, "job")} on ${count(doc.nodes, "node")}${learning ? `, ${learning} still being learned` : ""}.` : `${count(doc.nodes, "node")} in sight, no job yet.`;
  return [h("h1", {}, "Nothing is wrong"), h("p", { class: "fine" }, text)];
}

// What somebody has to decide, or would want to know before anything else is decided.
function waiting(steer) {
  const told = weather(steer, { linked: true }).flat().filter((part) => part);
  if (!told.length) return null;
  const waits = steer.actions.filter((action) => action.state === "proposed").length;
  return h("section", { class: "card decisions", "aria-label": "Actions" }, h("h2", {}, waits ? `${count(waits, "action")} ${waits === 1 ? "waits" : "wait"} for a yes` : "Under way"), told);
}

// A finding: its sentence, and where to read on.
export function card(finding) {
  const over = finding.cleared_us;
  return h("article", { class: `finding${over ? " cleared" : ""}` },
    h("span", { class: `chip ${over ? "plain" : "bad"}` }, KINDS[finding.kind] || finding.kind), " ",
    finding.job ? h("a", { href: jobLink(finding.job), "data-key": `job-${finding.id}` }, finding.job) : null,
    h("p", { class: over ? "" : "sentence" }, h("a", { class: "stretch", href: findingLink(finding.id), "data-key": finding.id }, finding.summary)),
    finding.action ? h("p", {}, finding.action) : null,
    h("p", { class: "quiet small" }, `since ${moment(finding.since_us)}, found after ${duration(finding.detected_us - finding.since_us)}`,
      over ? `, over at ${clock(over)}` : "", `; confidence ${percent(finding.confidence)}`));
}

function jobTable(jobs, total) {
  if (!total) return h("p", { class: "quiet" }, "None has been seen by an agent yet.");
  return [table(jobs.length === total ? count(total, "job") : `${number(jobs.length)} of ${count(total, "job")}, the worst first`, [
    ["Job", false, (job) => h("a", { href: jobLink(job.name), "data-key": `row-${job.name}` }, job.name)],
    ["State", false, (job) => h("span", { class: `chip ${tone(job.state)}` }, job.state)],
    ["Ranks", true, (job) => (job.world_size && job.world_size !== job.ranks_seen ? `${number(job.ranks_seen)} of ${number(job.world_size)}` : number(job.ranks_seen))],
    ["Iteration", true, (job) => duration(job.iteration_us)],
    ["Findings", true, (job) => String(job.open_findings)],
    ["Restarts", true, (job) => String(job.restarts)],
    ["Downtime", true, (job) => (job.downtime_us ? duration(job.downtime_us) : "–")],
  ], jobs, "stack two")];
}

const PARTS = [
  ["post_checkpoint_us", "lost work", "--unknown"],
  ["detection_us", "detection", "--stopped"],
  ["diagnosis_isolation_us", "diagnosis and isolation", "--waiting"],
  ["reinitialisation_us", "restart", "--accent"],
];

// The parts of a downtime as a bar, with a key that says the same in words.
export function downtime(parts, label) {
  if (!parts || !parts.total_us) return h("p", { class: "quiet" }, "No downtime.");
  return [
    h("p", {}, label, h("strong", {}, duration(parts.total_us))),
    h("div", { class: "bar", "aria-hidden": "true" }, PARTS.map(([name, , color]) => {
      const piece = h("i", {});
      piece.style.width = `${(parts[name] / parts.total_us) * 100}%`;
      piece.style.background = `var(${color})`;
      return piece;
    })),
    h("ul", { class: "key" }, PARTS.map(([name, text, color]) => {
      const swatch = h("i", {});
      swatch.style.background = `var(${color})`;
      return h("li", {}, swatch, `${text} ${duration(parts[name])}`);
    })),
  ];
}

function cluster(doc) {
  return [h("h2", {}, "The cluster"),
    facts([["Nodes", number(doc.nodes)], ["Out of sight", number(doc.nodes_lost)], ["Ranks", number(doc.ranks)], ["Mode", doc.mode], ["Controller", doc.version]]),
    isolated(doc.steer),
    doc.fabric ? [h("h3", {}, "Fabric"), h("p", {}, h("a", { href: fabricLink, "data-key": "fabric" }, sentence(doc.fabric))),
      doc.fabric.mistakes ? h("p", { class: "doubt" }, `${count(doc.fabric.mistakes, "thing")} of the topology file ${doc.fabric.mistakes === 1 ? "does" : "do"} not fit the network.`) : null] : null,
    h("h3", {}, "Downtime"), downtime(doc.downtime, "In all: "),
    doc.lost.length ? [h("h3", {}, "Nodes out of sight"), h("ul", { class: "plain" }, doc.lost.map((node) =>
      h("li", {}, node.name, h("span", { class: "quiet small" }, ` last seen ${clock(node.last_seen_us)} UTC`))),
    doc.nodes_lost > doc.lost.length ? h("li", {}, `and ${number(doc.nodes_lost - doc.lost.length)} more`) : null)] : null];
}

export function happened(events) {
  return [h("h2", {}, "What happened"), events.length
    ? h("ul", { class: "plain" }, events.map((event) => h("li", {}, h("time", {}, clock(event.at_us)), event.job ? h("a", { href: jobLink(event.job) }, event.job) : null, event.job ? " " : null, event.text)))
    : h("p", { class: "quiet" }, "Nothing yet.")];
}
