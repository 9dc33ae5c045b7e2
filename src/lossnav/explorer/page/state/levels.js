// Which values are marked: contour levels as round numbers, their words, and the levels of isosurfaces.

// Round numbers over the range of the colours, about so many (of log10 where it is logarithmic).
export function contourLevels(domain, about) {
  const { step, values } = ticks(...domain, about, true);
  return { step, levels: values };
}

export function levelLabel(scene, level) {
  if (!scene.view.log) return tick(level, scene.step);
  return number(10 ** level, Number.isInteger(level) ? 1 : 2);
}

export function isoLevels(scene) {
  if (scene.view.iso?.length) return scene.view.iso.map((v) => (scene.view.log ? Math.log10(v) : v)).filter(Number.isFinite).toSorted((a, b) => a - b);
  const [low, high] = scene.domain;
  return [0.12, 0.3, 0.55].map((part) => low + part * (high - low));
}

import { number, tick, ticks } from "../base/format.js";

