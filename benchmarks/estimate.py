"""What `estimate` says a run costs against what it takes, on runs whose points cost for different reasons.

Each workload is estimated, then run, in one process; the ratio is estimated seconds over those of the whole call of
`evaluate`, the check of the centre and planning included. A kernel that the estimate compiled is kept for the run, and
the estimate says so. Of `Adaptive`, whose number of points nobody knows beforehand, the seconds of as many points as
it took are compared.

    python -m benchmarks.estimate [--quick] [--json] [--only NAMES] [--rounds N] [--cpu]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lossnav as ln
from benchmarks.common import machine, options, report
from lossnav.evaluation import estimate as estimating

Case = tuple[ln.Objective, Any, Any, Any]  # objective, chart, sampler, engine


def _mlp(inputs: int, width: int, layers: int = 2) -> nn.Module:
    torch.manual_seed(0)
    hidden = [part for _ in range(layers - 1) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), *hidden, nn.Linear(width, 10)).eval()


def _convolutional(norm: bool = True) -> nn.Module:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 32)):
        parts += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=not norm), nn.ReLU()]
        parts += [nn.BatchNorm2d(after)] if norm else []
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(512, 10)).eval()


def _data(samples: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, *shape, generator=generator), torch.randint(0, 10, (samples,), generator=generator)


def _plane(objective: ln.Objective, **how: Any) -> ln.Plane:
    return ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0, **how))


def _grid(side: int) -> ln.Grid:
    return ln.Grid(alpha=(-1, 1, side), beta=(-1, 1, side))


def stored(quick: bool) -> Case:
    """A convolutional network on a stored plane, with a plan."""
    objective = ln.Objective(_convolutional(), "cross_entropy", _data(500, 3, 32, 32), metrics=["accuracy"])
    return objective, _plane(objective), _grid(21 if quick else 51), ln.Local()


def plain(quick: bool) -> Case:
    """The same by the plain path."""
    objective = ln.Objective(_convolutional(), "cross_entropy", _data(500, 3, 32, 32), metrics=["accuracy"])
    return objective, _plane(objective), _grid(9 if quick else 25), ln.Local(plan="plain")


def lazy(quick: bool) -> Case:
    """Directions that are drawn anew at every point."""
    objective = ln.Objective(_mlp(784, 1024, 4), "cross_entropy", _data(16, 784))
    return objective, _plane(objective, lazy=True), _grid(5 if quick else 11), ln.Local()


def big_model(quick: bool) -> Case:
    """A large model on few samples: adding up the point costs as much as the pass."""
    objective = ln.Objective(_mlp(784, 2048, 4), "cross_entropy", _data(4, 784))
    return objective, _plane(objective), _grid(11 if quick else 25), ln.Local()


def small_model(quick: bool) -> Case:
    """A small model: what is done around a point counts."""
    objective = ln.Objective(_mlp(16, 16), "cross_entropy", _data(50, 16))
    return objective, _plane(objective), _grid(31 if quick else 51), ln.Local()


def recompute(quick: bool) -> Case:
    """BatchNorm statistics made anew at every point."""
    objective = ln.Objective(_convolutional(), "cross_entropy", _data(200, 3, 32, 32), bn="recompute")
    return objective, _plane(objective), _grid(9 if quick else 25), ln.Local()


def streamed(quick: bool) -> Case:
    """Data that is read anew at every point."""
    loader = DataLoader(TensorDataset(*_data(500, 3, 32, 32)), batch_size=50)
    objective = ln.Objective(_convolutional(), "cross_entropy", loader, data_budget=1)
    return objective, _plane(objective), _grid(9 if quick else 25), ln.Local()


def line(quick: bool) -> Case:
    """A line of few points, where the check of the centre counts."""
    objective = ln.Objective(_convolutional(norm=False), "cross_entropy", _data(500, 3, 32, 32))
    (direction,) = ln.directions.random(objective, n=1, seed=0)
    return objective, ln.Line(objective.params, direction), ln.Grid(alpha=(-1, 1, 21 if quick else 51)), ln.Local()


def auto_range(quick: bool) -> Case:
    """A range that is found first."""
    objective = ln.Objective(_convolutional(), "cross_entropy", _data(200, 3, 32, 32))
    side = 9 if quick else 25
    return objective, _plane(objective), ln.Grid(alpha=("auto", side), beta=("auto", side)), ln.Local(plan="plain")


def adaptive(quick: bool) -> Case:
    """Points where the surface bends."""
    objective = ln.Objective(_convolutional(), "cross_entropy", _data(500, 3, 32, 32))
    most = 100 if quick else 400
    return objective, _plane(objective), ln.Adaptive(alpha=(-1, 1), beta=(-1, 1), max_points=most), ln.Local()


CASES: dict[str, Callable[[bool], Case]] = {
    made.__name__: made
    for made in (stored, plain, lazy, big_model, small_model, recompute, streamed, line, auto_range, adaptive)
}


def measure(name: str, quick: bool, clock: Callable[[], float]) -> dict[str, float]:
    """Estimate one run and make it; seconds of both, and their ratio."""
    objective, chart, sampler, engine = CASES[name](quick)
    objective.fingerprint  # noqa: B018 - once an objective, also where nothing is estimated
    started = clock()
    found = ln.estimate(objective, chart, sampler, engine=engine)
    cost = clock() - started
    started = clock()
    surface = ln.evaluate(objective, chart, sampler, engine=engine, progress=False)
    took = clock() - started
    points = int((surface["status"] > 0).sum())
    estimated = found.seconds_for(points)
    return {
        "estimated s": estimated,
        "real s": took,
        "estimated / real": estimated / took,
        "estimating s": cost,
        "planning s": found.planning_seconds,
        "ms a point": 1e3 * found.seconds_per_point,
        "points": points,
    }


def main() -> None:
    chosen = options(__doc__ or "", only=",".join(CASES), cpu=True)
    result: dict[str, Any] = {"machine": machine(), "seconds of": "the processor" if chosen.cpu else "the clock"}
    clock = time.process_time if chosen.cpu else time.perf_counter
    if chosen.cpu:  # by which the estimate is made too
        estimating.time = SimpleNamespace(perf_counter=clock)  # type: ignore[assignment,attr-defined]
    for name in chosen.only.split(","):
        rounds = [measure(name, chosen.quick, clock) for _ in range(chosen.rounds or 1)]
        for key in rounds[0]:
            result[f"{name}: {key}"] = statistics.median(found[key] for found in rounds)
    ratios = [value for key, value in result.items() if key.endswith("estimated / real")]
    result["within a factor of 1.5"] = f"{sum(1 / 1.5 <= ratio <= 1.5 for ratio in ratios)} of {len(ratios)}"
    report(result, chosen.json)


if __name__ == "__main__":
    main()
