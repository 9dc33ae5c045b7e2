// @ts-check
// What passes between page and server: JSON both ways, values as binary frames.

/** @import { View } from "./view_state.js" */

/** @typedef {[low: number, high: number]} Range */
/** @typedef {number[]} Coordinates One number an axis. */
/** @typedef {Record<string, number>} Row What was measured at a point, by name. */
/** @typedef {{ letter: string, meaning?: string | null, range: Range }} Axis */
/** @typedef {{ name: string, units?: string, long_name?: string }} Variable */
/** @typedef {{ name: string, view: Partial<View> }} Bookmark */
/** @typedef {{ number: number, words?: string, center?: Coordinates | null }} PlaceEntry An entry of the breadcrumb. */
/** @typedef {{ level: string, check?: string, said: string, do?: string }} ReportItem */
/**
 * @typedef {object} Trajectory A training run in the coordinates of the place.
 * @property {Coordinates[]} at
 * @property {(number | null)[] | null} [epoch]
 * @property {number[] | null} [loss]
 */
/**
 * @typedef {object} Spectrum Eigenvalues and their density, as `lossnav.plot.spectrum` draws them.
 * @property {string} name Of the matrix.
 * @property {number[]} eigenvalues Ascending.
 * @property {number[]} errors
 * @property {number[]} ranks Of each, counted from its end.
 * @property {number} smallest How many are of the lower end.
 * @property {number[]} value
 * @property {number[]} density NaN in the gaps.
 * @property {number[]} density_error Standard errors.
 * @property {number} floor Of the density's logarithmic axis.
 * @property {Range} ends
 * @property {string} note
 */
/**
 * @typedef {object} Session What the page is told first of a place.
 * @property {"session"} type
 * @property {boolean} live Whether more can be evaluated.
 * @property {number} place
 * @property {PlaceEntry[]} places
 * @property {string[]} dims
 * @property {Axis[]} axes
 * @property {Variable[]} variables
 * @property {string} title
 * @property {"line" | "plane" | "volume"} shape
 * @property {{ loss?: number, accuracy?: number }} [center]
 * @property {Trajectory | null} [trajectory]
 * @property {Spectrum | null} [spectrum] Beside the surface, at its centre.
 * @property {ReportItem[]} [report]
 * @property {Bookmark[]} [bookmarks]
 * @property {Record<string, any>} [objective]
 * @property {Record<string, unknown> | null} [axes_info]
 * @property {string} [version]
 * @property {Record<string, number>} [limits] Of one request.
 * @property {number} [frames] How many frames follow at once.
 */
/**
 * @typedef {object} GridFrame Values on a grid, row-major, the last axis fastest.
 * @property {"grid"} type
 * @property {number} [place]
 * @property {number[][]} axes
 * @property {number[]} shape
 * @property {string[]} arrays
 * @property {Record<string, Float64Array>} values
 * @property {number | null} [window] The request that it answers; none for the place's own grid.
 * @property {number} [level]
 * @property {boolean} [interpolated]
 * @property {string} [beside] What lies beside the surface, such as "curvature": it has variables of its own.
 * @property {Coordinates[] | null} [measured]
 * @property {number} [received]
 */
/**
 * @typedef {object} PointsFrame Points on no grid. The first arrays are the coordinates.
 * @property {"points"} type
 * @property {number} [place]
 * @property {null} shape
 * @property {string[]} arrays
 * @property {Record<string, Float64Array>} values
 * @property {number} [received]
 */
/** @typedef {GridFrame | PointsFrame} Frame */
/** @typedef {{ norm: number, in_plane: number[], in_plane_norm: number, out_of_plane_norm: number }} Gradient */
/**
 * @typedef {object} Classes Accuracy by class. Rows of `confusion` are the true classes.
 * @property {(string | number)[]} [labels]
 * @property {number[]} accuracy
 * @property {number[]} [counts]
 * @property {number[][] | null} [confusion]
 */
/**
 * @typedef {object} PointMessage
 * @property {"point"} type
 * @property {number | null} id
 * @property {Coordinates} at
 * @property {Row} values
 * @property {number} [status]
 * @property {Gradient | null} [gradient]
 * @property {Classes | null} [classes]
 * @property {Row} [curvature] Beside the surface, at this point.
 * @property {{ value: number, error: number } | null} [difference] To the centre, over the same samples.
 * @property {boolean} [finished]
 */
/** @typedef {{ type: "line", id: number, t: number[], loss: number[], loss_se?: number[], finished?: boolean }} LineMessage */
/**
 * @typedef {object} BallMessage Steps of an optimiser since the last such message.
 * @property {"ball"} type
 * @property {number} id
 * @property {number[]} steps
 * @property {Coordinates[]} at
 * @property {number[]} loss
 * @property {number[]} [projected_loss]
 * @property {number[]} off_plane
 * @property {boolean} [finished]
 * @property {string | null} [why]
 */
/**
 * @typedef {object} ProgressMessage
 * @property {"progress"} type
 * @property {number | null} [id]
 * @property {boolean} busy
 * @property {string} what
 * @property {number} done
 * @property {number | null} [total]
 * @property {number | null} [points_per_second]
 */
/** @typedef {{ type: "error", id?: number | null, error?: string, said: string }} ErrorMessage What went wrong, and the request that it is about. */
/**
 * @typedef {Session | Frame | PointMessage | LineMessage | BallMessage | ProgressMessage
 *   | { type: "code", text: string } | { type: "bookmarks", bookmarks: Bookmark[] }
 *   | { type: "places", places: PlaceEntry[] } | ErrorMessage} Message
 */
/** @typedef {{ type: string, id?: number | null, [key: string]: unknown }} Request */

const ALIGN = 8;

/** @type {Record<string, number>} */
const WORDS = { nan: NaN, inf: Infinity, "-inf": -Infinity }; // numbers that JSON lacks

/** @param {string} text @returns {any} */
export function parseMessage(text) {
  return JSON.parse(text, (_, value) => (typeof value === "string" && Object.hasOwn(WORDS, value) ? WORDS[value] : value));
}

/**
 * A frame: uint32 length of the header, the header as JSON padded to a multiple of 8 bytes, then float64 arrays.
 * @param {ArrayBuffer} buffer
 * @returns {Frame}
 */
export function decodeFrame(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = parseMessage(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const shape = header.type === "grid" ? header.axes.map((/** @type {number[]} */ axis) => axis.length) : null;
  let offset = 4 + length;
  if (offset % ALIGN) offset += ALIGN - (offset % ALIGN);
  const each = shape
    ? shape.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, 1)
    : (buffer.byteLength - offset) / 8 / (header.arrays.length || 1);
  /** @type {Record<string, Float64Array>} */
  const values = {};
  for (const name of header.arrays) {
    values[name] = new Float64Array(buffer, offset, each);
    offset += 8 * each;
  }
  return { ...header, shape, values };
}
