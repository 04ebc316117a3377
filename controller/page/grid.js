// Who waits for whom: ranks as a grid, arrows to whom they wait for, rings around those at whom the waits end.

import { color, h, whenResized } from "./dom.js";
import { about, story } from "./model.js";
import { STATES } from "./words.js";

const MOST_ARROWS = 240;
// Browsers draw nothing on a canvas that is much higher.
const MOST_PIXELS = 6000;
const FILLS = { r: "running", w: "waiting", s: "stopped", d: "dead", e: "ended", u: "unknown" };

export function createGrid(card) {
  const base = h("canvas", { role: "img" });
  const top = h("canvas", { "aria-hidden": "true" });
  const stage = h("div", { tabindex: "0", role: "group", "aria-label": "Ranks. Arrow keys move from rank to rank." }, base, top);
  stage.style.position = "relative";
  top.style.position = "absolute";
  top.style.inset = "0 auto auto 0";
  top.style.pointerEvents = "none";
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const caption = h("figcaption", {});
  const key = h("ul", { class: "key" }, Object.entries(STATES).map(([letter, name]) => {
    const swatch = h("i", {});
    swatch.style.background = `var(--${FILLS[letter]})`;
    return h("li", {}, swatch, name);
  }));
  const by = ["parallel", "node"].map((name) => h("button", { type: "button", onclick: () => choose(name) }, name === "parallel" ? "By parallel coordinates" : "By node"));
  const heading = h("h2", {}, "Who waits for whom");
  const axes = h("p", { class: "quiet small" });
  const picture = h("div", { class: "picture" }, stage);
  card.append(h("div", { class: "tools" }, heading, ...by), h("figure", {}, caption, picture, readout, axes, key));

  let model, layout, wanted = "parallel", cursor = null;
  const choose = (name) => {
    wanted = name;
    draw();
  };
  const draw = () => {
    if (!model || card.hidden) return;
    const name = model.axes.length ? wanted : "node";
    by.forEach((button, i) => {
      button.hidden = !model.axes.length;
      button.setAttribute("aria-pressed", String(["parallel", "node"][i] === name));
    });
    layout = place(model, name, Math.max(picture.clientWidth, 120));
    axes.textContent = layout.text;
    size(base, layout);
    size(top, layout);
    cells(base.getContext("2d"), model, layout);
    overlay();
  };
  const overlay = () => {
    const context = top.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, top.width, top.height);
    context.scale(layout.ratio, layout.ratio);
    arrows(context, model, layout, cursor);
    rings(context, model, layout);
    if (cursor !== null) outline(context, layout.at(cursor), layout.cell, color("text"), 2);
  };
  const move = (spot) => {
    if (spot === cursor) return;
    cursor = spot;
    readout.textContent = spot === null ? "" : about(model, spot);
    overlay();
  };
  stage.addEventListener("pointermove", (event) => {
    const box = base.getBoundingClientRect();
    move(layout ? layout.hit(event.clientX - box.left, event.clientY - box.top) : null);
  });
  stage.addEventListener("keydown", (event) => {
    if (!layout) return;
    const next = layout.step(cursor, event.key);
    if (next === undefined) return;
    event.preventDefault();
    move(next);
    const { y } = layout.at(next);
    if (y < picture.scrollTop || y + layout.cell > picture.scrollTop + picture.clientHeight) picture.scrollTop = y - picture.clientHeight / 2;
  });
  whenResized(card, draw);

  return (next, when) => {
    model = next;
    if (cursor !== null && cursor >= model.size) cursor = null;
    heading.textContent = `${model.waits.length || !model.suspects.size ? "Who waits for whom" : "Where the suspects are"}, ${when}`;
    caption.textContent = story(model);
    base.setAttribute("aria-label", story(model));
    draw();
    if (cursor !== null) readout.textContent = about(model, cursor);
  };
}

function size(canvas, layout) {
  canvas.width = Math.round(layout.width * layout.ratio);
  canvas.height = Math.round(layout.height * layout.ratio);
  canvas.style.width = `${layout.width}px`;
  canvas.style.height = `${layout.height}px`;
}

// Where each rank is drawn. Rows break where an axis of the grid (or a node) ends.
function place(model, name, width) {
  const order = [...model.rank.keys()];
  let breaks, inner, text;
  if (name === "parallel") {
    breaks = model.axes.flatMap((axis) => Array.from({ length: axis.size }, (_, i) => i + 1).filter((n) => axis.size % n === 0).map((n) => axis.stride * n));
    inner = model.axes[0].size;
    text = `Innermost first: ${model.axes.map((axis) => `${axis.name || "an axis"} (${axis.size} ranks, ${axis.stride} apart)`).join(" × ")}.`;
  } else {
    order.sort((a, b) => model.node[a] - model.node[b] || model.gpu[a] - model.gpu[b]);
    const per = new Map();
    model.node.forEach((node) => per.set(node, (per.get(node) || 0) + 1));
    inner = Math.max(1, ...per.values());
    breaks = Array.from({ length: 64 }, (_, i) => (i + 1) * inner);
    text = `Each block of ${inner} is a node.`;
  }
  const most = Math.max(1, Math.floor(width / 2.5));
  const ideal = Math.sqrt(model.size * (width > 640 ? 1.8 : 1));
  const fitting = breaks.filter((n) => n <= most);
  const columns = fitting.length ? fitting.reduce((best, n) => (Math.abs(Math.log(n / ideal)) < Math.abs(Math.log(best / ideal)) ? n : best)) : most;
  // Of nodes that have fewer ranks than others, the rest of the block stays empty.
  const index = new Array(model.size);
  let at = 0, before = null;
  for (const spot of order) {
    if (name === "node" && before !== null && model.node[before] !== model.node[spot]) at = Math.ceil(at / inner) * inner;
    index[spot] = name === "parallel" && model.rank[spot] !== null && !model.left_out ? model.rank[spot] : at;
    at = index[spot] + 1;
    before = spot;
  }
  const rows = Math.ceil(Math.max(1, ...[index.reduce((a, b) => Math.max(a, b), 0) + 1]) / columns);
  const groups = inner < columns ? columns / inner : 1;
  const roomy = width / columns >= 6;
  const gap = roomy && groups > 1 ? Math.min(6, Math.max(2, Math.floor(width / columns / 4))) : 0;
  const largest = Math.min(model.size <= 32 ? 64 : 34, MOST_PIXELS / rows);
  const cell = Math.max(2, Math.min(largest, (width - 4 - gap * (groups - 1)) / columns));
  const pad = cell >= 5 ? 1 : 0;
  const ats = (i) => {
    const column = i % columns;
    return { x: 2 + column * cell + Math.floor(column / inner) * gap, y: 2 + Math.floor(i / columns) * cell };
  };
  const bySlot = new Map(index.map((slot, spot) => [slot, spot]));
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  return {
    cell, pad, text,
    ratio: Math.min(window.devicePixelRatio || 1, 2),
    width: Math.ceil(columns * cell + gap * (groups - 1) + 4),
    height: Math.ceil(rows * cell + 4),
    at: (spot) => ats(index[spot]),
    hit(x, y) {
      const row = Math.floor((y - 2) / cell);
      for (let column = Math.min(columns - 1, Math.floor((x - 2) / cell)); column >= 0; column--) {
        const left = ats(column).x;
        if (x >= left) return x < left + cell ? bySlot.get(row * columns + column) ?? null : null;
      }
      return null;
    },
    step(spot, name_) {
      if (name_ === "Home") return order[0];
      if (!(name_ in step)) return undefined;
      if (spot === null) return model.held.size ? [...model.held][0] : order[0];
      return bySlot.get(index[spot] + step[name_]) ?? spot;
    },
  };
}

function cells(context, model, layout) {
  context.setTransform(layout.ratio, 0, 0, layout.ratio, 0, 0);
  const side = layout.cell - layout.pad;
  for (const [letter, name] of Object.entries(FILLS)) {
    context.fillStyle = color(name);
    for (let spot = 0; spot < model.size; spot++) {
      if (model.state[spot] !== letter) continue;
      const { x, y } = layout.at(spot);
      context.fillRect(x, y, side, side);
    }
  }
  if (side < 11) return;
  // Not by colour alone.
  const SIGNS = { w: "…", s: "‖", d: "×", u: "?" };
  const numbered = side >= 20 && model.size <= 4096;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const inks = Object.fromEntries(Object.entries(FILLS).map(([letter, name]) => [letter, ink(color(name))]));
  context.font = `${numbered ? Math.max(10, Math.min(14, Math.floor(side / 3))) : Math.floor(side * 0.7)}px system-ui, sans-serif`;
  for (let spot = 0; spot < model.size; spot++) {
    const { x, y } = layout.at(spot);
    const sign = SIGNS[model.state[spot]];
    const text = numbered ? `${model.rank[spot] ?? "–"}${sign ? ` ${sign}` : ""}` : sign;
    context.fillStyle = inks[model.state[spot]];
    if (text) context.fillText(text, x + side / 2, y + side / 2, side);
  }
}

// Black or white, whichever is read better on a colour written as #rrggbb.
function ink(fill) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(fill.slice(at, at + 2), 16));
  return red * 0.3 + green * 0.59 + blue * 0.11 > 120 ? "#111" : "#fff";
}

function outline(context, { x, y }, cell, stroke, width) {
  context.strokeStyle = stroke;
  context.lineWidth = width;
  context.strokeRect(x - 1, y - 1, cell + 1, cell + 1);
}

function rings(context, model, layout) {
  const side = Math.max(layout.cell, 6);
  const ringed = [...new Set([...model.held, ...model.suspects])].slice(0, 256);
  for (const spot of ringed) {
    outline(context, layout.at(spot), side, color("panel"), 6);
    outline(context, layout.at(spot), side, color("bad"), 3);
  }
  if (layout.cell >= 20 || ringed.length > 6) return;
  context.font = "600 13px system-ui, sans-serif";
  context.textBaseline = "middle";
  for (const spot of ringed) {
    const { x, y } = layout.at(spot), text = model.name(spot), wide = context.measureText(text).width + 10;
    const left = x + side + 6 + wide > layout.width ? x - wide - 6 : x + side + 6;
    const at = Math.min(Math.max(y + side / 2, 10), layout.height - 10);
    context.fillStyle = color("panel");
    context.fillRect(left, at - 10, wide, 20);
    context.strokeStyle = color("bad");
    context.lineWidth = 1;
    context.strokeRect(left, at - 10, wide, 20);
    context.fillStyle = color("text");
    context.textAlign = "left";
    context.fillText(text, left + 5, at + 1);
  }
}

// At most so many of a list, evenly from all of it.
const some = (list, most) => (list.length <= most ? list : Array.from({ length: most }, (_, i) => list[Math.floor((i * list.length) / most)]));

function arrows(context, model, layout, cursor) {
  const centre = (spot) => {
    const { x, y } = layout.at(spot);
    return [x + layout.cell / 2, y + layout.cell / 2];
  };
  const pairs = [], mine = [];
  for (const wait of model.waits) {
    if (!wait.to.length) continue;
    const whom = some(wait.to, 4);
    const share = Math.max(1, Math.floor((wait.is_root ? MOST_ARROWS / 2 : 24) / whom.length));
    for (const to of whom) {
      for (const from of some(wait.from, share)) pairs.push([from, to, wait.is_root]);
      if (cursor !== null && wait.from.includes(cursor)) mine.push([cursor, to]);
    }
    if (pairs.length > MOST_ARROWS) break;
  }
  const dim = cursor !== null && mine.length > 0;
  context.lineCap = "round";
  for (const [from, to, is_root] of pairs) arrow(context, centre(from), centre(to), color("arrow"), is_root ? 1.1 : 0.7, dim ? 0.1 : is_root ? 0.45 : 0.25);
  for (const [from, to] of mine) arrow(context, centre(from), centre(to), color("text"), 2.2, 1);
  for (const [from, to] of model.arrows) arrow(context, centre(from), centre(to), color("bad"), 2.6, 1);
}

function arrow(context, [x0, y0], [x1, y1], stroke, width, alpha) {
  const dx = x1 - x0, dy = y1 - y0, far = Math.hypot(dx, dy) || 1;
  const bend = Math.min(40, far * 0.15);
  const cx = (x0 + x1) / 2 - (dy / far) * bend, cy = (y0 + y1) / 2 + (dx / far) * bend;
  const angle = Math.atan2(y1 - cy, x1 - cx), head = 4 + width * 2;
  context.globalAlpha = alpha;
  context.strokeStyle = context.fillStyle = stroke;
  context.lineWidth = width;
  context.beginPath();
  context.moveTo(x0, y0);
  context.quadraticCurveTo(cx, cy, x1, y1);
  context.stroke();
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x1 - head * Math.cos(angle - 0.4), y1 - head * Math.sin(angle - 0.4));
  context.lineTo(x1 - head * Math.cos(angle + 0.4), y1 - head * Math.sin(angle + 0.4));
  context.fill();
  context.globalAlpha = 1;
}
