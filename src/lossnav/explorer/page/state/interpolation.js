// Between measured values: where a coordinate lies on an axis, and the value between its neighbours.

// Of ascending values the index of the nearest.
export function nearestIndex(axis, value) {
  const k = cellIndex(axis, value);
  return k + 1 < axis.length && axis[k + 1] - value < value - axis[k] ? k + 1 : k;
}

// Of ascending values the last index, but for the end, whose value is not above.
export function cellIndex(axis, value) {
  let low = 0;
  let high = axis.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (axis[middle] <= value) low = middle;
    else high = middle;
  }
  return low;
}

// The value between four known ones; of those that are holes the others speak; NaN in a hole's own cell and outside.
export function sample(x, y, values, px, py) {
  const nx = x.length;
  const ny = y.length;
  if (!(px >= x[0] && px <= x[nx - 1] && py >= y[0] && py <= y[ny - 1])) return NaN;
  const i = cellIndex(x, px);
  const j = cellIndex(y, py);
  const s = nx > 1 ? (px - x[i]) / (x[i + 1] - x[i]) : 0;
  const t = ny > 1 ? (py - y[j]) / (y[j + 1] - y[j]) : 0;
  return bilinear(values, i * ny + j, ny, s, t);
}

export function bilinear(values, at, ny, s, t) {
  const a = values[at];
  const b = values[at + ny];
  const c = values[at + 1];
  const d = values[at + ny + 1];
  const sum = a + b + c + d;
  const p = (1 - s) * (1 - t);
  const q = s * (1 - t);
  const r = (1 - s) * t;
  const u = s * t;
  if (sum - sum === 0) return a * p + b * q + c * r + d * u;
  const nearest = s < 0.5 ? (t < 0.5 ? a : c) : t < 0.5 ? b : d;
  if (!Number.isFinite(nearest)) return NaN;
  let total = 0;
  let weight = 0;
  for (const [value, w] of [[a, p], [b, q], [c, r], [d, u]]) {
    if (!Number.isFinite(value)) continue;
    total += w * value;
    weight += w;
  }
  return total / weight;
}

// Values between the slices of a volume; NaN where one of those around is a hole.
export function sampleVolume(volume, values, [a, b, c]) {
  const [x, y, z] = volume.axes;
  const k = cellIndex(z, c);
  const [near, far] = [k, Math.min(k + 1, z.length - 1)].map((slice) => {
    const [i, j] = [cellIndex(x, a), cellIndex(y, b)];
    const at = (di, dj) => values[((i + di) * y.length + j + dj) * z.length + slice];
    const [s, t] = [(a - x[i]) / (x[i + 1] - x[i]), (b - y[j]) / (y[j + 1] - y[j])];
    return (1 - s) * ((1 - t) * at(0, 0) + t * at(0, 1)) + s * ((1 - t) * at(1, 0) + t * at(1, 1));
  });
  return near + ((c - z[k]) / (z[k + 1] - z[k])) * (far - near);
}
