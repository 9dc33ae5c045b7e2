// The range of the colours: of what is visible, to rounding; and a few values far away do not flatten the rest.

import assert from "node:assert/strict";
import { test } from "node:test";
import { withoutOutliers } from "../../../src/lossnav/explorer/page/state/range.js";
import { Received } from "../../../src/lossnav/explorer/page/state/received.js";
import { compose } from "../../../src/lossnav/explorer/page/state/scene.js";
import { DEFAULTS } from "../../../src/lossnav/explorer/page/state/view_state.js";
import { gridFrame, linspace, onGrid, random, session } from "./helpers.mjs";

/** @param {object} [more] @returns {import("../../../src/lossnav/explorer/page/state/view_state.js").View} */
const view = (more = {}) => ({ ...structuredClone(DEFAULTS), ...more });

test("the colours span what is visible, at every zoom and on a window that moves", () => {
  const [g, h] = [[7, 3], [1e3, -5]].map(([p, q]) => (/** @type {number} */ a, /** @type {number} */ b) => p * a + q * b + 0.5 * a * b); // bilinear: known between points
  for (const f of [g, h]) {
    const axis = linspace(-1, 1, 9);
    const received = new Received();
    received.add(gridFrame([axis, axis], { loss: onGrid([axis, axis], f), status: new Float64Array(81).fill(1) }));
    for (const half of [1, 0.2, 0.01, 0.001, 1e-5]) {
      for (const center of [-0.61, 0, 0.13, 0.9]) {
        /** @type {[number, number]} */
        const x = [center - half, center + half];
        const scene = compose(view({ x, y: x }), session(), received);
        const ends = x.map((v) => Math.min(1, Math.max(-1, v)));
        const corners = ends.flatMap((a) => ends.map((b) => f(a, b)));
        const span = Math.max(...corners) - Math.min(...corners);
        assert.ok(Math.abs(scene.domain[0] - Math.min(...corners)) < 1e-6 * span, `${scene.domain} for ${corners}`);
        assert.ok(Math.abs(scene.domain[1] - Math.max(...corners)) < 1e-6 * span, `${scene.domain} for ${corners}`);
        assert.ok(scene.levels.length >= 5);
      }
    }
  }
});

test("a coarse grid beside a fine one counts where it is seen, and not under it", () => {
  const received = new Received();
  const coarse = linspace(-1, 1, 5);
  received.add(gridFrame([coarse, coarse], { loss: onGrid([coarse, coarse], (a, b) => (a === 0 && b === 0 ? 1000 : 10 + a)), status: new Float64Array(25).fill(1) }));
  const fine = linspace(-0.5, 0.5, 9);
  received.add(gridFrame([fine, fine], { loss: onGrid([fine, fine], (a) => a), status: new Float64Array(81).fill(1) }, { window: 1 }));
  assert.deepEqual(compose(view(), session(), received).domain, [-0.5, 11]); // 1000 is under the fine one
  assert.deepEqual(compose(view({ x: [-0.25, 0.25], y: [-0.25, 0.25] }), session(), received).domain, [-0.25, 0.25]);
});

test("one value far away leaves the others their colours, and is said; it is never counted away where it is not alone", () => {
  for (const far of [1e30, 1e6, -1e12]) {
    const next = random(1);
    const values = Float64Array.from({ length: 500 }, () => 2 + next());
    const rest = [Math.min(...values), Math.max(...values)];
    values[77] = far;
    values[78] = NaN;
    values[79] = Infinity;
    const { domain, beyond } = withoutOutliers(values);
    assert.ok(domain[0] >= rest[0] && domain[1] <= rest[1] && domain[1] - domain[0] > 0.95 * (rest[1] - rest[0]));
    assert.deepEqual(beyond, { low: Number(far < 0), high: Number(far > 0), least: Math.min(far, rest[0]), most: Math.max(far, rest[1]) });
  }
  const shapes = [
    (/** @type {number} */ k) => k, (/** @type {number} */ k) => k ** 4, (/** @type {number} */ k) => Math.exp(k / 60),
    (/** @type {number} */ k) => (k < 20 ? 1e30 : k / 1e3), (/** @type {number} */ k) => (k === 3 ? 5 : 0), (/** @type {number} */ k) => (k < 250 ? 0 : 1e9),
  ];
  for (const [n, shape] of shapes.entries()) {
    const values = Float64Array.from({ length: 500 }, (_, k) => shape(k));
    assert.deepEqual(withoutOutliers(values), { domain: [Math.min(...values), Math.max(...values)], beyond: null }, `${n}`);
  }
  assert.deepEqual(withoutOutliers([]), { domain: [0, 1], beyond: null });
  assert.deepEqual(withoutOutliers([NaN, 4, Infinity]), { domain: [2, 6], beyond: null });
});
