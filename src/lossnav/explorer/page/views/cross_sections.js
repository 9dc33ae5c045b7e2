// @ts-check
// The map's values along each axis through the selected point: rows of the grid that is drawn there, nothing between.

/** @import { Scene } from "../state/scene.js" */

import { byId, parentOf } from "../base/dom.js";
import { unit } from "../base/format.js";
import { ink } from "../base/theme.js";
import { drawPlot } from "../drawing/line_plot.js";
import { crossSections } from "../state/measurements.js";

/** @param {Scene | null} scene */
export function showCrossSections(scene) {
  const sections = scene && crossSections(scene);
  byId("section-card").hidden = !sections;
  if (!scene || !sections) return;
  const colors = ink();
  const [first, second] = sections;
  const room = parentOf(byId("section-plot"));
  const word = unit(scene.variable);
  drawPlot(byId("section-plot"), room.clientWidth, room.clientHeight, {
    x: { label: "coordinate", ends: [Math.min(first.ends[0], second.ends[0]), Math.max(first.ends[1], second.ends[1])] },
    y: { label: word ? `${scene.variable.name} (${word})` : scene.variable.name, log: scene.view.log },
    margin: { top: 20 },
    series: [
      { x: first.at, y: first.values, color: colors.accent, name: `along ${first.letter}` },
      { x: second.at, y: second.values, color: colors.pick, dash: "5 3", name: `along ${second.letter}` },
    ],
  });
}
