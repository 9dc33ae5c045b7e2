// The 2-D map: colours, contour lines and marks on a canvas; drag pans, the wheel zooms, a click selects.

export class MapView {
  // act: {pan(x, y), settle(), select(at), hover(at | null)}
  constructor(canvas, act) {
    this.canvas = canvas;
    this.act = act;
    this.scene = null;
    this.extras = {};
    this.box = [0, 0, 100, 100];
    followPointer(canvas, {
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
    const context = this.canvas.getContext("2d", UNACCELERATED);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    this.box = plotArea(scene, width, height);
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

import { UNACCELERATED } from "../base/dom.js";
import { followPointer } from "../controls/gestures.js";
import { paintPlane } from "../drawing/plane.js";
import { plotArea, transformOf } from "../drawing/plot_area.js";

