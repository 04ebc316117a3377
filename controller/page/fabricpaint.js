// A fabric drawn: a few switches with lines between them, each half of a line being what leaves the switch at its end; many as a
// matrix, each cell split into the two directions.

import { color } from "./dom.js";
import { STEPS, load, shade, short, state } from "./fabricmodel.js";

export function diagram(fabric, width) {
  const { tiers, pairs } = fabric, margin = 26, height = 60 + (tiers.length - 1) * 170;
  const at = new Map(), names = [];
  tiers.forEach((tier, row) => {
    const y = height - 34 - row * 170, wide = (width - 2 * margin) / tier.all.length;
    short(tier.all).forEach((text, i) => {
      const x = margin + wide * (i + 0.5);
      at.set(tier.all[i].id, [x, y]);
      names.push({ x, y, text: tier.all.length === 1 ? tier.all[i].name : text, below: row === 0 ? `${tier.all[i].ports}` : "", wide });
    });
  });
  const labels = tiers.map((tier, row) => ({ text: tier.name, y: height - 34 - row * 170 }));
  const far = (x, y, [x0, y0], [x1, y1]) => {
    const t = Math.max(0, Math.min(1, ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)));
    return Math.hypot(x - x0 - t * (x1 - x0), y - y0 - t * (y1 - y0));
  };
  return {
    width, height, at, names, labels,
    hit(x, y) {
      const near = pairs.map((pair, i) => [far(x, y, at.get(pair.low), at.get(pair.high)), i]).sort((a, b) => a[0] - b[0])[0];
      return near && near[0] < 8 ? near[1] : null;
    },
  };
}

// A matrix for each two neighbouring tiers, one below the other.
export function matrices(fabric, width) {
  const left = 52, top = 36, blocks = [];
  let y = 0;
  for (let i = 0; i + 1 < fabric.tiers.length; i++) {
    const [low, high] = [fabric.tiers[i], fabric.tiers[i + 1]];
    const cell = Math.max(5, Math.min(30, Math.ceil(900 / low.all.length), Math.floor((width - left - 4) / high.all.length)));
    const index = (all) => new Map(all.map((one, at) => [one.id, at]));
    blocks.push({ low, high, cell, x: left, y: y + top, rows: index(low.all), columns: index(high.all), rowNames: short(low.all), columnNames: short(high.all) });
    y += top + cell * low.all.length + 14;
  }
  const spots = new Map(fabric.pairs.map((pair, i) => [`${pair.low} ${pair.high}`, i]));
  return {
    width, height: y, blocks,
    hit(x, y_) {
      for (const block of blocks) {
        const low = block.low.all[Math.floor((y_ - block.y) / block.cell)], high = block.high.all[Math.floor((x - block.x) / block.cell)];
        if (x >= block.x && y_ >= block.y && low && high) return spots.get(`${low.id} ${high.id}`) ?? null;
      }
      return null;
    },
  };
}

export function paint(canvas, layout, fabric, at, cursor) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.round(layout.width * ratio);
  canvas.height = Math.round(layout.height * ratio);
  canvas.style.width = `${layout.width}px`;
  canvas.style.height = `${layout.height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const fills = Object.fromEntries(STEPS.map((_, i) => [`load${i}`, color(`load${i}`)]));
  const inks = { text: color("text"), quiet: color("quiet"), panel: color("panel"), edge: color("edge"), bad: color("bad") };
  (layout.at ? paintLines : paintCells)(context, layout, fabric, at, cursor, fills, inks);
}

function paintLines(context, layout, fabric, at, cursor, fills, inks) {
  const half = (from, to, value, pair, i) => {
    const middle = [(from[0] + to[0]) / 2, (from[1] + to[1]) / 2];
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...middle);
    context.setLineDash(state(pair) === "up" ? [] : state(pair) === "avoid" ? [7, 4] : [2, 4]);
    if (i === cursor) {
      context.strokeStyle = inks.text;
      context.lineWidth = 11;
      context.stroke();
    }
    context.strokeStyle = state(pair) === "down" ? inks.quiet : fills[shade(value)];
    context.lineWidth = 2 + 6 * Math.min(1, value);
    context.stroke();
  };
  // The fuller are drawn above the others.
  const order = fabric.pairs.map((pair, i) => [Math.max(load(pair.up, at), load(pair.down, at)) + (i === cursor ? 9 : 0), pair, i]).sort((a, b) => a[0] - b[0]);
  for (const [, pair, i] of order) {
    const [low, high] = [layout.at.get(pair.low), layout.at.get(pair.high)];
    half(low, high, load(pair.up, at), pair, i);
    half(high, low, load(pair.down, at), pair, i);
  }
  context.setLineDash([]);
  context.textAlign = "center";
  context.textBaseline = "middle";
  for (const name of layout.names) {
    const wide = Math.max(16, Math.min(name.wide - 4, 44));
    context.fillStyle = inks.panel;
    context.strokeStyle = inks.text;
    context.lineWidth = 1.2;
    context.fillRect(name.x - wide / 2, name.y - 10, wide, 20);
    context.strokeRect(name.x - wide / 2, name.y - 10, wide, 20);
    context.fillStyle = inks.text;
    context.font = "12px system-ui, sans-serif";
    context.fillText(name.text, name.x, name.y + 0.5, wide - 2);
    context.fillStyle = inks.quiet;
    context.font = "11px system-ui, sans-serif";
    context.fillText(name.below, name.x, name.y + 20, name.wide);
  }
  context.textAlign = "left";
  context.fillStyle = inks.quiet;
  for (const label of layout.labels) context.fillText(label.text, 0, label.y - 20);
}

function paintCells(context, layout, fabric, at, cursor, fills, inks) {
  for (const block of layout.blocks) {
    const { x, y, cell } = block;
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = inks.quiet;
    context.textBaseline = "middle";
    context.textAlign = "left";
    context.fillText(`${block.low.name} ↓  ${block.high.name} →`, 0, y - 26);
    context.textAlign = "right";
    const every = (names, room) => names.map((text, i) => (i % Math.max(1, Math.ceil(room / cell)) ? "" : text));
    every(block.rowNames, 12).forEach((text, i) => context.fillText(text, x - 5, y + (i + 0.5) * cell));
    context.textAlign = "center";
    every(block.columnNames, 24).forEach((text, i) => context.fillText(text, x + (i + 0.5) * cell, y - 9));
    context.strokeStyle = inks.edge;
    context.lineWidth = 1;
    context.strokeRect(x - 0.5, y - 0.5, cell * block.high.all.length + 1, cell * block.low.all.length + 1);
    fabric.pairs.forEach((pair, i) => {
      const row = block.rows.get(pair.low), column = block.columns.get(pair.high);
      if (row === undefined || column === undefined) return;
      const [px, py, side] = [x + column * cell, y + row * cell, cell - (cell > 5 ? 1 : 0)];
      corner(context, fills[shade(load(pair.up, at))], [[px, py], [px, py + side], [px + side, py + side]]);
      corner(context, fills[shade(load(pair.down, at))], [[px, py], [px + side, py], [px + side, py + side]]);
      if (state(pair) !== "up") mark(context, px, py, side, state(pair) === "down", inks);
      if (i === cursor) {
        context.strokeStyle = inks.text;
        context.lineWidth = 2.5;
        context.strokeRect(px - 1, py - 1, side + 2, side + 2);
      }
    });
  }
}

function corner(context, fill, points) {
  context.fillStyle = fill;
  context.beginPath();
  points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.fill();
}

// Not by colour alone: a frame is avoided, a cross is down.
function mark(context, x, y, side, down, inks) {
  context.strokeStyle = inks.text;
  context.lineWidth = 1.5;
  context.strokeRect(x + 1, y + 1, side - 2, side - 2);
  if (!down) return;
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x + side, y + side);
  context.moveTo(x + side, y);
  context.lineTo(x, y + side);
  context.stroke();
}
