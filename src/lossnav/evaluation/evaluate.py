"""The verb `evaluate`: evaluate an objective on a chart, at the points of a sampler, with an engine; get a surface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lossnav._utils import random_state
from lossnav._utils.paths import Location, beside
from lossnav._utils.progress import Progress
from lossnav._utils.signals import StopRequests, signal_of
from lossnav._utils.validation import require
from lossnav.acceleration import ChartFunction
from lossnav.charts import Chart
from lossnav.charts.io import save_chart
from lossnav.engines import Engine, Local
from lossnav.errors import OptionError
from lossnav.evaluation.center import _check_center, require_fit
from lossnav.evaluation.repaired import RepairedFunction
from lossnav.evaluation.run import _Run, _Updates, require_samples
from lossnav.objective.objective import Objective
from lossnav.samplers import Sampler
from lossnav.surface.known_points import require_samples_there
from lossnav.surface.run_store import Store

if TYPE_CHECKING:
    import xarray as xr


def evaluate(
    objective: Objective,
    chart: Chart,
    sampler: Sampler,
    *,
    engine: Engine | None = None,
    store: Location | None = None,
    overwrite: bool = False,
    save_directions: bool = False,
    keep_samples: bool = False,
    check: bool = True,
    progress: bool | None = None,
    resume: xr.Dataset | None = None,
    on_update: Callable[[xr.Dataset], object] | None = None,
    repair: Any = None,
) -> xr.Dataset:
    """Evaluate an objective on a chart at the points a sampler asks for.

    The model, its mode and the global random state are left as they were, also after an error or Ctrl-C.

    Parameters
    ----------
    objective : Objective
    chart : Chart
        Its centre must have the names and shapes of ``objective.params``.
    sampler : Sampler
        With the coordinates of the chart, in the same order.
    engine : Engine, optional
        Default `Local()`.
    store : path, fsspec URL or zarr store, optional
        Where the surface is written, in Zarr format 3, during the run: after a kill at any moment it contains all
        points except the current tile. If the store already contains this run, it is resumed; failed points are
        evaluated again. The store is checked for write access before anything is computed.
    overwrite : bool
        Whether to replace an existing surface.
    save_directions : bool
        Whether to store the chart's centre and directions too, as safetensors beside the store. Then the run can be
        resumed without the source of its directions (`lossnav.charts.open_chart`).
    keep_samples : bool
        Whether to store the per-sample losses (``sample_loss``, float32, shape (..., samples)), so that
        `difference` and `interval` have paired and skewness-corrected errors.
    check : bool
        Whether to evaluate the centre twice before the run, to detect NaN and a loss that is not deterministic.
    progress : bool or None
        True: a bar, or lines if stderr is a file. False: none. None: a bar on a terminal.
    resume : xarray.Dataset, optional
        A surface of the same objective and chart. Its points are reused where the sampler requests them; failed points
        are evaluated again. The result of a stopped run is that of an uninterrupted one. With another sampler, such as
        a finer grid, only new points are evaluated.
    on_update : callable, optional
        Called with a copy of the surface so far, without stored samples: after the first round of the sampler (for a
        grid, a coarse one), then repeatedly, and at the end. An exception that it raises ends the updates with a
        warning, not the run.
    repair : RepairData, or training data in any form that the objective takes, optional
        Evaluate the repaired network at every point (`lossnav.repair`, REPAIR): units get the statistics that lie
        between those of the checkpoints on the chart, by barycentric coordinates; BatchNorm statistics are recomputed.
        At the checkpoints nothing changes. By default 1,000 samples are drawn from the data with seed 0. The surface
        records it in its attribute ``repair``; other repair data is another run. Fast plans are not used.

    Returns
    -------
    xarray.Dataset
        A surface (docs/schema.md). A point that overflows is inf or nan with status 2; a point that raised an error has
        status 3, with a `PointsFailedWarning`.

    Raises
    ------
    StructureMismatchError, SamplerError
        If chart, objective and sampler do not fit.
    NonFiniteCenterError, NotDeterministicError
        If the check of the centre fails.
    OptionError
        If the surface to resume is of another run; if `repair` is set and fewer than two checkpoints lie on the chart;
        or `keep_samples` is set but the per-sample losses are not
        available, or the resumed surface lacks them.
    PlanMismatchError
        If the store contains another run; the message lists the differences.
    OutputExistsError, OutputNotWritableError, StoreError
        If the store cannot be written; the surface so far is in `.surface` of the error.
    EvaluationError
        If every point raised an error.
    Interrupted
        After Ctrl-C or SIGTERM: a KeyboardInterrupt with the surface so far in ``partial``. The first signal lets the
        current tile finish (for `Local`: the point), the second stops at once.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    >>> line = ln.Line(bowl.params, {"x": torch.tensor([3.0, 4.0])})
    >>> ln.evaluate(bowl, line, ln.Grid(alpha=(-1, 1, 3)))["loss"].values
    array([25.,  0., 25.])
    """
    _require_nouns(objective, chart, sampler, engine)
    function, about = ChartFunction(objective, chart), None
    if repair is not None:
        function = RepairedFunction(objective, chart, repair)
        about = {"repair": function.about()}
    return measure(
        function,
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
        about=about,
    )


def measure(
    function: ChartFunction,
    sampler: Sampler,
    *,
    engine: Engine | None = None,
    store: Location | None = None,
    overwrite: bool = False,
    save_directions: bool = False,
    keep_samples: bool = False,
    check: bool = True,
    progress: bool | None = None,
    resume: xr.Dataset | None = None,
    on_update: Callable[[xr.Dataset], object] | None = None,
    about: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Evaluate a function of a chart's coordinates at the points of a sampler, as `evaluate` does for the loss.

    Parameters
    ----------
    function : ChartFunction
        It has an objective and a chart; its values include the loss.
    sampler, engine, store, overwrite, save_directions, keep_samples, check, progress, resume, on_update
        As in `evaluate`.
    about : mapping, optional
        Further attributes of the surface: what the function depends on besides objective and chart.
    """
    objective, chart = function.objective, function.chart
    objective, chart = require_fit(objective, chart, sampler)
    if save_directions and store is None:
        raise OptionError("save_directions=True needs a store, beside which it writes. Pass store= too.")
    updates = _Updates(on_update)
    run: _Run | None = None
    bar = Progress("evaluate", None, "points", progress)
    with (
        random_state.preserved(device=objective.device),
        bar,
        _opened(store, overwrite, bar) as place,
        StopRequests() as stop,
    ):
        require_samples_there(keep_samples, place, resume)
        with bar.phase("checking the centre"):
            center = _check_center(function) if check else {}
            if keep_samples or (place is not None and place.has_samples):
                require_samples(objective, chart, center)
                function = function.keeping_samples()
        try:
            with bar.phase("preparing"):  # an automatic range may have to be found
                run = _Run(function, sampler, engine or Local(), center, resume, place, about, keep_samples)
                run.stop = stop
                if save_directions:
                    save_chart(chart, beside(store))
            bar.total = run.sampler.total
            for round_ended in run.steps(bar):
                updates.offer(run.record, round_ended)
        except KeyboardInterrupt as error:  # the second Ctrl-C, or one outside the main thread
            stop.signal = stop.signal or signal_of(error)
            if run is None:
                raise
        finally:
            if run is not None:
                run.engine.close()
        surface = run.record.end(interrupted=stop.signal is not None)
        try:
            updates.send(surface)
        except KeyboardInterrupt as error:
            stop.signal = stop.signal or signal_of(error)
    run.record.warn()
    if stop.signal is not None:
        total = f"{run.sampler.total:,}" if run.sampler.total else "an unknown number of"
        raise run.record.stopped(surface, stop.signal, total, command=f", or: lossnav resume {place}")
    return surface


@contextmanager
def _opened(store: Location | None, overwrite: bool, bar: Progress) -> Iterator[Store | None]:
    """Open the store of a run; no other process can write to it until the run ends."""
    if store is None:
        yield None
        return
    with bar.phase("opening the store"):  # detecting a run on another machine takes a minute
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
    """Evaluate as `evaluate` does, and yield the surface so far, from a coarse one to the complete one.

    The first surface follows the sampler's first round; the last is the result of `evaluate`. Nothing is computed or
    changed between two of them; leaving the loop ends the run.

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
    As `evaluate` does; after Ctrl-C an `Interrupted` with the surface so far in ``partial``.

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
    with random_state.preserved(device=objective.device):
        center = _check_center(ChartFunction(objective, chart)) if check else {}
        run = _Run(ChartFunction(objective, chart), sampler, engine or Local(), center, resume)
    silent = Progress("evaluate", run.sampler.total, "points", show=False)
    steps, running = run.steps(silent), True
    try:
        while running:
            with random_state.preserved(device=objective.device), StopRequests() as stop:
                try:
                    run.stop = stop
                    running = any(pace.due(run.record, round_ended) for round_ended in steps)
                except KeyboardInterrupt as error:
                    stop.signal = stop.signal or signal_of(error)
                ends = stop.signal is not None or not running
                surface = run.record.end(stop.signal is not None) if ends else run.record.dataset()
            if ends:
                run.record.warn()
            if stop.signal is not None:
                raise run.record.stopped(surface, stop.signal)
            if running or not pace.saw(run.record):
                pace.sent(run.record)
                yield surface
    finally:
        run.engine.close()


def _require_nouns(objective: Objective, chart: Chart, sampler: Sampler, engine: Engine | None) -> None:
    """Raise if an argument has the wrong type, or two are exchanged."""
    require(objective, "objective")
    require(chart, "chart")
    require(sampler, "sampler")
    if engine is not None:
        require(engine, "engine")
