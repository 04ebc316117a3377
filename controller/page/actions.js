// What is done about what was found: what waits for a yes, what is under way, and what holds everything back.

import { h } from "./dom.js";
import { buttons } from "./decide.js";
import { clock, findingLink, number } from "./words.js";

const TONES = { proposed: "warn", done: "good", failed: "bad", rejected: "plain", withdrawn: "plain" };
const WAITS = { proposed: "waits for a yes" };

// One action: what, where it is, why; with buttons where it waits for somebody.
export function step(action, { linked } = {}) {
  const by = action.by ? `, by ${action.by}` : "";
  const ended = action.ended_us ? `, ended ${clock(action.ended_us)}` : "";
  return h("article", { class: `action ${action.state}` },
    h("span", { class: `chip ${TONES[action.state] || "warn"}` }, WAITS[action.state] || action.state), " ",
    h("strong", {}, action.text),
    action.detail && action.state !== "rejected" ? h("span", {}, `: ${action.detail}`) : null,
    linked ? h("p", { class: "small" }, "Because ", action.finding ? h("a", { href: findingLink(action.finding), "data-key": `why-${action.id}` }, action.because) : action.because) : null,
    h("p", { class: "quiet small" }, `${action.state === "proposed" ? "proposed" : "planned"} at ${clock(action.planned_us)} UTC${by}${ended}; `, h("code", {}, action.id)),
    buttons(action));
}

// What holds actions back everywhere, and those that have not ended.
export function weather(steer, { linked } = {}) {
  const held = [
    steer.pause && `All actions are paused by ${steer.pause.by}${steer.pause.why ? `: ${steer.pause.why}` : ""}. They go on with: c4ctl resume.`,
    steer.breaker && `The circuit breaker is open: ${steer.breaker}. Nothing is done until it closes.`,
  ].filter((text) => text);
  const more = steer.actions_total - steer.actions.length;
  return [
    held.map((text) => h("p", { class: "doubt" }, text)),
    steer.actions.map((action) => step(action, { linked })),
    more > 0 ? h("p", { class: "quiet" }, `and ${number(more)} more`) : null,
  ];
}

export const isolated = (steer) => steer.isolated.length ? [h("h3", {}, "Isolated nodes"), h("ul", { class: "plain" },
  steer.isolated.map((one) => h("li", {}, one.node, h("span", { class: "quiet small" }, ` since ${clock(one.since_us)} UTC: ${one.why}`))),
  steer.isolated_total > steer.isolated.length ? h("li", {}, `and ${number(steer.isolated_total - steer.isolated.length)} more`) : null)] : null;

const WORDS = { held: "warn", proposed: "plain", planned: "warn", approved: "good", done: "good", failed: "bad" };

// What was written down about a finding: what C4 did or would have done, which rail held it back, who decided.
export const trail = (entries) => h("ol", { class: "trail" }, entries.map((entry) => h("li", {},
  h("time", {}, clock(entry.at_us)), h("span", { class: `chip ${WORDS[entry.what] || "plain"}` }, entry.what), " ", entry.text,
  entry.who === "policy" || entry.text.startsWith(entry.who) ? null : h("span", { class: "quiet small" }, ` (${entry.who})`))));
