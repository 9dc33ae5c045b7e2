"""The bookkeeping of one run: rows, seconds, provenance, what is shown and what is stored meanwhile."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from lossnav import params as algebra
from lossnav._utils import jsonable
from lossnav._utils.progress import Progress
from lossnav._utils.signals import StopRequests
from lossnav._utils.validation import require_callback
from lossnav._version import __version__
from lossnav.acceleration import ChartFunction
from lossnav.charts import Chart
from lossnav.engines import Engine, Outcome
from lossnav.engines import base as engine_base
from lossnav.engines.base import Point
from lossnav.errors import (
    EvaluationError,
    LossnavWarning,
    OptionError,
    PointsFailedWarning,
    StoreError,
)
from lossnav.evaluation.center import _REPEAT_TOLERANCE, losses_of, probe_points
from lossnav.objective.objective import Objective
from lossnav.samplers import Sampler
from lossnav.samplers import base as sampler_base
from lossnav.storage import samples as kept
from lossnav.storage.journal import Gathered, Row, Rows, joined, keys, rows_of
from lossnav.surface import assemble, run_identity, seeds, variables
from lossnav.surface.intervals import spread_of
from lossnav.surface.run_store import Store

_UPDATE_SECONDS = 0.1  # least time between two partial surfaces


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
            self.receive(assemble.without_samples(surface).copy(deep=True))
        except Exception as error:
            self.receive = None
            warnings.warn(
                f"on_update raised {type(error).__name__}: {error}. It is not called any more; the run goes on.",
                LossnavWarning,
                stacklevel=4,
            )


class _Run:
    """One evaluation under way: what was asked, what came back."""

    def __init__(
        self,
        plain: ChartFunction,
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
        self.made_of["sampler"] = jsonable.jsonable(sampler_base.description_of(sampler))
        self.made_of |= jsonable.jsonable(about or {})
        if keep_samples:
            self.made_of["keep_samples"] = True  # a run that is killed before it has one goes on keeping them
        if sampling := _sampling(objective, chart, center):
            self.made_of["sampling"] = jsonable.jsonable(sampling)
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
        variables.validate(earlier)
        if made_by := run_identity.put_together(earlier.attrs):
            raise OptionError(
                f"The surface to resume is no measurement of one run: it has {made_by} in its attributes. Pass the "
                "surface it was made of."
            )
        if different := run_identity.differences(earlier.attrs, self.attributes(), "objective", "chart", "engine"):
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
        rows = assemble.table_of(earlier)
        rows = rows.take(rows.status != variables.FAILED)
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
        same = "again" in vars(type(self.sampler)) and asked == jsonable.jsonable(
            sampler_base.description_of(self.sampler)
        )
        done = np.isin(earlier["status"].values, (variables.OK, variables.NON_FINITE)).all()
        return bool(same and done and earlier.attrs.get("finished"))

    def prepare(self) -> engine_base.PointFunction:
        """Let the engine find a faster way, proved at the centre, the corners and a few points between."""
        if self.function is None:
            self.function = self.engine.prepare(
                self.plain, probe_points(self.sampler, self.plain.objective.seed), self.sampler.total
            )
            self._before = {}
            if self.store is not None:  # before the points that it computes: else who is killed leaves them without
                self.store.describe({"engine": jsonable.jsonable(engine_base.description_of(self.engine))})
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
                self.outcome, self.finished = jsonable.jsonable(end.value), True
                self.seconds += time.perf_counter() - clock
                yield True
                return
            points = sampler_base.asked(points, self.sampler)
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
                stopped = lambda: self.stop.signal is not None  # noqa: E731
                for outcome in engine_base.every_outcome(self.engine, self.prepare(), points[new], stopped):
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
        status = variables.status_of(outcome.values, outcome.error)
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
        made = assemble.assemble_table(self.sampler.dims, self.sampler.axes, self.gathered.rows, attributes)
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
        tables = [] if store.earlier is None else [assemble.table_of(store.earlier)]
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
            "engine": jsonable.jsonable(engine_base.description_of(self.engine)),
            "center": self.center,
            "lossnav_version": __version__,
            "torch_version": torch.__version__,
            "torch_threads": self.engine.threads,
            "interrupted": interrupted,
            "finished": self.finished,
            "failures": self.errors[: seeds.FAILURES_KEPT],
            "seconds": round(self.seconds, 3),
            "points_per_second": self.computed / self.seconds if self.seconds > 0 else math.nan,
        }
        made |= self._before
        return made | {"plan_hash": run_identity.plan_hash(made)}


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
            self._numbers = {_key(point): i for i, point in enumerate(assemble.points_of(resumed))}

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
        for i, point in enumerate(assemble.points_of(surface)):
            if (row := self.rows.pop(_key(point), None)) is not None:
                flat[i] = row
        return assemble.with_samples(surface, losses, self.weights)


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
        if asked and bool((surface["status"] == variables.OK).any()):
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
