// The 2-D map: colours, contour lines and marks on a canvas; drag pans, the wheel zooms, a click selects.

import { paintAxes } from "../drawing/axes.js";
import { bitmap } from "../drawing/raster.js";
import { boxOf, transformOf } from "../drawing/plot_area.js";
import { PLAIN } from "../base/dom.js";
import { follow } from "../controls/gestures.js";
import { index, sample } from "../state/received.js";
import { paintLines } from "../drawing/contour_lines.js";
import { paintMarks } from "../drawing/markers.js";
import { ink } from "../base/theme.js";

const DENSE = 5; // pixels between measured points under which marks would hide the picture

export class MapView {
  // act: {pan(x, y), settle(), select(at), hover(at | null)}
  constructor(canvas, act) {
    this.canvas = canvas;
    this.act = act;
    this.scene = null;
    this.extras = {};
    this.box = [0, 0, 100, 100];
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
