// @ts-check
// Taking a view along: a link, PNG and SVG of each picture, the page itself, the same as Python.

/** @import { Matrix } from "../drawing/camera.js" */
/** @import { Context } from "../drawing/svg_context.js" */
/** @import { Connection } from "../state/connection.js" */
/** @import { Range, Session } from "../state/messages.js" */
/** @import { Overlays, Scene } from "../state/scene.js" */
/** @import { View } from "../state/view_state.js" */

import { byId, context2d } from "../base/dom.js";
import { ink } from "../base/theme.js";
import { labelsOf, paintLabels } from "../drawing/axes_3d.js";
import { paintColorbar } from "../drawing/colorbar.js";
import { paintPlane } from "../drawing/plane.js";
import { plotArea } from "../drawing/plot_area.js";
import { SvgContext } from "../drawing/svg_context.js";
import { encodeView } from "../state/view_state.js";

const SCALE = 84; // pixels beside a picture for its scale
const FINE = 2; // pixels of a PNG for one of the screen

/**
 * @typedef {object} Shown What the pictures show now.
 * @property {Scene | null} scene
 * @property {Overlays} overlays
 * @property {number | undefined} value Of the selected point.
 * @property {Session["shape"] | undefined} shape
 * @property {number} place
 * @property {View & { ranges: Range[], kind: string, domain?: Range, contours?: number[] }} view
 */
/**
 * @typedef {object} Acts
 * @property {() => Shown} current
 * @property {{ map: { canvas: HTMLCanvasElement }, surface: Surface }} views
 * @property {() => string} link
 */
/** @typedef {{ canvas: HTMLCanvasElement, matrix: Matrix, paint: (scene: Scene, overlays: Overlays) => void }} Surface */

export class Share {
  /** @param {Connection} connection @param {Acts} act */
  constructor(connection, act) {
    this.connection = connection;
    this.act = act;
    byId("share-open").addEventListener("click", () => this.open());
    byId("share-dialog").addEventListener("click", (event) => {
      const file = event.target instanceof HTMLElement && event.target.dataset.save;
      if (file) this.save(file);
    });
    byId("copy-link").addEventListener("click", () => copy(byId("link").value, byId("copy-link")));
    byId("copy-code").addEventListener("click", () => copy(byId("code").textContent ?? "", byId("copy-code")));
  }

  open() {
    const { view, place, shape } = this.act.current();
    byId("link").value = this.act.link();
    byId("export").href = `./export.html?place=${place}&view=${encodeURIComponent(encodeView(view))}`;
    byId("share-page").hidden = Boolean(this.connection.stored);
    byId("share-surface").hidden = shape === "line";
    byId("code").textContent = "…";
    if (this.connection.send({ type: "code", view }) === null && byId("code").textContent === "…") byId("code").textContent = "";
    byId("share-dialog").showModal();
  }

  /** @param {string} text */
  code(text) {
    byId("code").textContent = text;
  }

  /** @param {string} file Such as map.png. */
  async save(file) {
    const [what, kind] = file.split(".");
    const name = `lossnav-${what}.${kind}`;
    const { scene, shape } = this.act.current();
    if (shape === "line") download(await this.#curve(kind), name);
    else if (scene) download(kind === "svg" ? svgBlob(this.#svg(what, scene)) : await this.#png(what, scene), name);
  }

  /** @param {string} what @returns {[width: number, height: number]} */
  #size(what) {
    const canvas = what === "map" ? this.act.views.map.canvas : this.act.views.surface.canvas;
    return [canvas.clientWidth + SCALE, canvas.clientHeight];
  }

  /** The same strokes into any context. @param {Context} context @param {string} what @param {Scene} scene @param {number} width @param {number} height */
  #paint(context, what, scene, width, height) {
    const { overlays, value } = this.act.current();
    context.fillStyle = ink().ground;
    context.fillRect(0, 0, width, height);
    if (what === "map") {
      paintPlane(context, scene, overlays, plotArea(scene, width - SCALE, height), FINE);
    } else {
      const { surface } = this.act.views;
      surface.paint(scene, overlays); // what it drew lives until this frame ends
      context.drawImage(surface.canvas, 0, 0, width - SCALE, height);
      paintLabels(context, labelsOf(scene, surface.matrix, width - SCALE, height), width - SCALE, height);
    }
    context.save();
    context.translate(width - SCALE, 0);
    paintColorbar(context, scene, value, height);
    context.restore();
  }

  /** @param {string} what @param {Scene} scene */
  #svg(what, scene) {
    const [width, height] = this.#size(what);
    const context = new SvgContext(width, height);
    this.#paint(context, what, scene, width, height);
    return context.toString();
  }

  /** @param {string} what @param {Scene} scene */
  #png(what, scene) {
    const [width, height] = this.#size(what);
    const canvas = document.createElement("canvas");
    canvas.width = width * FINE;
    canvas.height = height * FINE;
    const context = context2d(canvas);
    context.scale(FINE, FINE);
    this.#paint(context, what, scene, width, height);
    return pngBlob(canvas);
  }

  /** The line is SVG already; a PNG is that, drawn. @param {string} kind */
  async #curve(kind) {
    const element = /** @type {SVGSVGElement} */ (byId("curve").cloneNode(true));
    const { width, height } = byId("curve").viewBox.baseVal;
    element.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    element.setAttribute("width", String(width));
    element.setAttribute("height", String(height));
    const text = new XMLSerializer().serializeToString(element);
    if (kind === "svg") return svgBlob(text);
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = width * FINE;
    canvas.height = height * FINE;
    const context = context2d(canvas);
    context.fillStyle = ink().ground;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return pngBlob(canvas);
  }
}

/** @param {string} text */
const svgBlob = (text) => new Blob([text], { type: "image/svg+xml" });

/** @param {HTMLCanvasElement} canvas @returns {Promise<Blob>} */
function pngBlob(canvas) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The picture is too large for this browser."))), "image/png");
  });
}

/** @param {Blob} blob @param {string} name */
function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** @param {string} text @param {HTMLElement} button */
async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it and press Ctrl+C"; // no clipboard without https or localhost
  }
  setTimeout(() => (button.textContent = before), 1600);
}
