// Five words for five states; none is called by another's word.

import assert from "node:assert/strict";
import { test } from "node:test";
import { number, percent } from "../../../src/lossnav/explorer/page/base/format.js";
import { OUTCOMES, outcomeWords, stateOf } from "../../../src/lossnav/explorer/page/state/outcome.js";

test("pending, unknown, not evaluated, non-finite and failed are five words, each for one thing", () => {
  /** @type {[Parameters<typeof stateOf>[0], string | null][]} */
  const cases = [
    [{ value: NaN, waiting: true }, "pending"],
    [{ value: 3, waiting: true }, "pending"],
    [{ value: NaN, waiting: true, connected: false }, "unknown"],
    [{ value: undefined, status: 1 }, "unknown"],
    [{ value: null }, "unknown"],
    [{ value: NaN, status: 1 }, "unknown"], // evaluated well, and this quantity was not recorded
    [{ value: NaN, status: 0 }, "not evaluated"],
    [{ value: NaN, status: 2 }, "non-finite"],
    [{ value: Infinity, status: 2 }, "non-finite"],
    [{ value: -Infinity }, "non-finite"],
    [{ value: NaN, status: 3 }, "failed"],
    [{ value: undefined, status: 3 }, "failed"],
    [{ value: 0, status: 1 }, null],
    [{ value: -7 }, null],
    [{ value: 2, connected: false }, null], // what was read stays read
  ];
  for (const [about, word] of cases) assert.equal(stateOf(about), word, JSON.stringify(about));
  assert.equal(new Set(Object.values(OUTCOMES)).size, 5);
  assert.deepEqual([NaN, Infinity, -Infinity].map((v) => outcomeWords("non-finite", v)), ["non-finite (nan)", "non-finite (∞)", "non-finite (−∞)"]);
});

test("a number that is not there is not called not a number", () => {
  assert.deepEqual([number(undefined), number(null), number(NaN), percent(undefined), percent(NaN)], ["unknown", "unknown", "not a number", "unknown", "not a number"]);
});
