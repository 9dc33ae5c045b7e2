"""How far one driver reaches: a simulation of a cluster, with costs that are measured here.

One process asks the sampler, sends tiles, takes them back and writes the journal (design/0010). Measured on this
machine: what a tile costs it (`ln.Ray` with a function that does nothing), what a row and a tile cost in the journal,
how long a worker waits for its next tile. Then a cluster is simulated, event by event: every worker holds two tiles;
a tile takes its nominal time with a spread of 10 %, one in a hundred takes three times as long; a worker dies once in
500 hours, which is found out after 30 s, its tile done anew and its place empty for 60 s. Each worker has ten minutes
of work. Efficiency is the least possible time over the simulated one.

    python -m benchmarks.scaling [--quick] [--json]
"""

from __future__ import annotations

import heapq
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

import lossnav as ln
from benchmarks.common import machine, options, report
from lossnav import journal

_NEW = -1  # in the place of a tile: a worker in the place of one that died

WORK = 600.0  # seconds a worker
WORKERS = (8, 64, 512, 1000, 4000, 10_000)
TILES = (0.5, 5.0, 30.0)  # seconds
MOST_TILES = 3_000_000


class Costs(NamedTuple):
    """Seconds, measured."""

    task: float  # of the driver, a tile sent and taken back
    latency: float  # from a worker's being idle to its next tile's beginning
    row: float  # appended to the journal
    write: float  # of a tile to the journal


class Cluster(NamedTuple):
    """What is simulated."""

    workers: int
    tile_seconds: float
    rows: int  # a tile
    spread: float = 0.1
    stragglers: float = 0.01
    slowness: float = 3.0
    hours_to_death: float = 500.0
    notice: float = 30.0
    restart: float = 60.0


def measure(quick: bool) -> Costs:
    """Measure what the driver does."""
    points = np.zeros((200 if quick else 2000, 2))
    engine = ln.Ray(workers=2, tile=1)
    try:
        function = engine.prepare(_nothing, points[:1], len(points))
        list(engine.run(function, points[:50]))
        started, cpu = time.perf_counter(), time.process_time()
        list(engine.run(function, points))
        task = (time.process_time() - cpu) / len(points)
        latency = 2 * (time.perf_counter() - started) / len(points)  # two workers in turn
    finally:
        engine.close()
    row = journal.Row((0.1, 0.2), 1, {"loss": 1.0, "loss_se": 0.1, "accuracy": 0.5})
    with tempfile.TemporaryDirectory() as folder:
        writer = journal.Journal(zarr.open_group(Path(folder) / "j.zarr", mode="w"))
        appends, writes = [], []
        for _ in range(10 if quick else 50):
            writer._written = time.monotonic()
            started = time.perf_counter()
            for _ in range(200):
                writer.append(row)
            appends.append((time.perf_counter() - started) / 200)
            started = time.perf_counter()
            writer.flush()
            writes.append(time.perf_counter() - started)
    return Costs(task, latency, statistics.median(appends), statistics.median(writes))


def _nothing(point: Any) -> Mapping[str, float]:
    return {"loss": 0.0}


def simulate(cluster: Cluster, costs: Costs, seed: int = 0, work: float = WORK) -> dict[str, float]:
    """Run a cluster until its last tile is back."""
    rng = np.random.default_rng(seed)
    workers = cluster.workers
    tiles = min(int(workers * work / cluster.tile_seconds), MOST_TILES)
    nominal = cluster.tile_seconds * rng.lognormal(-(cluster.spread**2) / 2, cluster.spread, tiles)
    nominal[rng.random(tiles) < cluster.stragglers] *= cluster.slowness
    dies = rng.random(tiles) < nominal / 3600 / cluster.hours_to_death
    waiting = list(range(tiles - 1, -1, -1))
    idle = [True] * workers
    queued: list[list[int]] = [[] for _ in range(workers)]
    events: list[tuple[float, int, int, bool]] = []  # when, worker, tile, whether it came back
    driver, busy, written = 0.0, 0.0, 0.0
    every = max(journal._SECONDS, costs.write / journal._SHARE)

    def begin(worker: int, tile: int, now: float) -> None:
        died = bool(dies[tile])
        dies[tile] = False  # the second time it does not
        took = rng.random() * nominal[tile] + cluster.notice if died else nominal[tile]
        heapq.heappush(events, (now + took, worker, tile, not died))
        idle[worker] = False

    def give(worker: int, now: float) -> float:
        """Send a tile; the driver is busy for it."""
        now += costs.task / 2
        tile = waiting.pop()
        if idle[worker]:
            begin(worker, tile, now + costs.latency)
        else:
            queued[worker].append(tile)
        return now

    for _ in range(2):
        for worker in range(workers):
            if waiting:
                driver = give(worker, driver)
    busy, left, last = driver, tiles, 0.0
    while left:
        now, worker, tile, came_back = heapq.heappop(events)
        if not came_back:
            waiting += [tile, *queued[worker]]
            queued[worker].clear()
            heapq.heappush(events, (now + cluster.restart, worker, _NEW, True))
            continue
        left -= tile != _NEW
        if queued[worker]:
            begin(worker, queued[worker].pop(), now)
        else:
            idle[worker] = True
        start = max(now, driver)
        driver = start + costs.task / 2 + cluster.rows * costs.row
        if driver - written > every:
            driver += costs.write
            written = driver
        while waiting and len(queued[worker]) + (not idle[worker]) < 2:
            driver = give(worker, driver)
        busy += driver - start
        last = max(last, driver)
    ideal = float(nominal.sum()) / workers
    return {"efficiency": ideal / last, "driver": busy / last, "tiles a second": tiles / last, "seconds": last}


def main() -> None:
    chosen = options(__doc__ or "")
    costs = measure(chosen.quick)
    result: dict[str, Any] = {"machine": machine()}
    names = ("driver: a tile", "worker: way to its next tile", "journal: a row", "journal: a tile")
    result |= {f"measured: {name}: ms": 1e3 * cost for name, cost in zip(names, costs, strict=True)}
    result["one driver: tiles a second, at most"] = 1 / costs.task
    for workers in (8, 1000) if chosen.quick else WORKERS:
        for seconds in TILES:
            rows = 64
            found = simulate(Cluster(workers, seconds, rows), costs, work=60.0 if chosen.quick else WORK)
            key = f"{workers} workers, tiles of {seconds:g} s"
            result[f"{key}: efficiency"] = found["efficiency"]
            result[f"{key}: driver busy"] = found["driver"]
    report(result, chosen.json)


if __name__ == "__main__":
    main()
