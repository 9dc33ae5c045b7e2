// @ts-check
// Reading a scene: measured points, the value at given coordinates, the values along an axis, the points of a line.

/** @import { Coordinates, PointsFrame, Range, Row } from "./messages.js" */
/** @import { Grid, Received, Values } from "./received.js" */
/** @import { Scene } from "./scene.js" */

import { nearestIndex, sample } from "./interpolation.js";
import { rowOf } from "./received.js";

/**
 * Coordinates of what is marked as measured: the points of a surface of points, else the nodes of the grids that are seen.
 * @param {Scene} scene
 * @returns {Coordinates[]}
 */
export function measuredPoints({ layers, points }) {
  if (points) {
    const [a, b] = points.arrays.slice(0, 2).map((name) => points.values[name]);
    return Array.from(a, (v, k) => [v, b[k]]);
  }
  const nodes = [];
  for (const { grid, x, y } of layers) {
    if (grid.interpolated) {
      for (const at of grid.measured ?? []) nodes.push(at);
      continue;
    }
    for (let i = 0; i < x.length; i++) {
      for (let j = 0; j < y.length; j++) if (grid.values.status?.[i * y.length + j] !== 0) nodes.push([x[i], y[j]]);
    }
  }
  return nodes;
}

/**
 * The value as the map shows it, and whether it is a hole; null where nothing was evaluated.
 * @param {Scene} scene
 * @param {Coordinates} at
 */
export function valueAt(scene, at) {
  for (const layer of scene.layers.toReversed()) {
    const value = sample(layer.x, layer.y, layer.raw ?? layer.values, at[0], at[1]);
    if (Number.isFinite(value)) return { value, hole: false };
    const { extent, grid } = layer;
    if (at.every((v, k) => v >= extent[k][0] && v <= extent[k][1])) {
      const flat = nearestIndex(layer.x, at[0]) * layer.y.length + nearestIndex(layer.y, at[1]);
      if (grid.values.status?.[flat] !== 0) return { value: layer.raw?.[flat] ?? NaN, hole: true };
    }
  }
  return null;
}

/**
 * The height of the surface: the value as drawn of the finest layer that has one; NaN where none has.
 * @param {Scene} scene
 * @param {Coordinates} at
 */
export function heightAt(scene, at) {
  for (const layer of scene.layers.toReversed()) {
    const value = sample(layer.x, layer.y, layer.values, at[0], at[1]);
    if (Number.isFinite(value)) return value;
  }
  return NaN;
}

/**
 * Along each axis through the selected point, the nearest row and column of the finest layer that covers it.
 * @param {Scene} scene
 * @returns {{ letter: string, at: number[], values: number[], ends: Range }[] | null}
 */
export function crossSections(scene) {
  const { at } = scene.view;
  if (!at) return null;
  const layer = scene.layers.findLast(({ extent }) => [0, 1].every((k) => at[k] >= extent[k][0] && at[k] <= extent[k][1]));
  if (!layer?.raw) return null;
  const { raw } = layer;
  const [i, j] = [nearestIndex(layer.x, at[0]), nearestIndex(layer.y, at[1])];
  const n = layer.y.length;
  const [first, second] = scene.session.axes;
  return [
    { letter: first.letter, at: [...layer.x], values: Array.from(layer.x, (_, k) => raw[k * n + j]), ends: scene.x },
    { letter: second.letter, at: [...layer.y], values: Array.from(layer.y, (_, k) => raw[i * n + k]), ends: scene.y },
  ];
}

/** @typedef {{ x: number[], rows: Row[] }} MeasuredLine */

/**
 * All that was measured along a line, in order, each coordinate once.
 * @param {Received} received
 * @param {number} place
 * @returns {MeasuredLine}
 */
export function measuredLine(received, place) {
  /** @type {Map<number, Row>} */
  const rows = new Map();
  /** @param {Grid | PointsFrame} frame @param {Values} xs */
  const take = (frame, xs) => {
    xs.forEach((x, k) => {
      if (frame.values.status?.[k] !== 0) rows.set(x, rowOf(frame, k));
    });
  };
  for (const grid of received.lines(place)) take(grid, grid.axes[0]);
  const { points } = received.of(place);
  if (points) take(points, points.values[points.arrays[0]]);
  const sorted = [...rows].sort(([a], [b]) => a - b);
  return { x: sorted.map(([x]) => x), rows: sorted.map(([, row]) => row) };
}
