// @ts-check
// The ends of the colours where nobody chose them: of all that is visible, but for a few values that would flatten the rest.

/** @import { Range } from "./messages.js" */

/** @typedef {{ low: number, high: number, least: number, most: number }} Beyond How many values lie below and above the ends, and how far. */

const SHARE = 0.01; // of the values, at each end: no more are left out
const FLAT = 25; // times what the rest spans: then the rest would have ten colours of 256
const SAMPLE = 20_000; // values by which that is judged

/**
 * Ends of what is finite; where at most one value in a hundred leaves the others a twenty-fifth of the range, of the others.
 * @param {ArrayLike<number>} values
 * @returns {{ domain: Range, beyond: Beyond | null }}
 */
export function withoutOutliers(values) {
  const [least, most] = spreadOf(values, -Infinity, Infinity);
  if (!(least < most)) return { domain: widened(least), beyond: null };
  const some = sampleOf(values);
  /** @param {number} part */
  const quantile = (part) => some[Math.round(part * (some.length - 1))];
  const [q0, q1] = [quantile(SHARE), quantile(1 - SHARE)];
  const rest = q1 - q0;
  if (!(rest > 0) || !(most - least > FLAT * rest)) return { domain: [least, most], beyond: null };
  // To what follows without a gap as wide as all the rest.
  const domain = spreadOf(values, q0 - rest, q1 + rest);
  let [low, high] = [0, 0];
  for (let k = 0; k < values.length; k++) {
    if (values[k] < domain[0] && values[k] > -Infinity) low++;
    else if (values[k] > domain[1] && values[k] < Infinity) high++;
  }
  return { domain, beyond: { low, high, least, most } };
}

/** Least and largest of the finite values between two ends. @param {ArrayLike<number>} values @param {number} from @param {number} to @returns {Range} */
export function spreadOf(values, from, to) {
  let low = Infinity;
  let high = -Infinity;
  for (let k = 0; k < values.length; k++) {
    const v = values[k];
    if (!(v >= from && v <= to) || v === Infinity || v === -Infinity) continue;
    if (v < low) low = v;
    if (v > high) high = v;
  }
  return [low, high];
}

/** Ascending, some of the finite values. @param {ArrayLike<number>} values */
function sampleOf(values) {
  const every = Math.max(1, Math.floor(values.length / SAMPLE));
  const some = [];
  for (let k = 0; k < values.length; k += every) if (Number.isFinite(values[k])) some.push(values[k]);
  return Float64Array.from(some).sort();
}

/** Around one value, or none. @param {number} value @returns {Range} */
function widened(value) {
  if (!Number.isFinite(value)) return [0, 1];
  const half = 0.5 * Math.max(1e-9, Math.abs(value));
  return [value - half, value + half];
}
