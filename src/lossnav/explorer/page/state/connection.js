// @ts-check
// The socket to the server. An exported page has the same messages inside it.

/** @import { Message, Request, Session } from "./messages.js" */

import { decodeFrame, parseMessage } from "./messages.js";

/**
 * @typedef {object} Stored What an exported page has inside it.
 * @property {{ session: Session, frames: string[], code?: string }[]} places Frames in base64.
 * @property {number} [place]
 * @property {string} [view]
 */
/**
 * @typedef {object} Asker Who asks for something, and what is done with the answer.
 * @property {(message: any) => void} take A message of its type.
 * @property {(id: number | null, said: string) => void} refuse What was asked by that number does not come; null: nothing does.
 */
/** @typedef {"open" | "lost" | "restarted" | "page"} Status */

export class Connection {
  /**
   * @param {(message: Message) => void} on Is told of everything that arrives.
   * @param {(status: Status) => void} status
   */
  constructor(on, status) {
    this.on = on;
    this.status = status;
    /** @type {{ id: number | null | undefined, type: string, sent: number }[]} */
    this.requests = [];
    this.number = 0;
    /** @type {Map<string, Asker>} */
    this.askers = new Map();
    /** @type {WebSocket | null} */
    this.socket = null;
    this.waiting = 500; // ms before the next try
    const inside = document.getElementById("lossnav-data");
    /** @type {Stored | null} */
    this.stored = inside && parseMessage(inside.textContent ?? "");
    // Before anybody reads the view: that which was saved, unless a link says another.
    if (this.stored?.view && !location.hash) history.replaceState(null, "", `#${this.stored.view}`);
  }

  /** Answers of a type go to who asks for them. @param {Message["type"]} type @param {Asker} asker */
  expect(type, asker) {
    this.askers.set(type, asker);
  }

  /** Whether somebody took it. @param {Message} message */
  hand(message) {
    this.askers.get(message.type)?.take(message);
    return this.askers.has(message.type);
  }

  /** @param {number | null} id @param {string} said */
  refuse(id, said) {
    for (const asker of this.askers.values()) asker.refuse(id, said);
  }

  open() {
    if (this.stored) {
      this.status("page");
      return;
    }
    const address = new URL("./ws", document.baseURI);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    address.hash = address.search = "";
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.waiting = 500;
      this.status("open");
    };
    this.socket.onmessage = (event) => this.#take(typeof event.data === "string" ? parseMessage(event.data) : decodeFrame(event.data));
    this.socket.onclose = () => this.#lost();
  }

  /** Tries again, unless the server is another by now: a new one has a new address, and no page guesses it. */
  async #lost() {
    this.status("lost");
    const refused = await fetch("./", { cache: "no-store" }).then(({ status }) => status === 403, () => false);
    if (refused) this.status("restarted");
    setTimeout(() => this.open(), this.waiting);
    this.waiting = Math.min(2 * this.waiting, 8000);
  }

  /** Whether somebody answers what is asked now; an exported page knows all that it is asked. */
  get answers() {
    return this.stored !== null || this.socket?.readyState === WebSocket.OPEN;
  }

  /**
   * Returns the message's number, by which its answers are known; null where nobody would answer.
   * @param {Request} message
   * @returns {number | null}
   */
  send(message) {
    if (this.stored) return this.#answer(this.stored, message);
    if (!this.socket || this.socket.readyState !== WebSocket.OPEN) return null;
    const id = message.type === "stop" ? message.id : ++this.number;
    this.requests.push({ id, type: message.type, sent: performance.now() });
    if (this.requests.length > 500) this.requests.shift();
    this.socket.send(JSON.stringify(id === undefined ? message : { ...message, id }));
    return id ?? null;
  }

  /** @param {Message & { received?: number }} message */
  #take(message) {
    message.received = performance.now();
    this.on(message);
  }

  /**
   * What an exported page can answer by itself: which place, and the code it came with.
   * @param {Stored} stored
   * @param {Request} message
   */
  #answer(stored, message) {
    const number = message.type === "go" ? message.place : (stored.place ?? 0);
    const place = stored.places.find(({ session }) => session.place === number) ?? stored.places[0];
    if (message.type === "code" && place.code) this.#take({ type: "code", text: place.code });
    if (message.type !== "hello" && message.type !== "go") return null;
    this.#take({ ...place.session, live: false });
    for (const frame of place.frames) this.#take(decodeFrame(Uint8Array.from(atob(frame), (c) => c.charCodeAt(0)).buffer));
    return null;
  }
}
