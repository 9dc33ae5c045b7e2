// @ts-check
// What is marked on the map: where training walked, balls, lines, bookmarks, the centre and the selected point.

/** @import { Inks } from "../base/theme.js" */
/** @import { Coordinates, Trajectory } from "../state/messages.js" */
/** @import { Overlays, Scene } from "../state/scene.js" */
/** @import { Pixel, Transform } from "./plot_area.js" */
/** @import { Context } from "./svg_context.js" */

import { ink } from "../base/theme.js";

/** @typedef {[color: string, width: number]} Stroke */

const CASING = "rgb(15 18 22 / 0.75)";

/** @param {Context} context @param {Scene} scene @param {Overlays} overlays @param {Transform} transform */
export function paintMarkers(context, scene, overlays, { to, sx, sy }) {
  const colors = ink();
  context.lineJoin = context.lineCap = "round";
  paintCenter(context, to([0, 0]));
  const { trajectory } = scene.session;
  if (trajectory && scene.view.path) {
    stroke(context, trajectory.at.map(to), colors.path, 1.6);
    paintEpochs(context, trajectory, to);
  }
  for (const ball of overlays.optimizerPaths ?? []) {
    stroke(context, ball.at.map(to), colors.ball, 1.8);
    if (ball.at.length) disc(context, to(ball.at[ball.at.length - 1]), 5, colors.ball);
  }
  const { line, gradient } = overlays;
  if (line) {
    const ends = [line.from, line.to].map(to);
    stroke(context, ends, colors.pick, 1.6, [6, 4]);
    letter(context, ends[0], "A", colors);
    letter(context, ends[1], "B", colors);
  }
  for (const mark of scene.session.bookmarks ?? []) {
    if (mark.view?.at && (mark.view.place ?? 0) === scene.view.place) flag(context, to(mark.view.at), colors);
  }
  if (scene.view.at) {
    const at = to(scene.view.at);
    if (gradient) arrow(context, at, [-gradient[0] * sx, gradient[1] * sy], colors);
    ring(context, at, colors.pick);
  }
}

/** @param {Context} context @param {Pixel[]} points @param {string} color @param {number} width @param {number[]} dash */
function stroke(context, points, color, width, dash = []) {
  if (points.length < 2) return;
  context.beginPath();
  for (const [k, p] of points.entries()) {
    if (k) context.lineTo(...p);
    else context.moveTo(...p);
  }
  context.strokeStyle = CASING;
  context.lineWidth = width + 2;
  context.stroke();
  context.setLineDash(dash);
  context.strokeStyle = color;
  context.lineWidth = width;
  context.stroke();
  context.setLineDash([]);
}

/** @param {Context} context @param {Pixel} center @param {number} radius @param {string} color */
function disc(context, [px, py], radius, color) {
  context.beginPath();
  context.arc(px, py, radius, 0, 7);
  context.fillStyle = color;
  context.fill();
  context.strokeStyle = CASING;
  context.lineWidth = 1.2;
  context.stroke();
}

/** @param {Context} context @param {Pixel} center */
function paintCenter(context, [px, py]) {
  for (const [color, width] of /** @type {Stroke[]} */ ([[CASING, 3.4], ["#fff", 1.4]])) {
    context.beginPath();
    context.moveTo(px - 5, py);
    context.lineTo(px + 5, py);
    context.moveTo(px, py - 5);
    context.lineTo(px, py + 5);
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke();
  }
}

/** @param {Context} context @param {Pixel} center @param {string} color */
function ring(context, [px, py], color) {
  for (const [ink, width] of /** @type {Stroke[]} */ ([[CASING, 5], ["#fff", 3], [color, 1.8]])) {
    context.beginPath();
    context.arc(px, py, 7, 0, 7);
    context.strokeStyle = ink;
    context.lineWidth = width;
    context.stroke();
  }
}

/** Where an epoch begins: the first snapshot of each. @param {Trajectory} trajectory */
export function epochsOf(trajectory) {
  /** @type {{ epoch: number, at: Coordinates, index: number }[]} */
  const found = [];
  /** @type {number | null} */
  let last = null;
  (trajectory.epoch ?? []).forEach((epoch, k) => {
    if (epoch === null || !Number.isFinite(epoch) || Math.floor(epoch) === last) return;
    last = Math.floor(epoch);
    found.push({ epoch: last, at: trajectory.at[k], index: k });
  });
  return found;
}

/** @param {Context} context @param {Trajectory} trajectory @param {Transform["to"]} to */
function paintEpochs(context, trajectory, to) {
  const colors = ink();
  /** @type {Pixel[]} */
  const shown = [];
  context.font = `600 10px ${colors.sans}`;
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const { epoch, at } of epochsOf(trajectory)) {
    const [px, py] = to(at);
    disc(context, [px, py], 2.6, "#fff");
    if (shown.some(([x, y]) => Math.hypot(x - px, y - py) < 26)) continue;
    shown.push([px, py]);
    halo(context, String(epoch), px + 6, py - 7, "#fff");
  }
  if (trajectory.at.length) disc(context, to(trajectory.at[trajectory.at.length - 1]), 3.4, colors.path);
}

/** @param {Context} context @param {string} words @param {number} px @param {number} py @param {string} color */
function halo(context, words, px, py, color) {
  context.lineWidth = 3;
  context.strokeStyle = CASING;
  context.strokeText(words, px, py);
  context.fillStyle = color;
  context.fillText(words, px, py);
}

/** @param {Context} context @param {Pixel} at @param {string} word @param {Inks} colors */
function letter(context, [px, py], word, colors) {
  disc(context, [px, py], 4, colors.pick);
  context.font = `600 11px ${colors.sans}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  halo(context, word, px, py - 12, "#fff");
}

/** @param {Context} context @param {Pixel} center @param {Inks} colors */
function flag(context, [px, py], colors) {
  context.beginPath();
  context.moveTo(px, py - 6);
  context.lineTo(px + 5, py);
  context.lineTo(px, py + 6);
  context.lineTo(px - 5, py);
  context.closePath();
  context.fillStyle = colors.accent;
  context.fill();
  context.strokeStyle = "#fff";
  context.lineWidth = 1.3;
  context.stroke();
}

/**
 * The way down: minus the gradient in the plane, one length whatever its size, which the panel says.
 * @param {Context} context
 * @param {Pixel} start
 * @param {Pixel} way
 * @param {Inks} colors
 */
function arrow(context, [px, py], [dx, dy], colors) {
  const size = Math.hypot(dx, dy);
  if (!(size > 0) || !Number.isFinite(size)) return;
  const [ux, uy] = [dx / size, dy / size];
  /** @type {Pixel} */
  const tip = [px + 46 * ux, py + 46 * uy];
  for (const [color, width] of /** @type {Stroke[]} */ ([[CASING, 5], ["#fff", 2.2]])) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.beginPath();
    context.moveTo(px + 9 * ux, py + 9 * uy);
    context.lineTo(...tip);
    context.moveTo(tip[0] - 8 * ux - 5 * uy, tip[1] - 8 * uy + 5 * ux);
    context.lineTo(...tip);
    context.lineTo(tip[0] - 8 * ux + 5 * uy, tip[1] - 8 * uy - 5 * ux);
    context.stroke();
  }
  context.font = `italic 12px ${colors.math}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  halo(context, "−∇", tip[0] + 12 * ux, tip[1] + 12 * uy, "#fff");
}
