// @ts-check
// The 2-D map: colours, contour lines and marks on a canvas; drag pans, the wheel zooms, a click selects.

/** @import { Box, Pixel } from "../drawing/plot_area.js" */
/** @import { Coordinates, Range } from "../state/messages.js" */
/** @import { Overlays, Scene } from "../state/scene.js" */

import { context2d } from "../base/dom.js";
import { followPointer } from "../controls/gestures.js";
import { paintPlane } from "../drawing/plane.js";
import { plotArea, transformOf } from "../drawing/plot_area.js";

/**
 * @typedef {object} Acts
 * @property {(x: Range, y: Range) => void} pan
 * @property {() => void} settle
 * @property {(at: Coordinates) => void} select
 * @property {(at: Coordinates | null) => void} hover
 */

export class MapView {
  /** @param {HTMLCanvasElement} canvas @param {Acts} act */
  constructor(canvas, act) {
    this.canvas = canvas;
    this.act = act;
    /** @type {Scene | null} */
    this.scene = null;
    /** @type {Box} */
    this.box = [0, 0, 100, 100];
    followPointer(canvas, {
      drag: (dx, dy) => this.#move(dx, dy),
      zoom: (factor, at) => this.#zoom(factor, at),
      click: (at) => {
        const data = this.#inside(at);
        if (data) act.select(data);
      },
      double: (at) => {
        if (!this.#inside(at)) return;
        this.#zoom(0.5, at);
        act.settle();
      },
      hover: (at) => act.hover(at && this.#inside(at)),
      settle: () => act.settle(),
    });
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const ratio = Math.min(3, window.devicePixelRatio || 1);
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    return { width, height, ratio };
  }

  /** @param {Scene} scene @param {Overlays} overlays */
  paint(scene, overlays) {
    this.scene = scene;
    const { width, height, ratio } = this.#resize();
    if (!width || !height) return;
    const context = context2d(this.canvas);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    this.box = plotArea(scene, width, height);
    paintPlane(context, scene, overlays, this.box, ratio);
  }

  /** Where coordinates lie in the window. @param {Coordinates} at @returns {Pixel | null} */
  pixelOf(at) {
    if (!this.scene) return null;
    const frame = this.canvas.getBoundingClientRect();
    const [px, py] = transformOf(this.scene, this.box).to(at);
    return [frame.left + px, frame.top + py];
  }

  /** The coordinates of a pixel; null where it is not on the map. @param {Pixel} pixel */
  #inside([px, py]) {
    const [left, top, w, h] = this.box;
    const good = this.scene && px >= left && px <= left + w && py >= top && py <= top + h;
    return good && this.scene ? transformOf(this.scene, this.box).from([px, py]) : null;
  }

  /** @param {number} dx @param {number} dy */
  #move(dx, dy) {
    if (!this.scene) return;
    const { x, y } = this.scene;
    const sx = (-dx / this.box[2]) * (x[1] - x[0]);
    const sy = (dy / this.box[3]) * (y[1] - y[0]);
    this.act.pan([x[0] + sx, x[1] + sx], [y[0] + sy, y[1] + sy]);
  }

  /** @param {number} factor @param {Pixel} at */
  #zoom(factor, at) {
    if (!this.scene) return;
    const { x, y } = this.scene;
    const [cx, cy] = transformOf(this.scene, this.box).from(at);
    this.act.pan(
      [cx + (x[0] - cx) * factor, cx + (x[1] - cx) * factor],
      [cy + (y[0] - cy) * factor, cy + (y[1] - cy) * factor],
    );
  }
}
