// The socket: JSON both ways, values as binary frames. An exported page has the same messages inside it.

const ALIGN = 8;
const WORDS = { nan: NaN, inf: Infinity, "-inf": -Infinity }; // numbers that JSON lacks

export function parse(text) {
  return JSON.parse(text, (_, value) => (typeof value === "string" && Object.hasOwn(WORDS, value) ? WORDS[value] : value));
}

// A frame: uint32 length of the header, the header as JSON padded to a multiple of 8 bytes, then float64 arrays.
export function decode(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const shape = header.type === "grid" ? header.axes.map((axis) => axis.length) : null;
  let offset = 4 + length;
  if (offset % ALIGN) offset += ALIGN - (offset % ALIGN);
  const each = shape ? shape.reduce((a, b) => a * b, 1) : (buffer.byteLength - offset) / 8 / (header.arrays.length || 1);
  const values = {};
  for (const name of header.arrays) {
    values[name] = new Float64Array(buffer, offset, each);
    offset += 8 * each;
  }
  return { ...header, shape, values };
}

export class Wire {
  // on(type, message) is told of everything that arrives; status(word) of the connection.
  constructor(on, status) {
    this.on = on;
    this.status = status;
    this.requests = [];
    this.number = 0;
    this.socket = null;
    this.waiting = 500; // ms before the next try
    const inside = document.getElementById("lossnav-data");
    this.stored = inside && parse(inside.textContent);
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
    this.socket.onmessage = (event) => this.#take(typeof event.data === "string" ? parse(event.data) : decode(event.data));
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
    for (const frame of place.frames) this.#take(decode(Uint8Array.from(atob(frame), (c) => c.charCodeAt(0)).buffer));
    return null;
  }
}
