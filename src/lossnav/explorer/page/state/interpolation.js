// @ts-check
// Between measured values: where a coordinate lies on an axis, and the value between its neighbours.

/** @import { Coordinates } from "./messages.js" */

/** @typedef {ArrayLike<number>} Numbers */

/**
 * The index of the nearest of ascending values.
 * @param {Numbers} axis
 * @param {number} value
 */
export function nearestIndex(axis, value) {
  const k = cellIndex(axis, value);
  return k + 1 < axis.length && axis[k + 1] - value < value - axis[k] ? k + 1 : k;
}

/**
 * The cell of ascending values in which a value lies: the index of its lower end, or the nearest cell's outside.
 * @param {Numbers} axis
 * @param {number} value
 */
export function cellIndex(axis, value) {
  let low = 0;
  let high = axis.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (axis[middle] <= value) low = middle;
    else high = middle;
  }
  return low;
}

/**
 * The value between four measured ones; NaN nearest to a hole and outside.
 * @param {Numbers} x
 * @param {Numbers} y
 * @param {Numbers} values
 * @param {number} px
 * @param {number} py
 */
export function sample(x, y, values, px, py) {
  const nx = x.length;
  const ny = y.length;
  if (!(px >= x[0] && px <= x[nx - 1] && py >= y[0] && py <= y[ny - 1])) return NaN;
  const i = cellIndex(x, px);
  const j = cellIndex(y, py);
  const s = nx > 1 ? (px - x[i]) / (x[i + 1] - x[i]) : 0;
  const t = ny > 1 ? (py - y[j]) / (y[j + 1] - y[j]) : 0;
  return bilinear(values, i * ny + j, ny, s, t);
}

/**
 * Bilinear between the corners of a cell. Where some are holes the others are weighted; NaN if the nearest corner is a hole.
 * @param {Numbers} values
 * @param {number} at Index of the lower corner.
 * @param {number} ny
 * @param {number} s Part of the way along the first axis, in [0, 1].
 * @param {number} t
 */
export function bilinear(values, at, ny, s, t) {
  const a = values[at];
  const b = values[at + ny];
  const c = values[at + 1];
  const d = values[at + ny + 1];
  const sum = a + b + c + d;
  const p = (1 - s) * (1 - t);
  const q = s * (1 - t);
  const r = (1 - s) * t;
  const u = s * t;
  if (sum - sum === 0) return a * p + b * q + c * r + d * u;
  const nearest = s < 0.5 ? (t < 0.5 ? a : c) : t < 0.5 ? b : d;
  if (!Number.isFinite(nearest)) return NaN;
  let total = 0;
  let weight = 0;
  for (const [value, w] of [[a, p], [b, q], [c, r], [d, u]]) {
    if (!Number.isFinite(value)) continue;
    total += w * value;
    weight += w;
  }
  return total / weight;
}

/**
 * Trilinear between the corners of a volume's cell; NaN where one of them is a hole.
 * @param {readonly Numbers[]} axes
 * @param {Numbers} values
 * @param {Coordinates} at
 */
export function sampleVolume([x, y, z], values, [a, b, c]) {
  const k = cellIndex(z, c);
  const [near, far] = [k, Math.min(k + 1, z.length - 1)].map((slice) => {
    const [i, j] = [cellIndex(x, a), cellIndex(y, b)];
    /** @param {number} di @param {number} dj */
    const corner = (di, dj) => values[((i + di) * y.length + j + dj) * z.length + slice];
    const [s, t] = [(a - x[i]) / (x[i + 1] - x[i]), (b - y[j]) / (y[j + 1] - y[j])];
    return (1 - s) * ((1 - t) * corner(0, 0) + t * corner(0, 1)) + s * ((1 - t) * corner(1, 0) + t * corner(1, 1));
  });
  return near + ((c - z[k]) / (z[k + 1] - z[k])) * (far - near);
}
