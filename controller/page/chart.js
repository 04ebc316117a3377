// How long iterations took: mean, least and most, with the moments at which that changed.

import { h, svg, whenResized } from "./dom.js";
import { clock, count, duration } from "./words.js";

const HEIGHT = 240, LEFT = 62, RIGHT = 14, TOP = 26, BOTTOM = 24;

export function createChart(card) {
  const drawing = h("div", { tabindex: "0", role: "group", "aria-label": "Iteration time. Arrow keys move along it.", onkeydown: (event) => walk(event) });
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const caption = h("figcaption", {});
  card.append(h("h2", {}, "Iteration time"), h("figure", {}, caption, drawing, readout));
  let draw = () => {}, show = null, spot = null;
  const walk = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !show) return;
    event.preventDefault();
    spot = show.at(spot === null ? show.last : spot + step);
  };
  whenResized(card, () => draw());
  return (points, changes, marks) => {
    caption.textContent = summary(points, changes);
    draw = () => {
      if (card.hidden) return;
      show = chart(points, changes, marks, drawing.clientWidth || 600, caption.textContent, readout);
      drawing.replaceChildren(show.picture);
      if (spot !== null) spot = show.at(spot);
    };
    draw();
  };
}

function summary(points, changes) {
  const latest = points.slice(-10).map((point) => point[3]).sort((a, b) => a - b);
  const total = points.reduce((sum, point) => sum + point[1], 0);
  const last = changes[changes.length - 1];
  return `${count(total, "iteration")}, of late ${duration(latest[latest.length >> 1])} each${last ? `; ${last.sentence}.` : ". No change was noticed."}`;
}

function chart(points, changes, marks, width, label, readout) {
  const t0 = points[0][0], t1 = Math.max(points[points.length - 1][0], t0 + 1);
  const most = points.map((point) => point[4]).sort((a, b) => a - b);
  // A checkpoint that takes a minute must not flatten everything else.
  const usual = Math.min(most[most.length - 1], Math.max(most[Math.floor(most.length * 0.9)], most[most.length >> 1] * 3)) || 1;
  const top = usual * 1.25;
  const x = (at) => LEFT + ((at - t0) / (t1 - t0)) * (width - LEFT - RIGHT);
  const y = (us) => TOP + (1 - Math.min(us, top) / top) * (HEIGHT - TOP - BOTTOM);
  const path = (list, value) => list.map((point, i) => `${i ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(value(point)).toFixed(1)}`).join("");
  const band = `${path(points, (point) => point[4])}L${[...points].reverse().map((point) => `${x(point[0]).toFixed(1)} ${y(point[2]).toFixed(1)}`).join("L")}Z`;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label });
  for (const share of [0, 0.5, 1]) {
    const level = usual * share;
    picture.append(svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y(level), y2: y(level) }),
      svg("text", { class: "tick", x: LEFT - 6, y: y(level) + 4, "text-anchor": "end" }, level ? duration(level) : "0"));
  }
  const ticks = Math.max(2, Math.min(6, Math.floor(width / 150)));
  for (let i = 0; i < ticks; i++) {
    const at = t0 + ((t1 - t0) * i) / (ticks - 1);
    picture.append(svg("text", { class: "tick", x: x(at), y: HEIGHT - 6, "text-anchor": i === 0 ? "start" : i === ticks - 1 ? "end" : "middle" }, clock(at)));
  }
  picture.append(svg("path", { class: "band", d: band }), svg("path", { class: "mean", d: path(points, (point) => point[3]) }));
  const noted = [...changes.map((change) => [change.at_us, `${duration(change.before_us)} → ${duration(change.after_us)}`, "mark change"]), ...marks.map((mark) => [mark.at_us, mark.text.replaceAll("_", " "), "mark"])];
  noted.forEach(([at, text, kind], i) => {
    if (at < t0) return;
    const left = Math.min(x(at), width - RIGHT);
    picture.append(svg("line", { class: kind, x1: left, x2: left, y1: TOP - 6, y2: HEIGHT - BOTTOM }),
      svg("text", { class: "marktext", x: left, y: 12 + (i % 2) * 12, "text-anchor": left > width / 2 ? "end" : "start" }, text));
  });
  const cross = svg("line", { class: "cross", y1: TOP, y2: HEIGHT - BOTTOM, x1: -9, x2: -9 });
  picture.append(cross);
  const point = (near) => {
    cross.setAttribute("x1", x(near[0]));
    cross.setAttribute("x2", x(near[0]));
    const range = near[2] === near[4] ? "" : ` (${duration(near[2])} to ${duration(near[4])})`;
    readout.textContent = `${clock(near[0])} UTC: ${duration(near[3])}${range}, ${count(near[1], "iteration")}`;
  };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const at = t0 + (((event.clientX - box.left) / box.width) * width - LEFT) / (width - LEFT - RIGHT) * (t1 - t0);
    point(points.reduce((best, one) => (Math.abs(one[0] - at) < Math.abs(best[0] - at) ? one : best)));
  });
  const last = points.length - 1;
  const at = (spot) => {
    const within = Math.max(0, Math.min(last, spot));
    point(points[within]);
    return within;
  };
  return { picture, last, at };
}
