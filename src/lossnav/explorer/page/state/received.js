// What has been received, by place: grids of values, coarse and fine, and points. Nothing here is changed or filled in.

const KEPT = 48; // grids of windows a place; the session's own stay

export class Received {
  constructor() {
    this.places = new Map();
    this.count = 0;
  }

  of(place) {
    if (!this.places.has(place)) this.places.set(place, { grids: [], points: null });
    return this.places.get(place);
  }

  // A place that is sent again is sent whole; windows looked at stay.
  renew(place) {
    const here = this.of(place);
    here.grids = here.grids.filter((grid) => grid.window !== null && grid.window !== undefined);
    here.points = null;
  }

  add(frame) {
    const here = this.of(frame.place ?? 0);
    if (frame.type === "points") {
      here.points = frame;
      return frame;
    }
    const axes = frame.axes.map((axis) => Float64Array.from(axis));
    const steps = axes.map((axis) => (axis.length > 1 ? (axis.at(-1) - axis[0]) / (axis.length - 1) : 0));
    const grid = { ...frame, axes, steps, key: ++this.count, extent: axes.map((axis) => [axis[0], axis.at(-1)]) };
    const own = frame.window === null || frame.window === undefined;
    // A finer level of a window takes the place of the coarser; in a volume, which is drawn alone, of a whole one once it is whole.
    const gives = (other) => other.window === frame.window && (axes.length < 3 || isWhole(grid) || !isWhole(other));
    if (!own) here.grids = here.grids.filter((other) => !gives(other));
    // Between very many points a coarse grid is shown until the fine one is there.
    if (own && grid.interpolated) here.grids = here.grids.filter((other) => !other.interpolated);
    here.grids.push(grid);
    const windows = here.grids.filter((other) => other.window !== null && other.window !== undefined);
    if (windows.length > KEPT) here.grids = here.grids.filter((other) => other !== windows[0]);
    return grid;
  }

  // The grids that a window shows, coarse to fine, so that what is finer is drawn over what it refines.
  layers(place, x, y) {
    const seen = this.of(place).grids
      .filter((grid) => grid.axes.length >= 2 && meets(grid.extent[0], x) && meets(grid.extent[1], y))
      .flatMap((grid) => (isWhole(grid) ? [grid] : [coreOf(grid), grid].filter(Boolean)));
    seen.sort((a, b) => b.steps[0] - a.steps[0] || a.key - b.key);
    // What lies wholly under a finer grid is not seen.
    return seen.filter((grid, i) => !seen.slice(i + 1).some((finer) => within(grid.extent, finer.extent) && isWhole(finer)));
  }

  lines(place) {
    return this.of(place).grids.filter((grid) => grid.axes.length === 1).sort((a, b) => b.steps[0] - a.steps[0] || a.key - b.key);
  }

  // The grid of a volume that shows most of a window: whole rather than under way, then the finest.
  volume(place, window) {
    const part = ({ extent }) => Math.round(20 * window.reduce((all, ends, i) => all * overlap(extent[i], ends), 1));
    const volumes = this.of(place).grids.filter((grid) => grid.axes.length === 3);
    volumes.sort((a, b) => part(b) - part(a) || isWhole(b) - isWhole(a) || a.steps[0] - b.steps[0] || b.key - a.key);
    return volumes[0] ?? null;
  }

  // The measured point nearest to a place, in a frame's own steps; null where nothing is known.
  nearest(place, at, window) {
    let best = null;
    const span = window.map(([low, high]) => high - low);
    const consider = (coordinates, read) => {
      const distance = Math.hypot(...coordinates.map((c, i) => (c - at[i]) / span[i]));
      if (!best || distance < best.distance) best = { at: coordinates, distance, read };
    };
    const { grids, points } = this.of(place);
    for (const grid of grids) {
      if (grid.interpolated || grid.axes.length !== at.length) continue;
      const places = grid.axes.map((axis, i) => nearestIndex(axis, at[i]));
      const flat = places.reduce((sum, k, i) => sum * grid.shape[i] + k, 0);
      if (grid.values.status && grid.values.status[flat] === 0) continue;
      consider(places.map((k, i) => grid.axes[i][k]), () => row(grid, flat));
    }
    if (points) {
      const names = points.arrays.slice(0, at.length);
      for (let k = 0; k < points.values[names[0]].length; k++) {
        consider(names.map((name) => points.values[name][k]), () => row(points, k));
      }
    }
    return best && { at: best.at, values: best.read() };
  }
}

function row(frame, k) {
  return Object.fromEntries(frame.arrays.map((name) => [name, frame.values[name][k]]));
}

// The share of the second interval that the first covers.
const overlap = ([a, b], [c, d]) => Math.max(0, Math.min(b, d) - Math.max(a, c)) / (d - c);
const meets = ([a, b], [c, d]) => a < d && c < b;
const within = (inner, outer) => inner.every(([a, b], i) => a >= outer[i][0] - 1e-9 && b <= outer[i][1] + 1e-9);

import { coreOf, isWhole } from "./incomplete_grids.js";
import { nearestIndex } from "./interpolation.js";

