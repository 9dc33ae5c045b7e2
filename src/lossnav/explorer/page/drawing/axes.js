// @ts-check
// A plane's frame: ticks with as many digits as they need, and what each axis is.

/** @import { Axis } from "../state/messages.js" */
/** @import { Scene } from "../state/scene.js" */
/** @import { Box, Pixel } from "./plot_area.js" */
/** @import { Context } from "./svg_context.js" */

import { ink } from "../base/theme.js";
import { gutter, ticksAcross, ticksUp, transformOf } from "./plot_area.js";

/** @param {Context} context @param {Scene} scene @param {Box} box */
export function paintAxes(context, scene, [left, top, w, h]) {
  const colors = ink();
  const { to } = transformOf(scene, [left, top, w, h]);
  context.strokeStyle = colors.faint;
  context.lineWidth = 1;
  context.strokeRect(left + 0.5, top + 0.5, w - 1, h - 1);
  context.fillStyle = colors.soft;
  context.font = `11px ${colors.sans}`;
  context.beginPath();
  const across = ticksAcross(scene.x, w);
  context.textAlign = "center";
  context.textBaseline = "top";
  for (const [k, value] of across.values.entries()) {
    const px = Math.round(to([value, 0])[0]) + 0.5;
    context.moveTo(px, top + h);
    context.lineTo(px, top + h + 4);
    context.fillText(across.words[k], px, top + h + 7);
  }
  const up = ticksUp(scene.y, h);
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const [k, value] of up.values.entries()) {
    const py = Math.round(to([0, value])[1]) + 0.5;
    context.moveTo(left - 4, py);
    context.lineTo(left, py);
    context.fillText(up.words[k], left - 8, py);
  }
  context.stroke();
  const [first, second] = scene.session.axes;
  paintAxisLabel(context, first, [left + w / 2, top + h + 33], 0, w);
  paintAxisLabel(context, second, [left - gutter(scene.y, h) + 15, top + h / 2], -Math.PI / 2, h);
}

/**
 * The coordinate's letter in italics, then what its direction is, as much as there is room for.
 * @param {Context} context
 * @param {Axis | undefined} axis
 * @param {Pixel} at
 * @param {number} angle
 * @param {number} room
 */
function paintAxisLabel(context, axis, at, angle, room) {
  if (!axis) return;
  const colors = ink();
  context.save();
  context.translate(...at);
  context.rotate(angle);
  context.textBaseline = "middle";
  context.textAlign = "left";
  const mathFont = `italic 15px ${colors.math}`;
  const textFont = `11px ${colors.sans}`;
  context.font = mathFont;
  const letter = context.measureText(axis.letter).width;
  context.font = textFont;
  let words = axis.meaning ? `  ${axis.meaning}` : "";
  while (words && letter + context.measureText(words).width > room) words = words.replace(/[\s,]*\S*$/, "");
  const width = letter + context.measureText(words).width;
  context.fillStyle = colors.soft;
  context.fillText(words, -width / 2 + letter, 0);
  context.font = mathFont;
  context.fillStyle = colors.ink;
  context.fillText(axis.letter, -width / 2, -1);
  context.restore();
}
