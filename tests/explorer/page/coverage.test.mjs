// Which grid is seen where: at every place the finest that is whole there, at every moment, never less than before.

import assert from "node:assert/strict";
import { test } from "node:test";
import { seenMesh } from "../../../src/lossnav/explorer/page/drawing/meshes.js";
import { raster } from "../../../src/lossnav/explorer/page/drawing/raster.js";
import { colorTable } from "../../../src/lossnav/explorer/page/drawing/colormaps.js";
import { ownerAt, regionsOf, visitSeen } from "../../../src/lossnav/explorer/page/state/coverage.js";
import { heightAt, valueAt } from "../../../src/lossnav/explorer/page/state/measurements.js";
import { Received } from "../../../src/lossnav/explorer/page/state/received.js";
import { compose } from "../../../src/lossnav/explorer/page/state/scene.js";
import { DEFAULTS } from "../../../src/lossnav/explorer/page/state/view_state.js";
import { ascending, gridFrame, onGrid, random, session } from "./helpers.mjs";

/** @typedef {import("../../../src/lossnav/explorer/page/state/messages.js").Range} Range */
/** @typedef {ReturnType<typeof gridFrame>} Frame */
/** @param {object} [more] @returns {import("../../../src/lossnav/explorer/page/state/view_state.js").View} */
const view = (more = {}) => ({ ...structuredClone(DEFAULTS), ...more });
const f = (/** @type {number} */ a, /** @type {number} */ b) => 3 + Math.sin(3 * a) + a * b;

/** A window as a live session sends it: places of one lattice, some levels, each perhaps in parts. @param {() => number} next @param {number} window @param {number} depth */
function windowOf(next, window, depth) {
  const size = 2 ** -depth;
  const [a, b] = [0, 1].map(() => Math.floor((2 * next() - 1) * 8) / 8 - size / 2);
  /** @type {Frame[]} */
  const frames = [];
  for (let level = 0; level < 3; level++) {
    const step = size / (4 * 2 ** level);
    const axes = [a, b].map((low) => Array.from({ length: Math.round(size / step) + 1 + (level ? 0 : 2) }, (_, k) => low + (k - (level ? 0 : 1)) * step));
    const loss = onGrid(axes, f);
    const many = loss.length;
    for (const part of level ? [0.3 * next(), 0.4 + 0.5 * next(), 1] : [1]) {
      const status = loss.map((_, k) => {
        const [i, j] = [Math.floor(k / axes[1].length), k % axes[1].length];
        return k < part * many || (i % 2 === 0 && j % 2 === 0) ? 1 : 0;
      });
      if (part < 1 && next() < 0.3) status[Math.floor(next() * many)] = 0; // a row that is missing one
      frames.push(gridFrame(axes, { loss: loss.map((v, k) => (status[k] ? v : NaN)), status }, { window, level }));
    }
  }
  return frames;
}

/** The area between the points of the finest frame that is whole at a place, tried one by one. @param {Frame[]} frames @param {number[]} at */
function finest(frames, at) {
  let least = Infinity;
  for (const { axes: [x, y], shape: [nx, ny], values: { status } } of frames) {
    for (let i = 0; i + 1 < nx; i++) {
      for (let j = 0; j + 1 < ny; j++) {
        if (!(at[0] >= x[i] && at[0] <= x[i + 1] && at[1] >= y[j] && at[1] <= y[j + 1])) continue;
        if ([0, 1, ny, ny + 1].every((k) => status[i * ny + j + k])) least = Math.min(least, ((x[nx - 1] - x[0]) / (nx - 1)) * ((y[ny - 1] - y[0]) / (ny - 1)));
      }
    }
  }
  return least;
}

test("at every moment of a sharpening run every place shows the finest that is whole there, and never less than before", () => {
  for (let seed = 0; seed < 12; seed++) {
    const next = random(seed);
    const received = new Received();
    /** @type {Frame[]} */
    const sent = [];
    const places = Array.from({ length: 60 }, () => [2.2 * next() - 1.1, 2.2 * next() - 1.1]);
    const before = places.map(() => Infinity);
    const base = [-1, -0.5, 0, 0.5, 1];
    const frames = [gridFrame([base, base], { loss: onGrid([base, base], f), status: new Float64Array(25).fill(1) })];
    for (let w = 1; w <= 5; w++) frames.push(...windowOf(next, w, Math.floor(4 * next())));
    for (const frame of frames) {
      received.add(frame);
      sent.push(frame);
      const { grids, coverage } = received.seenIn(0, [-1.1, 1.1], [-1.1, 1.1]);
      for (const [k, at] of places.entries()) {
        const owner = ownerAt(coverage, at);
        const now = owner < 0 ? Infinity : grids[owner].fineness;
        assert.ok(now <= before[k] * (1 + 1e-12), `less than before at ${at}`);
        assert.ok(now <= finest(sent, at) * (1 + 1e-9), `not the finest at ${at}: ${now} for ${finest(sent, at)}`);
        before[k] = now;
      }
    }
  }
});

test("a grid in which rows are missing shows what is whole of its levels, more with every point", () => {
  for (let seed = 0; seed < 10; seed++) {
    const next = random(seed);
    const axes = [ascending(next, 17), ascending(next, 17)];
    const ends = /** @type {Range[]} */ (axes.map((axis) => [axis[0], axis[16]]));
    const places = Array.from({ length: 40 }, () => ends.map(([a, b]) => a + next() * (b - a)));
    const before = places.map(() => Infinity);
    const status = new Float64Array(289);
    const order = Array.from(status, (_, k) => k).sort((a, b) => {
      const level = (/** @type {number} */ k) => Math.max(...[8, 4, 2, 1].filter((s) => Math.floor(k / 17) % s === 0 && (k % 17) % s === 0));
      return level(b) - level(a) || (next() < 0.5 ? 1 : -1);
    });
    const received = new Received();
    for (const [n, k] of order.entries()) {
      status[k] = 1;
      if (n % 20 && n < 288) continue;
      received.add(gridFrame(axes, { loss: new Float64Array(289), status }));
      assert.equal(received.of(0).grids.length, 1);
      const { grids, coverage } = received.seenIn(0, ends[0], ends[1]);
      for (const [p, at] of places.entries()) {
        const owner = ownerAt(coverage, at);
        const now = owner < 0 ? Infinity : grids[owner].fineness;
        assert.ok(now <= before[p] * (1 + 1e-12));
        before[p] = now;
      }
    }
    const { grids } = received.seenIn(0, ends[0], ends[1]);
    assert.deepEqual(grids.map(({ shape }) => shape), [[17, 17]]);
  }
});

/** Some windows over one another on a coarse plane. @param {number} seed */
function crowded(seed) {
  const next = random(seed);
  const received = new Received();
  const base = [-1, -0.5, 0, 0.5, 1];
  received.add(gridFrame([base, base], { loss: onGrid([base, base], f), status: new Float64Array(25).fill(1) }));
  for (let w = 1; w <= 4; w++) for (const frame of windowOf(next, w, 1 + Math.floor(3 * next())).slice(0, 1 + Math.floor(7 * next()))) received.add(frame);
  return { next, received };
}

test("what is seen of the grids are pieces that do not overlap, and rectangles of the same area", () => {
  for (let seed = 0; seed < 15; seed++) {
    const { received } = crowded(seed);
    const { grids, coverage } = received.seenIn(0, [-3, 3], [-3, 3]);
    let all = 0;
    for (const [k, grid] of grids.entries()) {
      const [x, y] = grid.axes;
      let area = 0;
      visitSeen(coverage, k, [x, y], [[-3, 3], [-3, 3]], (i, j) => (area += (x[i + 1] - x[i]) * (y[j + 1] - y[j])), (_i, _j, [a, b], [c, d]) => (area += (b - a) * (d - c)));
      const regions = regionsOf(coverage, k).reduce((sum, [[a, b], [c, d]]) => sum + (b - a) * (d - c), 0);
      assert.ok(area > 0 && Math.abs(area - regions) < 1e-9);
      all += area;
    }
    const owned = Array.from(coverage.owner ?? []).reduce((sum, k, at) => {
      const [i, j] = [Math.floor(at / (coverage.y.length - 1)), at % (coverage.y.length - 1)];
      return sum + (k ? (coverage.x[i + 1] - coverage.x[i]) * (coverage.y[j + 1] - coverage.y[j]) : 0);
    }, 0);
    if (coverage.owner) assert.ok(Math.abs(all - owned) < 1e-9);
  }
});

test("map, surface and reading have one value at every place, at every zoom, and coarse never lies over fine", () => {
  for (let seed = 0; seed < 10; seed++) {
    const { next, received } = crowded(seed);
    for (const half of [1, 0.1, 1e-2, 1e-3, 1e-5]) {
      const [cx, cy] = [0, 1].map(() => 1.2 * next() - 0.6);
      const scene = compose(view({ x: [cx - half, cx + half], y: [cy - half, cy + half] }), session(), received);
      const [low, high] = scene.domain;
      const image = raster(scene, 23, 19);
      const palette = new Uint32Array(colorTable("viridis").buffer);
      const meshes = scene.layers.map((layer, k) => seenMesh(layer, scene.coverage, k, [scene.x, scene.y], [2 * half, 2 * half]));
      for (let p = 0; p < 23; p += 3) {
        for (let q = 0; q < 19; q += 3) {
          const at = [scene.x[0] + ((p + 0.5) / 23) * 2 * half, scene.y[1] - ((q + 0.5) / 19) * 2 * half];
          const { value, outcome } = valueAt(scene, at);
          if (outcome) {
            assert.equal(image.colors[q * 23 + p], 0);
            continue;
          }
          assert.equal(heightAt(scene, at), value);
          const t = Math.min(255, Math.max(0, (255 * (value - low)) / (high - low)));
          const steps255 = [Math.floor(t), Math.ceil(t)].map((k) => palette[k]);
          assert.ok(steps255.includes(image.colors[q * 23 + p]), `colour ${t}`);
          // The surface: exactly one triangle lies there, of the values at its corners.
          const heights = meshes.flatMap((mesh) => heightsIn(mesh, at));
          assert.ok(heights.length >= 1 && heights.length <= 2, `${heights.length} sheets at ${at}`); // two where it is a shared edge
          const owner = ownerAt(scene.coverage, at);
          const { steps } = scene.layers[owner].grid;
          const bend = 2 * Math.min(steps[0], 2 * half / 6) * Math.min(steps[1], 2 * half / 6); // a cell in two triangles is not bilinear
          for (const height of heights) assert.ok(Math.abs(height - value) <= bend + 1e-5 * (high - low), `${height} for ${value}`);
        }
      }
    }
  }
});

/** @param {import("../../../src/lossnav/explorer/page/drawing/meshes.js").Mesh} mesh @param {number[]} at */
function heightsIn({ vertices, indexes, origin }, at) {
  const found = [];
  for (let k = 0; k < indexes.length; k += 3) {
    const [a, b, c] = [0, 1, 2].map((n) => [0, 1, 2].map((d) => vertices[7 * indexes[k + n] + d] + (d < 2 ? origin[d] - at[d] : origin[2])));
    const area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
    const [u, v, w] = [[b, c], [c, a], [a, b]].map(([p, q]) => (p[0] * q[1] - p[1] * q[0]) / area);
    if (u >= -1e-9 && v >= -1e-9 && w >= -1e-9) found.push(u * a[2] + v * b[2] + w * c[2]);
  }
  return found;
}
