// @ts-check
// What is on the pictures: from the view and what was received, the layers, the colour range and the levels that map and surface share.

/** @import { Coordinates, PointsFrame, Range, Session, Variable } from "./messages.js" */
/** @import { Grid, Received, Values } from "./received.js" */
/** @import { View } from "./view_state.js" */

import { cellIndex, nearestIndex } from "./interpolation.js";
import { contourLevels } from "./levels.js";

/**
 * @typedef {object} Layer A grid as it is drawn.
 * @property {Grid} grid
 * @property {Values} x
 * @property {Values} y
 * @property {Values | undefined} raw Values as measured.
 * @property {Values} values Values as drawn: log10 of them on a logarithmic scale.
 * @property {Range[]} extent
 * @property {boolean} [all] Whether the colour range counts all values, seen or not.
 */
/**
 * @typedef {object} Scene
 * @property {View} view
 * @property {Session} session
 * @property {Variable} variable
 * @property {Range} x
 * @property {Range} y
 * @property {Layer[]} layers Coarse to fine.
 * @property {Grid | null} volume
 * @property {PointsFrame | null} points
 * @property {Range} domain Ends of the colours, of values as drawn.
 * @property {number} step Between contour levels.
 * @property {number[]} levels
 */
/** @typedef {{ at: Coordinates[], loss: number[] | null | undefined }} Path */
/**
 * @typedef {object} Overlays What lies on the pictures beside the session's own.
 * @property {Path[]} [optimizerPaths]
 * @property {{ from: Coordinates, to: Coordinates } | null} [line]
 * @property {number[] | null} [gradient] In the plane, by the coordinates.
 */

/** @type {Record<number, string>} */
export const HOLES = { 2: "not finite", 3: "failed" };

/**
 * A picture's ends: those of the view, or all that is known of the place.
 * @param {View} view
 * @param {Session} session
 * @returns {[x: Range, y: Range]}
 */
export function windowOf(view, session) {
  const { axes } = session;
  return [view.x ?? axes[0]?.range ?? [-1, 1], view.y ?? axes[1]?.range ?? [-1, 1]];
}

/** @param {View} view @param {Session} session @returns {Variable} */
export function variableOf(view, session) {
  const named = (session.variables ?? []).filter((v) => !["status", "interpolated"].includes(v.name));
  return named.find((v) => v.name === view.metric) ?? named.find((v) => v.name === "loss") ?? { name: "loss", units: "1" };
}

/**
 * What is drawn of a value: itself or its log10; NaN where it has none, which everything draws as a hole.
 * @param {number} value
 * @param {boolean} log
 */
export function scaled(value, log) {
  if (!log) return value;
  return value > 0 ? Math.log10(value) : NaN;
}

/**
 * One grid as it is drawn: kept with the grid, since values never change.
 * @param {Grid} grid
 * @param {string} metric
 * @param {boolean} log
 * @returns {Values}
 */
export function drawnOf(grid, metric, log) {
  grid.drawn ??= {};
  const key = `${metric}/${log}`;
  grid.drawn[key] ??= drawn(grid, metric, log);
  return grid.drawn[key];
}

/** @param {Grid} grid @param {string} metric @param {boolean} log */
function drawn(grid, metric, log) {
  if (!Object.hasOwn(grid.values, metric)) return new Float64Array(grid.shape.reduce((a, b) => a * b, 1)).fill(NaN);
  const raw = grid.values[metric];
  return log ? raw.map((value) => scaled(value, true)) : raw;
}

/**
 * A slice across a volume's last axis: a grid of its own, the numbers those of the volume.
 * @param {Grid} volume
 * @param {number | null} value
 * @returns {Grid}
 */
export function sliceOf(volume, value) {
  const [x, y, z] = volume.axes;
  const k = nearestIndex(z, value ?? z[Math.floor((z.length - 1) / 2)]);
  volume.slices ??= {};
  volume.slices[k] ??= cut(volume, x, y, z, k);
  return volume.slices[k];
}

/** @param {Grid} volume @param {Values} x @param {Values} y @param {Values} z @param {number} k @returns {Grid} */
function cut(volume, x, y, z, k) {
  /** @type {Record<string, Values>} */
  const values = {};
  for (const name of volume.arrays) {
    const all = volume.values[name];
    values[name] = Float64Array.from({ length: x.length * y.length }, (_, at) => all[at * z.length + k]);
  }
  return {
    ...volume, complete: undefined, core: undefined, drawn: undefined, slices: undefined, lines: undefined, bitmaps: undefined,
    axes: [x, y], values, shape: [x.length, y.length], steps: volume.steps.slice(0, 2), extent: volume.extent.slice(0, 2),
    key: `${volume.key}/${k}`, slice: z[k], sliceIndex: k,
  };
}

/**
 * @param {View} view
 * @param {Session} session
 * @param {Received} received
 * @param {Range | null} frozen Ends that the colours keep while the view moves.
 * @returns {Scene}
 */
export function compose(view, session, received, frozen = null) {
  const variable = variableOf(view, session);
  const [x, y] = windowOf(view, session);
  const volume = session.shape === "volume" ? received.volume(view.place, [x, y]) : null;
  const grids = volume ? [sliceOf(volume, view.slice)] : received.layers(view.place, x, y);
  /** @type {Layer[]} */
  const layers = grids.map((grid) => ({
    grid, x: grid.axes[0], y: grid.axes[1], raw: grid.values[variable.name], values: drawnOf(grid, variable.name, view.log), extent: grid.extent,
  }));
  const counted = volume ? [{ ...layers[0], values: drawnOf(volume, variable.name, view.log), all: true }] : layers;
  const domain = domainOf(view, counted, x, y, frozen);
  const points = volume ? null : received.of(view.place).points;
  return { view, session, variable, x, y, layers, volume, points, domain, ...contourLevels(domain, view.levels) };
}

/**
 * Ends of the colours, of values as drawn.
 * @param {View} view
 * @param {Layer[]} layers
 * @param {Range} x
 * @param {Range} y
 * @param {Range | null} frozen
 * @returns {Range}
 */
function domainOf(view, layers, x, y, frozen) {
  /** @type {Range | null} */
  const wanted = view.range ? [scaled(view.range[0], view.log), scaled(view.range[1], view.log)] : frozen;
  return wanted && wanted[0] < wanted[1] ? wanted : rangeOf(layers, x, y);
}

/** @param {Layer[]} layers @param {Range} x @param {Range} y @returns {Range} */
function rangeOf(layers, x, y) {
  let low = Infinity;
  let high = -Infinity;
  for (const { x: xs, y: ys, values, all } of layers) {
    /** @param {number} v */
    const take = (v) => {
      if (v < low && v > -Infinity) low = v;
      if (v > high && v < Infinity) high = v;
    };
    if (all) {
      values.forEach(take);
      continue;
    }
    // The cell that an end of the window cuts counts too.
    const [i0, i1] = [cellIndex(xs, x[0]), Math.min(xs.length - 1, cellIndex(xs, x[1]) + 1)];
    const [j0, j1] = [cellIndex(ys, y[0]), Math.min(ys.length - 1, cellIndex(ys, y[1]) + 1)];
    for (let i = i0; i <= i1; i++) for (let j = j0; j <= j1; j++) take(values[i * ys.length + j]);
  }
  if (!(low < Infinity)) return [0, 1];
  if (low === high) return [low - 0.5 * Math.max(1e-9, Math.abs(low)), high + 0.5 * Math.max(1e-9, Math.abs(high))];
  return [low, high];
}

/**
 * How many visible points are holes, by what became of them.
 * @param {Scene} scene
 */
export function holesOf(scene) {
  /** @type {Record<string, number>} */
  const found = {};
  for (const { grid, values } of scene.layers) {
    if (grid.partOf) continue; // counted there
    const status = grid.values.status;
    for (let k = 0; k < values.length; k++) {
      if (Number.isFinite(values[k]) || (status && status[k] === 0)) continue;
      const word = HOLES[status ? status[k] : 2] ?? (scene.view.log ? "not positive (no logarithm)" : "not finite");
      found[word] = (found[word] ?? 0) + 1;
    }
  }
  return found;
}
