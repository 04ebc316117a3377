// Elements, and sections that are made anew only when what they show has changed.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) node.append(child);
  }
  return node;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// A section that `show(what, build)` fills; the same `what` leaves it, its focus and its scroll position as they are.
export function section(element) {
  let shown;
  return {
    element,
    show(what, build) {
      const key = JSON.stringify(what);
      if (key === shown) return;
      shown = key;
      const focused = element.contains(document.activeElement) && document.activeElement.getAttribute("data-key");
      const open = [...element.querySelectorAll("details[open][data-key]")].map((d) => d.dataset.key);
      element.replaceChildren(...[build(what)].flat(Infinity).filter((child) => child));
      for (const key of open) element.querySelector(`details[data-key="${CSS.escape(key)}"]`)?.setAttribute("open", "");
      if (focused) element.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    },
  };
}

// A table; columns are [heading, is it a number, value of a row].
export function table(caption, columns, rows, kind = "") {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", { class: kind },
      h("caption", {}, caption),
      h("thead", {}, h("tr", {}, columns.map(([head, number]) => h("th", { scope: "col", class: number ? "number" : "" }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map(([head, number, value]) =>
        h("td", { class: number ? "number" : "", "data-head": head }, value(row))))))));
}

export const facts = (pairs) => h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== null && value !== undefined)
  .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// Calls back when the width of an element or the colours have changed.
export function whenResized(element, draw) {
  let width = 0;
  new ResizeObserver(() => {
    if (Math.abs(element.clientWidth - width) < 2) return;
    width = element.clientWidth;
    draw();
  }).observe(element);
  document.addEventListener("themechange", () => element.isConnected && draw());
}
