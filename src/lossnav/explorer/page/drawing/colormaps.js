// @ts-check
// Colours of values: maps that are even to the eye and readable in grey, and the scale that a value is looked up by.

// Every fourth colour of matplotlib's maps (both CC0), as hex triples; between them straight lines.
/** @type {Record<string, string>} */
const MAPS = {
  viridis:
    "44015446075a470d6047136548186a481d6f482374482878472d7b46327e453781443b844240864045883e49893d4e8a" +
    "3a538b38588c365c8d34608d32648e31688e2f6c8e2d708e2c738e2a778e297b8e277f8e26828e24868e238a8d218e8d" +
    "20928c1f968b1f9a8a1f9e891fa18721a58523a98326ad812ab07f2fb47c35b7793bbb7542be714ac16d52c5695ac864" +
    "65cb5e6ece5877d15381d34d8bd64695d840a0da39aadc32b5de2bc0df25cae11fd5e21adfe318eae51af4e61efde725",
  cividis:
    "00224e00255400285b002b62002e6a0030700533711235701a386f213b6e273e6e2d416d32436d36466c3b496c3f4c6c" +
    "444f6c48526c4c556c50576c545a6d575d6d5b606e5e636f62656f656870696b716c6e727071737374757777767a7a78" +
    "7e7d788280798683798a86788e8978928c78958f779992779d9576a19975a59c74a99f73ada272b1a570b6a96fbaac6d" +
    "bfb06bc3b369c7b767ccba64d0be62d4c15fd9c55cddc858e1cc55e6d051ead34cefd748f3db42f8df3cfde334fee838",
};

export const COLORMAPS = Object.keys(MAPS);
/** @type {Record<string, Uint8ClampedArray>} */
const tables = {};

/** 256 colours as RGBA bytes. @param {string} name Of a map; viridis where there is none of it. */
export function colorTable(name) {
  const key = Object.hasOwn(MAPS, name) ? name : "viridis";
  if (tables[key]) return tables[key];
  const knots = (MAPS[key].match(/../g) ?? []).map((pair) => parseInt(pair, 16));
  const last = knots.length / 3 - 1;
  const made = new Uint8ClampedArray(4 * 256);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * last;
    const k = Math.min(last - 1, Math.floor(place));
    for (let c = 0; c < 3; c++) made[4 * i + c] = knots[3 * k + c] * (k + 1 - place) + knots[3 * k + 3 + c] * (place - k);
    made[4 * i + 3] = 255;
  }
  tables[key] = made;
  return made;
}

/** @param {string} name @param {number} t In [0, 1]. */
export function cssColor(name, t) {
  const colors = colorTable(name);
  const i = 4 * Math.round(255 * Math.min(1, Math.max(0, t)));
  return `rgb(${colors[i]} ${colors[i + 1]} ${colors[i + 2]})`;
}
