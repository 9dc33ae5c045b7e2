// @ts-check
// The page: joins the socket, the view and the pictures. What each of them does is in its own file; this one is longer
// than most because it alone knows all the others.

/** @import { Coordinates, ErrorMessage, Frame, Message, PointMessage, Range, Row, Session } from "./state/messages.js" */
/** @import { Layer, Overlays, Scene } from "./state/scene.js" */
/** @import { Reading } from "./views/panel.js" */

import { byId, parentOf, replace } from "./base/dom.js";
import { coordinate, number, unit } from "./base/format.js";
import { onThemeChange, startTheme } from "./base/theme.js";
import { Actions } from "./controls/actions.js";
import { showHelp } from "./controls/help.js";
import { listenToKeys } from "./controls/keys.js";
import { showBookmarks, showPlaces } from "./controls/navigation.js";
import { Progress } from "./controls/progress.js";
import { Share } from "./controls/share.js";
import { Toolbar } from "./controls/toolbar.js";
import { showColorbar } from "./drawing/colorbar.js";
import { Connection } from "./state/connection.js";
import { nearestIndex } from "./state/interpolation.js";
import { layerAt, measuredLine, valueAt } from "./state/measurements.js";
import { outcomeWords } from "./state/outcome.js";
import { Received } from "./state/received.js";
import { compose, holesOf, windowOf } from "./state/scene.js";
import { State } from "./state/view_state.js";
import { showCrossSections } from "./views/cross_sections.js";
import { CurveView } from "./views/curve.js";
import { LineProfile } from "./views/line_profile.js";
import { MapView } from "./views/map.js";
import { OptimizerPaths } from "./views/optimizer_paths.js";
import { placeWords, showClasses, showFacts, showPoint, showReport } from "./views/panel.js";
import { showSpectrum } from "./views/spectrum.js";
import { SurfaceView } from "./views/surface.js";

const SETTLE = 90; // ms after the view's last movement at which its window is asked for
const PATIENCE = 1000; // ms after which a place is drawn without frames that were announced
const ARROWS = 220; // ms after the last arrow key at which its point is asked for

const connection = new Connection(receive, (word) => {
  progress.showConnection(word);
  if (word === "lost" || word === "restarted") {
    connection.refuse(null, "the connection was lost");
  }
  schedule();
  if (word === "open" || word === "page") {
    arriving = true;
    connection.send({ type: "hello" });
  }
});
const state = new State();
const received = new Received();
/** @type {Session | null} */
let session = null;
/** @type {Scene | null} */
let scene = null;
let moving = false; // while the view moves, colours stay and nothing is asked for
let settling = false; // whether it rests once it is drawn
let turned = false; // whether the next picture differs from the last by the eye alone
/** @type {Range | null} */
let frozen = null; // ends of the colours until then
/** @type {Reading | null} */
let reading = null; // of the selected point
/** @type {{ point?: number | null, window?: number | null }} */
const asked = {}; // numbers of what was asked
let askedAt = ""; // where the panel's point is
let sentWindow = "";
let arriving = true; // between a connection and the first place
let awaited = 0; // frames that come right after their session: drawn with it, and not the empty place before them
/** @typedef {ReturnType<typeof setTimeout> | undefined} Timer */
const timers = { frame: 0, patience: /** @type {Timer} */ (undefined), settle: /** @type {Timer} */ (undefined), point: /** @type {Timer} */ (undefined) };
/** @typedef {{ window: number | null, level: number | undefined, values: number, received: number | undefined, drawn: number | null }} Timing */
/** @type {Timing[]} */
let news = []; // timings of grids that are not yet drawn
/** @type {Timing[]} */
const timings = [];

const progress = new Progress(() => connection.send({ type: "stop" }));
const optimizerPaths = new OptimizerPaths(connection, schedule);
const profile = new LineProfile(connection, schedule);
const actions = new Actions({ connection, state, progress, profile, optimizerPaths }, { session: () => session, settle, ask });
const toolbar = new Toolbar(state, { whole });
const map = new MapView(byId("map"), { pan, settle, select, hover });
const surface = new SurfaceView(byId("surface"), byId("surface-labels"), { turn: (camera) => state.set({ camera }), select });
const curve = new CurveView(byId("curve"), { pan: (x) => pan(x, null), settle, select, hover });
const share = new Share(connection, {
  current: () => ({
    scene, overlays: overlays(), value: scene ? reading?.values[scene.variable.name] : undefined, shape: session?.shape, place: state.view.place,
    view: {
      ...state.view, ranges: ranges(), kind: state.view.lines ? "contour" : "heatmap",
      ...(scene ? { domain: scene.domain, contours: [scene.levels[0] ?? scene.domain[0], scene.step], slice: scene.layers[0]?.grid.slice ?? null } : {}),
    },
  }),
  views: { map, surface },
  link: () => state.link,
});

// ------------------------------------------------------------------ what arrives

/** @param {Message} message */
function receive(message) {
  if (message.type === "session") arrive(message);
  else if (message.type === "error") refuse(message);
  else if (session) take(message, session);
}

/** What was asked does not come: whoever waits for it says why. @param {ErrorMessage} message */
function refuse({ id, said }) {
  const known = id !== null && id !== undefined;
  if (known && id === asked.point && reading && (reading.pending || reading.waiting)) {
    reading = { ...reading, pending: false, waiting: "", refused: reading.pending ? said : undefined };
    schedule();
  }
  if (known) connection.refuse(id, said);
  progress.wrong(said);
}

/** @param {Message} message @param {Session} session */
function take(message, session) {
  if (connection.hand(message)) return;
  switch (message.type) {
    case "grid":
    case "points":
      takeGrid(message);
      break;
    case "point":
      takePoint(message);
      break;
    case "progress":
      progress.take(message, asked.window);
      break;
    case "code":
      share.code(message.text);
      break;
    case "bookmarks":
      session.bookmarks = message.bookmarks;
      schedule();
      break;
    case "places":
      session.places = message.places;
      showPlaces(session, (place) => actions.go(place));
      break;
  }
}

/** @param {Session} message */
function arrive(message) {
  const wanted = state.view.place;
  if (arriving && message.place !== wanted && message.places.some((place) => place.number === wanted)) {
    arriving = false;
    connection.send({ type: "go", place: wanted });
    return;
  }
  const moved = session !== null && message.place !== session.place;
  arriving = false;
  session = message;
  sentWindow = "";
  awaited = message.frames ?? 0;
  clearTimeout(timers.patience);
  if (awaited) timers.patience = setTimeout(goOn, PATIENCE);
  received.renew(message.place);
  if (message.place !== wanted) {
    if (moved) state.mark();
    const k = message.axes.length;
    const at = message.live && message.place > 0 ? Array(k).fill(0) : null;
    state.set({ place: message.place, x: null, y: null, at, range: null, slice: null, iso: null });
  }
  reading = null;
  document.title = `${message.title} · lossnav`;
  byId("title").textContent = message.title;
  document.body.dataset.shape = session.shape;
  byId("map-pane").hidden = byId("surface-pane").hidden = parentOf(byId("scale")).hidden = session.shape === "line";
  byId("curve-pane").hidden = session.shape !== "line";
  for (const name of /** @type {const} */ (["centre", "line-from", "axes-open", "ball-open"])) byId(name).disabled = !message.live;
  byId("actions").hidden = byId("actions-note").hidden = false;
  byId("actions-note").hidden = session.live;
  byId("actions").hidden = !session.live;
  showPlaces(session, (place) => actions.go(place));
  showFacts(session);
  if (state.view.at && state.view.at.length !== session.axes.length) state.set({ at: null });
  if (!state.view.at && session.axes.every(({ range: [low, high] }) => low <= 0 && high >= 0)) {
    askedAt = "";
    state.set({ at: session.axes.map(() => 0) }); // the centre, until another is chosen
  } else if (state.view.at) ask(0);
  askWindow();
  schedule();
}

/** @param {Frame} frame */
function takeGrid(frame) {
  if (awaited && --awaited === 0) goOn();
  received.add(frame);
  const values = frame.values.loss?.length ?? 0;
  if (frame.type === "grid") news.push({ window: frame.window ?? null, level: frame.level, values, received: frame.received, drawn: null });
  if (state.view.at && !reading) ask(0);
  schedule();
}

/** @param {PointMessage} message */
function takePoint(message) {
  if (!session || message.id !== asked.point) return;
  reading = { ...message, waiting: message.finished === false ? "looking closer …" : "" };
  if (!session.live && message.at.some((v, k) => v !== state.view.at?.[k])) state.set({ at: message.at });
  schedule();
}

// ------------------------------------------------------------------ where one looks

/** @returns {Range[]} */
function ranges() {
  if (!session) return [];
  const window = windowOf(state.view, session);
  return session.axes.map((axis, k) => window[k] ?? axis.range);
}

/** @param {Range} x @param {Range | null} y */
function pan(x, y) {
  if (!moving) {
    frozen = scene?.domain ?? null;
    state.mark();
  }
  moving = true;
  const limits = [1e-7, 1e5];
  /** @param {Range | null} ends */
  const good = (ends) => !ends || (ends[1] - ends[0] > limits[0] && ends[1] - ends[0] < limits[1] && ends.every((v) => Math.abs(v) < limits[1]));
  if (!good(x) || !good(y)) return;
  if (asked.window && progress.busy) {
    connection.send({ type: "stop", id: asked.window });
    asked.window = null;
  }
  state.set(y ? { x, y } : { x });
  clearTimeout(timers.settle);
  timers.settle = setTimeout(settle, SETTLE);
}

function settle() {
  clearTimeout(timers.settle);
  settling = moving && timers.frame !== 0; // the last movement is not on the screen yet: the view rests after that
  if (settling) return;
  moving = false;
  frozen = null;
  state.save(); // forward comes back to where the view rested
  askWindow();
  schedule();
}

function askWindow() {
  if (!session?.live) return;
  const wanted = ranges();
  const words = JSON.stringify([session.place, wanted]);
  if (words === sentWindow) return;
  sentWindow = words;
  asked.window = connection.send({ type: "window", ranges: wanted });
}

function whole() {
  state.mark();
  state.set({ x: null, y: null });
  settle();
}

/** @param {number} factor */
function zoomBy(factor) {
  if (!session) return;
  const [x, y] = windowOf(state.view, session).map(([a, b]) => {
    const [c, h] = [(a + b) / 2, ((b - a) / 2) * factor];
    return /** @type {Range} */ ([c - h, c + h]);
  });
  pan(x, session.shape === "line" ? null : y);
}

// ------------------------------------------------------------------ the selected point

/** @param {Coordinates} at @param {number} delay */
function select(at, delay = 0) {
  if (!session) return;
  // Of a volume the map knows two coordinates; the third is the slice's, which goes where a click in space was.
  const volume = session.shape === "volume";
  const slice = scene?.layers[0]?.grid.slice;
  if (volume && slice === undefined) return;
  const full = slice !== undefined && at.length === 2 ? [...at, slice] : at;
  if (actions.from && actions.endLine(full)) return;
  const near = session.live ? null : received.nearest(session.place, full, spansOf());
  const chosen = near ? near.at : full;
  state.set(volume && at.length === 3 ? { at: chosen, slice: chosen[2] } : { at: chosen });
  ask(delay);
}

/** What is known at once, and the server's answer as soon as it comes. @param {number} delay */
function ask(delay) {
  const { at } = state.view;
  askedAt = JSON.stringify(at);
  if (!at || !session || at.length !== session.axes.length) {
    reading = null;
    return;
  }
  const near = received.nearest(session.place, at, spansOf());
  const same = near?.at.every((v, k) => v === at[k]);
  if (near && (same || !session.live)) reading = { at: near.at, values: strip(near.values), status: near.values.status, waiting: session.live ? "looking closer …" : "" };
  else if (session.live) reading = { at, values: {}, pending: true, waiting: "" };
  if (!session.live && near && !same) {
    askedAt = JSON.stringify(near.at);
    state.set({ at: near.at });
  }
  asked.point = null;
  clearTimeout(timers.point);
  timers.point = setTimeout(() => {
    asked.point = connection.send({ type: "point", at: state.view.at });
  }, delay);
  schedule();
}

/** Without what is no measurement. @param {Row} values @returns {Row} */
function strip(values) {
  return Object.fromEntries(Object.entries(values).filter(([name]) => name !== "status" && !session?.dims.includes(name)));
}

/** The visible length of each axis. @returns {number[]} */
function spansOf() {
  return (session?.axes ?? []).map((axis, k) => {
    const ends = [state.view.x, state.view.y][k] ?? axis.range;
    return ends[1] - ends[0];
  });
}

/** By steps of the finest grid that is drawn there. @param {number} dx @param {number} dy */
function move(dx, dy) {
  if (!session) return;
  const window = ranges();
  const at = state.view.at ?? window.map(([a, b]) => (a + b) / 2);
  if (session.shape === "line") {
    const { x } = measuredLine(received, session.place);
    if (!x.length) return;
    select([x[Math.min(x.length - 1, Math.max(0, nearestIndex(x, at[0]) + dx))]], ARROWS);
    return;
  }
  const covers = scene && layerAt(scene, at);
  const next = [dx, dy].map((d, k) => {
    if (!d) return at[k];
    if (!covers) return at[k] + (d * (window[k][1] - window[k][0])) / 64;
    const axis = [covers.x, covers.y][k];
    return axis[Math.min(axis.length - 1, Math.max(0, nearestIndex(axis, at[k]) + d))];
  });
  select(next, ARROWS);
  follow(next, session);
}

/** The view goes along with a point that leaves it. @param {Coordinates} at @param {Session} session */
function follow(at, session) {
  const [x, y] = windowOf(state.view, session);
  const shift = [x, y].map(([a, b], k) => (at[k] < a ? at[k] - a : at[k] > b ? at[k] - b : 0));
  if (shift.some(Boolean)) pan([x[0] + shift[0], x[1] + shift[0]], [y[0] + shift[1], y[1] + shift[1]]);
}

/** @param {Coordinates | null} at */
function hover(at) {
  const box = byId("hover");
  if (!at || !scene || !session || session.shape === "line") {
    replace(box);
    return;
  }
  const { value, outcome } = valueAt(scene, at);
  const words = outcome ? outcomeWords(outcome, value) : `${scene.variable.name} ${number(value)} ${unit(scene.variable)}`;
  replace(box, ...placeWords(at, session, spansOf()), `    ${words}`);
}

byId("help-open").addEventListener("click", showHelp);

/** @param {"log" | "lines" | "points" | "path"} name */
const toggle = (name) => () => state.set({ [name]: !state.view[name] });
listenToKeys({
  move,
  turn: (dx, dy) => surface.turnBy(dx, dy),
  named: {
    nearer: () => zoomBy(0.7),
    farther: () => zoomBy(1 / 0.7),
    whole,
    help: showHelp,
    leave: () => actions.leave(),
    centre: () => actions.centre(),
    axes: () => actions.openAxes(),
    line: () => actions.beginLine(),
    ball: () => actions.openBall(),
    stop: () => connection.send({ type: "stop" }),
    log: toggle("log"),
    lines: toggle("lines"),
    points: toggle("points"),
    path: toggle("path"),
  },
  letters: { l: "log", k: "lines", p: "points", t: "path", c: "centre", a: "axes", m: "line", b: "ball", s: "stop" },
});

// ------------------------------------------------------------------ drawing

/** @returns {Overlays} */
function overlays() {
  const { at } = state.view;
  const gradient = at && reading?.at.every((v, k) => v === at[k]) ? reading.gradient : null;
  return {
    optimizerPaths: optimizerPaths.at(state.view.place), line: profile.at(state.view.place),
    gradient: gradient?.in_plane ?? null,
  };
}

function schedule() {
  turned = false;
  soon();
}

function soon() {
  if (!timers.frame && !awaited) timers.frame = requestAnimationFrame(paint);
}

function goOn() {
  clearTimeout(timers.patience);
  awaited = 0;
  schedule();
}

function paint() {
  timers.frame = 0;
  if (settling) timers.settle = setTimeout(settle, SETTLE);
  settling = false;
  if (!session || state.view.place !== session.place) return;
  const { view } = state;
  const shown = overlays();
  if (turned && scene) {
    surface.paint(scene, shown); // all else is as it was
    return;
  }
  if (session.shape === "line") {
    scene = null;
    curve.paint(view, session, received, shown);
    showReport(session.report ?? [], {}, false);
  } else {
    scene = compose(view, session, received, frozen, moving);
    map.paint(scene, shown);
    surface.paint(scene, shown);
    if (!moving) {
      showColorbar(byId("scale"), scene, reading?.values[scene.variable.name]);
      showReport(session.report ?? [], holesOf(scene), scene.layers.some(({ grid }) => grid.interpolated), beyondOf(scene));
    }
  }
  if (moving && !news.length) return; // what stands beside the pictures follows when they rest
  toolbar.show(scene, view, session, scene?.domain ?? curve.read?.heights ?? [0, 1]);
  showPoint(view.at ? reading : null, session, spansOf(), connection.answers);
  showClasses((view.at && reading?.classes) ?? null);
  showBookmarks(session.bookmarks ?? [], actions);
  const loss = session.variables.find((v) => v.name === "loss");
  profile.show(view.place, view.log, unit(loss));
  optimizerPaths.show(view.place);
  const plots = ["line-card", "ball-card"].filter((id) => !byId(id).hidden).length;
  showCrossSections(session.shape === "line" || plots ? null : scene);
  showSpectrum(plots ? null : (session.spectrum ?? null));
  byId("facts-card").hidden = plots === 2 && window.innerWidth > 820; // there is no room for everything
  byId("map-words").textContent = describe();
  if (!news.length) return;
  const drawn = news;
  news = [];
  requestAnimationFrame(() => {
    for (const timing of drawn) timings.push({ ...timing, drawn: performance.now() });
    while (timings.length > 400) timings.shift();
  });
}

/** What lies beyond the ends of the colours, in the unit of the quantity. @param {Scene} scene */
function beyondOf({ beyond, view }) {
  if (!beyond) return null;
  const [least, most] = [beyond.least, beyond.most].map((v) => (view.log ? 10 ** v : v));
  return { ...beyond, least, most };
}

/** The picture in a sentence, for who does not see it. */
function describe() {
  if (!scene?.layers.length) return "Nothing is known here yet.";
  const { log } = scene.view;
  const [low, high] = scene.domain.map((v) => (log ? 10 ** v : v));
  const [x, y] = [scene.x, scene.y].map((ends) => ends.map((v) => coordinate(v, ends[1] - ends[0])).join(" to "));
  return `${scene.variable.name} from ${number(low)} to ${number(high)} ${unit(scene.variable)}, over ${x} and ${y}.`;
}

state.listen((changed) => {
  if (changed.has("place") && session && state.view.place !== session.place) actions.go(state.view.place);
  if ((changed.has("x") || changed.has("y")) && !moving) askWindow();
  if (changed.has("at") && session && JSON.stringify(state.view.at) !== askedAt) ask(0);
  if (changed.size > 1 || !changed.has("camera")) schedule();
  else {
    turned ||= !timers.frame;
    soon();
  }
});
startTheme(byId("theme"));
onThemeChange(schedule);
new ResizeObserver(schedule).observe(byId("views"));
new ResizeObserver(schedule).observe(byId("panel"));
window.addEventListener("pagehide", () => state.save());
connection.open();

// ------------------------------------------------------------------ for tests and the curious: read, not write

/** @param {Layer} layer */
const copyOf = (layer) => ({
  axes: layer.grid.axes.map((axis) => [...axis]), values: [...(layer.raw ?? [])], drawn: [...layer.values],
  window: layer.grid.window ?? null, level: layer.grid.level, interpolated: Boolean(layer.grid.interpolated),
});

const lossnav = Object.freeze({
  get ready() { return session !== null && timings.length > 0; },
  get session() { return structuredClone(session); },
  get view() { return structuredClone(state.view); },
  get selection() { return structuredClone(reading); },
  get moving() { return moving; },
  get busy() { return progress.busy; },
  get timings() { return structuredClone(timings); },
  get requests() { return structuredClone(connection.requests); },
  drawn: () => scene && { metric: scene.variable.name, log: scene.view.log, domain: [...scene.domain], levels: [...scene.levels], x: [...scene.x], y: [...scene.y], slice: scene.layers[0]?.grid.slice ?? null, layers: scene.layers.map(copyOf) },
  surface: () => surface.shown(),
  triangles: () => surface.triangles,
  // What is shown at coordinates, and the area between the points that it is read from.
  /** @param {Coordinates} at */
  at: (at) => scene && { ...valueAt(scene, at), fineness: layerAt(scene, at)?.grid.fineness ?? Infinity },
  curve: () => session?.shape === "line" && { x: [...curve.line.x], rows: structuredClone(curve.line.rows) },
  ball: () => structuredClone(optimizerPaths.all.at(-1) ?? null),
  line: () => structuredClone(profile.line),
  // Pixels of the window where coordinates lie on the map, to point at.
  /** @param {Coordinates} at */
  pixel: (at) => map.pixelOf(at),
});
Object.assign(window, { lossnav });
