// @ts-check
// Contour lines on the map, with their values written where a line is calm.

/** @import { Range } from "../state/messages.js" */
/** @import { Layer, Scene } from "../state/scene.js" */
/** @import { Box, Pixel, Transform } from "./plot_area.js" */
/** @import { Context } from "./svg_context.js" */

import { ink } from "../base/theme.js";
import { ownerAt, regionsOf } from "../state/coverage.js";
import { sample } from "../state/interpolation.js";
import { levelLabel } from "../state/levels.js";
import { cssColor } from "./colormaps.js";
import { contour } from "./contours.js";
import { transformOf } from "./plot_area.js";

const FEW = 24; // cells across the window: fewer, and lines between a cell's edges would not lie where its colours are
const FINE = 96; // then so many

/**
 * Contour lines in data coordinates, kept with the grid.
 * @param {Layer} layer
 * @param {Pick<Scene, "x" | "y" | "levels">} scene
 */
export function linesOf(layer, { x, y, levels }) {
  const few = layer.grid.steps[0] * FEW > x[1] - x[0] || layer.grid.steps[1] * FEW > y[1] - y[0];
  const key = `${levels}${few ? `/${x}/${y}` : ""}`;
  layer.grid.lines ??= new Map();
  const kept = layer.grid.lines.get(layer.values);
  if (kept?.key === key) return kept.lines;
  const { x: xs, y: ys, values } = few ? between(layer, x, y) : layer;
  const lines = levels.map((level) => ({ level, chains: contour(xs, ys, values, level) }));
  layer.grid.lines.set(layer.values, { key, lines });
  return lines;
}

/** What is visible of a layer, as its colours have it: bilinear between its points. @param {Layer} layer @param {Range} x @param {Range} y */
function between({ x: xs, y: ys, values, extent }, x, y) {
  const [px, py] = [x, y].map(([a, b], d) => {
    const [low, high] = [Math.max(a, extent[d][0]), Math.min(b, extent[d][1])];
    return Float64Array.from({ length: FINE + 1 }, (_, k) => (k === FINE ? high : low + (k / FINE) * (high - low)));
  });
  const made = new Float64Array(px.length * py.length);
  for (const [i, a] of px.entries()) for (const [j, b] of py.entries()) made[i * py.length + j] = sample(xs, ys, values, a, b);
  return { x: px, y: py, values: made };
}

/** @param {number} t Of the range of the colours. */
function lineInk(t) {
  return t < 0.62 ? "rgb(255 255 255 / 0.62)" : "rgb(20 24 28 / 0.5)";
}

/**
 * Draws the lines of what is seen of a layer, and returns where their labels go.
 * @param {Context} context
 * @param {Layer} layer
 * @param {number} index Of the layer.
 * @param {Scene} scene
 * @param {Box} box
 */
export function paintLines(context, layer, index, scene, box) {
  const { to, from } = transformOf(scene, box);
  const [low, high] = scene.domain;
  /** @type {Label[]} */
  const labels = [];
  context.save();
  if (scene.coverage.owner) {
    context.beginPath();
    for (const [[x0, x1], [y0, y1]] of regionsOf(scene.coverage, index)) {
      const [[left, bottom], [right, top]] = [to([x0, y0]), to([x1, y1])];
      context.rect(left, top, right - left, bottom - top);
    }
    context.clip();
  }
  context.lineJoin = "round";
  for (const { level, chains } of linesOf(layer, scene)) {
    const t = (level - low) / (high - low);
    context.strokeStyle = lineInk(t);
    context.lineWidth = 1;
    context.beginPath();
    for (const chain of chains) {
      let length = 0;
      /** @type {Pixel | null} */
      let before = null;
      for (let k = 0; k < chain.length; k += 2) {
        const p = to([chain[k], chain[k + 1]]);
        if (k) context.lineTo(...p);
        else context.moveTo(...p);
        if (before) length += Math.hypot(p[0] - before[0], p[1] - before[1]);
        before = p;
      }
      const spot = length > 130 ? calmPart(chain, to, length, box) : null;
      if (spot && ownerAt(scene.coverage, from(spot.at)) === index) labels.push({ ...spot, level, t });
    }
    context.stroke();
  }
  context.restore();
  return labels;
}

/** @typedef {{ at: Pixel, angle: number, level: number, t: number }} Label */

/**
 * Where a label goes: a part of the line that is nearly straight and well inside.
 * @param {number[]} chain
 * @param {Transform["to"]} to
 * @param {number} length In pixels.
 * @param {Box} box
 */
function calmPart(chain, to, length, [left, top, w, h]) {
  /** @type {{ score: number, at: Pixel, angle: number } | null} */
  let best = null;
  const count = chain.length / 2;
  const reach = Math.max(2, Math.round((count * 16) / length));
  for (let k = reach; k + reach < count; k += Math.max(1, Math.round(count / 60))) {
    const [a, m, b] = [k - reach, k, k + reach].map((i) => to([chain[2 * i], chain[2 * i + 1]]));
    if (m[0] < left + 26 || m[0] > left + w - 26 || m[1] < top + 14 || m[1] > top + h - 14) continue;
    const straight = Math.hypot(b[0] - a[0], b[1] - a[1]) / (Math.hypot(m[0] - a[0], m[1] - a[1]) + Math.hypot(b[0] - m[0], b[1] - m[1]));
    const level = 1 - Math.abs(b[1] - a[1]) / (1 + Math.hypot(b[0] - a[0], b[1] - a[1]));
    const score = straight + 0.3 * level;
    if (!best || score > best.score) best = { score, at: m, angle: Math.atan2(b[1] - a[1], b[0] - a[0]) };
  }
  if (!best) return null;
  if (best.angle > Math.PI / 2) best.angle -= Math.PI;
  if (best.angle < -Math.PI / 2) best.angle += Math.PI;
  return best;
}

/** Of all layers, none over another. @param {Context} context @param {Label[]} labels @param {Scene} scene */
export function paintLabels(context, labels, scene) {
  context.font = `10px ${ink().sans}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  /** @type {Pixel[]} */
  const taken = [];
  for (const { at, angle, level, t } of labels) {
    if (taken.some((other) => Math.hypot(other[0] - at[0], other[1] - at[1]) < 46)) continue;
    taken.push(at);
    context.save();
    context.translate(...at);
    context.rotate(angle);
    context.lineWidth = 4;
    context.lineJoin = "round";
    context.strokeStyle = cssColor(scene.view.colors, t);
    const words = levelLabel(scene, level);
    context.strokeText(words, 0, 0.5);
    context.fillStyle = t < 0.62 ? "rgb(255 255 255 / 0.95)" : "rgb(20 24 28 / 0.85)";
    context.fillText(words, 0, 0.5);
    context.restore();
  }
}
