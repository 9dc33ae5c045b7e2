// Going on from the selected point: another centre, other axes, a line, a ball, a bookmark.

export class Actions {
  // parts: {connection, state, progress, profile, optimizerPaths}; act: {session(), settle(), ask(delay)}
  constructor(parts, act) {
    Object.assign(this, parts);
    this.act = act;
    this.from = null; // where a line begins that waits for its other end
    byId("centre").addEventListener("click", () => this.centre());
    byId("line-from").addEventListener("click", () => this.beginLine());
    byId("axes-open").addEventListener("click", () => this.openAxes());
    byId("ball-open").addEventListener("click", () => this.openBall());
    byId("axes-form").addEventListener("submit", (event) => this.#turn(event));
    byId("bookmarks-open").addEventListener("click", () => byId("bookmarks-dialog").showModal());
    byId("bookmark-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.connection.send({ type: "bookmark", name: String(new FormData(event.target).get("name")), view: { ...this.state.view } });
      event.target.reset();
    });
  }

  go(place) {
    if (place !== this.act.session().place) this.connection.send({ type: "go", place });
  }

  #needsPoint() {
    if (!this.act.session()?.live) this.progress.wrong("This is a stored surface: nothing can be evaluated on it.");
    else if (!this.state.view.at) this.progress.wrong("Select a point first: click the map.");
    else return true;
    return false;
  }

  centre() {
    if (this.#needsPoint()) this.connection.send({ type: "place", center: this.state.view.at, axes: { kind: "keep", seed: 0 } });
  }

  beginLine() {
    if (!this.#needsPoint()) return;
    this.from = this.state.view.at;
    byId("picking").textContent = "Click the other end of the line (Esc to leave)";
    byId("picking").hidden = false;
    document.body.classList.add("picks");
  }

  // Whether a click was the other end of a line.
  endLine(at) {
    const { from } = this;
    this.leave();
    if (!from) return false;
    this.profile.ask(from, at, this.act.session().place);
    return true;
  }

  leave() {
    this.from = null;
    byId("picking").hidden = true;
    document.body.classList.remove("picks");
  }

  openAxes() {
    if (!this.act.session()?.live) return this.#needsPoint();
    byId("axes-here-label").hidden = !this.state.view.at;
    byId("axes-dialog").showModal();
  }

  #turn(event) {
    if (event.submitter?.value !== "go") return;
    const data = new FormData(event.target);
    const axes = { kind: String(data.get("kind")), seed: Math.round(Number(data.get("seed"))) || 0 };
    if (axes.kind === "checkpoint") axes.checkpoint = String(data.get("checkpoint")).trim();
    this.connection.send({ type: "place", center: data.get("here") && this.state.view.at ? this.state.view.at : null, axes });
  }

  openBall() {
    if (!this.#needsPoint()) return;
    this.optimizerPaths.from(this.state.view.at, this.act.session().place);
    byId("ball-dialog").showModal();
  }

  // A bookmark: its view, at its place.
  open(view) {
    byId("bookmarks-dialog").close();
    this.go(view.place ?? 0);
    this.state.set({ ...structuredClone(DEFAULTS), ...view });
    this.act.settle();
    this.act.ask(0);
  }

  remove(name) {
    this.connection.send({ type: "bookmark", name, view: null });
  }
}

import { byId } from "../base/dom.js";
import { DEFAULTS } from "../state/view_state.js";

