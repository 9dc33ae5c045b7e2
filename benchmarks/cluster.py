"""The Ray engine on this machine: against processes without it, and what it costs by itself.

Two workers of one thread each against two processes of one thread each that run `Local` on half of the points: the
same plans, found before; interleaved; medians over the rounds. Then tiles of one empty point, what it takes to start,
and to send an objective.

    python -m benchmarks.cluster [--quick] [--json]
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import lossnav as ln
from benchmarks import workloads
from benchmarks.common import machine, options, paired, ratio, report
from lossnav.acceleration import ChartFunction
from lossnav.engines.cluster import Cluster
from lossnav.evaluation.center import probe_points

WORKERS = 2
SAMPLES, POINTS = (250, 40), (60, 8)  # full, quick: of the data; points a round
EMPTY_TILES = (4000, 400)


def function(samples: int) -> ChartFunction:
    """ResNet-56 on a plane."""
    workload = workloads.resnet56(samples)
    objective = ln.Objective(workload.model, workload.loss, (workload.x, workload.y))
    return ChartFunction(objective, ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0)))


def nothing(point: NDArray[np.float64]) -> Mapping[str, float]:
    return {"loss": 0.0}


def serve(pipe: Connection, samples: int, probes: NDArray[np.float64], total: int) -> None:
    """Evaluate in a process of its own what comes through a pipe."""
    torch.set_num_threads(1)
    engine = ln.Local()
    prepared = engine.prepare(function(samples), probes, total)
    pipe.send(engine.describe()["plan"])
    while (points := pipe.recv()) is not None:
        pipe.send([outcome.values["loss"] for outcome in engine.run(prepared, points)])


def against_processes(quick: bool, rounds: int) -> dict[str, Any]:
    samples, count = SAMPLES[quick], POINTS[quick]
    points = np.random.default_rng(1).uniform(-1, 1, size=(count, 2))
    side = 3 if quick else 51
    probes, total = probe_points(ln.Grid(alpha=(-1, 1, side), beta=(-1, 1, side))), side**2
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for _ in range(WORKERS):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(theirs, samples, probes, total), daemon=True))
        processes[-1].start()
        pipes.append(ours)
    plans = [pipe.recv() for pipe in pipes]

    engine = ln.Ray(workers=WORKERS)
    work = engine.prepare(function(samples), probes, total)
    while engine.describe()["workers"] < WORKERS:
        list(engine.run(work, points[:1]))
    losses: dict[str, list[float]] = {}

    def local() -> None:
        for pipe, part in zip(pipes, np.array_split(points, WORKERS), strict=True):
            pipe.send(part)
        losses["local"] = [loss for pipe in pipes for loss in pipe.recv()]

    def ray() -> None:
        found = {outcome.number: outcome.values["loss"] for outcome in engine.run(work, points)}
        losses["ray"] = [found[number] for number in range(count)]

    seconds = paired({"local": local, "ray": ray}, rounds)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()
    said = engine.describe()
    engine.close()
    return {
        "ResNet-56: samples": samples,
        "ResNet-56: plans": f"{' | '.join(plans)} | {said['plan']}",
        "ResNet-56: two processes, points/s": count / statistics.median(seconds["local"]),
        "ResNet-56: Ray, two workers, points/s": count / statistics.median(seconds["ray"]),
        "ResNet-56: Ray / two processes": ratio(seconds, "local", "ray"),
        "ResNet-56: rounds": " ".join(f"{a / b:.3f}" for a, b in zip(seconds["local"], seconds["ray"], strict=True)),
        "ResNet-56: the same bits": losses["local"] == losses["ray"],
    }


def overheads(quick: bool, rounds: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    count = EMPTY_TILES[quick]
    probes = np.zeros((1, 2))
    engine = ln.Ray(workers=WORKERS, tile=1)
    engine.prepare(nothing, probes, count)
    while engine.describe()["workers"] < WORKERS:
        list(engine.run(nothing, probes))
    seconds = paired({"tiles": lambda: list(engine.run(nothing, np.zeros((count, 2))))}, rounds)["tiles"]
    engine.close()
    result["empty tiles of 1 point: tiles/s"] = count / statistics.median(seconds)
    result["empty tiles of 1 point: ms a tile"] = 1e3 * statistics.median(seconds) / count
    functions: dict[str, Any] = {"an empty function": nothing, "ResNet-56": function(1000)}
    for name, sent in functions.items():
        engine, taken = ln.Ray("plain", workers=1), []
        for _ in range(rounds):
            started = time.perf_counter()
            engine.prepare(sent, probes, 1)
            taken.append(time.perf_counter() - started)
            engine.close()
        result[f"{name}: sent and built on a new worker, s"] = statistics.median(taken)
    return result


def main() -> None:
    chosen = options(__doc__ or "")
    rounds = chosen.rounds or (1 if chosen.quick else 7)
    torch.set_num_threads(1)
    started = time.perf_counter()
    cluster = Cluster("local", WORKERS)  # the engines use it
    result: dict[str, Any] = {"machine": machine(), "start of a cluster, s": time.perf_counter() - started}
    result |= overheads(chosen.quick, rounds)
    result |= against_processes(chosen.quick, rounds)
    cluster.close()
    report(result, chosen.json)


if __name__ == "__main__":
    main()
