// @ts-check
// What is known of a value: five words for what is not a number on the picture, each for one thing alone.

/** Of a point in a store, as docs/schema.md numbers them. */
export const STATUS = Object.freeze({ notEvaluated: 0, ok: 1, nonFinite: 2, failed: 3 });

/** @typedef {(typeof OUTCOMES)[keyof typeof OUTCOMES]} Outcome */
export const OUTCOMES = Object.freeze({
  pending: /** @type {const} */ ("pending"), // asked for, and the answer is under way
  unknown: /** @type {const} */ ("unknown"), // whether there is a value cannot be said: nobody answers, or nobody recorded it
  notEvaluated: /** @type {const} */ ("not evaluated"), // nobody asked the network
  nonFinite: /** @type {const} */ ("non-finite"), // the network was asked, and its answer is nan or infinite
  failed: /** @type {const} */ ("failed"), // the network was asked, and it raised an error
});

/**
 * The word for a value; null where it is a number.
 * @param {object} about
 * @param {number | null} [about.value]
 * @param {number} [about.status] Of its point.
 * @param {boolean} [about.waiting] Whether it was asked for and is not there yet.
 * @param {boolean} [about.connected] Whether anybody can answer.
 * @returns {Outcome | null}
 */
export function stateOf({ value, status, waiting = false, connected = true }) {
  if (waiting) return connected ? OUTCOMES.pending : OUTCOMES.unknown;
  if (status === STATUS.notEvaluated) return OUTCOMES.notEvaluated;
  if (status === STATUS.failed) return OUTCOMES.failed;
  if (value === null || value === undefined) return OUTCOMES.unknown;
  if (Number.isFinite(value)) return null;
  return status === STATUS.ok && Number.isNaN(value) ? OUTCOMES.unknown : OUTCOMES.nonFinite;
}

/** The word, and of what is not finite which it is. @param {Outcome} outcome @param {number | null} [value] */
export function outcomeWords(outcome, value) {
  if (outcome !== OUTCOMES.nonFinite || value === null || value === undefined) return outcome;
  return `${outcome} (${Number.isNaN(value) ? "nan" : value > 0 ? "∞" : "\u2212∞"})`;
}
