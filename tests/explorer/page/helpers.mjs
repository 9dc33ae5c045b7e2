// What the tests of the page share: seeded random numbers, and numbers read back from how they are written.

/** Uniform in [0, 1), the same for the same seed (mulberry32). @param {number} seed */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Of either sign, and of any size between 10 ** low and 10 ** high. @param {() => number} next @param {number} low @param {number} high */
export function anySize(next, low, high) {
  return (next() < 0.5 ? -1 : 1) * 10 ** (low + next() * (high - low));
}

/** n ascending numbers at uneven distances. @param {() => number} next @param {number} n @param {number} start */
export function ascending(next, n, start = -1) {
  const axis = new Float64Array(n);
  let at = start;
  for (let k = 0; k < n; k++) {
    axis[k] = at;
    at += 0.05 + next();
  }
  return axis;
}

/** @param {number} low @param {number} high @param {number} n */
export const linspace = (low, high, n) => Float64Array.from({ length: n }, (_, k) => low + ((high - low) * k) / (n - 1));

/** Values on a grid, row-major. @param {ArrayLike<number>[]} axes @param {(...at: number[]) => number} f */
export function onGrid(axes, f) {
  /** @type {number[]} */
  const values = [];
  /** @param {number[]} at */
  const fill = (at) => {
    if (at.length === axes.length) values.push(f(...at));
    else for (const v of Array.from(axes[at.length])) fill([...at, v]);
  };
  fill([]);
  return Float64Array.from(values);
}

const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** The number that a text of the page says. @param {string} text */
export function read(text) {
  const plain = text.replaceAll("\u2009", "").replace("\u2212", "-");
  if (plain.includes("∞")) return plain.startsWith("-") ? -Infinity : Infinity;
  const [mantissa, power = ""] = plain.split("×10");
  const exponent = [...power].map((c) => (c === "⁻" ? "-" : RAISED.indexOf(c))).join("");
  return Number(`${mantissa}e${exponent || 0}`);
}

/**
 * A grid as the server sends it.
 * @param {ArrayLike<number>[]} axes
 * @param {Record<string, ArrayLike<number>>} values
 * @param {object} [more]
 * @returns {any}
 */
export function gridFrame(axes, values, more = {}) {
  return {
    type: "grid", place: 0, window: null, level: 0, interpolated: false, measured: null, axes: axes.map((axis) => Array.from(axis)),
    shape: axes.map((axis) => axis.length), arrays: Object.keys(values),
    values: Object.fromEntries(Object.entries(values).map(([name, v]) => [name, Float64Array.from(v)])), ...more,
  };
}

/** A session of a plane, enough to compose a scene. @param {object} [more] @returns {any} */
export function session(more = {}) {
  return {
    type: "session", live: false, place: 0, places: [{ number: 0 }], dims: ["alpha", "beta"], title: "run", shape: "plane",
    axes: [{ letter: "α", range: [-1, 1] }, { letter: "β", range: [-1, 1] }],
    variables: [{ name: "loss", units: "nat" }, { name: "accuracy", units: "1" }, { name: "status", units: "1" }], ...more,
  };
}
