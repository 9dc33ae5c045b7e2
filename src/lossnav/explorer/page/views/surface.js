// The 3-D view: the surface of the map's numbers in the map's colours, or a volume's isosurfaces; drag turns it.

const TURN = 0.008; // radians a pixel
const LIFT = 0.001; // lines lie this much before the surface they lie on
const MANY = 6000; // measured points that are still worth marking

export class SurfaceView {
  // act: {turn(camera), select(at)}
  constructor(canvas, labels, act) {
    this.canvas = canvas;
    this.labels = labels;
    this.act = act;
    this.renderer = null;
    this.meshes = new Map();
    this.scene = null;
    this.#wake();
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.renderer = null;
    });
    canvas.addEventListener("webglcontextrestored", () => {
      this.#wake();
      if (this.scene) this.paint(this.scene, this.extras);
    });
    followPointer(canvas, {
      drag: (dx, dy, event) => this.#turn(dx, dy, event),
      zoom: (factor) => this.#approach(factor),
      click: (at) => this.#pick(at),
    });
  }

  #wake() {
    this.meshes.clear();
    try {
      this.renderer = new Renderer(this.canvas);
    } catch (error) {
      this.renderer = null;
      this.canvas.parentElement.dataset.lacks = "WebGL 2";
    }
  }

  #turn(dx, dy) {
    const [azimuth, elevation, distance] = this.scene.view.camera;
    this.act.turn([wrap(azimuth - dx * TURN), Math.min(1.55, Math.max(-0.4, elevation + dy * TURN)), distance]);
  }

  #approach(factor) {
    const [azimuth, elevation, distance] = this.scene.view.camera;
    this.act.turn([azimuth, elevation, Math.min(12, Math.max(2, distance * factor))]);
  }

  turnBy(dx, dy) {
    if (this.scene) this.#turn(dx, dy);
  }

  paint(scene, extras) {
    this.scene = scene;
    this.extras = extras;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!this.renderer || !width || !height) return;
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    for (const canvas of [this.canvas, this.labels]) {
      if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
      if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    }
    const matrix = matrixOf(scene.view.camera, width / height);
    this.matrix = matrix;
    const { renderer } = this;
    renderer.begin(matrix, eyeOf(scene.view.camera), this.canvas.width, this.canvas.height);
    renderer.colors(scene.view.colors, colorTable(scene.view.colors));
    this.ratio = ratio;
    if (scene.volume) this.#paintVolume();
    else this.#paintSurface();
    paintFrame(renderer, scene, matrix, ratio);
    this.#paintMarks();
    this.#paintLabels(width, height);
  }

  #world(place) {
    return worldOf(this.scene, place);
  }

  #mesh(key, make) {
    let mesh = this.meshes.get(key);
    if (mesh) this.meshes.delete(key);
    else {
      const { vertices, indexes } = make();
      mesh = this.renderer.upload(vertices, indexes);
    }
    this.meshes.set(key, mesh); // last used, last
    if (this.meshes.size > 24) {
      const [oldest, dropped] = this.meshes.entries().next().value;
      this.renderer.drop(dropped);
      this.meshes.delete(oldest);
    }
    return mesh;
  }

  #frameOf() {
    const { x, y } = this.scene;
    const [low, high] = verticalOf(this.scene);
    return { low: [x[0], y[0], low], size: [x[1] - x[0], y[1] - y[0], high - low], tall: TALL };
  }

  #paintSurface() {
    const { scene } = this;
    const steps = scene.view.lines && scene.levels.length ? [scene.levels[0], scene.step] : [0, 0];
    // What is finer stands for what lies under it, once it is whole; until then it lies a little before it.
    const rectangles = scene.layers.map(({ grid, extent: [[x0, x1], [y0, y1]] }) => {
      const [a, b] = [this.#world([x0, y0, 0]), this.#world([x1, y1, 0])];
      return isWhole(grid) ? [a[0], b[0], a[1], b[1]] : null;
    });
    scene.layers.forEach((layer, k) => {
      const name = `${layer.grid.key}/${scene.variable.name}/${scene.view.log}`;
      const mesh = this.#mesh(name, () => surfaceMesh(layer.x, layer.y, layer.values));
      this.renderer.drawMesh(mesh, { ...this.#frameOf(), domain: scene.domain, steps, cuts: rectangles.slice(k + 1).filter(Boolean), before: k });
    });
    if (!scene.view.points) return;
    const places = measuredPoints(scene, scene.points);
    if (places.length > MANY) return;
    const seen = places.map(([a, b]) => this.#world([a, b, this.heightAt([a, b])])).filter(inBox);
    this.renderer.points(seen, [1, 1, 1, 0.9], [0.08, 0.09, 0.11, 1], 3.6 * this.ratio, LIFT);
  }

  #paintVolume() {
    const { scene, renderer } = this;
    const { volume } = scene;
    const slice = scene.layers[0];
    const frame = this.#frameOf();
    const values = drawnOf(volume, scene.variable.name, scene.view.log);
    const levels = isoLevels(scene);
    const drawIso = (level, opacity) => {
      const name = `${volume.key}/${scene.variable.name}/${scene.view.log}/${level}`;
      renderer.drawMesh(this.#mesh(name, () => isosurfaceMesh(volume.axes, values, level)), { ...frame, domain: scene.domain, opacity });
    };
    levels.slice(0, 1).forEach((level) => drawIso(level, 1));
    const name = `${slice.grid.key}/${scene.variable.name}/${scene.view.log}/slice`;
    const flat = this.#mesh(name, () => surfaceMesh(slice.x, slice.y, slice.values, slice.grid.slice));
    const steps = scene.view.lines && scene.levels.length ? [scene.levels[0], scene.step] : [0, 0];
    levels.slice(1).forEach((level, k) => drawIso(level, k ? 0.2 : 0.34));
    renderer.drawMesh(flat, { ...frame, domain: scene.domain, steps, lit: 0, opacity: 0.82 });
  }

  // What lies on the card: a vertex's place and value are float32 of what the map draws.
  shown() {
    if (!this.scene || !this.renderer) return null;
    const layers = this.scene.layers.map((layer) => {
      const { vertices, indexes } = surfaceMesh(layer.x, layer.y, layer.values, this.scene.volume ? layer.grid.slice : null);
      return { heights: [...layer.values.keys()].map((k) => vertices[7 * k + 6]), triangles: indexes.length / 3 };
    });
    return { layers, at: this.scene.view.at, height: this.scene.view.at && this.heightAt(this.scene.view.at) };
  }

  heightAt(at) {
    for (const layer of this.scene.layers.toReversed()) {
      const value = sample(layer.x, layer.y, layer.values, ...at);
      if (Number.isFinite(value)) return value;
    }
    return NaN;
  }

  #drawnLoss(value) {
    return this.scene.view.log ? (value > 0 ? Math.log10(value) : NaN) : value;
  }

  #path(path, color, width) {
    const { renderer, scene, ratio } = this;
    if (scene.volume) {
      renderer.polyline(path.at.map((at) => this.#world([...at, at[2] ?? scene.layers[0].grid.slice])), [...rgb(color), 1], width * ratio, LIFT);
      return;
    }
    const shadow = path.at.map((at) => this.#world([...at, this.heightAt(at)])).map((p) => (inBox(p) ? p : [NaN, NaN, NaN]));
    renderer.polyline(shadow, [0.05, 0.06, 0.08, 0.55], 1.6 * ratio, LIFT);
    if (scene.variable.name !== "loss" || !path.loss) {
      renderer.polyline(shadow, [...rgb(color), 1], width * ratio, 1.2 * LIFT);
      return;
    }
    // At its true loss: where it has left the plane it leaves the surface too.
    const high = path.at.map((at, k) => this.#world([...at, this.#drawnLoss(path.loss[k])])).map((p) => (nearBox(p) ? p : [NaN, NaN, NaN]));
    const stems = [];
    const every = Math.max(1, Math.floor(path.at.length / 24));
    high.forEach((p, k) => {
      if ((k % every && k + 1 !== high.length) || !shadow[k].every(Number.isFinite) || !p.every(Number.isFinite)) return;
      if (Math.abs(p[2] - shadow[k][2]) > 0.015) stems.push(...shadow[k], ...p);
    });
    renderer.segments(stems, [...rgb(color), 0.5], 0.6 * ratio, LIFT);
    renderer.polyline(high, [0.05, 0.06, 0.08, 0.75], (width + 1.3) * ratio, LIFT);
    renderer.polyline(high, [...rgb(color), 1], width * ratio, 2 * LIFT);
    return high;
  }

  #paintMarks() {
    const { renderer, scene, extras, ratio } = this;
    const colors = ink();
    const white = [1, 1, 1, 1];
    const dark = [0.06, 0.07, 0.09, 1];
    const { trajectory } = scene.session;
    if (trajectory && scene.view.path) {
      const high = this.#path(trajectory, colors.path, 1.3) ?? [];
      const marks = epochsOf(trajectory).map(({ index }) => high[index]).filter(Boolean);
      renderer.points(marks, white, dark, 6 * ratio, 3 * LIFT);
    }
    for (const ball of extras.optimizerPaths ?? []) {
      const high = this.#path(ball, colors.ball, 1.5);
      const last = high?.findLast((p) => p.every(Number.isFinite));
      if (last) renderer.points([last], [...rgb(colors.ball), 1], dark, 13 * ratio, 4 * LIFT);
    }
    if (extras.line && !scene.volume) {
      const { from, to } = extras.line;
      const walk = Array.from({ length: 65 }, (_, k) => from.map((v, c) => v + (k / 64) * (to[c] - v)));
      const high = walk.map((at) => this.#world([...at, this.heightAt(at)])).map((p) => (inBox(p) ? p : [NaN, NaN, NaN]));
      renderer.polyline(high, [...rgb(colors.pick), 1], 1.4 * ratio, 2 * LIFT);
    }
    const { at } = scene.view;
    if (!at) return;
    const height = scene.volume ? scene.layers[0].grid.slice : this.heightAt(at);
    const place = this.#world([at[0], at[1], Number.isFinite(height) ? height : verticalOf(this.scene)[0]]);
    if (Math.abs(place[0]) > 1.001 || Math.abs(place[1]) > 1.001) return;
    const gl = renderer.gl;
    const stem = [place[0], place[1], 0, ...place];
    const pick = rgb(colors.pick);
    // What is behind the surface shines through faintly.
    gl.depthFunc(gl.GREATER);
    renderer.segments(stem, [...pick, 0.28], 0.8 * ratio);
    renderer.points([place], [...pick, 0.3], [1, 1, 1, 0], 11 * ratio, 0);
    gl.depthFunc(gl.LEQUAL);
    renderer.segments(stem, [...pick, 0.9], 0.8 * ratio, LIFT);
    renderer.points([place], [...pick, 1], white, 14 * ratio, 6 * LIFT);
  }

  #paintLabels(width, height) {
    const context = this.labels.getContext("2d", UNACCELERATED);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    paintLabels(context, labelsOf(this.scene, this.matrix, width, height));
  }

  // The place under a pixel, on the surface or on a volume's slice or first isosurface, whichever the ray meets first.
  #pick(at) {
    const { scene, canvas } = this;
    if (!scene) return;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const { eye, way } = ray(scene.view.camera, width / height, ...at, width, height);
    const { x, y } = scene;
    const [low, high] = verticalOf(scene);
    const data = (t) => {
      const p = eye.map((v, k) => v + t * way[k]);
      const place = [x[0] + ((p[0] + 1) / 2) * (x[1] - x[0]), y[0] + ((p[1] + 1) / 2) * (y[1] - y[0])];
      return { at: scene.volume ? [...place, low + (p[2] / TALL) * (high - low)] : place, z: p[2], p };
    };
    const outside = ({ p }) => Math.abs(p[0]) > 1 || Math.abs(p[1]) > 1 || (scene.volume && (p[2] < 0 || p[2] > TALL));
    if (scene.volume) {
      const met = this.#meets(eye, way, data, outside);
      if (met !== null) this.act.select(data(met).at);
      return;
    }
    const over = (t) => {
      const d = data(t);
      return outside(d) ? NaN : d.z - this.#world([...d.at, this.heightAt(d.at)])[2];
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

  // How far along a ray a volume's slice or its opaque isosurface lies; null where it meets neither.
  #meets(eye, way, data, outside) {
    const { scene } = this;
    const { volume } = scene;
    const slice = (this.#world([0, 0, scene.layers[0].grid.slice])[2] - eye[2]) / way[2];
    const end = slice > 0 && !outside(data(slice)) ? slice : null;
    const values = drawnOf(volume, scene.variable.name, scene.view.log);
    const [level] = isoLevels(scene);
    let last = NaN;
    for (let t = 0.3; t < (end ?? 14); t += 0.012) {
      const d = data(t);
      const now = outside(d) ? NaN : sampleVolume(volume, values, d.at) - level;
      if (last * now <= 0) return t;
      last = now;
    }
    return end;
  }
}

// A path may go lower than anything on the map does.
const nearBox = ([a, b, c]) => Math.abs(a) <= 1.001 && Math.abs(b) <= 1.001 && c >= -0.8 && c <= TALL + 0.5;
const inBox = ([a, b, c]) => Math.abs(a) <= 1.001 && Math.abs(b) <= 1.001 && c >= -0.001 && c <= TALL + 0.001;
const wrap = (angle) => ((((angle + Math.PI) % (2 * Math.PI)) + 2 * Math.PI) % (2 * Math.PI)) - Math.PI;

import { UNACCELERATED } from "../base/dom.js";
import { ink, rgb } from "../base/theme.js";
import { followPointer } from "../controls/gestures.js";
import { labelsOf, paintFrame, paintLabels, TALL, verticalOf, worldOf } from "../drawing/axes_3d.js";
import { eyeOf, matrixOf, ray } from "../drawing/camera.js";
import { colorTable } from "../drawing/colormaps.js";
import { epochsOf } from "../drawing/markers.js";
import { isosurfaceMesh, surfaceMesh } from "../drawing/meshes.js";
import { Renderer } from "../drawing/webgl.js";
import { isWhole } from "../state/incomplete_grids.js";
import { sample, sampleVolume } from "../state/interpolation.js";
import { isoLevels } from "../state/levels.js";
import { measuredPoints } from "../state/measurements.js";
import { drawnOf } from "../state/scene.js";

