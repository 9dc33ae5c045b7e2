// @ts-check
// Going on from the selected point: another centre, other axes, a line, a ball, a bookmark.

/** @import { Connection } from "../state/connection.js" */
/** @import { Coordinates, Session } from "../state/messages.js" */
/** @import { State } from "../state/view_state.js" */

import { byId, isGo } from "../base/dom.js";
import { viewOf } from "../state/view_state.js";

/**
 * @typedef {object} Parts
 * @property {Connection} connection
 * @property {State} state
 * @property {{ wrong: (said: string) => void }} progress
 * @property {{ ask: (from: Coordinates, to: Coordinates, place: number) => void }} profile
 * @property {{ from: (at: Coordinates, place: number, limits: Record<string, number>, samples: number | undefined) => void }} optimizerPaths
 */
/**
 * @typedef {object} Acts
 * @property {() => Session | null} session
 * @property {() => void} settle
 * @property {(delay: number) => void} ask
 */

export class Actions {
  /** @param {Parts} parts @param {Acts} act */
  constructor({ connection, state, progress, profile, optimizerPaths }, act) {
    this.connection = connection;
    this.state = state;
    this.progress = progress;
    this.profile = profile;
    this.optimizerPaths = optimizerPaths;
    this.act = act;
    /** @type {Coordinates | null} */
    this.from = null; // where a line begins that waits for its other end
    byId("centre").addEventListener("click", () => this.centre());
    byId("line-from").addEventListener("click", () => this.beginLine());
    byId("axes-open").addEventListener("click", () => this.openAxes());
    byId("ball-open").addEventListener("click", () => this.openBall());
    byId("axes-form").addEventListener("submit", (event) => this.#turn(event));
    byId("bookmarks-open").addEventListener("click", () => byId("bookmarks-dialog").showModal());
    byId("bookmark-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const form = byId("bookmark-form");
      this.connection.send({ type: "bookmark", name: String(new FormData(form).get("name")), view: { ...this.state.view } });
      form.reset();
    });
  }

  /** @param {number} place */
  go(place) {
    if (place !== this.act.session()?.place) this.connection.send({ type: "go", place });
  }

  /** The session if it is live; null, and the reason is shown, if it is not. */
  #live() {
    const session = this.act.session();
    if (session?.live) return session;
    this.progress.wrong("This is a stored surface: nothing can be evaluated on it.");
    return null;
  }

  /** The selected point of a live session; null, and the reason is shown, where there is none. */
  #point() {
    const session = this.#live();
    if (!session) return null;
    const { at } = this.state.view;
    if (!at) this.progress.wrong("Select a point first: click the map.");
    return at && { at, place: session.place };
  }

  centre() {
    const point = this.#point();
    if (point) this.connection.send({ type: "place", center: point.at, axes: { kind: "keep", seed: 0 } });
  }

  beginLine() {
    const point = this.#point();
    if (!point) return;
    this.from = point.at;
    byId("picking").textContent = "Click the other end of the line (Esc to leave)";
    byId("picking").hidden = false;
    document.body.classList.add("picks");
  }

  /** Whether a click was the other end of a line. @param {Coordinates} at */
  endLine(at) {
    const { from } = this;
    this.leave();
    const session = this.act.session();
    if (!from || !session) return false;
    this.profile.ask(from, at, session.place);
    return true;
  }

  leave() {
    this.from = null;
    byId("picking").hidden = true;
    document.body.classList.remove("picks");
  }

  openAxes() {
    if (!this.#live()) return;
    byId("axes-here-label").hidden = !this.state.view.at;
    byId("axes-dialog").showModal();
  }

  /** @param {SubmitEvent} event */
  #turn(event) {
    if (!isGo(event)) return;
    const data = new FormData(byId("axes-form"));
    /** @type {{ kind: string, seed: number, checkpoint?: string }} */
    const axes = { kind: String(data.get("kind")), seed: Math.round(Number(data.get("seed"))) || 0 };
    if (axes.kind === "checkpoint") axes.checkpoint = String(data.get("checkpoint")).trim();
    this.connection.send({ type: "place", center: data.get("here") && this.state.view.at ? this.state.view.at : null, axes });
  }

  openBall() {
    const point = this.#point();
    if (!point) return;
    const { limits = {}, objective = {} } = this.act.session() ?? {};
    this.optimizerPaths.from(point.at, point.place, limits, objective.samples);
    byId("ball-dialog").showModal();
  }

  /** A bookmark: its view, at its place. What of it is no view is left at its default. @param {Record<string, unknown>} bookmarked */
  open(bookmarked) {
    const view = viewOf(bookmarked);
    byId("bookmarks-dialog").close();
    this.state.mark();
    this.go(view.place);
    this.state.set(view);
    this.act.settle();
    this.act.ask(0);
  }

  /** @param {string} name Of a bookmark. */
  remove(name) {
    this.connection.send({ type: "bookmark", name, view: null });
  }
}
