// @ts-check
// The map as a picture, in any context: colours, holes, contour lines, measured points, markers and axes.

/** @import { Overlays, Scene } from "../state/scene.js" */
/** @import { Box } from "./plot_area.js" */
/** @import { Context } from "./svg_context.js" */

import { context2d } from "../base/dom.js";
import { ink } from "../base/theme.js";
import { measuredPoints } from "../state/measurements.js";
import { paintAxes } from "./axes.js";
import { paintLabels, paintLines } from "./contour_lines.js";
import { paintMarkers } from "./markers.js";
import { transformOf } from "./plot_area.js";
import { rasterOf } from "./raster.js";

const COARSER = 2; // while the view moves: a quarter of the pixels
const DENSE = 5; // pixels between measured points under which marks would hide the picture

/**
 * @param {Context} context
 * @param {Scene} scene
 * @param {Overlays} overlays
 * @param {Box} box
 * @param {number} ratio Pixels of the picture for one of the page.
 */
export function paintPlane(context, scene, overlays, box, ratio) {
  const colors = ink();
  const [left, top, w, h] = box;
  context.fillStyle = colors.pane;
  context.fillRect(left, top, w, h);
  context.save();
  context.beginPath();
  context.rect(left, top, w, h);
  context.clip();
  paintColors(context, scene, box, scene.moving ? ratio / COARSER : ratio);
  if (scene.view.lines) {
    const labels = scene.layers.flatMap((layer, k) => paintLines(context, layer, k, scene, box));
    paintLabels(context, labels, scene);
  }
  if (scene.view.points) paintPoints(context, scene, box);
  paintMarkers(context, scene, overlays, transformOf(scene, box));
  context.restore();
  paintAxes(context, scene, box);
}

/** @param {Context} context @param {Scene} scene @param {Box} box @param {number} ratio */
function paintColors(context, scene, box, ratio) {
  const image = rasterOf(scene, box, ratio);
  // A hole in a finer grid is a hole: nothing coarser may look through it.
  if (image.holes) context.drawImage(hatched(image, image.holes, box), ...box);
  context.imageSmoothingEnabled = scene.moving;
  context.drawImage(canvasOf(image.width, image.height, image.colors), ...box);
  context.imageSmoothingEnabled = true;
}

/** @param {number} width @param {number} height @param {Uint32Array} pixels */
function canvasOf(width, height, pixels) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  new Uint32Array(image.data.buffer).set(pixels);
  context2d(canvas).putImageData(image, 0, 0);
  return canvas;
}

/** The hatching that says "evaluated, and there is no number". @param {{ width: number, height: number }} size @param {Uint8Array} holes @param {Box} box */
function hatched({ width, height }, holes, [, , w, h]) {
  const colors = ink();
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = context2d(canvas);
  context.scale(width / w, height / h);
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
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.globalCompositeOperation = "destination-in";
  context.drawImage(canvasOf(width, height, Uint32Array.from(holes, (hole) => (hole ? 0xff000000 : 0))), 0, 0);
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
