// @ts-check
// Where a plane lies on its canvas, and where its coordinates lie in it.

/** @import { Coordinates, Range } from "../state/messages.js" */

import { tick, ticks } from "../base/format.js";

/** @typedef {[left: number, top: number, width: number, height: number]} Box */
/** @typedef {[x: number, y: number]} Pixel */
/** @typedef {{ x: Range, y: Range }} Ends What is visible of a plane. */

const LEFT = 62; // at least
const LETTER = 6.4; // pixels of a digit among the ticks, at most
const BOTTOM = 46;
const TOP = 12;
const RIGHT = 14; // at least

/**
 * One scale for both axes where they are alike in length, else all of the room.
 * @param {Ends} ends
 * @param {number} width
 * @param {number} height
 * @returns {Box}
 */
export function plotArea({ x, y }, width, height) {
  let h = Math.max(40, height - TOP - BOTTOM);
  const left = gutter(y, h);
  const right = Math.max(RIGHT, overhang(x, width - left - RIGHT));
  let w = Math.max(40, width - left - right);
  const ratio = (x[1] - x[0]) / (y[1] - y[0]);
  if (ratio >= 0.5 && ratio <= 2) {
    if (w > h * ratio) w = h * ratio;
    else h = w / ratio;
  }
  const free = Math.max(0, width - left - right - w);
  return [Math.floor(left + free / 2), TOP, Math.floor(w), Math.floor(h)]; // whole pixels: those of the map are painted one by one
}

/** Ticks up a side of so many pixels, with their words. @param {Range} ends @param {number} room */
export function ticksUp(ends, room) {
  return worded(ends, Math.max(2, Math.floor(room / 52)));
}

/** Ticks along a side, so few that their words stand apart. @param {Range} ends @param {number} room */
export function ticksAcross(ends, room) {
  for (let about = Math.max(2, Math.floor(room / 76)); ; about--) {
    const found = worded(ends, about);
    const apart = (room * found.step) / (ends[1] - ends[0]);
    if (about <= 1 || found.words.every((words) => words.length * LETTER + 10 < apart)) return found;
  }
}

/** @param {Range} ends @param {number} about */
function worded(ends, about) {
  const { step, values } = ticks(...ends, about);
  return { step, values, words: values.map((value) => tick(value, step)) };
}

/** Room for the ticks and the name of the axis on the left, in pixels. @param {Range} ends @param {number} room */
export function gutter(ends, room) {
  const longest = Math.max(0, ...ticksUp(ends, room).words.map(({ length }) => length));
  return Math.max(LEFT, Math.ceil(30 + longest * LETTER));
}

/** How far the words of a tick at the right end may reach beyond it, in pixels. @param {Range} ends @param {number} room */
function overhang(ends, room) {
  return Math.ceil((Math.max(0, ...ticksAcross(ends, Math.max(40, room)).words.map(({ length }) => length)) * LETTER) / 2);
}

/** @param {Ends} ends @param {Box} box */
export function transformOf({ x, y }, [left, top, w, h]) {
  const sx = w / (x[1] - x[0]);
  const sy = h / (y[1] - y[0]);
  return {
    sx, // pixels of one unit
    sy,
    /** From coordinates to pixels. @param {Coordinates} at @returns {Pixel} */
    to: (at) => [left + (at[0] - x[0]) * sx, top + h - (at[1] - y[0]) * sy],
    /** And back. @param {Pixel} pixel @returns {Pixel} */
    from: ([px, py]) => [x[0] + (px - left) / sx, y[0] + (top + h - py) / sy],
  };
}

/** @typedef {ReturnType<typeof transformOf>} Transform */
