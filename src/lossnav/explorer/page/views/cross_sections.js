// The map's values along each axis through the selected point: rows of the grid that is drawn there, nothing between.

import { byId } from "../base/dom.js";
import { unit } from "../base/format.js";
import { index } from "../state/received.js";
import { draw } from "../drawing/line_plot.js";
import { ink } from "../base/theme.js";

// The finest layer that covers a point, and the nearest row and column of it.
export function sectionsOf(scene) {
  const { at } = scene.view;
  if (!at) return null;
  const layer = scene.layers.findLast(({ extent }) => [0, 1].every((k) => at[k] >= extent[k][0] && at[k] <= extent[k][1]));
  if (!layer?.raw) return null;
  const [i, j] = [index(layer.x, at[0]), index(layer.y, at[1])];
  const n = layer.y.length;
  return [
    { letter: scene.session.axes[0].letter, at: [...layer.x], values: Array.from(layer.x, (_, k) => layer.raw[k * n + j]), ends: scene.x },
    { letter: scene.session.axes[1].letter, at: [...layer.y], values: Array.from(layer.y, (_, k) => layer.raw[i * n + k]), ends: scene.y },
  ];
}

export function showSections(scene) {
  const sections = scene && sectionsOf(scene);
  byId("section-card").hidden = !sections;
  if (!sections) return;
  const colors = ink();
  const [first, second] = sections;
  const room = byId("section-plot").parentElement;
  const word = unit(scene.variable);
  draw(byId("section-plot"), room.clientWidth, room.clientHeight, {
    x: { label: "coordinate", ends: [Math.min(first.ends[0], second.ends[0]), Math.max(first.ends[1], second.ends[1])] },
    y: { label: word ? `${scene.variable.name} (${word})` : scene.variable.name, log: scene.view.log },
    margin: { top: 20 },
    series: [
      { x: first.at, y: first.values, color: colors.accent, name: `along ${first.letter}` },
      { x: second.at, y: second.values, color: colors.pick, dash: "5 3", name: `along ${second.letter}` },
    ],
  });
}
