// Grids under way: their levels are points of them, from coarse to fine, in whichever order a run goes from coarse to fine.

import assert from "node:assert/strict";
import { test } from "node:test";
import { isComplete, levelsOf } from "../../../src/lossnav/explorer/page/state/incomplete_grids.js";
import { Received } from "../../../src/lossnav/explorer/page/state/received.js";
import { ascending, gridFrame, random } from "./helpers.mjs";

/** A plane of which those points were evaluated. @param {ArrayLike<number>[]} axes @param {(i: number, j: number) => boolean} done */
function grid(axes, done) {
  const [nx, ny] = axes.map(({ length }) => length);
  const status = Float64Array.from({ length: nx * ny }, (_, k) => Number(done(Math.floor(k / ny), k % ny)));
  const loss = status.map((s, k) => (s ? k : NaN));
  const received = new Received();
  received.add(gridFrame(axes, { loss, status }));
  return received.of(0).grids[0];
}

test("complete is what has no point that was not evaluated; a failed one was", () => {
  const axes = [ascending(random(1), 4), ascending(random(2), 3)];
  const whole = grid(axes, () => true);
  assert.equal(isComplete(whole), true);
  assert.deepEqual(levelsOf(whole), [whole]);
  assert.equal(isComplete(grid(axes, (i, j) => i !== 2 || j !== 1)), false);
  const failed = grid(axes, () => true);
  failed.values.status.fill(3);
  failed.complete = undefined;
  assert.equal(isComplete(failed), true);
});

test("levels hold the grid's own points and values, from few to all, and reach its ends", () => {
  for (let seed = 0; seed < 60; seed++) {
    const next = random(seed);
    const axes = [ascending(next, 2 + Math.floor(30 * next())), ascending(next, 2 + Math.floor(30 * next()))];
    const under = grid(axes, () => next() < 0.7);
    under.values.status[0] = 0;
    const levels = levelsOf(under);
    assert.equal(levels.at(-1), under);
    for (const [k, level] of levels.entries()) {
      assert.deepEqual(level.extent, under.extent);
      if (k && level !== under) assert.ok(level.values.loss.length >= levels[k - 1].values.loss.length);
      for (const [i, a] of level.axes[0].entries()) {
        for (const [j, b] of level.axes[1].entries()) {
          const [p, q] = [axes[0].indexOf(a), axes[1].indexOf(b)];
          assert.ok(p >= 0 && q >= 0);
          const at = p * axes[1].length + q;
          assert.deepEqual([level.values.loss[i * level.shape[1] + j], level.values.status[i * level.shape[1] + j]], [under.values.loss[at], under.values.status[at]]);
        }
      }
    }
  }
});

test("the last finished level of a run is among them: halves of what is between, as the sampler goes, or every so many", () => {
  for (const n of [5, 8, 17, 26, 51, 65, 100]) {
    const axes = [Float64Array.from({ length: n }, (_, k) => k), Float64Array.from({ length: n }, (_, k) => k)];
    /** @type {number[][]} */
    const orders = [];
    let level = [0, n - 1];
    while (level.length < n) {
      orders.push(level);
      const middles = level.slice(1).map((high, k) => Math.floor((level[k] + high) / 2));
      level = [...new Set([...level, ...middles])].sort((a, b) => a - b);
    }
    for (let step = 2; step < n; step *= 2) orders.push(Array.from({ length: n }, (_, k) => k).filter((k) => k % step === 0 || k === n - 1));
    for (const rows of orders) {
      const there = new Set(rows);
      const levels = levelsOf(grid(axes, (i, j) => there.has(i) && there.has(j)));
      assert.ok(levels.some(({ axes: [x, y] }) => x.join() === rows.join() && y.join() === rows.join()), `${n}: ${rows}`);
    }
  }
});
