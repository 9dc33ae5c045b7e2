// Grids under way: some places have no value yet. What is whole of them is drawn as it is, and cell by cell the rest.

const ENOUGH = 0.7; // of the cells: then a coarser picture under them would show nothing more

// Whether every place of a grid was evaluated: only then it may hide what lies under it.
export function isWhole(grid) {
  grid.whole ??= !grid.values.status || !grid.values.status.includes(0);
  return grid.whole;
}

// Rows and columns that were evaluated wherever they cross: of a run from coarse to fine its last finished level.
// Null where the cells that are there show as much.
export function coreOf(grid) {
  if (grid.core === undefined) grid.core = cellsThere(grid) < ENOUGH ? findCore(grid) : null;
  return grid.core;
}

function cellsThere({ values: { status }, shape: [nx, ny] }) {
  let there = 0;
  for (let i = 0; i + 1 < nx; i++) {
    for (let j = 0; j + 1 < ny; j++) {
      const at = i * ny + j;
      if (status[at] && status[at + 1] && status[at + ny] && status[at + ny + 1]) there++;
    }
  }
  return there / ((nx - 1) * (ny - 1));
}

function findCore(grid) {
  const { status } = grid.values;
  const [nx, ny] = grid.shape;
  const rows = Array(nx).fill(0);
  const columns = Array(ny).fill(0);
  for (let i = 0; i < nx; i++) for (let j = 0; j < ny; j++) if (status[i * ny + j]) (rows[i]++, columns[j]++);
  let best = null;
  for (const least of new Set(rows.filter((many) => many > 1))) {
    const chosen = rows.flatMap((many, i) => (many >= least ? [i] : []));
    const across = columns.flatMap((_, j) => (chosen.every((i) => status[i * ny + j]) ? [j] : []));
    if (chosen.length < 2 || across.length < 2) continue;
    if (!best || chosen.length * across.length > best.rows.length * best.columns.length) best = { rows: chosen, columns: across };
  }
  if (!best) return null;
  const axes = [best.rows.map((i) => grid.axes[0][i]), best.columns.map((j) => grid.axes[1][j])].map((axis) => Float64Array.from(axis));
  const values = {};
  for (const name of grid.arrays) {
    values[name] = Float64Array.from(best.rows.flatMap((i) => best.columns.map((j) => grid.values[name][i * ny + j])));
  }
  return {
    ...grid, axes, values, core: undefined, whole: true, partOf: grid, key: `${grid.key}/core`, drawn: undefined, bitmaps: undefined,
    lines: undefined, shape: axes.map((axis) => axis.length), extent: axes.map((axis) => [axis[0], axis.at(-1)]),
    steps: axes.map((axis) => (axis.at(-1) - axis[0]) / (axis.length - 1)),
  };
}

// The corners of a cell that must all be there for it to be drawn.
export function missing(grid) {
  return isWhole(grid) ? null : grid.values.status;
}
