// The delay matrix: how slow each link is, compared with links of its kind. Senders down, receivers across.

import { color, h, section, table, whenResized } from "./dom.js";
import { number } from "./words.js";

const MOST_CELLS = 64;

export function createMatrix(card) {
  const canvas = h("canvas", { role: "img" });
  const picture = h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Delays. Arrow keys move from link to link." }, canvas);
  const caption = h("figcaption", {});
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const list = section(h("div", {}));
  card.append(h("h2", {}, "Network delays"), h("figure", {}, caption, picture, readout), list.element);
  let model, shown, cursor = null;
  const draw = () => {
    if (!model || card.hidden) return;
    shown = bucket(model);
    paint(canvas, shown, Math.max(picture.clientWidth, 120), cursor);
  };
  const move = (at) => {
    const found = shown.cells.get(at), size = shown.names.length;
    readout.textContent = found ? `${shown.names[Math.floor(at / size)]} → ${shown.names[at % size]}: ${found.times.toFixed(2)} times the usual${found.slow ? ", found slow" : ""}` : "";
    cursor = found ? at : null;
    paint(canvas, shown, Math.max(picture.clientWidth, 120), cursor);
  };
  whenResized(card, draw);
  canvas.addEventListener("pointermove", (event) => {
    if (!shown) return;
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - shown.margin) / shown.cell), row = Math.floor((event.clientY - box.top - shown.margin) / shown.cell);
    const size = shown.names.length, at = row * size + column;
    if (at !== cursor && row >= 0 && column >= 0 && row < size && column < size) move(at);
  });
  // Only some cells are links: along a row or a column to the next that is one; at first to the worst.
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Home: null }[event.key];
    if (!shown || step === undefined) return;
    event.preventDefault();
    if (cursor === null || !step) return move([...shown.cells].reduce((a, b) => (b[1].times > a[1].times ? b : a))[0]);
    const size = shown.names.length;
    for (let row = Math.floor(cursor / size) + step[0], column = (cursor % size) + step[1]; row >= 0 && column >= 0 && row < size && column < size; row += step[0], column += step[1]) {
      if (shown.cells.has(row * size + column)) return move(row * size + column);
    }
  });
  return (next) => {
    model = next;
    const links = [...model.links].sort((a, b) => b[3] - a[3] || b[2] - a[2]);
    const slow = links.filter((link) => link[3]).length;
    const worst = links[0];
    caption.textContent = `${number(links.length)} links${model.links_left_out ? ` of ${number(links.length + model.links_left_out)}` : ""}; ${slow ? `${slow} found slow` : "none found slow"}. ` +
      `The slowest: ${model.name(worst[0])} → ${model.name(worst[1])}, ${worst[2].toFixed(2)} times the usual for its kind.`;
    canvas.setAttribute("aria-label", caption.textContent);
    draw();
    list.show(links.slice(0, 8), (rows) => h("details", { "data-key": "links" }, h("summary", {}, "The slowest links as a table"), table("Network time per byte, compared with links of the same kind", [
      ["From", false, (link) => `${model.name(link[0])}, ${model.place(link[0])}`],
      ["To", false, (link) => `${model.name(link[1])}, ${model.place(link[1])}`],
      ["Times", true, (link) => link[2].toFixed(2)],
      ["Found slow", false, (link) => (link[3] ? "yes" : "no")],
    ], rows, "stack")));
  };
}

// Ranks, or nodes where there are many ranks, or neighbouring nodes together; each cell is its slowest link.
function bucket(model) {
  const ends = [...new Set(model.links.flatMap((link) => [link[0], link[1]]))].sort((a, b) => a - b);
  let of = (spot) => spot, name = model.name;
  if (ends.length > MOST_CELLS) {
    of = (spot) => model.node[spot];
    name = (node) => model.nodes[node];
  }
  let keys = [...new Set(ends.map(of))].sort((a, b) => a - b);
  const together = Math.ceil(keys.length / MOST_CELLS);
  const place = new Map(keys.map((key, i) => [key, Math.floor(i / together)]));
  const names = [];
  for (let i = 0; i < keys.length; i += together) names.push(together > 1 ? `${name(keys[i])} and ${together - 1} more` : name(keys[i]));
  const cells = new Map();
  for (const [src, dst, times, slow] of model.links) {
    const at = place.get(of(src)) * names.length + place.get(of(dst));
    const known = cells.get(at);
    if (!known || slow > known.slow || (slow === known.slow && times > known.times)) cells.set(at, { times, slow });
  }
  return { names, cells };
}

function paint(canvas, shown, width, cursor) {
  const n = shown.names.length;
  shown.margin = 34;
  shown.cell = Math.max(4, Math.min(28, Math.floor((width - shown.margin - 2) / n)));
  const side = shown.margin + shown.cell * n + 2, ratio = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = canvas.height = Math.round(side * ratio);
  canvas.style.width = canvas.style.height = `${side}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const cold = color("cold"), hot = color("hot"), bad = color("text");
  context.fillStyle = color("quiet");
  context.font = "11px system-ui, sans-serif";
  const every = Math.max(1, Math.ceil(30 / shown.cell));
  shown.names.forEach((name, i) => {
    if (i % every) return;
    const short = name.replace(/^rank /, "").slice(0, 6);
    context.fillText(short, shown.margin + i * shown.cell, shown.margin - 6);
    context.fillText(short, 2, shown.margin + i * shown.cell + 11);
  });
  for (const [at, { times, slow }] of shown.cells) {
    const x = shown.margin + (at % n) * shown.cell, y = shown.margin + Math.floor(at / n) * shown.cell, size = shown.cell - (shown.cell > 6 ? 1 : 0);
    context.fillStyle = cold;
    context.fillRect(x, y, size, size);
    // From usual to four times as slow.
    context.globalAlpha = Math.max(0, Math.min(1, Math.log(Math.max(times, 1)) / Math.log(4)));
    context.fillStyle = hot;
    context.fillRect(x, y, size, size);
    context.globalAlpha = 1;
    if (slow) {
      context.strokeStyle = bad;
      context.lineWidth = 2;
      context.strokeRect(x + 1, y + 1, size - 2, size - 2);
    }
    if (at === cursor) {
      context.strokeStyle = color("accent");
      context.lineWidth = 3;
      context.strokeRect(x - 1, y - 1, size + 2, size + 2);
    }
  }
}
