// From view and numbers to what is drawn: the range of what is seen, levels within it, holes counted, nothing filled in.

import assert from "node:assert/strict";
import { test } from "node:test";
import { crossSections, heightAt, measuredLine, measuredPoints, valueAt } from "../../../src/lossnav/explorer/page/state/measurements.js";
import { Received } from "../../../src/lossnav/explorer/page/state/received.js";
import { compose, drawnOf, holesOf, scaled, sliceOf, variableOf, windowOf } from "../../../src/lossnav/explorer/page/state/scene.js";
import { DEFAULTS } from "../../../src/lossnav/explorer/page/state/view_state.js";
import { ascending, gridFrame, linspace, onGrid, random, session } from "./helpers.mjs";

/** @param {object} [more] @returns {import("../../../src/lossnav/explorer/page/state/view_state.js").View} */
const view = (more = {}) => ({ ...structuredClone(DEFAULTS), ...more });

/** A scene of one grid on [-1, 1]². @param {(a: number, b: number) => number} f @param {object} [looks] @param {number} [n] */
function sceneOf(f, looks = {}, n = 21) {
  const axis = linspace(-1, 1, n);
  const received = new Received();
  const loss = onGrid([axis, axis], f);
  received.add(gridFrame([axis, axis], { loss, status: loss.map((v) => (Number.isFinite(v) ? 1 : 2)) }));
  return compose(view(looks), session(), received);
}

test("the colours span what is finite and visible, and the levels lie within", () => {
  for (let seed = 0; seed < 30; seed++) {
    const next = random(seed);
    const f = () => (next() < 0.1 ? [NaN, Infinity, -Infinity][Math.floor(3 * next())] : 10 * next() - 2);
    const scene = sceneOf(f);
    const finite = scene.layers[0].values.filter(Number.isFinite);
    assert.deepEqual(scene.domain, [Math.min(...finite), Math.max(...finite)]);
    assert.ok(scene.levels.every((level) => level >= scene.domain[0] - 1e-9 && level <= scene.domain[1] + 1e-9));
  }
  const zoomed = sceneOf((a) => a, { x: [-0.2, 0.2], y: [0, 0.5] });
  assert.ok(Math.abs(zoomed.domain[0] + 0.2) < 1e-12 && Math.abs(zoomed.domain[1] - 0.2) < 1e-12);
});

test("a chosen range is taken, one that no logarithm has is not, and a frozen one holds", () => {
  assert.deepEqual(sceneOf((a) => a, { range: [-5, 7] }).domain, [-5, 7]);
  assert.deepEqual(sceneOf(() => 10, { range: [1, 100], log: true }).domain, [0, 2]);
  const [low, high] = sceneOf((a) => 10 ** a, { range: [-1, 100], log: true }).domain;
  assert.ok(Math.abs(low + 1) < 1e-12 && Math.abs(high - 1) < 1e-12);
  const axis = linspace(-1, 1, 3);
  const received = new Received();
  received.add(gridFrame([axis, axis], { loss: onGrid([axis, axis], (a) => a) }));
  assert.deepEqual(compose(view(), session(), received, [3, 4]).domain, [3, 4]);
});

test("one value, or none, still has a range", () => {
  for (const f of [() => 0, () => 5, () => -5, () => NaN]) {
    const { domain } = sceneOf(f);
    assert.ok(domain[0] < domain[1] && domain.every(Number.isFinite), `${domain}`);
  }
  const empty = compose(view(), session(), new Received());
  assert.deepEqual([empty.layers.length, empty.domain], [0, [0, 1]]);
});

test("a logarithm is of what is positive; the rest is a hole and is counted as one", () => {
  const scene = sceneOf((a, b) => (a < -0.95 ? 0 : a > 0.95 ? -1 : b > 0.95 ? NaN : b < -0.95 ? Infinity : 100), { log: true });
  const finite = [...scene.layers[0].values].filter(Number.isFinite);
  assert.equal(finite.length, 19 * 19);
  assert.ok(finite.every((v) => v === 2));
  assert.deepEqual(holesOf(scene), { "not positive (no logarithm)": 42, "non-finite": 38 });
  assert.deepEqual([scaled(0, true), scaled(-1, true), scaled(NaN, true), scaled(-1, false)], [NaN, NaN, NaN, -1]);
});

test("what was not evaluated is no hole", () => {
  const axis = linspace(-1, 1, 3);
  const received = new Received();
  received.add(gridFrame([axis, axis], { loss: [1, 2, NaN, 4, NaN, 6, 7, 8, NaN], status: [1, 1, 0, 1, 2, 1, 1, 1, 3] }));
  const scene = compose(view(), session(), received);
  assert.deepEqual(holesOf(scene), { "non-finite": 1, failed: 1 });
  assert.equal(measuredPoints(scene).length, 8);
  assert.deepEqual(valueAt(scene, [-1, 1]), { value: NaN, outcome: "not evaluated" });
  assert.deepEqual(valueAt(scene, [0, 0]), { value: NaN, outcome: "non-finite" });
  assert.deepEqual(valueAt(scene, [1, 1]), { value: NaN, outcome: "failed" });
  assert.deepEqual(valueAt(scene, [-1, -1]), { value: 1, outcome: null });
});

test("a hole of a grid under way is counted once, though its complete part is drawn too", () => {
  const axis = linspace(-1, 1, 9);
  const received = new Received();
  const status = onGrid([axis, axis], (a, b) => (a * 2 === Math.round(a * 2) && b * 2 === Math.round(b * 2) ? 1 : 0));
  status[0] = 2;
  status[1] = status[9] = status[10] = 1; // its first cell is whole
  received.add(gridFrame([axis, axis], { loss: status.map((s) => (s === 1 ? 5 : NaN)), status }));
  const scene = compose(view(), session(), received);
  assert.deepEqual(scene.layers.map(({ grid }) => grid.shape[0]), [5, 9]);
  assert.deepEqual(holesOf(scene), { "non-finite": 1 });
});

test("a variable that is not there is the loss, and one without numbers is all holes", () => {
  assert.equal(variableOf(view({ metric: "__proto__" }), session()).name, "loss");
  assert.equal(variableOf(view({ metric: "status" }), session()).name, "loss");
  assert.equal(variableOf(view({ metric: "accuracy" }), session()).name, "accuracy");
  assert.deepEqual(variableOf(view(), session({ variables: [] })), { name: "loss", units: "1" });
  const scene = sceneOf((a) => a, { metric: "accuracy" });
  assert.ok(scene.layers[0].values.every(Number.isNaN));
  for (const name of ["toString", "__proto__", "constructor"]) assert.ok(drawnOf(scene.layers[0].grid, name, false).every(Number.isNaN), name);
  assert.deepEqual(windowOf(view(), session({ axes: [] })), [[-1, 1], [-1, 1]]);
});

test("a slice has the volume's own numbers, at the nearest coordinate", () => {
  const axes = [ascending(random(1), 4), ascending(random(2), 3), ascending(random(3), 6)];
  const received = new Received();
  received.add(gridFrame(axes, { loss: onGrid(axes, (a, b, c) => a + 10 * b + 100 * c) }));
  const volume = received.of(0).grids[0];
  for (const [k, c] of axes[2].entries()) {
    const slice = sliceOf(volume, c + 0.01);
    assert.deepEqual([slice.slice, slice.sliceIndex, slice.shape], [c, k, [4, 3]]);
    assert.deepEqual([...slice.values.loss], [...onGrid(axes.slice(0, 2), (a, b) => a + 10 * b + 100 * c)]);
    assert.equal(sliceOf(volume, c), slice); // kept
  }
  const scene = compose(view({ slice: axes[2][5] }), session({ shape: "volume" }), received);
  assert.deepEqual(scene.domain, [Math.min(...volume.values.loss), Math.max(...volume.values.loss)]); // of all slices
});

test("sections are the rows and columns of the finest grid that covers the point", () => {
  const received = new Received();
  for (const [n, low, high, window] of [[5, -1, 1, 1], [9, -0.5, 0.5, 2]]) {
    const axis = linspace(low, high, n);
    received.add(gridFrame([axis, axis], { loss: onGrid([axis, axis], (a, b) => 10 * a + b) }, { window }));
  }
  for (const [at, n] of /** @type {[number[], number][]} */ ([[[0.26, -0.1], 9], [[0.8, 0], 5]])) {
    const sections = crossSections(compose(view({ at }), session(), received));
    assert.ok(sections);
    const nearest = (/** @type {number} */ v) => (n === 9 ? Math.round(8 * v) / 8 : Math.round(2 * v) / 2);
    assert.deepEqual(sections.map(({ letter }) => letter), ["α", "β"]);
    assert.deepEqual(sections[0].values, sections[0].at.map((a) => 10 * a + nearest(at[1])));
    assert.deepEqual(sections[1].values, sections[1].at.map((b) => 10 * nearest(at[0]) + b));
    assert.equal(sections[0].at.length, n);
  }
  assert.equal(crossSections(compose(view({ at: [3, 3] }), session(), received)), null);
  assert.equal(crossSections(compose(view(), session(), received)), null);
});

test("the surface is as high as the finest value under it", () => {
  const received = new Received();
  for (const [n, low, high, window, height] of [[5, -1, 1, 1, 1], [9, -0.5, 0.5, 2, 2]]) {
    const axis = linspace(low, high, n);
    received.add(gridFrame([axis, axis], { loss: onGrid([axis, axis], () => height) }, { window }));
  }
  const scene = compose(view(), session(), received);
  assert.deepEqual([heightAt(scene, [0, 0]), heightAt(scene, [0.9, 0]), heightAt(scene, [2, 0])], [2, 1, NaN]);
});

test("a line has every measured coordinate once, ascending, the finer grid's word and then the point's", () => {
  for (let seed = 0; seed < 20; seed++) {
    const next = random(seed);
    const received = new Received();
    const coarse = linspace(-1, 1, 5);
    const fine = linspace(-1, 1, 9);
    /** @type {Map<number, number>} */
    const truth = new Map();
    const status = (/** @type {Float64Array} */ axis) => axis.map(() => (next() < 0.3 ? 0 : 1));
    const [s, t] = [status(coarse), status(fine)];
    coarse.forEach((x, k) => { if (s[k]) truth.set(x, 1); });
    fine.forEach((x, k) => { if (t[k]) truth.set(x, 2); });
    received.add(gridFrame([fine], { loss: fine.map(() => 2), status: t }, { window: 2 }));
    received.add(gridFrame([coarse], { loss: coarse.map(() => 1), status: s }, { window: 1 }));
    const points = Float64Array.of(0.123, -1, 7);
    for (const x of points) truth.set(x, 3);
    received.add({ type: "points", place: 0, shape: null, arrays: ["alpha", "loss"], values: { alpha: points, loss: points.map(() => 3) } });
    const line = measuredLine(received, 0);
    assert.deepEqual(line.x, [...truth.keys()].toSorted((a, b) => a - b));
    assert.deepEqual(line.rows.map(({ loss }) => loss), line.x.map((x) => truth.get(x)));
  }
  assert.deepEqual(measuredLine(new Received(), 0), { x: [], rows: [] });
});
