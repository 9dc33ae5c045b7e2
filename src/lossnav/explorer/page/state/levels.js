// @ts-check
// Which values are marked: contour levels as round numbers, their words, and the levels of isosurfaces.

/** @import { Range } from "./messages.js" */
/** @import { View } from "./view_state.js" */

import { logTick, tick, ticks } from "../base/format.js";

/**
 * Round numbers over the range of the colours (of log10 where it is logarithmic).
 * @param {Range} domain
 * @param {number} about How many.
 */
export function contourLevels(domain, about) {
  const { step, values } = ticks(...domain, about, true);
  return { step, levels: values };
}

/**
 * A level in words, with as many digits as tell it from its neighbours.
 * @param {{ view: Pick<View, "log">, step: number }} scene
 * @param {number} level
 */
export function levelLabel({ view, step }, level) {
  return view.log ? logTick(level, step) : tick(level, step);
}

/**
 * Levels of isosurfaces, ascending, of values as drawn: those of the view, else three in the lower half of the range.
 * @param {{ view: Pick<View, "log" | "iso">, domain: Range }} scene
 */
export function isoLevels({ view, domain }) {
  if (view.iso?.length) {
    const drawn = view.iso.map((v) => (view.log ? Math.log10(v) : v));
    return drawn.filter(Number.isFinite).toSorted((a, b) => a - b);
  }
  const [low, high] = domain;
  return [0.12, 0.3, 0.55].map((part) => low + part * (high - low));
}
