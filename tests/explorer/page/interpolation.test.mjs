// Between measured values: nearest neighbours by trying all, interpolation against the functions it is exact for.

import assert from "node:assert/strict";
import { test } from "node:test";
import { bilinear, cellIndex, nearestIndex, sample, sampleVolume } from "../../../src/lossnav/explorer/page/state/interpolation.js";
import { ascending, onGrid, random } from "./helpers.mjs";

test("the nearest of ascending values is that which trying all finds", () => {
  const next = random(1);
  for (let k = 0; k < 1000; k++) {
    const axis = ascending(next, 1 + Math.floor(12 * next()));
    const value = axis[0] - 1 + (axis[axis.length - 1] - axis[0] + 2) * next();
    const distances = Array.from(axis, (v) => Math.abs(v - value));
    assert.equal(nearestIndex(axis, value), distances.indexOf(Math.min(...distances)));
    if (axis.length > 1) {
      const cell = cellIndex(axis, value);
      const inside = Math.min(Math.max(value, axis[0]), axis[axis.length - 1]);
      assert.ok(axis[cell] <= inside && inside <= axis[cell + 1]);
    }
  }
});

test("bilinear functions are met exactly, measured values too, and there is nothing outside", () => {
  for (let seed = 0; seed < 30; seed++) {
    const next = random(seed);
    const [x, y] = [ascending(next, 2 + Math.floor(6 * next())), ascending(next, 2 + Math.floor(6 * next()))];
    const f = (/** @type {number} */ a, /** @type {number} */ b) => 1 + 2 * a - b + 0.5 * a * b;
    const values = onGrid([x, y], f);
    for (let k = 0; k < 50; k++) {
      const [a, b] = [x, y].map((axis) => axis[0] + (axis[axis.length - 1] - axis[0]) * next());
      assert.ok(Math.abs(sample(x, y, values, a, b) - f(a, b)) < 1e-10);
    }
    for (let i = 0; i < x.length; i++) for (let j = 0; j < y.length; j++) assert.ok(Math.abs(sample(x, y, values, x[i], y[j]) - values[i * y.length + j]) < 1e-12);
    for (const [a, b] of [[x[0] - 1e-9, y[0]], [x[0], y[y.length - 1] + 1e-9], [NaN, y[0]]]) assert.ok(Number.isNaN(sample(x, y, values, a, b)));
  }
});

test("beside a hole the others speak, within their range; nearest to a hole nobody does", () => {
  const next = random(2);
  for (let k = 0; k < 2000; k++) {
    const corners = Float64Array.from({ length: 4 }, () => (next() < 0.3 ? [NaN, Infinity, -Infinity][Math.floor(3 * next())] : next()));
    const [s, t] = [next(), next()];
    const value = bilinear(corners, 0, 2, s, t); // (0, 0), (0, 1), (1, 0), (1, 1)
    const nearest = corners[2 * Math.round(s) + Math.round(t)];
    const finite = corners.filter(Number.isFinite);
    if (!Number.isFinite(nearest)) assert.ok(Number.isNaN(value));
    else assert.ok(value >= Math.min(...finite) - 1e-12 && value <= Math.max(...finite) + 1e-12);
  }
});

test("trilinear functions are met exactly, and a hole is one in all cells around it", () => {
  const next = random(3);
  const axes = [ascending(next, 4), ascending(next, 3), ascending(next, 5)];
  const f = (/** @type {number[]} */ ...[a, b, c]) => 1 + a - 2 * b + 3 * c + a * b - b * c + 0.5 * a * b * c;
  const values = onGrid(axes, f);
  for (let k = 0; k < 200; k++) {
    const at = axes.map((axis) => axis[0] + (axis[axis.length - 1] - axis[0]) * next());
    assert.ok(Math.abs(sampleVolume(axes, values, at) - f(...at)) < 1e-9);
  }
  values[1 * 15 + 1 * 5 + 2] = NaN;
  for (let k = 0; k < 200; k++) {
    const at = axes.map((axis) => axis[0] + (axis[axis.length - 1] - axis[0]) * next());
    const touches = [1, 1, 2].every((hole, d) => at[d] > (axes[d][hole - 1] ?? -Infinity) && at[d] < (axes[d][hole + 1] ?? Infinity));
    assert.equal(Number.isNaN(sampleVolume(axes, values, at)), touches);
  }
});
