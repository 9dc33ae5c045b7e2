"""The verb: evaluate an objective on a chart, at the points a sampler asks for, with an engine; get a surface."""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from lossnav import rng
from lossnav import surface as surfaces
from lossnav.acceleration import PointFunction
from lossnav.batches import tensors
from lossnav.charts import Chart
from lossnav.engines import Engine, Local, Outcome
from lossnav.engines import base as engine_base
from lossnav.engines.base import Point
from lossnav.errors import (
    EvaluationError,
    Interrupted,
    NonFiniteCenterError,
    NotDeterministicError,
    OptionError,
    PointsFailedWarning,
    SamplerError,
)
from lossnav.files import require_writable
from lossnav.interrupts import StopRequests
from lossnav.objective import Objective
from lossnav.progress import Progress
from lossnav.samplers import Sampler

_REPEAT_TOLERANCE = 1e-5  # relative; kernels that add in another order stay below it, dropout does not
_FAILURES_KEPT = 20
_ESTIMATED_POINTS, _ESTIMATING_SECONDS = 20, 0.5  # at most so many points, or so long, for an estimate


def evaluate(
    objective: Objective,
    chart: Chart,
    sampler: Sampler,
    *,
    engine: Engine | None = None,
    store: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    check: bool = True,
    progress: bool | None = None,
) -> xr.Dataset:
    """Evaluate an objective on a chart at the points a sampler asks for.

    The model, its mode and the global random state are as before afterwards, also after an error or Ctrl-C.

    Parameters
    ----------
    objective : Objective
    chart : Chart
        Whose centre has the names and shapes of ``objective.params``.
    sampler : Sampler
        With the coordinates of the chart, in its order.
    engine : Engine, optional
        Default `Local()`.
    store : path, optional
        A Zarr folder for the surface. That it can be written is checked before anything is computed; what was
        computed is written also when the run is interrupted.
    overwrite : bool
        Whether a store that is there is replaced.
    check : bool
        Whether the centre is evaluated twice before the run, to find a NaN or a loss that is not a function.
    progress : bool or None
        True: a bar, or lines where stderr is a file. False: none. None: a bar on a terminal.

    Returns
    -------
    xarray.Dataset
        A surface (docs/schema.md). A point that overflows is there as inf or nan with status 2; one that raised
        has status 3, with a `PointsFailedWarning`.

    Raises
    ------
    StructureMismatchError, SamplerError
        If chart, objective and sampler do not fit.
    NonFiniteCenterError, NotDeterministicError
        If the check of the centre fails.
    OutputExistsError, OutputNotWritableError, StoreError
        If the store cannot be written.
    EvaluationError
        If every point raised.
    Interrupted
        After Ctrl-C or SIGTERM: a KeyboardInterrupt with the ``surface`` as far as it got. The first signal
        finishes the point under way, the second stops at once.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    >>> line = ln.Line(bowl.params, {"x": torch.tensor([3.0, 4.0])})
    >>> ln.evaluate(bowl, line, ln.Grid(alpha=(-1, 1, 3)))["loss"].values
    array([25.,  0., 25.])
    """
    _require_fit(objective, chart, sampler)
    if store is not None:
        store = require_writable(store, overwrite, kind="surface")
    engine = engine or Local()
    with rng.preserved(device=objective.device), StopRequests() as stop:
        center = _check_center(objective, chart) if check else {}
        run = _Run(objective, chart, sampler, engine, center)
        with Progress("evaluate", sampler.total, "points", progress) as bar:
            try:
                run.prepare()
                run.go(bar, stop)
            except KeyboardInterrupt:  # the second Ctrl-C, or one outside the main thread
                stop.signal = stop.signal or 2
            run.seconds = bar.seconds
        surface = run.surface(interrupted=stop.signal is not None)
    if store is not None:
        surfaces.save_surface(surface, store, overwrite=overwrite)
    if run.errors:
        warnings.warn(
            f"{len(run.errors)} of {len(run.rows)} points raised an error and have status 3 (failed), the first at "
            f"{run.errors[0]}. The others are there.",
            PointsFailedWarning,
            stacklevel=2,
        )
    if stop.signal is not None:
        kept = f"It is saved in {store}." if store else "It is in the .surface of this exception."
        total = sampler.total or "?"
        raise Interrupted(f"Stopped after {len(run.rows)} of {total} points. {kept}", surface, stop.signal)
    return surface


@dataclass(frozen=True)
class Estimate:
    """What a run would cost.

    Attributes
    ----------
    points : int or None
        How many; None where only the run itself will tell.
    plan : str
        What is done to go faster.
    plan_error : float
        Largest relative difference of the loss from the plain path at the probe points.
    planning_seconds : float
        To choose, compile and prove the plan; a kernel that is compiled is kept for the next time.
    seconds_per_point : float
        Median over a few points.
    seconds : float
        For all points and the planning; nan where their number is not known.
    memory : float
        Bytes: the peak of this process (on a GPU: of what torch took there) after planning and a few points. A run
        does no more than that at a time. nan where the system does not say.
    """

    points: int | None
    plan: str
    plan_error: float
    planning_seconds: float
    seconds_per_point: float
    seconds: float
    memory: float


def estimate(objective: Objective, chart: Chart, sampler: Sampler, *, engine: Engine | None = None) -> Estimate:
    """Plan a run and do a few of its points, to say what all of it would cost.

    Parameters
    ----------
    objective, chart, sampler, engine
        As `evaluate` takes them.

    Returns
    -------
    Estimate

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
    _require_fit(objective, chart, sampler)
    engine = engine or Local()
    probes = probe_points(sampler)
    with rng.preserved(device=objective.device):
        started = time.perf_counter()
        function = engine.prepare(PointFunction(objective, chart), probes, sampler.total)
        planning = time.perf_counter() - started
        list(engine.run(function, probes[:1]))  # the first point also fills caches
        seconds: list[float] = []
        while len(seconds) < 3 or (len(seconds) < _ESTIMATED_POINTS and sum(seconds) < _ESTIMATING_SECONDS):
            started = time.perf_counter()
            count = max(1, getattr(function, "points_at_once", 1))
            list(engine.run(function, probes[np.arange(count) % len(probes)]))
            seconds.append((time.perf_counter() - started) / count)
    said, per_point = engine.describe(), float(np.median(seconds))
    total = math.nan if sampler.total is None else planning + per_point * sampler.total
    return Estimate(
        sampler.total,
        str(said.get("plan", "plain")),
        float(said.get("plan_error", 0.0)),
        planning,
        per_point,
        total,
        _peak_bytes(objective.device),
    )


def _peak_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) if sys.platform == "darwin" else 1024.0 * peak


def _require_fit(objective: Objective, chart: Chart, sampler: Sampler) -> None:
    objective.require_same_structure(chart.center, "the chart's centre")
    if tuple(sampler.dims) != tuple(chart.dims):
        raise SamplerError(
            f"The sampler asks for ({', '.join(sampler.dims)}) and the chart has ({', '.join(chart.dims)}). "
            f"Pass ln.Grid({', '.join(f'{dim}=(-1, 1, 51)' for dim in chart.dims)})."
        )
    if taken := set(objective.metrics) & {*chart.dims, "point"}:
        raise OptionError(f"A metric and a coordinate are both called {taken.pop()!r}. Give the metric another name.")


class _Run:
    """One evaluation under way: what was asked, what came back."""

    def __init__(
        self, objective: Objective, chart: Chart, sampler: Sampler, engine: Engine, center: Mapping[str, float]
    ) -> None:
        self.objective, self.chart, self.sampler, self.engine, self.center = objective, chart, sampler, engine, center
        self.made_of = {"objective": objective.describe(), "chart": chart.describe(), "sampler": sampler.describe()}
        self.points: list[Point] = []
        self.rows: list[Mapping[str, float]] = []
        self.statuses: list[int] = []
        self.errors: list[str] = []
        self.seconds = math.nan
        self.function: engine_base.PointFunction

    def prepare(self) -> None:
        """Let the engine find a faster way, proved at the centre, the corners and a few points between."""
        plain = PointFunction(self.objective, self.chart)
        self.function = self.engine.prepare(plain, probe_points(self.sampler), self.sampler.total)

    def go(self, bar: Progress, stop: StopRequests) -> None:
        """Ask and tell until the sampler has no more to ask, or a signal came."""
        asking = self.sampler.rounds()
        points = next(asking, None)
        while points is not None:
            losses = np.full(len(points), math.nan)
            for outcome in self.engine.run(self.function, points):
                self._keep(points[outcome.number], outcome)
                losses[outcome.number] = outcome.values.get("loss", math.nan)
                bar.advance()
                if stop.signal is not None:
                    bar.say("Stopping; what is computed is kept.")
                    return
            try:
                points = asking.send(losses)
            except StopIteration:
                return

    def _keep(self, point: Point, outcome: Outcome) -> None:
        self.points.append(point)
        self.rows.append(outcome.values)
        self.statuses.append(surfaces.status_of(outcome.values, outcome.error))
        if outcome.error is not None:
            self.errors.append(f"({', '.join(f'{x:g}' for x in point)}): {outcome.error}")

    def surface(self, interrupted: bool) -> xr.Dataset:
        """Join what came back with how it was made."""
        if self.errors and len(self.errors) == len(self.rows):
            raise EvaluationError(
                f"All {len(self.errors)} points raised an error, the first at {self.errors[0]}. "
                "Call objective.evaluate(chart(coords)) at that point to see where it comes from."
            )
        attributes: dict[str, Any] = {
            **self.made_of,
            "objective": self.made_of["objective"] | {"samples": self.objective.samples},
            "engine": self.engine.describe(),
            "center": self.center,
            "torch_version": torch.__version__,
            "torch_threads": torch.get_num_threads(),
            "interrupted": interrupted,
            "failures": self.errors[:_FAILURES_KEPT],
            "seconds": round(self.seconds, 3),
            "points_per_second": len(self.rows) / self.seconds if self.seconds > 0 else math.nan,
        }
        points = np.array(self.points).reshape(-1, len(self.sampler.dims))
        return surfaces.assemble(self.sampler.dims, self.sampler.axes, points, self.rows, self.statuses, attributes)


def probe_points(sampler: Sampler) -> NDArray[np.float64]:
    """Points at which a faster way must agree with the plain one: centre, a few between (seed 0), corners."""
    k = len(sampler.dims)
    axes = sampler.axes
    ends = np.array([(axis[0], axis[-1]) for axis in axes.values()] if axes else [(-1.0, 1.0)] * k)  # (k, 2)
    between = np.random.default_rng(0).uniform(ends[:, 0], ends[:, 1], size=(3, k))
    corners = np.stack([mesh.reshape(-1) for mesh in np.meshgrid(*ends, indexing="ij")], axis=1)
    return np.concatenate([np.zeros((1, k)), between, corners])


def _check_center(objective: Objective, chart: Chart) -> dict[str, float]:
    """Evaluate the centre twice: it must be finite, and the same."""
    origin = np.zeros(len(chart.dims))
    first, second = (objective.evaluate(chart(origin)) for _ in range(2))
    loss, again = first["loss"], second["loss"]
    if not math.isfinite(loss):
        raise NonFiniteCenterError(
            f"The loss at the centre is {loss}. {_likely_reason(objective)} "
            "Pass check=False to evaluate the chart all the same."
        )
    if not math.isclose(loss, again, rel_tol=_REPEAT_TOLERANCE):
        raise NotDeterministicError(
            f"Two passes over the data gave {loss:.6g} and {again:.6g} at the same point. Usual causes: augmentation, "
            "shuffled data with drop_last=True, a model that keeps state between calls. Try a loader without "
            "augmentation, or pass check=False to accept the noise."
        )
    return first


def _likely_reason(objective: Objective) -> str:
    for name, tensor in objective.params.items():
        if not bool(torch.isfinite(tensor).all()):
            return f'The weights hold NaN or inf in "{name}": check the checkpoint.'
    for i, batch in enumerate(objective.batches or []):
        if any(part.is_floating_point() and not bool(torch.isfinite(part).all()) for part in tensors(batch)):
            return f"The data holds NaN or inf in batch {i}: clean it."
    return "Weights and data are finite: check the loss, and that training did not diverge."
