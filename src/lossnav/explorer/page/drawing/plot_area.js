// @ts-check
// Where a plane lies on its canvas, and where its coordinates lie in it.

/** @import { Coordinates, Range } from "../state/messages.js" */

/** @typedef {[left: number, top: number, width: number, height: number]} Box */
/** @typedef {[x: number, y: number]} Pixel */
/** @typedef {{ x: Range, y: Range }} Ends What is visible of a plane. */

const LEFT = 62;
const BOTTOM = 46;
const TOP = 12;
const RIGHT = 14;

/**
 * One scale for both axes where they are alike in length, else all of the room.
 * @param {Ends} ends
 * @param {number} width
 * @param {number} height
 * @returns {Box}
 */
export function plotArea({ x, y }, width, height) {
  let w = Math.max(40, width - LEFT - RIGHT);
  let h = Math.max(40, height - TOP - BOTTOM);
  const ratio = (x[1] - x[0]) / (y[1] - y[0]);
  if (ratio >= 0.5 && ratio <= 2) {
    if (w > h * ratio) w = h * ratio;
    else h = w / ratio;
  }
  const free = Math.max(0, width - LEFT - RIGHT - w);
  return [Math.floor(LEFT + free / 2), TOP, Math.floor(w), Math.floor(h)]; // whole pixels: those of the map are painted one by one
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
