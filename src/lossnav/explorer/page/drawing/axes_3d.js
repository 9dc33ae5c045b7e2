// @ts-check
// The box around the 3-D view: its floor with a grid, where the axes stand, their ticks and letters.

/** @import { Axis, Range } from "../state/messages.js" */
/** @import { Scene } from "../state/scene.js" */
/** @import { Matrix, Vector } from "./camera.js" */
/** @import { Pixel } from "./plot_area.js" */
/** @import { Context } from "./svg_context.js" */
/** @import { Renderer } from "./webgl.js" */

import { tick, ticks } from "../base/format.js";
import { ink, rgb } from "../base/theme.js";
import { levelLabel } from "../state/levels.js";
import { eyeOf, project } from "./camera.js";

export const TALL = 1.05; // height of the box, whose sides are 2

/** @type {[x: number, y: number][]} */
const CORNERS = [[-1, -1], [1, -1], [1, 1], [-1, 1]];

/** What the box's height stands for: the values on a surface, a volume's third axis. @param {Scene} scene */
export function verticalOf(scene) {
  return scene.volume ? scene.volume.extent[2] : scene.domain;
}

/**
 * From data to the box: x and y to -1..1, what is drawn to 0..TALL.
 * @param {Scene} scene
 * @param {[a: number, b: number, value: number | undefined]} place
 * @returns {Vector}
 */
export function worldOf(scene, [a, b, v = NaN]) {
  const { x, y } = scene;
  const [low, high] = verticalOf(scene);
  return [(2 * (a - x[0])) / (x[1] - x[0]) - 1, (2 * (b - y[0])) / (y[1] - y[0]) - 1, ((v - low) / (high - low)) * TALL];
}

/** The corner at which the upright axis stands: the leftmost on the screen. @param {Matrix} matrix */
function upright(matrix) {
  /** @param {[number, number]} corner */
  const across = ([x, y]) => project(matrix, [x, y, 0], 1, 1)[0];
  return CORNERS.toSorted((a, b) => across(a) - across(b))[0];
}

/** @param {Renderer} renderer @param {Scene} scene @param {Matrix} matrix @param {number} ratio Pixels of the screen for one of the page. */
export function paintFrame(renderer, scene, matrix, ratio) {
  const colors = ink();
  /** @type {number[]} */
  const grid = [];
  for (const value of ticks(...scene.x, 5).values) {
    const [px] = worldOf(scene, [value, 0, 0]);
    grid.push(px, -1, 0, px, 1, 0);
  }
  for (const value of ticks(...scene.y, 5).values) {
    const [, py] = worldOf(scene, [0, value, 0]);
    grid.push(-1, py, 0, 1, py, 0);
  }
  renderer.segments(grid, [...rgb(colors.hair), 1], 0.5 * ratio);
  /** @type {number[]} */
  const box = [];
  for (const [k, c] of CORNERS.entries()) {
    const next = CORNERS[(k + 1) % 4];
    box.push(...c, 0, ...next, 0);
    if (scene.volume) box.push(...c, TALL, ...next, TALL, ...c, 0, ...c, TALL);
  }
  if (!scene.volume) box.push(...upright(matrix), 0, ...upright(matrix), TALL);
  renderer.segments(box, [...rgb(colors.faint), 0.55], 0.7 * ratio);
}

/** @typedef {{ words: string, font: string, color: string, align: CanvasTextAlign, at: Pixel, first?: boolean }} Label `first`: others give way to it. */

/**
 * Ticks and letters of the axes: words with their places, for a canvas and for an SVG.
 * @param {Scene} scene
 * @param {Matrix} matrix
 * @param {number} width
 * @param {number} height
 */
export function labelsOf(scene, matrix, width, height) {
  const colors = ink();
  /** @type {Label[]} */
  const made = [];
  /** @param {Vector} p @returns {Pixel} */
  const on = (p) => {
    const [px, py] = project(matrix, p, width, height);
    return [px, py];
  };
  // The two edges of the floor that lie nearest to the eye carry the ticks.
  const eye = eyeOf(scene.view.camera);
  const [frontX, frontY] = [eye[0] > 0 ? 1 : -1, eye[1] > 0 ? 1 : -1];
  /** @param {Vector} place @param {string} words @param {string} font @param {string} color @param {boolean} first */
  const put = (place, words, font, color, first = false) => made.push({ words, font, color, align: "center", at: on(place), first });
  const tickFont = `10.5px ${colors.sans}`;
  const letterFont = `italic 15px ${colors.math}`;
  const [first, second, third] = scene.session.axes;
  /** @type {[Axis | undefined, Range, (v: number, out: number) => Vector][]} */
  const along = [
    [first, scene.x, (v, out) => [worldOf(scene, [v, 0, 0])[0], frontY * out, 0]],
    [second, scene.y, (v, out) => [frontX * out, worldOf(scene, [0, v, 0])[1], 0]],
  ];
  for (const [axis, ends, at] of along) {
    const { step, values } = ticks(...ends, 4);
    for (const value of values) put(at(value, 1.13), tick(value, step), tickFont, colors.soft);
    if (axis) put(at((ends[0] + ends[1]) / 2, 1.32), axis.letter, letterFont, colors.ink, true);
  }
  const corner = upright(matrix);
  const heights = scene.volume ? ticks(...verticalOf(scene), 4) : { step: scene.step, values: scene.levels };
  const every = Math.max(1, Math.ceil(heights.values.length / 6));
  heights.values.forEach((value, k) => {
    const up = worldOf(scene, [0, 0, value])[2];
    if (k % every || up < 0.05) return; // lower stand the floor's ticks
    const [px, py] = on([...corner, up]);
    const words = scene.volume ? tick(value, heights.step) : levelLabel(scene, value);
    made.push({ words, font: tickFont, color: colors.soft, align: "right", at: [px - 8, py] });
  });
  const [tx, ty] = on([...corner, TALL]);
  const [words, font] = scene.volume ? [third?.letter ?? "", letterFont] : [scene.variable.name, `600 11px ${colors.sans}`];
  made.push({ words, font, color: colors.ink, align: "center", at: [tx - 8, ty - 16], first: true });
  return made;
}

const HIGH = 12; // pixels of a line of words
const APART = 3;

/**
 * Words that can all be read: each is moved into the picture where it is cut, and left out where it would lie over another.
 * @param {Label[]} labels
 * @param {(label: Label) => number} widthOf
 * @param {number} width
 * @param {number} height
 */
export function readable(labels, widthOf, width, height) {
  /** @type {[left: number, top: number, right: number, bottom: number][]} */
  const taken = [];
  return labels.toSorted((a, b) => Number(b.first ?? false) - Number(a.first ?? false)).flatMap((label) => {
    const wide = widthOf(label);
    const left = label.align === "right" ? label.at[0] - wide : label.at[0] - wide / 2;
    const moved = Math.min(Math.max(left, 2), width - 2 - wide) - left;
    /** @type {Pixel} */
    const at = [label.at[0] + moved, Math.min(Math.max(label.at[1], HIGH / 2 + 1), height - HIGH / 2 - 1)];
    const far = Math.abs(moved) > wide || Math.abs(at[1] - label.at[1]) > 2 * HIGH; // what it marks is not on the picture
    const [x, y] = [left + moved, at[1] - HIGH / 2];
    if (far || taken.some(([a, b, c, d]) => x < c + APART && x + wide > a - APART && y < d && y + HIGH > b)) return [];
    taken.push([x, y, x + wide, y + HIGH]);
    return [{ ...label, at }];
  });
}

/** @param {Context} context @param {Label[]} labels @param {number} width @param {number} height */
export function paintLabels(context, labels, width, height) {
  /** @param {Label} label */
  const widthOf = ({ font, words }) => {
    context.font = font;
    return context.measureText(words).width;
  };
  for (const { words, font, color, align, at } of readable(labels, widthOf, width, height)) {
    context.font = font;
    context.textAlign = align;
    context.textBaseline = "middle";
    context.fillStyle = color;
    context.fillText(words, ...at);
  }
}
