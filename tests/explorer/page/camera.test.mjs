// The camera: what is projected to a pixel lies on the ray through that pixel.

import assert from "node:assert/strict";
import { test } from "node:test";
import { TARGET, eyeOf, matrixOf, project, ray } from "../../../src/lossnav/explorer/page/drawing/camera.js";
import { plotArea, transformOf } from "../../../src/lossnav/explorer/page/drawing/plot_area.js";
import { random } from "./helpers.mjs";

/** @typedef {import("../../../src/lossnav/explorer/page/drawing/camera.js").Camera} Camera */
/** @typedef {import("../../../src/lossnav/explorer/page/drawing/camera.js").Vector} Vector */

/** @param {() => number} next @returns {{ camera: Camera, width: number, height: number }} */
const drawn = (next) => ({ camera: [-3 + 6 * next(), -0.4 + 1.9 * next(), 2 + 10 * next()], width: 100 + 900 * next(), height: 100 + 900 * next() });

test("the eye stands at its distance and looks at the middle", () => {
  const next = random(1);
  for (let k = 0; k < 300; k++) {
    const { camera, width, height } = drawn(next);
    const eye = eyeOf(camera);
    assert.ok(Math.abs(Math.hypot(...eye.map((v, c) => v - TARGET[c])) - camera[2]) < 1e-9);
    assert.ok(Math.abs(Math.asin((eye[2] - TARGET[2]) / camera[2]) - camera[1]) < 1e-6);
    const [px, py, depth] = project(matrixOf(camera, width / height), TARGET, width, height);
    assert.ok(Math.abs(px - width / 2) < 1e-3 * width && Math.abs(py - height / 2) < 1e-3 * height);
    assert.ok(Math.abs(depth - camera[2]) < 1e-5 * camera[2]);
  }
});

test("a point lies on the ray through its pixel", () => {
  const next = random(2);
  for (let k = 0; k < 1000; k++) {
    const { camera, width, height } = drawn(next);
    /** @type {Vector} */
    const point = [2 * next() - 1, 2 * next() - 1, next()];
    const [px, py, depth] = project(matrixOf(camera, width / height), point, width, height);
    if (depth < 0.5) continue; // beside or behind the eye
    const { eye, way } = ray(camera, px, py, width, height);
    const offset = point.map((v, c) => v - eye[c]);
    const along = offset.reduce((sum, v, c) => sum + v * way[c], 0);
    const off = Math.hypot(...offset.map((v, c) => v - along * way[c]));
    assert.ok(Math.abs(Math.hypot(...way) - 1) < 1e-9);
    assert.ok(along > 0 && off < 1e-4 * along, `${off} off at ${along}`);
  }
});

test("depth grows with the distance, over the range that WebGL keeps", () => {
  const matrix = matrixOf([0, 0, 5], 1);
  const depth = (/** @type {number} */ far) => {
    const [x, y, z] = [0, far - 5, 0.4]; // so far before the eye
    return (matrix[2] * x + matrix[6] * y + matrix[10] * z + matrix[14]) / (matrix[3] * x + matrix[7] * y + matrix[11] * z + matrix[15]);
  };
  assert.ok(Math.abs(depth(0.6) + 1) < 1e-5 && Math.abs(depth(20) - 1) < 1e-5);
  for (let far = 0.7; far < 20; far += 0.1) assert.ok(depth(far) > depth(far - 0.1));
});

test("up is up, right is right, and nearer is larger", () => {
  const next = random(3);
  for (let k = 0; k < 300; k++) {
    const { camera: [, elevation, distance], width, height } = drawn(next);
    const matrix = matrixOf([0, elevation, distance], width / height);
    const at = (/** @type {Vector} */ p) => project(matrix, p, width, height);
    assert.ok(at([0, 0, 1])[1] < at([0, 0, 0])[1]);
    assert.ok(at([1, 0, 0])[0] > at([-1, 0, 0])[0]);
    const size = (/** @type {number} */ far) => {
      const nearer = matrixOf([0, elevation, far], width / height);
      return project(nearer, [0.5, 0, 0.4], width, height)[0] - project(nearer, [-0.5, 0, 0.4], width, height)[0];
    };
    assert.ok(size(distance) > size(distance * 1.2));
  }
});

test("pixels of the map are coordinates and back, within the canvas and undistorted where that fits", () => {
  const next = random(4);
  for (let k = 0; k < 500; k++) {
    const [width, height] = [200 + 1500 * next(), 200 + 900 * next()];
    const scale = 10 ** (-6 + 10 * next());
    /** @type {{ x: [number, number], y: [number, number] }} */
    const ends = { x: [-next() * scale, (0.1 + next()) * scale], y: [next() * scale, (1.1 + next()) * scale] };
    const box = plotArea(ends, width, height);
    assert.ok(box[0] >= 0 && box[1] >= 0 && box[0] + box[2] <= width && box[1] + box[3] <= height && box[2] > 0 && box[3] > 0);
    const { to, from, sx, sy } = transformOf(ends, box);
    const ratio = (ends.x[1] - ends.x[0]) / (ends.y[1] - ends.y[0]);
    if (ratio > 0.51 && ratio < 1.99) assert.ok(Math.abs(sx / sy - 1) <= 1.01 / Math.min(box[2], box[3])); // sides are whole pixels
    assert.ok(Math.hypot(to([ends.x[0], ends.y[1]])[0] - box[0], to([ends.x[0], ends.y[1]])[1] - box[1]) < 1e-6);
    const at = [ends.x[0] + next() * scale, ends.y[0] + next() * scale];
    for (const [d, v] of from(to(at)).entries()) assert.ok(Math.abs(v - at[d]) < 1e-9 * scale);
  }
});
