// @ts-check
// The colours of a scene, pixel by pixel: each is looked up in the finest whole grid there, so it is right at every zoom.

/** @import { Scene } from "../state/scene.js" */
/** @import { Box } from "./plot_area.js" */

import { bilinear, cellIndex } from "../state/interpolation.js";
import { colorTable } from "./colormaps.js";

/**
 * @typedef {object} Raster
 * @property {number} width Pixels.
 * @property {number} height
 * @property {Uint32Array} colors RGBA, the top row first; 0 where nothing is whole or there is no number.
 * @property {Uint8Array | null} holes 1 where what was evaluated has no number; null where there is none.
 */

/** The cell of each pixel's middle along an axis, and how far into it. @param {ArrayLike<number>} axis @param {Float64Array} at */
function cellsOf(axis, at) {
  const cell = new Int32Array(at.length);
  const part = new Float64Array(at.length);
  for (let p = 0; p < at.length; p++) {
    if (axis.length < 2 || !(at[p] >= axis[0] && at[p] <= axis[axis.length - 1])) {
      cell[p] = -1;
      continue;
    }
    const k = cellIndex(axis, at[p]);
    cell[p] = k;
    part[p] = (at[p] - axis[k]) / (axis[k + 1] - axis[k]);
  }
  return { cell, part };
}

/**
 * @param {Pick<Scene, "x" | "y" | "layers" | "coverage" | "domain"> & { view: { colors: string } }} scene
 * @param {number} width Pixels.
 * @param {number} height
 * @returns {Raster}
 */
export function raster({ x, y, layers, coverage, domain: [low, high], view }, width, height) {
  const px = Float64Array.from({ length: width }, (_, p) => x[0] + ((p + 0.5) / width) * (x[1] - x[0]));
  const py = Float64Array.from({ length: height }, (_, p) => y[1] - ((p + 0.5) / height) * (y[1] - y[0]));
  const columns = cellsOf(coverage.x, px).cell;
  const rows = cellsOf(coverage.y, py).cell;
  const { owner } = coverage;
  const wide = coverage.y.length - 1;
  const lookups = layers.map((layer) => ({ values: layer.values, ny: layer.y.length, across: cellsOf(layer.x, px), up: cellsOf(layer.y, py) }));
  const palette = new Uint32Array(colorTable(view.colors).buffer);
  const scale = 255 / (high - low);
  const colors = new Uint32Array(width * height);
  /** @type {Uint8Array | null} */
  let holes = null;
  for (let column = 0; column < width; column++) {
    const ci = columns[column];
    if (ci < 0) continue;
    for (let row = 0; row < height; row++) {
      const cj = rows[row];
      if (cj < 0) continue;
      const k = owner ? owner[ci * wide + cj] - 1 : 0;
      if (k < 0 || k >= lookups.length) continue;
      const { values, ny, across, up } = lookups[k];
      const value = bilinear(values, across.cell[column] * ny + up.cell[row], ny, across.part[column], up.part[row]);
      const at = row * width + column;
      if (value - value === 0) {
        const place = (value - low) * scale + 0.5;
        colors[at] = palette[place < 0 ? 0 : place > 255 ? 255 : place | 0];
      } else {
        holes ??= new Uint8Array(width * height);
        holes[at] = 1;
      }
    }
  }
  return { width, height, colors, holes };
}

const KEPT = 3; // of the last pictures: the map, and those that are being saved
/** @type {Map<string, Raster>} */
const made = new Map();

/** The same, kept while nothing about it changes. @param {Scene} scene @param {Box} box @param {number} ratio Pixels of the picture for one of the page. */
export function rasterOf(scene, [, , w, h], ratio) {
  const [width, height] = [w, h].map((side) => Math.max(1, Math.round(side * ratio)));
  const { x, y, layers, domain, view, variable } = scene;
  const key = `${layers.map(({ grid }) => grid.key)}/${view.place}/${x}/${y}/${domain}/${view.colors}/${variable.name}/${view.log}/${width}x${height}`;
  const there = made.get(key) ?? raster(scene, width, height);
  made.delete(key);
  made.set(key, there);
  for (const oldest of made.keys()) {
    if (made.size <= KEPT) break;
    made.delete(oldest);
  }
  return there;
}
