// @ts-check
// The 3-D view: the surface of the map's numbers in the map's colours, or a volume's isosurfaces; drag turns it.

/** @import { Camera, Matrix, Vector } from "../drawing/camera.js" */
/** @import { Mesh } from "../drawing/meshes.js" */
/** @import { Pixel } from "../drawing/plot_area.js" */
/** @import { Color, Uploaded } from "../drawing/webgl.js" */
/** @import { Coordinates, Range } from "../state/messages.js" */
/** @import { Grid } from "../state/received.js" */
/** @import { Overlays, Path, Scene } from "../state/scene.js" */

import { context2d, parentOf } from "../base/dom.js";
import { ink, rgb } from "../base/theme.js";
import { followPointer } from "../controls/gestures.js";
import { labelsOf, paintFrame, paintLabels, TALL, verticalOf, worldOf } from "../drawing/axes_3d.js";
import { eyeOf, matrixOf, ray } from "../drawing/camera.js";
import { colorTable } from "../drawing/colormaps.js";
import { epochsOf } from "../drawing/markers.js";
import { isosurfaceMesh, seenMesh, surfaceMesh, thinned } from "../drawing/meshes.js";
import { Renderer } from "../drawing/webgl.js";
import { alone } from "../state/coverage.js";
import { cellIndex, sampleVolume } from "../state/interpolation.js";
import { isoLevels } from "../state/levels.js";
import { heightAt, measuredPoints } from "../state/measurements.js";
import { drawnOf, scaled } from "../state/scene.js";

const TURN = 0.008; // radians a pixel
const LIFT = 0.001; // lines lie this much before the surface they lie on
const MESHES = 48; // on the card
const LIVELY = { card: 250, played: 120 }; // cells along a side that can be turned fast: with a graphics card, and where a processor plays one
const REST = 150; // ms after the last turn at which all of them are drawn
const MANY = 6000; // measured points that are still worth marking

/** @typedef {{ at: Coordinates, p: Vector }} OnRay Coordinates, and the place in the box. */
/** @typedef {{ turn: (camera: Camera) => void, select: (at: Coordinates) => void }} Acts */

/** @type {Vector} */
const NOWHERE = [NaN, NaN, NaN];

export class SurfaceView {
  /** @param {HTMLCanvasElement} canvas @param {HTMLCanvasElement} labels @param {Acts} act */
  constructor(canvas, labels, act) {
    this.canvas = canvas;
    this.labels = labels;
    this.act = act;
    /** @type {Renderer | null} */
    this.renderer = null;
    /** @type {Map<string, Uploaded>} */
    this.meshes = new Map();
    /** @type {Scene | null} */
    this.scene = null;
    /** @type {Overlays} */
    this.overlays = {};
    /** @type {Matrix} */
    this.matrix = new Float32Array(16);
    this.turning = false;
    this.triangles = 0; // of what was drawn last
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.resting = undefined;
    this.ratio = 1; // pixels of the screen for one of the page
    this.#wake();
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.renderer = null;
    });
    canvas.addEventListener("webglcontextrestored", () => {
      this.#wake();
      if (this.scene) this.paint(this.scene, this.overlays);
    });
    followPointer(canvas, {
      drag: (dx, dy) => this.turnBy(dx, dy),
      zoom: (factor) => this.#approach(factor),
      click: (at) => this.#pick(at),
    });
  }

  #wake() {
    this.meshes.clear();
    try {
      this.renderer = new Renderer(this.canvas);
    } catch {
      this.renderer = null;
      parentOf(this.canvas).dataset.lacks = "WebGL 2";
    }
  }

  /** @param {number} dx @param {number} dy Pixels. */
  turnBy(dx, dy) {
    if (!this.scene) return;
    const [azimuth, elevation, distance] = this.scene.view.camera;
    this.#moves();
    this.act.turn([wrap(azimuth - dx * TURN), Math.min(1.55, Math.max(-0.4, elevation + dy * TURN)), distance]);
  }

  /** Until it rests a surface of very many points is drawn with some of them. */
  #moves() {
    this.turning = true;
    clearTimeout(this.resting);
  }

  /** Rest begins when the last turn is on the screen, however long that takes; before it nobody has seen it. */
  #rests() {
    clearTimeout(this.resting);
    this.resting = setTimeout(() => {
      this.turning = false;
      if (this.scene) this.paint(this.scene, this.overlays);
    }, REST);
  }

  /** @param {number} factor */
  #approach(factor) {
    if (!this.scene) return;
    const [azimuth, elevation, distance] = this.scene.view.camera;
    this.#moves();
    this.act.turn([azimuth, elevation, Math.min(12, Math.max(2, distance * factor))]);
  }

  /** @param {Scene} scene @param {Overlays} overlays */
  paint(scene, overlays) {
    this.scene = scene;
    this.overlays = overlays;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const { renderer } = this;
    if (!renderer || !width || !height) return;
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    for (const canvas of [this.canvas, this.labels]) {
      if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
      if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    }
    const matrix = matrixOf(scene.view.camera, width / height);
    this.matrix = matrix;
    renderer.begin(matrix, eyeOf(scene.view.camera), this.canvas.width, this.canvas.height);
    renderer.colors(scene.view.colors, colorTable(scene.view.colors));
    this.ratio = ratio;
    if (scene.volume) this.#paintVolume(renderer, scene, scene.volume);
    else this.#paintSurface(renderer, scene);
    paintFrame(renderer, scene, matrix, ratio);
    this.#paintMarkers(renderer, scene);
    this.#paintLabels(scene, width, height);
    if (this.turning) this.#rests();
  }

  /** A mesh on the card, made once. @param {Renderer} renderer @param {string} key @param {() => Mesh} make */
  #mesh(renderer, key, make) {
    const there = this.meshes.get(key);
    if (there) this.meshes.delete(key);
    const mesh = there ?? renderer.upload(make());
    this.meshes.set(key, mesh); // last used, last
    if (this.meshes.size > Math.max(MESHES, 2 * (this.scene?.layers.length ?? 0))) {
      const [[oldest, dropped]] = this.meshes;
      renderer.drop(dropped);
      this.meshes.delete(oldest);
    }
    return mesh;
  }

  /** @param {Renderer} renderer @param {Scene} scene */
  #paintSurface(renderer, scene) {
    const steps = scene.view.lines && scene.levels.length ? [scene.levels[0], scene.step] : [0, 0];
    const most = scene.moving || this.turning ? LIVELY[renderer.played ? "played" : "card"] : Infinity;
    this.triangles = 0;
    scene.layers.forEach((_, k) => {
      const mesh = this.#mesh(renderer, meshName(scene, k, most), () => layerMesh(scene, k, most));
      renderer.drawMesh(mesh, { ...boxIn(scene), domain: scene.domain, steps });
      this.triangles += mesh.count / 3;
    });
    if (!scene.view.points) return;
    const places = measuredPoints(scene);
    if (places.length > MANY) return;
    const seen = places.map((at) => onSurface(scene, at)).filter(inBox);
    renderer.points(seen, [1, 1, 1, 0.9], [0.08, 0.09, 0.11, 1], 3.6 * this.ratio, LIFT);
  }

  /** @param {Renderer} renderer @param {Scene} scene @param {Grid} volume */
  #paintVolume(renderer, scene, volume) {
    const slice = scene.layers[0];
    const frame = boxIn(scene);
    const values = drawnOf(volume, scene.variable.name, scene.view.log);
    const levels = isoLevels(scene);
    /** @param {number} level @param {number} opacity */
    const drawIso = (level, opacity) => {
      const name = `${volume.key}/${scene.variable.name}/${scene.view.log}/${level}`;
      renderer.drawMesh(this.#mesh(renderer, name, () => isosurfaceMesh(volume.axes, values, level)), { ...frame, domain: scene.domain, opacity });
    };
    for (const level of levels.slice(0, 1)) drawIso(level, 1);
    const name = `${slice.grid.key}/${scene.variable.name}/${scene.view.log}/slice`;
    const flat = this.#mesh(renderer, name, () => surfaceMesh(slice.x, slice.y, slice.values, slice.grid.slice));
    const steps = scene.view.lines && scene.levels.length ? [scene.levels[0], scene.step] : [0, 0];
    for (const [k, level] of levels.slice(1).entries()) drawIso(level, k ? 0.2 : 0.34);
    renderer.drawMesh(flat, { ...frame, domain: scene.domain, steps, lit: 0, opacity: 0.82 });
  }

  /** What lies on the card: of each layer its triangles, and the value of every vertex with its place. */
  shown() {
    const { scene } = this;
    if (!scene || !this.renderer) return null;
    const layers = scene.layers.map((layer, k) => {
      const { vertices, indexes, origin } = scene.volume ? surfaceMesh(layer.x, layer.y, layer.values, layer.grid.slice ?? null) : layerMesh(scene, k);
      const of = (/** @type {number} */ c, /** @type {number} */ o) => Array.from({ length: vertices.length / 7 }, (_, v) => vertices[7 * v + c] + origin[o]);
      return { x: of(0, 0), y: of(1, 1), heights: of(6, 2), triangles: indexes.length / 3 };
    });
    const { at } = scene.view;
    return { layers, at, height: at && heightAt(scene, at) };
  }

  /**
   * A path over the surface at its true loss, and its shadow on it. Returns where it was drawn, and where its end is marked: `away`
   * if that is only the shadow, since the loss there is not on the picture.
   * @param {Renderer} renderer
   * @param {Scene} scene
   * @param {Path} path
   * @param {string} color
   * @param {number} width
   * @returns {{ high: Vector[], end: Vector, away: boolean }}
   */
  #path(renderer, scene, path, color, width) {
    const { ratio } = this;
    if (scene.volume) {
      const { slice } = scene.layers[0].grid;
      const places = path.at.map((at) => worldOf(scene, [at[0], at[1], at[2] ?? slice])).map((p) => (inBox(p) ? p : NOWHERE));
      renderer.polyline(places, [...rgb(color), 1], width * ratio, LIFT);
      return { high: [], end: places.at(-1) ?? NOWHERE, away: false };
    }
    const shadow = path.at.map((at) => onSurface(scene, at)).map((p) => (inBox(p) ? p : NOWHERE));
    renderer.polyline(shadow, [0.05, 0.06, 0.08, 0.55], 1.6 * ratio, LIFT);
    const { loss } = path;
    if (scene.variable.name !== "loss" || !loss) {
      renderer.polyline(shadow, [...rgb(color), 1], width * ratio, 1.2 * LIFT);
      return { high: [], end: shadow.at(-1) ?? NOWHERE, away: false };
    }
    // At its true loss: where it has left the plane it leaves the surface too.
    const high = path.at.map((at, k) => worldOf(scene, [at[0], at[1], scaled(loss[k], scene.view.log)])).map((p) => (nearBox(p) ? p : NOWHERE));
    /** @type {number[]} */
    const stems = [];
    const every = Math.max(1, Math.floor(path.at.length / 24));
    high.forEach((p, k) => {
      if ((k % every && k + 1 !== high.length) || !shadow[k].every(Number.isFinite) || !p.every(Number.isFinite)) return;
      if (Math.abs(p[2] - shadow[k][2]) > 0.015) stems.push(...shadow[k], ...p);
    });
    renderer.segments(stems, [...rgb(color), 0.5], 0.6 * ratio, LIFT);
    renderer.polyline(high, [0.05, 0.06, 0.08, 0.75], (width + 1.3) * ratio, LIFT);
    renderer.polyline(high, [...rgb(color), 1], width * ratio, 2 * LIFT);
    const end = high.at(-1) ?? NOWHERE;
    return end.every(Number.isFinite) ? { high, end, away: false } : { high, end: shadow.at(-1) ?? NOWHERE, away: true };
  }

  /** @param {Renderer} renderer @param {Scene} scene */
  #paintMarkers(renderer, scene) {
    const { overlays, ratio } = this;
    const colors = ink();
    /** @type {Color} */
    const white = [1, 1, 1, 1];
    /** @type {Color} */
    const dark = [0.06, 0.07, 0.09, 1];
    const { trajectory } = scene.session;
    if (trajectory && scene.view.path) {
      const { high } = this.#path(renderer, scene, { at: trajectory.at, loss: trajectory.loss }, colors.path, 1.3);
      const marks = epochsOf(trajectory).map(({ index }) => high[index] ?? NOWHERE);
      renderer.points(marks, white, dark, 6 * ratio, 3 * LIFT);
    }
    for (const path of overlays.optimizerPaths ?? []) {
      const { high, end, away } = this.#path(renderer, scene, path, colors.ball, 1.5);
      // A disc where it is; a ring on the surface where its loss lies beyond the picture.
      const [fill, rim] = away ? [white, rgb(colors.ball)] : [/** @type {Color} */ ([...rgb(colors.ball), 1]), dark];
      // Below the surface, as a ball that has left the plane for lower ground is, it shines through.
      renderer.behind(() => {
        renderer.polyline(high, [...rgb(colors.ball), 0.55], 1.5 * ratio, -LIFT);
        renderer.points([end], [...rgb(colors.ball), 0.55], [1, 1, 1, 0.4], 12 * ratio, -LIFT);
      });
      renderer.points([end], fill, /** @type {Color} */ ([...rim.slice(0, 3), 1]), 13 * ratio, 4 * LIFT);
    }
    if (overlays.line && !scene.volume) {
      const { from, to } = overlays.line;
      const walk = Array.from({ length: 65 }, (_, k) => from.map((v, c) => v + (k / 64) * (to[c] - v)));
      const high = walk.map((at) => onSurface(scene, at)).map((p) => (inBox(p) ? p : NOWHERE));
      renderer.polyline(high, [...rgb(colors.pick), 1], 1.4 * ratio, 2 * LIFT);
    }
    const { at } = scene.view;
    if (!at) return;
    const height = scene.volume ? (scene.layers[0].grid.slice ?? NaN) : heightAt(scene, at);
    const place = worldOf(scene, [at[0], at[1], Number.isFinite(height) ? height : verticalOf(scene)[0]]);
    if (Math.abs(place[0]) > 1.001 || Math.abs(place[1]) > 1.001) return;
    const stem = [place[0], place[1], 0, ...place];
    const pick = rgb(colors.pick);
    // What is behind the surface shines through faintly.
    renderer.behind(() => {
      renderer.segments(stem, [...pick, 0.28], 0.8 * ratio);
      renderer.points([place], [...pick, 0.3], [1, 1, 1, 0], 11 * ratio, 0);
    });
    renderer.segments(stem, [...pick, 0.9], 0.8 * ratio, LIFT);
    renderer.points([place], [...pick, 1], white, 14 * ratio, 6 * LIFT);
  }

  /** @param {Scene} scene @param {number} width @param {number} height */
  #paintLabels(scene, width, height) {
    const context = context2d(this.labels);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    paintLabels(context, labelsOf(scene, this.matrix, width, height), width, height);
  }

  /** The place under a pixel, on the surface or on a volume's slice or first isosurface, whichever the ray meets first. @param {Pixel} pixel */
  #pick([px, py]) {
    const { scene, canvas } = this;
    if (!scene) return;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const { eye, way } = ray(scene.view.camera, px, py, width, height);
    const { x, y } = scene;
    const [low, high] = verticalOf(scene);
    /** @param {number} t @returns {OnRay} */
    const data = (t) => {
      /** @type {Vector} */
      const p = [eye[0] + t * way[0], eye[1] + t * way[1], eye[2] + t * way[2]];
      const place = [x[0] + ((p[0] + 1) / 2) * (x[1] - x[0]), y[0] + ((p[1] + 1) / 2) * (y[1] - y[0])];
      return { at: scene.volume ? [...place, low + (p[2] / TALL) * (high - low)] : place, p };
    };
    /** @param {OnRay} on */
    const outside = ({ p }) => Math.abs(p[0]) > 1 || Math.abs(p[1]) > 1 || (scene.volume !== null && (p[2] < 0 || p[2] > TALL));
    if (scene.volume) {
      const met = meets(scene, scene.volume, eye[2], way[2], data, outside);
      if (met !== null) this.act.select(data(met).at);
      return;
    }
    /** @param {number} t */
    const over = (t) => {
      const d = data(t);
      return outside(d) ? NaN : d.p[2] - onSurface(scene, d.at)[2];
    };
    let last = NaN;
    for (let t = 0.3; t < 14; t += 0.012) {
      const now = over(t);
      if (last > 0 && now <= 0) {
        let [a, b] = [t - 0.012, t];
        for (let k = 0; k < 24; k++) {
          const m = (a + b) / 2;
          if (over(m) > 0) a = m;
          else b = m;
        }
        this.act.select(data(b).at);
        return;
      }
      last = now;
    }
  }
}

/**
 * What of a layer is made into triangles: all of it, or where it is much larger than the window some of that, in steps of
 * a power of two, so that panning makes none anew.
 * @param {Range} window
 * @param {Range} extent
 * @returns {Range}
 */
function clipOf([low, high], extent) {
  const unit = 2 ** Math.ceil(Math.log2(high - low));
  /** @type {Range} */
  const near = [(Math.floor(low / unit) - 1) * unit, (Math.ceil(high / unit) + 1) * unit];
  return [Math.max(extent[0], near[0]), Math.min(extent[1], near[1])];
}

/** @param {Scene} scene @param {number} k Index of the layer. */
const clipsOf = (scene, k) => [scene.x, scene.y].map((ends, d) => clipOf(ends, scene.layers[k].extent[d]));
/** The window's length, rounded to a power of two: of how many pieces a cell is. @param {Scene} scene */
const lengthsOf = (scene) => [scene.x, scene.y].map(([a, b]) => 2 ** Math.round(Math.log2(b - a)));

/** Of how many nodes of a layer one is drawn. @param {Scene} scene @param {number} k @param {number} most Cells along a side. */
function strideOf(scene, k, most) {
  if (scene.coverage.owner) return 1;
  const { x, y } = scene.layers[k];
  return Math.max(1, Math.ceil(Math.max(...clipsOf(scene, k).map(([a, b], d) => cellIndex([x, y][d], b) - cellIndex([x, y][d], a))) / most));
}

/** What a mesh depends on. @param {Scene} scene @param {number} k @param {number} most */
function meshName(scene, k, most) {
  const over = scene.layers.slice(k + 1).map(({ grid }) => grid.key);
  const { grid } = scene.layers[k];
  return [grid.key, scene.variable.name, scene.view.log, clipsOf(scene, k), lengthsOf(scene), over, strideOf(scene, k, most)].join("/");
}

/** @param {Scene} scene @param {number} k @param {number} most @returns {Mesh} */
function layerMesh(scene, k, most = Infinity) {
  const { x, y, values } = scene.layers[k];
  const stride = strideOf(scene, k, most);
  const clip = clipsOf(scene, k);
  if (stride === 1) return seenMesh({ x, y, values }, scene.coverage, k, clip, lengthsOf(scene));
  const thin = thinned(x, y, values, stride);
  return seenMesh(thin, alone([thin.x, thin.y]), 0, clip, lengthsOf(scene));
}

/** The box of the view, in data. @param {Scene} scene */
function boxIn(scene) {
  const { x, y } = scene;
  const [low, high] = verticalOf(scene);
  return { low: [x[0], y[0], low], size: [x[1] - x[0], y[1] - y[0], high - low], tall: TALL };
}

/** Where coordinates lie on the surface, in the box. @param {Scene} scene @param {Coordinates} at */
const onSurface = (scene, at) => worldOf(scene, [at[0], at[1], heightAt(scene, at)]);

/**
 * How far along a ray a volume's slice or its opaque isosurface lies; null where it meets neither.
 * @param {Scene} scene
 * @param {Grid} volume
 * @param {number} eye Height of the eye.
 * @param {number} way Of the ray's direction the part that goes up.
 * @param {(t: number) => OnRay} data
 * @param {(on: OnRay) => boolean} outside
 */
function meets(scene, volume, eye, way, data, outside) {
  const slice = (worldOf(scene, [0, 0, scene.layers[0].grid.slice ?? NaN])[2] - eye) / way;
  const end = slice > 0 && !outside(data(slice)) ? slice : null;
  const values = drawnOf(volume, scene.variable.name, scene.view.log);
  const [level] = isoLevels(scene);
  let last = NaN;
  for (let t = 0.3; t < (end ?? 14); t += 0.012) {
    const d = data(t);
    const now = outside(d) ? NaN : sampleVolume(volume.axes, values, d.at) - level;
    if (last * now <= 0) return t;
    last = now;
  }
  return end;
}

/** A path may go lower than anything on the map does. @param {Vector} p */
const nearBox = ([a, b, c]) => Math.abs(a) <= 1.001 && Math.abs(b) <= 1.001 && c >= -0.8 && c <= TALL + 0.5;
/** @param {Vector} p */
const inBox = ([a, b, c]) => Math.abs(a) <= 1.001 && Math.abs(b) <= 1.001 && c >= -0.001 && c <= TALL + 0.001;
/** Into [-π, π). @param {number} angle */
const wrap = (angle) => ((((angle + Math.PI) % (2 * Math.PI)) + 2 * Math.PI) % (2 * Math.PI)) - Math.PI;
