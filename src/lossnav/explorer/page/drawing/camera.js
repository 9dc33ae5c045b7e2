// The eye of the 3-D view: where it stands, and 4×4 matrices (column after column, as WebGL has them).

export const TARGET = [0, 0, 0.4];
const FIELD = 0.56; // radians

export function eyeOf([azimuth, elevation, distance]) {
  const flat = distance * Math.cos(elevation);
  return [TARGET[0] + flat * Math.sin(azimuth), TARGET[1] - flat * Math.cos(azimuth), TARGET[2] + distance * Math.sin(elevation)];
}

export function matrixOf(camera, aspect) {
  const eye = eyeOf(camera);
  const back = unit(eye.map((v, k) => v - TARGET[k]));
  const right = unit(cross([0, 0, 1], back));
  const up = cross(back, right);
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

export function project(matrix, [x, y, z], width, height) {
  const w = matrix[3] * x + matrix[7] * y + matrix[11] * z + matrix[15];
  const px = (matrix[0] * x + matrix[4] * y + matrix[8] * z + matrix[12]) / w;
  const py = (matrix[1] * x + matrix[5] * y + matrix[9] * z + matrix[13]) / w;
  return [(0.5 + px / 2) * width, (0.5 - py / 2) * height, w];
}

// From the eye through a pixel: where it starts and which way it goes.
export function ray(camera, aspect, px, py, width, height) {
  const eye = eyeOf(camera);
  const back = unit(eye.map((v, k) => v - TARGET[k]));
  const right = unit(cross([0, 0, 1], back));
  const up = cross(back, right);
  const half = Math.tan(FIELD / 2) / wideOf(aspect);
  const u = ((2 * px) / width - 1) * half * aspect;
  const v = (1 - (2 * py) / height) * half;
  return { eye, way: unit(right.map((r, k) => r * u + up[k] * v - back[k])) };
}

// A narrow pane sees as much to the sides as a wide one, with room for the ticks.
const wideOf = (aspect) => Math.min(1, 0.88 * aspect);

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

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const unit = (a) => a.map((v) => v / Math.hypot(...a));
