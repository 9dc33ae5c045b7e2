// What was received: nothing is lost that is seen, what is finer lies over what is coarser, the nearest point is the nearest.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Received, rowOf } from "../../../src/lossnav/explorer/page/state/received.js";
import { ascending, gridFrame, linspace, onGrid, random } from "./helpers.mjs";

const plane = (/** @type {number} */ n, /** @type {object} */ more = {}, /** @type {number} */ low = -1, /** @type {number} */ high = 1) => {
  const axis = linspace(low, high, n);
  return gridFrame([axis, axis], { loss: onGrid([axis, axis], (a, b) => a + b), status: new Float64Array(n * n).fill(1) }, more);
};

/** @param {Received} received @param {[number, number]} x */
const sizes = (received, x = [-1, 1], y = x) => received.seenIn(0, x, y).grids.map(({ shape }) => shape[0]);

test("what is finer is drawn after what is coarser, whichever came first", () => {
  for (const order of [[0, 1, 2], [2, 1, 0], [1, 2, 0]]) {
    const received = new Received();
    const frames = [plane(5, { window: 1 }, -1, 1), plane(9, { window: 2 }, -0.5, 0.5), plane(9, { window: 3 }, -0.1, 0.1)];
    for (const k of order) received.add(frames[k]);
    const layers = received.seenIn(0, [-1, 1], [-1, 1]).grids;
    assert.equal(layers.length, 3);
    for (const [k, layer] of layers.entries()) if (k) assert.ok(layer.steps[0] < layers[k - 1].steps[0]);
  }
});

test("what lies wholly under a finer complete grid is left out; under an unfinished one it is not", () => {
  const received = new Received();
  received.add(plane(5));
  const finer = plane(9, { window: 7 });
  finer.values.status[40] = 0;
  received.add(finer);
  assert.ok(sizes(received).includes(5));
  received.add(plane(9, { window: 8 }));
  assert.deepEqual(sizes(received), [9]);
});

test("a whole finer grid takes the place of what it lies over, and of that alone", () => {
  const received = new Received();
  const kept = () => received.of(0).grids.map(({ window, shape }) => [window, shape[0]]);
  received.add(plane(3, { window: 4 }, 0, 0.5));
  received.add(plane(3, { window: 5 }, 0.5, 1));
  const under = plane(5, { window: 4, level: 1 }, 0, 0.5);
  under.values.status.fill(0, 12);
  received.add(under);
  assert.deepEqual(kept(), [[4, 3], [5, 3], [4, 5]]); // a part of a finer level hides nothing for good
  received.add(plane(5, { window: 4, level: 1 }, 0, 0.5));
  assert.deepEqual(kept(), [[5, 3], [4, 5]]);
  received.add(plane(5, { window: 6 }, 0.1, 0.6));
  assert.equal(received.of(0).grids.length, 3);
});

test("a coarse grid between points goes once the fine one is there", () => {
  const received = new Received();
  received.add(plane(26, { interpolated: true }));
  received.add(plane(201, { interpolated: true }));
  assert.deepEqual(received.of(0).grids.map(({ shape }) => shape[0]), [201]);
});

test("grids outside the window are not drawn, and places do not mix", () => {
  const received = new Received();
  received.add(plane(5, { window: 1 }, 2, 3));
  received.add(plane(5, { place: 1 }));
  assert.deepEqual(sizes(received), []);
  assert.deepEqual(sizes(received, [2.5, 4]), [5]);
  assert.equal(received.seenIn(1, [-1, 1], [-1, 1]).grids.length, 1);
});

test("a place sent again keeps what was there until its successor is there, and the windows", () => {
  const received = new Received();
  received.add(plane(5));
  received.add(plane(9, { window: 1 }, 0, 0.5));
  received.renew(0);
  assert.deepEqual(sizes(received), [5, 9]);
  received.add(plane(7));
  assert.deepEqual(received.of(0).grids.map(({ shape }) => shape[0]), [9, 7]);
  received.add(plane(11)); // a second frame of the same sending
  assert.deepEqual(received.of(0).grids.map(({ shape }) => shape[0]), [9, 7, 11]);
});

test("of too many windows the farthest from the newest goes, and never one that lies over it while another does not", () => {
  const received = new Received();
  received.add(plane(5));
  for (let k = 0; k < 200; k++) received.add(plane(3, { window: k }, k, k + 1));
  const windows = received.of(0).grids.slice(1).map(({ window }) => window);
  assert.deepEqual(windows, Array.from({ length: 120 }, (_, k) => k + 80));
  assert.equal(received.of(0).grids[0].window, null);
});

test("the nearest measured point is that which trying all finds, with its values", () => {
  for (let seed = 0; seed < 40; seed++) {
    const next = random(seed);
    const received = new Received();
    /** @type {{ at: number[], loss: number }[]} */
    const all = [];
    const dims = 1 + (seed % 3);
    for (let g = 0; g < 3; g++) {
      const axes = Array.from({ length: dims }, () => ascending(next, 2 + Math.floor(4 * next()), -2 + next()));
      /** @type {number[][]} */
      const places = [];
      const loss = onGrid(axes, (...at) => {
        places.push(at);
        return next();
      });
      const status = loss.map(() => (next() < 0.2 ? 0 : 1));
      const interpolated = g === 2;
      received.add(gridFrame(axes, { loss, status }, { interpolated, window: g }));
      if (!interpolated) places.forEach((at, k) => { if (status[k]) all.push({ at, loss: loss[k] }); });
    }
    const names = ["alpha", "beta", "gamma"].slice(0, dims);
    const points = Object.fromEntries([...names, "loss"].map((name) => [name, Float64Array.from({ length: 7 }, () => -2 + 4 * next())]));
    received.add({ type: "points", place: 0, shape: null, arrays: [...names, "loss"], values: points });
    for (let k = 0; k < 7; k++) all.push({ at: names.map((name) => points[name][k]), loss: points.loss[k] });
    for (let k = 0; k < 30; k++) {
      const at = names.map(() => -2.5 + 5 * next());
      const spans = names.map(() => 0.5 + next());
      const distance = (/** @type {number[]} */ other) => Math.hypot(...other.map((v, d) => (v - at[d]) / spans[d]));
      const found = received.nearest(0, at, spans);
      assert.ok(found);
      const least = Math.min(...all.map((point) => distance(point.at)));
      // A grid offers its nearest node along each axis; where that was not evaluated it offers none.
      assert.ok(all.some((point) => point.at.every((v, d) => v === found.at[d]) && point.loss === found.values.loss));
      if (dims === 1 && received.of(0).grids.every(({ values }) => !values.status.includes(0))) assert.ok(distance(found.at) <= least + 1e-12);
    }
  }
  const received = new Received();
  assert.equal(received.nearest(0, [0, 0], [1, 1]), null);
  const axes = [ascending(random(1), 6), ascending(random(2), 5)];
  received.add(gridFrame(axes, { loss: onGrid(axes, (a, b) => 10 * a + b) }));
  const next = random(3);
  for (let k = 0; k < 200; k++) {
    const at = [-2 + 6 * next(), -2 + 6 * next()];
    const distances = Array.from(onGrid(axes, (a, b) => Math.hypot(a - at[0], b - at[1])));
    const best = distances.indexOf(Math.min(...distances));
    const found = received.nearest(0, at, [1, 1]);
    assert.deepEqual(found?.at, [axes[0][Math.floor(best / 5)], axes[1][best % 5]]);
    assert.equal(found?.values.loss, 10 * axes[0][Math.floor(best / 5)] + axes[1][best % 5]);
  }
});

test("of volumes that is shown which covers most of the window; then the complete one, then the finest", () => {
  const cube = (/** @type {number} */ n, /** @type {object} */ more = {}, /** @type {number} */ low = -1, /** @type {number} */ high = 1, hole = false) => {
    const axis = linspace(low, high, n);
    const status = new Float64Array(n ** 3).fill(1);
    if (hole) status[3] = 0;
    return gridFrame([axis, axis, axis], { loss: new Float64Array(n ** 3), status }, more);
  };
  const received = new Received();
  assert.equal(received.volume(0, [[-1, 1], [-1, 1]]), null);
  received.add(cube(3));
  received.add(cube(5, { window: 1 }, 0, 0.5));
  received.add(cube(9, { window: 2 }, -1, 1, true));
  assert.equal(received.volume(0, [[-1, 1], [-1, 1]])?.shape[0], 3);
  assert.equal(received.volume(0, [[0, 0.5], [0, 0.5]])?.shape[0], 5);
  received.add(cube(9, { window: 2 }));
  assert.equal(received.volume(0, [[-1, 1], [-1, 1]])?.shape[0], 9);
});

test("a frame is not changed by what is added to it", () => {
  const frame = plane(4);
  const before = structuredClone(frame);
  const received = new Received();
  received.add(frame);
  received.seenIn(0, [-1, 1], [-1, 1]);
  assert.deepEqual(frame, before);
  assert.deepEqual(rowOf(frame, 5), { loss: frame.values.loss[5], status: 1 });
});

test("what lies beside the surface has grids of its own: neither gives way to the other, each shows its variables", () => {
  const received = new Received();
  const axis = linspace(-1, 1, 9);
  const beside = (/** @type {number} */ n) => {
    const few = linspace(-1, 1, n);
    return gridFrame([few, few], { lambda_max: onGrid([few, few], (a, b) => a * b), status: new Float64Array(n * n).fill(1) }, { beside: "curvature" });
  };
  for (const n of [9, 5, 17]) {
    received.add(plane(9));
    received.add(beside(n));
    assert.deepEqual(sizes(received), [9]);
    assert.deepEqual(received.seenIn(0, [-1, 1], [-1, 1], "lambda_max").grids.map(({ shape }) => shape[0]), [n]);
    assert.ok(received.nearest(0, [axis[3], axis[3]], [2, 2])?.values.loss !== undefined); // a point is the surface's
    received.renew(0);
  }
});
