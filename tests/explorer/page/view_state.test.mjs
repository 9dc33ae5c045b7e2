// The view in the address: what is written reads back, and nothing that is written there can be but a view.

import assert from "node:assert/strict";
import { test } from "node:test";
import { DEFAULTS, State, decodeView, encodeView, viewOf } from "../../../src/lossnav/explorer/page/state/view_state.js";
import { anySize, random } from "./helpers.mjs";

/** @typedef {import("../../../src/lossnav/explorer/page/state/view_state.js").View} View */

const HOSTILE = [
  "", " ", "&", "=", "#", "%", "%zz", "a&b=c#d", "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "javascript:alert(1)",
  "__proto__", "constructor", "toString", "loss,accuracy", "α β\u2028\u2029", "\u0000\u0007", "😀", "\u202e", "a".repeat(5000), "null", "NaN", "+", "1e999",
];

/** @param {() => number} next @returns {View} */
function drawn(next) {
  const some = (/** @type {() => any} */ make) => (next() < 0.5 ? make() : null);
  const ends = () => {
    const low = anySize(next, -6, 6);
    return [low, low + Math.abs(anySize(next, -2, 2)) * (1 + Math.abs(low))];
  };
  const numbers = (/** @type {number} */ n) => Array.from({ length: n }, () => anySize(next, -9, 9));
  return {
    place: Math.floor(5 * next()), x: some(ends), y: some(ends), metric: next() < 0.3 ? HOSTILE[1 + Math.floor((HOSTILE.length - 1) * next())] : "accuracy",
    log: next() < 0.5, colors: next() < 0.2 ? HOSTILE[1 + Math.floor((HOSTILE.length - 1) * next())] : "cividis", range: some(ends), lines: next() < 0.5,
    levels: 2 + Math.floor(39 * next()), points: next() < 0.5, path: next() < 0.5, at: some(() => numbers(1 + Math.floor(3 * next()))),
    camera: [next(), next(), 2 + 5 * next()], slice: some(() => anySize(next, -3, 3)), iso: some(() => numbers(1 + Math.floor(4 * next()))),
  };
}

/** Numbers of a link have ten digits. @param {unknown} a @param {unknown} b */
function assertSame(a, b) {
  if (typeof a === "number" && typeof b === "number") assert.ok(Math.abs(a - b) <= 1e-9 * Math.abs(a), `${a} ${b}`);
  else if (Array.isArray(a) && Array.isArray(b)) {
    assert.equal(a.length, b.length);
    for (const [k, v] of a.entries()) assertSame(v, b[k]);
  } else assert.deepEqual(a, b);
}

/** What every picture may rely on, written down anew. @param {View} view */
function assertView(view) {
  assert.deepEqual(Object.keys(view).toSorted(), Object.keys(DEFAULTS).toSorted());
  assert.equal(Object.getPrototypeOf(view), Object.prototype);
  for (const ends of [view.x, view.y, view.range]) {
    assert.ok(ends === null || (ends.length === 2 && ends.every(Number.isFinite) && ends[0] < ends[1] && Number.isFinite(ends[1] - ends[0])));
  }
  for (const list of [view.at, view.iso]) assert.ok(list === null || (list.length > 0 && list.every(Number.isFinite)));
  assert.ok(view.camera.length === 3 && view.camera.every(Number.isFinite));
  assert.ok(view.slice === null || Number.isFinite(view.slice));
  assert.ok(Number.isInteger(view.levels) && view.levels >= 2 && view.levels <= 40);
  assert.ok(view.place >= 0 && Number.isFinite(view.place));
  for (const word of [view.metric, view.colors]) assert.equal(typeof word, "string");
  for (const truth of [view.log, view.lines, view.points, view.path]) assert.equal(typeof truth, "boolean");
}

test("any view reads back from its link", () => {
  const next = random(1);
  for (let k = 0; k < 2000; k++) {
    const view = drawn(next);
    const link = encodeView(view);
    assert.match(link, /^[\w.,~!*'()%&=+-]*$/); // nothing that ends an address or an attribute
    assertView(view);
    const back = decodeView(k % 2 ? `#${link}` : link);
    for (const key of /** @type {(keyof View)[]} */ (Object.keys(DEFAULTS))) assertSame(view[key], back[key]);
    assert.equal(encodeView(back), link);
  }
});

test("the view one begins with needs no words", () => {
  assert.equal(encodeView(structuredClone(DEFAULTS)), "");
  assert.deepEqual(decodeView(""), DEFAULTS);
  assert.deepEqual(decodeView("#"), DEFAULTS);
});

test("hostile words read back as they are; half a pair of code units, which no address can hold, is replaced", () => {
  for (const words of HOSTILE) assert.equal(decodeView(encodeView({ ...DEFAULTS, metric: words })).metric, words);
  for (const words of ["\ud800", "a\udfffb", "\udc00\ud800"]) {
    assert.equal(decodeView(encodeView({ ...DEFAULTS, metric: words })).metric, words.replace(/[\ud800-\udfff]/g, "\ufffd"));
  }
});

test("whatever stands in the address, it is a view", () => {
  const next = random(2);
  const keys = [...Object.keys(DEFAULTS), "__proto__", "constructor", "other", ""];
  const values = [...HOSTILE, "0", "-1", "1,2", "2,1", "1,1", "1,", ",1", ",", "1,2,3", "NaN,1", "Infinity", "-Infinity,Infinity", "-1e308,1e308", "0x10", "1e400", "true", "1,2,3,4,5"];
  for (let k = 0; k < 5000; k++) {
    const parts = Array.from({ length: 1 + Math.floor(6 * next()) }, () => {
      const key = keys[Math.floor(keys.length * next())];
      const value = values[Math.floor(values.length * next())];
      return `${key}=${next() < 0.5 ? encodeURIComponent(value) : value}`;
    });
    const view = decodeView(`#${parts.join("&")}`);
    assertView(view);
    assert.equal(encodeView(decodeView(encodeView(view))), encodeView(view));
  }
  assert.equal(/** @type {any} */ ({}).metric, undefined);
});

test("of a bookmark only what is a view's is taken", () => {
  const wrong = [null, undefined, NaN, Infinity, "abc", "1", 7, -7, 1e300, true, [], ["a", 1], [1], [2, 1], [1, NaN], {}, { length: 2 }, () => 1, Symbol("s")];
  const next = random(3);
  for (let k = 0; k < 3000; k++) {
    const good = drawn(next);
    const keys = /** @type {(keyof View)[]} */ (Object.keys(DEFAULTS));
    const bad = keys[Math.floor(keys.length * next())];
    const given = /** @type {any} */ ({ ...good, [bad]: wrong[Math.floor(wrong.length * next())], more: 1 });
    const view = viewOf(given);
    assertView(view);
    for (const key of keys) if (key !== bad) assert.deepEqual(view[key], good[key]);
  }
  const own = /** @type {View} */ ({ ...DEFAULTS, at: [1, 2] });
  const copy = viewOf({ ...own });
  assert.notEqual(copy.at, own.at); // no list is shared with the bookmark
});

test("who listens is told which values changed, and the address follows", (context) => {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const page = { hash: "#levels=20", href: "http://host/", pathname: "/t/", search: "" };
  /** @type {string[]} */
  const addresses = [];
  /** @type {(() => void)[]} */
  const onHash = [];
  const fakes = {
    location: page, history: { replaceState: (/** @type {any} */ ...words) => addresses.push(words[2]) },
    window: { addEventListener: (/** @type {string} */ _, /** @type {() => void} */ listener) => onHash.push(listener) },
  };
  Object.assign(globalThis, fakes);
  try {
    const state = new State();
    assert.equal(state.view.levels, 20);
    /** @type {string[][]} */
    const told = [];
    state.listen((changed) => told.push([...changed].toSorted()));
    state.set({ log: true, levels: 20, x: [0, 1] });
    state.set({ x: [0, 1] });
    assert.deepEqual(told, [["log", "x"]]);
    assert.deepEqual(addresses, []);
    context.mock.timers.tick(1000);
    assert.deepEqual(addresses, ["#x=0,1&log=1&levels=20"]);
    page.hash = "#log=1";
    for (const listener of onHash) listener();
    assert.deepEqual(told[1], ["levels", "x"]);
    state.set({ log: false });
    state.save();
    assert.equal(addresses[addresses.length - 1], "/t/"); // nothing is left to say
  } finally {
    for (const name of Object.keys(fakes)) delete (/** @type {any} */ (globalThis)[name]);
  }
});
