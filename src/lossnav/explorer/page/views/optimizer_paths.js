// OptimizerPaths: optimisers let go at the selected point, their steps as they come, and what they did in numbers.

const NAMES = { sgd: "SGD", momentum: "SGD, momentum 0.9", adam: "Adam" };
const WHY = { steps: "all steps done", stopped: "stopped", diverged: "diverged: the loss is not finite any more" };

export class OptimizerPaths {
  constructor(connection, changed) {
    this.connection = connection;
    this.changed = changed;
    this.all = [];
    byId("ball-close").addEventListener("click", () => this.clear());
    byId("ball-form").addEventListener("submit", (event) => {
      if (event.submitter?.value !== "go") return;
      const data = new FormData(event.target);
      const batch = String(data.get("batch")).trim();
      this.drop({
        optimizer: String(data.get("optimizer")),
        lr: Number(data.get("lr")),
        steps: Math.round(Number(data.get("steps"))),
        batch: batch ? Math.round(Number(batch)) : null,
        seed: Math.round(Number(data.get("seed"))),
      });
    });
  }

  // From where it is let go, and at which place.
  from(at, place) {
    this.start = at;
    this.place = place;
  }

  drop(recipe) {
    const id = this.connection.send({ type: "ball", at: this.start, ...recipe });
    if (id === null) return;
    this.all.push({ id, place: this.place, recipe, steps: [], at: [], loss: [], projected: [], off: [], finished: false, why: null });
    if (this.all.length > 8) this.all.shift();
    this.changed();
  }

  take(message) {
    const ball = this.all.find(({ id }) => id === message.id);
    if (!ball) return;
    ball.steps.push(...message.steps);
    ball.at.push(...message.at);
    ball.loss.push(...message.loss);
    ball.projected.push(...(message.projected_loss ?? []));
    ball.off.push(...message.off_plane);
    if (message.finished) Object.assign(ball, { finished: true, why: message.why });
    this.changed();
  }

  clear() {
    for (const ball of this.all) if (!ball.finished) this.connection.send({ type: "stop", id: ball.id });
    this.all = [];
    this.changed();
  }

  at(place) {
    return this.all.filter((ball) => ball.place === place);
  }

  show(place) {
    const balls = this.at(place);
    byId("ball-card").hidden = !balls.length;
    if (!balls.length) return;
    const ball = balls.at(-1);
    const { optimizer, lr, batch } = ball.recipe;
    byId("ball-title").textContent = `Ball: ${NAMES[optimizer]}, learning rate ${number(lr, 2)}${batch ? `, batches of ${count(batch)}` : ""}`;
    const colors = ink();
    const positive = ball.loss.every((v) => !Number.isFinite(v) || v > 0);
    const room = byId("ball-plot").parentElement;
    drawPlot(byId("ball-plot"), room.clientWidth, room.clientHeight, {
      x: { label: "step" },
      y: { label: "loss", log: positive },
      margin: { top: 20 },
      series: [
        { x: ball.steps, y: ball.loss, color: colors.ball, name: "true loss" },
        ball.projected.length === ball.steps.length && { x: ball.steps, y: ball.projected, color: colors.soft, dash: "4 3", width: 1.3, name: "at its shadow" },
      ].filter(Boolean),
    });
    const last = ball.steps.length - 1;
    if (last < 0) {
      byId("ball-words").textContent = "waiting for its first step";
      return;
    }
    byId("ball-words").textContent =
      `step ${count(ball.steps[last])}: loss ${number(ball.loss[last])}, ${number(ball.off[last], 3)} off the plane` +
      `${ball.finished ? `; ${WHY[ball.why] ?? ball.why}` : ""}`;
    byId("ball-words").dataset.loss = String(ball.loss[last]);
  }
}

import { byId } from "../base/dom.js";
import { count, number } from "../base/format.js";
import { ink } from "../base/theme.js";
import { drawPlot } from "../drawing/line_plot.js";

