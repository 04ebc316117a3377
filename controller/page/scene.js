// The pictures of a scene.

import { h, section } from "./dom.js";
import { createChart } from "./chart.js";
import { createGrid } from "./grid.js";
import { createMatrix } from "./matrix.js";
import { createTimeline } from "./timeline.js";
import { read } from "./model.js";
import { clock } from "./words.js";

export function createPictures() {
  const card = (kind, label) => h("section", { class: `card ${kind}`, "aria-label": label, hidden: true });
  const cards = { grid: card("wide", "Who waits for whom"), timeline: card("narrow", "The operation that stands still"), chart: card("half", "Iteration time"), matrix: card("half", "Network delays") };
  const missing = section(h("section", { class: "card", "aria-label": "Pictures" }));
  const grid = createGrid(cards.grid), timeline = createTimeline(cards.timeline), chart = createChart(cards.chart), matrix = createMatrix(cards.matrix);
  let key;
  return {
    elements: [cards.grid, cards.timeline, cards.chart, cards.matrix, missing.element],
    update(scene, { changes = [], marks = [], finding, live }) {
      missing.show(!scene, (is_missing) => (is_missing ? h("p", { class: "quiet" }, live ? "The picture is being drawn…" : "No picture was kept with this finding.") : []));
      if (!scene) {
        Object.values(cards).forEach((one) => (one.hidden = true));
        return;
      }
      const next = JSON.stringify([scene.taken_us, changes.length, marks, finding && finding.suspects]);
      if (next === key) return;
      key = next;
      const model = read(scene, finding);
      const when = live ? "now" : `as it was at ${clock(scene.taken_us)} UTC`;
      const stands = scene.standstills.some((one) => one.is_root) || scene.standstills.length > 0;
      cards.grid.hidden = model.size === 0;
      cards.timeline.hidden = !stands;
      cards.grid.className = `card ${stands ? "wide" : ""}`;
      cards.chart.hidden = scene.iterations.length < 3;
      cards.matrix.hidden = scene.links.length === 0;
      cards.chart.className = `card ${cards.matrix.hidden ? "" : "half"}`;
      if (!cards.grid.hidden) grid(model, when);
      if (stands) timeline(model);
      if (!cards.chart.hidden) chart(scene.iterations, changes, marks);
      if (!cards.matrix.hidden) matrix(model);
    },
  };
}
