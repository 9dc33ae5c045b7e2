// @ts-check
// Light and dark: what the system says, or what was chosen here. Canvases take their inks from the style sheet.

const KEY = "lossnav-theme";
const NAMES = /** @type {const} */ (["ground", "pane", "ink", "soft", "faint", "hair", "pick", "ball", "path", "accent"]);

/** @typedef {{ dark: boolean, sans: string, math: string } & Record<(typeof NAMES)[number], string>} Inks Colours and fonts. */

/** @type {(() => void)[]} */
const listeners = [];
/** @type {Inks | null} */
let inks = null;

const system = () => window.matchMedia("(prefers-color-scheme: dark)");

function chosen() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // storage may be denied, in a frame say
  }
}

export function isDark() {
  const word = document.documentElement.dataset.theme;
  return word ? word === "dark" : system().matches;
}

/** @returns {Inks} */
export function ink() {
  if (inks) return inks;
  const style = getComputedStyle(document.documentElement);
  /** @param {string} name */
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  const colors = /** @type {Record<(typeof NAMES)[number], string>} */ (Object.fromEntries(NAMES.map((name) => [name, of(name)])));
  inks = { dark: isDark(), sans: of("sans"), math: of("math"), ...colors };
  return inks;
}

function changed() {
  inks = null;
  for (const listener of listeners) listener();
}

/** @param {HTMLElement} button Changes between light and dark. */
export function startTheme(button) {
  const word = chosen();
  if (word) document.documentElement.dataset.theme = word;
  const say = () => {
    const words = isDark() ? "Light colours" : "Dark colours";
    button.setAttribute("aria-label", words);
    button.title = words;
  };
  button.addEventListener("click", () => {
    const next = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    try {
      localStorage.setItem(KEY, next);
    } catch {
      // then it holds for this page only
    }
    say();
    changed();
  });
  system().addEventListener("change", () => {
    say();
    changed();
  });
  say();
}

/** @param {() => void} listener */
export function onThemeChange(listener) {
  listeners.push(listener);
}

/**
 * #rgb or #rrggbb as three numbers in [0, 1], for WebGL.
 * @param {string} hex
 * @returns {[number, number, number]}
 */
export function rgb(hex) {
  const digits = hex.length === 4 ? [...hex.slice(1)].map((c) => c + c) : (hex.slice(1).match(/../g) ?? []);
  const [red, green, blue] = digits.map((pair) => parseInt(pair, 16) / 255);
  return [red, green, blue];
}
