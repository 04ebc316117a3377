// Loads of links, twice: before and as planned.

import { h, section, table, whenResized } from "./dom.js";
import { STEPS, about, read, worst } from "./fabricmodel.js";
import { diagram, matrices, paint } from "./fabricpaint.js";
import { number, percent } from "./words.js";

const MOST_ROWS = 60;
const BEFORE = [["hashed", "Hashed, without a plan", 5], ["before", "By the plan before", 6]];

export function createLinks(card) {
  const pick = h("select", { "aria-label": "Compared with", onchange: () => draw() }, BEFORE.map(([name, text]) => h("option", { value: name }, text)));
  const panels = ["", "As planned"].map((text) => {
    const canvas = h("canvas", { role: "img" }), title = h("h3", {}, text), room = h("div", { class: "room" }, canvas);
    return { canvas, title, room, element: h("figure", {}, title, room) };
  });
  const stage = h("div", { class: "pair", tabindex: "0", role: "group", "aria-label": "Links. Arrow keys move from link to link." }, panels.map((panel) => panel.element));
  const readout = h("p", { class: "readout", "aria-live": "polite" });
  const swatch = (name, text) => {
    const mark = h("i", { class: name });
    if (name.startsWith("load")) mark.style.background = `var(--${name})`;
    return h("li", {}, mark, text);
  };
  const key = h("ul", { class: "key" }, STEPS.map(([, text], i) => swatch(`load${i}`, text)), swatch("avoid", "avoided"), swatch("down", "down"));
  const how = h("p", { class: "quiet small" });
  const list = section(h("div", {}));
  card.append(h("div", { class: "tools" }, h("h2", {}, "Load of links"), pick), stage, readout, key, how, list.element);

  let fabric, layouts = [], cursor = null;
  const draw = () => {
    if (!fabric || card.hidden) return;
    const [, text, column] = BEFORE.find(([name]) => name === pick.value);
    panels[0].title.textContent = text;
    layouts = panels.map((panel, i) => {
      const at = i ? 4 : column;
      const layout = fabric.lines ? diagram(fabric, panel.room.clientWidth || 300) : matrices(fabric, panel.room.clientWidth || 300);
      panel.canvas.setAttribute("aria-label", `${panel.title.textContent}: ${worst(fabric, at)}`);
      paint(panel.canvas, layout, fabric, at, cursor);
      return layout;
    });
    how.textContent = fabric.lines ? "Each half of a line is what leaves the switch at its end; numbers under leaves are NIC ports."
      : "Rows are the lower switches, columns the upper ones; the lower left half of a cell is the way up, the upper right half the way down.";
  };
  const move = (next) => {
    if (next === cursor) return;
    cursor = next;
    readout.textContent = cursor === null ? "" : about(fabric, fabric.pairs[cursor]);
    draw();
  };
  panels.forEach((panel, i) => panel.canvas.addEventListener("pointermove", (event) => {
    const box = panel.canvas.getBoundingClientRect();
    if (layouts[i]) move(layouts[i].hit(event.clientX - box.left, event.clientY - box.top));
  }));
  stage.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0], Home: null }[event.key];
    if (!fabric || step === undefined) return;
    event.preventDefault();
    move(cursor === null || !step ? fabric.fullest : fabric.step(cursor, step));
  });
  whenResized(card, draw);

  return (doc) => {
    fabric = read(doc);
    pick.hidden = !doc.links.some((link) => link[6] !== null);
    if (pick.hidden) pick.value = "hashed";
    if (cursor !== null && cursor >= fabric.pairs.length) cursor = null;
    draw();
    list.show([doc.plans, doc.planned_us, doc.links.length, doc.max_hashed], () => linkTable(doc, fabric));
  };
}

function linkTable(doc, fabric) {
  const name = (id) => fabric.switches[id].name;
  const top = (link) => Math.max(link[4], link[5] || 0, link[6] || 0) + (link[7] === "up" ? 0 : 1e3);
  const rows = [...doc.links].sort((a, b) => top(b) - top(a)).slice(0, MOST_ROWS);
  const had = doc.links.some((link) => link[6] !== null);
  return h("details", { "data-key": "links" }, h("summary", {}, "The same as a table"), table(rows.length < doc.links.length ? `${rows.length} of ${number(doc.links.length)}: those that are not up, and the fullest` : `All ${rows.length} directions`, [
    ["From", false, (link) => name(link[0])],
    ["To", false, (link) => `${name(link[1])}${link[2] ? ` #${link[2]}` : ""}`],
    ["Gbit/s", true, (link) => number(link[3])],
    ["Hashed", true, (link) => (link[5] === null ? "–" : percent(link[5]))],
    ...(had ? [["Plan before", true, (link) => (link[6] === null ? "–" : percent(link[6]))]] : []),
    ["Planned", true, (link) => percent(link[4])],
    ["State", false, (link) => link[7]],
    ["Probed ports", true, (link) => number(link[8])],
  ], rows, "stack"));
}
