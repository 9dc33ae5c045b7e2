// @ts-check
// The map's values along each axis through the selected point: rows of the grid that is drawn there, nothing between.

/** @import { Range } from "../state/messages.js" */
/** @import { Scene } from "../state/scene.js" */

import { byId, svg } from "../base/dom.js";
import { unit } from "../base/format.js";
import { ink } from "../base/theme.js";
import { drawPlot } from "../drawing/line_plot.js";
import { crossSections } from "../state/measurements.js";
import { spreadOf } from "../state/range.js";

/** @type {SVGSVGElement[]} */
const plots = [];

/** @param {Scene | null} scene */
export function showCrossSections(scene) {
  const sections = scene && crossSections(scene);
  byId("section-card").hidden = !sections;
  if (!scene || !sections) return;
  const colors = ink();
  const room = byId("section-plots");
  while (plots.length < sections.length) plots.push(svg("svg", { id: `section-plot-${plots.length}`, role: "img" }));
  room.replaceChildren(...plots.slice(0, sections.length));
  const word = unit(scene.variable);
  const name = word ? `${scene.variable.name} (${word})` : scene.variable.name;
  // Each axis has an abscissa of its own; the values have one scale.
  const seen = sections.flatMap(({ at, values, ends }) => values.filter((_, k) => at[k] >= ends[0] && at[k] <= ends[1]));
  const [low, high] = spreadOf(seen.filter((v) => !scene.view.log || v > 0), -Infinity, Infinity);
  const more = scene.view.log ? (high / low) ** 0.05 : 0.05 * (high - low);
  /** @type {Range | null} */
  const ends = low < high ? (scene.view.log ? [low / more, high * more] : [low - more, high + more]) : null;
  sections.forEach((section, k) => {
    const { letter, at, values, through } = section;
    const { clientWidth: width, clientHeight: height } = plots[k];
    plots[k].setAttribute("aria-label", `${name} along ${letter} through the point`);
    drawPlot(plots[k], width, height, {
      x: { label: letter, ends: section.ends },
      y: { label: k ? "" : name, log: scene.view.log, ends },
      margin: k ? { left: 42, right: 8 } : { right: 8 },
      series: [{ x: at, y: values, color: colors.accent, name: letter }],
      marks: [{ x: through, y: values[at.indexOf(through)] ?? NaN, color: colors.pick }],
    });
  });
}
