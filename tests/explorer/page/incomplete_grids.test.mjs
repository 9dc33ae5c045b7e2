// Grids under way: what is called complete was evaluated, all of it, and is as large as can be for a run from coarse to fine.

import assert from "node:assert/strict";
import { test } from "node:test";
import { completePart, cornerStatus, isComplete } from "../../../src/lossnav/explorer/page/state/incomplete_grids.js";
import { Received } from "../../../src/lossnav/explorer/page/state/received.js";
import { ascending, gridFrame, random } from "./helpers.mjs";

/** A plane of which those points were evaluated. @param {Float64Array[]} axes @param {(i: number, j: number) => boolean} done */
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
  assert.equal(isComplete(grid(axes, () => true)), true);
  assert.equal(cornerStatus(grid(axes, () => true)), null);
  const under = grid(axes, (i, j) => i !== 2 || j !== 1);
  assert.equal(isComplete(under), false);
  assert.equal(cornerStatus(under), under.values.status);
  const failed = grid(axes, () => true);
  failed.values.status.fill(3);
  failed.complete = undefined;
  assert.equal(isComplete(failed), true);
});

test("of a run from coarse to fine it is the last finished level, also when points of the next are there", () => {
  for (let seed = 0; seed < 60; seed++) {
    const next = random(seed);
    const axes = [ascending(next, 17), ascending(next, 17)];
    const step = [2, 4, 8][seed % 3];
    const of = (/** @type {number} */ k, /** @type {number} */ every) => k % every === 0;
    let more = seed % 3; // of the next level, fewer than a row of this one has
    const part = completePart(grid(axes, (i, j) => (of(i, step) && of(j, step)) || (i % step === 1 && next() < 0.1 && more-- > 0)));
    assert.ok(part);
    for (const d of [0, 1]) assert.deepEqual([...part.axes[d]], [...axes[d]].filter((_, k) => of(k, step)));
  }
});

test("whatever was evaluated, the part is rows and columns of it with its own values", () => {
  let found = 0;
  for (let seed = 0; seed < 300; seed++) {
    const next = random(seed);
    const axes = [ascending(next, 2 + Math.floor(8 * next())), ascending(next, 2 + Math.floor(8 * next()))];
    const share = next();
    const under = grid(axes, () => next() < share);
    const part = completePart(under);
    if (!part) continue;
    found++;
    const [rows, columns] = [0, 1].map((d) => [...part.axes[d]].map((v) => axes[d].indexOf(v)));
    assert.ok(rows.length >= 2 && columns.length >= 2 && ![...rows, ...columns].includes(-1));
    for (const [i, row] of rows.entries()) {
      for (const [j, column] of columns.entries()) {
        assert.equal(part.values.loss[i * columns.length + j], row * axes[1].length + column);
        assert.notEqual(under.values.status[row * axes[1].length + column], 0);
      }
    }
    assert.ok(isComplete(part) && part.partOf === under && part.key !== under.key);
    assert.deepEqual(part.extent, part.axes.map((axis) => [axis[0], axis[axis.length - 1]]));
  }
  assert.ok(found > 30, `${found}`);
});

test("where most cells are there, there is nothing coarser to show", () => {
  const axes = [ascending(random(1), 11), ascending(random(2), 11)];
  assert.equal(completePart(grid(axes, (i, j) => i + j < 19)), null);
});
