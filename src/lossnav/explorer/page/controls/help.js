// @ts-check
// What the mouse, the fingers and the keys do.

import { byId, el, replace } from "../base/dom.js";

const MOUSE = [
  ["drag the map", "pan"],
  ["wheel, pinch, double click", "zoom where the pointer is"],
  ["click map or surface", "select a point: its loss, error, classes and gradient"],
  ["drag the surface", "turn it; the wheel comes nearer"],
];

const KEYS = [
  ["← ↑ → ↓", "move the selected point by one measured step; with Shift by five. On the surface: turn it"],
  ["+  −  0", "zoom in, zoom out, all of it"],
  ["l  k  p  t", "logarithm, contour lines, measured points, training path"],
  ["c", "centre here: a new place around the selected point"],
  ["a", "new axes"],
  ["m", "line from the selected point to the next click"],
  ["b", "drop a ball"],
  ["s", "stop what is being computed"],
  ["Esc", "leave what was begun"],
  ["?", "this page"],
];

const MARKS = [
  ["hatched", "measured, and the loss is not finite, or evaluating it failed; nothing is filled in"],
  ["empty", "not evaluated yet"],
  ["white cross", "the centre of this place"],
  ["−∇", "the way the loss falls most steeply in the plane"],
  ["dark line on the surface", "where a path's shadow lies; the coloured line is at its true loss"],
];

export function showHelp() {
  /** @param {string} caption @param {string[][]} rows @param {boolean} key */
  const table = (caption, rows, key = false) =>
    el("table", {}, el("caption", {}, caption), el("tbody", {}, rows.map(([what, does]) => el("tr", {}, el("th", { scope: "row" }, key ? el("kbd", {}, what) : what), el("td", {}, does)))));
  replace(byId("help"), table("Pointer", MOUSE), table("Keys", KEYS, true), table("Marks", MARKS));
  byId("help-dialog").showModal();
}
