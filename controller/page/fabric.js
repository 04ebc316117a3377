// The fabric: what links between switches carry as planned, beside what they would carry without a plan.

import { facts, h, section, table } from "./dom.js";
import { createLinks } from "./links.js";
import { count, jobLink, moment, number, percent } from "./words.js";

export function create(body) {
  const head = section(h("section", { "aria-label": "The fabric" }));
  const picture = h("section", { class: "card", "aria-label": "Load of links", hidden: true });
  const jobs = section(h("section", { class: "card half", "aria-label": "Jobs on it" }));
  const nodes = section(h("section", { class: "card half", "aria-label": "Path discovery" }));
  const flows = section(h("section", { class: "card", "aria-label": "Paths" }));
  const links = createLinks(picture);
  body.append(head.element, h("div", { class: "cards" }, picture, jobs.element, nodes.element, flows.element));
  return (doc) => {
    const drawn = doc.configured && doc.links.length > 0;
    head.show([doc.configured, doc.planned_us, doc.plans, doc.moves, doc.mistakes, doc.links_left_out], () => heading(doc));
    picture.hidden = !drawn;
    if (drawn) links(doc);
    if (!doc.configured) return;
    jobs.show(doc.jobs, jobTable);
    nodes.show([doc.nodes, doc.nodes_ready, doc.not_ready], () => discovery(doc));
    flows.show([doc.flows, doc.flows_total], () => flowTable(doc));
  };
}

// How full the fullest link is, and what would be without a plan.
export function sentence({ planned, max_fabric, max_hashed }) {
  if (!planned) return "No paths are planned yet: no job has shown its connections.";
  // It is worked out after the plan is on its way.
  const hashed = max_hashed === null ? "" : `; hashed, the same flows would ask ${percent(max_hashed)} of one`;
  return max_fabric > 1.005
    ? `Jobs ask more than the fabric has: as planned, ${percent(max_fabric)} of the fullest link's rate${hashed}.`
    : `As planned, the fullest link between switches carries ${percent(max_fabric)} of its rate${hashed}.`;
}

function heading(doc) {
  if (!doc.configured) {
    return [h("h1", {}, "No fabric is configured"), h("p", {}, "With ", h("code", {}, "paths: {topology: FILE}"), " in its configuration, the controller plans the paths of all jobs together, and shows them here.")];
  }
  // Each link is told twice, once for each direction.
  const inState = (state) => doc.links.filter((link) => link[7] === state && link[0] < link[1]).length;
  const down = inState("down"), avoided = inState("avoid");
  return [
    h("h1", {}, sentence({ ...doc, planned: doc.planned_us !== null })),
    avoided || down ? h("p", { class: "doubt" }, [avoided && `${count(avoided, "link")} avoided`, down && `${count(down, "link")} down`].filter((text) => text).join(", "), ".") : null,
    doc.mistakes.length ? h("div", { class: "doubt" }, h("strong", {}, "The topology file and the network differ: "), h("ul", {}, doc.mistakes.map((text) => h("li", {}, text)))) : null,
    facts([
      ["Planned", doc.planned_us === null ? "not yet" : moment(doc.planned_us)],
      ["No plan could go below", doc.planned_us === null ? null : percent(doc.lower_bound)],
      ["Flows", number(doc.flows_total)],
      ["Plans made", number(doc.plans)],
      ["Pieces moved by them", number(doc.moves)],
      ["Switches", number(doc.switches.length)],
      ["Links not shown", doc.links_left_out ? number(doc.links_left_out) : null],
    ]),
  ];
}

function jobTable(jobs) {
  if (!jobs.length) return [h("h2", {}, "Jobs"), h("p", { class: "quiet" }, "None has shown connections between hosts yet.")];
  return [h("h2", {}, "Jobs"), table(count(jobs.length, "job"), [
    ["Job", false, (job) => h("a", { href: jobLink(job.job), "data-key": `job-${job.job}` }, job.job)],
    ["Pattern", false, (job) => job.pattern],
    ["Flows", true, (job) => number(job.flows)],
    ["Runs", false, (job) => (job.running ? "yes" : "no, its paths are kept")],
  ], jobs, "stack")];
}

function discovery(doc) {
  if (!doc.nodes) return [];
  return [h("h2", {}, "Path discovery"),
    h("p", {}, `${number(doc.nodes_ready)} of ${count(doc.nodes, "node")} with orders know which source ports take which path.`),
    doc.not_ready.length ? h("ul", { class: "plain" }, doc.not_ready.map(([node, why]) => h("li", {}, h("strong", {}, node), " ", why))) : null];
}

function flowTable(doc) {
  if (!doc.flows.length) return [];
  return [h("details", { "data-key": "flows" }, h("summary", {}, "Paths of flows"), table(doc.flows_total > doc.flows.length ? `The first ${number(doc.flows.length)} of ${number(doc.flows_total)} flows` : count(doc.flows_total, "flow"), [
    ["Job", false, (flow) => flow.job],
    ["From", false, (flow) => flow.from],
    ["To", false, (flow) => flow.to],
    ["Gbit/s", true, (flow) => flow.gbps.toFixed(1)],
    ["Path", false, (flow) => (flow.why ? flow.why : flow.pieces.map(([share, path]) => h("div", {}, `${flow.pieces.length > 1 ? `${percent(share)}: ` : ""}${path.join(" → ")}`)))],
  ], doc.flows, "stack")) ];
}
