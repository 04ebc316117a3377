// Links of a fabric as pairs of switches, and what is said of them.

import { number, percent } from "./words.js";

const TIERS = ["leaf", "spine", "core"];
const MOST_LINES = 48, MOST_ACROSS = 12;
export const STEPS = [[0, "idle"], [0.001, "to 25 %"], [0.25, "to 50 %"], [0.5, "to 75 %"], [0.75, "to 100 %"], [1.005, "more than it has"]];
export const shade = (load) => `load${STEPS.findLastIndex(([from]) => load >= from)}`;

// The links as pairs of a lower and an upper switch; of parallel links the fuller counts.
export function read(doc) {
  const switches = doc.switches.map(([name, tier, ports], id) => ({ id, name, tier: TIERS.indexOf(tier), ports }));
  const byPair = new Map();
  for (const link of doc.links) {
    const [from, to] = link;
    const up = switches[from].tier < switches[to].tier || (switches[from].tier === switches[to].tier && from < to);
    const [low, high] = up ? [from, to] : [to, from];
    const pair = byPair.get(`${low} ${high}`) || { low, high, up: [], down: [] };
    (up ? pair.up : pair.down).push(link);
    byPair.set(`${low} ${high}`, pair);
  }
  const pairs = [...byPair.values()].sort((a, b) => switches[a.low].tier - switches[b.low].tier || a.low - b.low || a.high - b.high);
  const spots = new Map(pairs.map((pair, i) => [`${pair.low} ${pair.high}`, i]));
  const tiers = TIERS.map((name, tier) => ({ name, all: switches.filter((one) => one.tier === tier) })).filter((tier) => tier.all.length);
  const top = (pair, at) => Math.max(...both(pair).map((link) => link[at] || 0));
  const fullest = pairs.reduce((best, pair, i) => (top(pair, 4) > top(pairs[best], 4) ? i : best), 0);
  const step = (at, [down, right]) => {
    const pair = pairs[at];
    if (right) return pairs[at + right] ? at + right : at;
    // The next lower switch with a link to the same upper one.
    for (let low = pair.low + down; low >= 0 && low < switches.length; low += down) if (spots.has(`${low} ${pair.high}`)) return spots.get(`${low} ${pair.high}`);
    return at;
  };
  const lines = pairs.length <= MOST_LINES && tiers.every((tier) => tier.all.length <= MOST_ACROSS);
  return { switches, pairs, tiers, fullest, step, lines };
}

export const load = (links, at) => Math.max(0, ...links.map((link) => link[at] || 0));
const both = (pair) => [...pair.up, ...pair.down];
export const state = (pair) => (both(pair).every((link) => link[7] === "down") ? "down" : both(pair).some((link) => link[7] !== "up") ? "avoid" : "up");

export function about(fabric, pair) {
  const name = (id) => fabric.switches[id].name;
  const way = (from, to, links) => {
    const other = (at, words) => (links.some((link) => link[at] != null) ? `, ${percent(load(links, at))} ${words}` : "");
    return `${name(from)} → ${name(to)}: ${percent(load(links, 4))} planned${other(5, "hashed")}${other(6, "by the plan before")}${other(9, "measured")}`;
  };
  const [one] = both(pair), parallel = Math.max(pair.up.length, pair.down.length);
  return `${way(pair.low, pair.high, pair.up)}; ${way(pair.high, pair.low, pair.down)}. ${parallel > 1 ? `${parallel} links of ` : ""}${number(one[3])} Gbit/s, ${state(pair)}, ${number(one[8])} probed ports.`;
}

export function worst(fabric, at) {
  const all = fabric.pairs.flatMap(both);
  const [from, to, , , ...rest] = all.reduce((a, b) => ((b[at] || 0) > (a[at] || 0) ? b : a));
  return `the fullest is ${fabric.switches[from].name} to ${fabric.switches[to].name}, ${percent(rest[at - 4] || 0)}; ${number(all.filter((link) => link[at] > 1.005).length)} of ${number(all.length)} directions are asked for more than they have.`;
}

// Names without what they all begin with.
export function short(all) {
  let stem = all[0].name.replace(/\d+$/, "");
  while (stem && !all.every((one) => one.name.startsWith(stem) && one.name.length > stem.length)) stem = stem.slice(0, -1);
  return all.map((one) => one.name.slice(stem.length).slice(0, 7));
}
