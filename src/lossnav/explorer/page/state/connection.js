// The socket: JSON both ways, values as binary frames. An exported page has the same messages inside it.

export class Connection {
  // on(type, message) is told of everything that arrives; status(word) of the connection.
  constructor(on, status) {
    this.on = on;
    this.status = status;
    this.requests = [];
    this.number = 0;
    this.socket = null;
    this.waiting = 500; // ms before the next try
    const inside = document.getElementById("lossnav-data");
    this.stored = inside && parseMessage(inside.textContent);
    // Before anybody reads the view: that which was saved, unless a link says another.
    if (this.stored?.view && !location.hash) history.replaceState(null, "", `#${this.stored.view}`);
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
    this.socket.onclose = () => {
      this.status("lost");
      setTimeout(() => this.open(), this.waiting);
      this.waiting = Math.min(2 * this.waiting, 8000);
    };
  }

  // Returns the message's number, by which its answers are known; null where nobody would answer.
  send(message) {
    if (this.stored) return this.#answer(message);
    if (!this.socket || this.socket.readyState !== WebSocket.OPEN) return null;
    const id = message.type === "stop" ? message.id : ++this.number;
    this.requests.push({ id, type: message.type, sent: performance.now() });
    if (this.requests.length > 500) this.requests.shift();
    this.socket.send(JSON.stringify(id === undefined ? message : { ...message, id }));
    return id ?? null;
  }

  #take(message) {
    message.received = performance.now();
    this.on(message.type, message);
  }

  // What an exported page can answer by itself: which place, and the code it came with.
  #answer(message) {
    const number = message.type === "go" ? message.place : (this.stored.place ?? 0);
    const place = this.stored.places.find(({ session }) => session.place === number) ?? this.stored.places[0];
    if (message.type === "code" && place.code) this.#take({ type: "code", text: place.code });
    if (message.type !== "hello" && message.type !== "go") return null;
    this.#take({ ...place.session, live: false });
    for (const frame of place.frames) this.#take(decodeFrame(Uint8Array.from(atob(frame), (c) => c.charCodeAt(0)).buffer));
    return null;
  }
}

import { decodeFrame, parseMessage } from "./messages.js";

