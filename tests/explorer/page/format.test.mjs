// Numbers as text say the number: read back, they differ by less than half of the last digit.

import assert from "node:assert/strict";
import { test } from "node:test";
import { coordinate, count, number, percent, tick, ticks, unit, withError } from "../../../src/lossnav/explorer/page/base/format.js";
import { anySize, random, read } from "./helpers.mjs";

test("a number of any size reads back to its digits", () => {
  const next = random(1);
  for (let k = 0; k < 4000; k++) {
    const value = anySize(next, -307, 308);
    const digits = 1 + Math.floor(next() * 8);
    const text = number(value, digits);
    assert.ok(Math.abs(read(text) / value - 1) <= 0.5000001 * 10 ** (1 - digits), `${value} to ${digits} digits: ${text}`);
  }
});

test("minus is a minus sign, and only of what is negative", () => {
  const next = random(2);
  for (let k = 0; k < 500; k++) {
    const value = anySize(next, -12, 12);
    for (const text of [number(value), coordinate(value), tick(value, Math.abs(value) / 3), withError(value, Math.abs(value) / 7)[0]]) {
      assert.ok(!text.includes("-"), text);
      if (read(text) !== 0) assert.equal(text.startsWith("\u2212"), value < 0, text);
    }
  }
});

test("what is no number says so, and nothing else does", () => {
  assert.equal(number(NaN), "not a number");
  for (const value of [null, undefined]) assert.equal(number(value), "unknown");
  assert.equal(number(Infinity), "∞");
  assert.equal(number(-Infinity), "\u2212∞");
  assert.equal(number(0), "0");
  assert.equal(number(-0), "0");
  assert.equal(number(Number.MIN_VALUE, 1), "5\u2009×\u200910⁻³²⁴");
  assert.equal(number(Number.MAX_VALUE), "1.798\u2009×\u200910³⁰⁸");
  assert.equal(percent(NaN), "not a number");
  assert.equal(percent(null), "unknown");
  assert.equal(percent(0.1234), "12.3\u2009%");
  assert.equal(count(1234567.4), "1,234,567");
});

test("coordinates show a thousandth of the axis, and no minus before zero", () => {
  const next = random(3);
  for (let k = 0; k < 1000; k++) {
    const span = 10 ** (-4 + 8 * next());
    const value = (next() - 0.5) * span;
    const text = coordinate(value, span);
    assert.ok(Math.abs(read(text) - value) <= Math.max(span / 1000, 0.005) * 1.0001, `${value} of ${span}: ${text}`);
  }
  assert.equal(coordinate(-0.0001), "0.000");
  assert.equal(coordinate(-0), "0.000");
  assert.equal(coordinate(NaN), "not a number");
});

test("an error has two digits, and its value as many decimals", () => {
  const next = random(4);
  for (let k = 0; k < 1000; k++) {
    const error = 10 ** (-4.9 + 5.8 * next());
    const value = anySize(next, -2, 2);
    const [said, about] = withError(value, error);
    assert.equal(about.split(".")[1]?.length ?? 0, said.split(".")[1]?.length ?? 0, `${said} ± ${about}`);
    assert.ok(Math.abs(read(about) / error - 1) <= 0.05 + 1e-9, `${error}: ${about}`);
    assert.ok(Math.abs(read(said) - value) <= error / 19, `${value} ± ${error}: ${said}`);
  }
  for (const none of [NaN, Infinity, 0, -1, null, undefined]) assert.deepEqual(withError(2, none), ["2.000", ""]);
  assert.deepEqual(withError(NaN, 1), ["not a number", ""]);
  assert.deepEqual(withError(0.09346, 0.01861), ["0.093", "0.019"]);
});

test("a unit of 1 is none", () => {
  assert.deepEqual([unit({ units: "1" }), unit({}), unit(null), unit({ units: "nat" })], ["", "", "", "nat"]);
});

/** Whether a step is 1, 2 or 5 times a power of ten, by how JavaScript writes it. @param {number} step */
const isRound = (step) => /^[125](\.0+\d?)?e|^[149]\.9{6,}\d*e/.test(step.toExponential());

/** @param {(low: number, high: number) => void} law @param {number} seed */
function overRanges(law, seed) {
  const next = random(seed);
  for (let k = 0; k < 3000; k++) {
    const low = anySize(next, -9, 9);
    law(low, low + Math.abs(low) * 10 ** (-6 + 8 * next()));
  }
}

test("ticks are round numbers that cover the range", () => {
  overRanges((low, high) => {
    for (const nearest of [false, true]) {
      const { step, values } = ticks(low, high, 6, nearest);
      const span = high - low;
      assert.ok(isRound(step), `step ${step}`);
      assert.ok(values.length <= (nearest ? 11 : 7), `${values.length} between ${low} and ${high}`);
      assert.ok(values.length >= (nearest ? 3 : 2), `${values.length} between ${low} and ${high}`);
      for (const [k, value] of values.entries()) {
        assert.ok(value >= low - 1e-8 * span && value <= high + 1e-8 * span);
        assert.ok(Math.abs(value / step - Math.round(value / step)) < 1e-6, `${value} of ${step}`);
        if (k) assert.ok(Math.abs(value - values[k - 1] - step) < 1e-6 * step);
      }
      assert.ok(values[0] - low < step * 1.000001 && high - values[values.length - 1] < step * 1.000001);
    }
  }, 5);
});

test("the words of ticks say the ticks", () => {
  overRanges((low, high) => {
    const { step, values } = ticks(low, high, 6);
    for (const value of values) {
      const text = tick(value, step);
      assert.ok(Math.abs(read(text) - value) < 0.01 * step, `${value}, step ${step}: ${text}`);
    }
  }, 6);
  assert.equal(tick(1.5e6, 5e5), "1.5×10⁶");
});

test("ticks of any two numbers end, be there none", () => {
  const ends = [0, -0, 1, -1, NaN, Infinity, -Infinity, 5e-324, 1e-320, 1e-300, 1e17, 1e17 + 16, 1e300, 1.7e308, -1.7e308, 2 ** 53, 2 ** 53 + 2];
  for (const low of ends) {
    for (const high of ends) {
      for (const about of [1, 2, 6, 40]) {
        for (const nearest of [false, true]) {
          const { step, values } = ticks(low, high, about, nearest);
          assert.ok(values.length <= 2.6 * about + 2, `${values.length} between ${low} and ${high}`);
          assert.ok(step > 0);
          assert.ok(values.every((value) => value >= low - 1e-6 * step && value <= high + 1e-6 * step));
          for (const value of values) assert.equal(typeof tick(value, step), "string");
        }
      }
    }
  }
});
