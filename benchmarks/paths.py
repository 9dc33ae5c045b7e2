"""Barriers between independent runs on MNIST: naive, matched, matched and repaired, and along a trained Bézier curve.

Five pairs of MLPs 784-256-256-256-10, each trained for three epochs with Adam from its own seed. For every pair the
test loss on the straight line of each kind, and on a Bézier curve that is trained for two epochs from the naive ends;
the barrier is the largest rise above the linear interpolation of the ends, with its paired standard error
(`ln.barrier`). Medians over the pairs; their standard errors come from the five values, by the bootstrap.

    python -m benchmarks.paths             five pairs, 15 minutes on two cores; MNIST in $LOSSNAV_DATA/mnist
    python -m benchmarks.paths --rounds 2  two pairs
    python -m benchmarks.paths --quick     one pair of small networks on the embedded digits
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lossnav as ln
from benchmarks.common import Told, machine, options, report

POINTS = 31
EPOCHS, BATCH, LR = 3, 128, 1e-3  # of the networks
TARGETS = {"naive": "about 1.3", "matched": "<= 0.06", "matched and repaired": "<= 0.02", "bezier": "<= 0.045"}


@dataclass
class Setting:
    """What is trained and measured."""

    data: Any
    widths: tuple[int, ...]
    pairs: int
    lr: float = 0.03
    batch: int = 64


@dataclass
class Row:
    """What the pairs gave, in their order."""

    barriers: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)  # test error on the path minus the larger of the ends', points


def network(widths: tuple[int, ...], inputs: int, seed: int) -> nn.Module:
    """An MLP, initialised from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = [inputs, *widths]
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in itertools.pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))


def trained(setting: Setting, seed: int) -> nn.Module:
    """A network after training."""
    inputs = int(np.prod(setting.data.train[0].shape[1:]))
    model = network(setting.widths, inputs, seed)
    ln.zoo.train(model, setting.data, passes=EPOCHS, batch_size=BATCH, lr=LR, order="shuffled", seed=seed,
                 progress=False)  # fmt: skip
    return model.eval()


def measure(row: Row, objective: ln.Objective, chart: ln.Chart, **how: Any) -> None:
    """Add one path to a row."""
    ends: Any = (0, 1, POINTS)
    grid = ln.Grid(**{chart.dims[0]: ends})
    surface = ln.evaluate(objective, chart, grid, keep_samples=True, progress=False, **how)
    found = ln.barrier(surface)
    error = 1 - surface["accuracy"].values
    row.barriers.append(found.above_line.value)
    row.errors.append(found.above_line.error)
    row.worst.append(100 * float(error.max() - max(error[0], error[-1])))


def median_error(values: list[float], seed: int = 0) -> float:
    """Standard error of a median, by the bootstrap."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(np.array(values), (4000, len(values)))
    return float(np.median(drawn, axis=1).std())


def main() -> None:
    asked = options(__doc__)
    if asked.quick:
        setting = Setting(ln.zoo.load_data("digits"), (16, 16), 1)
    else:
        root = os.environ.get("LOSSNAV_DATA")
        setting = Setting(ln.zoo.load_data("mnist", None if root is None else Path(root) / "mnist"), (256,) * 3, 5)
    setting.pairs = asked.rounds or setting.pairs
    data = setting.data
    result: dict[str, Any] = {"machine": machine()} if asked.json else Told(machine=machine())
    started = time.perf_counter()
    rows = {name: Row() for name in ("naive", "matched", "matched and repaired", "bezier")}
    for pair in range(setting.pairs):
        a, b = (trained(setting, seed) for seed in (2 * pair, 2 * pair + 1))
        train = ln.Objective(a, "cross_entropy", data.train, metrics=["accuracy"])
        test = ln.Objective(a, "cross_entropy", data.test, metrics=["accuracy"])
        measure(rows["naive"], test, ln.Line(test, ln.directions.between(test, b)))
        matched = ln.align(train, b, seed=pair, progress=False).params
        line = ln.Line(test, ln.directions.between(test, matched))
        measure(rows["matched"], test, line)
        measure(rows["matched and repaired"], test, line, repair=data.train)
        curve = ln.connect(train, b, epochs=2, batch_size=setting.batch, lr=setting.lr, seed=pair, progress=False).curve
        measure(rows["bezier"], test, curve)
        result[f"pair {pair}, seconds so far"] = time.perf_counter() - started
    for name, row in rows.items():
        result[f"{name}: barrier, median (target {TARGETS[name]})"] = statistics.median(row.barriers)
        result[f"{name}: standard error of the median"] = median_error(row.barriers)
        result[f"{name}: paired standard error of a barrier, median"] = statistics.median(row.errors)
        result[f"{name}: barriers"] = [round(value, 4) for value in row.barriers]
        result[f"{name}: test error above the worse end, points, largest"] = max(row.worst)
    result["seconds"] = time.perf_counter() - started
    report(result, asked.json)


if __name__ == "__main__":
    main()
