// @ts-check
// A layer's colours as an image, interpolated in the values, so that panning and zooming only move an image.

/** @import { Range } from "../state/messages.js" */
/** @import { Values } from "../state/received.js" */
/** @import { Layer } from "../state/scene.js" */

import { context2d } from "../base/dom.js";
import { cornerStatus } from "../state/incomplete_grids.js";
import { bilinear, cellIndex } from "../state/interpolation.js";
import { colorTable } from "./colormaps.js";

const SIDE = 400; // pixels that a layer's image has at least along a side: finer than a screen needs

/** Where the pixels of one side lie between the nodes of an axis. @param {Values} axis @param {number} factor */
function places(axis, factor) {
  const count = axis.length > 1 ? (axis.length - 1) * factor + 1 : 1;
  const cell = new Int32Array(count);
  const part = new Float64Array(count);
  const step = (axis[axis.length - 1] - axis[0]) / Math.max(1, count - 1);
  for (let k = 0; k < count; k++) {
    const at = axis[0] + k * step;
    cell[k] = axis.length > 1 ? cellIndex(axis, at) : 0;
    part[k] = axis.length > 1 ? Math.min(1, Math.max(0, (at - axis[cell[k]]) / (axis[cell[k] + 1] - axis[cell[k]]))) : 0;
  }
  return { count, cell, part };
}

/**
 * Returns canvases whose top row is the highest y, and the rectangle that they cover (x0, x1, y0, y1), half a pixel
 * beyond the outermost nodes. `holes` is null where every point that was evaluated has a value.
 * @param {Layer} layer
 * @param {string} colors
 * @param {Range} domain
 */
export function raster(layer, colors, domain) {
  const { x, y, values, grid } = layer;
  const key = `${colors}/${domain}`;
  grid.bitmaps ??= new Map();
  const kept = grid.bitmaps.get(values);
  if (kept?.key === key) return kept;
  const across = places(x, Math.max(1, Math.ceil(SIDE / Math.max(1, x.length - 1))));
  const up = places(y, Math.max(1, Math.ceil(SIDE / Math.max(1, y.length - 1))));
  const image = new ImageData(across.count, up.count);
  const pixels = new Uint32Array(image.data.buffer);
  const mask = holeMask(layer);
  const maskImage = new ImageData(mask ? across.count : 1, mask ? up.count : 1);
  const maskPixels = new Uint32Array(maskImage.data.buffer);
  const palette = new Uint32Array(colorTable(colors).buffer);
  const [low, high] = domain;
  const scale = 255 / (high - low);
  const ny = y.length;
  const status = cornerStatus(grid);
  for (let row = 0; row < up.count; row++) {
    const v = up.count - 1 - row;
    const j = up.cell[v];
    const t = up.part[v];
    for (let column = 0; column < across.count; column++) {
      const at = across.cell[column] * ny + j;
      if (status && !(status[at] && status[at + 1] && status[at + ny] && status[at + ny + 1])) continue;
      const value = bilinear(values, at, ny, across.part[column], t);
      if (value - value === 0) {
        const place = (value - low) * scale;
        pixels[row * across.count + column] = palette[place < 0 ? 0 : place > 255 ? 255 : place | 0];
      } else if (mask) {
        const nearest = at + (across.part[column] < 0.5 ? 0 : ny) + (t < 0.5 ? 0 : 1);
        if (mask[nearest]) maskPixels[row * across.count + column] = 0xff000000;
      }
    }
  }
  const halves = [x, y].map((axis, k) => (axis[axis.length - 1] - axis[0]) / Math.max(1, [across, up][k].count - 1) / 2);
  const made = {
    key,
    colors: canvasOf(image),
    holes: mask && canvasOf(maskImage),
    rectangle: [x[0] - halves[0], x[x.length - 1] + halves[0], y[0] - halves[1], y[y.length - 1] + halves[1]],
  };
  grid.bitmaps.set(values, made);
  return made;
}

/** @param {Layer} layer */
function holeMask({ values, grid }) {
  const status = grid.values.status;
  let any = false;
  const mask = new Uint8Array(values.length);
  for (let k = 0; k < values.length; k++) {
    if (Number.isFinite(values[k]) || (status && status[k] === 0)) continue;
    mask[k] = 1;
    any = true;
  }
  return any ? mask : null;
}

/** @param {ImageData} image */
function canvasOf(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  context2d(canvas).putImageData(image, 0, 0);
  return canvas;
}
