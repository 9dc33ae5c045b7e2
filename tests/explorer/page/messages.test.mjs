// Frames and messages, written here anew after the description of the format.

import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeFrame, parseMessage } from "../../../src/lossnav/explorer/page/state/messages.js";
import { anySize, random } from "./helpers.mjs";

/** @param {object} header @param {Float64Array[]} arrays @param {number} spaces */
function frame(header, arrays, spaces) {
  const words = new TextEncoder().encode(JSON.stringify(header));
  const length = words.length + spaces;
  const start = Math.ceil((4 + length) / 8) * 8;
  const bytes = new Uint8Array(start + 8 * arrays.reduce((sum, { length: n }) => sum + n, 0)).fill(32);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, length, true);
  bytes.set(words, 4);
  let at = start;
  for (const array of arrays) for (const value of array) {
    view.setFloat64(at, value, true);
    at += 8;
  }
  return bytes.buffer;
}

test("a grid's numbers come as they were sent, whatever its header's length", () => {
  for (let seed = 0; seed < 60; seed++) {
    const next = random(seed);
    const shape = Array.from({ length: 1 + (seed % 3) }, () => 1 + Math.floor(4 * next()));
    const n = shape.reduce((a, b) => a * b, 1);
    const make = () => Float64Array.from({ length: n }, () => [NaN, Infinity, -Infinity, -0, 5e-324, anySize(next, -300, 300)][Math.floor(6 * next())]);
    const arrays = [make(), make()];
    const axes = shape.map((count) => Array.from({ length: count }, (_, k) => k / 3));
    const header = { type: "grid", place: 3, window: null, axes, arrays: ["loss", "größe \u0000\""], padding: "x".repeat(seed) };
    const back = decodeFrame(frame(header, arrays, Math.floor(8 * next())));
    assert.deepEqual(back.shape, shape);
    assert.deepEqual(/** @type {any} */ (back).axes, axes);
    for (const [k, name] of header.arrays.entries()) assert.deepEqual([...back.values[name]], [...arrays[k]]);
  }
});

test("points share the bytes evenly, and no points are none", () => {
  for (const n of [0, 1, 17]) {
    const arrays = [1, 2, 3].map((k) => Float64Array.from({ length: n }, (_, i) => k * i));
    const back = decodeFrame(frame({ type: "points", count: n, arrays: ["alpha", "beta", "loss"] }, arrays, 0));
    assert.equal(back.shape, null);
    for (const [k, name] of back.arrays.entries()) assert.deepEqual([...back.values[name]], [...arrays[k]]);
  }
  assert.deepEqual(decodeFrame(frame({ type: "points", arrays: [] }, [], 3)).values, {});
});

test("the words for what JSON lacks are numbers, and no other word is", () => {
  assert.deepEqual(parseMessage('{"a":["nan","inf","-inf","NaN","toString","__proto__","constructor",null]}').a, [
    NaN, Infinity, -Infinity, "NaN", "toString", "__proto__", "constructor", null,
  ]);
  assert.throws(() => parseMessage("{"), SyntaxError);
});
