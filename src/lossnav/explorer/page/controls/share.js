// Taking a view along: a link, PNG and SVG of each picture, the page itself, the same as Python.

const SCALE = 84; // pixels beside a picture for its scale
const FINE = 2; // pixels of a PNG for one of the screen

export class Share {
  // act: {current() → {scene, extras, value, shape}, views: {map, surface, curve}, link()}
  constructor(connection, act) {
    this.connection = connection;
    this.act = act;
    byId("share-open").addEventListener("click", () => this.open());
    byId("share-dialog").addEventListener("click", (event) => {
      const file = event.target.dataset?.save;
      if (file) this.save(file);
    });
    byId("copy-link").addEventListener("click", (event) => copy(byId("link").value, event.target));
    byId("copy-code").addEventListener("click", (event) => copy(byId("code").textContent, event.target));
  }

  open() {
    const { view, place } = this.act.current();
    byId("link").value = this.act.link();
    byId("export").href = `./export.html?place=${place}&view=${encodeURIComponent(encodeView(view))}`;
    byId("share-page").hidden = Boolean(this.connection.stored);
    byId("share-surface").hidden = this.act.current().shape === "line";
    byId("code").textContent = "…";
    if (this.connection.send({ type: "code", view }) === null && byId("code").textContent === "…") byId("code").textContent = "";
    byId("share-dialog").showModal();
  }

  code(text) {
    byId("code").textContent = text;
  }

  async save(file) {
    const [what, kind] = file.split(".");
    const name = `lossnav-${what}.${kind}`;
    if (this.act.current().shape === "line") return save(await this.#curve(kind), name);
    const blob = kind === "svg" ? new Blob([this.draw(what)], { type: "image/svg+xml" }) : await this.#png(what);
    save(blob, name);
  }

  #size(what) {
    const canvas = what === "map" ? this.act.views.map.canvas : this.act.views.surface.canvas;
    return [canvas.clientWidth + SCALE, canvas.clientHeight];
  }

  // The same strokes into any context.
  #paint(context, what, width, height) {
    const { scene, extras, value } = this.act.current();
    context.fillStyle = ink().ground;
    context.fillRect(0, 0, width, height);
    if (what === "map") {
      paintPlane(context, scene, extras, plotArea(scene, width - SCALE, height));
    } else {
      const { surface } = this.act.views;
      surface.paint(scene, extras); // what it drew lives until this frame ends
      context.drawImage(surface.canvas, 0, 0, width - SCALE, height);
      paintLabels(context, labelsOf(scene, surface.matrix, width - SCALE, height));
    }
    context.save();
    context.translate(width - SCALE, 0);
    paintColorbar(context, scene, value, SCALE, height);
    context.restore();
  }

  draw(what) {
    const [width, height] = this.#size(what);
    const context = new SvgContext(width, height);
    this.#paint(context, what, width, height);
    return context.toString();
  }

  #png(what) {
    const [width, height] = this.#size(what);
    const canvas = document.createElement("canvas");
    canvas.width = width * FINE;
    canvas.height = height * FINE;
    const context = canvas.getContext("2d", UNACCELERATED);
    context.scale(FINE, FINE);
    this.#paint(context, what, width, height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }

  // The line is SVG already; a PNG is that, drawn.
  async #curve(kind) {
    const element = byId("curve").cloneNode(true);
    const { width, height } = byId("curve").viewBox.baseVal;
    element.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    element.setAttribute("width", width);
    element.setAttribute("height", height);
    const text = new XMLSerializer().serializeToString(element);
    if (kind === "svg") return new Blob([text], { type: "image/svg+xml" });
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = width * FINE;
    canvas.height = height * FINE;
    const context = canvas.getContext("2d", UNACCELERATED);
    context.fillStyle = ink().ground;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

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

import { byId, UNACCELERATED } from "../base/dom.js";
import { ink } from "../base/theme.js";
import { labelsOf, paintLabels } from "../drawing/axes_3d.js";
import { paintColorbar } from "../drawing/colorbar.js";
import { paintPlane } from "../drawing/plane.js";
import { plotArea } from "../drawing/plot_area.js";
import { SvgContext } from "../drawing/svg_context.js";
import { encodeView } from "../state/view_state.js";

