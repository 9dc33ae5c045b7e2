// @ts-check
// What is being computed, how fast, and the button that stops it; and what went wrong, in a line.

/** @import { Status } from "../state/connection.js" */
/** @import { ProgressMessage } from "../state/messages.js" */

import { byId, el } from "../base/dom.js";
import { count } from "../base/format.js";

/** @type {Record<string, string>} */
const WORDS = { window: "evaluating", point: "looking at a point", line: "walking a line", ball: "rolling", place: "turning the axes" };
const SPOKEN = 4000; // ms between two lines for a screen reader

export class Progress {
  /** @param {() => void} stop */
  constructor(stop) {
    this.busy = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.hiding = undefined;
    this.spoken = -SPOKEN;
    byId("stop").addEventListener("click", stop);
  }

  /** @param {ProgressMessage} message @param {number | null | undefined} window The last window that was asked for. */
  take({ id, busy, what, done, total, points_per_second: speed }, window) {
    if (!busy && what === "window" && window && id && id !== window) return; // the end of one that was left already
    const ended = this.busy && !busy;
    this.busy = busy;
    clearTimeout(this.hiding);
    if (!busy) {
      // A moment longer, so that short work does not flicker.
      this.hiding = setTimeout(() => {
        byId("doing").hidden = true;
      }, 350);
      byId("stop").disabled = true;
    } else {
      byId("doing").hidden = false;
      byId("stop").disabled = false;
    }
    const words = [WORDS[what] ?? what];
    if (total) words.push(`${count(done)} of ${count(total)}`);
    if (speed) words.push(`${count(speed)} points/s`);
    if (ended) this.say("Done.");
    if (!busy) return;
    byId("doing-words").textContent = words.join(" · ");
    const bar = byId("doing-bar");
    if (total) bar.value = done / total;
    else bar.removeAttribute("value");
    const now = performance.now();
    if (now - this.spoken > SPOKEN) this.say(words.join(", "));
  }

  /** For a screen reader. @param {string} words */
  say(words) {
    this.spoken = performance.now();
    byId("live").textContent = words;
  }

  /** @param {Status} word */
  showConnection(word) {
    const box = byId("connection");
    box.hidden = word === "open";
    box.textContent = {
      open: "", lost: "connection lost, trying again", page: "saved page",
      restarted: "lossnav was restarted: open the address that it printed",
    }[word];
    box.classList.toggle("bad", word === "lost" || word === "restarted");
    if (word === "open" || word === "page") return;
    this.busy = false;
    byId("doing").hidden = true;
  }

  /** @param {string} said */
  wrong(said) {
    const toast = el("p", { class: "toast" }, said, el("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => toast.remove() }, "×"));
    byId("toasts").append(toast);
    setTimeout(() => toast.remove(), 9000);
    while (byId("toasts").children.length > 3) byId("toasts").firstChild?.remove();
  }
}
