// Light and dark: what the system says, or what was chosen here. Canvases take their inks from the style sheet.

const KEY = "lossnav-theme";
const listeners = [];
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

export function ink() {
  if (inks) return inks;
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  inks = { dark: isDark(), sans: of("sans"), math: of("math") };
  for (const name of ["ground", "pane", "ink", "soft", "faint", "hair", "pick", "ball", "path", "accent"]) inks[name] = of(name);
  return inks;
}

function changed() {
  inks = null;
  for (const listener of listeners) listener();
}

export function startTheme(button) {
  const word = chosen();
  if (word) document.documentElement.dataset.theme = word;
  const say = () => {
    button.setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
    button.title = button.getAttribute("aria-label");
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

export function onThemeChange(listener) {
  listeners.push(listener);
}

// #rrggbb as three numbers in [0, 1], for WebGL.
export function rgb(hex) {
  const digits = hex.length === 4 ? [...hex.slice(1)].map((c) => c + c) : hex.slice(1).match(/../g);
  return digits.map((pair) => parseInt(pair, 16) / 255);
}
