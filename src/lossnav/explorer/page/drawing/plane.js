// @ts-check
// The map as a picture, in any context: colours, holes, contour lines, measured points, markers and axes.

/** @import { Layer, Overlays, Scene } from "../state/scene.js" */
/** @import { Box, Pixel } from "./plot_area.js" */
/** @import { Context } from "./svg_context.js" */

import { context2d } from "../base/dom.js";
import { ink } from "../base/theme.js";
import { measuredPoints } from "../state/measurements.js";
import { paintAxes } from "./axes.js";
import { paintLines } from "./contour_lines.js";
import { paintMarkers } from "./markers.js";
import { transformOf } from "./plot_area.js";
import { raster } from "./raster.js";

const DENSE = 5; // pixels between measured points under which marks would hide the picture

/** @param {Context} context @param {Scene} scene @param {Overlays} overlays @param {Box} box */
export function paintPlane(context, scene, overlays, box) {
  const colors = ink();
  const [left, top, w, h] = box;
  context.fillStyle = colors.pane;
  context.fillRect(left, top, w, h);
  context.save();
  context.beginPath();
  context.rect(left, top, w, h);
  context.clip();
  for (const layer of scene.layers) {
    paintColors(context, layer, scene, box);
    if (scene.view.lines) paintLines(context, layer, scene, box);
  }
  if (scene.view.points) paintPoints(context, scene, box);
  paintMarkers(context, scene, overlays, transformOf(scene, box));
  context.restore();
  paintAxes(context, scene, box);
}

/** @param {Context} context @param {Layer} layer @param {Scene} scene @param {Box} box */
function paintColors(context, layer, scene, box) {
  const image = raster(layer, scene.view.colors, scene.domain);
  const { sx, sy, to } = transformOf(scene, box);
  const [x0, x1, y0, y1] = image.rectangle;
  const [px, py] = to([x0, y1]);
  /** @type {Pixel} */
  const size = [(x1 - x0) * sx, (y1 - y0) * sy];
  const corner = to([layer.extent[0][0], layer.extent[1][1]]);
  context.save();
  context.beginPath();
  context.rect(...corner, (layer.extent[0][1] - layer.extent[0][0]) * sx, (layer.extent[1][1] - layer.extent[1][0]) * sy);
  context.clip();
  context.imageSmoothingEnabled = true;
  if (image.holes) {
    // A hole in a finer layer is a hole: nothing coarser may look through it.
    context.drawImage(hatched(image.holes, px, py, size, box), box[0], box[1], box[2], box[3]);
  }
  context.drawImage(image.colors, px, py, ...size);
  context.restore();
}

/**
 * The hatching that says "measured, and there is no number", even on the screen at every zoom.
 * @param {HTMLCanvasElement} mask
 * @param {number} px
 * @param {number} py
 * @param {Pixel} size
 * @param {Box} box
 */
function hatched(mask, px, py, size, [left, top, w, h]) {
  const colors = ink();
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(w * ratio));
  canvas.height = Math.max(1, Math.round(h * ratio));
  const context = context2d(canvas);
  context.scale(ratio, ratio);
  context.fillStyle = colors.pane;
  context.fillRect(0, 0, w, h);
  context.strokeStyle = colors.faint;
  context.lineWidth = 1.1;
  context.beginPath();
  for (let k = -h; k < w; k += 6) {
    context.moveTo(k, h);
    context.lineTo(k + h, 0);
  }
  context.stroke();
  context.globalCompositeOperation = "destination-in";
  context.imageSmoothingEnabled = false;
  context.drawImage(mask, px - left, py - top, ...size);
  return canvas;
}

/** @param {Context} context @param {Scene} scene @param {Box} box */
function paintPoints(context, scene, box) {
  const { to, sx } = transformOf(scene, box);
  const [left, top, w, h] = box;
  const finest = scene.layers.at(-1);
  const crowded = !scene.points && finest && finest.grid.steps[0] * sx < DENSE;
  const size = crowded ? 0.6 : 1.4;
  context.fillStyle = "rgb(255 255 255 / 0.85)";
  context.strokeStyle = "rgb(20 24 28 / 0.7)";
  context.lineWidth = 0.6;
  context.beginPath();
  for (const at of measuredPoints(scene)) {
    const [px, py] = to(at);
    if (px < left - 3 || px > left + w + 3 || py < top - 3 || py > top + h + 3) continue;
    context.moveTo(px + size, py);
    context.arc(px, py, size, 0, 7);
  }
  context.fill();
  if (!crowded) context.stroke();
}
