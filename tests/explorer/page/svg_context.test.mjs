// Pictures as SVG: well-formed whatever the words are, and at the places where a canvas has them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SvgContext } from "../../../src/lossnav/explorer/page/drawing/svg_context.js";
import { random } from "./helpers.mjs";

const HOSTILE = ['"><script>alert(1)</script>', "&amp;", "]]>", "<!--", "\u0000\u0001\u001b", "\ud800", "\uffff", "😀 ∇ α", "'", "a".repeat(1000), "</text></svg>"];

/** Reads tags one by one; fails where they do not nest, or where something is left between. @param {string} text */
function elements(text) {
  assert.doesNotMatch(text, /[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/u); // what XML forbids
  /** @type {string[]} */
  const open = [];
  /** @type {{ name: string, attributes: Record<string, string> }[]} */
  const seen = [];
  const rest = text.trim().replace(/<(\/?)([a-zA-Z]+)((?:\s+[\w:-]+="[^"<]*")*)\s*(\/?)>|&(?:amp|lt|gt|quot);|[^<>&]/gu, (_, end, name, attributes, alone) => {
    if (!name) return "";
    if (end) assert.equal(open.pop(), name);
    else {
      seen.push({ name, attributes: Object.fromEntries([...attributes.matchAll(/([\w:-]+)="([^"]*)"/g)].map((m) => [m[1], m[2]])) });
      if (!alone) open.push(name);
    }
    return "";
  });
  assert.equal(rest, "");
  assert.deepEqual(open, []);
  return seen;
}

test("any words in any style leave it well-formed, and are one text each", () => {
  for (const words of HOSTILE) {
    const context = new SvgContext(100, 50);
    context.font = `italic 600 12px ${words.replaceAll("\n", "")}`;
    context.fillStyle = words;
    context.fillText(words, 3, 4);
    context.strokeStyle = words;
    context.strokeText(words, 5, 6);
    const seen = elements(context.toString());
    assert.deepEqual(seen.map(({ name }) => name), ["svg", "defs", "text", "text"]);
  }
});

test("groups of clips and turns end where the canvas restores, in any order of calls", () => {
  for (let seed = 0; seed < 100; seed++) {
    const next = random(seed);
    const context = new SvgContext(10, 10);
    let saved = 0;
    for (let k = 0; k < 60; k++) {
      const what = Math.floor(8 * next());
      if (what === 0) {
        context.save();
        saved++;
      } else if (what === 1 && saved) {
        context.restore();
        saved--;
      } else if (what === 2) context.translate(next(), next());
      else if (what === 3) context.rotate(next());
      else if (what === 4) {
        context.beginPath();
        context.rect(0, 0, next(), next());
        context.clip();
      } else if (what === 5) context.fillRect(0, 0, 1, 1);
      else if (what === 6) context.fillText("x", 0, 0);
      else context.setLineDash([3, 2]);
    }
    elements(context.toString());
  }
});

test("a restored pen is the saved one, the dash and the smoothing too", () => {
  const context = new SvgContext(10, 10);
  context.save();
  Object.assign(context, { fillStyle: "red", strokeStyle: "blue", lineWidth: 9, font: "1px x", textAlign: "right", textBaseline: "top", lineJoin: "round", lineCap: "round", imageSmoothingEnabled: false });
  context.setLineDash([1]);
  context.restore();
  const fresh = new SvgContext(10, 10);
  for (const name of /** @type {const} */ (["fillStyle", "strokeStyle", "lineWidth", "font", "textAlign", "textBaseline", "lineJoin", "lineCap", "imageSmoothingEnabled", "dash"])) {
    assert.deepEqual(context[name], fresh[name]);
  }
});

test("strokes are where they were drawn, to a hundredth of a pixel", () => {
  const context = new SvgContext(20, 20);
  context.beginPath();
  context.moveTo(1.23456, 2);
  context.lineTo(3, 4);
  context.arc(10, 10, 2, 0, 7);
  context.closePath();
  context.lineWidth = 1.5;
  context.stroke();
  context.fill();
  const [, , stroke, fill] = elements(context.toString());
  assert.equal(stroke.attributes.d, "M1.23 2L3 4M8 10a2 2 0 1 0 4 0a2 2 0 1 0 -4 0ZZ");
  assert.deepEqual([stroke.attributes.fill, stroke.attributes["stroke-width"], fill.attributes.d], ["none", "1.5", stroke.attributes.d]);
});
