// Words on the pictures can all be read: none lies over another, is cut by the edge, or runs through the name of its axis.

import assert from "node:assert/strict";
import { test } from "node:test";
import { readable } from "../../../src/lossnav/explorer/page/drawing/axes_3d.js";
import { gutter, plotArea, ticksAcross, ticksUp, transformOf } from "../../../src/lossnav/explorer/page/drawing/plot_area.js";
import { anySize, random } from "./helpers.mjs";

/** @typedef {[low: number, high: number]} Range */

const LETTER = 6.4; // pixels of a digit at 11 px, at most
const NAME = 15 + 6; // from the left of the gutter: the middle of the axis's name, and half its height

/** Ends of a window of any size, anywhere; zoomed in the digits of its ticks are many. @param {() => number} next @returns {Range} */
function ends(next) {
  const middle = next() < 0.3 ? 0 : anySize(next, -3, 2);
  const half = next() < 0.5 ? 10 ** (-6 + 6 * next()) : Math.max(1e-6, Math.abs(middle)) * next() + 1e-6;
  return [middle - half, middle + half];
}

test("ticks of a map stand apart, inside the picture and beside the name of the axis", () => {
  const next = random(1);
  for (let k = 0; k < 3000; k++) {
    const [width, height] = [260 + 1000 * next(), 200 + 800 * next()];
    const x = ends(next);
    const y = next() < 0.5 ? /** @type {Range} */ ([x[0] + 1, x[1] + 1]) : ends(next);
    const box = plotArea({ x, y }, width, height);
    const { to } = transformOf({ x, y }, box);
    const across = ticksAcross(x, box[2]);
    let last = 0;
    across.values.forEach((value, i) => {
      const half = (across.words[i].length * LETTER) / 2;
      const px = to([value, y[0]])[0];
      assert.ok(px - half >= last - 1e-6, `${across.words}: ${px - half} < ${last}, of ${width}`);
      assert.ok(px + half <= width + 1, `${across.words[i]} is cut: ${px + half} > ${width}`);
      last = px + half;
    });
    const up = ticksUp(y, box[3]);
    const name = box[0] - gutter(y, box[3]) + NAME;
    let before = Infinity;
    up.values.forEach((value, i) => {
      const py = to([x[0], value])[1];
      assert.ok(before - py >= 12, `${up.words} in ${box[3]}`);
      assert.ok(box[0] - 8 - up.words[i].length * LETTER >= name - 1, `${up.words[i]} runs through the name`);
      before = py;
    });
  }
});

test("words of the 3-D picture never lie over one another nor are cut, and those that come first are there", () => {
  const next = random(2);
  for (let k = 0; k < 2000; k++) {
    const [width, height] = [150 + 800 * next(), 150 + 600 * next()];
    const labels = Array.from({ length: 3 + Math.floor(25 * next()) }, (_, i) => ({
      words: "0".repeat(1 + Math.floor(9 * next())), font: "", color: "", first: i < 2,
      align: /** @type {CanvasTextAlign} */ (next() < 0.7 ? "center" : "right"),
      at: /** @type {[number, number]} */ ([(-0.1 + 1.2 * next()) * width, (-0.1 + 1.2 * next()) * height]),
    }));
    const shown = readable(labels, ({ words }) => words.length * LETTER, width, height);
    const boxes = shown.map(({ words, align, at: [px, py] }) => {
      const wide = words.length * LETTER;
      const left = align === "right" ? px - wide : px - wide / 2;
      return [left, py - 6, left + wide, py + 6];
    });
    boxes.forEach(([a, b, c, d], i) => {
      assert.ok(a >= 0 && b >= 0 && c <= width && d <= height, `${[a, b, c, d]} in ${width} x ${height}`);
      for (const [e, f, g, h] of boxes.slice(0, i)) assert.ok(a >= g || c <= e || b >= h - 1e-9 || d <= f + 1e-9);
    });
    const [one] = labels;
    const wide = one.words.length * LETTER;
    const inside = one.at[0] > wide && one.at[0] < width - wide && one.at[1] > 8 && one.at[1] < height - 8;
    if (inside) assert.ok(shown.some(({ words, first }) => first && words === one.words), "the name of an axis is there");
  }
});
