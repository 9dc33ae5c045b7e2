// @ts-check
// The selected point in numbers: its loss with the error, the other metrics, the gradient, the classes.

/** @import { Classes, Coordinates, Gradient, ReportItem, Row, Session } from "../state/messages.js" */
/** @import { Beyond } from "../state/range.js" */
/** @import { Outcome } from "../state/outcome.js" */

import { byId, el, letter, replace } from "../base/dom.js";
import { coordinate, count, number, percent, unit, withError } from "../base/format.js";
import { cssColor } from "../drawing/colormaps.js";
import { OUTCOMES, outcomeWords, stateOf } from "../state/outcome.js";

const FRACTIONS = /accuracy|error$|top\d/;
const HIDDEN = new Set(["loss", "loss_se", "status", "interpolated"]);

/** @type {Record<Outcome, string>} */
const MEANINGS = {
  pending: "asked for; the answer is under way",
  unknown: "nobody said whether there is a value here",
  "not evaluated": "the network was not asked here",
  "non-finite": "the network was asked, and its loss is no finite number",
  failed: "the network was asked, and evaluating it raised an error",
};

/** Coordinates with their letters. @param {Coordinates} at @param {Session} session @param {number[]} spans @returns {(Node | string)[]} */
export function placeWords(at, session, spans) {
  return at.flatMap((value, k) => [k ? "   " : "", letter(session.axes[k]?.letter ?? ""), "\u2009", coordinate(value, spans[k])]);
}

/**
 * @typedef {object} Reading Of the selected point.
 * @property {Coordinates} at
 * @property {Row} values
 * @property {number} [status]
 * @property {Gradient | null} [gradient]
 * @property {Classes | null} [classes]
 * @property {Row} [curvature]
 * @property {{ value: number, error: number } | null} [difference]
 * @property {string} waiting What is still awaited.
 * @property {boolean} [pending] Whether nothing is known of it yet.
 * @property {string} [refused] Why nothing will be.
 */

/** @param {Reading | null} reading @param {Session} session @param {number[]} spans @param {boolean} connected Whether anybody can answer. */
export function showPoint(reading, session, spans, connected) {
  const box = byId("point");
  if (!reading) {
    replace(box, el("p", { class: "note" }, "Click the map or the surface, or move with the arrow keys."));
    return;
  }
  const { values, refused } = reading;
  const outcome = refused ? OUTCOMES.unknown : stateOf({ value: values.loss, status: reading.status, waiting: reading.pending, connected });
  const variable = (session.variables ?? []).find((v) => v.name === "loss");
  const [loss, error] = outcome ? [outcomeWords(outcome, values.loss), ""] : withError(values.loss, values.loss_se);
  /** @type {HTMLElement[]} */
  const rows = [];
  /** @param {string} name @param {string} words */
  const row = (name, words) => rows.push(el("dt", {}, name), el("dd", { class: "figures" }, words));
  for (const [name, value] of Object.entries(values)) {
    if (HIDDEN.has(name) || session.dims?.includes(name)) continue;
    if (outcome && !Number.isFinite(value)) continue; // the word above is for them too
    const other = stateOf({ value, status: reading.status });
    row(name.replaceAll("_", " "), other ? outcomeWords(other, value) : FRACTIONS.test(name) ? percent(value) : number(value));
  }
  if (session.center?.loss !== undefined && !outcome) row("against the centre", against(values.loss, session.center.loss, reading.difference));
  for (const [name, words] of curvatureWords(reading.curvature ?? {}, session)) row(name, words);
  const { gradient } = reading;
  if (gradient) {
    row("|∇L|", number(gradient.norm));
    row("in the plane", `${number(gradient.in_plane_norm)}  (${percent((gradient.in_plane_norm / gradient.norm) ** 2, 2)} of |∇L|²)`);
    row("out of it", number(gradient.out_of_plane_norm));
  }
  replace(
    box,
    el("p", { class: "where figures" }, placeWords(reading.at, session, spans)),
    el("p", { class: "value" },
      el("span", { class: outcome ? "figures big word" : "figures big", id: "point-loss", "data-loss": String(values.loss), "data-outcome": outcome ?? "measured" }, loss),
      error && el("span", { class: "figures" }, ` ±\u2009${error}`),
      !outcome && el("span", { class: "unit" }, ` ${unit(variable)}`)),
    outcome && el("p", { class: "warn" }, MEANINGS[outcome], refused && ` ${refused}`),
    reading.waiting && connected && !refused && el("p", { class: "note waiting" }, reading.waiting),
    el("dl", { class: "numbers" }, rows),
  );
}

/**
 * What was measured of the curvature at a point, each number with its error. Norms and the second derivatives in the plane are exact to rounding.
 * @param {Row} values
 * @param {Session} session
 * @returns {[name: string, words: string][]}
 */
function curvatureWords(values, session) {
  return Object.entries(values).filter(([name]) => !name.endsWith("_error")).map(([name, value]) => {
    const shown = name.replaceAll("_", " ");
    const variable = (session.variables ?? []).find((v) => v.name === name);
    const error = values[`${name}_error`];
    if (!Number.isFinite(value)) return [shown, "unknown"];
    if (error === undefined) return [shown, `${number(value)} ${unit(variable)}`];
    const [figure, within] = withError(value, error);
    return [shown, within ? `${figure} ±\u2009${within} ${unit(variable)}` : `${number(value)} ${unit(variable)}, ${error < Infinity ? "exact to rounding" : "error unknown"}`];
  });
}

/**
 * Below the sixth digit float32 differs by the order of its sums. The error is that of the difference, of the same samples: those of
 * the two losses say little about it.
 * @param {number} loss
 * @param {number} center
 * @param {Reading["difference"]} paired
 */
function against(loss, center, paired) {
  const more = loss - center;
  if (Math.abs(more) < 1e-6 * Math.abs(center)) return "the same to 6 digits";
  const sign = more > 0 ? "+" : "";
  if (!paired || !Number.isFinite(paired.error)) return `${sign}${number(more, 3)}, error unknown`;
  const [value, error] = withError(more, paired.error);
  return error ? `${sign}${value} ±\u2009${error}, same samples` : `${sign}${number(more, 3)}, same samples`;
}

/** Accuracy a class as bars, and which class is taken for which. Rows are the true classes. @param {Classes | null} classes */
export function showClasses(classes) {
  byId("classes-card").hidden = !classes;
  if (!classes) return;
  const labels = classes.labels ?? [];
  const confusion = classes.confusion ?? [];
  const few = labels.length <= 12 && confusion.length > 0;
  const bars = el("table", { class: "bars" },
    el("caption", { class: "unseen" }, "Accuracy by class"),
    el("tbody", {}, labels.slice(0, 40).map((label, k) => {
      const part = classes.accuracy[k];
      const bar = el("span", { class: "bar" });
      bar.style.width = `${100 * (Number.isFinite(part) ? part : 0)}%`;
      return el("tr", {}, el("th", { scope: "row" }, String(label)), el("td", {}, bar),
        el("td", { class: "figures" }, percent(part, 0)), el("td", { class: "figures soft" }, count(classes.counts?.[k] ?? 0)));
    })));
  const most = Math.max(1, ...confusion.flat());
  const matrix = few && el("table", { class: "confusion" },
    el("caption", {}, "true class down, taken for across"),
    el("thead", {}, el("tr", {}, el("td"), labels.map((label) => el("th", { scope: "col" }, String(label))))),
    el("tbody", {}, confusion.map((line, i) => el("tr", {}, el("th", { scope: "row" }, String(labels[i])), line.map((value, j) => {
      const cell = el("td", { class: `figures${value ? "" : " none"}`, title: `${labels[i]} taken for ${labels[j]}: ${value}` }, value ? String(value) : "");
      if (value) {
        const t = Math.sqrt(value / most);
        cell.style.background = cssColor("viridis", t);
        cell.style.color = t > 0.62 ? "#14181c" : "#fff";
      }
      return cell;
    })))));
  replace(byId("classes"), bars, matrix);
}

/** @type {Record<string, string>} */
const LEVELS = { error: "Error", warning: "Warning", info: "Note", note: "Note", unknown: "Unknown", ok: "Good" };

const GRAVEST = ["error", "warning", "unknown"]; // and then notes

/**
 * What the report says, the gravest first, stands beside the picture; so does what the picture leaves out.
 * @param {ReportItem[]} report
 * @param {Record<string, number>} holes
 * @param {boolean} interpolated
 * @param {Beyond | null} beyond The automatic range.
 */
export function showReport(report, holes, interpolated, beyond = null) {
  /** @param {ReportItem} item */
  const rank = ({ level }) => GRAVEST.indexOf(level) + (GRAVEST.includes(level) ? 0 : GRAVEST.length + 1);
  const items = report.filter(({ level }) => level !== "ok").toSorted((a, b) => rank(a) - rank(b)).map(({ level, check, said, do: advice }) =>
    el("li", { class: level }, el("b", {}, `${LEVELS[level] ?? level}: `), check ? `${check}. ` : "", said, advice ? el("span", { class: "do" }, ` ${advice}`) : null));
  for (const [word, many] of Object.entries(holes)) {
    items.push(el("li", { class: "holes" }, el("b", {}, `${count(many)} `), `${many === 1 ? "point" : "points"} ${word}: left as holes (hatched).`));
  }
  if (beyond) {
    const many = beyond.low + beyond.high;
    const far = [beyond.low && `down to ${number(beyond.least)}`, beyond.high && `up to ${number(beyond.most)}`].filter(Boolean).join(" and ");
    items.unshift(el("li", { class: "warning", id: "beyond" }, el("b", {}, `${count(many)} visible `),
      `${many === 1 ? "value lies" : "values lie"} beyond the colours (${far}): with them the others would have no colours.`, el("span", { class: "do" }, " Type a range to see all.")));
  }
  if (interpolated) items.push(el("li", { class: "info" }, el("b", {}, "Note: "), "colours between measured points are interpolated; the values read here are measured."));
  byId("report-card").hidden = !items.length;
  replace(byId("report"), items);
}

/** @param {Session} session */
export function showFacts(session) {
  const { objective = {}, center = {}, axes_info: info = {} } = session;
  /** @type {HTMLElement[]} */
  const rows = [];
  /** @param {string} name @param {string | null | undefined} words */
  const row = (name, words) => words && rows.push(el("dt", {}, name), el("dd", { class: "figures" }, words));
  row("model", objective.model && `${objective.model}${objective.parameters ? `, ${count(objective.parameters)} parameters` : ""}`);
  row("loss", objective.loss);
  row("data", objective.samples && `${count(objective.samples)} samples${objective.population ? ` of ${count(objective.population)}` : ""}`);
  row("computed in", [objective.dtype, objective.device].filter(Boolean).join(" on "));
  row("BatchNorm", objective.bn);
  if (center.loss !== undefined) row("centre", `${number(center.loss)}${center.accuracy === undefined ? "" : `, accuracy ${percent(center.accuracy)}`}`);
  for (const axis of session.axes) row(axis.letter, axis.meaning);
  for (const [name, value] of Object.entries(info ?? {})) row(name.replaceAll("_", " "), factWords(value));
  row("lossnav", session.version);
  replace(byId("facts"), rows);
}

/** @param {unknown} value @returns {string} */
function factWords(value) {
  if (typeof value === "number") return number(value);
  if (Array.isArray(value)) return value.map(factWords).join(", ");
  if (value && typeof value === "object") return Object.entries(value).map(([k, v]) => `${k} ${factWords(v)}`).join("; ");
  return value === null || value === undefined ? "" : String(value);
}
