// @ts-check
// Pointer, wheel and fingers as gestures: drag, zoom, click, double click, hover.

/** @import { Pixel } from "../drawing/plot_area.js" */

/**
 * @typedef {object} Gestures What is done at each. Pixels are the element's own.
 * @property {(dx: number, dy: number) => void} [drag]
 * @property {(factor: number, at: Pixel) => void} [zoom] A factor above one shows more.
 * @property {(at: Pixel) => void} [click]
 * @property {(at: Pixel) => void} [double]
 * @property {(at: Pixel | null) => void} [hover]
 * @property {() => void} [settle] After the last movement.
 */
/** @typedef {Map<number, Pixel>} Fingers */

const STILL = 4; // pixels that a click may wander

/** @param {HTMLElement | SVGElement} element @param {Gestures} act */
export function followPointer(element, act) {
  /** @type {Fingers} */
  const fingers = new Map();
  let moved = 0;
  let spread = 0;
  /** @type {{ when: number, at: Pixel }} */
  let clicked = { when: -1e9, at: [0, 0] };
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let settling;
  /** @param {MouseEvent} event @returns {Pixel} */
  const at = (event) => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const settleSoon = () => {
    clearTimeout(settling);
    settling = setTimeout(() => act.settle?.(), 140);
  };
  /** @param {PointerEvent} event */
  const down = (event) => {
    if (event.button > 0) return;
    element.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    if (fingers.size === 1) moved = 0;
    spread = spreadOf(fingers);
  };
  /** @param {PointerEvent} event */
  const move = (event) => {
    const now = at(event);
    const before = fingers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") act.hover?.(now);
      return;
    }
    fingers.set(event.pointerId, now);
    const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
    moved += Math.hypot(dx, dy);
    if (fingers.size === 2) {
      const next = spreadOf(fingers);
      if (spread > 0 && next > 0) act.zoom?.(spread / next, middle(fingers));
      spread = next;
      act.drag?.(dx / 2, dy / 2);
      settleSoon();
    } else if (moved > STILL) {
      element.classList.add("dragging");
      act.drag?.(dx, dy);
      settleSoon();
    }
  };
  /** @param {PointerEvent} event */
  const up = (event) => {
    if (!fingers.delete(event.pointerId)) return;
    element.classList.remove("dragging");
    if (fingers.size || event.type === "pointercancel") return;
    if (moved > STILL) {
      clearTimeout(settling);
      act.settle?.();
      return;
    }
    const now = performance.now();
    const here = at(event);
    const again = now - clicked.when < 320 && Math.hypot(here[0] - clicked.at[0], here[1] - clicked.at[1]) < 2 * STILL;
    if (again && act.double) act.double(here);
    else act.click?.(here);
    clicked = { when: now, at: here };
  };
  /** @param {WheelEvent} event */
  const wheel = (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 24 : 1;
    act.zoom?.(Math.exp(Math.max(-120, Math.min(120, event.deltaY * lines)) * 0.0022), at(event));
    settleSoon();
  };
  const target = /** @type {HTMLElement} */ (element); // the type of SVG elements lacks their events
  target.addEventListener("pointerdown", down);
  target.addEventListener("pointermove", move);
  target.addEventListener("pointerup", up);
  target.addEventListener("pointercancel", up);
  target.addEventListener("pointerleave", () => act.hover?.(null));
  target.addEventListener("wheel", wheel, { passive: false });
}

/** @param {Fingers} fingers */
function spreadOf(fingers) {
  if (fingers.size !== 2) return 0;
  const [[ax, ay], [bx, by]] = fingers.values();
  return Math.hypot(ax - bx, ay - by);
}

/** @param {Fingers} fingers @returns {Pixel} */
function middle(fingers) {
  const [[ax, ay], [bx, by]] = fingers.values();
  return [(ax + bx) / 2, (ay + by) / 2];
}
