// @ts-check
// The scale between map and surface: which colour is which value, with the contour levels as its ticks.

/** @import { Scene } from "../state/scene.js" */
/** @import { Context } from "./svg_context.js" */

import { context2d } from "../base/dom.js";
import { unit } from "../base/format.js";
import { ink } from "../base/theme.js";
import { levelLabel } from "../state/levels.js";
import { scaled } from "../state/scene.js";
import { colorTable } from "./colormaps.js";

const BAR = 12;

/**
 * Draws into a context, at its origin and of this size; a small triangle is at the selected point's value.
 * @param {Context} context
 * @param {Scene} scene
 * @param {number | undefined} value
 * @param {number} height
 */
export function paintColorbar(context, scene, value, height) {
  const colors = ink();
  const [top, bottom] = [30, height - 16];
  const [low, high] = scene.domain;
  const image = document.createElement("canvas");
  image.width = 1;
  image.height = 256;
  const pixels = new ImageData(1, 256);
  const map = colorTable(scene.view.colors);
  for (let k = 0; k < 256; k++) pixels.data.set(map.subarray(4 * (255 - k), 4 * (256 - k)), 4 * k);
  context2d(image).putImageData(pixels, 0, 0);
  const left = 10;
  context.drawImage(image, left, top, BAR, bottom - top);
  context.strokeStyle = colors.faint;
  context.lineWidth = 1;
  context.strokeRect(left + 0.5, top + 0.5, BAR - 1, bottom - top - 1);
  context.font = `10.5px ${colors.sans}`;
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.fillStyle = colors.soft;
  const every = Math.max(1, Math.ceil(scene.levels.length / Math.max(2, Math.floor((bottom - top) / 22))));
  /** @param {number} v */
  const at = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
  scene.levels.forEach((level, k) => {
    context.strokeStyle = colors.faint;
    context.beginPath();
    context.moveTo(left + BAR, at(level));
    context.lineTo(left + BAR + (k % every ? 2 : 4), at(level));
    context.stroke();
    if (k % every === 0) context.fillText(levelLabel(scene, level), left + BAR + 7, at(level));
  });
  context.fillStyle = colors.ink;
  context.font = `600 11px ${colors.sans}`;
  context.fillText(scene.variable.name.length > 9 ? `${scene.variable.name.slice(0, 8)}…` : scene.variable.name, left - 2, 9);
  context.fillStyle = colors.soft;
  context.font = `10.5px ${colors.sans}`;
  context.fillText([unit(scene.variable), scene.view.log ? "log" : ""].filter(Boolean).join(", "), left - 2, 21);
  const shown = scaled(value ?? NaN, scene.view.log);
  if (!Number.isFinite(shown)) return;
  const py = Math.min(bottom, Math.max(top, at(shown)));
  context.beginPath();
  context.moveTo(left - 1, py);
  context.lineTo(left - 8, py - 4.5);
  context.lineTo(left - 8, py + 4.5);
  context.closePath();
  context.fillStyle = colors.pick;
  context.fill();
}

/** @param {HTMLCanvasElement} canvas @param {Scene} scene @param {number} [value] */
export function showColorbar(canvas, scene, value) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width || !height) return;
  const ratio = Math.min(3, window.devicePixelRatio || 1);
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = context2d(canvas);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  paintColorbar(context, scene, value, height);
}
