// @ts-check
// The controls above the pictures: they show the view and change it, and know nothing else.

/** @import { Range, Session } from "../state/messages.js" */
/** @import { Scene } from "../state/scene.js" */
/** @import { State, View } from "../state/view_state.js" */

import { byId, el, replace } from "../base/dom.js";
import { coordinate, endWords, number } from "../base/format.js";
import { COLORMAPS } from "../drawing/colormaps.js";
import { isoLevels } from "../state/levels.js";

const ENDS = /** @type {const} */ (["range-low", "range-high"]);
const SWITCHES = /** @type {const} */ (["lines", "points", "path"]);

export class Toolbar {
  /** @param {State} state @param {{ whole: () => void }} act */
  constructor(state, act) {
    this.state = state;
    /** @type {ArrayLike<number>} */
    this.third = []; // coordinates of a volume's slices
    replace(byId("colors"), COLORMAPS.map((name) => el("option", { value: name }, name)));
    /** @param {Partial<View>} changes */
    const set = (changes) => state.set(changes);
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    byId("metric").addEventListener("change", () => set({ metric: byId("metric").value, range: null, iso: null }));
    for (const name of /** @type {const} */ (["linear", "log"])) byId(name).addEventListener("change", () => set({ log: name === "log" }));
    byId("colors").addEventListener("change", () => set({ colors: byId("colors").value }));
    for (const name of ENDS) byId(name).addEventListener("change", () => this.#range());
    byId("range-auto").addEventListener("click", () => set({ range: null }));
    for (const name of SWITCHES) byId(name).addEventListener("change", () => set({ [name]: byId(name).checked }));
    byId("levels").addEventListener("input", () => set({ levels: Number(byId("levels").value), lines: true }));
    byId("slice").addEventListener("input", () => set({ slice: this.third[Number(byId("slice").value)] }));
    byId("iso").addEventListener("change", () => {
      const values = byId("iso").value.split(/[\s,;]+/).filter(Boolean).map(Number);
      set({ iso: values.length && values.every(Number.isFinite) ? values : null });
    });
    byId("whole").addEventListener("click", act.whole);
  }

  #range() {
    const [low, high] = ENDS.map((name) => Number(byId(name).value.replace("−", "-")));
    const good = Number.isFinite(low) && Number.isFinite(high) && low < high;
    for (const name of ENDS) byId(name).setAttribute("aria-invalid", String(!good));
    if (good) this.state.set({ range: [low, high] });
  }

  /** @param {Scene | null} scene @param {View} view @param {Session} session @param {Range} domain */
  show(scene, view, session, domain) {
    const named = (session.variables ?? []).filter(({ name }) => name !== "status" && name !== "interpolated");
    const metric = byId("metric");
    if (metric.dataset.names !== named.map(({ name }) => name).join()) {
      metric.dataset.names = named.map(({ name }) => name).join();
      replace(metric, named.map(({ name, units, long_name: meaning }) =>
        el("option", { value: name, title: meaning }, units && units !== "1" ? `${name} (${units})` : name)));
    }
    metric.value = scene ? scene.variable.name : view.metric;
    byId(view.log ? "log" : "linear").checked = true;
    byId("colors").value = COLORMAPS.includes(view.colors) ? view.colors : COLORMAPS[0];
    for (const name of SWITCHES) byId(name).checked = view[name];
    byId("levels").value = String(view.levels);
    byId("path-label").hidden = !session.trajectory;
    const [from, to] = domain.map((v) => (view.log ? 10 ** v : v));
    const ends = endWords(from, to);
    ENDS.forEach((name, k) => {
      const box = byId(name);
      if (document.activeElement === box) return;
      box.value = ends[k];
      box.classList.toggle("automatic", !view.range);
      box.removeAttribute("aria-invalid");
    });
    byId("range-auto").disabled = !view.range;
    byId("volume").hidden = !scene?.volume;
    if (!scene?.volume) return;
    this.third = scene.volume.axes[2];
    const slice = byId("slice");
    slice.max = String(this.third.length - 1);
    slice.value = String(scene.layers[0].grid.sliceIndex);
    byId("slice-letter").textContent = session.axes[2]?.letter ?? "γ";
    const words = coordinate(scene.layers[0].grid.slice ?? NaN, this.third[this.third.length - 1] - this.third[0]);
    byId("slice-words").textContent = words;
    slice.setAttribute("aria-valuetext", words);
    if (document.activeElement !== byId("iso")) {
      const values = isoLevels(scene).map((v) => (view.log ? 10 ** v : v));
      const digits = Math.max(3, ...values.slice(1).map((v, k) => 2 + Math.ceil(-Math.log10(Math.abs(v / values[k] - 1) || 1)))); // no two alike
      byId("iso").value = values.map((v) => Number(v.toPrecision(Math.min(15, digits)))).join(", ");
      byId("iso").classList.toggle("automatic", !view.iso);
    }
    byId("iso").title = isoLevels(scene).map((v) => number(view.log ? 10 ** v : v)).join(", ");
  }
}
