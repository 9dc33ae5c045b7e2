// @ts-check
// A canvas's context that writes SVG: the map is painted by the same lines on the screen and into a file.

import { context2d } from "../base/dom.js";

/** @typedef {CanvasRenderingContext2D | SvgContext} Context What pictures are painted into. */
/**
 * @typedef {object} Pen What `save` keeps.
 * @property {string} fillStyle
 * @property {string} strokeStyle
 * @property {number} lineWidth
 * @property {string} font
 * @property {CanvasTextAlign} textAlign
 * @property {CanvasTextBaseline} textBaseline
 * @property {CanvasLineJoin} lineJoin
 * @property {CanvasLineCap} lineCap
 * @property {boolean} imageSmoothingEnabled
 * @property {number[]} dash
 */

/** @type {Record<string, string>} */
const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const ILLEGAL = /[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu; // in XML, even as entities
/** @param {unknown} words */
const escaped = (words) => String(words).replace(ILLEGAL, "\ufffd").replace(/[&<>"]/g, (c) => ESCAPES[c]);
/** @param {number} v */
const round = (v) => Math.round(v * 100) / 100;

export class SvgContext {
  /** @type {string} */ fillStyle = "#000";
  /** @type {string} */ strokeStyle = "#000";
  lineWidth = 1;
  font = "10px sans-serif";
  /** @type {CanvasTextAlign} */ textAlign = "start";
  /** @type {CanvasTextBaseline} */ textBaseline = "alphabetic";
  /** @type {CanvasLineJoin} */ lineJoin = "miter";
  /** @type {CanvasLineCap} */ lineCap = "butt";
  imageSmoothingEnabled = true;
  /** @type {number[]} */ dash = [];

  /** @type {string[]} */ parts = [];
  /** @type {string[]} */ defs = [];
  path = "";
  /** @type {{ open: number, pen: Pen }[]} */ stack = [];
  open = 0; // groups
  clips = 0;
  /** @type {CanvasRenderingContext2D | null} */ measuring = null;

  /** @param {number} width @param {number} height */
  constructor(width, height) {
    this.width = width;
    this.height = height;
  }

  toString() {
    const closed = "</g>".repeat(this.open);
    const { width, height } = this;
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"><defs>${this.defs.join("")}</defs>${this.parts.join("")}${closed}</svg>\n`;
  }

  save() {
    const { fillStyle, strokeStyle, lineWidth, font, textAlign, textBaseline, lineJoin, lineCap, imageSmoothingEnabled, dash } = this;
    const pen = { fillStyle, strokeStyle, lineWidth, font, textAlign, textBaseline, lineJoin, lineCap, imageSmoothingEnabled, dash };
    this.stack.push({ open: this.open, pen });
  }

  restore() {
    const kept = this.stack.pop();
    if (!kept) return;
    while (this.open > kept.open) this.#close();
    Object.assign(this, kept.pen);
  }

  /** @param {string} attributes */
  #group(attributes) {
    this.parts.push(`<g ${attributes}>`);
    this.open++;
  }

  #close() {
    this.parts.push("</g>");
    this.open--;
  }

  /** @param {number} x @param {number} y */
  translate(x, y) { this.#group(`transform="translate(${round(x)} ${round(y)})"`); }
  /** @param {number} angle Radians. */
  rotate(angle) { this.#group(`transform="rotate(${round((angle * 180) / Math.PI)})"`); }
  /** @param {number[]} dash */
  setLineDash(dash) { this.dash = dash; }
  /** @param {string} words */
  measureText(words) {
    this.measuring ??= context2d(document.createElement("canvas"));
    this.measuring.font = this.font;
    return this.measuring.measureText(words);
  }

  beginPath() { this.path = ""; }
  /** @param {number} x @param {number} y */
  moveTo(x, y) { this.path += `M${round(x)} ${round(y)}`; }
  /** @param {number} x @param {number} y */
  lineTo(x, y) { this.path += `${this.path ? "L" : "M"}${round(x)} ${round(y)}`; }
  closePath() { this.path += "Z"; }
  /** @param {number} x @param {number} y @param {number} w @param {number} h */
  rect(x, y, w, h) { this.path += `M${round(x)} ${round(y)}h${round(w)}v${round(h)}h${round(-w)}Z`; }
  /**
   * Whole circles are all we draw.
   * @param {number} x
   * @param {number} y
   * @param {number} r
   * @param {number} _from
   * @param {number} _to
   */
  arc(x, y, r, _from, _to) {
    const [left, d] = [round(x - r), round(2 * r)];
    this.path += `M${left} ${round(y)}a${round(r)} ${round(r)} 0 1 0 ${d} 0a${round(r)} ${round(r)} 0 1 0 ${-d} 0Z`;
  }

  clip() {
    const id = `clip${this.clips++}`;
    this.defs.push(`<clipPath id="${id}"><path d="${this.path}"/></clipPath>`);
    this.#group(`clip-path="url(#${id})"`);
  }

  #pen() {
    const dash = this.dash.length ? ` stroke-dasharray="${this.dash.join(" ")}"` : "";
    return `fill="none" stroke="${escaped(this.strokeStyle)}" stroke-width="${round(this.lineWidth)}" stroke-linejoin="${this.lineJoin}" stroke-linecap="${this.lineCap}"${dash}`;
  }

  stroke() { if (this.path) this.parts.push(`<path d="${this.path}" ${this.#pen()}/>`); }
  fill() { if (this.path) this.parts.push(`<path d="${this.path}" fill="${escaped(this.fillStyle)}"/>`); }
  /** @param {number} x @param {number} y @param {number} w @param {number} h */
  fillRect(x, y, w, h) {
    this.parts.push(`<rect x="${round(x)}" y="${round(y)}" width="${round(w)}" height="${round(h)}" fill="${escaped(this.fillStyle)}"/>`);
  }
  /** @param {number} x @param {number} y @param {number} w @param {number} h */
  strokeRect(x, y, w, h) {
    this.parts.push(`<rect x="${round(x)}" y="${round(y)}" width="${round(w)}" height="${round(h)}" ${this.#pen()}/>`);
  }

  /** @param {string} words @param {number} x @param {number} y @param {string} paint */
  #words(words, x, y, paint) {
    const [, style = "", weight = "", size = "10", family = "sans-serif"] = this.font.match(/^(italic )?(\d+ )?([\d.]+)px (.*)$/) ?? [];
    const anchor = this.textAlign === "center" ? "middle" : this.textAlign === "right" || this.textAlign === "end" ? "end" : "start";
    const drop = this.textBaseline === "middle" ? 0.36 : this.textBaseline === "top" ? 0.9 : 0;
    this.parts.push(
      `<text x="${round(x)}" y="${round(y + drop * Number(size))}" text-anchor="${anchor}" font-size="${size}" font-family="${escaped(family)}"${style ? ' font-style="italic"' : ""}${weight ? ` font-weight="${weight.trim()}"` : ""} xml:space="preserve" ${paint}>${escaped(words)}</text>`,
    );
  }

  /** @param {string} words @param {number} x @param {number} y */
  fillText(words, x, y) { this.#words(words, x, y, `fill="${escaped(this.fillStyle)}"`); }
  /** @param {string} words @param {number} x @param {number} y */
  strokeText(words, x, y) { this.#words(words, x, y, this.#pen()); }

  /** @param {HTMLCanvasElement} canvas @param {number} x @param {number} y @param {number} w @param {number} h */
  drawImage(canvas, x, y, w, h) {
    const smooth = this.imageSmoothingEnabled ? "" : ' image-rendering="pixelated"';
    this.parts.push(`<image x="${round(x)}" y="${round(y)}" width="${round(w)}" height="${round(h)}" preserveAspectRatio="none"${smooth} href="${canvas.toDataURL("image/png")}"/>`);
  }
}
