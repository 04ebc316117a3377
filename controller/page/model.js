// What a scene says: whom each rank waits for, and where that ends.

import { STANDINGS, STATES, count, number } from "./words.js";

const HOLDS = new Set(["e", "s", "n", "q", "l"]);

// A scene with what follows from it: whom each rank waits for, and where that ends.
export function read(scene, finding) {
  const byRank = new Map(scene.rank.map((rank, spot) => [rank, spot]));
  const model = { ...scene, size: scene.rank.length, byRank, roots: scene.roots, held: new Set(), suspects: new Set(), waits: [], arrows: [] };
  model.name = (spot) => (scene.rank[spot] === null ? "a process without a rank" : `rank ${scene.rank[spot]}`);
  model.place = (spot) => `${scene.gpu[spot] === null ? "" : `GPU ${scene.gpu[spot]} of `}${scene.nodes[scene.node[spot]]}`;
  for (const root of scene.roots) if (root.ranks) root.ranks.forEach((spot) => model.held.add(spot));
  for (const root of scene.roots) if (root.what === "transfer") model.arrows.push([root.src, root.dst]);
  for (const one of scene.standstills) {
    const from = [], to = [];
    one.spot.forEach((spot, i) => (one.standing[i] === "w" ? from.push(spot) : HOLDS.has(one.standing[i]) && to.push(spot)));
    model.waits.push({ from, to, is_root: one.is_root, standstill: one });
  }
  for (const [waiter, peer, is_send] of scene.peer_waits) model.waits.push({ from: [waiter], to: [peer], is_root: false, is_send });
  for (const suspect of finding ? finding.suspects : []) {
    if (byRank.has(suspect.rank)) model.suspects.add(byRank.get(suspect.rank));
    const ends = suspect.link && [suspect.link.src, suspect.link.dst].map((end) => byRank.get(Number(/^rank (\d+)$/.exec(end)?.[1] ?? NaN)));
    if (ends && ends.every((end) => end !== undefined)) model.arrows.push(ends);
  }
  return model;
}

// What a rank does, in one line.
export function about(model, spot) {
  const parts = [`${model.name(spot)}, ${model.place(spot)}: ${STATES[model.state[spot]]}, ${number(model.completed[spot])} collectives done`];
  if (model.suspects.has(spot)) parts.push("suspect");
  for (const wait of model.waits) {
    const one = wait.standstill;
    if (!one) {
      if (wait.from[0] === spot) parts.push(`${wait.is_send ? "sends to" : "receives from"} ${model.name(wait.to[0])}`);
      continue;
    }
    const i = one.spot.indexOf(spot);
    if (i < 0) continue;
    const what = `${one.function} #${one.operation} of ${one.communicator}`;
    const whom = one.standing[i] === "w" && wait.to.length ? `, for ${few(model, wait.to)}` : "";
    parts.push(`${what}: ${STANDINGS[one.standing[i]]}${whom}`);
    if (parts.length > 4) break;
  }
  return parts.join(" · ");
}

const few = (model, spots) => (spots.length <= 3 ? spots.map(model.name).join(", ") : `${spots.slice(0, 2).map(model.name).join(", ")} and ${spots.length - 2} more`);

// Who waits for whom, in words.
export function story(model) {
  const told = model.roots.slice(0, 4).map((root) => {
    if (root.what === "ranks") return root.ranks.length === 1 ? `All waits end at ${model.name(root.ranks[0])} (${model.place(root.ranks[0])}).` : `The waits end at ${few(model, root.ranks)}.`;
    if (root.what === "inside") return `All ranks of ${root.communicator} are in the same operation, and none comes out.`;
    if (root.what === "transfer") return `Both sides are in the transfer from ${model.name(root.src)} to ${model.name(root.dst)}.`;
    if (root.what === "circle") return `${few(model, root.ranks)} wait for each other.`;
    return `Who holds ${root.communicator} up cannot be seen.`;
  });
  const states = Object.entries(STATES).map(([letter, name]) => [model.state.split(letter).length - 1, name]).filter(([n]) => n);
  const summary = states.map(([n, name]) => `${number(n)} ${name}`).join(", ");
  if (!told.length && model.suspects.size) told.push(`Suspected: ${few(model, [...model.suspects])}.`);
  if (!told.length) told.push(model.waits.length ? "Some ranks wait; nobody is found to hold them up." : "Nobody waits for long.");
  const more = model.left_out ? ` ${count(model.left_out, "rank")} are not drawn.` : "";
  return `${told.join(" ")} ${count(model.size, "rank")}: ${summary}.${more}`;
}
