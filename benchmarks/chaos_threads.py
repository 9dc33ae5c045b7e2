"""Eight threads on one objective: points, products and whole surfaces have the bits that one thread gives alone.

A round is a process of its own with a network of `benchmarks.threads`. *Wrong* are values that are not the same bits on
the plain path. Beside it stands the throughput of eight threads over that of one, the median of the rounds.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.chaos_commands import Commands, Tally

COUNT, QUICK = 24, 1
_SECONDS = 240.0  # a round computes, and need not answer


def run(seed: int, count: int, folder: Path, commands: Commands) -> Tally:
    """So many rounds."""
    from benchmarks.threads import networks

    tally, ratios = Tally(), []
    for number in range(count):
        dice = random.Random(f"{seed} threads {number}")
        name, drawn = sorted(networks())[number % len(networks())], dice.randrange(2**31)
        with tally.attempt(f"round {number} ({name}, seed {drawn})") as attempt:
            done = commands.run(target=round_, arguments={"name": name, "seed": drawn}, seconds=_SECONDS)
            attempt.ended(done, [0])
            if done.code == 0:
                said = json.loads(done.out)
                tally.said["values"] += said["values"]
                ratios.append(said["ratio"])
                if said["wrong"]:
                    attempt.fault("wrong", f"{said['wrong']} of {said['values']} values", said["wrong"])
    if ratios:
        tally.figures["points a second, 8 threads / 1"] = round(statistics.median(ratios), 2)
    return tally


def round_(name: str, seed: int) -> None:
    """One round, in this process; says on stdout how many values there were and how many were wrong."""
    import numpy as np
    import torch

    import lossnav as ln
    from benchmarks.threads import THREADS, networks, rate

    objective = networks()[name]()
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=seed))
    places = np.random.default_rng(seed).uniform(-1, 1, (4, 2))
    grid = ln.Grid(alpha=(-1, 1, 2), beta=(-1, 1, 2))

    def point(number: int) -> Callable[[], Any]:
        return lambda: objective.evaluate(plane(places[number]))

    def product() -> list[float]:
        made = ln.curvature.Hessian(objective.around(plane(places[0]))) @ plane.directions[0]
        return torch.cat([part.flatten() for part in made.values()]).tolist()

    def surface() -> list[float]:
        made = ln.evaluate(objective, plane, grid, engine=ln.Local(plan="plain"), progress=False)
        return [float(value) for value in made["loss"].values.reshape(-1)]

    points = [point(number) for number in range(len(places))]
    calls = [*points, surface] if "anew" in name or "dropout" in name else [*points, surface, product]
    truth, found = [call() for call in calls], list[tuple[int, Any]]()
    ratio = 1 / rate(points, 1, [], seed)
    ratio *= rate(points, THREADS, [], seed)
    rate(calls, THREADS, found, seed)
    wrong = sum(value != truth[number] for number, value in found)
    print(json.dumps({"values": len(found), "wrong": wrong, "ratio": ratio}))
