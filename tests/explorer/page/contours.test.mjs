// Contour lines: on the level, whole, and where the level is crossed.

import assert from "node:assert/strict";
import { test } from "node:test";
import { contour } from "../../../src/lossnav/explorer/page/drawing/contours.js";
import { ascending, linspace, onGrid, random } from "./helpers.mjs";

/** @param {number[]} chain @returns {number[][]} */
const pairs = (chain) => Array.from({ length: chain.length / 2 }, (_, k) => [chain[2 * k], chain[2 * k + 1]]);
/** @param {number[]} chain */
const lengthOf = (chain) => pairs(chain).reduce((sum, p, k, all) => (k ? sum + Math.hypot(p[0] - all[k - 1][0], p[1] - all[k - 1][1]) : 0), 0);
/** @param {number[]} chain */
const isClosed = (chain) => chain[0] === chain[chain.length - 2] && chain[1] === chain[chain.length - 1];

test("a circle is one closed line of its length", () => {
  for (const [radius, cx, cy] of [[0.7, 0, 0], [0.31, 0.2, -0.4], [0.05, 0.013, 0.021]]) {
    const [x, y] = [linspace(-1, 1, 121), linspace(-1, 1, 97)];
    const chains = contour(x, y, onGrid([x, y], (a, b) => Math.hypot(a - cx, b - cy)), radius);
    assert.equal(chains.length, 1);
    assert.ok(isClosed(chains[0]));
    const h = 2 / 96;
    assert.ok(Math.abs(lengthOf(chains[0]) / (2 * Math.PI * radius) - 1) < 2 * (h / radius) ** 2 + 1e-3);
    for (const [a, b] of pairs(chains[0])) assert.ok(Math.abs(Math.hypot(a - cx, b - cy) - radius) < (h * h) / radius);
  }
});

test("of a linear function it is the straight line, from edge to edge", () => {
  const [x, y] = [ascending(random(1), 9), ascending(random(2), 7)];
  const f = (/** @type {number[]} */ ...[a, b]) => 2 * a - 3 * b + 0.25;
  const level = f((x[0] + x[8]) / 2, (y[0] + y[6]) / 2);
  const [chain, ...more] = contour(x, y, onGrid([x, y], f), level);
  assert.equal(more.length, 0);
  assert.ok(!isClosed(chain));
  for (const [a, b] of pairs(chain)) assert.ok(Math.abs(f(a, b) - level) < 1e-12 * Math.max(1, Math.abs(level)) * 100);
  const all = pairs(chain);
  for (const [a, b] of [all[0], all[all.length - 1]]) assert.ok(a === x[0] || a === x[8] || b === y[0] || b === y[6]);
  const [p, q] = [all[0], all[all.length - 1]];
  assert.ok(Math.abs(lengthOf(chain) - Math.hypot(p[0] - q[0], p[1] - q[1])) < 1e-9);
});

/** Edges of the grid that the level crosses and that a cell without holes has: its crossing as text. */
function crossings(/** @type {Float64Array} */ x, /** @type {Float64Array} */ y, /** @type {Float64Array} */ values, /** @type {number} */ level) {
  const [nx, ny] = [x.length, y.length];
  const v = (/** @type {number} */ i, /** @type {number} */ j) => values[i * ny + j];
  const whole = (/** @type {number} */ i, /** @type {number} */ j) =>
    i >= 0 && j >= 0 && i + 1 < nx && j + 1 < ny && [v(i, j), v(i + 1, j), v(i, j + 1), v(i + 1, j + 1)].every(Number.isFinite);
  /** @type {Map<string, boolean>} */
  const found = new Map(); // a crossing → whether it is at an end of what has cells
  for (let i = 0; i < nx; i++) {
    for (let j = 0; j < ny; j++) {
      for (const [di, dj] of [[1, 0], [0, 1]]) {
        if (i + di >= nx || j + dj >= ny) continue;
        const cells = (di ? [whole(i, j), whole(i, j - 1)] : [whole(i, j), whole(i - 1, j)]).filter(Boolean).length;
        const [a, b] = [v(i, j), v(i + di, j + dj)];
        if (!cells || a > level === b > level) continue;
        const t = (level - a) / (b - a);
        found.set([x[i] + t * di * (x[i + di] - x[i]), y[j] + t * dj * (y[j + dj] - y[j])].join(), cells === 1);
      }
    }
  }
  return found;
}

test("of random values each crossing is met once, and lines end only where there are no cells", () => {
  for (let seed = 0; seed < 60; seed++) {
    const next = random(seed);
    const [x, y] = [ascending(next, 3 + Math.floor(9 * next())), ascending(next, 3 + Math.floor(9 * next()))];
    const values = onGrid([x, y], () => (next() < 0.06 ? [NaN, Infinity, -Infinity][Math.floor(3 * next())] : next()));
    const level = 0.2 + 0.6 * next();
    const truth = crossings(x, y, values, level);
    /** @type {string[]} */
    const met = [];
    for (const chain of contour(x, y, values, level)) {
      const points = pairs(chain).map((p) => p.join());
      if (isClosed(chain)) points.pop();
      else for (const end of [points[0], points[points.length - 1]]) assert.equal(truth.get(end), true, `line ends inside, seed ${seed}`);
      met.push(...points);
    }
    assert.equal(met.length, truth.size, `seed ${seed}`);
    assert.deepEqual(new Set(met), new Set(truth.keys()));
  }
});

test("at a saddle the middle decides what hangs together", () => {
  const [x, y] = [Float64Array.of(0, 1), Float64Array.of(0, 1)];
  // High at (0, 0) and (1, 1); their mean with the low corners is 0.5.
  for (const flip of [false, true]) {
    const values = Float64Array.from(flip ? [0, 1, 1, 0] : [1, 0, 0, 1]);
    const high = flip ? [[0, 1], [1, 0]] : [[0, 0], [1, 1]];
    const low = flip ? [[0, 0], [1, 1]] : [[0, 1], [1, 0]];
    for (const [level, alone] of /** @type {[number, number[][]][]} */ ([[0.3, low], [0.7, high]])) {
      const chains = contour(x, y, values, level);
      assert.equal(chains.length, 2);
      // Each line cuts off one corner: its two ends lie on that corner's edges.
      const cut = chains.map((chain) => alone.findIndex(([a, b]) => pairs(chain).every(([p, q]) => p === a || q === b)));
      assert.deepEqual(cut.toSorted(), [0, 1], `level ${level}`);
    }
  }
});

test("no line where nothing crosses, and none of an empty grid", () => {
  const axis = linspace(0, 1, 5);
  assert.deepEqual(contour(axis, axis, new Float64Array(25).fill(1), 0.5), []);
  assert.deepEqual(contour(axis, axis, new Float64Array(25).fill(NaN), 0.5), []);
  assert.deepEqual(contour([0], [0], [1], 0.5), []);
  assert.deepEqual(contour([], [], [], 0.5), []);
});
