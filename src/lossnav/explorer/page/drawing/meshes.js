// @ts-check
// Triangles from grids: seven numbers a vertex (place, normal, value), and which vertices make a triangle.

/** @typedef {ArrayLike<number>} Numbers */
/** @typedef {{ vertices: Float32Array, indexes: Uint32Array, origin: [x: number, y: number, value: number] }} Mesh Vertices are float32 of what is left after the origin, which is taken off in float64: a window of a millionth keeps its digits. */

/** @import { Coverage } from "../state/coverage.js" */
/** @import { Range } from "../state/messages.js" */

import { inCell, visitSeen } from "../state/coverage.js";
import { sample } from "../state/interpolation.js";

const PIECES = 6; // across a window: a cell that is larger is drawn in several, since it is not flat
const MOST = 24; // along each side of one cell

/**
 * The surface over what is seen of one grid. A cell that touches a hole is left out. Triangles are counter-clockwise from above.
 * @param {{ x: Float64Array, y: Float64Array, values: Float64Array }} grid
 * @param {Coverage} coverage
 * @param {number} k Index of the grid.
 * @param {Range[]} clip
 * @param {number[]} window Its length along each axis.
 * @returns {Mesh}
 */
export function seenMesh({ x, y, values }, coverage, k, clip, window) {
  const ny = y.length;
  const origin = originOf(clip, x, y, values);
  /** @param {Float64Array} axis @param {number} d */
  const plain = (axis, d) => clip[d][0] <= axis[0] && clip[d][1] >= axis[axis.length - 1] && (axis[axis.length - 1] - axis[0]) * PIECES <= 1.001 * window[d] * (axis.length - 1);
  if (!coverage.owner && plain(x, 0) && plain(y, 1)) return surfaceMesh(x, y, values, null, origin); // as quick as can be, of a million points
  /** @type {number[]} */
  const made = [];
  /** @type {number[]} */
  const indexes = [];
  const at = new Int32Array(values.length).fill(-1); // a node's vertex
  /** @param {number} px @param {number} py @param {number} value @param {number} dx @param {number} dy */
  const vertex = (px, py, value, dx, dy) => {
    made.push(px - origin[0], py - origin[1], value - origin[2], -dx, -dy, 1, value - origin[2]);
    return made.length / 7 - 1;
  };
  /** @param {number} i @param {number} j */
  const node = (i, j) => {
    const flat = i * ny + j;
    if (at[flat] < 0) at[flat] = vertex(x[i], y[j], values[flat], slope(values, x, i, x.length, flat, ny), slope(values, y, j, ny, flat, 1));
    return at[flat];
  };
  /** @param {number} i @param {number} j */
  const finite = (i, j) => {
    const sum = values[i * ny + j] + values[i * ny + j + 1] + values[(i + 1) * ny + j] + values[(i + 1) * ny + j + 1];
    return sum - sum === 0;
  };
  /** @param {number} i @param {number} j @param {Range} xs @param {Range} ys */
  const part = (i, j, [x0, x1], [y0, y1]) => {
    if (!finite(i, j)) return;
    const [m, n] = [(x1 - x0) / window[0], (y1 - y0) / window[1]].map((share) => Math.min(MOST, Math.max(1, Math.ceil(share * PIECES))));
    const [w, h] = [x[i + 1] - x[i], y[j + 1] - y[j]];
    const flat = i * ny + j;
    const [a, b, c, d] = [values[flat], values[flat + ny], values[flat + 1], values[flat + ny + 1]];
    const first = made.length / 7;
    for (let p = 0; p <= m; p++) {
      for (let q = 0; q <= n; q++) {
        const [px, py] = [x0 + (p / m) * (x1 - x0), y0 + (q / n) * (y1 - y0)];
        const [s, t] = [(px - x[i]) / w, (py - y[j]) / h];
        vertex(px, py, inCell(x, y, values, i, j, px, py), ((b - a) * (1 - t) + (d - c) * t) / w, ((c - a) * (1 - s) + (d - b) * s) / h);
      }
    }
    for (let p = 0; p < m; p++) {
      for (let q = 0; q < n; q++) {
        const low = first + p * (n + 1) + q;
        indexes.push(low, low + n + 1, low + n + 2, low, low + n + 2, low + 1);
      }
    }
  };
  visitSeen(coverage, k, [x, y], clip, (i, j) => {
    if (!finite(i, j)) return;
    if ((x[i + 1] - x[i]) * PIECES > window[0] * 1.001 || (y[j + 1] - y[j]) * PIECES > window[1] * 1.001) {
      part(i, j, [x[i], x[i + 1]], [y[j], y[j + 1]]);
      return;
    }
    const [a, b, c, d] = [node(i, j), node(i + 1, j), node(i, j + 1), node(i + 1, j + 1)];
    // The diagonal that bends less.
    const along = Math.abs(made[7 * a + 6] - made[7 * d + 6]) <= Math.abs(made[7 * b + 6] - made[7 * c + 6]);
    if (along) indexes.push(a, b, d, a, d, c);
    else indexes.push(a, b, c, b, d, c);
  }, part);
  return { vertices: Float32Array.from(made), indexes: Uint32Array.from(indexes), origin };
}

/** In the middle of what is drawn. @param {Range[]} clip @param {Float64Array} x @param {Float64Array} y @param {Float64Array} values @returns {[number, number, number]} */
function originOf(clip, x, y, values) {
  const middle = clip.map(([a, b], d) => {
    const axis = [x, y][d];
    return (Math.max(a, axis[0]) + Math.min(b, axis[axis.length - 1])) / 2;
  });
  const value = sample(x, y, values, middle[0], middle[1]);
  return [middle[0], middle[1], Number.isFinite(value) ? value : 0];
}

/** Every so many of the nodes along each axis, the last one always: what a surface of very many is turned with. @param {Float64Array} x @param {Float64Array} y @param {Float64Array} values @param {number} stride */
export function thinned(x, y, values, stride) {
  const [rows, columns] = [x, y].map((axis) => {
    const indexes = [];
    for (let k = 0; k < axis.length - 1; k += stride) indexes.push(k);
    return [...indexes, axis.length - 1];
  });
  const made = new Float64Array(rows.length * columns.length);
  for (const [a, i] of rows.entries()) for (const [b, j] of columns.entries()) made[a * columns.length + b] = values[i * y.length + j];
  return { x: Float64Array.from(rows, (i) => x[i]), y: Float64Array.from(columns, (j) => y[j]), values: made };
}

/**
 * A surface over a plane, or with `floor` a flat slice at that height. A cell that touches a hole is left out.
 * Triangles are counter-clockwise seen from above.
 * @param {Numbers} x
 * @param {Numbers} y
 * @param {Numbers} values
 * @param {number | null} floor
 * @param {Mesh["origin"]} origin
 * @returns {Mesh}
 */
export function surfaceMesh(x, y, values, floor = null, origin = [0, 0, 0]) {
  const [nx, ny] = [x.length, y.length];
  const vertices = new Float32Array(7 * nx * ny);
  /** @param {number} v */
  const finite = (v) => v - v === 0;
  for (let i = 0; i < nx; i++) {
    for (let j = 0; j < ny; j++) {
      const at = i * ny + j;
      const k = 7 * at;
      vertices[k] = x[i] - origin[0];
      vertices[k + 1] = y[j] - origin[1];
      vertices[k + 2] = (floor ?? values[at]) - origin[2];
      if (floor === null) {
        vertices[k + 3] = -slope(values, x, i, nx, at, ny);
        vertices[k + 4] = -slope(values, y, j, ny, at, 1);
      }
      vertices[k + 5] = 1;
      vertices[k + 6] = values[at] - origin[2];
    }
  }
  const indexes = new Uint32Array(6 * Math.max(0, (nx - 1) * (ny - 1)));
  let count = 0;
  for (let i = 0; i + 1 < nx; i++) {
    for (let j = 0; j + 1 < ny; j++) {
      const a = i * ny + j;
      const b = a + ny;
      const c = a + 1;
      const d = b + 1;
      if (!(finite(values[a]) && finite(values[b]) && finite(values[c]) && finite(values[d]))) continue;
      // The diagonal that bends less. Written one by one: a list a cell is what the garbage collector would be busy with.
      const along = Math.abs(values[a] - values[d]) <= Math.abs(values[b] - values[c]);
      indexes[count] = a;
      indexes[count + 1] = b;
      indexes[count + 2] = along ? d : c;
      indexes[count + 3] = along ? a : b;
      indexes[count + 4] = d;
      indexes[count + 5] = c;
      count += 6;
    }
  }
  return { vertices, indexes: indexes.subarray(0, count), origin };
}

/**
 * The derivative along one axis, by what neighbours there are.
 * @param {Numbers} values
 * @param {Numbers} axis
 * @param {number} k Index on the axis.
 * @param {number} n
 * @param {number} at Index of the value.
 * @param {number} stride From a value to the next along the axis.
 */
function slope(values, axis, k, n, at, stride) {
  const before = k > 0 ? 1 : 0;
  const after = k + 1 < n ? 1 : 0;
  let low = values[at - before * stride];
  let high = values[at + after * stride];
  let span = axis[k + after] - axis[k - before];
  if (!(low - low === 0)) {
    low = values[at];
    span = axis[k + after] - axis[k];
  }
  if (!(high - high === 0)) {
    high = values[at];
    span = axis[k] - axis[k - before];
  }
  const found = (high - low) / span;
  return found - found === 0 ? found : 0;
}

// The six tetrahedra that share a cube's diagonal, by corners numbered x + 2 y + 4 z.
const TETRAHEDRA = [[0, 1, 3, 7], [0, 3, 2, 7], [0, 2, 6, 7], [0, 6, 4, 7], [0, 4, 5, 7], [0, 5, 1, 7]];

/**
 * Where a volume has one value, by marching tetrahedra (Doi and Koide 1991): no case is ambiguous.
 * @param {readonly Numbers[]} axes
 * @param {Numbers} values Row-major.
 * @param {number} level
 * @returns {Mesh}
 */
export function isosurfaceMesh([x, y, z], values, level) {
  const [nx, ny, nz] = [x.length, y.length, z.length];
  /** @type {number[]} */
  const vertices = [];
  /** @type {number[]} */
  const indexes = [];
  /** @type {Map<number, number>} */
  const made = new Map();
  const size = nx * ny * nz;
  /** @param {number} i @param {number} j @param {number} k */
  const flat = (i, j, k) => (i * ny + j) * nz + k;
  /** @param {number} at */
  const slopes = (at) => {
    const k = at % nz;
    const j = Math.floor(at / nz) % ny;
    const i = Math.floor(at / (nz * ny));
    return [slope(values, x, i, nx, at, ny * nz), slope(values, y, j, ny, at, nz), slope(values, z, k, nz, at, 1)];
  };
  /** @param {number} at */
  const placeOf = (at) => [x[Math.floor(at / (nz * ny))], y[Math.floor(at / nz) % ny], z[at % nz]];
  /** On the edge between two corners, once. @param {number} a @param {number} b */
  const vertex = (a, b) => {
    const key = a < b ? a * size + b : b * size + a;
    const there = made.get(key);
    if (there !== undefined) return there;
    const t = (level - values[a]) / (values[b] - values[a]);
    /** @param {number[]} p @param {number[]} q */
    const mix = (p, q) => p.map((v, c) => v + t * (q[c] - v));
    vertices.push(...mix(placeOf(a), placeOf(b)), ...mix(slopes(a), slopes(b)), level);
    made.set(key, vertices.length / 7 - 1);
    return vertices.length / 7 - 1;
  };
  for (let i = 0; i + 1 < nx; i++) {
    for (let j = 0; j + 1 < ny; j++) {
      for (let k = 0; k + 1 < nz; k++) {
        const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((c) => flat(i + (c & 1), j + ((c >> 1) & 1), k + (c >> 2)));
        let above = 0;
        let finite = true;
        for (const at of corners) {
          if (values[at] > level) above++;
          finite &&= values[at] - values[at] === 0;
        }
        if (!finite || above === 0 || above === 8) continue;
        for (const tetrahedron of TETRAHEDRA) {
          const ends = tetrahedron.map((c) => corners[c]);
          const over = ends.filter((at) => values[at] > level);
          const under = ends.filter((at) => !(values[at] > level));
          if (!over.length || !under.length) continue;
          if (over.length === 2) {
            const [p, q, r, s] = [
              vertex(over[0], under[0]), vertex(over[0], under[1]), vertex(over[1], under[1]), vertex(over[1], under[0]),
            ];
            indexes.push(p, q, r, p, r, s);
          } else {
            const [one, three] = over.length === 1 ? [over[0], under] : [under[0], over];
            indexes.push(...three.map((at) => vertex(one, at)));
          }
        }
      }
    }
  }
  return { vertices: new Float32Array(vertices), indexes: new Uint32Array(indexes), origin: [0, 0, 0] };
}
