// @ts-check
// What optimisers do that are let go at the selected point ("balls"): their steps as they come, and the loss in numbers.

/** @import { Connection } from "../state/connection.js" */
/** @import { BallMessage, Coordinates } from "../state/messages.js" */

import { byId, isGo, parentOf } from "../base/dom.js";
import { count, number } from "../base/format.js";
import { ink } from "../base/theme.js";
import { drawPlot } from "../drawing/line_plot.js";

/** @type {Record<string, string>} */
const NAMES = { sgd: "SGD", momentum: "SGD, momentum 0.9", adam: "Adam" };
/** @type {Record<string, string>} */
const WHY = { steps: "all steps done", stopped: "stopped", failed: "failed", diverged: "diverged: the loss is not finite any more" };

/** @typedef {{ optimizer: string, lr: number, steps: number, batch: number | null, seed: number }} Recipe */
/**
 * @typedef {object} OptimizerPath
 * @property {number} id Of the request.
 * @property {number} place
 * @property {Recipe} recipe
 * @property {number[]} steps
 * @property {Coordinates[]} at
 * @property {number[]} loss
 * @property {number[]} projected Loss at its shadow on the plane.
 * @property {number[]} off Distance from the plane.
 * @property {boolean} finished
 * @property {string | null} why
 */

export class OptimizerPaths {
  /** @param {Connection} connection @param {() => void} changed */
  constructor(connection, changed) {
    this.connection = connection;
    this.changed = changed;
    connection.expect("ball", this);
    /** @type {OptimizerPath[]} */
    this.all = [];
    /** @type {Coordinates} */
    this.start = [];
    this.place = 0;
    byId("ball-close").addEventListener("click", () => this.clear());
    byId("ball-form").addEventListener("submit", (event) => {
      if (!isGo(event)) return;
      const data = new FormData(byId("ball-form"));
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

  /**
   * From where it is let go, at which place, and what the server takes.
   * @param {Coordinates} at
   * @param {number} place
   * @param {Record<string, number>} limits
   * @param {number | undefined} samples Of the data.
   */
  from(at, place, limits, samples) {
    this.start = at;
    this.place = place;
    for (const [name, most] of /** @type {[string, number | undefined][]} */ ([["steps", limits.ball], ["batch", samples]])) {
      const field = byId("ball-form").elements.namedItem(name);
      if (field instanceof HTMLInputElement && most) field.max = String(most);
    }
  }

  /** @param {Recipe} recipe */
  drop(recipe) {
    const id = this.connection.send({ type: "ball", at: this.start, ...recipe });
    if (id === null) return;
    this.all.push({ id, place: this.place, recipe, steps: [], at: [], loss: [], projected: [], off: [], finished: false, why: null });
    if (this.all.length > 8) this.all.shift();
    this.changed();
  }

  /** @param {BallMessage} message */
  take(message) {
    const ball = this.all.find(({ id }) => id === message.id);
    if (!ball) return;
    ball.steps.push(...message.steps);
    ball.at.push(...message.at);
    ball.loss.push(...message.loss);
    ball.projected.push(...(message.projected_loss ?? []));
    ball.off.push(...message.off_plane);
    if (message.finished) Object.assign(ball, { finished: true, why: message.why ?? null });
    this.changed();
  }

  /** Those that will not come: they say so. @param {number | null | undefined} id Of a request; null: of all. @param {string} said */
  refuse(id, said) {
    const lost = this.all.filter((ball) => (!ball.finished && (id === null || id === ball.id)) || (ball.why === "failed" && id === ball.id));
    for (const ball of lost) Object.assign(ball, { finished: true, why: said });
    if (lost.length) this.changed();
    return lost.length > 0;
  }

  clear() {
    for (const ball of this.all) if (!ball.finished) this.connection.send({ type: "stop", id: ball.id });
    this.all = [];
    this.changed();
  }

  /** @param {number} place */
  at(place) {
    return this.all.filter((ball) => ball.place === place);
  }

  /** @param {number} place */
  show(place) {
    const ball = this.at(place).at(-1);
    byId("ball-card").hidden = !ball;
    if (!ball) return;
    const { optimizer, lr, batch } = ball.recipe;
    byId("ball-title").textContent = `Ball: ${NAMES[optimizer]}, learning rate ${number(lr, 2)}${batch ? `, batches of ${count(batch)}` : ""}`;
    const colors = ink();
    const positive = ball.loss.every((v) => !Number.isFinite(v) || v > 0);
    const room = parentOf(byId("ball-plot"));
    drawPlot(byId("ball-plot"), room.clientWidth, room.clientHeight, {
      x: { label: "step" },
      y: { label: "loss", log: positive },
      margin: { top: 20 },
      series: [
        { x: ball.steps, y: ball.loss, color: colors.ball, name: "true loss" },
        ...(ball.projected.length === ball.steps.length ? [{ x: ball.steps, y: ball.projected, color: colors.soft, dash: "4 3", width: 1.3, name: "at its shadow" }] : []),
      ],
    });
    const last = ball.steps.length - 1;
    if (last < 0) {
      byId("ball-words").textContent = ball.finished ? `no step: ${WHY[ball.why ?? ""] ?? ball.why}` : "waiting for its first step";
      return;
    }
    byId("ball-words").textContent =
      `step ${count(ball.steps[last])}: loss ${number(ball.loss[last])}, ${number(ball.off[last], 3)} off the plane` +
      `${ball.finished ? `; ${WHY[ball.why ?? ""] ?? ball.why}` : ""}`;
    byId("ball-words").dataset.loss = String(ball.loss[last]);
  }
}
