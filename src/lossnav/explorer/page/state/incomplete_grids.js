// @ts-check
// Grids under way: some points have no value yet. What is complete of them is drawn as it is, and cell by cell the rest.

/** @import { Range } from "./messages.js" */
/** @import { Grid } from "./received.js" */

const ENOUGH = 0.7; // of the cells: then a coarser picture under them would show nothing more

/**
 * Whether every point of a grid was evaluated: only then it may hide what lies under it.
 * @param {Grid} grid
 */
export function isComplete(grid) {
  grid.complete ??= !grid.values.status?.includes(0);
  return grid.complete;
}

/**
 * Rows and columns that were evaluated wherever they cross: of a run from coarse to fine its last finished level.
 * Null where the cells that are there show as much.
 * @param {Grid} grid
 * @returns {Grid | null}
 */
export function completePart(grid) {
  if (grid.core === undefined) grid.core = shareOfCells(grid) < ENOUGH ? findCompletePart(grid) : null;
  return grid.core;
}

/** @param {Grid} grid */
function shareOfCells({ values: { status }, shape: [nx, ny] }) {
  let there = 0;
  for (let i = 0; i + 1 < nx; i++) {
    for (let j = 0; j + 1 < ny; j++) {
      const at = i * ny + j;
      if (status[at] && status[at + 1] && status[at + ny] && status[at + ny + 1]) there++;
    }
  }
  return there / ((nx - 1) * (ny - 1));
}

/** @param {Grid} grid @returns {Grid | null} */
function findCompletePart(grid) {
  const { status } = grid.values;
  const [nx, ny] = grid.shape;
  const rows = Array(nx).fill(0);
  const columns = Array(ny).fill(0);
  for (let i = 0; i < nx; i++) {
    for (let j = 0; j < ny; j++) {
      if (!status[i * ny + j]) continue;
      rows[i]++;
      columns[j]++;
    }
  }
  /** @type {{ rows: number[], columns: number[] } | null} */
  let best = null;
  for (const least of new Set(rows.filter((many) => many > 1))) {
    const chosen = rows.flatMap((many, i) => (many >= least ? [i] : []));
    const across = columns.flatMap((_, j) => (chosen.every((i) => status[i * ny + j]) ? [j] : []));
    if (chosen.length < 2 || across.length < 2) continue;
    if (!best || chosen.length * across.length > best.rows.length * best.columns.length) best = { rows: chosen, columns: across };
  }
  if (!best) return null;
  const taken = best;
  const axes = [taken.rows.map((i) => grid.axes[0][i]), taken.columns.map((j) => grid.axes[1][j])].map((axis) => Float64Array.from(axis));
  /** @type {Record<string, Float64Array>} */
  const values = {};
  for (const name of grid.arrays) {
    values[name] = Float64Array.from(taken.rows.flatMap((i) => taken.columns.map((j) => grid.values[name][i * ny + j])));
  }
  return {
    ...grid, axes, values, core: undefined, complete: true, partOf: grid, key: `${grid.key}/core`, drawn: undefined, bitmaps: undefined,
    lines: undefined, shape: axes.map((axis) => axis.length), extent: axes.map((axis) => /** @type {Range} */ ([axis[0], axis[axis.length - 1]])),
    steps: axes.map((axis) => (axis[axis.length - 1] - axis[0]) / (axis.length - 1)),
  };
}

/**
 * The status by which a cell is drawn only where its four corners are there; null where all of them are.
 * @param {Grid} grid
 */
export function cornerStatus(grid) {
  return isComplete(grid) ? null : grid.values.status;
}
