// Elements by a line each. Text is always text: nothing that arrives is read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Canvases are painted by the processor: a picture like ours takes it 10 ms, and where there is no graphics card but
// one that the processor plays, a canvas "on the card" costs 1.5 s a frame (measured in headless Chromium).
export const UNACCELERATED = { willReadFrequently: true };

export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
export const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
export const byId = (id) => document.getElementById(id);

// α and β in italics of the text's own serif.
export const letter = (word) => el("i", { class: "letter" }, word);

export function replace(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}
