// @ts-check
// The 1-D run: its line with its band; drag pans, the wheel zooms, a click selects.

/** @import { Reading } from "../drawing/line_plot.js" */
/** @import { MeasuredLine } from "../state/measurements.js" */
/** @import { Coordinates, Range, Session } from "../state/messages.js" */
/** @import { Received } from "../state/received.js" */
/** @import { Overlays } from "../state/scene.js" */
/** @import { View } from "../state/view_state.js" */

import { parentOf } from "../base/dom.js";
import { unit } from "../base/format.js";
import { ink } from "../base/theme.js";
import { followPointer } from "../controls/gestures.js";
import { drawPlot } from "../drawing/line_plot.js";
import { measuredLine } from "../state/measurements.js";
import { variableOf } from "../state/scene.js";

/**
 * @typedef {object} Acts
 * @property {(x: Range) => void} pan
 * @property {() => void} settle
 * @property {(at: Coordinates) => void} select
 * @property {(at: Coordinates | null) => void} hover
 */

export class CurveView {
  /** @param {SVGSVGElement} element @param {Acts} act */
  constructor(element, act) {
    this.element = element;
    /** @type {MeasuredLine} */
    this.line = { x: [], rows: [] };
    /** @type {Reading | null} */
    this.read = null;
    followPointer(element, {
      drag: (dx) => {
        if (!this.read) return;
        const { ends: [low, high], box } = this.read;
        const shift = (dx / box[2]) * (high - low);
        act.pan([low - shift, high - shift]);
      },
      zoom: (factor, [px]) => {
        if (!this.read) return;
        const { ends: [low, high], fromX } = this.read;
        const center = fromX(px);
        act.pan([center + (low - center) * factor, center + (high - center) * factor]);
      },
      click: ([px]) => this.read && act.select([this.read.fromX(px)]),
      hover: (at) => act.hover(at && this.read ? [this.read.fromX(at[0])] : null),
      settle: () => act.settle(),
    });
  }

  /** @param {View} view @param {Session} session @param {Received} received @param {Overlays} overlays */
  paint(view, session, received, overlays) {
    const { clientWidth: width, clientHeight: height } = parentOf(this.element);
    const line = measuredLine(received, view.place);
    const variable = variableOf(view, session);
    this.line = line;
    const colors = ink();
    const y = line.rows.map((row) => row[variable.name] ?? NaN);
    const errors = variable.name === "loss" ? line.rows.map((row) => row.loss_se ?? row.loss_sd ?? NaN) : [];
    const banded = errors.some(Number.isFinite);
    const units = unit(variable);
    const [axis] = session.axes;
    const paths = (overlays.optimizerPaths ?? []).map((path) => ({
      x: path.at.map(([a]) => a), y: path.loss ?? [], color: colors.ball, width: 1.4, dots: true, name: "ball",
    }));
    this.read = drawPlot(this.element, width, height, {
      x: { label: `${axis.letter}   ${axis.meaning ?? ""}`, ends: view.x ?? axis.range },
      y: { label: units ? `${variable.name} (${units})` : variable.name, log: view.log, ends: view.range },
      margin: { top: 22 },
      series: [
        {
          x: line.x, y, color: colors.accent, width: 2, dots: view.points, name: variable.name,
          low: banded ? y.map((v, k) => v - errors[k]) : null, high: banded ? y.map((v, k) => v + errors[k]) : null,
        },
        ...paths,
      ],
      marks: view.at ? [{ x: view.at[0], y: nearestY(line.x, y, view.at[0]), color: colors.pick }] : [],
    });
  }
}

/** @param {number[]} xs @param {number[]} ys @param {number} at */
function nearestY(xs, ys, at) {
  const nearest = xs.reduce((best, x, k) => (Math.abs(x - at) < Math.abs(xs[best] - at) ? k : best), 0);
  return xs.length ? ys[nearest] : NaN;
}
