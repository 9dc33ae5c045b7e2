// @ts-check
// Grids under way: some points have no value yet. Their levels, from coarse to fine, each with the points it has.

/** @import { Range } from "./messages.js" */
/** @import { Grid } from "./received.js" */

/**
 * Whether every point of a grid was evaluated.
 * @param {Grid} grid
 */
export function isComplete(grid) {
  grid.complete ??= !grid.values.status?.includes(0);
  return grid.complete;
}

/**
 * A plane's grid as the levels in which it may be evaluated, from coarse to fine; the last is the grid itself. What is
 * whole of a level shows as much as that level's cells do, so more points never show less.
 * @param {Grid} grid
 * @returns {Grid[]}
 */
export function levelsOf(grid) {
  if (isComplete(grid)) return [grid];
  if (!grid.levels) {
    const coarser = [...paired(grid.shape, halved), ...paired(grid.shape, strided)];
    coarser.sort((a, b) => a[0].length * a[1].length - b[0].length * b[1].length);
    grid.levels = [...coarser.map((indexes) => levelOf(grid, indexes)), grid];
  }
  return grid.levels;
}

/**
 * Indices of each level along both axes but those of the last, which is all; an axis with fewer levels repeats its last.
 * @param {number[]} shape
 * @param {(n: number) => number[][]} nested
 */
function paired([nx, ny], nested) {
  const [rows, columns] = [nested(nx), nested(ny)];
  const depth = Math.max(rows.length, columns.length);
  return Array.from({ length: depth - 1 }, (_, k) => [rows, columns].map((all) => all[Math.min(k, all.length - 1)]));
}

/** The ends, then what lies in the middle between neighbours: as the sampler of grids goes. @param {number} n */
function halved(n) {
  let level = n > 1 ? [0, n - 1] : [0];
  const made = [level];
  while (level.length < n) {
    level = level.flatMap((low, k) => (k + 1 < level.length && level[k + 1] > low + 1 ? [low, (low + level[k + 1]) >> 1] : [low]));
    made.push(level);
  }
  return made;
}

/** Steps of a power of two, and the last point always: as the windows of a live session go. @param {number} n */
function strided(n) {
  const made = [];
  for (let step = 2 ** Math.max(0, Math.floor(Math.log2(Math.max(1, n - 1)))); step >= 1; step /= 2) {
    const indexes = [];
    for (let k = 0; k < n - 1; k += step) indexes.push(k);
    made.push([...indexes, n - 1]);
  }
  return made;
}

/** @param {Grid} grid @param {number[][]} indexes Along each axis. @returns {Grid} */
function levelOf(grid, [rows, columns]) {
  const ny = grid.shape[1];
  const axes = [rows.map((i) => grid.axes[0][i]), columns.map((j) => grid.axes[1][j])].map((axis) => Float64Array.from(axis));
  /** @type {Record<string, Float64Array>} */
  const values = {};
  for (const name of grid.arrays) {
    const made = new Float64Array(rows.length * columns.length);
    for (const [a, i] of rows.entries()) for (const [b, j] of columns.entries()) made[a * columns.length + b] = grid.values[name][i * ny + j];
    values[name] = made;
  }
  const steps = axes.map((axis) => (axis[axis.length - 1] - axis[0]) / Math.max(1, axis.length - 1));
  return {
    ...grid, axes, values, levels: undefined, complete: undefined, partOf: grid, key: `${grid.key}/${rows.length}x${columns.length}`, drawn: undefined,
    lines: undefined, shape: axes.map((axis) => axis.length), extent: axes.map((axis) => /** @type {Range} */ ([axis[0], axis[axis.length - 1]])),
    steps, fineness: Math.max(grid.fineness, steps[0] * steps[1]),
  };
}
