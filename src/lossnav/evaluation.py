"""The verb: evaluate an objective on a chart, at the points a sampler asks for, with an engine; get a surface."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from lossnav import __version__, rng
from lossnav import params as algebra
from lossnav import samples as kept
from lossnav import surface as surfaces
from lossnav.acceleration import PointFunction
from lossnav.batches import tensors
from lossnav.charts import Chart, meet
from lossnav.charts.saved import save_chart
from lossnav.coordinates import mesh
from lossnav.engines import Engine, Local, Outcome
from lossnav.engines import base as engine_base
from lossnav.engines.base import Point
from lossnav.errors import (
    EvaluationError,
    Interrupted,
    LossnavWarning,
    NonFiniteCenterError,
    NotDeterministicError,
    OptionError,
    PointsFailedWarning,
    SamplerError,
    StoreError,
)
from lossnav.files import Place, beside
from lossnav.interrupts import StopRequests
from lossnav.intervals import spread_of
from lossnav.journal import Gathered, Row, Rows, joined, keys, rows_of
from lossnav.nouns import require, require_callback
from lossnav.objective import Objective
from lossnav.progress import Progress
from lossnav.samplers import Sampler
from lossnav.store import Store

_REPEAT_TOLERANCE = 1e-5  # relative; kernels that add in another order stay below it, dropout does not
_UPDATE_SECONDS = 0.1  # least time between two partial surfaces
_ESTIMATING_SECONDS, _FEWEST_ESTIMATED, _MOST_ESTIMATED = 0.5, 3, 4000  # how long, and how many points, are timed


def evaluate(
    objective: Objective,
    chart: Chart,
    sampler: Sampler,
    *,
    engine: Engine | None = None,
    store: Place | None = None,
    overwrite: bool = False,
    save_directions: bool = False,
    keep_samples: bool = False,
    check: bool = True,
    progress: bool | None = None,
    resume: xr.Dataset | None = None,
    on_update: Callable[[xr.Dataset], object] | None = None,
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
    store : path, fsspec URL or zarr store, optional
        Where the surface is kept, in Zarr format 3, while it is computed: killed at any moment, it holds all but the
        tile under way. A run that is there already is gone on from, if it is the same one; points that failed are
        tried again. That it can be written is checked before anything is computed.
    overwrite : bool
        Whether a surface that is there is replaced.
    save_directions : bool
        Whether the chart's centre and directions are kept too, as safetensors beside the store: then it can be gone
        on from without whatever they were made of (`lossnav.charts.open_chart`).
    check : bool
        Whether the centre is evaluated twice before the run, to find a NaN or a loss that is not a function.
    progress : bool or None
        True: a bar, or lines where stderr is a file. False: none. None: a bar on a terminal.
    resume : xarray.Dataset, optional
        A surface of the same objective and chart: its points are taken as they are, where they are asked for (those
        that failed are tried again). Of a run that was stopped the result is what an uninterrupted run gives; with
        another sampler, a finer grid say, only what is new is computed.
    on_update : callable, optional
        Called with a copy of the surface as far as it is, without kept samples: after the first round of the sampler
        (for a grid a coarse one), then now and then, and at the end. What it raises ends the updates with a warning,
        not the run.

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
    OptionError
        If the surface to resume is another one's; or samples are to be kept and the loss hides them, or what is resumed
        was computed without.
    PlanMismatchError
        If the store holds another run; it says in what they differ.
    OutputExistsError, OutputNotWritableError, StoreError
        If the store cannot be written; what was computed is in the `.surface` of the error.
    EvaluationError
        If every point raised.
    Interrupted
        After Ctrl-C or SIGTERM: a KeyboardInterrupt with the ``surface`` as far as it got. The first signal
        finishes the tile under way (here: the point), the second stops at once.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    >>> line = ln.Line(bowl.params, {"x": torch.tensor([3.0, 4.0])})
    >>> ln.evaluate(bowl, line, ln.Grid(alpha=(-1, 1, 3)))["loss"].values
    array([25.,  0., 25.])
    """
    _require_nouns(objective, chart, sampler, engine)
    return measure(
        PointFunction(objective, chart),
        sampler,
        engine=engine,
        store=store,
        overwrite=overwrite,
        save_directions=save_directions,
        keep_samples=keep_samples,
        check=check,
        progress=progress,
        resume=resume,
        on_update=on_update,
    )


def measure(
    function: PointFunction,
    sampler: Sampler,
    *,
    engine: Engine | None = None,
    store: Place | None = None,
    overwrite: bool = False,
    save_directions: bool = False,
    keep_samples: bool = False,
    check: bool = True,
    progress: bool | None = None,
    resume: xr.Dataset | None = None,
    on_update: Callable[[xr.Dataset], object] | None = None,
    about: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Call a function of a chart's coordinates at the points a sampler asks for; what `evaluate` does with the losses.

    Parameters
    ----------
    function : PointFunction
        With its objective and its chart; the values it returns have the loss among them.
    sampler, engine, store, overwrite, save_directions, keep_samples, check, progress, resume, on_update
        As in `evaluate`.
    about : mapping, optional
        Further attributes of the surface: what the function depends on beside objective and chart.
    """
    objective, chart = function.objective, function.chart
    objective, chart = require_fit(objective, chart, sampler)
    if save_directions and store is None:
        raise OptionError("save_directions=True keeps them beside the store. Pass store= too.")
    updates = _Updates(on_update)
    run: _Run | None = None
    bar = Progress("evaluate", None, "points", progress)
    with rng.preserved(device=objective.device), bar, _opened(store, overwrite, bar) as place, StopRequests() as stop:
        keep = keep_samples or (place is not None and place.has_samples)
        _require_samples_there(keep_samples, place, resume)
        with bar.phase("checking the centre"):
            center = _check_center(objective, chart) if check else {}
            if keep:
                _require_samples(objective, chart, center)
                function = function.keeping_samples()
        try:
            with bar.phase("preparing"):  # a range may have to be found
                run = _Run(function, sampler, engine or Local(), center, resume, place, about, keep)
                run.stop = stop
                if save_directions:
                    save_chart(chart, beside(store))
            bar.total = run.sampler.total
            for round_ended in run.steps(bar):
                updates.offer(run, round_ended)
        except KeyboardInterrupt:  # the second Ctrl-C, or one outside the main thread
            stop.signal = stop.signal or 2
            if run is None:
                raise
        finally:
            if run is not None:
                run.engine.close()
        surface = run.end(interrupted=stop.signal is not None)
        try:
            updates.send(surface)
        except KeyboardInterrupt:
            stop.signal = stop.signal or 2
    run.warn()
    if stop.signal is not None:
        kept = "It is in the .surface of this exception."
        if place is not None:
            kept = f"It is kept in {place}; the same call goes on from there, or: lossnav resume {place}"
        total = f"{run.sampler.total:,}" if run.sampler.total else "nobody knows how many"
        raise Interrupted(f"Stopped after {len(run.gathered):,} of {total} points. {kept}", surface, stop.signal)
    return surface


@contextmanager
def _opened(store: Place | None, overwrite: bool, bar: Progress) -> Iterator[Store | None]:
    """The store of a run, which nobody else can write to until it ends."""
    if store is None:
        yield None
        return
    with bar.phase("opening the store"):  # whether a run on another machine lives takes a minute to see
        place = Store(store, overwrite)
    with place:
        yield place


def stream(
    objective: Objective,
    chart: Chart,
    sampler: Sampler,
    *,
    engine: Engine | None = None,
    check: bool = True,
    resume: xr.Dataset | None = None,
) -> Iterator[xr.Dataset]:
    """Evaluate as `evaluate` does, and yield the surface as far as it is, from a coarse one to the whole.

    The first comes after the sampler's first round, the last is what `evaluate` returns. Between two of them nothing
    is computed and nothing of the caller's is changed; leaving the loop ends the run.

    Parameters
    ----------
    objective, chart, sampler, engine, check, resume
        As in `evaluate`.

    Yields
    ------
    xarray.Dataset
        A surface; ``attrs["finished"]`` says whether it is the last.

    Raises
    ------
    As `evaluate` does; after Ctrl-C an `Interrupted` with the ``surface``.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    >>> line = ln.Line(bowl.params, {"x": torch.tensor([3.0, 4.0])})
    >>> [int(s["status"].sum()) for s in ln.stream(bowl, line, ln.Grid(alpha=(-1, 1, 9)))]
    [5, 9]
    """
    _require_nouns(objective, chart, sampler, engine)
    objective, chart = require_fit(objective, chart, sampler)
    pace = _Updates(None)
    with rng.preserved(device=objective.device):
        center = _check_center(objective, chart) if check else {}
        run = _Run(PointFunction(objective, chart), sampler, engine or Local(), center, resume)
    silent = Progress("evaluate", run.sampler.total, "points", show=False)
    steps, running = run.steps(silent), True
    try:
        while running:
            with rng.preserved(device=objective.device), StopRequests() as stop:
                try:
                    run.stop = stop
                    running = any(pace.due(run, round_ended) for round_ended in steps)
                except KeyboardInterrupt:
                    stop.signal = stop.signal or 2
                ends = stop.signal is not None or not running
                surface = run.end(stop.signal is not None) if ends else run.surface()
            if ends:
                run.warn()
            if stop.signal is not None:
                said = f"Stopped after {len(run.gathered):,} points. They are in the .surface of this exception."
                raise Interrupted(said, surface, stop.signal)
            if running or not pace.saw(run):
                pace.sent(run)
                yield surface
    finally:
        run.engine.close()


class _Updates:
    """When a partial surface is worth making: after the first round, then at most every tenth of the time it takes."""

    def __init__(self, receive: Callable[[xr.Dataset], object] | None) -> None:
        self.receive = require_callback(receive, "on_update", "surface")
        self.points, self.last, self.cost = 0, -math.inf, 0.0

    def due(self, run: _Run, round_ended: bool) -> bool:
        if run.finished or self.saw(run):
            return run.finished and not self.saw(run)
        since = time.perf_counter() - self.last
        if self.points == 0:
            return round_ended
        return since > max(_UPDATE_SECONDS if round_ended else 4 * _UPDATE_SECONDS, 10 * self.cost)

    def saw(self, run: _Run) -> bool:
        """Whether there is nothing new since the last one."""
        return self.points == len(run.gathered) + run.finished

    def sent(self, run: _Run) -> None:
        self.points, self.last = len(run.gathered) + run.finished, time.perf_counter()

    def offer(self, run: _Run, round_ended: bool) -> None:
        if self.receive is None or run.finished or not self.due(run, round_ended):
            return
        started = time.perf_counter()
        self.send(run.surface())
        self.sent(run)
        self.cost = self.last - started

    def send(self, surface: xr.Dataset) -> None:
        if self.receive is None:
            return
        try:
            # what is done to it is not done to the result; samples may be more than memory holds
            self.receive(surfaces.without_samples(surface).copy(deep=True))
        except Exception as error:
            self.receive = None
            warnings.warn(
                f"on_update raised {type(error).__name__}: {error}. It is not called any more; the run goes on.",
                LossnavWarning,
                stacklevel=4,
            )


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
        Largest relative difference of the loss from the plain path at the probe points; elsewhere it may be larger.
    checking_seconds : float
        To check the centre, and to find automatic ranges: before the planning.
    planning_seconds : float
        To choose and prove the plan.
    compiling_seconds : float
        To compile a kernel, which is kept: no part of what a run will take, and 0 where it was compiled before.
    seconds_per_point : float
        Mean over points like those of the run, none of them the centre, one after the other.
    seconds : float
        For all of it: checks, planning and points; nan where their number is not known.
    memory : float
        Bytes: the peak of this process (on a GPU: of what torch took there) after planning and a few points. A run
        does no more than that at a time. nan where the system does not say, or the work is done elsewhere.
    workers : int
        That compute at the same time.
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
        """Seconds of the whole run; nan where nobody knows how many points it takes."""
        return math.nan if self.points is None else self.seconds_for(self.points)

    def seconds_for(self, points: int) -> float:
        """Seconds of a run of so many points: checks and planning, then the points, shared among the workers."""
        return self.checking_seconds + self.planning_seconds + points * self.seconds_per_point / self.workers


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
    _require_nouns(objective, chart, sampler, engine)
    objective, chart = require_fit(objective, chart, sampler)
    engine = engine or Local()
    with rng.preserved(device=objective.device):
        started = time.perf_counter()
        objective.evaluate(chart(np.zeros(len(chart.dims))))
        checking = 2 * (time.perf_counter() - started)  # a run evaluates the centre twice
        started = time.perf_counter()
        sampler = sampler.settle(losses_of(objective, chart))
        checking += time.perf_counter() - started
        try:
            started = time.perf_counter()
            probes = probe_points(sampler, objective.seed)
            function = engine.prepare(PointFunction(objective, chart), probes, sampler.total)
            planning = time.perf_counter() - started
            per_point = _seconds_per_point(engine, function, _typical_points(sampler, objective.seed))
            said, workers = engine.describe(), engine.concurrency
        finally:
            engine.close()
    compiling = float(said.get("plan_compiling_seconds", 0.0))
    return Estimate(
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
    """Some of a sampler's points in random order, without the centre: there nothing is drawn or added.

    Of a grid any of its points; of a sampler that knows how many it will ask for, those of its first round; else
    random ones in its box.
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
    """Seconds that one worker takes for a point: the mean over some, after one that is not counted and fills caches."""
    together = max(1, getattr(function, "points_at_once", 1), engine.concurrency)
    taken = together
    list(engine.run(function, points[:together]))
    done, seconds = 0, 0.0
    while taken < len(points) and (done < _FEWEST_ESTIMATED or seconds < _ESTIMATING_SECONDS):
        some = points[taken : taken + max(together, done)]  # ever more at a time, so that the way to a worker is shared
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


def _require_nouns(objective: Objective, chart: Chart, sampler: Sampler, engine: Engine | None) -> None:
    """Raise where one of the four is something else, or two are exchanged."""
    require(objective, "objective")
    require(chart, "chart")
    require(sampler, "sampler")
    if engine is not None:
        require(engine, "engine")


def require_fit(objective: Objective, chart: Chart, sampler: Sampler) -> tuple[Objective, Chart]:
    """Raise unless chart, objective and sampler belong together, and no metric is called as a coordinate is.

    Returns objective and chart as they are for each other (see `meet`).
    """
    objective, chart = meet(objective, chart)
    objective.require_same_structure(chart.center, "the chart's centre")
    if tuple(sampler.dims) != tuple(chart.dims):
        raise SamplerError(
            f"The sampler asks for ({', '.join(sampler.dims)}) and the chart has ({', '.join(chart.dims)}). "
            f"Pass ln.Grid({', '.join(f'{dim}=(-1, 1, 51)' for dim in chart.dims)})."
        )
    if taken := set(objective.metrics) & {*chart.dims, "point"}:
        raise OptionError(f"A metric and a coordinate are both called {taken.pop()!r}. Give the metric another name.")
    return objective, chart


def plan_attributes(
    objective: Objective, chart: Chart, sampler: Sampler, engine: Engine | None = None
) -> dict[str, Any]:
    """What a surface would say of its plan (`lossnav.surface.plan_of`), without anything being evaluated.

    The sampler is one that leaves nothing open (`Sampler.settle`).
    """
    objective, chart = require_fit(objective, chart, sampler)
    made = {"objective": objective.describe(), "chart": chart.describe(), "sampler": sampler.describe()}
    versions = {"lossnav_version": __version__, "torch_version": torch.__version__}
    return surfaces.jsonable({**made, "engine": (engine or Local()).describe(), **versions})  # type: ignore[no-any-return]


class _Run:
    """One evaluation under way: what was asked, what came back."""

    def __init__(
        self,
        plain: PointFunction,
        sampler: Sampler,
        engine: Engine,
        center: Mapping[str, float],
        resumed: xr.Dataset | None = None,
        store: Store | None = None,
        about: Mapping[str, Any] | None = None,
        keep_samples: bool = False,
    ) -> None:
        objective, chart = plain.objective, plain.chart
        sampler = sampler.settle(losses_of(objective, chart))
        self.plain, self.objective, self.sampler, self.engine, self.center = plain, objective, sampler, engine, center
        self.outcome: dict[str, Any] | None = None
        self.finished = False
        self.stop: StopRequests
        self.made_of: dict[str, Any] = {"objective": objective.describe(), "chart": chart.describe()}
        self.made_of["sampler"] = sampler.describe()
        self.made_of |= surfaces.jsonable(about or {})
        if keep_samples:
            self.made_of["keep_samples"] = True  # a run that is killed before it has one goes on keeping them
        if sampling := _sampling(objective, chart, center):
            self.made_of["sampling"] = surfaces.jsonable(sampling)
        self.made_of |= about_chart(objective, chart)
        self.created: dict[str, str] = {}
        self.gathered = Gathered(len(sampler.dims))
        self.errors: list[str] = []
        self.seconds, self.computed = 0.0, 0  # of this run and those it goes on from
        self.function: engine_base.PointFunction | None = None
        self.known = joined([], len(sampler.dims))
        self._number: dict[bytes, int] = {}  # of a point among those that are known
        self.samples = _Samples(resumed) if keep_samples else None
        self.store = store
        self._stored = np.empty(0, bool)  # which of those that are known lie in the store
        self._before: dict[str, Any] = {}  # what the earlier run says of its work, while nothing new was computed
        self._asked: Generator[NDArray[np.float64], NDArray[np.float64], dict[str, Any] | None] | None = None
        if resumed is not None:
            self._require_same(resumed)
            self._know(resumed)
        if store is not None:
            store.require_same_plan(self.attributes())
            if store.earlier is not None:
                self._know(store.earlier, stored=True)
                said = store.earlier.attrs
                self.created = {key: said[key] for key in ("created",) if key in said}
                self._before = {key: said[key] for key in ("engine", "seconds", "points_per_second") if key in said}
                if resumed is None and self._is_whole(store.earlier):
                    self._asked = _again(self.known.points, said["sampler"].get("outcome"))

    def _require_same(self, earlier: xr.Dataset) -> None:
        """Refuse a surface whose points are not measurements of this objective on this chart."""
        surfaces.validate(earlier)
        if made_by := surfaces.put_together(earlier.attrs):
            raise OptionError(
                f"The surface to resume is no measurement of one run: it has {made_by} in its attributes. Pass the "
                "surface it was made of."
            )
        if different := surfaces.differences(earlier.attrs, self.attributes(), "objective", "chart", "engine"):
            raise OptionError(
                "The surface to resume is of something else:\n  "
                + "\n  ".join(different)
                + "\nPass what it was made of, or leave out resume=."
            )
        was, now = earlier.attrs.get("center", {}).get("loss"), self.center.get("loss")
        if was is not None and now is not None and not math.isclose(float(was), now, rel_tol=_REPEAT_TOLERANCE):
            raise OptionError(
                f"The loss at the centre was {float(was):.6g} in the surface to resume and is {now:.6g}. The loss "
                "function must have changed; leave out resume=."
            )

    def _know(self, earlier: xr.Dataset, stored: bool = False) -> None:
        """Take over what was measured, but for points that failed."""
        rows = surfaces.table_of(earlier)
        rows = rows.take(rows.status != surfaces.FAILED)
        before = len(self.known)
        self.known = joined([self.known, rows], len(self.sampler.dims))
        self._number = {key: i for i, key in enumerate(keys(self.known.points))}
        self._stored = np.full(len(self.known), stored)
        if before and stored:  # what is known from the surface to resume alone is to be written
            mine = set(keys(rows.points))
            self._stored = np.array([key in mine for key in self._number], bool)
        self.seconds = float(earlier.attrs.get("seconds", 0.0))
        self.computed = len(rows)

    def _is_whole(self, earlier: xr.Dataset) -> bool:
        """Whether this sampler's run is finished, and nothing is to be tried again: it would ask for what is there.

        Only of samplers that can be made again from their descriptions: those say all that their points depend on.
        """
        asked = {key: value for key, value in earlier.attrs.get("sampler", {}).items() if key != "outcome"}
        same = "again" in vars(type(self.sampler)) and asked == surfaces.jsonable(self.sampler.describe())
        done = np.isin(earlier["status"].values, (surfaces.OK, surfaces.NON_FINITE)).all()
        return bool(same and done and earlier.attrs.get("finished"))

    def prepare(self) -> engine_base.PointFunction:
        """Let the engine find a faster way, proved at the centre, the corners and a few points between."""
        if self.function is None:
            self.function = self.engine.prepare(
                self.plain, probe_points(self.sampler, self.plain.objective.seed), self.sampler.total
            )
            self._before = {}
            if self.store is not None:  # before the points that it computes: else who is killed leaves them without
                self.store.describe({"engine": surfaces.jsonable(self.engine.describe())})
        return self.function

    def steps(self, bar: Progress) -> Iterator[bool]:
        """Ask and tell until the sampler has no more or a signal came; yield after each point whether a round ended."""
        if self.store is not None:
            self.store.begin(self.surface(), self.samples is not None)
        asking = self.sampler.rounds() if self._asked is None else self._asked
        losses: NDArray[np.float64] | None = None
        stopping = False
        clock = time.perf_counter()
        while True:
            try:
                points = next(asking) if losses is None else asking.send(losses)
            except StopIteration as end:
                self.outcome, self.finished = end.value, True
                self.seconds += time.perf_counter() - clock
                yield True
                return
            losses = np.full(len(points), math.nan)
            numbers = np.array([self._number.get(key, -1) for key in keys(points)], np.intp)
            done = int((numbers >= 0).sum())
            if done:  # what is known comes first, all at once
                losses[numbers >= 0] = self._take_over(points[numbers >= 0], numbers[numbers >= 0])
                bar.advance(done, known=True)
                if self.stop.signal is None:
                    self.seconds += time.perf_counter() - clock
                    yield done == len(points)
                    clock = time.perf_counter()
            for count, outcome in enumerate(self._outcomes(points, numbers, bar), done + 1):
                self._keep(points[outcome.number], outcome)
                losses[outcome.number] = outcome.values.get("loss", math.nan)
                bar.advance()
                self.seconds += time.perf_counter() - clock
                if self.stop.signal is None:
                    yield count == len(points)
                elif not stopping:
                    stopping = True
                    self.engine.stop()
                    bar.say("Stopping; what is computed is kept.")
                clock = time.perf_counter()  # what whoever looks on does is not ours
            if self.stop.signal is not None:
                return

    def _take_over(self, points: NDArray[np.float64], numbers: NDArray[np.intp]) -> NDArray[np.float64]:
        """Take points that are known by their numbers, keep what is not in the store yet, and return their losses."""
        rows = self.known.take(numbers)
        stored = self._stored[numbers] if self.store is not None else np.zeros(len(numbers), bool)
        if self.store is None and self.samples is None:
            stored[:] = True  # nothing is to be kept of them but their values
        self.gathered.extend(Rows(points[stored], *rows.take(stored)[1:]))
        for point, row in zip(points[~stored], rows_of(rows.take(~stored)), strict=True):
            self._keep(point, Outcome(0, row.values))
        return rows.values["loss"]

    def _outcomes(self, points: NDArray[np.float64], numbers: NDArray[np.intp], bar: Progress) -> Iterator[Outcome]:
        """What the engine finds at the points that are not known."""
        new = np.flatnonzero(numbers < 0)
        if len(new) and self.stop.signal is None:
            with self._heard(bar):
                if self.function is None:
                    with bar.phase("planning"):
                        self.prepare()
                for outcome in self.engine.run(self.prepare(), points[new]):
                    self.computed += 1
                    yield outcome._replace(number=int(new[outcome.number]))

    @contextmanager
    def _heard(self, bar: Progress) -> Iterator[None]:
        """Show what the engine waits for; end the wait where a signal came, since no point is under way."""

        def on_wait(words: str) -> None:
            bar.wait(words)
            if self.stop.signal is not None:
                raise KeyboardInterrupt

        self.engine.on_wait = on_wait
        try:
            yield
        finally:
            vars(self.engine).pop("on_wait", None)  # of an engine that two threads use, one is first

    def _keep(self, point: Point, outcome: Outcome) -> None:
        """Keep a point that is in no store yet."""
        status = surfaces.status_of(outcome.values, outcome.error)
        row = Row(tuple(point.tolist()), status, _row_of(outcome.values))
        self.gathered.append(point, status, row.values)
        if outcome.error is not None:
            self.errors.append(f"({', '.join(f'{x:g}' for x in point)}): {outcome.error}")
        samples = None if self.samples is None else self.samples.of(point, outcome)
        if self.store is not None:
            with self._keeping():
                self.store.append(row, samples)
        elif self.samples is not None and samples is not None:
            self.samples.keep(point, samples)

    def surface(self, interrupted: bool = False) -> xr.Dataset:
        """Join what came back with how it was made."""
        attributes = self.attributes(interrupted)
        made = surfaces.assemble_table(self.sampler.dims, self.sampler.axes, self.gathered.rows, attributes)
        made.attrs |= self.created
        self.created = {"created": made.attrs["created"]}
        return made

    def end(self, interrupted: bool) -> xr.Dataset:
        """Make the surface, and fold it into the store.

        Raises
        ------
        EvaluationError
            If every point raised.
        StoreError
            If the store cannot be written.
        """
        if self.store is not None and self.samples is not None and self.sampler.axes is None:
            self._order_as_stored(self.store)
        surface = self.surface(interrupted)
        if self.errors and len(self.errors) == len(self.gathered):
            raise EvaluationError(
                f"All {len(self.errors)} points raised an error, the first at {self.errors[0]}. "
                "Call objective.evaluate(chart(coords)) at that point to see where it comes from."
            )
        if self.store is not None:
            with self._keeping():
                return self.store.finish(surface)
        return surface if self.samples is None else self.samples.put_into(surface)

    def _order_as_stored(self, store: Store) -> None:
        """Take the points as their samples lie in the store, with those that an earlier run alone asked for.

        Writing all samples again in another order would at worst take as long as the run.
        """
        tables = [] if store.earlier is None else [surfaces.table_of(store.earlier)]
        rows = joined([*tables, self.gathered.rows], len(self.sampler.dims))
        numbers = {tuple(point): i for i, point in enumerate(rows.points.tolist())}
        order = rows.take(np.array([numbers[point] for point in store.places], np.intp))
        self.gathered = Gathered(len(self.sampler.dims))
        self.gathered.extend(order)

    def warn(self) -> None:
        """Warn of points that raised."""
        if self.errors:
            warnings.warn(
                f"{len(self.errors)} of {len(self.gathered)} points raised an error and have status 3 (failed), the "
                f"first at {self.errors[0]}. The others are there.",
                PointsFailedWarning,
                stacklevel=3,
            )

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Where the store cannot be written, what was computed goes with the error."""
        try:
            yield
        except StoreError as error:
            error.surface = self.surface(interrupted=True)
            raise

    def attributes(self, interrupted: bool = False) -> dict[str, Any]:
        """How the surface is made."""
        made: dict[str, Any] = {
            **self.made_of,
            "objective": self.made_of["objective"] | {"samples": self.objective.samples},
            "sampler": self.made_of["sampler"] | ({"outcome": self.outcome} if self.outcome is not None else {}),
            "engine": self.engine.describe(),
            "center": self.center,
            "lossnav_version": __version__,
            "torch_version": torch.__version__,
            "torch_threads": self.engine.threads,
            "interrupted": interrupted,
            "finished": self.finished,
            "failures": self.errors[: surfaces.FAILURES_KEPT],
            "seconds": round(self.seconds, 3),
            "points_per_second": self.computed / self.seconds if self.seconds > 0 else math.nan,
        }
        made |= self._before
        return made | {"plan_hash": surfaces.plan_hash(made)}


def _again(
    points: NDArray[np.float64], outcome: dict[str, Any] | None
) -> Generator[NDArray[np.float64], NDArray[np.float64], dict[str, Any] | None]:
    """What a sampler asked for, all at once, and what it said at its end: to ask again takes Adaptive long."""
    yield points
    return outcome


class _Samples:
    """Losses of single samples in memory, as points come: of a run without a store, or of a surface to resume."""

    def __init__(self, resumed: xr.Dataset | None) -> None:
        self.rows: dict[bytes, NDArray[np.float32]] = {}
        self.weights: NDArray[np.float64] | None = None
        self._resumed, self._numbers = resumed, dict[bytes, int]()
        if resumed is not None:
            self._numbers = {_key(point): i for i, point in enumerate(surfaces.points_of(resumed))}

    def of(self, point: Point, outcome: Outcome) -> kept.SampleLosses | None:
        """Those of a point that was just measured, or that is known from the surface to resume."""
        if (samples := getattr(outcome.values, "samples", None)) is not None:
            return samples  # type: ignore[no-any-return]
        number = self._numbers.get(_key(point))
        if self._resumed is None or number is None or outcome.error is not None:
            return None
        place = np.unravel_index(number, self._resumed["loss"].shape)
        losses = self._resumed[kept.LOSS][tuple(int(i) for i in place)].values
        return kept.SampleLosses(losses, self._resumed[kept.WEIGHT].values)

    def keep(self, point: Point, samples: kept.SampleLosses) -> None:
        """Keep those of a point."""
        self.rows[_key(point)], self.weights = samples.losses, samples.weights

    def put_into(self, surface: xr.Dataset) -> xr.Dataset:
        """The surface with what is kept; each row is given up once it has its place."""
        if self.weights is None:
            return surface
        shape = surface["loss"].shape
        losses = np.full((*shape, len(self.weights)), np.nan, np.float32)
        flat = losses.reshape(-1, len(self.weights))
        for i, point in enumerate(surfaces.points_of(surface)):
            if (row := self.rows.pop(_key(point), None)) is not None:
                flat[i] = row
        return surfaces.with_samples(surface, losses, self.weights)


def _row_of(values: Mapping[str, float]) -> dict[str, float]:
    """What a surface holds of a point: its values, and the skewness of its samples after the standard error."""
    skewness = getattr(values, "skewness", None)
    if skewness is None:
        return dict(values)
    first = {name: values[name] for name in ("loss", "loss_se") if name in values}
    return first | {"loss_skewness": skewness} | dict(values)


def _require_samples_there(asked: bool, place: Store | None, resume: xr.Dataset | None) -> None:
    """Refuse to go on, with samples, from points that were measured without."""
    there = [] if place is None or place.earlier is None or place.has_samples else [(place.earlier, f"{place}")]
    there += [] if resume is None or kept.LOSS in resume else [(resume, "The surface to resume")]
    for surface, name in there:
        if asked and bool((surface["status"] == surfaces.OK).any()):
            raise OptionError(
                f"{name} was computed without the losses of single samples, and they cannot be had without computing "
                "it again. Leave out keep_samples=True, or choose another store (overwrite=True replaces this one)."
            )


def _require_samples(objective: Objective, chart: Chart, center: Mapping[str, float]) -> None:
    """Raise OptionError where the loss hides the losses of single samples."""
    values = center or objective.evaluate(chart(np.zeros(len(chart.dims))))
    if getattr(values, "skewness", None) is None:
        raise OptionError(
            "keep_samples=True needs the loss of every sample, and this loss gives one number a batch. Use a loss with "
            "a reduction= argument, or one that returns a value a sample: Objective(…, reduction='none')."
        )


def _key(point: Sequence[float] | Point) -> bytes:
    return (np.asarray(point, np.float64) + 0.0).tobytes()  # -0.0 and 0.0 are one place


def probe_points(sampler: Sampler, seed: int = 0) -> NDArray[np.float64]:
    """Points at which a faster way must agree with the plain one: centre, two random ones, one between, corners.

    The random ones are the run's own, drawn by the seed; the others are the same for every run.
    """
    box = sampler.box
    drawn = np.random.default_rng([seed, *b"probes"]).uniform(box[:, 0], box[:, 1], size=(2, len(box)))
    between = np.random.default_rng(0).uniform(box[:, 0], box[:, 1], size=(1, len(box)))
    return np.concatenate([np.zeros((1, len(box))), drawn, between, mesh(box)])


def losses_of(objective: Objective, chart: Chart) -> Callable[[Point], Point]:
    """Losses by the plain path, nan where a point raises."""

    def losses(points: Point) -> Point:
        found = np.full(len(points), math.nan)
        for outcome in Local(plan="plain").run(PointFunction(objective, chart), points):
            found[outcome.number] = outcome.values.get("loss", math.nan)
        return found

    return losses


def _check_center(objective: Objective, chart: Chart) -> dict[str, float]:
    """Evaluate the centre twice: it must be finite, and the same."""
    origin = np.zeros(len(chart.dims))
    keeping = objective.keeping_samples()
    first, second = (keeping.evaluate(chart(origin)) for _ in range(2))
    objective.samples = keeping.samples
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


def about_chart(objective: Objective, chart: Chart) -> dict[str, Any]:
    """What a surface says of its chart beside its recipe (docs/schema.md): buffers, files, and what does not move."""
    said: dict[str, Any] = {}
    if foreign := _foreign_buffers(objective, chart):
        said["foreign_buffers"] = foreign
    if chart.files:
        said["checkpoints"] = dict(chart.files)
    still = chart.still()
    sizes = {name: tensor.numel() for name, tensor in chart.center.items()}
    of = None if still is None else {name: [count, sizes[name]] for name, count in still.items()}
    return said | {"still": None if of is None else {"entries": sum(sizes.values()), "of": of}}


def _foreign_buffers(objective: Objective, chart: Chart) -> list[str]:
    """Buffers that are the objective's at every point, though the weights at the centre of the chart are others."""
    if chart.knows_buffers or chart.anchors is not None:
        return []
    own = objective.params
    if all(algebra.same(t.to(own[name].device, own[name].dtype), own[name]) for name, t in chart.center.items()):
        return []
    return objective.anatomy.missing(())


def _sampling(objective: Objective, chart: Chart, center: Mapping[str, float]) -> dict[str, Any]:
    """What the samples at the centre, and the data, say of how sure the losses are (docs/schema.md)."""
    samples = getattr(center, "samples", None)
    if samples is None:
        return {}
    losses, weights = samples
    said = spread_of(losses, weights, objective.labels) | objective.sampling()
    if said.get("population") and algebra.fingerprint(chart.center) == algebra.fingerprint(objective.params):
        error = center.get("loss_se", math.nan)
        if error > 0:
            said["population"]["off"] = (said["population"]["loss"] - center["loss"]) / error
    return said


def _likely_reason(objective: Objective) -> str:
    if objective.population is not None:
        return f"The {objective.samples} samples drawn may hold no target that counts: draw more, or by another seed."
    for name, tensor in objective.params.items():
        if not bool(torch.isfinite(tensor).all()):
            return f'The weights hold NaN or inf in "{name}": check the checkpoint.'
    with rng.preserved(objective.seed, objective.device):
        for i, batch in enumerate(objective.batches or []):
            if any(part.is_floating_point() and not bool(torch.isfinite(part).all()) for part in tensors(batch)):
                return f"The data holds NaN or inf in batch {i}: clean it."
    return "Weights and data are finite: check the loss, and that training did not diverge."
