// Contour levels are round numbers over the range of the colours, and their words can be told apart.

import assert from "node:assert/strict";
import { test } from "node:test";
import { contourLevels, isoLevels, levelLabel } from "../../../src/lossnav/explorer/page/state/levels.js";
import { anySize, random, read } from "./helpers.mjs";

test("about as many levels as were asked for, even and over the range", () => {
  const next = random(1);
  for (let k = 0; k < 2000; k++) {
    const low = anySize(next, -6, 6);
    const high = low + 10 ** (-3 + 6 * next()) * Math.abs(low);
    const about = 2 + Math.floor(39 * next());
    const { step, levels } = contourLevels([low, high], about);
    // Steps are 1, 2, 5: the nearest of them in the logarithm is off by sqrt(2.5) at most.
    assert.ok(levels.length >= about / Math.sqrt(2.5) - 1 && levels.length <= about * Math.sqrt(2.5) + 1, `${levels.length} for ${about}`);
    assert.ok(levels[0] >= low - 1e-6 * step && levels[0] < low + step * (1 + 1e-6));
    assert.ok(levels[levels.length - 1] <= high + 1e-6 * step && levels[levels.length - 1] > high - step * (1 + 1e-6));
    const mantissa = Number(step.toExponential(6).split("e")[0]);
    assert.ok([1, 2, 5].includes(mantissa), `step ${step}`);
  }
});

for (const log of [false, true]) {
  test(`words of levels are nearest to their own level (${log ? "logarithmic" : "linear"})`, () => {
    const next = random(2);
    for (let k = 0; k < 1500; k++) {
      const low = log ? -8 + 16 * next() : anySize(next, -6, 8);
      const high = low + (log ? 10 ** (-3 + 4 * next()) : Math.abs(low) * 10 ** (-4 + 5 * next()));
      const { step, levels } = contourLevels([low, high], 12);
      const texts = levels.map((level) => levelLabel({ view: { log }, step }, level));
      assert.equal(new Set(texts).size, texts.length, `${texts}`);
      for (const [i, text] of texts.entries()) {
        const said = log ? Math.log10(read(text)) : read(text);
        assert.ok(Math.abs(said - levels[i]) < step / 2, `${levels[i]}, step ${step}: ${text}`);
      }
    }
  });
}

test("isosurfaces lie within the range, ascending; what has no logarithm is left out", () => {
  const next = random(3);
  for (let k = 0; k < 200; k++) {
    const low = anySize(next, -3, 3);
    const high = low + next() + 1e-3;
    const levels = isoLevels({ view: { log: false, iso: null }, domain: [low, high] });
    assert.ok(levels.every((level, i) => level > low && level < high && (!i || level > levels[i - 1])));
  }
  assert.deepEqual(isoLevels({ view: { log: false, iso: [3, 1, 2] }, domain: [0, 1] }), [1, 2, 3]);
  assert.deepEqual(isoLevels({ view: { log: true, iso: [100, 0, -1, 0.1] }, domain: [0, 1] }), [-1, 2]);
});
