// Numbers as a reader wants them: as many digits as mean something, a true minus sign, units after a thin space.

const MINUS = "\u2212";
const THIN = "\u2009";
const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

export function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return "not a number";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : `${MINUS}∞`;
  if (value === 0) return "0";
  const size = Math.abs(value);
  let text;
  if (size >= 1e5 || size < 1e-3) {
    const [mantissa, exponent] = value.toExponential(digits - 1).split("e");
    const power = [...String(Number(exponent))].map((c) => RAISED[c]).join("");
    text = `${mantissa}${THIN}×${THIN}10${power}`;
  } else {
    text = value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size))));
  }
  return text.replace(/^-/, MINUS);
}

// A tick: no more digits than the step between ticks needs.
export function tick(value, step) {
  if (Math.abs(value) < step * 1e-6) return "0";
  const size = Math.abs(value);
  if (size >= 1e5 || size < 1e-4) return number(value, Math.max(1, 1 + Math.round(Math.log10(size / step)))).replaceAll(THIN, "");
  const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return value.toFixed(places).replace(/^-/, MINUS);
}

export function coordinate(value, span = 1) {
  if (!Number.isFinite(value)) return number(value);
  const places = Math.min(9, Math.max(2, 3 - Math.floor(Math.log10(span))));
  return value.toFixed(places).replace(/^-(?=0\.?0*$)/, "").replace(/^-/, MINUS);
}

// A value with its standard error, both to the error's second digit: 0.0935 ± 0.0186.
export function withError(value, error) {
  if (!Number.isFinite(value) || !Number.isFinite(error) || error <= 0) return [number(value), ""];
  const places = 1 - Math.floor(Math.log10(error));
  if (places < 0 || places > 6) return [number(value), number(error, 2)];
  return [value.toFixed(places).replace(/^-/, MINUS), error.toFixed(places)];
}

export function unit(variable) {
  return variable && variable.units && variable.units !== "1" ? variable.units : "";
}

export function percent(fraction, places = 1) {
  return Number.isFinite(fraction) ? `${(100 * fraction).toFixed(places)}${THIN}%` : "not a number";
}

const GROUPED = new Intl.NumberFormat("en-US"); // making one takes longer than all it is used for in a picture

export function count(value) {
  return GROUPED.format(Math.round(value));
}

// Steps of 1, 2 or 5 times a power of ten: at most about so many between the ends, or as near to that as can be.
export function ticks(low, high, about = 6, nearest = false) {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return { step: 1, values: [] };
  const rough = span / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const steps = [1, 2, 5, 10];
  const away = (k) => Math.abs(Math.log((k * power) / rough));
  const step = power * (nearest ? steps.reduce((a, b) => (away(b) < away(a) ? b : a)) : steps.find((k) => k * power >= rough * 0.999));
  const values = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + span * 1e-9; k++) values.push(k * step);
  return { step, values };
}
