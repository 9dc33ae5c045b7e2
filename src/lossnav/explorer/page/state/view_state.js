// What is looked at: one plain object, kept in the address's fragment, so that a link is a view.

export const DEFAULTS = {
  place: 0,
  x: null, // [low, high] of the first coordinate; null: all of it
  y: null,
  metric: "loss",
  log: false,
  colors: "viridis",
  range: null, // [low, high] of the colours, in the metric's unit; null: of what is visible
  lines: true,
  levels: 12,
  points: false,
  path: true,
  at: null, // the selected point
  camera: [0.62, 0.52, 5.2], // azimuth, elevation (radians), distance
  slice: null, // third coordinate of a volume's slice
  iso: null, // levels of isosurfaces
};

const LISTS = new Set(["x", "y", "range", "at", "camera", "iso"]);

// 1e-9 of a range cannot be seen; shorter links can.
const short = (value) => String(Number(value.toPrecision(10)));

export function encodeView(view) {
  const parts = [];
  for (const [key, standard] of Object.entries(DEFAULTS)) {
    const value = view[key];
    if (value === null || JSON.stringify(value) === JSON.stringify(standard)) continue;
    let text = value;
    if (Array.isArray(value)) text = value.map(short).join(",");
    else if (typeof value === "boolean") text = value ? "1" : "0";
    else if (typeof value === "number") text = short(value);
    parts.push(`${key}=${encodeURIComponent(text).replaceAll("%2C", ",")}`);
  }
  return parts.join("&");
}

// What does not read as a view is left at its default: a link may come from anywhere.
export function decodeView(fragment) {
  const view = structuredClone(DEFAULTS);
  for (const [key, text] of new URLSearchParams(fragment.replace(/^#/, ""))) {
    if (!Object.hasOwn(DEFAULTS, key)) continue;
    const standard = DEFAULTS[key];
    if (LISTS.has(key)) {
      const values = text.split(",").map(Number);
      if (!values.every(Number.isFinite)) continue;
      const needed = { x: 2, y: 2, range: 2, camera: 3 }[key];
      if (needed && values.length !== needed) continue;
      if (needed === 2 && !(values[0] < values[1])) continue;
      view[key] = values;
    } else if (typeof standard === "boolean") {
      view[key] = text === "1";
    } else if (typeof standard === "number" || key === "slice") {
      if (text !== "" && Number.isFinite(Number(text))) view[key] = Number(text);
    } else {
      view[key] = text;
    }
  }
  view.levels = Math.min(40, Math.max(2, Math.round(view.levels)));
  view.place = Math.max(0, Math.round(view.place));
  return view;
}

// The view that everything on the page shows. Changing it tells whoever listens and, a moment later, the address.
export class State {
  constructor() {
    this.view = decodeView(location.hash);
    this.listeners = [];
    this.timer = 0;
    window.addEventListener("hashchange", () => {
      if (location.hash.replace(/^#/, "") === encodeView(this.view)) return;
      const before = this.view;
      this.view = decodeView(location.hash);
      this.#tell(Object.keys(DEFAULTS).filter((key) => JSON.stringify(before[key]) !== JSON.stringify(this.view[key])));
    });
  }

  listen(listener) {
    this.listeners.push(listener);
  }

  set(changes) {
    const changed = Object.keys(changes).filter((k) => JSON.stringify(changes[k]) !== JSON.stringify(this.view[k]));
    if (!changed.length) return;
    Object.assign(this.view, changes);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.save(), 250); // browsers throttle an address that changes at every frame
    this.#tell(changed);
  }

  save() {
    clearTimeout(this.timer);
    const fragment = encodeView(this.view);
    history.replaceState(null, "", fragment ? `#${fragment}` : location.pathname + location.search);
  }

  get link() {
    this.save();
    return location.href;
  }

  #tell(changed) {
    const keys = new Set(changed);
    for (const listener of this.listeners) listener(keys);
  }
}
