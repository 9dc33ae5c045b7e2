// Meshes: without holes but those of the values, every triangle the right way round, closed where the surface is.

import assert from "node:assert/strict";
import { test } from "node:test";
import { isosurfaceMesh, surfaceMesh } from "../../../src/lossnav/explorer/page/drawing/meshes.js";
import { ascending, linspace, onGrid, random } from "./helpers.mjs";

/** @typedef {import("../../../src/lossnav/explorer/page/drawing/meshes.js").Mesh} Mesh */

/** @param {Mesh} mesh @returns {number[][][]} Triangles of places. */
function triangles({ vertices, indexes }) {
  const place = (/** @type {number} */ k) => Array.from(vertices.subarray(7 * k, 7 * k + 3));
  return Array.from({ length: indexes.length / 3 }, (_, k) => [0, 1, 2].map((c) => place(indexes[3 * k + c])));
}

/** Twice the signed area seen from above. @param {number[][]} triangle */
const turn = ([a, b, c]) => (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);

/** @param {number[][]} triangle */
function area([a, b, c]) {
  const [u, v] = [b, c].map((p) => p.map((x, k) => x - a[k]));
  return Math.hypot(u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]) / 2;
}

/** How often each edge is used, by whether it is walked from its lower index. @param {Mesh} mesh */
function edges({ indexes }) {
  /** @type {Map<string, [number, number]>} */
  const used = new Map();
  for (let k = 0; k < indexes.length; k += 3) {
    for (let c = 0; c < 3; c++) {
      const [a, b] = [indexes[k + c], indexes[k + ((c + 1) % 3)]];
      const key = a < b ? `${a},${b}` : `${b},${a}`;
      const ways = used.get(key) ?? [0, 0];
      ways[a < b ? 0 : 1]++;
      used.set(key, ways);
    }
  }
  return used;
}

test("a surface covers its cells once, counter-clockwise, but for those that touch a hole", () => {
  for (let seed = 0; seed < 40; seed++) {
    const next = random(seed);
    const [x, y] = [ascending(next, 2 + Math.floor(9 * next())), ascending(next, 2 + Math.floor(9 * next()))];
    const ny = y.length;
    const values = onGrid([x, y], () => (next() < 0.08 ? [NaN, Infinity, -Infinity][Math.floor(3 * next())] : next()));
    const mesh = surfaceMesh(x, y, values);
    let wanted = 0;
    let cells = 0;
    for (let i = 0; i + 1 < x.length; i++) {
      for (let j = 0; j + 1 < ny; j++) {
        if (![0, 1, ny, ny + 1].every((k) => Number.isFinite(values[i * ny + j + k]))) continue;
        wanted += (x[i + 1] - x[i]) * (y[j + 1] - y[j]);
        cells++;
      }
    }
    const all = triangles(mesh);
    assert.equal(all.length, 2 * cells);
    for (const triangle of all) assert.ok(turn(triangle) > 0 && triangle.flat().every(Number.isFinite));
    const covered = all.reduce((sum, triangle) => sum + turn(triangle) / 2, 0);
    assert.ok(Math.abs(covered - wanted) < 1e-4 * (1 + wanted), `${covered} of ${wanted}`);
    // No edge is walked twice the same way: neighbours share theirs in opposite directions.
    for (const ways of edges(mesh).values()) assert.ok(ways[0] <= 1 && ways[1] <= 1);
  }
});

test("heights and values are the grid's; the normals of a plane are its own, also beside a hole and at the rim", () => {
  const [x, y] = [ascending(random(7), 6), ascending(random(8), 5)];
  const values = onGrid([x, y], (a, b) => 0.5 * a - 2 * b + 1);
  values[12] = NaN;
  const { vertices } = surfaceMesh(x, y, values);
  for (let k = 0; k < values.length; k++) {
    const [a, b, height, na, nb, nz, value] = vertices.subarray(7 * k, 7 * k + 7);
    assert.deepEqual([a, b], [Math.fround(x[Math.floor(k / 5)]), Math.fround(y[k % 5])]);
    assert.ok(Object.is(height, Math.fround(values[k])) && Object.is(value, Math.fround(values[k])));
    if (k !== 12) assert.ok(Math.abs(na + 0.5) < 1e-5 && Math.abs(nb - 2) < 1e-5 && nz === 1, `vertex ${k}: ${na} ${nb}`);
  }
});

test("a slice lies flat at its height and keeps its values", () => {
  const axis = linspace(-1, 1, 4);
  const values = onGrid([axis, axis], (a, b) => a * b);
  const { vertices } = surfaceMesh(axis, axis, values, 0.25);
  for (let k = 0; k < 16; k++) assert.deepEqual([...vertices.subarray(7 * k + 2, 7 * k + 7)], [0.25, 0, 0, 1, Math.fround(values[k])]);
});

test("a sphere is closed, of one piece, on the sphere and of its area", () => {
  for (const [radius, n] of [[0.7, 25], [0.437, 31]]) {
    const axes = [linspace(-1, 1, n), linspace(-1, 1, n + 2), linspace(-1, 1, n - 2)];
    const mesh = isosurfaceMesh(axes, onGrid(axes, (...at) => Math.hypot(...at)), radius);
    const used = edges(mesh);
    for (const ways of used.values()) assert.equal(ways[0] + ways[1], 2);
    const corners = new Set(mesh.indexes).size;
    assert.equal(corners - used.size + mesh.indexes.length / 3, 2, "Euler's number of a sphere");
    const h = 2 / (n - 3);
    for (const triangle of triangles(mesh)) for (const p of triangle) assert.ok(Math.abs(Math.hypot(...p) - radius) < (h * h) / radius);
    const total = triangles(mesh).reduce((sum, triangle) => sum + area(triangle), 0);
    assert.ok(Math.abs(total / (4 * Math.PI * radius ** 2) - 1) < 1.5 * (h / radius) ** 2, `${total}`);
  }
});

test("of a linear function it is the plane, cut by the box", () => {
  const axes = [ascending(random(1), 5, 0), ascending(random(2), 4, 0), ascending(random(3), 6, 0)];
  const level = (axes[0][1] + axes[0][2]) / 2 + 0.01;
  const mesh = isosurfaceMesh(axes, onGrid(axes, (a) => a), level);
  const total = triangles(mesh).reduce((sum, triangle) => sum + area(triangle), 0);
  assert.ok(Math.abs(total / (axes[1][3] * axes[2][5]) - 1) < 1e-5);
  for (const triangle of triangles(mesh)) for (const [a] of triangle) assert.ok(Math.abs(a - level) < 1e-6);
});

test("a cell of a volume that touches a hole has no isosurface", () => {
  const axis = linspace(0, 3, 4);
  const values = onGrid([axis, axis, axis], (a) => a);
  values[1 * 16 + 1 * 4 + 1] = NaN; // of the cells between x = 1 and x = 2, four touch it
  const mesh = isosurfaceMesh([axis, axis, axis], values, 1.5);
  const total = triangles(mesh).reduce((sum, triangle) => sum + area(triangle), 0);
  assert.ok(Math.abs(total - 5) < 1e-6, `${total}`);
  assert.ok(mesh.vertices.every(Number.isFinite));
});
