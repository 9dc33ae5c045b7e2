// @ts-check
// Elements by a line each. Text is always text: nothing that arrives is read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** @typedef {string | number | boolean | null | undefined | ((event: any) => void)} Attribute */
/** @typedef {Node | string | number | false | null | undefined} Child What is no node, text or number is left out. */
/** @typedef {readonly (Child | readonly Child[])[]} Children */

/** @param {Children} children @returns {(Node | string)[]} */
function nodes(children) {
  return children.flat().filter((child) => child !== null && child !== undefined && child !== false).map((child) => (typeof child === "number" ? String(child) : child));
}

/**
 * @template {Element} E
 * @param {E} element
 * @param {Record<string, Attribute>} attributes
 * @param {Children} children
 */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...nodes(children));
  return element;
}

// Canvases are painted by the processor: a picture like ours takes it 10 ms, and where there is no graphics card but
// one that the processor plays, a canvas "on the card" costs 1.5 s a frame (measured in headless Chromium).
/** @type {CanvasRenderingContext2DSettings} */
const UNACCELERATED = { willReadFrequently: true };

/** @param {HTMLCanvasElement} canvas @returns {CanvasRenderingContext2D} */
export function context2d(canvas) {
  const context = /** @type {CanvasRenderingContext2D | null} */ (canvas.getContext("2d", UNACCELERATED));
  if (!context) throw new Error("This browser gives no 2-D canvas.");
  return context;
}

/**
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, Attribute>} attributes Those that begin with `on` are listeners.
 * @param {Children} children
 */
export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/**
 * @template {keyof SVGElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, Attribute>} attributes
 * @param {Children} children
 */
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/**
 * What the ids of the page stand for, where it is more than an element. A test holds this list against index.html.
 * @typedef {object} Elements
 * @property {HTMLButtonElement} stop
 * @property {HTMLProgressElement} doing-bar
 * @property {HTMLSelectElement} metric
 * @property {HTMLInputElement} linear
 * @property {HTMLInputElement} log
 * @property {HTMLSelectElement} colors
 * @property {HTMLInputElement} range-low
 * @property {HTMLInputElement} range-high
 * @property {HTMLButtonElement} range-auto
 * @property {HTMLInputElement} lines
 * @property {HTMLInputElement} levels
 * @property {HTMLInputElement} points
 * @property {HTMLInputElement} path
 * @property {HTMLInputElement} slice
 * @property {HTMLOutputElement} slice-words
 * @property {HTMLInputElement} iso
 * @property {HTMLCanvasElement} map
 * @property {HTMLCanvasElement} scale
 * @property {HTMLCanvasElement} surface
 * @property {HTMLCanvasElement} surface-labels
 * @property {SVGSVGElement} curve
 * @property {SVGSVGElement} line-plot
 * @property {SVGSVGElement} ball-plot
 * @property {SVGSVGElement} spectrum-plot
 * @property {HTMLButtonElement} centre
 * @property {HTMLButtonElement} line-from
 * @property {HTMLButtonElement} axes-open
 * @property {HTMLButtonElement} ball-open
 * @property {HTMLDialogElement} axes-dialog
 * @property {HTMLDialogElement} ball-dialog
 * @property {HTMLDialogElement} share-dialog
 * @property {HTMLDialogElement} bookmarks-dialog
 * @property {HTMLDialogElement} help-dialog
 * @property {HTMLFormElement} axes-form
 * @property {HTMLFormElement} ball-form
 * @property {HTMLFormElement} bookmark-form
 * @property {HTMLInputElement} link
 * @property {HTMLAnchorElement} export
 */

/**
 * An element of index.html.
 * @template {string} I
 * @param {I} id
 * @returns {I extends keyof Elements ? Elements[I] : HTMLElement}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`The page has no #${id}.`);
  return /** @type {any} */ (element);
}

/** Whether a dialog's form was sent by its main button. @param {SubmitEvent} event */
export const isGo = (event) => event.submitter instanceof HTMLButtonElement && event.submitter.value === "go";

/** The element around another, such as the room of a plot. @param {Element} element */
export function parentOf(element) {
  if (!element.parentElement) throw new Error(`#${element.id} stands nowhere.`);
  return element.parentElement;
}

/** α and β in italics of the text's own serif. @param {string} word */
export const letter = (word) => el("i", { class: "letter" }, word);

/**
 * @template {Element} E
 * @param {E} element
 * @param {Children} children
 */
export function replace(element, ...children) {
  element.replaceChildren(...nodes(children));
  return element;
}
