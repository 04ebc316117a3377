// Writes boards as TypeScript in which Grafana's own types (npm: @grafana/schema) have the word, for `tsc` to check:
//   node typed.mjs SCHEMA BOARD.json... > boards.ts
// SCHEMA is the directory of the unpacked package. Literals are checked strictly: a field that Grafana does not know is an error.

import { readFileSync } from "node:fs";

const [schema, ...files] = process.argv.slice(2);
const panels = { timeseries: "TimeSeries", stat: "Stat", table: "Table", heatmap: "Heatmap" };
// Of these, boards may set fields; of numbers and words nothing.
const drawn = ["timeseries", "table", "heatmap"];

const lines = [`import type { Dashboard, AnnotationQuery } from "${schema}/dist/esm/raw/dashboard/x/dashboard_types.gen";`];
for (const [kind, name] of Object.entries(panels)) {
  lines.push(`import type * as ${kind} from "${schema}/dist/esm/raw/composable/${kind}/panelcfg/x/${name}PanelCfg_types.gen";`);
}
lines.push(`
// As JSON has it: an enumeration is its words.
type Plain<T> = T extends string ? \`\${T}\` : T extends number | boolean | null | undefined ? T
  : T extends (infer U)[] ? Plain<U>[] : unknown extends T ? T : { [K in keyof T]: Plain<T[K]> };
// What a panel does not say is as Grafana's defaults are.
type Some<T> = T extends (infer U)[] ? U[] : T extends object ? { [K in keyof T]?: Some<T[K]> } : T;
// What Prometheus, as a source of annotations, takes besides.
type Annotation = Plain<AnnotationQuery> & Record<"expr" | "step" | "titleFormat" | "textFormat" | "tagKeys" | "useValueForTime", string>;
type Board = Omit<Plain<Dashboard>, "annotations"> & { annotations: { list: Annotation[] } };
`);

let number = 0;
const check = (type, value) => lines.push(`export const checked${number++}: ${type} = ${JSON.stringify(value)};`);
for (const file of files) {
  const board = JSON.parse(readFileSync(file));
  lines.push(`// ${file}`);
  check("Board", board);
  for (const panel of board.panels) {
    if (panel.type === "row") continue;
    if (!panels[panel.type]) throw new Error(`${file}: no types of panels of kind ${panel.type}`);
    lines.push(`// ${file}: ${JSON.stringify(panel.title)}`);
    check(`Some<Plain<${panel.type}.Options>>`, panel.options);
    if (drawn.includes(panel.type)) check(`Some<Plain<${panel.type}.FieldConfig>>`, panel.fieldConfig.defaults.custom);
  }
}
console.log(lines.join("\n"));
