// Colour maps: lighter all the way up, so that they can be read in grey. (That they are matplotlib's, a Python test holds.)

import assert from "node:assert/strict";
import { test } from "node:test";
import { COLORMAPS, colorTable, cssColor } from "../../../src/lossnav/explorer/page/drawing/colormaps.js";

test("every map grows lighter from end to end and is opaque", () => {
  assert.ok(COLORMAPS.length >= 2);
  for (const name of COLORMAPS) {
    const table = colorTable(name);
    assert.equal(table.length, 1024);
    // Relative luminance of sRGB (IEC 61966-2-1).
    const linear = (/** @type {number} */ v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    let before = -1;
    for (let k = 0; k < 256; k++) {
      const light = 0.2126 * linear(table[4 * k]) + 0.7152 * linear(table[4 * k + 1]) + 0.0722 * linear(table[4 * k + 2]);
      assert.ok(light > before - 1e-3, `${name} at ${k}`);
      before = light;
      assert.equal(table[4 * k + 3], 255);
    }
  }
});

test("a name that is none is viridis, and a colour outside the scale is its end", () => {
  for (const name of ["", "__proto__", "toString", "jet"]) assert.deepEqual(colorTable(name), colorTable("viridis"));
  assert.equal(cssColor("viridis", 0), "rgb(68 1 84)");
  assert.equal(cssColor("viridis", -3), cssColor("viridis", 0));
  assert.equal(cssColor("viridis", 7), cssColor("viridis", 1));
});
