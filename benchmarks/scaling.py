"""How far one driver reaches: a simulation of a cluster, with costs that are measured here.

One process asks the sampler, sends tiles, takes them back and writes the journal (design/0010). Measured on this
machine: what a tile costs it (`ln.Ray` with a function that does nothing), what it costs to look whether any of very
many workers has answered (`ray.wait` on as many, and the engine's own loops), what a row and a tile cost in the
journal, how long a worker waits for its next tile. Then a cluster is simulated, event by event: a tile of the default
size for so many workers (and of half a second); a worker holds two where they are short, as the engine does it; a
tile takes its nominal time with a spread of 10 %, one in a hundred takes three times as long; a worker dies once in
500 hours, which is found out after 30 s, its tile done anew and its place empty for 60 s. Each worker has ten minutes
of work, in points of 0.1 s. Efficiency is the least possible time over the simulated one.

    python -m benchmarks.scaling [--quick] [--json]
"""

from __future__ import annotations

import heapq
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

import lossnav as ln
from benchmarks.common import machine, options, report
from lossnav.engines.ray import SHORT_TILE, _Hired
from lossnav.engines.tiles import TILE_SECONDS, Tiles, tile_seconds
from lossnav.storage import journal

_NEW = -1  # in the place of a tile: a worker in the place of one that died

WORK = 600.0  # seconds a worker
POINT_SECONDS = 0.1
WORKERS = (8, 64, 512, 1000, 4000, 10_000)
MOST_TILES = 3_000_000


class Costs(NamedTuple):
    """Seconds of the driver, measured; and of a worker its way to the next tile."""

    task: float  # a tile sent and taken back
    scan: float  # a look for answers, for each worker there is
    row: float  # appended to the journal
    write: float  # of a tile to the journal
    latency: float


class Cluster(NamedTuple):
    """What is simulated."""

    workers: int
    tile_seconds: float
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
        scan = _scan(engine, 500 if quick else 10_000)
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
    return Costs(task, scan, statistics.median(appends), statistics.median(writes), latency)


def _nothing(point: Any) -> Mapping[str, float]:
    return {"loss": 0.0}


def _scan(engine: ln.Ray, workers: int) -> float:
    """Time the engine's look for answers where so many workers have not answered: seconds a worker."""
    sleeper = engine._ray.remote(_Sleeper).options(num_cpus=0).remote()
    refs = [sleeper.sleep.remote(3600.0) for _ in range(workers)]  # none of them is ever ready
    answered, crew = engine._ray.put(0), engine._crew
    engine._crew = [_Hired(None, None, None, deque([(ref, (0,))]), seconds=0.0) for ref in [*refs, answered]]
    engine.in_flight = 1
    seconds = []
    try:
        for _ in range(20):
            started = time.perf_counter()
            engine._hand_out(Tiles(1), np.zeros((1, 2)))
            assert len(engine._answering()) == 1
            seconds.append(time.perf_counter() - started)
    finally:
        engine._crew, engine.in_flight = crew, 2
        engine._ray.kill(sleeper)
    return statistics.median(seconds) / workers


class _Sleeper:
    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def simulate(cluster: Cluster, costs: Costs, seed: int = 0, work: float = WORK) -> dict[str, float]:
    """Run a cluster until its last tile is back."""
    rng = np.random.default_rng(seed)
    workers = cluster.workers
    tiles = min(int(workers * work / cluster.tile_seconds), MOST_TILES)
    nominal = cluster.tile_seconds * rng.lognormal(-(cluster.spread**2) / 2, cluster.spread, tiles)
    nominal[rng.random(tiles) < cluster.stragglers] *= cluster.slowness
    dies = rng.random(tiles) < nominal / 3600 / cluster.hours_to_death
    in_flight = 2 if cluster.tile_seconds < SHORT_TILE else 1
    taking = costs.task / 2 + cluster.tile_seconds / POINT_SECONDS * costs.row
    waiting = list(range(tiles - 1, -1, -1))
    running = [False] * workers
    queued: list[list[int]] = [[] for _ in range(workers)]
    events: list[tuple[float, int, int, bool]] = []  # when, worker, tile, whether it came back
    now, busy, written, left = 0.0, 0.0, 0.0, tiles  # the driver's clock
    every = max(journal._SECONDS, costs.write / journal._SHARE)

    def begin(worker: int, tile: int, at: float) -> None:
        died = bool(dies[tile])
        dies[tile] = False  # the second time it does not
        took = rng.random() * nominal[tile] + cluster.notice if died else nominal[tile]
        heapq.heappush(events, (at + took, worker, tile, not died))
        running[worker] = True

    open_to = deque(range(workers))  # who may have room
    open_to.extend(range(workers) if in_flight == 2 else ())
    while left:
        started = now
        while waiting and open_to:
            worker = open_to.popleft()
            if len(queued[worker]) + running[worker] < in_flight:
                now += costs.task / 2
                tile = waiting.pop()
                if running[worker]:
                    queued[worker].append(tile)
                else:
                    begin(worker, tile, now + costs.latency)
        busy += now - started
        now = max(now, events[0][0])
        started = now
        now += costs.scan * workers
        while events and events[0][0] <= started:
            at, worker, tile, came_back = heapq.heappop(events)
            running[worker] = False
            if not came_back:
                waiting += [tile, *queued[worker]]
                queued[worker].clear()
                heapq.heappush(events, (at + cluster.restart, worker, _NEW, True))
                continue
            if queued[worker]:
                begin(worker, queued[worker].pop(), at)
            open_to.extend([worker] * (in_flight if tile == _NEW else 1))
            if tile != _NEW:
                left -= 1
                now += taking
        if now - written > every:
            now += costs.write
            written = now
        busy += now - started
    ideal = float(nominal.sum()) / workers
    return {"efficiency": ideal / now, "driver": busy / now}


def main() -> None:
    chosen = options(__doc__ or "")
    costs = measure(chosen.quick)
    result: dict[str, Any] = {"machine": machine()}
    names = (
        "driver: a tile, ms",
        "driver: a look for answers, us a worker",
        "journal: a row, us",
        "journal: a tile, ms",
        "worker: way to its next tile, ms",
    )
    units = (1e3, 1e6, 1e6, 1e3, 1e3)
    result |= {f"measured: {name}": unit * cost for name, unit, cost in zip(names, units, costs, strict=True)}
    for workers in (8, 1000) if chosen.quick else WORKERS:
        for seconds in sorted({TILE_SECONDS, tile_seconds(workers)}):
            found = simulate(Cluster(workers, seconds), costs, work=60.0 if chosen.quick else WORK)
            key = f"{workers:,} workers, tiles of {seconds:g} s"
            result[f"{key}: efficiency"] = found["efficiency"]
            result[f"{key}: driver busy"] = found["driver"]
    report(result, chosen.json)


if __name__ == "__main__":
    main()
