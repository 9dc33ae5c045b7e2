// The page's own house: which folder may import which, no circles, and ids that both the page and its code know.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join, posix } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const PAGE = join(dirname(fileURLToPath(import.meta.url)), "../../../src/lossnav/explorer/page");
const ROWS = ["base", "state", "drawing", "controls", "views", "."]; // each may import itself and those before it

const files = readdirSync(PAGE, { recursive: true }).map(String).map((name) => name.replaceAll("\\", "/"));
const modules = files.filter((name) => name.endsWith(".js"));
/** @param {string} name */
const source = (name) => readFileSync(join(PAGE, name), "utf8");
/** What runs: without comments of types. @param {string} name */
const code = (name) => source(name).replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
/** @param {string} name */
const imports = (name) => [...code(name).matchAll(/^(?:import|export)\s(?:[^;"()]*\sfrom\s+)?"([^"]+)"|\bimport\(\s*"([^"]+)"/gm)].map((m) => posix.join(posix.dirname(name), m[1] ?? m[2]));

test("every module lies in a known folder, is type-checked and says what it holds", () => {
  assert.ok(modules.length >= 40);
  for (const name of modules) {
    assert.ok(ROWS.includes(posix.dirname(name)), name);
    assert.match(source(name), /^\/\/ @ts-check\n\/\/ \S/, name);
    assert.doesNotMatch(source(name), /@ts-(ignore|nocheck|expect-error)/, name);
  }
});

test("a folder imports those before it alone, and what it imports is there", () => {
  for (const name of modules) {
    for (const other of imports(name)) {
      assert.ok(modules.includes(other), `${name} imports ${other}`);
      assert.ok(ROWS.indexOf(posix.dirname(other)) <= ROWS.indexOf(posix.dirname(name)), `${name} imports ${other}`);
    }
  }
});

test("no circle, and no module that nobody imports", () => {
  const done = new Set();
  /** @param {string} name @param {string[]} path */
  const visit = (name, path) => {
    assert.ok(!path.includes(name), `circle: ${[...path, name].join(" → ")}`);
    for (const other of done.has(name) ? [] : imports(name)) visit(other, [...path, name]);
    done.add(name);
  };
  visit("app.js", []);
  assert.deepEqual([...done].toSorted(), modules.toSorted());
});

test("importing a module asks for no browser", async () => {
  for (const name of modules) if (name !== "app.js") await import(join(PAGE, name));
});

test("modules are named alike, and no two have one name", () => {
  const names = modules.map((name) => posix.basename(name));
  assert.equal(new Set(names).size, names.length);
  for (const name of names) assert.match(name, /^[a-z0-9_]+\.js$/);
});

test("ids that the code asks for are in the page, of the type that the code takes them for", () => {
  /** @type {Map<string, string>} */
  const ids = new Map();
  for (const [, tag, id] of source("index.html").matchAll(/<([a-z0-9]+)\b[^>]*?\bid="([^"]+)"/g)) {
    assert.ok(!ids.has(id), `#${id} twice`);
    ids.set(id, tag);
  }
  const asked = modules.flatMap((name) => [...code(name).matchAll(/\bbyId\("([^"]+)"\)/g)].map((m) => [name, m[1]]));
  assert.ok(asked.length > 60);
  for (const [name, id] of asked) assert.ok(ids.has(id), `${name} asks for #${id}`);
  /** @type {Record<string, string>} */
  const tags = {
    HTMLButtonElement: "button", HTMLProgressElement: "progress", HTMLSelectElement: "select", HTMLInputElement: "input", HTMLOutputElement: "output",
    HTMLCanvasElement: "canvas", SVGSVGElement: "svg", HTMLDialogElement: "dialog", HTMLFormElement: "form", HTMLAnchorElement: "a",
  };
  const typed = [...source("base/dom.js").matchAll(/@property \{(\w+)\} ([\w-]+)/g)];
  assert.ok(typed.length > 30);
  for (const [, type, id] of typed) assert.equal(ids.get(id), tags[type], `#${id} as ${type}`);
});

test("nothing of the page reads text as HTML or as code, or asks another host", () => {
  for (const name of modules) {
    assert.doesNotMatch(code(name), /\binnerHTML\b|\bouterHTML\b|insertAdjacentHTML|document\.write|\beval\(|new Function\(/, name);
    for (const [address] of code(name).matchAll(/https?:\/\/[^"'`\s]*/g)) assert.equal(address, "http://www.w3.org/2000/svg", name);
  }
  assert.doesNotMatch(source("index.html"), /\son[a-z]+=|<script(?![^>]*\bsrc=)|https?:/);
});
