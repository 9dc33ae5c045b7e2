// A canvas's context that writes SVG: the map is painted by the same lines on the screen and into a file.

const escape = (words) => String(words).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
const round = (v) => Math.round(v * 100) / 100;
const KEPT = ["fillStyle", "strokeStyle", "lineWidth", "font", "textAlign", "textBaseline", "lineJoin", "lineCap"];

export class SvgContext {
  constructor(width, height) {
    Object.assign(this, { width, height, parts: [], defs: [], path: "", stack: [], open: 0, dash: [], clips: 0 });
    Object.assign(this, { fillStyle: "#000", strokeStyle: "#000", lineWidth: 1, font: "10px sans-serif" });
    Object.assign(this, { textAlign: "start", textBaseline: "alphabetic", lineJoin: "miter", lineCap: "butt" });
    this.measuring = document.createElement("canvas").getContext("2d");
  }

  toString() {
    const closed = "</g>".repeat(this.open);
    const { width, height } = this;
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"><defs>${this.defs.join("")}</defs>${this.parts.join("")}${closed}</svg>\n`;
  }

  save() {
    this.stack.push([this.open, Object.fromEntries(KEPT.map((k) => [k, this[k]])), this.dash]);
  }

  restore() {
    const [open, kept, dash] = this.stack.pop();
    while (this.open > open) this.#close();
    Object.assign(this, kept, { dash });
  }

  #group(attributes) {
    this.parts.push(`<g ${attributes}>`);
    this.open++;
  }

  #close() {
    this.parts.push("</g>");
    this.open--;
  }

  translate(x, y) { this.#group(`transform="translate(${round(x)} ${round(y)})"`); }
  rotate(angle) { this.#group(`transform="rotate(${round((angle * 180) / Math.PI)})"`); }
  setTransform() {}
  clearRect() {}
  setLineDash(dash) { this.dash = dash; }
  measureText(words) {
    this.measuring.font = this.font;
    return this.measuring.measureText(words);
  }

  beginPath() { this.path = ""; }
  moveTo(x, y) { this.path += `M${round(x)} ${round(y)}`; }
  lineTo(x, y) { this.path += `${this.path ? "L" : "M"}${round(x)} ${round(y)}`; }
  closePath() { this.path += "Z"; }
  rect(x, y, w, h) { this.path += `M${round(x)} ${round(y)}h${round(w)}v${round(h)}h${round(-w)}Z`; }
  // Whole circles are all we draw.
  arc(x, y, r) {
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
    return `fill="none" stroke="${escape(this.strokeStyle)}" stroke-width="${round(this.lineWidth)}" stroke-linejoin="${this.lineJoin}" stroke-linecap="${this.lineCap}"${dash}`;
  }

  stroke() { if (this.path) this.parts.push(`<path d="${this.path}" ${this.#pen()}/>`); }
  fill() { if (this.path) this.parts.push(`<path d="${this.path}" fill="${escape(this.fillStyle)}"/>`); }
  fillRect(x, y, w, h) {
    this.parts.push(`<rect x="${round(x)}" y="${round(y)}" width="${round(w)}" height="${round(h)}" fill="${escape(this.fillStyle)}"/>`);
  }
  strokeRect(x, y, w, h) {
    this.parts.push(`<rect x="${round(x)}" y="${round(y)}" width="${round(w)}" height="${round(h)}" ${this.#pen()}/>`);
  }

  #words(words, x, y, paint) {
    const [, style, weight, size, family] = this.font.match(/^(italic )?(\d+ )?([\d.]+)px (.*)$/) ?? [null, "", "", 10, "sans-serif"];
    const anchor = { center: "middle", right: "end", end: "end" }[this.textAlign] ?? "start";
    const drop = { middle: 0.36, top: 0.9 }[this.textBaseline] ?? 0;
    this.parts.push(
      `<text x="${round(x)}" y="${round(y + drop * size)}" text-anchor="${anchor}" font-size="${size}" font-family="${escape(family)}"${style ? ' font-style="italic"' : ""}${weight ? ` font-weight="${weight.trim()}"` : ""} xml:space="preserve" ${paint}>${escape(words)}</text>`,
    );
  }

  fillText(words, x, y) { this.#words(words, x, y, `fill="${escape(this.fillStyle)}"`); }
  strokeText(words, x, y) { this.#words(words, x, y, this.#pen()); }

  drawImage(canvas, x, y, w = canvas.width, h = canvas.height) {
    const smooth = this.imageSmoothingEnabled === false ? ' image-rendering="pixelated"' : "";
    this.parts.push(`<image x="${round(x)}" y="${round(y)}" width="${round(w)}" height="${round(h)}" preserveAspectRatio="none"${smooth} href="${canvas.toDataURL("image/png")}"/>`);
  }
}
