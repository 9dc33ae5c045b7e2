// @ts-check
// Keys to acts. Whoever types into a field types.

/** @type {Record<string, [dx: number, dy: number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** @type {Record<string, string>} */
const NAMES = { "+": "nearer", "=": "nearer", "-": "farther", 0: "whole", "?": "help", Escape: "leave" };

/**
 * @param {object} act
 * @param {(dx: number, dy: number) => void} act.move
 * @param {(dx: number, dy: number) => void} act.turn
 * @param {Record<string, string>} act.letters From a key to the name of an act.
 * @param {Record<string, () => void>} act.named
 */
export function listenToKeys(act) {
  window.addEventListener("keydown", (event) => {
    const target = event.target instanceof Element ? event.target : document.body;
    const typing = target.matches("input:not([type=checkbox]):not([type=radio]), select, textarea, [contenteditable]");
    if (event.ctrlKey || event.metaKey || event.altKey || typing || document.querySelector("dialog[open]")) return;
    if (event.key in ARROWS) {
      if (target.matches("input, #panel, #classes")) return; // a radio or a slider moves by arrows itself, and what scrolls scrolls
      event.preventDefault();
      const [dx, dy] = ARROWS[event.key];
      if (target.id === "surface") act.turn(dx * 14, -dy * 14);
      else act.move(dx * (event.shiftKey ? 5 : 1), dy * (event.shiftKey ? 5 : 1));
      return;
    }
    const name = NAMES[event.key] ?? act.letters[event.key];
    if (!name) return;
    event.preventDefault();
    act.named[name]();
  });
}
