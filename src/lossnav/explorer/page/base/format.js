// @ts-check
// Numbers as a reader wants them: as many digits as mean something, a true minus sign, units after a thin space.

const MINUS = "\u2212";
const THIN = "\u2009";
const RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** @typedef {number | null | undefined} Value */

/** An exponent in raised digits. @param {number} exponent */
const raised = (exponent) => [...String(exponent)].map((c) => (c === "-" ? "⁻" : RAISED[Number(c)])).join("");

/** @param {Value} value @param {number} digits Significant ones. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return "unknown";
  if (Number.isNaN(value)) return "not a number";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : `${MINUS}∞`;
  if (value === 0) return "0";
  const size = Math.abs(value);
  let text;
  if (size >= 1e5 || size < 1e-3) {
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    text = `${mantissa}${THIN}×${THIN}10${raised(Number(exponent))}`;
  } else {
    text = value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size))));
  }
  return text.replace(/^-/, MINUS);
}

/** Of the first digit, also where a sum of steps is a little less than the number that it stands for. @param {number} value */
const exponentOf = (value) => Number(value.toExponential(9).split("e")[1]);

/**
 * A tick: no more digits than the step between ticks needs.
 * @param {number} value
 * @param {number} step
 */
export function tick(value, step) {
  if (Math.abs(value) < step * 1e-6) return "0";
  const size = Math.abs(value);
  const last = exponentOf(step); // the place of the last digit
  if (size >= 1e5 || size < 1e-4) {
    const digits = Math.min(17, Math.max(1, 1 + exponentOf(size) - last));
    return number(value, digits).replaceAll(THIN, "");
  }
  const places = Math.min(17, Math.max(0, -last));
  return value.toFixed(places).replace(/^-/, MINUS);
}

/**
 * A tick of a logarithmic axis, with as many digits as tell it from its neighbours.
 * @param {number} exponent Of ten.
 * @param {number} step Between exponents; 0 where ticks are 1, 2 and 5 times powers of ten.
 */
export function logTick(exponent, step) {
  if (!step || Number.isInteger(exponent)) return number(10 ** exponent, 1);
  const apart = 10 ** step - 1; // of the next tick, relative to this one
  return number(10 ** exponent, Math.min(15, Math.max(2, 1 + Math.ceil(-Math.log10(apart)))));
}

/**
 * Ends of a range as one types them: four digits, or as many as tell them apart to a thousandth of the range.
 * @param {number} low
 * @param {number} high
 */
export function endWords(low, high) {
  const apart = Math.abs(high - low) / Math.max(Math.abs(low), Math.abs(high));
  const digits = Math.min(17, Math.max(4, apart > 0 ? 3 + Math.ceil(-Math.log10(apart)) : 4));
  return [low, high].map((end) => Number(end.toPrecision(digits)).toString());
}

/** @param {number} value @param {number} span Length of the axis: how many decimals can be told apart. */
export function coordinate(value, span = 1) {
  if (!Number.isFinite(value)) return number(value);
  const places = Math.min(9, Math.max(2, 3 - Math.floor(Math.log10(span))));
  return value.toFixed(places).replace(/^-(?=0\.?0*$)/, "").replace(/^-/, MINUS);
}

/**
 * A value with its standard error, both to the error's second digit: 0.0935 ± 0.0186.
 * @param {number} value
 * @param {Value} error
 * @returns {[value: string, error: string]} No error where there is none.
 */
export function withError(value, error) {
  if (!Number.isFinite(value) || error === null || error === undefined || !Number.isFinite(error) || error <= 0) return [number(value), ""];
  const places = 1 - Math.floor(Math.log10(error));
  if (places < 0 || places > 6) return [number(value), number(error, 2)];
  return [value.toFixed(places).replace(/^-/, MINUS), error.toFixed(places)];
}

/** @param {{ units?: string } | null | undefined} variable */
export function unit(variable) {
  return variable?.units && variable.units !== "1" ? variable.units : "";
}

/** @param {Value} fraction @param {number} places */
export function percent(fraction, places = 1) {
  return typeof fraction === "number" && Number.isFinite(fraction) ? `${(100 * fraction).toFixed(places)}${THIN}%` : number(fraction);
}

const GROUPED = new Intl.NumberFormat("en-US"); // making one takes longer than all it is used for in a picture

/** @param {number} value */
export function count(value) {
  return GROUPED.format(Math.round(value));
}

/**
 * Multiples of a step of 1, 2 or 5 times a power of ten.
 * @param {number} low
 * @param {number} high
 * @param {number} about At most about so many.
 * @param {boolean} nearest As near to that as can be, be it more.
 */
export function ticks(low, high, about = 6, nearest = false) {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return { step: 1, values: [] };
  const rough = span / about;
  const power = Math.floor(Math.log10(rough));
  const steps = ["1", "2", "5", "10"].map((k) => Number(`${k}e${power}`)); // the nearest float, which 5 * 10 ** -7 is not
  /** @param {number} step */
  const away = (step) => Math.abs(Math.log(step / rough));
  const step = nearest ? steps.reduce((a, b) => (away(b) < away(a) ? b : a)) : (steps.find((each) => each >= rough * 0.999) ?? steps[3]);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + (span / step) * 1e-9);
  // Where a step is less than the distance of neighbouring floats there is no tick to tell apart.
  if (!Number.isSafeInteger(first) || !Number.isSafeInteger(last) || !Number.isFinite(step)) return { step: 1, values: [] };
  const values = [];
  for (let k = first; k <= last; k++) values.push(k * step);
  return { step, values };
}
