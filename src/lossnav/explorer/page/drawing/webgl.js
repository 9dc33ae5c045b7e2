// @ts-check
// What the 3-D view draws with: meshes coloured by value, lines of even width, round points. WebGL 2, no library.

/** @import { Matrix, Vector } from "./camera.js" */
/** @import { Mesh } from "./meshes.js" */

const MESH_VERTEX = `#version 300 es
in vec3 place; in vec3 slope; in float value;
uniform mat4 matrix; uniform vec3 low; uniform vec3 size; uniform float tall;
out vec3 world; out vec3 normal; out float seen;
void main() {
  world = (place - low) / size * vec3(2.0, 2.0, tall) - vec3(1.0, 1.0, 0.0);
  normal = slope * size / vec3(2.0, 2.0, tall);
  seen = value;
  gl_Position = matrix * vec4(world, 1.0);
}`;

const MESH_FRAGMENT = `#version 300 es
precision highp float;
in vec3 world; in vec3 normal; in float seen;
uniform sampler2D colors; uniform vec2 domain; uniform vec2 steps; uniform float opacity; uniform vec3 eye;
uniform float tall; uniform float lit;
out vec4 color;
void main() {
  if (abs(world.x) > 1.0005 || abs(world.y) > 1.0005 || world.z < -0.0005 || world.z > tall + 0.0005) discard;
  float t = clamp((seen - domain.x) / (domain.y - domain.x), 0.0, 1.0);
  vec3 base = texture(colors, vec2((t * 255.0 + 0.5) / 256.0, 0.5)).rgb;
  vec3 n = normalize(normal);
  vec3 sight = normalize(eye - world);
  if (dot(n, sight) < 0.0) n = -n;
  vec3 lamp = normalize(sight + vec3(-0.5, 0.35, 0.9));
  float light = mix(1.0, 0.66 + 0.4 * max(0.0, dot(n, lamp)), lit);
  float shine = 0.10 * lit * pow(max(0.0, dot(n, normalize(lamp + sight))), 24.0);
  vec3 shown = base * light + shine;
  if (steps.y > 0.0) {
    float q = (seen - steps.x) / steps.y;
    float width = fwidth(q);
    float off = abs(fract(q - 0.5) - 0.5) / max(width, 1e-6);
    // Where the values are one another's equal but for rounding there is no line, be they a level's own.
    float rises = step(4e-6 * (1.0 + abs(q)), width);
    float line = rises * (1.0 - smoothstep(0.25, 0.95, off)) * (1.0 - smoothstep(0.25, 0.6, width));
    shown = mix(shown, t < 0.62 ? vec3(1.0) : vec3(0.08, 0.09, 0.11), line * 0.42);
  }
  color = vec4(shown * opacity, opacity);
}`;

const LINE_VERTEX = `#version 300 es
in vec2 corner; in vec3 start; in vec3 end;
uniform mat4 matrix; uniform vec2 screen; uniform highp float width; uniform float lift;
out float along;
void main() {
  vec4 a = matrix * vec4(start, 1.0);
  vec4 b = matrix * vec4(end, 1.0);
  vec2 way = (b.xy / b.w - a.xy / a.w) * screen;
  vec2 side = length(way) > 1e-4 ? normalize(vec2(-way.y, way.x)) : vec2(0.0, 1.0);
  vec2 on = length(way) > 1e-4 ? normalize(way) : vec2(1.0, 0.0);
  vec4 p = mix(a, b, corner.x);
  p.xy += (side * corner.y * (width + 1.0) + on * (corner.x - 0.5) * 0.7 * width) / screen * p.w;
  p.z -= lift * p.w;
  along = corner.y;
  gl_Position = p;
}`;

const LINE_FRAGMENT = `#version 300 es
precision highp float;
in float along; uniform vec4 ink; uniform highp float width; out vec4 color;
void main() {
  float cover = clamp((width + 1.0) * 0.5 * (1.0 - abs(along)), 0.0, 1.0) * min(1.0, width);
  color = vec4(ink.rgb, 1.0) * ink.a * cover;
}`;

const POINT_VERTEX = `#version 300 es
in vec3 start; uniform mat4 matrix; uniform float width; uniform float lift;
void main() { gl_Position = matrix * vec4(start, 1.0); gl_Position.z -= lift * gl_Position.w; gl_PointSize = width; }`;

const POINT_FRAGMENT = `#version 300 es
precision highp float;
uniform vec4 ink; uniform vec4 rim; uniform float width; out vec4 color;
void main() {
  float r = length(gl_PointCoord - 0.5) * width;
  float edge = width * 0.5;
  float cover = 1.0 - smoothstep(edge - 1.0, edge, r);
  if (cover <= 0.0) discard;
  vec4 shown = mix(ink, rim, rim.a * smoothstep(edge - 2.6, edge - 1.8, r));
  color = vec4(shown.rgb, 1.0) * ink.a * cover;
}`;

/** @param {WebGL2RenderingContext} gl @param {string} vertex @param {string} fragment */
function program(gl, vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, source] of /** @type {[number, string][]} */ ([[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]])) {
    const shader = gl.createShader(kind);
    if (!shader) throw new Error("The graphics card is lost.");
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made) ?? "shader");
  /** @type {Record<string, WebGLUniformLocation | null>} */
  const uniforms = {};
  for (let k = 0; k < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); k++) {
    const name = gl.getActiveUniform(made, k)?.name ?? "";
    uniforms[name.replace("[0]", "")] = gl.getUniformLocation(made, name);
  }
  return { made, uniforms, at: (/** @type {string} */ name) => gl.getAttribLocation(made, name) };
}

// Whether a processor plays the graphics card. Four samples a pixel then triple what a picture of 201×201 takes.
function isPlayed() {
  const gl = document.createElement("canvas").getContext("webgl2", { antialias: false, depth: false });
  if (!gl) return false;
  const names = gl.getExtension("WEBGL_debug_renderer_info");
  const name = String(gl.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return /swiftshader|llvmpipe|software|basic render/i.test(name);
}

/** @typedef {[red: number, green: number, blue: number, opacity: number]} Color Each in [0, 1]. */
/** @typedef {{ vertices: WebGLBuffer | null, indexes: WebGLBuffer | null, count: number, origin: Mesh["origin"] }} Uploaded */

export class Renderer {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.played = isPlayed();
    const gl = canvas.getContext("webgl2", { antialias: !this.played, alpha: true, premultipliedAlpha: true });
    if (!gl) throw new Error("no WebGL 2");
    this.gl = gl;
    this.mesh = program(gl, MESH_VERTEX, MESH_FRAGMENT);
    this.line = program(gl, LINE_VERTEX, LINE_FRAGMENT);
    this.point = program(gl, POINT_VERTEX, POINT_FRAGMENT);
    this.corners = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, this.corners);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([0, -1, 1, -1, 0, 1, 1, 1]), gl.STATIC_DRAW);
    this.loose = gl.createBuffer();
    this.texture = gl.createTexture();
    /** @type {string | null} */
    this.textureName = null;
    /** @type {Matrix} */
    this.matrix = new Float32Array(16);
    /** @type {Vector} */
    this.eye = [0, 0, 0];
    this.screen = [1, 1];
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.enable(gl.DEPTH_TEST);
    gl.depthFunc(gl.LEQUAL);
  }

  /** @param {Matrix} matrix @param {Vector} eye @param {number} width @param {number} height */
  begin(matrix, eye, width, height) {
    const { gl } = this;
    this.matrix = matrix;
    this.eye = eye;
    this.screen = [width, height];
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.depthMask(true);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  }

  /** @param {string} name @param {Uint8ClampedArray} table */
  colors(name, table) {
    if (this.textureName === name) return;
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(table));
    for (const edge of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, edge, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
    this.textureName = name;
  }

  /** Seven numbers a vertex: place, normal, value. Lives on the card until it is dropped. @param {Mesh} mesh @returns {Uploaded} */
  upload({ vertices, indexes, origin }) {
    const { gl } = this;
    const made = { vertices: gl.createBuffer(), indexes: gl.createBuffer(), count: indexes.length, origin };
    gl.bindBuffer(gl.ARRAY_BUFFER, made.vertices);
    gl.bufferData(gl.ARRAY_BUFFER, vertices, gl.STATIC_DRAW);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, made.indexes);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, indexes, gl.STATIC_DRAW);
    return made;
  }

  /** @param {Uploaded} mesh */
  drop(mesh) {
    this.gl.deleteBuffer(mesh.vertices);
    this.gl.deleteBuffer(mesh.indexes);
  }

  /**
   * @param {Uploaded} mesh
   * @param {object} options
   * @param {number[]} options.low Corner of the box in data.
   * @param {number[]} options.size Of the box in data.
   * @param {number} options.tall
   * @param {number[]} options.domain Ends of the colours.
   * @param {number[]} [options.steps] First level and distance of contour lines; none where that is 0.
   * @param {number} [options.opacity]
   * @param {number} [options.lit]
   */
  drawMesh(mesh, { low, size, tall, domain, steps = [0, 0], opacity = 1, lit = 1 }) {
    const { gl } = this;
    const { made, uniforms, at } = this.mesh;
    gl.useProgram(made);
    gl.uniformMatrix4fv(uniforms.matrix, false, this.matrix);
    const [x, y, value] = mesh.origin;
    gl.uniform3fv(uniforms.low, [low[0] - x, low[1] - y, low[2] - value]);
    gl.uniform3fv(uniforms.size, size);
    gl.uniform1f(uniforms.tall, tall);
    gl.uniform2fv(uniforms.domain, domain.map((end) => end - value));
    gl.uniform2fv(uniforms.steps, [steps[0] - value, steps[1]]);
    gl.uniform1f(uniforms.opacity, opacity);
    gl.uniform1f(uniforms.lit, lit);
    gl.uniform3fv(uniforms.eye, this.eye);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.bindBuffer(gl.ARRAY_BUFFER, mesh.vertices);
    const names = /** @type {[string, number, number][]} */ ([["place", 3, 0], ["slope", 3, 12], ["value", 1, 24]]);
    for (const [name, count, offset] of names) {
      gl.enableVertexAttribArray(at(name));
      gl.vertexAttribPointer(at(name), count, gl.FLOAT, false, 28, offset);
      gl.vertexAttribDivisor(at(name), 0);
    }
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, mesh.indexes);
    gl.depthMask(opacity === 1);
    gl.drawElements(gl.TRIANGLES, mesh.count, gl.UNSIGNED_INT, 0);
    gl.depthMask(true);
    for (const [name] of names) gl.disableVertexAttribArray(at(name));
  }

  /**
   * @param {number[]} places Pairs, flat: ax, ay, az, bx, by, bz, ...
   * @param {Color} color
   * @param {number} width Pixels.
   * @param {number} lift
   */
  segments(places, color, width, lift = 0) {
    if (!places.length) return;
    const { gl } = this;
    const { made, uniforms, at } = this.line;
    gl.useProgram(made);
    gl.uniformMatrix4fv(uniforms.matrix, false, this.matrix);
    gl.uniform2fv(uniforms.screen, this.screen);
    gl.uniform1f(uniforms.width, width);
    gl.uniform1f(uniforms.lift, lift);
    gl.uniform4fv(uniforms.ink, color);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.corners);
    gl.enableVertexAttribArray(at("corner"));
    gl.vertexAttribPointer(at("corner"), 2, gl.FLOAT, false, 8, 0);
    gl.vertexAttribDivisor(at("corner"), 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.loose);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(places), gl.STREAM_DRAW);
    for (const [name, offset] of /** @type {[string, number][]} */ ([["start", 0], ["end", 12]])) {
      gl.enableVertexAttribArray(at(name));
      gl.vertexAttribPointer(at(name), 3, gl.FLOAT, false, 24, offset);
      gl.vertexAttribDivisor(at(name), 1);
    }
    gl.depthMask(false); // their soft edges must not hide what is drawn after them
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, places.length / 6);
    gl.depthMask(true);
    for (const name of ["corner", "start", "end"]) {
      gl.vertexAttribDivisor(at(name), 0);
      gl.disableVertexAttribArray(at(name));
    }
  }

  /** Draws where something lies before it. @param {() => void} draw */
  behind(draw) {
    const { gl } = this;
    gl.depthFunc(gl.GREATER);
    draw();
    gl.depthFunc(gl.LEQUAL);
  }

  /** @param {Vector[]} points With holes where one is not finite. @param {Color} color @param {number} width @param {number} lift */
  polyline(points, color, width, lift = 0) {
    /** @type {number[]} */
    const places = [];
    for (let k = 0; k + 1 < points.length; k++) {
      if (points[k].every(Number.isFinite) && points[k + 1].every(Number.isFinite)) places.push(...points[k], ...points[k + 1]);
    }
    this.segments(places, color, width, lift);
  }

  /** @param {Vector[]} points @param {Color} color @param {Color} rim @param {number} width @param {number} lift */
  points(points, color, rim, width, lift = 0) {
    const seen = points.filter((p) => p.every(Number.isFinite));
    if (!seen.length) return;
    const { gl } = this;
    const { made, uniforms, at } = this.point;
    gl.useProgram(made);
    gl.uniformMatrix4fv(uniforms.matrix, false, this.matrix);
    gl.uniform1f(uniforms.width, width);
    gl.uniform1f(uniforms.lift, lift);
    gl.uniform4fv(uniforms.ink, color);
    gl.uniform4fv(uniforms.rim, rim);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.loose);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(seen.flat()), gl.STREAM_DRAW);
    gl.enableVertexAttribArray(at("start"));
    gl.vertexAttribPointer(at("start"), 3, gl.FLOAT, false, 12, 0);
    gl.vertexAttribDivisor(at("start"), 0);
    gl.drawArrays(gl.POINTS, 0, seen.length);
    gl.disableVertexAttribArray(at("start"));
  }
}
