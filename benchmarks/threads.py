"""Threads on one objective: whether each gives what one gives alone, and how many points a second they make together.

For each network the points of a plane are evaluated by one thread, then by several at once, each in an order of its
own, the threads of a round interleaved. Counted are values that are not the same bits on the plain path, or farther off
than `plan_error` with a plan. Throughput is points a second of all threads over those of one.

    python -m benchmarks.threads [--quick] [--json] [--rounds N]
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

import lossnav as ln
from benchmarks.common import machine, options, report

THREADS = 8


def networks() -> dict[str, Callable[[], ln.Objective]]:
    generator = torch.Generator().manual_seed(0)
    x, images = torch.randn(512, 64, generator=generator), torch.randn(128, 3, 16, 16, generator=generator)
    y, classes = (torch.randint(0, 10, (n,), generator=generator) for n in (512, 128))
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 10)).eval()
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()]
    convolutional = nn.Sequential(*layers, nn.Linear(784, 10)).eval()
    dropping = nn.Sequential(nn.Linear(64, 128), nn.Dropout(0.3), nn.Linear(128, 10)).train()
    return {
        "mlp": lambda: ln.Objective(mlp, "cross_entropy", (x, y), batch_size=128),
        "convolutional": lambda: ln.Objective(convolutional, "cross_entropy", (images, classes), batch_size=32),
        "batch norm anew": lambda: ln.Objective(
            convolutional, "cross_entropy", (images, classes), batch_size=32, bn="recompute"
        ),
        "dropout": lambda: ln.Objective(dropping, "cross_entropy", (x, y), mode="train", batch_size=128),
    }


def rate(calls: Sequence[Callable[[], Any]], threads: int, found: list[tuple[int, Any]], seed: int) -> float:
    """All calls by each of so many threads at once: calls a second; the results with their numbers."""
    start = threading.Barrier(threads + 1)

    def work(number: int) -> None:
        order = np.random.default_rng((seed, number)).permutation(len(calls))
        start.wait()
        found.extend((int(i), calls[i]()) for i in order)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    start.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return threads * len(calls) / (time.perf_counter() - began)


def _held(objective: ln.Objective, points: int, rounds: int) -> tuple[float, int, int]:
    """How many times the throughput of one thread; values that were asked for, and those that were wrong."""
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=1))
    places = np.random.default_rng(2).uniform(-1, 1, (points, 2))

    def call(number: int) -> Callable[[], float]:
        return lambda: objective.evaluate(plane(places[number]))["loss"]

    calls = [call(number) for number in range(points)]
    truth, ratios = [one() for one in calls], []
    asked = wrong = 0
    for number in range(rounds):
        found: list[tuple[int, Any]] = []
        one = rate(calls, 1, found, number)
        ratios.append(rate(calls, THREADS, found, number) / one)
        asked, wrong = asked + len(found), wrong + sum(value != truth[i] for i, value in found)
    grid = ln.Grid(alpha=(-1, 1, 9), beta=(-1, 1, 9))
    reference = ln.evaluate(objective, plane, grid, engine=ln.Local(plan="plain"), progress=False)["loss"].values
    surfaces: list[tuple[int, Any]] = []
    rate([lambda: ln.evaluate(objective, plane, grid, progress=False)], THREADS if rounds > 1 else 2, surfaces, 0)
    for _, surface in surfaces:
        allowed = 1e-7 + 2 * surface.attrs["engine"].get("plan_error", 0.0)
        off = np.abs(surface["loss"].values - reference)
        asked, wrong = asked + off.size, wrong + int((off > allowed * np.abs(reference)).sum())
    return float(np.median(ratios)), asked, wrong


def main() -> None:
    chosen = options(__doc__ or "")
    points, rounds = (4, 1) if chosen.quick else (12, chosen.rounds or 5)
    result: dict[str, Any] = {}
    counted = np.zeros(2, int)
    for name, make in networks().items():
        result[f"{name}: points a second, {THREADS} threads / 1"], *counts = _held(make(), points, rounds)
        counted += counts
    asked, wrong = counted.tolist()
    report(result | {"values": asked, "wrong": wrong, "threads": THREADS, "machine": machine()}, chosen.json)


if __name__ == "__main__":
    main()
