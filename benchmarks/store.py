"""What it costs to keep a run while it goes on.

The same 51x51 plane with and without a store, in one process, interleaved: the notebook's CNN (1,000 images, where
points are quick) and ResNet-56 (1,000 images; fewer points, scaled to the whole plane by the costs measured). Then the
parts by themselves: making a store, appending a row, writing a tile of 1,023 rows, folding, opening.

    python -m benchmarks.store [--quick] [--json] [--only cnn,resnet56]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

import lossnav as ln
from benchmarks import workloads
from benchmarks.common import machine, options, paired, report
from lossnav.storage import journal

SIDES = {"cnn": (51, 11), "resnet56": (5, 3)}  # of the plane: full, quick
SAMPLES = {"cnn": (1000, 100), "resnet56": (1000, 10)}


def run(name: str, quick: bool, rounds: int, folder: Path) -> dict[str, Any]:
    """Time one workload with and without a store."""
    workload = getattr(workloads, name)(SAMPLES[name][quick])
    objective = ln.Objective(workload.model, workload.loss, (workload.x, workload.y), metrics=["accuracy"])
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))
    side = SIDES[name][quick]
    grid = ln.Grid(alpha=(-1, 1, side), beta=(-1, 1, side))

    def evaluate(store: Path | None) -> None:
        ln.evaluate(objective, plane, grid, store=store, overwrite=True, progress=False)

    seconds = paired({"without": lambda: evaluate(None), "with": lambda: evaluate(folder / "run.zarr")}, rounds)
    per_point = statistics.median(seconds["without"]) / side**2
    spent = [a - b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    found = {"points": side**2, "ms a point": 1e3 * per_point, "store: s, measured": statistics.median(spent)}
    if side == 51:
        found["store: % of the run, measured"] = 100 * statistics.median(
            a / b - 1 for a, b in zip(seconds["with"], seconds["without"], strict=True)
        )
    return found


def parts(folder: Path, quick: bool) -> dict[str, float]:
    """Time what a store does, by itself: seconds."""
    bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    e1, e2 = torch.eye(2)
    plane = ln.Plane(bowl.params, {"x": e1}, {"x": e2})
    surface = ln.evaluate(bowl, plane, ln.Grid(alpha=(-1, 1, 51), beta=(-1, 1, 51)), progress=False)
    from lossnav.surface.run_store import Store

    timed: dict[str, list[float]] = {"begin": [], "finish": [], "open": []}
    for i in range(3 if quick else 15):
        place = folder / f"{i}.zarr"
        store = Store(place)
        for name, step in (
            ("begin", lambda s=store: s.begin(surface)),
            ("finish", lambda s=store: s.finish(surface)),
            ("open", lambda p=place: ln.open(p)),
        ):
            started = time.perf_counter()
            step()
            timed[name].append(time.perf_counter() - started)
    rows = [journal.Row((0.1 * i, 0.2), 1, {"loss": 1.0, "loss_se": 0.1, "accuracy": 0.5}) for i in range(1023)]
    writer, tiles, appends = journal.Journal(zarr.open_group(folder / "j.zarr", mode="w")), [], []
    for _ in range(5 if quick else 40):
        writer._written = time.monotonic()  # no tile is due before its time
        started = time.perf_counter()
        for row in rows:
            writer.append(row)
        appends.append((time.perf_counter() - started) / len(rows))
        started = time.perf_counter()
        writer.flush()
        tiles.append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in timed.items()}
    return medians | {"append a row": statistics.median(appends), "write a tile": statistics.median(tiles)}


def share(costs: dict[str, float], points: int, per_point: float) -> float:
    """Percent of a run that its store takes, from the parts."""
    seconds = points * per_point
    tiles = min(points, seconds / max(journal._SECONDS, costs["write a tile"] / journal._SHARE), np.inf)
    tiles = max(tiles, points / journal._ROWS)
    kept = costs["begin"] + costs["finish"] + points * costs["append a row"] + tiles * costs["write a tile"]
    return 100 * kept / seconds


def main() -> None:
    chosen = options(__doc__ or "", only=",".join(SIDES))
    result: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        costs = parts(Path(folder), chosen.quick)
        result |= {f"store: {name}: ms": 1e3 * value for name, value in costs.items()}
        for name in chosen.only.split(","):
            found = run(name, chosen.quick, chosen.rounds or (1 if chosen.quick else 5), Path(folder))
            found["store: % of a 51x51 plane, from the parts"] = share(costs, 51 * 51, found["ms a point"] / 1e3)
            result |= {f"{name}: {key}": value for key, value in found.items()}
    report(result, chosen.json)


if __name__ == "__main__":
    main()
