// @ts-check
// The line from here to there: which points, and the loss along it as it comes in.

/** @import { Connection } from "../state/connection.js" */
/** @import { Coordinates, LineMessage } from "../state/messages.js" */

import { byId, parentOf } from "../base/dom.js";
import { count, number } from "../base/format.js";
import { ink } from "../base/theme.js";
import { drawPlot } from "../drawing/line_plot.js";

/**
 * @typedef {object} Profile
 * @property {number} id Of the request.
 * @property {Coordinates} from
 * @property {Coordinates} to
 * @property {number} place
 * @property {number[]} t
 * @property {number[]} loss
 * @property {number[]} error
 * @property {boolean} finished
 * @property {number} points
 * @property {string} [refused] Why it does not come.
 */

export class LineProfile {
  /** @param {Connection} connection @param {() => void} changed */
  constructor(connection, changed) {
    this.connection = connection;
    this.changed = changed;
    connection.expect("line", this);
    /** @type {Profile | null} */
    this.line = null;
    byId("line-close").addEventListener("click", () => this.clear());
  }

  /** @param {Coordinates} from @param {Coordinates} to @param {number} place @param {number} points */
  ask(from, to, place, points = 41) {
    if (this.line && !this.line.finished) this.connection.send({ type: "stop", id: this.line.id });
    const id = this.connection.send({ type: "line", from, to, points });
    this.line = id === null ? null : { id, from, to, place, t: [], loss: [], error: [], finished: false, points };
    this.changed();
  }

  /** Each message holds all that is known by then. @param {LineMessage} message */
  take(message) {
    if (!this.line || message.id !== this.line.id) return;
    Object.assign(this.line, { t: message.t, loss: message.loss, error: message.loss_se ?? [], finished: Boolean(message.finished) });
    this.changed();
  }

  /** What will not come: it says so, with what there is. @param {number | null | undefined} id Of a request; null: of all. @param {string} said */
  refuse(id, said) {
    if (!this.line || this.line.finished || (id !== null && id !== this.line.id)) return false;
    Object.assign(this.line, { finished: true, refused: said });
    this.changed();
    return true;
  }

  clear() {
    if (this.line && !this.line.finished) this.connection.send({ type: "stop", id: this.line.id });
    this.line = null;
    this.changed();
  }

  /** @param {number} place */
  at(place) {
    return this.line?.place === place ? this.line : null;
  }

  /** @param {number} place @param {boolean} log @param {string} unit Of the loss. */
  show(place, log, unit) {
    const line = this.at(place);
    byId("line-card").hidden = !line;
    if (!line) return;
    const room = parentOf(byId("line-plot"));
    const banded = line.error.some(Number.isFinite);
    drawPlot(byId("line-plot"), room.clientWidth, room.clientHeight, {
      x: { label: "part of the way from A to B", ends: [0, 1] },
      y: { label: unit ? `loss (${unit})` : "loss", log },
      series: [
        {
          x: line.t, y: line.loss, color: ink().pick, dots: true,
          low: banded ? line.loss.map((v, k) => v - line.error[k]) : null, high: banded ? line.loss.map((v, k) => v + line.error[k]) : null,
        },
      ],
    });
    if (line.refused) {
      byId("line-words").textContent = `${count(line.t.length)} of ${count(line.points)} points: ${line.refused}`;
      return;
    }
    const finite = line.loss.filter(Number.isFinite);
    const ends = line.finished && finite.length > 1 ? [line.loss[0], line.loss[line.loss.length - 1]] : null;
    const highest = finite.reduce((a, b) => Math.max(a, b), -Infinity);
    byId("line-words").textContent = ends
      ? `A ${number(ends[0])}, B ${number(ends[1])}, barrier ${number(highest - Math.max(...ends), 3)} above the higher end${banded ? "; band: error of each point, not of differences" : ""}`
      : `${count(line.t.length)} of ${count(line.points)} points`;
  }
}
