// @ts-check
// Triangles from grids: seven numbers a vertex (place, normal, value), and which vertices make a triangle.

/** @typedef {ArrayLike<number>} Numbers */
/** @typedef {{ vertices: Float32Array, indexes: Uint32Array }} Mesh */

/**
 * A surface over a plane, or with `floor` a flat slice at that height. A cell that touches a hole is left out.
 * Triangles are counter-clockwise seen from above.
 * @param {Numbers} x
 * @param {Numbers} y
 * @param {Numbers} values
 * @param {number | null} floor
 * @returns {Mesh}
 */
export function surfaceMesh(x, y, values, floor = null) {
  const [nx, ny] = [x.length, y.length];
  const vertices = new Float32Array(7 * nx * ny);
  /** @param {number} v */
  const finite = (v) => v - v === 0;
  for (let i = 0; i < nx; i++) {
    for (let j = 0; j < ny; j++) {
      const at = i * ny + j;
      const k = 7 * at;
      vertices[k] = x[i];
      vertices[k + 1] = y[j];
      vertices[k + 2] = floor ?? values[at];
      if (floor === null) {
        vertices[k + 3] = -slope(values, x, i, nx, at, ny);
        vertices[k + 4] = -slope(values, y, j, ny, at, 1);
      }
      vertices[k + 5] = 1;
      vertices[k + 6] = values[at];
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
  return { vertices, indexes: indexes.subarray(0, count) };
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
  return { vertices: new Float32Array(vertices), indexes: new Uint32Array(indexes) };
}
