// What passes between page and server: JSON both ways, values as binary frames.

const ALIGN = 8;
const WORDS = { nan: NaN, inf: Infinity, "-inf": -Infinity }; // numbers that JSON lacks

export function parseMessage(text) {
  return JSON.parse(text, (_, value) => (typeof value === "string" && Object.hasOwn(WORDS, value) ? WORDS[value] : value));
}

// A frame: uint32 length of the header, the header as JSON padded to a multiple of 8 bytes, then float64 arrays.
export function decodeFrame(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = parseMessage(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
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
