// The 2-D map: colours, contour lines and marks on a canvas; drag pans, the wheel zooms, a click selects.

import { bitmap } from "./bitmap.js";
import { css } from "./colors.js";
import { contour } from "./contours.js";
import { PLAIN } from "./dom.js";
import { number, tick, ticks } from "./format.js";
import { follow } from "./gestures.js";
import { index, sample } from "./known.js";
import { paintMarks } from "./marks.js";
import { ink } from "./theme.js";

const LEFT = 62;
const BOTTOM = 46;
const TOP = 12;
const RIGHT = 14;
const DENSE = 5; // pixels between measured points under which marks would hide the picture

export class MapView {
  // act: {pan(x, y), settle(), select(at), hover(at | null)}
  constructor(canvas, act) {
    this.canvas = canvas;
    this.act = act;
    this.scene = null;
    this.extras = {};
    this.box = [LEFT, TOP, 100, 100];
    follow(canvas, {
      drag: (dx, dy) => this.#move(dx, dy),
      zoom: (factor, at) => this.#zoom(factor, at),
      click: (at) => this.inside(at) && act.select(this.toData(at)),
      double: (at) => this.inside(at) && (this.#zoom(0.5, at), act.settle()),
      hover: (at) => act.hover(at && this.inside(at) ? this.toData(at) : null),
      settle: () => act.settle(),
    });
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const ratio = Math.min(3, window.devicePixelRatio || 1);
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    return { width, height, ratio };
  }

  paint(scene, extras) {
    this.scene = scene;
    this.extras = extras;
    const { width, height, ratio } = this.resize();
    if (!width || !height) return;
    const context = this.canvas.getContext("2d", PLAIN);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    this.box = boxOf(scene, width, height);
    paintPlane(context, scene, extras, this.box);
  }

  toData([px, py]) {
    const [left, top, w, h] = this.box;
    const { x, y } = this.scene;
    return [x[0] + ((px - left) / w) * (x[1] - x[0]), y[1] - ((py - top) / h) * (y[1] - y[0])];
  }

  pixelOf(at) {
    const frame = this.canvas.getBoundingClientRect();
    const [px, py] = transformOf(this.scene, this.box).to(at);
    return [frame.left + px, frame.top + py];
  }

  inside([px, py]) {
    const [left, top, w, h] = this.box;
    return this.scene && px >= left && px <= left + w && py >= top && py <= top + h;
  }

  #move(dx, dy) {
    if (!this.scene) return;
    const { x, y } = this.scene;
    const sx = (-dx / this.box[2]) * (x[1] - x[0]);
    const sy = (dy / this.box[3]) * (y[1] - y[0]);
    this.act.pan([x[0] + sx, x[1] + sx], [y[0] + sy, y[1] + sy]);
  }

  #zoom(factor, at) {
    if (!this.scene) return;
    const [cx, cy] = this.toData(at);
    const { x, y } = this.scene;
    this.act.pan(...[[x, cx], [y, cy]].map(([ends, c]) => ends.map((end) => c + (end - c) * factor)));
  }
}

// One length along both axes where they are alike in length, else all of the room.
export function boxOf(scene, width, height, left = LEFT, bottom = BOTTOM) {
  let w = Math.max(40, width - left - RIGHT);
  let h = Math.max(40, height - TOP - bottom);
  const ratio = (scene.x[1] - scene.x[0]) / (scene.y[1] - scene.y[0]);
  if (ratio >= 0.5 && ratio <= 2) {
    if (w > h * ratio) w = h * ratio;
    else h = w / ratio;
  }
  const free = Math.max(0, width - left - RIGHT - w);
  return [left + free / 2, TOP, w, h];
}

export function transformOf(scene, [left, top, w, h]) {
  const { x, y } = scene;
  const sx = w / (x[1] - x[0]);
  const sy = h / (y[1] - y[0]);
  return { sx, sy, to: ([a, b]) => [left + (a - x[0]) * sx, top + h - (b - y[0]) * sy] };
}

export function paintPlane(context, scene, extras, box) {
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
  paintMarks(context, scene, extras, transformOf(scene, box));
  context.restore();
  paintAxes(context, scene, box);
}

function paintColors(context, layer, scene, box) {
  const image = bitmap(layer, scene.view.colors, scene.domain);
  const { sx, sy, to } = transformOf(scene, box);
  const [x0, x1, y0, y1] = image.rectangle;
  const [px, py] = to([x0, y1]);
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

// The hatching that says "measured, and there is no number", even on the screen at every zoom.
function hatched(mask, px, py, size, [left, top, w, h]) {
  const colors = ink();
  const ratio = Math.min(2, window.devicePixelRatio || 1);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(w * ratio));
  canvas.height = Math.max(1, Math.round(h * ratio));
  const context = canvas.getContext("2d", PLAIN);
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

// Contour lines in data coordinates, kept with the grid.
export function linesOf(layer, levels) {
  const key = levels.join();
  layer.grid.lines ??= new Map();
  const kept = layer.grid.lines.get(layer.values);
  if (kept?.key === key) return kept.lines;
  const lines = levels.map((level) => ({ level, chains: contour(layer.x, layer.y, layer.values, level) }));
  layer.grid.lines.set(layer.values, { key, lines });
  return lines;
}

export function lineInk(t) {
  return t < 0.62 ? "rgb(255 255 255 / 0.62)" : "rgb(20 24 28 / 0.5)";
}

function paintLines(context, layer, scene, box) {
  const { to } = transformOf(scene, box);
  const [low, high] = scene.domain;
  const labels = [];
  context.lineJoin = "round";
  for (const { level, chains } of linesOf(layer, scene.levels)) {
    const t = (level - low) / (high - low);
    context.strokeStyle = lineInk(t);
    context.lineWidth = 1;
    context.beginPath();
    for (const chain of chains) {
      let longest = 0;
      let spot = null;
      let before = null;
      for (let k = 0; k < chain.length; k += 2) {
        const p = to([chain[k], chain[k + 1]]);
        if (k) context.lineTo(...p);
        else context.moveTo(...p);
        if (before) longest += Math.hypot(p[0] - before[0], p[1] - before[1]);
        before = p;
      }
      if (longest > 130) spot = middleOf(chain, to, longest, box);
      if (spot) labels.push({ ...spot, level, t });
    }
    context.stroke();
  }
  paintLabels(context, labels, scene);
}

// A calm place for a label: a part of the line that is nearly straight and well inside.
function middleOf(chain, to, length, [left, top, w, h]) {
  let best = null;
  const count = chain.length / 2;
  const reach = Math.max(2, Math.round((count * 16) / length));
  for (let k = reach; k + reach < count; k += Math.max(1, Math.round(count / 60))) {
    const [a, m, b] = [k - reach, k, k + reach].map((i) => to([chain[2 * i], chain[2 * i + 1]]));
    if (m[0] < left + 26 || m[0] > left + w - 26 || m[1] < top + 14 || m[1] > top + h - 14) continue;
    const straight = Math.hypot(b[0] - a[0], b[1] - a[1]) / (Math.hypot(m[0] - a[0], m[1] - a[1]) + Math.hypot(b[0] - m[0], b[1] - m[1]));
    const level = 1 - Math.abs(b[1] - a[1]) / (1 + Math.hypot(b[0] - a[0], b[1] - a[1]));
    const score = straight + 0.3 * level;
    if (!best || score > best.score) best = { score, at: m, angle: Math.atan2(b[1] - a[1], b[0] - a[0]) };
  }
  if (!best) return null;
  if (best.angle > Math.PI / 2) best.angle -= Math.PI;
  if (best.angle < -Math.PI / 2) best.angle += Math.PI;
  return best;
}

function paintLabels(context, labels, scene) {
  context.font = `10px ${ink().sans}`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const taken = [];
  for (const { at, angle, level, t } of labels) {
    if (taken.some((other) => Math.hypot(other[0] - at[0], other[1] - at[1]) < 46)) continue;
    taken.push(at);
    context.save();
    context.translate(...at);
    context.rotate(angle);
    context.lineWidth = 4;
    context.lineJoin = "round";
    context.strokeStyle = css(scene.view.colors, t);
    const words = levelWords(scene, level);
    context.strokeText(words, 0, 0.5);
    context.fillStyle = t < 0.62 ? "rgb(255 255 255 / 0.95)" : "rgb(20 24 28 / 0.85)";
    context.fillText(words, 0, 0.5);
    context.restore();
  }
}

export function levelWords(scene, level) {
  if (!scene.view.log) return tick(level, scene.step);
  return number(10 ** level, Number.isInteger(level) ? 1 : 2);
}

// What is marked as measured: the points of a surface of points, else the nodes of the finest grids.
export function measuredOf(scene, points) {
  if (points) {
    const [a, b] = points.arrays.slice(0, 2).map((name) => points.values[name]);
    return [...a].map((v, k) => [v, b[k]]);
  }
  const made = [];
  for (const { grid, x, y } of scene.layers) {
    if (grid.interpolated) {
      for (const at of grid.measured ?? []) made.push(at);
      continue;
    }
    for (let i = 0; i < x.length; i++) {
      for (let j = 0; j < y.length; j++) if (!grid.values.status || grid.values.status[i * y.length + j] !== 0) made.push([x[i], y[j]]);
    }
  }
  return made;
}

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
  for (const at of measuredOf(scene, scene.points)) {
    const [px, py] = to(at);
    if (px < left - 3 || px > left + w + 3 || py < top - 3 || py > top + h + 3) continue;
    context.moveTo(px + size, py);
    context.arc(px, py, size, 0, 7);
  }
  context.fill();
  if (!crowded) context.stroke();
}

function paintAxes(context, scene, [left, top, w, h]) {
  const colors = ink();
  const { to } = transformOf(scene, [left, top, w, h]);
  context.strokeStyle = colors.faint;
  context.lineWidth = 1;
  context.strokeRect(left + 0.5, top + 0.5, w - 1, h - 1);
  context.fillStyle = colors.soft;
  context.font = `11px ${colors.sans}`;
  context.beginPath();
  const across = ticks(...scene.x, Math.max(2, Math.floor(w / 76)));
  context.textAlign = "center";
  context.textBaseline = "top";
  for (const value of across.values) {
    const px = Math.round(to([value, 0])[0]) + 0.5;
    context.moveTo(px, top + h);
    context.lineTo(px, top + h + 4);
    context.fillText(tick(value, across.step), px, top + h + 7);
  }
  const up = ticks(...scene.y, Math.max(2, Math.floor(h / 52)));
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const value of up.values) {
    const py = Math.round(to([0, value])[1]) + 0.5;
    context.moveTo(left - 4, py);
    context.lineTo(left, py);
    context.fillText(tick(value, up.step), left - 8, py);
  }
  context.stroke();
  const [first, second] = scene.session.axes ?? [];
  paintAxisLabel(context, first, [left + w / 2, top + h + 33], 0, w);
  paintAxisLabel(context, second, [left - 47, top + h / 2], -Math.PI / 2, h);
}

// The coordinate's letter in italics, then what its direction is, as much as there is room for.
export function paintAxisLabel(context, axis, at, angle, room) {
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

// The value at a place as the map shows it, and whether a point was measured there.
export function readingAt(scene, at) {
  for (const layer of scene.layers.toReversed()) {
    const value = sample(layer.x, layer.y, layer.raw ?? layer.values, ...at);
    if (Number.isFinite(value)) return { value, step: layer.grid.steps };
    const { extent, grid } = layer;
    if (at.every((v, k) => v >= extent[k][0] && v <= extent[k][1])) {
      const flat = index(layer.x, at[0]) * layer.y.length + index(layer.y, at[1]);
      if (!grid.values.status || grid.values.status[flat] !== 0) return { value: layer.raw?.[flat] ?? NaN, hole: true, step: grid.steps };
    }
  }
  return null;
}
