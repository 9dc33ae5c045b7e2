// Pointer, wheel and fingers as gestures: drag, zoom, click, double click, hover.

const STILL = 4; // pixels that a click may wander

export function followPointer(element, act) {
  const fingers = new Map();
  let moved = 0;
  let spread = 0;
  let clicked = { when: -1e9, at: [0, 0] };
  let settling = 0;
  const at = (event) => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const settleSoon = () => {
    clearTimeout(settling);
    settling = setTimeout(() => act.settle?.(), 140);
  };
  element.addEventListener("pointerdown", (event) => {
    if (event.button > 0) return;
    element.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    if (fingers.size === 1) moved = 0;
    spread = spreadOf(fingers);
  });
  element.addEventListener("pointermove", (event) => {
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
      if (spread > 0 && next > 0) act.zoom?.(spread / next, middle(fingers), event);
      spread = next;
      act.drag?.(dx / 2, dy / 2, event);
      settleSoon();
    } else if (moved > STILL) {
      element.classList.add("dragging");
      act.drag?.(dx, dy, event);
      settleSoon();
    }
  });
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
  element.addEventListener("pointerup", up);
  element.addEventListener("pointercancel", up);
  element.addEventListener("pointerleave", () => act.hover?.(null));
  element.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 24 : 1;
      act.zoom?.(Math.exp(Math.max(-120, Math.min(120, event.deltaY * lines)) * 0.0022), at(event), event);
      settleSoon();
    },
    { passive: false },
  );
}

function spreadOf(fingers) {
  if (fingers.size !== 2) return 0;
  const [[ax, ay], [bx, by]] = fingers.values();
  return Math.hypot(ax - bx, ay - by);
}

function middle(fingers) {
  const [[ax, ay], [bx, by]] = fingers.values();
  return [(ax + bx) / 2, (ay + by) / 2];
}
