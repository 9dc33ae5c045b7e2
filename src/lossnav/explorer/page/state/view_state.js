// @ts-check
// What is looked at: one plain object, kept in the address's fragment, so that a link is a view.

/** @import { Coordinates, Range } from "./messages.js" */

/**
 * @typedef {object} View
 * @property {number} place
 * @property {Range | null} x Ends of the first coordinate; null: all of it.
 * @property {Range | null} y
 * @property {string} metric
 * @property {boolean} log
 * @property {string} colors
 * @property {Range | null} range Ends of the colours, in the metric's unit; null: of what is visible.
 * @property {boolean} lines
 * @property {number} levels About how many contour levels.
 * @property {boolean} points
 * @property {boolean} path
 * @property {Coordinates | null} at The selected point.
 * @property {[azimuth: number, elevation: number, distance: number]} camera Angles in radians.
 * @property {number | null} slice Third coordinate of a volume's slice.
 * @property {number[] | null} iso Levels of isosurfaces.
 */
/** @typedef {keyof View} Key */

/** @type {Readonly<View>} */
export const DEFAULTS = {
  place: 0,
  x: null,
  y: null,
  metric: "loss",
  log: false,
  colors: "viridis",
  range: null,
  lines: true,
  levels: 12,
  points: false,
  path: true,
  at: null,
  camera: [0.62, 0.52, 5.2],
  slice: null,
  iso: null,
};

const KEYS = /** @type {Key[]} */ (Object.keys(DEFAULTS));
const LISTS = new Set(["x", "y", "range", "at", "camera", "iso"]);
const NUMBERS = new Set(["place", "levels", "slice"]);

/** @type {Record<string, number>} */
const LENGTHS = { x: 2, y: 2, range: 2, camera: 3 };

/** 1e-9 of a range cannot be seen; shorter links can. @param {number} value */
const short = (value) => String(Number(value.toPrecision(10)));

/** @param {View} view */
export function encodeView(view) {
  const parts = [];
  for (const key of KEYS) {
    const value = view[key];
    if (value === null || JSON.stringify(value) === JSON.stringify(DEFAULTS[key])) continue;
    let text;
    if (Array.isArray(value)) text = value.map(short).join(",");
    else if (typeof value === "boolean") text = value ? "1" : "0";
    else text = typeof value === "number" ? short(value) : value.replace(/\p{Surrogate}/gu, "\ufffd"); // half a pair has no URL
    parts.push(`${key}=${encodeURIComponent(text).replaceAll("%2C", ",")}`);
  }
  return parts.join("&");
}

/**
 * What does not read as a view is left at its default: a link may come from anywhere.
 * @param {string} fragment With or without its `#`.
 * @returns {View}
 */
export function decodeView(fragment) {
  /** @type {Record<string, unknown>} */
  const read = {};
  for (const [key, text] of new URLSearchParams(fragment.replace(/^#/, ""))) {
    if (LISTS.has(key)) read[key] = text.split(",").map(numberIn);
    else if (NUMBERS.has(key)) read[key] = numberIn(text);
    else read[key] = typeof DEFAULTS[/** @type {Key} */ (key)] === "boolean" ? text === "1" : text;
  }
  return viewOf(read);
}

/** @param {string} text */
const numberIn = (text) => (text.trim() === "" ? NaN : Number(text));

/**
 * A view from what may be one, such as a bookmark: each value that cannot be its key's is left at its default.
 * @param {Record<string, unknown>} given
 * @returns {View}
 */
export function viewOf(given) {
  /** @type {Record<string, unknown>} */
  const view = structuredClone(DEFAULTS);
  for (const key of KEYS) {
    const value = Object.hasOwn(given, key) ? given[key] : null;
    if (value === null || !isValueOf(key, value)) continue;
    view[key] = Array.isArray(value) ? [...value] : value;
  }
  const made = /** @type {View} */ (view);
  made.levels = Math.min(40, Math.max(2, Math.round(made.levels)));
  made.place = Math.max(0, Math.round(made.place));
  return made;
}

/** @param {Key} key @param {unknown} value */
function isValueOf(key, value) {
  if (NUMBERS.has(key)) return Number.isFinite(value);
  if (!LISTS.has(key)) return typeof value === typeof DEFAULTS[key];
  if (!Array.isArray(value) || !value.length || !value.every(Number.isFinite)) return false;
  const needed = LENGTHS[key];
  if (needed && value.length !== needed) return false;
  return needed !== 2 || (value[0] < value[1] && Number.isFinite(value[1] - value[0]));
}

/** The view that everything on the page shows. Changing it tells whoever listens and, a moment later, the address. */
export class State {
  constructor() {
    this.view = decodeView(location.hash);
    /** @type {((changed: Set<Key>) => void)[]} */
    this.listeners = [];
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.marked = ""; // the address of the last entry
    // Not "hashchange": where one was may have the same address, while that of the view now is not kept yet.
    window.addEventListener("popstate", () => {
      if (location.hash.replace(/^#/, "") === encodeView(this.view)) return;
      clearTimeout(this.timer); // this is where one was, and not what was about to be kept
      this.marked = "";
      const before = this.view;
      this.view = decodeView(location.hash);
      this.#tell(KEYS.filter((key) => JSON.stringify(before[key]) !== JSON.stringify(this.view[key])));
    });
  }

  /** @param {(changed: Set<Key>) => void} listener */
  listen(listener) {
    this.listeners.push(listener);
  }

  /** @param {Partial<View>} changes */
  set(changes) {
    const keys = /** @type {Key[]} */ (Object.keys(changes));
    const changed = keys.filter((key) => JSON.stringify(changes[key]) !== JSON.stringify(this.view[key]));
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

  /** What is looked at now can be come back to: what follows is another entry of the history. */
  mark() {
    this.save();
    if (this.marked === location.href) return;
    this.marked = location.href;
    history.pushState(null, "", location.href);
  }

  get link() {
    this.save();
    return location.href;
  }

  /** @param {Iterable<Key>} changed */
  #tell(changed) {
    const keys = new Set(changed);
    for (const listener of this.listeners) listener(keys);
  }
}
