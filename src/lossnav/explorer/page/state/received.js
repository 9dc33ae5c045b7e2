// @ts-check
// What has been received, by place: grids of values, coarse and fine, and points. Nothing here is changed or filled in.

/** @import { Coverage } from "./coverage.js" */
/** @import { Beyond } from "./range.js" */
/** @import { Coordinates, Frame, GridFrame, PointsFrame, Range, Row } from "./messages.js" */

import { cover } from "./coverage.js";
import { isComplete, levelsOf } from "./incomplete_grids.js";
import { nearestIndex } from "./interpolation.js";

/** @typedef {Float64Array} Values */
/**
 * @typedef {object} GridExtras What is added to a frame: where it lies, and what was made of it, kept since values never change.
 * @property {Values[]} axes Ascending.
 * @property {number[]} steps Mean distance of neighbours along each axis.
 * @property {number} fineness Area between neighbours: of what lies between points on no grid, between those points.
 * @property {number} order Later ones are drawn over earlier ones of the same step.
 * @property {string} key One name a grid, for caches.
 * @property {Range[]} extent First and last coordinate of each axis.
 * @property {boolean} [stale] Of a place that is being sent again: it goes when its successor comes.
 * @property {boolean} [complete]
 * @property {Grid[]} [levels] Of an incomplete one: its levels, from coarse to fine.
 * @property {Grid} [partOf] Of a level: the grid.
 * @property {Record<string, Values>} [drawn]
 * @property {Record<number, Grid>} [slices]
 * @property {number} [slice] Of a slice: the third coordinate.
 * @property {number} [sliceIndex]
 * @property {Map<Values, { key: string, lines: { level: number, chains: number[][] }[] }>} [lines]
 */
/** @typedef {Omit<GridFrame, "axes"> & GridExtras} Grid */

const KEPT = 120; // grids of windows a place; the session's own stay

export class Received {
  constructor() {
    /** @type {Map<number, { grids: Grid[], points: PointsFrame | null }>} */
    this.places = new Map();
    this.count = 0;
    /** @type {{ key: string, grids: Grid[], coverage: Coverage } | null} */
    this.seen = null; // what was asked for last: it is asked again with every movement
    /** @type {{ key: string, range: { domain: Range, beyond: Beyond | null } } | null} */
    this.ranged = null; // and the range of its colours
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
   * A place that is sent again is sent whole; until that is there, what was there stays. So do windows looked at.
   * @param {number} place
   */
  renew(place) {
    for (const grid of this.of(place).grids) grid.stale = !isOfWindow(grid);
  }

  /** @param {Frame} frame */
  add(frame) {
    const here = this.of(frame.place ?? 0);
    this.seen = null;
    if (frame.type === "points") {
      here.points = frame;
      for (const grid of here.grids) grid.fineness = finenessOf(grid, frame);
      return;
    }
    const axes = frame.axes.map((axis) => Float64Array.from(axis));
    const extent = axes.map((axis) => /** @type {Range} */ ([axis[0], axis[axis.length - 1]]));
    const steps = axes.map((axis, k) => (axis.length > 1 ? (extent[k][1] - extent[k][0]) / (axis.length - 1) : 0));
    const order = ++this.count;
    /** @type {Grid} */
    const grid = { ...frame, axes, steps, fineness: 0, order, key: String(order), extent };
    grid.fineness = finenessOf(grid, here.points);
    if (!isOfWindow(grid)) here.grids = here.grids.filter((other) => !other.stale);
    // The same points once more: more of them are known. And what is whole hides for ever what lies under it.
    /** @param {Grid} other */
    const gives = (other) => other.beside === grid.beside && isOfWindow(other) === isOfWindow(grid) && (sameAxes(other, grid) || (isOfWindow(grid) && hides(grid, other)));
    here.grids = here.grids.filter((other) => !gives(other));
    // Between very many points a coarse grid is shown until the fine one is there.
    if (!isOfWindow(grid) && grid.interpolated) here.grids = here.grids.filter((other) => isOfWindow(other) || other.beside || !other.interpolated);
    here.grids.push(grid);
    const windows = here.grids.filter(isOfWindow);
    if (windows.length > KEPT) {
      const left = leastOf(windows, grid);
      here.grids = here.grids.filter((other) => other !== left);
    }
  }

  /**
   * The grids that a window shows, coarse to fine, and which of them is seen where.
   * @param {number} place
   * @param {Range} x
   * @param {Range} y
   * @param {string} metric A grid of the curvature alone has no loss, and the other way round.
   * @returns {{ grids: Grid[], coverage: Coverage }}
   */
  seenIn(place, x, y, metric = "loss") {
    const all = this.#with(place, metric).filter((grid) => grid.axes.length >= 2 && meets(grid.extent[0], x) && meets(grid.extent[1], y)).flatMap(levelsOf);
    all.sort(coarseToFine);
    // What a whole finer one hides in all of this window is not looked at: that is most of what a zoom leaves behind.
    const clipped = all.map(({ extent }) => extent.map(([a, b], d) => /** @type {Range} */ ([Math.max(a, [x, y][d][0]), Math.min(b, [x, y][d][1])])));
    const grids = all.filter((_, i) => !all.some((finer, k) => k > i && isComplete(finer) && within(clipped[i], finer.extent)));
    const key = grids.map((grid) => grid.key).join();
    if (this.seen?.key !== key) this.seen = { key, ...cover(grids) };
    return this.seen;
  }

  /** The grids on which a variable is drawn: those of what lies beside the surface, if it is theirs. @param {number} place @param {string} metric */
  #with(place, metric) {
    const { grids } = this.of(place);
    const beside = grids.filter((grid) => grid.beside && Object.hasOwn(grid.values, metric));
    return beside.length ? beside : grids.filter((grid) => !grid.beside);
  }

  /** @param {number} place */
  lines(place) {
    return this.of(place).grids.filter((grid) => grid.axes.length === 1 && !grid.beside).sort(coarseToFine);
  }

  /**
   * The grid of a volume that shows most of a window: complete rather than under way, then the finest.
   * @param {number} place
   * @param {Range[]} window
   * @param {string} metric
   */
  volume(place, window, metric = "loss") {
    /** @param {Grid} grid */
    const part = ({ extent }) => Math.round(20 * window.reduce((all, ends, i) => all * overlap(extent[i], ends), 1));
    const volumes = this.#with(place, metric).filter((grid) => grid.axes.length === 3);
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
      if (grid.interpolated || grid.beside || grid.axes.length !== at.length) continue;
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

/** @param {Grid} grid @param {PointsFrame | null} points */
function finenessOf({ steps, extent, interpolated, measured }, points) {
  const between = steps.reduce((a, b) => a * b, 1);
  if (!interpolated) return between;
  const many = measured?.length ?? (points ? points.values[points.arrays[0]].length : 0);
  return Math.max(between, many ? extent.reduce((all, [a, b]) => all * (b - a), 1) / many : 0);
}

/** @param {Grid} grid */
const isOfWindow = (grid) => grid.window !== null && grid.window !== undefined;
/** @param {Grid} a @param {Grid} b */
const coarseToFine = (a, b) => b.fineness - a.fineness || a.order - b.order || a.shape[0] - b.shape[0];
/** @param {Grid} a @param {Grid} b */
const sameAxes = (a, b) => a.axes.every((axis, d) => axis.length === b.axes[d]?.length && axis.every((v, k) => v === b.axes[d][k]));
/** Whether one grid is whole and lies, no coarser, over all of another. @param {Grid} over @param {Grid} under */
const hides = (over, under) => under.axes.length === over.axes.length && over.fineness <= under.fineness && isComplete(over) && under.extent.every(([a, b], d) => a >= over.extent[d][0] && b <= over.extent[d][1]);

/** Which of too many is let go: the farthest from the newest that lies beside it, else the oldest. @param {Grid[]} windows @param {Grid} newest */
function leastOf(windows, newest) {
  /** @param {Grid} grid */
  const away = (grid) => Math.max(...grid.extent.map(([a, b], d) => {
    const [c, e] = newest.extent[d];
    return Math.max(0, Math.max(a - e, c - b) / (e - c));
  }));
  return windows.reduce((least, grid) => (away(grid) > away(least) ? grid : least));
}
/** The share of the second interval that the first covers. @param {Range} a @param {Range} b */
const overlap = ([a, b], [c, d]) => Math.max(0, Math.min(b, d) - Math.max(a, c)) / (d - c);
/** @param {Range} a @param {Range} b */
const meets = ([a, b], [c, d]) => a < d && c < b;
/** @param {Range[]} inner @param {Range[]} outer */
const within = (inner, outer) => inner.every(([a, b], i) => a >= outer[i][0] && b <= outer[i][1]);
