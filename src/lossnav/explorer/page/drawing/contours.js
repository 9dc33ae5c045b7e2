// @ts-check
// Lines of equal value by marching squares (Lorensen and Cline's idea in the plane), joined to polylines.

// Which pairs of a cell's four edges (0 low y, 1 high x, 2 high y, 3 low x) a line crosses, by which corners lie above.
/** @typedef {[from: number, to: number]} Pair Two edges of a cell. */
/** @type {(Pair[] | null)[]} */
const CASES = [
  [], [[3, 0]], [[0, 1]], [[3, 1]], [[1, 2]], null, [[0, 2]], [[3, 2]],
  [[2, 3]], [[2, 0]], null, [[2, 1]], [[1, 3]], [[1, 0]], [[0, 3]], [],
];

/**
 * Polylines as flat arrays x0, y0, x1, y1, ... A cell that touches a value that is not finite has no line.
 * @param {ArrayLike<number>} x
 * @param {ArrayLike<number>} y
 * @param {ArrayLike<number>} values That of index i * ny + j lies at (x[i], y[j]).
 * @param {number} level
 * @returns {number[][]}
 */
export function contour(x, y, values, level) {
  const nx = x.length;
  const ny = y.length;
  /** @type {Map<number, number[]>} */
  const next = new Map(); // edge → the edges a segment joins it with
  /** @param {number} a @param {number} b */
  const link = (a, b) => {
    const others = next.get(a);
    if (others) others.push(b);
    else next.set(a, [b]);
  };
  // An edge's number: twice the index of its lower corner, and one more where it runs along y.
  const edges = [0, 0, 0, 0];
  for (let i = 0; i + 1 < nx; i++) {
    for (let j = 0; j + 1 < ny; j++) {
      const at = i * ny + j;
      const a = values[at];
      const b = values[at + ny];
      const c = values[at + ny + 1];
      const d = values[at + 1];
      const sum = a + b + c + d;
      if (!(sum - sum === 0)) continue;
      const corners = (a > level ? 1 : 0) | (b > level ? 2 : 0) | (c > level ? 4 : 0) | (d > level ? 8 : 0);
      if (corners === 0 || corners === 15) continue;
      edges[0] = 2 * at;
      edges[1] = 2 * (at + ny) + 1;
      edges[2] = 2 * (at + 1);
      edges[3] = 2 * at + 1;
      let pairs = CASES[corners];
      if (!pairs) {
        // A saddle: the middle decides which corners hang together.
        const joined = sum / 4 > level === (corners === 5);
        pairs = joined ? [[3, 2], [0, 1]] : [[3, 0], [1, 2]];
      }
      for (const [p, q] of pairs) {
        link(edges[p], edges[q]);
        link(edges[q], edges[p]);
      }
    }
  }
  /** @param {number} edge */
  const place = (edge) => {
    const at = edge >> 1;
    const i = Math.floor(at / ny);
    const j = at % ny;
    const other = edge & 1 ? at + 1 : at + ny;
    const t = (level - values[at]) / (values[other] - values[at]);
    return edge & 1 ? [x[i], y[j] + t * (y[j + 1] - y[j])] : [x[i] + t * (x[i + 1] - x[i]), y[j]];
  };
  return chains(next).map((chain) => chain.flatMap(place));
}

/**
 * Every edge has one or two neighbours: follow them from the ends first, then around what is closed.
 * @param {Map<number, number[]>} next
 */
function chains(next) {
  /** @type {number[][]} */
  const made = [];
  /** @param {number} start */
  const follow = (start) => {
    const chain = [start];
    let at = start;
    for (;;) {
      const to = next.get(at)?.pop();
      if (to === undefined) break;
      const back = next.get(to) ?? [];
      back.splice(back.indexOf(at), 1);
      chain.push(to);
      at = to;
    }
    return chain;
  };
  for (const [edge, others] of next) if (others.length === 1) made.push(follow(edge));
  for (const [edge, others] of next) if (others.length) made.push(follow(edge));
  return made;
}
