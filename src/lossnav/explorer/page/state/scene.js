// @ts-check
// What is on the pictures: from the view and what was received, the layers, the colour range and the levels that map and surface share.

/** @import { Coordinates, PointsFrame, Range, Session, Variable } from "./messages.js" */
/** @import { Coverage } from "./coverage.js" */
/** @import { Beyond } from "./range.js" */
/** @import { Grid, Received, Values } from "./received.js" */
/** @import { View } from "./view_state.js" */

import { cover, inCell, visitSeen } from "./coverage.js";
import { nearestIndex, sample } from "./interpolation.js";
import { contourLevels } from "./levels.js";
import { OUTCOMES, stateOf } from "./outcome.js";
import { withoutOutliers } from "./range.js";

/**
 * @typedef {object} Layer A grid as it is drawn.
 * @property {Grid} grid
 * @property {Values} x
 * @property {Values} y
 * @property {Values | undefined} raw Values as measured.
 * @property {Values} values Values as drawn: log10 of them on a logarithmic scale.
 * @property {Range[]} extent
 */
/**
 * @typedef {object} Scene
 * @property {View} view
 * @property {Session} session
 * @property {Variable} variable
 * @property {Range} x
 * @property {Range} y
 * @property {Layer[]} layers Coarse to fine.
 * @property {Coverage} coverage Which of them is seen where.
 * @property {boolean} moving Whether the view is under way: then the range of the colours stays.
 * @property {Grid | null} volume
 * @property {PointsFrame | null} points
 * @property {Range} domain Ends of the colours, of values as drawn.
 * @property {Beyond | null} beyond What is visible and lies beyond them, where the range is automatic.
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
    ...volume, complete: undefined, drawn: undefined, slices: undefined, lines: undefined, levels: undefined,
    axes: [x, y], values, shape: [x.length, y.length], steps: volume.steps.slice(0, 2), extent: volume.extent.slice(0, 2),
    key: `${volume.key}/${k}`, slice: z[k], sliceIndex: k,
  };
}

/**
 * @param {View} view
 * @param {Session} session
 * @param {Received} received
 * @param {Range | null} frozen Ends that the colours keep while the view moves.
 * @param {boolean} moving
 * @returns {Scene}
 */
export function compose(view, session, received, frozen = null, moving = frozen !== null) {
  const variable = variableOf(view, session);
  const [x, y] = windowOf(view, session);
  const volume = session.shape === "volume" ? received.volume(view.place, [x, y], variable.name) : null;
  const { grids, coverage } = volume ? cover([sliceOf(volume, view.slice)]) : received.seenIn(view.place, x, y, variable.name);
  /** @type {Layer[]} */
  const layers = grids.map((grid) => ({
    grid, x: grid.axes[0], y: grid.axes[1], raw: grid.values[variable.name], values: drawnOf(grid, variable.name, view.log), extent: grid.extent,
  }));
  const points = volume || grids[0]?.beside ? null : received.of(view.place).points;
  /** @type {Range | null} */
  const chosen = view.range ? [scaled(view.range[0], view.log), scaled(view.range[1], view.log)] : frozen;
  const wanted = chosen && chosen[0] < chosen[1] ? chosen : null;
  const key = `${volume ? volume.key : layers.map(({ grid }) => grid.key)}/${variable.name}/${view.log}/${x}/${y}`;
  // Turning the eye asks the same again, of a million values maybe.
  if (!wanted && received.ranged?.key !== key) {
    const range = volume ? withoutOutliers(drawnOf(volume, variable.name, view.log)) : visibleRange(layers, coverage, x, y);
    received.ranged = { key, range };
  }
  const range = wanted ? { domain: wanted, beyond: null } : /** @type {NonNullable<Received["ranged"]>} */ (received.ranged).range;
  return { view, session, variable, x, y, layers, coverage, moving, volume, points, ...range, ...contourLevels(range.domain, view.levels) };
}

/**
 * The range of what is visible in a window: of the finest whole values at every place, and at its edges of what lies between them.
 * @param {Pick<Layer, "x" | "y" | "values">[]} layers
 * @param {Coverage} coverage
 * @param {Range} x
 * @param {Range} y
 */
export function visibleRange(layers, coverage, x, y) {
  if (!coverage.owner && layers.length === 1) return withoutOutliers(valuesIn(layers[0], x, y));
  /** @type {number[]} */
  const edges = [];
  const inside = layers.map(({ x: xs, y: ys, values }, k) => {
    const marked = new Uint8Array(values.length);
    visitSeen(coverage, k, [xs, ys], [x, y], (i, j) => {
      const at = i * ys.length + j;
      marked[at] = marked[at + 1] = marked[at + ys.length] = marked[at + ys.length + 1] = 1;
    }, (i, j, [x0, x1], [y0, y1]) => {
      for (const px of [x0, x1]) for (const py of [y0, y1]) edges.push(inCell(xs, ys, values, i, j, px, py));
    });
    return values.filter((_, at) => marked[at]);
  });
  const all = new Float64Array(inside.reduce((sum, { length }) => sum + length, edges.length));
  let at = 0;
  for (const part of [...inside, edges]) {
    all.set(part, at);
    at += part.length;
  }
  return withoutOutliers(all);
}

/**
 * Of one grid that is whole, which may have a million values: those of the nodes in a window, and those between nodes at its edges.
 * @param {Pick<Layer, "x" | "y" | "values">} layer
 * @param {Range} x
 * @param {Range} y
 */
function valuesIn({ x: xs, y: ys, values }, x, y) {
  const [left, right] = [Math.max(x[0], xs[0]), Math.min(x[1], xs[xs.length - 1])];
  const [low, high] = [Math.max(y[0], ys[0]), Math.min(y[1], ys[ys.length - 1])];
  if (!(left <= right && low <= high)) return new Float64Array(0);
  const whole = left === xs[0] && right === xs[xs.length - 1] && low === ys[0] && high === ys[ys.length - 1];
  if (whole) return values;
  const inside = /** @param {Values} axis @param {number} a @param {number} b */ (axis, a, b) => axis.filter((v) => v >= a && v <= b);
  const [across, up] = [inside(xs, left, right), inside(ys, low, high)];
  const first = across.length ? xs.indexOf(across[0]) : 0;
  const bottom = up.length ? ys.indexOf(up[0]) : 0;
  const made = new Float64Array(across.length * up.length + 2 * (across.length + up.length) + 4);
  let at = 0;
  for (let i = first; i < first + across.length; i++) {
    made.set(values.subarray(i * ys.length + bottom, i * ys.length + bottom + up.length), at);
    at += up.length;
  }
  for (const px of [left, right]) for (const py of [low, high, ...up]) made[at++] = sample(xs, ys, values, px, py);
  for (const py of [low, high]) for (const px of across) made[at++] = sample(xs, ys, values, px, py);
  return made;
}

/**
 * How many visible points are holes, by what became of them.
 * @param {Scene} scene
 */
export function holesOf(scene) {
  /** @type {Record<string, number>} */
  const found = {};
  /** @type {Set<string>} */
  const counted = new Set(); // grids share points
  for (const { grid, values } of scene.layers) {
    const { status } = grid.values;
    const [x, y] = grid.axes;
    for (let k = 0; k < values.length; k++) {
      if (Number.isFinite(values[k])) continue;
      const [a, b] = [x[Math.floor(k / y.length)], y[k % y.length]];
      if (!(a >= scene.x[0] && a <= scene.x[1] && b >= scene.y[0] && b <= scene.y[1])) continue;
      const state = stateOf({ value: grid.values[scene.variable.name]?.[k], status: status?.[k] });
      if (state === OUTCOMES.notEvaluated || (scene.layers.length > 1 && counted.size === counted.add(`${a},${b}`).size)) continue;
      const word = state ?? "not positive (no logarithm)";
      found[word] = (found[word] ?? 0) + 1;
    }
  }
  return found;
}
