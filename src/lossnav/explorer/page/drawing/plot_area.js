// Where a plane lies on its canvas, and where its coordinates lie in it.

const LEFT = 62;
const BOTTOM = 46;
const TOP = 12;
const RIGHT = 14;

// One length along both axes where they are alike in length, else all of the room.
export function plotArea(scene, width, height, left = LEFT, bottom = BOTTOM) {
  let w = Math.max(40, width - left - RIGHT);
  let h = Math.max(40, height - TOP - bottom);
  const ratio = (scene.x[1] - scene.x[0]) / (scene.y[1] - scene.y[0]);
  if (ratio >= 0.5 && ratio <= 2) {
    if (w > h * ratio) w = h * ratio;
    else h = w / ratio;
  }
  const free = Math.max(0, width - left - RIGHT - w);
  return [left + free / 2, TOP, w, h];
}

export function transformOf(scene, [left, top, w, h]) {
  const { x, y } = scene;
  const sx = w / (x[1] - x[0]);
  const sy = h / (y[1] - y[0]);
  return { sx, sy, to: ([a, b]) => [left + (a - x[0]) * sx, top + h - (b - y[0]) * sy] };
}
