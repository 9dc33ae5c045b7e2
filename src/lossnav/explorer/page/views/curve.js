// The 1-D run: its line with its band; drag pans, the wheel zooms, a click selects.

export class CurveView {
  // act: {pan(x), settle(), select(at), hover(at | null)}
  constructor(element, act) {
    this.element = element;
    this.act = act;
    this.read = null;
    followPointer(element, {
      drag: (dx) => this.read && act.pan(this.read.ends.map((end) => end - (dx / this.read.box[2]) * (this.read.ends[1] - this.read.ends[0]))),
      zoom: (factor, [px]) => {
        if (!this.read) return;
        const center = this.read.fromX(px);
        act.pan(this.read.ends.map((end) => center + (end - center) * factor));
      },
      click: ([px]) => this.read && act.select([this.read.fromX(px)]),
      hover: (at) => act.hover(at && this.read ? [this.read.fromX(at[0])] : null),
      settle: () => act.settle(),
    });
  }

  paint(view, session, received, extras) {
    const { clientWidth: width, clientHeight: height } = this.element.parentElement;
    const line = measuredLine(received, view.place);
    const variable = variableOf(view, session);
    this.line = line;
    const colors = ink();
    const y = line.rows.map((row) => row[variable.name] ?? NaN);
    const error = variable.name === "loss" ? line.rows.map((row) => row.loss_se ?? row.loss_sd ?? NaN) : null;
    const banded = error?.some(Number.isFinite);
    const unit = variable.units && variable.units !== "1" ? ` (${variable.units})` : "";
    const [axis] = session.axes;
    const marks = [];
    if (view.at) marks.push({ x: view.at[0], y: nearestY(line.x, y, view.at[0]), color: colors.pick });
    const balls = (extras.optimizerPaths ?? []).map((ball) => ({
      x: ball.at.map(([a]) => a), y: ball.loss, color: colors.ball, width: 1.4, dots: true, name: "ball",
    }));
    this.read = drawPlot(this.element, width, height, {
      x: { label: `${axis.letter}   ${axis.meaning ?? ""}`, ends: view.x ?? axis.range },
      y: { label: `${variable.name}${unit}`, log: view.log, ends: view.range },
      margin: { top: 22 },
      series: [
        {
          x: line.x, y, color: colors.accent, width: 2, dots: view.points, name: variable.name,
          low: banded ? y.map((v, k) => v - error[k]) : null, high: banded ? y.map((v, k) => v + error[k]) : null,
        },
        ...balls,
      ],
      marks,
    });
  }

  reading(at, variable) {
    if (!this.line?.x.length) return "";
    const k = nearest(this.line.x, at);
    return `${variable.name} ${number(this.line.rows[k][variable.name])}`;
  }
}

function nearest(xs, at) {
  return xs.reduce((best, x, k) => (Math.abs(x - at) < Math.abs(xs[best] - at) ? k : best), 0);
}

function nearestY(xs, ys, at) {
  return xs.length ? ys[nearest(xs, at)] : NaN;
}

import { number } from "../base/format.js";
import { ink } from "../base/theme.js";
import { followPointer } from "../controls/gestures.js";
import { drawPlot } from "../drawing/line_plot.js";
import { measuredLine } from "../state/measurements.js";
import { variableOf } from "../state/scene.js";

