"""The estimated time and memory of a run, before it is started."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lossnav._utils import random_state
from lossnav.acceleration import ChartFunction
from lossnav.charts import Chart
from lossnav.engines import Engine, Local
from lossnav.engines import base as engine_base
from lossnav.engines.base import description_of
from lossnav.evaluation.center import losses_of, probe_points, require_fit
from lossnav.evaluation.evaluate import _require_nouns
from lossnav.objective.objective import Objective
from lossnav.samplers import Sampler

_ESTIMATING_SECONDS, _FEWEST_ESTIMATED, _MOST_ESTIMATED = 0.5, 3, 4000  # seconds and numbers of points that are timed


@dataclass(frozen=True)
class CostEstimate:
    """The estimated cost of a run.

    Attributes
    ----------
    points : int or None
        Number of points; None if it depends on the losses.
    plan : str
        The chosen faster path.
    plan_error : float
        Largest relative difference of the loss from the plain path at the test points; elsewhere it may be larger.
    checking_seconds : float
        Time to check the centre and to find automatic ranges, before planning.
    planning_seconds : float
        Time to choose and verify the plan.
    compiling_seconds : float
        Time to compile a kernel. It is cached, so it is not part of the run; 0 if it was compiled before.
    seconds_per_point : float
        Mean over points like those of the run, without the centre, one after the other.
    seconds : float
        Time of checks, planning and all points; nan if their number is not known.
    memory : float
        Bytes: peak of this process (on a GPU: memory allocated by torch) after planning and a few points, which is also
        the peak of a run. nan if the system does not report it, or another process computes.
    workers : int
        Number of workers that compute at the same time.
    """

    points: int | None
    plan: str
    plan_error: float
    checking_seconds: float
    planning_seconds: float
    compiling_seconds: float
    seconds_per_point: float
    memory: float
    workers: int = 1

    @property
    def seconds(self) -> float:
        """Seconds of the whole run; nan if the number of points is not known."""
        return math.nan if self.points is None else self.seconds_for(self.points)

    def seconds_for(self, points: int) -> float:
        """Return the seconds of a run of so many points: checks, planning, and the points, divided among workers."""
        return self.checking_seconds + self.planning_seconds + points * self.seconds_per_point / self.workers


def estimate(objective: Objective, chart: Chart, sampler: Sampler, *, engine: Engine | None = None) -> CostEstimate:
    """Plan a run and evaluate a few of its points, to estimate the cost of all of it.

    Parameters
    ----------
    objective, chart, sampler, engine
        As in `evaluate`.

    Returns
    -------
    CostEstimate

    Raises
    ------
    StructureMismatchError, SamplerError
        If chart, objective and sampler do not fit.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    >>> line = ln.Line(bowl.params, {"x": torch.tensor([3.0, 4.0])})
    >>> ln.estimate(bowl, line, ln.Grid(alpha=(-1, 1, 101))).points
    101
    """
    _require_nouns(objective, chart, sampler, engine)
    objective, chart = require_fit(objective, chart, sampler)
    engine = engine or Local()
    with random_state.preserved(device=objective.device):
        started = time.perf_counter()
        objective.evaluate(chart(np.zeros(len(chart.dims))))
        checking = 2 * (time.perf_counter() - started)  # a run evaluates the centre twice
        started = time.perf_counter()
        sampler = sampler.settle(losses_of(objective, chart))
        checking += time.perf_counter() - started
        try:
            started = time.perf_counter()
            probes = probe_points(sampler, objective.seed)
            function = engine.prepare(ChartFunction(objective, chart), probes, sampler.total)
            planning = time.perf_counter() - started
            per_point = _seconds_per_point(engine, function, _typical_points(sampler, objective.seed))
            said, workers = description_of(engine), engine.concurrency
        finally:
            engine.close()
    compiling = float(said.get("plan_compiling_seconds", 0.0))
    return CostEstimate(
        sampler.total,
        str(said.get("plan", "plain")),
        float(said.get("plan_error", 0.0)),
        checking,
        max(0.0, planning - compiling),
        compiling,
        per_point,
        _peak_bytes(objective.device) if isinstance(engine, Local) else math.nan,
        workers,
    )


def _typical_points(sampler: Sampler, seed: int) -> NDArray[np.float64]:
    """Return some of a sampler's points in random order, without the centre, where no displacement is computed.

    For a grid any of its points; for a sampler with a known total those of its first round; else random points in its
    box.
    """
    generator = np.random.default_rng([seed, *b"points"])
    if sampler.total is None:
        return generator.uniform(sampler.box[:, 0], sampler.box[:, 1], size=(_MOST_ESTIMATED, len(sampler.dims)))
    if sampler.axes is not None:
        shape = [len(axis) for axis in sampler.axes.values()]
        chosen = generator.choice(math.prod(shape), size=min(_MOST_ESTIMATED, math.prod(shape)), replace=False)
        places = np.unravel_index(chosen, shape)
        points = np.stack([axis[i] for axis, i in zip(sampler.axes.values(), places, strict=True)], axis=1)
    else:
        points = generator.permutation(next(sampler.rounds()))[:_MOST_ESTIMATED]
    away: NDArray[np.float64] = points[(points != 0).any(1)]
    return away if len(away) else points


def _seconds_per_point(engine: Engine, function: engine_base.PointFunction, points: NDArray[np.float64]) -> float:
    """Return the mean seconds of one worker for a point, after a first one, which fills caches, is left out."""
    together = max(1, getattr(function, "points_at_once", 1), engine.concurrency)
    taken = together
    list(engine.run(function, points[:together]))
    done, seconds = 0, 0.0
    while taken < len(points) and (done < _FEWEST_ESTIMATED or seconds < _ESTIMATING_SECONDS):
        some = points[taken : taken + max(together, done)]  # more and more at a time, so that communication is shared
        started = time.perf_counter()
        list(engine.run(function, some))
        seconds += time.perf_counter() - started
        taken, done = taken + len(some), done + len(some)
    if not done:  # a run of so few points
        started = time.perf_counter()
        list(engine.run(function, points))
        seconds, done = time.perf_counter() - started, len(points)
    return seconds / done * min(engine.concurrency, max(1, done))


def _peak_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) if sys.platform == "darwin" else 1024.0 * peak
