// The operation that stands still: since when each rank is in it, and who is not.

import { h, svg, whenResized } from "./dom.js";
import { STANDINGS, clock, count, duration, number } from "./words.js";

const ROWS = 24, ROW = 20, LABEL = 132, TOP = 8, BOTTOM = 22;

export function createTimeline(card) {
  const heading = h("h2", {});
  const caption = h("figcaption", {});
  const drawing = h("div", {});
  const pick = h("select", { "aria-label": "Which operation", onchange: () => draw() });
  card.append(h("div", { class: "tools" }, heading, pick), h("figure", {}, caption, drawing));
  let model, names = "";
  const draw = () => {
    if (!model || card.hidden) return;
    const one = model.standstills[Number(pick.value) || 0] || model.standstills[0];
    heading.textContent = `${one.function} #${one.operation}`;
    const held = [...one.standing].filter((letter) => letter === "w").length;
    caption.textContent = `${count(held, "rank")} of ${number(one.spot.length + one.left_out)} in ${one.communicator} ${held === 1 ? "waits" : "wait"} in it, the longest since ${clock(one.since_us)} UTC (${duration(model.taken_us - one.since_us)}).`;
    drawing.replaceChildren(timeline(model, one, drawing.clientWidth || 400, caption.textContent));
  };
  whenResized(card, draw);
  return (next) => {
    model = next;
    const options = model.standstills.map((one) => `${one.is_root ? "root: " : ""}${one.communicator} ${one.function} #${one.operation}`);
    if (options.join() !== names) {
      names = options.join();
      pick.replaceChildren(...options.map((text, i) => h("option", { value: String(i) }, text)));
    }
    pick.hidden = options.length < 2;
    draw();
  };
}

function timeline(model, one, width, label) {
  const all = one.spot.map((spot, i) => ({ spot, standing: one.standing[i], enqueued: one.enqueued_us[i], started: one.started_us[i], position: one.position[i] }));
  const holders = all.filter((row) => "esnqlu".includes(row.standing)).slice(0, ROWS / 2);
  const others = all.filter((row) => "wp".includes(row.standing));
  others.sort((a, b) => (a.started ?? a.enqueued ?? Infinity) - (b.started ?? b.enqueued ?? Infinity));
  const room = ROWS - holders.length;
  const drawn = others.length <= room ? others : [...others.slice(0, room / 2), ...others.slice(-room / 2)];
  const rows = [...holders, ...drawn];
  const left = all.length - rows.length;
  const end = model.taken_us, begin = Math.min(one.since_us, ...rows.map((row) => row.enqueued ?? end), end - 1);
  const x = (at) => LABEL + ((Math.max(at, begin) - begin) / (end - begin)) * (width - LABEL - 4);
  const height = TOP + ROW * rows.length + BOTTOM + (left ? ROW : 0);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${label} ${holders.map((row) => `${model.name(row.spot)} ${STANDINGS[row.standing]}`).join("; ")}` });
  rows.forEach((row, i) => {
    const y = TOP + i * ROW, bad = "esnql".includes(row.standing);
    picture.append(svg("text", { class: `rowtext${bad ? " bad" : ""}`, x: 0, y: y + 13 }, model.name(row.spot)));
    if (row.enqueued === null) {
      picture.append(svg("rect", { class: "absent", x: LABEL, y: y + 1, width: width - LABEL - 5, height: ROW - 3 }),
        svg("text", { class: `rowtext${bad ? " bad" : ""}`, x: LABEL + 6, y: y + 13 }, STANDINGS[row.standing]));
      return;
    }
    const from = row.started ?? end;
    picture.append(svg("rect", { class: "queued", x: x(row.enqueued), y: y + 2, width: Math.max(1, x(from) - x(row.enqueued)), height: ROW - 6 }),
      svg("rect", { class: "wait", x: x(from), y: y + 2, width: Math.max(1, x(end) - x(from)), height: ROW - 6 }));
  });
  if (left) picture.append(svg("text", { class: "tick", x: 0, y: TOP + rows.length * ROW + 12 }, `and ${number(left)} more`));
  for (const [at, anchor] of [[begin, "start"], [end, "end"]]) picture.append(svg("text", { class: "tick", x: x(at), y: height - 6, "text-anchor": anchor }, clock(at)));
  return picture;
}
