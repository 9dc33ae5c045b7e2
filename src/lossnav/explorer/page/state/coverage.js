// @ts-check
// Which grid is seen where: at every place the finest that is whole there. A cell is whole once its four corners were
// evaluated. Map, surface, range of the colours and readings all ask this one answer.

/** @import { Coordinates, Range } from "./messages.js" */
/** @import { Grid, Values } from "./received.js" */

import { isComplete } from "./incomplete_grids.js";
import { bilinear, cellIndex } from "./interpolation.js";

/**
 * @typedef {object} Coverage
 * @property {Float64Array} x Where any of the grids has a node, ascending.
 * @property {Float64Array} y
 * @property {Uint16Array | null} owner Of each rectangle between those, row-major: one more than its grid's index, 0 where nothing is whole.
 *   Null: the one grid there is has all of them.
 * @property {{ ix: Int32Array, iy: Int32Array }[]} nodes Of each grid: where its nodes lie in `x` and `y`.
 * @property {Range[][][]} [regions] Of each grid: what is seen of it, as rectangles.
 */

/**
 * Returns the grids that are seen somewhere, in their order, and where.
 * @param {Grid[]} grids Of two axes, coarse to fine.
 * @returns {{ grids: Grid[], coverage: Coverage }}
 */
export function cover(grids) {
  const last = grids.at(-1);
  if (last && isComplete(last) && grids.every((grid) => within(grid, last))) return { grids: [last], coverage: alone(last.axes) };
  const [x, y] = [0, 1].map((d) => union(grids.map((grid) => grid.axes[d])));
  const nodes = grids.map(({ axes }) => ({ ix: indexesOf(axes[0], x), iy: indexesOf(axes[1], y) }));
  const wide = Math.max(0, y.length - 1);
  const owner = new Uint16Array(Math.max(0, x.length - 1) * wide);
  grids.forEach((grid, k) => {
    const { ix, iy } = nodes[k];
    const [nx, ny] = grid.shape;
    const status = isComplete(grid) ? null : grid.values.status;
    for (let i = 0; i + 1 < nx; i++) {
      for (let j = 0; j + 1 < ny; j++) {
        const at = i * ny + j;
        if (status && !(status[at] && status[at + 1] && status[at + ny] && status[at + ny + 1])) continue;
        const end = status ? iy[j + 1] : iy[ny - 1]; // a whole row at once
        for (let ci = ix[i]; ci < ix[i + 1]; ci++) owner.fill(k + 1, ci * wide + iy[j], ci * wide + end);
        if (!status) break;
      }
    }
  });
  const seen = new Uint8Array(grids.length + 1);
  for (const k of owner) seen[k] = 1;
  const number = new Uint16Array(grids.length + 1);
  let count = 0;
  for (let k = 1; k <= grids.length; k++) if (seen[k]) number[k] = ++count;
  if (count < grids.length) for (let k = 0; k < owner.length; k++) owner[k] = number[owner[k]];
  return {
    grids: grids.filter((_, k) => seen[k + 1]),
    coverage: { x, y, owner, nodes: nodes.filter((_, k) => seen[k + 1]) },
  };
}

/** Of one grid that is whole. @param {Values[]} axes @returns {Coverage} */
export function alone([x, y]) {
  return { x, y, owner: null, nodes: [{ ix: Int32Array.from(x, (_, k) => k), iy: Int32Array.from(y, (_, k) => k) }] };
}

/** @param {Grid} inner @param {Grid} outer */
const within = (inner, outer) => inner.extent.every(([a, b], d) => a >= outer.extent[d][0] && b <= outer.extent[d][1]);

/** @param {Values[]} axes */
function union(axes) {
  const all = Float64Array.from(axes.flatMap((axis) => Array.from(axis))).sort();
  return all.filter((v, k) => k === 0 || v !== all[k - 1]);
}

/** @param {Values} axis @param {Float64Array} all */
function indexesOf(axis, all) {
  let at = 0;
  return Int32Array.from(axis, (v) => {
    while (all[at] < v) at++;
    return at;
  });
}

/** The index of the grid that is seen at a place; -1 where nothing is whole. @param {Coverage} coverage @param {Coordinates} at */
export function ownerAt({ x, y, owner }, [a, b]) {
  if (!(x.length > 1 && y.length > 1 && a >= x[0] && a <= x[x.length - 1] && b >= y[0] && b <= y[y.length - 1])) return -1;
  return owner ? owner[cellIndex(x, a) * (y.length - 1) + cellIndex(y, b)] - 1 : 0;
}

/**
 * What is seen of one grid, as few rectangles that do not overlap.
 * @param {Coverage} coverage
 * @param {number} k Index of the grid.
 * @returns {Range[][]}
 */
export function regionsOf(coverage, k) {
  coverage.regions ??= [];
  coverage.regions[k] ??= rectangles(coverage, k + 1);
  return coverage.regions[k];
}

/** @param {Coverage} coverage @param {number} mine */
function rectangles({ x, y, owner }, mine) {
  if (!owner) return [[[x[0], x[x.length - 1]], [y[0], y[y.length - 1]]]].map((ends) => /** @type {Range[]} */ (ends));
  const wide = y.length - 1;
  /** @type {Map<string, { from: number, to: number, low: number, high: number }>} */
  let open = new Map(); // those that end where the next column begins
  /** @type {Range[][]} */
  const done = [];
  /** @param {{ from: number, to: number, low: number, high: number }} one */
  const close = ({ from, to, low, high }) => done.push([[x[from], x[to]], [y[low], y[high]]]);
  for (let i = 0; i + 1 < x.length; i++) {
    /** @type {typeof open} */
    const now = new Map();
    for (let j = 0; j < wide; j++) {
      if (owner[i * wide + j] !== mine) continue;
      const low = j;
      while (j < wide && owner[i * wide + j] === mine) j++;
      const key = `${low}/${j}`;
      now.set(key, { from: open.get(key)?.from ?? i, to: i + 1, low, high: j });
      open.delete(key);
    }
    for (const one of open.values()) close(one);
    open = now;
  }
  for (const one of open.values()) close(one);
  return done;
}

/**
 * Visits what is seen of one grid within a rectangle: whole cells by their lower corner, and parts of cells, which something finer or the
 * rectangle cuts, by their ends too.
 * @param {Coverage} coverage
 * @param {number} k Index of the grid.
 * @param {Values[]} axes Of the grid.
 * @param {Range[]} clip
 * @param {(i: number, j: number) => void} whole
 * @param {(i: number, j: number, x: Range, y: Range) => void} part
 */
export function visitSeen({ x, y, owner, nodes }, k, [xs, ys], [[x0, x1], [y0, y1]], whole, part) {
  const { ix, iy } = nodes[k];
  const wide = y.length - 1;
  const mine = k + 1;
  if (!(x0 < xs[xs.length - 1] && x1 > xs[0] && y0 < ys[ys.length - 1] && y1 > ys[0])) return;
  const [first, last] = [cellIndex(xs, x0), cellIndex(xs, x1)];
  const [low, high] = [cellIndex(ys, y0), cellIndex(ys, y1)];
  for (let i = first; i <= last; i++) {
    for (let j = low; j <= high; j++) {
      const inside = xs[i] >= x0 && xs[i + 1] <= x1 && ys[j] >= y0 && ys[j + 1] <= y1;
      let all = true;
      let any = owner === null;
      if (owner) {
        for (let ci = ix[i]; ci < ix[i + 1]; ci++) {
          for (let cj = iy[j]; cj < iy[j + 1]; cj++) {
            if (owner[ci * wide + cj] === mine) any = true;
            else all = false;
          }
        }
      }
      if (!any) continue;
      if (all && inside) whole(i, j);
      else if (all) clipped(xs[i], xs[i + 1], ys[j], ys[j + 1], i, j);
      else {
        for (let ci = ix[i]; ci < ix[i + 1]; ci++) {
          for (let cj = iy[j]; cj < iy[j + 1]; cj++) {
            if (owner?.[ci * wide + cj] === mine) clipped(x[ci], x[ci + 1], y[cj], y[cj + 1], i, j);
          }
        }
      }
    }
  }
  /** @param {number} a @param {number} b @param {number} c @param {number} d @param {number} i @param {number} j */
  function clipped(a, b, c, d, i, j) {
    const [p, q, r, s] = [Math.max(a, x0), Math.min(b, x1), Math.max(c, y0), Math.min(d, y1)];
    if (p < q && r < s) part(i, j, [p, q], [r, s]);
  }
}

/**
 * The value at coordinates within a cell.
 * @param {Values} x
 * @param {Values} y
 * @param {Values} values
 * @param {number} i
 * @param {number} j
 * @param {number} px
 * @param {number} py
 */
export function inCell(x, y, values, i, j, px, py) {
  return bilinear(values, i * y.length + j, y.length, (px - x[i]) / (x[i + 1] - x[i]), (py - y[j]) / (y[j + 1] - y[j]));
}
