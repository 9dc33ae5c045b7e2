"""One run: points of the sampler go to the engine; its results are recorded and shown."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossnav._utils import jsonable
from lossnav._utils.progress import Progress
from lossnav._utils.signals import StopRequests
from lossnav._utils.validation import require_callback
from lossnav.acceleration import ChartFunction
from lossnav.charts import Chart
from lossnav.engines import Engine, Outcome
from lossnav.engines import base as engine_base
from lossnav.errors import LossnavWarning, OptionError
from lossnav.evaluation.center import losses_of, probe_points
from lossnav.evaluation.provenance import provenance
from lossnav.objective.objective import Objective
from lossnav.samplers import Sampler
from lossnav.samplers import base as sampler_base
from lossnav.surface import assemble, variables
from lossnav.surface.run_record import RunRecord
from lossnav.surface.run_store import Store

if TYPE_CHECKING:
    import xarray as xr

_UPDATE_SECONDS = 0.1  # minimum time between two partial surfaces


class _Updates:
    """Decides when to make a partial surface: after the first round, then for at most a tenth of the run time."""

    def __init__(self, receive: Callable[[xr.Dataset], object] | None) -> None:
        self.receive = require_callback(receive, "on_update", "surface")
        self.points, self.last, self.cost = 0, -math.inf, 0.0

    def due(self, record: RunRecord, round_ended: bool) -> bool:
        if record.finished or self.saw(record):
            return record.finished and not self.saw(record)
        since = time.perf_counter() - self.last
        if self.points == 0:
            return round_ended
        return since > max(_UPDATE_SECONDS if round_ended else 4 * _UPDATE_SECONDS, 10 * self.cost)

    def saw(self, record: RunRecord) -> bool:
        """Return whether there is nothing new since the last one."""
        return self.points == len(record) + record.finished

    def sent(self, record: RunRecord) -> None:
        self.points, self.last = len(record) + record.finished, time.perf_counter()

    def offer(self, record: RunRecord, round_ended: bool) -> None:
        if self.receive is None or record.finished or not self.due(record, round_ended):
            return
        started = time.perf_counter()
        self.send(record.dataset())
        self.sent(record)
        self.cost = self.last - started

    def send(self, surface: xr.Dataset) -> None:
        if self.receive is None:
            return
        try:
            # a copy, so that changes do not affect the result; samples may not fit in memory
            self.receive(assemble.without_samples(surface).copy(deep=True))
        except Exception as error:
            self.receive = None
            warnings.warn(
                f"on_update raised {type(error).__name__}: {error}. It is not called again; the run continues.",
                LossnavWarning,
                stacklevel=4,
            )


class _Run:
    """A running evaluation: the sampler, the engine, and the record of the results."""

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
        self.plain, self.engine = plain, engine
        self.sampler = sampler = sampler.settle(losses_of(objective, chart, plain.at))
        self.stop: StopRequests
        self.function: engine_base.PointFunction | None = None
        described, self._outcome = sampler_base.description_of(sampler), dict[str, Any]()
        about = dict(about or {})
        if keep_samples or (store is not None and store.has_samples):
            about["keep_samples"] = True
        made = provenance(objective, chart, described, engine, center, about)
        made["sampler"] = lambda: described | self._outcome
        self.record = RunRecord(
            sampler.dims, made, axes=sampler.axes, store=store, resume=resumed, keep_samples=keep_samples
        )
        self._asked: Generator[NDArray[np.float64], NDArray[np.float64], dict[str, Any] | None] | None = None
        earlier = None if store is None else store.earlier
        if earlier is not None and resumed is None and self._is_whole(earlier):
            self._asked = _again(self.record.known.points, earlier.attrs["sampler"].get("outcome"))

    def _is_whole(self, earlier: xr.Dataset) -> bool:
        """Return whether the stored run of this sampler is finished, without failed points to evaluate again.

        Only for samplers that can be made from their descriptions, which are therefore complete.
        """
        asked = {key: value for key, value in earlier.attrs.get("sampler", {}).items() if key != "outcome"}
        same = "again" in vars(type(self.sampler)) and asked == jsonable.jsonable(
            sampler_base.description_of(self.sampler)
        )
        done = np.isin(earlier["status"].values, (variables.OK, variables.NON_FINITE)).all()
        return bool(same and done and earlier.attrs.get("finished"))

    def prepare(self) -> engine_base.PointFunction:
        """Let the engine find a faster path, verified at the centre, the corners and a few points between."""
        if self.function is None:
            self.function = self.engine.prepare(
                self.plain, probe_points(self.sampler, self.plain.objective.seed), self.sampler.total
            )
            self.record.computing()
        return self.function

    def steps(self, bar: Progress) -> Iterator[bool]:
        """Ask and tell until the sampler ends or a signal comes; yield after each point whether a round ended."""
        self.record.begin()
        steps = self._steps(bar)
        while True:
            with self.record.timing():  # the time of on_update does not count
                round_ended = next(steps, None)
            if round_ended is None:
                return
            yield round_ended

    def _steps(self, bar: Progress) -> Iterator[bool]:
        asking = self.sampler.rounds() if self._asked is None else self._asked
        losses: NDArray[np.float64] | None = None
        stopping = False
        while True:
            try:
                points = next(asking) if losses is None else asking.send(losses)
            except StopIteration as end:
                self._outcome = {} if end.value is None else {"outcome": end.value}
                self.record.finished = True
                yield True
                return
            points = sampler_base.asked(points, self.sampler)
            known, losses = self.record.take_known(points)
            done = int(known.sum())
            if done:  # known points come first, all at once
                bar.advance(done, known=True)
                if self.stop.signal is None:
                    yield done == len(points)
            for count, outcome in enumerate(self._outcomes(points, np.flatnonzero(~known), bar), done + 1):
                self.record.add(points[outcome.number], outcome.values, outcome.error)
                losses[outcome.number] = outcome.values.get("loss", math.nan)
                bar.advance()
                if self.stop.signal is None:
                    yield count == len(points)
                elif not stopping:
                    stopping = True
                    self.engine.stop()
                    bar.say("Stopping; evaluated points are stored.")
            if self.stop.signal is not None:
                return

    def _outcomes(self, points: NDArray[np.float64], new: NDArray[np.intp], bar: Progress) -> Iterator[Outcome]:
        """Yield the engine's results at the points that are not known."""
        if len(new) and self.stop.signal is None:
            with self._heard(bar):
                if self.function is None:
                    with bar.phase("planning"):
                        self.prepare()
                stopped = lambda: self.stop.signal is not None  # noqa: E731
                for outcome in engine_base.every_outcome(self.engine, self.prepare(), points[new], stopped):
                    yield outcome._replace(number=int(new[outcome.number]))

    @contextmanager
    def _heard(self, bar: Progress) -> Iterator[None]:
        """Show what the engine waits for; a signal ends the wait, since no point is being evaluated."""

        def on_wait(words: str) -> None:
            bar.wait(words)
            if self.stop.signal is not None:
                raise KeyboardInterrupt

        self.engine.on_wait = on_wait
        try:
            yield
        finally:
            vars(self.engine).pop("on_wait", None)  # if two threads use the engine, one may have removed it


def _again(
    points: NDArray[np.float64], outcome: dict[str, Any] | None
) -> Generator[NDArray[np.float64], NDArray[np.float64], dict[str, Any] | None]:
    """Yield the stored points at once and return the stored outcome: asking Adaptive again takes long."""
    yield points
    return outcome


def require_samples(objective: Objective, chart: Chart, center: Mapping[str, float]) -> None:
    """Raise OptionError if the per-sample losses are not available."""
    values = center or objective.evaluate(chart(np.zeros(len(chart.dims))))
    if getattr(values, "skewness", None) is None:
        raise OptionError(
            "keep_samples=True needs the loss of every sample, but this loss returns one number per batch. Use a loss "
            "with a reduction= argument, or one that returns a value per sample: Objective(…, reduction='none')."
        )
