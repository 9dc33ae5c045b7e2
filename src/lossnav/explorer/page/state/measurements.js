// Reading a scene: measured points, the value at a place, the rows along an axis, the points of a line.

// What is marked as measured: the points of a surface of points, else the nodes of the finest grids.
export function measuredPoints(scene, points) {
  if (points) {
    const [a, b] = points.arrays.slice(0, 2).map((name) => points.values[name]);
    return [...a].map((v, k) => [v, b[k]]);
  }
  const made = [];
  for (const { grid, x, y } of scene.layers) {
    if (grid.interpolated) {
      for (const at of grid.measured ?? []) made.push(at);
      continue;
    }
    for (let i = 0; i < x.length; i++) {
      for (let j = 0; j < y.length; j++) if (!grid.values.status || grid.values.status[i * y.length + j] !== 0) made.push([x[i], y[j]]);
    }
  }
  return made;
}

// The value at a place as the map shows it, and whether a point was measured there.
export function valueAt(scene, at) {
  for (const layer of scene.layers.toReversed()) {
    const value = sample(layer.x, layer.y, layer.raw ?? layer.values, ...at);
    if (Number.isFinite(value)) return { value, step: layer.grid.steps };
    const { extent, grid } = layer;
    if (at.every((v, k) => v >= extent[k][0] && v <= extent[k][1])) {
      const flat = nearestIndex(layer.x, at[0]) * layer.y.length + nearestIndex(layer.y, at[1]);
      if (!grid.values.status || grid.values.status[flat] !== 0) return { value: layer.raw?.[flat] ?? NaN, hole: true, step: grid.steps };
    }
  }
  return null;
}

// The finest layer that covers a point, and the nearest row and column of it.
export function crossSections(scene) {
  const { at } = scene.view;
  if (!at) return null;
  const layer = scene.layers.findLast(({ extent }) => [0, 1].every((k) => at[k] >= extent[k][0] && at[k] <= extent[k][1]));
  if (!layer?.raw) return null;
  const [i, j] = [nearestIndex(layer.x, at[0]), nearestIndex(layer.y, at[1])];
  const n = layer.y.length;
  return [
    { letter: scene.session.axes[0].letter, at: [...layer.x], values: Array.from(layer.x, (_, k) => layer.raw[k * n + j]), ends: scene.x },
    { letter: scene.session.axes[1].letter, at: [...layer.y], values: Array.from(layer.y, (_, k) => layer.raw[i * n + k]), ends: scene.y },
  ];
}

// All that was measured along the line, in order, each place once.
export function measuredLine(received, place) {
  const rows = new Map();
  const take = (frame, xs) => {
    xs.forEach((x, k) => {
      if (frame.values.status && frame.values.status[k] === 0) return;
      rows.set(x, Object.fromEntries(frame.arrays.map((name) => [name, frame.values[name][k]])));
    });
  };
  for (const grid of received.lines(place)) take(grid, grid.axes[0]);
  const { points } = received.of(place);
  if (points) take(points, points.values[points.arrays[0]]);
  const x = [...rows.keys()].sort((a, b) => a - b);
  return { x, rows: x.map((at) => rows.get(at)) };
}

import { nearestIndex, sample } from "./interpolation.js";

