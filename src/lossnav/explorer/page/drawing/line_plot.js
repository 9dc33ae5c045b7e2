// @ts-check
// A plot of lines with bands, in SVG: the 1-D run, profiles between two points, what a ball did.

/** @import { Inks } from "../base/theme.js" */
/** @import { Range } from "../state/messages.js" */
/** @import { Box } from "./plot_area.js" */

import { svg } from "../base/dom.js";
import { logTick, tick, ticks } from "../base/format.js";
import { ink } from "../base/theme.js";
import { scaled } from "../state/scene.js";

const MARGIN = { left: 58, right: 14, top: 12, bottom: 36 };

/**
 * @typedef {object} Series A line, with a band where `low` and `high` are given.
 * @property {number[]} x
 * @property {number[]} y
 * @property {number[] | null} [low]
 * @property {number[] | null} [high]
 * @property {string} color
 * @property {string} [dash]
 * @property {number} [width]
 * @property {boolean} [dots]
 * @property {string} [name]
 */
/** @typedef {{ x: number, y: number, label?: string, color: string }} Mark */
/**
 * @typedef {object} Options
 * @property {{ label?: string, ends?: Range }} x
 * @property {{ label?: string, log?: boolean, ends?: Range | null }} y
 * @property {Series[]} series
 * @property {Mark[]} [marks]
 * @property {Partial<typeof MARGIN>} [margin]
 */
/** @typedef {(value: number) => number} Scale */
/** @typedef {{ fromX: Scale, ends: Range, heights: Range, box: Box }} Reading What pixels are read by. `heights` are as drawn. */

/**
 * @param {SVGSVGElement} element
 * @param {number} width
 * @param {number} height
 * @param {Options} options
 * @returns {Reading}
 */
export function drawPlot(element, width, height, options) {
  const colors = ink();
  const margin = { ...MARGIN, ...options.margin };
  /** @type {Box} */
  const box = [margin.left, margin.top, Math.max(20, width - margin.left - margin.right), Math.max(20, height - margin.top - margin.bottom)];
  const [left, top, w, h] = box;
  /** @type {Scale} */
  const shown = (v) => scaled(v, Boolean(options.y.log));
  const [x0, x1] = options.x.ends ?? spread(options.series.flatMap((s) => s.x), 0);
  const visible = options.series.flatMap((s) =>
    [s.y, s.low, s.high].flatMap((ys) => (ys ?? []).filter((_, k) => s.x[k] >= x0 && s.x[k] <= x1).map(shown)),
  );
  const wanted = (options.y.ends ?? []).map(shown); // on a logarithmic scale they may have no place
  const [y0, y1] = wanted[0] < wanted[1] ? wanted : spread(visible, 0.05);
  /** @type {Scale} */
  const toX = (v) => left + ((v - x0) / (x1 - x0)) * w;
  /** @type {Scale} */
  const toY = (v) => top + h - ((shown(v) - y0) / (y1 - y0)) * h;
  const clip = `clip-${element.id}`;
  const parts = [
    svg("defs", {}, svg("clipPath", { id: clip }, svg("rect", { x: left, y: top, width: w, height: h }))),
    ...axisX(x0, x1, toX, box, options.x, colors),
    ...axisY(y0, y1, (v) => top + h - ((v - y0) / (y1 - y0)) * h, box, options.y, colors),
  ];
  const inside = svg("g", { "clip-path": `url(#${clip})` });
  for (const series of options.series) inside.append(...drawSeries(series, toX, toY));
  for (const mark of options.marks ?? []) inside.append(...drawMark(mark, toX, toY, box, colors));
  element.setAttribute("viewBox", `0 0 ${width} ${height}`);
  element.setAttribute("font-family", colors.sans);
  element.replaceChildren(...parts, inside, ...legend(options.series, box, colors));
  return { fromX: (px) => x0 + ((px - left) / w) * (x1 - x0), ends: [x0, x1], heights: [y0, y1], box };
}

/** Ends of what is finite, with a margin. @param {number[]} values @param {number} margin @returns {Range} */
function spread(values, margin) {
  const finite = values.filter(Number.isFinite);
  if (!finite.length) return [0, 1];
  let [low, high] = [finite.reduce((a, b) => Math.min(a, b)), finite.reduce((a, b) => Math.max(a, b))];
  if (low === high) [low, high] = [low - 0.5 * (Math.abs(low) || 1), high + 0.5 * (Math.abs(high) || 1)];
  const more = margin * (high - low);
  return [low - more, high + more];
}

/** @param {string} words @param {Record<string, string | number>} attributes */
function text(words, attributes) {
  return svg("text", { "font-size": 11, ...attributes }, words);
}

/** @param {number} x0 @param {number} x1 @param {Scale} toX @param {Box} box @param {{ label?: string }} axis @param {Inks} colors */
function axisX(x0, x1, toX, [left, top, w, h], { label }, colors) {
  const { step, values } = ticks(x0, x1, Math.max(2, Math.floor(w / 76)));
  /** @type {SVGElement[]} */
  const made = [svg("line", { x1: left, x2: left + w, y1: top + h, y2: top + h, stroke: colors.faint })];
  for (const value of values) {
    const px = toX(value);
    made.push(svg("line", { x1: px, x2: px, y1: top + h, y2: top + h + 4, stroke: colors.faint }));
    made.push(text(tick(value, step), { x: px, y: top + h + 16, "text-anchor": "middle", fill: colors.soft }));
  }
  if (label) made.push(text(label, { x: left + w / 2, y: top + h + 31, "text-anchor": "middle", fill: colors.soft }));
  return made;
}

/** @param {number} y0 @param {number} y1 @param {Scale} at @param {Box} box @param {{ label?: string, log?: boolean }} axis @param {Inks} colors */
function axisY(y0, y1, at, [left, top, w, h], { label, log }, colors) {
  const about = Math.max(2, Math.floor(h / 40));
  const { step, values } = (log && decadeTicks(y0, y1, about)) || ticks(y0, y1, about);
  /** @type {SVGElement[]} */
  const made = [];
  for (const value of values) {
    const py = at(value);
    const words = log ? logTick(value, step) : tick(value, step);
    made.push(svg("line", { x1: left, x2: left + w, y1: py, y2: py, stroke: colors.hair }));
    made.push(text(words, { x: left - 7, y: py + 3.5, "text-anchor": "end", fill: colors.soft }));
  }
  if (label) {
    const turned = `translate(${left - 46} ${top + h / 2}) rotate(-90)`;
    made.push(text(label, { transform: turned, "text-anchor": "middle", fill: colors.soft }));
  }
  return made;
}

/** Of a logarithmic axis 1, 2 and 5 times powers of ten, or the powers alone; null where neither fits. @param {number} y0 @param {number} y1 @param {number} about */
function decadeTicks(y0, y1, about) {
  for (const digits of [[1, 2, 5], [1, 3], [1]]) {
    /** @type {number[]} */
    const values = [];
    for (let k = Math.floor(y0); k <= y1; k++) values.push(...digits.map((d) => k + Math.log10(d)).filter((v) => v >= y0 && v <= y1));
    if (values.length >= 2 && values.length <= about + 2) return { step: 0, values };
  }
  return null;
}

/** @param {Series} series @param {Scale} toX @param {Scale} toY */
function drawSeries({ x, y, low, high, color, dash, width = 1.8, dots }, toX, toY) {
  /** @type {SVGElement[]} */
  const made = [];
  const order = Array.from(x, (_, k) => k);
  if (low && high) {
    for (const run of runs(order, (k) => Number.isFinite(toY(low[k])) && Number.isFinite(toY(high[k])))) {
      const up = run.map((k) => `${toX(x[k])},${toY(high[k])}`);
      const down = run.toReversed().map((k) => `${toX(x[k])},${toY(low[k])}`);
      made.push(svg("polygon", { points: [...up, ...down].join(" "), fill: color, "fill-opacity": 0.18, class: "band" }));
    }
  }
  for (const run of runs(order, (k) => Number.isFinite(toY(y[k])))) {
    const points = run.map((k) => `${toX(x[k]).toFixed(2)},${toY(y[k]).toFixed(2)}`).join(" ");
    made.push(svg("polyline", { points, fill: "none", stroke: color, "stroke-width": width, "stroke-dasharray": dash ?? null, "stroke-linejoin": "round" }));
    if (dots || run.length === 1) for (const k of run) made.push(svg("circle", { cx: toX(x[k]), cy: toY(y[k]), r: 1.9, fill: color }));
  }
  return made;
}

/** Stretches without a hole: a line is never drawn across what has no value. @param {number[]} order @param {(k: number) => boolean} good */
function runs(order, good) {
  /** @type {number[]} */
  let run = [];
  const made = [run];
  for (const k of order) {
    if (good(k)) run.push(k);
    else if (run.length) {
      run = [];
      made.push(run);
    }
  }
  return made.filter(({ length }) => length);
}

/** @param {Mark} mark @param {Scale} toX @param {Scale} toY @param {Box} box @param {Inks} colors */
function drawMark({ x, y, label, color }, toX, toY, [, top, , h], colors) {
  const px = toX(x);
  /** @type {SVGElement[]} */
  const made = [svg("line", { x1: px, x2: px, y1: top, y2: top + h, stroke: color, "stroke-width": 1, "stroke-dasharray": "3 3" })];
  if (Number.isFinite(y)) made.push(svg("circle", { cx: px, cy: toY(y), r: 5, fill: color, stroke: colors.pane, "stroke-width": 2 }));
  if (label) made.push(text(label, { x: px + 5, y: top + 11, fill: colors.soft }));
  return made;
}

/** @param {Series[]} series @param {Box} box @param {Inks} colors */
function legend(series, [left, top, w], colors) {
  const named = series.filter((s) => s.name);
  if (named.length < 2) return [];
  /** @type {SVGElement[]} */
  const made = [];
  let px = left + w;
  for (const { name = "", color, dash } of named.toReversed()) {
    px -= 6.1 * name.length + 8;
    made.push(text(name, { x: px, y: top - 5, fill: colors.soft }));
    made.push(svg("line", { x1: px - 20, x2: px - 5, y1: top - 9, y2: top - 9, stroke: color, "stroke-width": 2, "stroke-dasharray": dash ?? null }));
    px -= 32;
  }
  return made;
}
