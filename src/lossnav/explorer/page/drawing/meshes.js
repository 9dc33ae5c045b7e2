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

// The six tetrahedra that share a cube's diagonal, by corners numbered x + 2 y + 4 z: each corner lies beyond those before it.
const TETRAHEDRA = [[0, 1, 3, 7], [0, 3, 2, 7], [0, 2, 6, 7], [0, 6, 4, 7], [0, 4, 5, 7], [0, 5, 1, 7]];

/** Of each of the 256 ways in which a cube's corners lie above a level (a bit a corner): its triangles, as edges from a corner (their upper three bits) along a diagonal or side (their lower three). */
const CUBES = Array.from({ length: 256 }, (_, above) => {
  /** @param {number} a @param {number} b */
  const edge = (a, b) => (Math.min(a, b) << 3) | (a ^ b);
  return Uint8Array.from(TETRAHEDRA.flatMap((corners) => {
    const over = corners.filter((c) => above & (1 << c));
    const under = corners.filter((c) => !(above & (1 << c)));
    if (!over.length || !under.length) return [];
    if (over.length === 2) {
      const [p, q, r, s] = [edge(over[0], under[0]), edge(over[0], under[1]), edge(over[1], under[1]), edge(over[1], under[0])];
      return [p, q, r, p, r, s];
    }
    const [one, three] = over.length === 1 ? [over[0], under] : [under[0], over];
    return three.map((c) => edge(one, c));
  }));
});

/** Numbers that are added one by one: a list of plain numbers would be copied once more, and a volume makes millions. */
class Growing {
  /** @param {typeof Float32Array | typeof Uint32Array} kind */
  constructor(kind) {
    this.kind = kind;
    this.all = new kind(1 << 14);
    this.length = 0;
  }

  /** Makes room for so many more. @param {number} many */
  reserve(many) {
    if (this.length + many <= this.all.length) return;
    const larger = new this.kind(2 * (this.all.length + many));
    larger.set(this.all);
    this.all = larger;
  }

  done() {
    return this.all.slice(0, this.length);
  }
}

/**
 * Where a volume has one value, by marching tetrahedra (Doi and Koide 1991): no case is ambiguous.
 * @param {readonly Numbers[]} axes
 * @param {Numbers} values Row-major.
 * @param {number} level
 * @returns {Mesh}
 */
export function isosurfaceMesh([x, y, z], values, level) {
  const [nx, ny, nz] = [x.length, y.length, z.length];
  const slab = ny * nz;
  const vertices = new Growing(Float32Array);
  const indexes = new Growing(Uint32Array);
  const away = Int32Array.from({ length: 8 }, (_, c) => (c & 1) * slab + ((c >> 1) & 1) * nz + (c >> 2)); // from a corner to one beyond it
  // The vertex on each edge, one more than its number, by the edge's first corner: of this slab of corners and of the next.
  const made = [new Int32Array(8 * slab), new Int32Array(8 * slab)];
  /** @param {number} i @param {number} j @param {number} k Of the edge's first corner. @param {number} way */
  const vertex = (i, j, k, way) => {
    const a = i * slab + j * nz + k;
    const b = a + away[way];
    const t = (level - values[a]) / (values[b] - values[a]);
    const [di, dj, dk] = [way & 1, (way >> 1) & 1, way >> 2];
    /** @param {number} p @param {number} q */
    const mix = (p, q) => p + t * (q - p);
    vertices.reserve(7);
    const { all, length } = vertices;
    all[length] = mix(x[i], x[i + di]);
    all[length + 1] = mix(y[j], y[j + dj]);
    all[length + 2] = mix(z[k], z[k + dk]);
    all[length + 3] = mix(slope(values, x, i, nx, a, slab), slope(values, x, i + di, nx, b, slab));
    all[length + 4] = mix(slope(values, y, j, ny, a, nz), slope(values, y, j + dj, ny, b, nz));
    all[length + 5] = mix(slope(values, z, k, nz, a, 1), slope(values, z, k + dk, nz, b, 1));
    all[length + 6] = level;
    vertices.length += 7;
    return vertices.length / 7;
  };
  /** The four corners beside one another at a height: a bit for each that lies above, a fifth if one is no number. @param {number} at */
  const four = (at) => {
    const [a, b, c, d] = [values[at], values[at + slab], values[at + nz], values[at + slab + nz]];
    const sum = a + b + c + d;
    return (a > level ? 1 : 0) | (b > level ? 2 : 0) | (c > level ? 4 : 0) | (d > level ? 8 : 0) | (sum - sum === 0 ? 0 : 16);
  };
  for (let i = 0; i + 1 < nx; i++) {
    made[(i + 1) & 1].fill(0);
    for (let j = 0; j + 1 < ny; j++) {
      let low = four(i * slab + j * nz);
      for (let k = 0; k + 1 < nz; k++) {
        const high = four(i * slab + j * nz + k + 1);
        const above = (low & 15) | ((high & 15) << 4);
        const broken = (low | high) & 16;
        low = high;
        if (broken || above === 0 || above === 255) continue;
        const edges = CUBES[above];
        indexes.reserve(edges.length);
        for (let e = 0; e < edges.length; e++) {
          const corner = edges[e] >> 3;
          const [a, b, c] = [i + (corner & 1), j + ((corner >> 1) & 1), k + (corner >> 2)];
          const there = made[a & 1];
          const name = 8 * (b * nz + c) + (edges[e] & 7);
          if (!there[name]) there[name] = vertex(a, b, c, edges[e] & 7);
          indexes.all[indexes.length++] = there[name] - 1;
        }
      }
    }
  }
  return { vertices: /** @type {Float32Array} */ (vertices.done()), indexes: /** @type {Uint32Array} */ (indexes.done()), origin: [0, 0, 0] };
}
