// The controls above the pictures: they show the view and change it, and know nothing else.

export class Toolbar {
  constructor(state, act) {
    this.state = state;
    replace(byId("colors"), COLORMAPS.map((name) => el("option", { value: name }, name)));
    const set = (changes) => state.set(changes);
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
    byId("metric").addEventListener("change", (event) => set({ metric: event.target.value, range: null, iso: null }));
    for (const name of ["linear", "log"]) byId(name).addEventListener("change", () => set({ log: name === "log" }));
    byId("colors").addEventListener("change", (event) => set({ colors: event.target.value }));
    for (const name of ["range-low", "range-high"]) byId(name).addEventListener("change", () => this.#range());
    byId("range-auto").addEventListener("click", () => set({ range: null }));
    for (const name of ["lines", "points", "path"]) byId(name).addEventListener("change", (event) => set({ [name]: event.target.checked }));
    byId("levels").addEventListener("input", (event) => set({ levels: Number(event.target.value), lines: true }));
    byId("slice").addEventListener("input", (event) => set({ slice: this.third[Number(event.target.value)] }));
    byId("iso").addEventListener("change", (event) => {
      const values = event.target.value.split(/[\s,;]+/).filter(Boolean).map(Number);
      set({ iso: values.length && values.every(Number.isFinite) ? values : null });
    });
    byId("whole").addEventListener("click", act.whole);
  }

  #range() {
    const values = ["range-low", "range-high"].map((name) => Number(byId(name).value.replace("−", "-")));
    const good = values.every(Number.isFinite) && values[0] < values[1];
    for (const name of ["range-low", "range-high"]) byId(name).setAttribute("aria-invalid", String(!good));
    if (good) this.state.set({ range: values });
  }

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
    for (const name of ["lines", "points", "path"]) byId(name).checked = view[name];
    byId("levels").value = view.levels;
    byId("path-label").hidden = !session.trajectory;
    const ends = domain.map((v) => (view.log ? 10 ** v : v));
    ["range-low", "range-high"].forEach((name, k) => {
      const box = byId(name);
      if (document.activeElement === box) return;
      box.value = Number(ends[k].toPrecision(4)).toString();
      box.classList.toggle("automatic", !view.range);
      box.removeAttribute("aria-invalid");
    });
    byId("range-auto").disabled = !view.range;
    byId("volume").hidden = !scene?.volume;
    if (!scene?.volume) return;
    this.third = scene.volume.axes[2];
    const slice = byId("slice");
    slice.max = this.third.length - 1;
    slice.value = scene.layers[0].grid.sliceIndex;
    byId("slice-letter").textContent = session.axes[2]?.letter ?? "γ";
    const words = coordinate(scene.layers[0].grid.slice, this.third.at(-1) - this.third[0]);
    byId("slice-words").textContent = words;
    slice.setAttribute("aria-valuetext", words);
    if (document.activeElement !== byId("iso")) {
      byId("iso").value = isoLevels(scene).map((v) => Number((view.log ? 10 ** v : v).toPrecision(3))).join(", ");
      byId("iso").classList.toggle("automatic", !view.iso);
    }
    byId("iso").title = isoLevels(scene).map((v) => number(view.log ? 10 ** v : v)).join(", ");
  }
}

import { byId, el, replace } from "../base/dom.js";
import { coordinate, number } from "../base/format.js";
import { COLORMAPS } from "../drawing/colormaps.js";
import { isoLevels } from "../state/levels.js";

