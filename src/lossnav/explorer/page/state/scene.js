// What is on the pictures: from the view and what was received, the layers, the scale and the marks that map and surface share.

export const HOLES = { 2: "not finite", 3: "failed" };

// A picture's ends: those of the view, or all that is known of the place.
export function windowOf(view, session) {
  const axes = session.axes ?? [];
  return [view.x ?? axes[0]?.range ?? [-1, 1], view.y ?? axes[1]?.range ?? [-1, 1]];
}

export function variableOf(view, session) {
  const named = (session.variables ?? []).filter((v) => !["status", "interpolated"].includes(v.name));
  return named.find((v) => v.name === view.metric) ?? named.find((v) => v.name === "loss") ?? { name: "loss", units: "1" };
}

// What is drawn of a value: itself or its log10. Where there is none, NaN, which everything draws as a hole.
export function drawn(values, log) {
  if (!log) return values;
  const made = new Float64Array(values.length);
  for (let i = 0; i < values.length; i++) made[i] = values[i] > 0 ? Math.log10(values[i]) : NaN;
  return made;
}

// One grid as it is drawn: kept with the grid, since values never change.
export function drawnOf(grid, metric, log) {
  grid.drawn ??= {};
  const raw = grid.values[metric];
  return (grid.drawn[`${metric}/${log}`] ??= raw ? drawn(raw, log) : new Float64Array(grid.shape.reduce((a, b) => a * b, 1)).fill(NaN));
}

// A slice across a volume's last axis: a grid of its own, the numbers those of the volume.
export function sliceOf(volume, value) {
  const [x, y, z] = volume.axes;
  const k = nearestIndex(z, value ?? z[Math.floor((z.length - 1) / 2)]);
  volume.slices ??= {};
  if (!volume.slices[k]) {
    const values = {};
    for (const name of volume.arrays) {
      const all = volume.values[name];
      values[name] = Float64Array.from({ length: x.length * y.length }, (_, at) => all[at * z.length + k]);
    }
    volume.slices[k] = {
      ...volume, drawn: undefined, slices: undefined, axes: [x, y], values, shape: [x.length, y.length], steps: volume.steps.slice(0, 2),
      extent: volume.extent.slice(0, 2), key: `${volume.key}/${k}`, slice: z[k], sliceIndex: k, bitmaps: undefined,
    };
  }
  return volume.slices[k];
}

export function compose(view, session, received, frozen = null) {
  const variable = variableOf(view, session);
  const [x, y] = windowOf(view, session);
  const volume = session.shape === "volume" ? received.volume(view.place, [x, y]) : null;
  const grids = volume ? [sliceOf(volume, view.slice)] : received.layers(view.place, x, y);
  const layers = grids.map((grid) => ({
    grid, x: grid.axes[0], y: grid.axes[1], raw: grid.values[variable.name], values: drawnOf(grid, variable.name, view.log), extent: grid.extent,
  }));
  const scale = scaleOf(view, volume ? [{ ...layers[0], values: drawnOf(volume, variable.name, view.log), all: true }] : layers, x, y, frozen);
  return { view, session, variable, x, y, layers, volume, points: volume ? null : received.of(view.place).points, ...scale };
}

// Ends of the colours and the contour levels, in what is drawn (log10 where it is logarithmic).
function scaleOf(view, layers, x, y, frozen) {
  let domain = frozen;
  if (view.range) domain = view.log ? view.range.map((v) => (v > 0 ? Math.log10(v) : NaN)) : view.range;
  if (!domain || !(domain[0] < domain[1])) domain = rangeOf(layers, x, y);
  return { domain, ...contourLevels(domain, view.levels) };
}

function rangeOf(layers, x, y) {
  let low = Infinity;
  let high = -Infinity;
  for (const { x: xs, y: ys, values, all } of layers) {
    const take = (v) => {
      if (v < low && v > -Infinity) low = v;
      if (v > high && v < Infinity) high = v;
    };
    if (all) {
      values.forEach(take);
      continue;
    }
    // The cell that an end of the window cuts counts too.
    const [i0, i1] = [cellIndex(xs, x[0]), Math.min(xs.length - 1, cellIndex(xs, x[1]) + 1)];
    const [j0, j1] = [cellIndex(ys, y[0]), Math.min(ys.length - 1, cellIndex(ys, y[1]) + 1)];
    for (let i = i0; i <= i1; i++) for (let j = j0; j <= j1; j++) take(values[i * ys.length + j]);
  }
  if (!(low < Infinity)) return [0, 1];
  if (low === high) return [low - 0.5 * Math.max(1e-9, Math.abs(low)), high + 0.5 * Math.max(1e-9, Math.abs(high))];
  return [low, high];
}

// How many visible points are holes, by what became of them.
export function holesOf(scene) {
  const found = {};
  for (const { grid, values } of scene.layers) {
    if (grid.partOf) continue; // counted there
    const status = grid.values.status;
    for (let k = 0; k < values.length; k++) {
      if (Number.isFinite(values[k]) || (status && status[k] === 0)) continue;
      const word = HOLES[status ? status[k] : 2] ?? (scene.view.log ? "not positive (no logarithm)" : "not finite");
      found[word] = (found[word] ?? 0) + 1;
    }
  }
  return found;
}

import { cellIndex, nearestIndex } from "./interpolation.js";
import { contourLevels } from "./levels.js";

