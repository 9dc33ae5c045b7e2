// @ts-check
// The eye of the 3-D view: where it stands, and 4×4 matrices (column after column, as WebGL has them).

/** @typedef {[x: number, y: number, z: number]} Vector */
/** @typedef {[azimuth: number, elevation: number, distance: number]} Camera Angles in radians. */
/** @typedef {Float32Array} Matrix */

/** @type {Vector} */
export const TARGET = [0, 0, 0.4];
const FIELD = 0.56; // radians

/** @param {Camera} camera @returns {Vector} */
export function eyeOf([azimuth, elevation, distance]) {
  const flat = distance * Math.cos(elevation);
  return [TARGET[0] + flat * Math.sin(azimuth), TARGET[1] - flat * Math.cos(azimuth), TARGET[2] + distance * Math.sin(elevation)];
}

/** The eye and its own axes, of length one. @param {Camera} camera */
function frameOf(camera) {
  const eye = eyeOf(camera);
  const back = unit([eye[0] - TARGET[0], eye[1] - TARGET[1], eye[2] - TARGET[2]]);
  const right = unit(cross([0, 0, 1], back));
  return { eye, back, right, up: cross(back, right) };
}

/** From the box of the view to the screen, x and y in [-1, 1]. @param {Camera} camera @param {number} aspect @returns {Matrix} */
export function matrixOf(camera, aspect) {
  const { eye, back, right, up } = frameOf(camera);
  const view = [
    right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0,
    -dot(right, eye), -dot(up, eye), -dot(back, eye), 1,
  ];
  const f = 1 / Math.tan(FIELD / 2);
  const [near, far] = [0.6, 20];
  const wide = wideOf(aspect);
  const projection = [
    (f * wide) / aspect, 0, 0, 0, 0, f * wide, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0,
  ];
  return multiply(projection, view);
}

/**
 * Where a point lies on a picture, and how far before the eye.
 * @param {Matrix} matrix
 * @param {Vector} point
 * @param {number} width
 * @param {number} height
 * @returns {Vector}
 */
export function project(matrix, [x, y, z], width, height) {
  const w = matrix[3] * x + matrix[7] * y + matrix[11] * z + matrix[15];
  const px = (matrix[0] * x + matrix[4] * y + matrix[8] * z + matrix[12]) / w;
  const py = (matrix[1] * x + matrix[5] * y + matrix[9] * z + matrix[13]) / w;
  return [(0.5 + px / 2) * width, (0.5 - py / 2) * height, w];
}

/**
 * From the eye through a pixel: where the ray starts and its direction, of length one.
 * @param {Camera} camera
 * @param {number} px
 * @param {number} py
 * @param {number} width
 * @param {number} height
 */
export function ray(camera, px, py, width, height) {
  const { eye, back, right, up } = frameOf(camera);
  const aspect = width / height;
  const half = Math.tan(FIELD / 2) / wideOf(aspect);
  const u = ((2 * px) / width - 1) * half * aspect;
  const v = (1 - (2 * py) / height) * half;
  /** @param {0 | 1 | 2} k */
  const along = (k) => right[k] * u + up[k] * v - back[k];
  return { eye, way: unit([along(0), along(1), along(2)]) };
}

/** A narrow pane sees as much to the sides as a wide one, with room for the ticks. @param {number} aspect */
const wideOf = (aspect) => Math.min(1, 0.88 * aspect);

/** @param {ArrayLike<number>} a @param {ArrayLike<number>} b @returns {Matrix} */
function multiply(a, b) {
  const made = new Float32Array(16);
  for (let c = 0; c < 4; c++) {
    for (let r = 0; r < 4; r++) {
      let sum = 0;
      for (let k = 0; k < 4; k++) sum += a[4 * k + r] * b[4 * c + k];
      made[4 * c + r] = sum;
    }
  }
  return made;
}

/** @param {Vector} a @param {Vector} b */
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
/** @param {Vector} a @param {Vector} b @returns {Vector} */
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
/** @param {Vector} a @returns {Vector} */
const unit = (a) => [a[0] / Math.hypot(...a), a[1] / Math.hypot(...a), a[2] / Math.hypot(...a)];
