// Keys to acts. Whoever types into a field types.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

export function listenToKeys(act) {
  window.addEventListener("keydown", (event) => {
    const target = event.target;
    const typing = target.matches?.("input:not([type=checkbox]):not([type=radio]), select, textarea, [contenteditable]");
    if (event.ctrlKey || event.metaKey || event.altKey || typing || document.querySelector("dialog[open]")) return;
    if (event.key in ARROWS) {
      if (target.matches?.("input")) return; // a radio or a slider moves by arrows itself
      event.preventDefault();
      const [dx, dy] = ARROWS[event.key];
      if (target.id === "surface") act.turn(dx * 14, -dy * 14);
      else act.move(dx * (event.shiftKey ? 5 : 1), dy * (event.shiftKey ? 5 : 1));
      return;
    }
    const name = { "+": "nearer", "=": "nearer", "-": "farther", 0: "whole", "?": "help", Escape: "leave" }[event.key] ?? act.letters[event.key];
    if (!name || !act[name]) return;
    event.preventDefault();
    act[name]();
  });
}
