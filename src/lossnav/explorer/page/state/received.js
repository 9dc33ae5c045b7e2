// @ts-check
// What has been received, by place: grids of values, coarse and fine, and points. Nothing here is changed or filled in.

/** @import { Coordinates, Frame, GridFrame, PointsFrame, Range, Row } from "./messages.js" */

import { completePart, isComplete } from "./incomplete_grids.js";
import { nearestIndex } from "./interpolation.js";

/** @typedef {Float64Array} Values */
/**
 * @typedef {object} GridExtras What is added to a frame: where it lies, and what was made of it, kept since values never change.
 * @property {Values[]} axes Ascending.
 * @property {number[]} steps Mean distance of neighbours along each axis.
 * @property {number} order Later ones are drawn over earlier ones of the same step.
 * @property {string} key One name a grid, for caches.
 * @property {Range[]} extent First and last coordinate of each axis.
 * @property {boolean} [complete]
 * @property {Grid | null} [core] Its complete part.
 * @property {Grid} [partOf] Of a complete part: the grid.
 * @property {Record<string, Values>} [drawn]
 * @property {Record<number, Grid>} [slices]
 * @property {number} [slice] Of a slice: the third coordinate.
 * @property {number} [sliceIndex]
 * @property {Map<Values, { key: string, lines: { level: number, chains: number[][] }[] }>} [lines]
 * @property {Map<Values, { key: string, colors: HTMLCanvasElement, holes: HTMLCanvasElement | null, rectangle: number[] }>} [bitmaps]
 */
/** @typedef {Omit<GridFrame, "axes"> & GridExtras} Grid */

const KEPT = 48; // grids of windows a place; the session's own stay

export class Received {
  constructor() {
    /** @type {Map<number, { grids: Grid[], points: PointsFrame | null }>} */
    this.places = new Map();
    this.count = 0;
  }

  /** @param {number} place */
  of(place) {
    let here = this.places.get(place);
    if (!here) {
      here = { grids: [], points: null };
      this.places.set(place, here);
    }
    return here;
  }

  /**
   * A place that is sent again is sent whole; windows looked at stay.
   * @param {number} place
   */
  renew(place) {
    const here = this.of(place);
    here.grids = here.grids.filter(isOfWindow);
    here.points = null;
  }

  /** @param {Frame} frame */
  add(frame) {
    const here = this.of(frame.place ?? 0);
    if (frame.type === "points") {
      here.points = frame;
      return;
    }
    const axes = frame.axes.map((axis) => Float64Array.from(axis));
    const extent = axes.map((axis) => /** @type {Range} */ ([axis[0], axis[axis.length - 1]]));
    const steps = axes.map((axis, k) => (axis.length > 1 ? (extent[k][1] - extent[k][0]) / (axis.length - 1) : 0));
    const order = ++this.count;
    /** @type {Grid} */
    const grid = { ...frame, axes, steps, order, key: String(order), extent };
    const own = !isOfWindow(grid);
    // A finer level of a window takes the place of the coarser; in a volume, which is drawn alone, of a complete one once it is complete.
    /** @param {Grid} other */
    const gives = (other) => other.window === frame.window && (axes.length < 3 || isComplete(grid) || !isComplete(other));
    if (!own) here.grids = here.grids.filter((other) => !gives(other));
    // Between very many points a coarse grid is shown until the fine one is there.
    if (own && grid.interpolated) here.grids = here.grids.filter((other) => !other.interpolated);
    here.grids.push(grid);
    const windows = here.grids.filter(isOfWindow);
    if (windows.length > KEPT) here.grids = here.grids.filter((other) => other !== windows[0]);
  }

  /**
   * The grids that a window shows, coarse to fine, so that what is finer is drawn over what it refines.
   * @param {number} place
   * @param {Range} x
   * @param {Range} y
   */
  layers(place, x, y) {
    const seen = this.of(place).grids
      .filter((grid) => grid.axes.length >= 2 && meets(grid.extent[0], x) && meets(grid.extent[1], y))
      .flatMap((grid) => (isComplete(grid) ? [grid] : [completePart(grid), grid].filter((part) => part !== null)));
    seen.sort(coarseToFine);
    // What lies wholly under a finer grid is not seen.
    return seen.filter((grid, i) => !seen.slice(i + 1).some((finer) => within(grid.extent, finer.extent) && isComplete(finer)));
  }

  /** @param {number} place */
  lines(place) {
    return this.of(place).grids.filter((grid) => grid.axes.length === 1).sort(coarseToFine);
  }

  /**
   * The grid of a volume that shows most of a window: complete rather than under way, then the finest.
   * @param {number} place
   * @param {Range[]} window
   */
  volume(place, window) {
    /** @param {Grid} grid */
    const part = ({ extent }) => Math.round(20 * window.reduce((all, ends, i) => all * overlap(extent[i], ends), 1));
    const volumes = this.of(place).grids.filter((grid) => grid.axes.length === 3);
    volumes.sort((a, b) => part(b) - part(a) || Number(isComplete(b)) - Number(isComplete(a)) || a.steps[0] - b.steps[0] || b.order - a.order);
    return volumes[0] ?? null;
  }

  /**
   * The measured point nearest to some coordinates; null where nothing is known.
   * @param {number} place
   * @param {Coordinates} at
   * @param {number[]} spans What counts as one unit of distance along each axis.
   * @returns {{ at: Coordinates, values: Row } | null}
   */
  nearest(place, at, spans) {
    let least = Infinity;
    /** @type {{ at: Coordinates, frame: Grid | PointsFrame, index: number } | null} */
    let best = null;
    /** @param {Coordinates} coordinates @param {Grid | PointsFrame} frame @param {number} index */
    const consider = (coordinates, frame, index) => {
      const distance = Math.hypot(...coordinates.map((c, i) => (c - at[i]) / spans[i]));
      if (best && !(distance < least)) return;
      least = distance;
      best = { at: coordinates, frame, index };
    };
    const { grids, points } = this.of(place);
    for (const grid of grids) {
      if (grid.interpolated || grid.axes.length !== at.length) continue;
      const indexes = grid.axes.map((axis, i) => nearestIndex(axis, at[i]));
      const flat = indexes.reduce((sum, k, i) => sum * grid.shape[i] + k, 0);
      if (grid.values.status && grid.values.status[flat] === 0) continue;
      consider(indexes.map((k, i) => grid.axes[i][k]), grid, flat);
    }
    if (points) {
      const names = points.arrays.slice(0, at.length);
      for (let k = 0; k < points.values[names[0]].length; k++) {
        consider(names.map((name) => points.values[name][k]), points, k);
      }
    }
    const found = /** @type {{ at: Coordinates, frame: Grid | PointsFrame, index: number } | null} */ (best);
    return found && { at: found.at, values: rowOf(found.frame, found.index) };
  }
}

/**
 * All values of one point.
 * @param {{ arrays: string[], values: Record<string, Values> }} frame
 * @param {number} k
 * @returns {Row}
 */
export function rowOf(frame, k) {
  return Object.fromEntries(frame.arrays.map((name) => [name, frame.values[name][k]]));
}

/** @param {Grid} grid */
const isOfWindow = (grid) => grid.window !== null && grid.window !== undefined;
/** @param {Grid} a @param {Grid} b */
const coarseToFine = (a, b) => b.steps[0] - a.steps[0] || a.order - b.order;
/** The share of the second interval that the first covers. @param {Range} a @param {Range} b */
const overlap = ([a, b], [c, d]) => Math.max(0, Math.min(b, d) - Math.max(a, c)) / (d - c);
/** @param {Range} a @param {Range} b */
const meets = ([a, b], [c, d]) => a < d && c < b;
/** @param {Range[]} inner @param {Range[]} outer */
const within = (inner, outer) => inner.every(([a, b], i) => a >= outer[i][0] - 1e-9 && b <= outer[i][1] + 1e-9);
