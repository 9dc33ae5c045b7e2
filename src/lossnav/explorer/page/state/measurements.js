// @ts-check
// Reading a scene: measured points, the value at given coordinates, the values along an axis, the points of a line.

/** @import { Coordinates, PointsFrame, Range, Row } from "./messages.js" */
/** @import { Outcome } from "./outcome.js" */
/** @import { Grid, Received, Values } from "./received.js" */
/** @import { Scene } from "./scene.js" */

import { ownerAt } from "./coverage.js";
import { nearestIndex, sample } from "./interpolation.js";
import { OUTCOMES, stateOf } from "./outcome.js";
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
  /** @type {Coordinates[]} */
  const nodes = [];
  for (const grid of new Set(layers.map((layer) => layer.grid.partOf ?? layer.grid))) {
    const [x, y] = grid.axes;
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

/** The layer that is seen at a place; null where nothing is whole. @param {Scene} scene @param {Coordinates} at */
export function layerAt({ layers, coverage }, at) {
  return layers[ownerAt(coverage, at)] ?? null;
}

/**
 * The value as the map shows it, in its unit, and what became of it where that is no number.
 * @param {Scene} scene
 * @param {Coordinates} at
 * @returns {{ value: number, outcome: Outcome | null }}
 */
export function valueAt(scene, at) {
  const layer = layerAt(scene, at);
  if (!layer) return { value: NaN, outcome: OUTCOMES.notEvaluated };
  if (!layer.raw) return { value: NaN, outcome: OUTCOMES.unknown };
  const value = sample(layer.x, layer.y, layer.raw, at[0], at[1]);
  if (Number.isFinite(value)) return { value, outcome: null };
  const flat = nearestIndex(layer.x, at[0]) * layer.y.length + nearestIndex(layer.y, at[1]);
  const nearest = layer.raw[flat];
  return { value: nearest, outcome: stateOf({ value: nearest, status: layer.grid.values.status?.[flat] }) };
}

/**
 * The height of the surface: the value as drawn, NaN where there is none.
 * @param {Scene} scene
 * @param {Coordinates} at
 */
export function heightAt(scene, at) {
  const layer = layerAt(scene, at);
  return layer ? sample(layer.x, layer.y, layer.values, at[0], at[1]) : NaN;
}

/**
 * Along each axis through the selected point, the nearest row and column of the grid that is seen there; of a volume its third axis too.
 * @param {Scene} scene
 * @returns {{ letter: string, at: number[], values: number[], ends: Range, through: number }[] | null}
 */
export function crossSections(scene) {
  const { at } = scene.view;
  if (!at) return null;
  const layer = layerAt(scene, at);
  if (!layer?.raw) return null;
  const { raw } = layer;
  const [i, j] = [nearestIndex(layer.x, at[0]), nearestIndex(layer.y, at[1])];
  const n = layer.y.length;
  const [first, second, third] = scene.session.axes;
  const sections = [
    { letter: first.letter, at: [...layer.x], values: Array.from(layer.x, (_, k) => raw[k * n + j]), ends: scene.x, through: layer.x[i] },
    { letter: second.letter, at: [...layer.y], values: Array.from(layer.y, (_, k) => raw[i * n + k]), ends: scene.y, through: layer.y[j] },
  ];
  const { volume } = scene;
  if (!volume) return sections;
  const z = volume.axes[2];
  const all = volume.values[scene.variable.name];
  const deep = { letter: third.letter, at: [...z], values: Array.from(z, (_, k) => all[(i * n + j) * z.length + k]), ends: volume.extent[2] };
  return [...sections, { ...deep, through: layer.grid.slice ?? NaN }];
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
