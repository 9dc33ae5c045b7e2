"""A place of a live session: its objective and chart, how points are evaluated, and the store that contains them.

A value is on disk before it is shown: `measure` evaluates and writes, `flush` brings the values to disk and then adds
them to the place. The first values are computed by the plain path. `speed_up`, called between two tasks, looks for a
faster path; its kernel is compiled in another thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossnav._utils import jsonable, random_state
from lossnav.acceleration import ChartFunction
from lossnav.acceleration.kernel import Kernel, compiling_later
from lossnav.acceleration.trace_graph import NotReadableError
from lossnav.charts import meet
from lossnav.engines import Local
from lossnav.errors import LossnavWarning
from lossnav.evaluation.provenance import about_chart, measured, versions
from lossnav.explorer.stored.place import KIND, Place, key
from lossnav.storage.journal import Row, rows_of
from lossnav.surface.run_record import RunRecord
from lossnav.surface.run_store import Store

if TYPE_CHECKING:
    import xarray as xr

    from lossnav.charts import Chart
    from lossnav.objective.objective import Objective
    from lossnav.storage.samples import SampleLosses

Array = NDArray[np.float64]


class LivePlace:
    """One place of a live session.

    Parameters
    ----------
    objective : Objective
        Centred at the chart's centre.
    chart : Chart
    base : ndarray of shape (k, 2)
        The ends of each axis at first; a store that is resumed has its own.
    probes : ndarray of shape (m, k)
        Points at which a faster path must agree with the plain one.
    store : Store
    engine : Local
    about : mapping
        ``number``, ``words``, ``center`` and ``axes_info`` of the place.
    beneath : xarray.Dataset, optional
        A surface of the same objective on the same chart, whose points are reused.
    center : mapping
        Values at the centre by the plain path, if they are measured already.

    Attributes
    ----------
    place : Place
        The measured points, for all threads to read.

    Raises
    ------
    PlanMismatchError
        If the store contains another run.
    StoreError
        If it cannot be written.
    """

    def __init__(
        self,
        objective: Objective,
        chart: Chart,
        base: ArrayLike,
        probes: Array,
        store: Store,
        engine: Local,
        about: dict[str, Any],
        beneath: xr.Dataset | None = None,
        center: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        objective, chart = meet(objective, chart)
        self.objective, self.chart, self.store, self.engine = objective, chart, store, engine
        self.about, self.probes = jsonable.jsonable(about), probes
        self.base = np.asarray(base, np.float64)
        earlier = store.earlier
        if earlier is not None and "sampler" in earlier.attrs and "axes" in earlier.attrs["sampler"]:
            self.base = np.array([earlier.attrs["sampler"]["axes"][dim][:2] for dim in chart.dims], np.float64)
        self.plain = ChartFunction(objective, chart)
        self.function: Any = self.plain
        self.center: dict[str, float] = {}
        self.center_samples: SampleLosses | None = None  # of the samples one by one, once they were asked for
        self._waiting: list[Row] = []  # written, but perhaps not on disk yet
        self._beside: threading.Thread | None = None
        self._settled = engine.plan == "plain"
        self.record = RunRecord(chart.dims, self._provenance(), store=store)
        self.record.take_known(self.record.known.points)
        said = earlier if earlier is not None else beneath
        if said is not None:
            self.center = {name: float(value) for name, value in said.attrs.get("center", {}).items()}
        if not self.center:
            origin = np.zeros(len(chart.dims))
            row = self.record.add_known(origin, dict(center)) if center else self._compute(origin[None])[0]
            self.center = dict(row.values)
        self.record.begin()
        shown = self.record.dataset() if beneath is None else beneath
        self.place = Place(about["number"], shown, about["words"], about["center"], True)
        self.place.axes_info = about["axes_info"]
        self.place.made_of = self.record.attributes()
        for row in rows_of(self.record.rows):
            self.place.add(row)

    def _provenance(self) -> dict[str, Any]:
        """Return the attributes that say how the points are measured (docs/schema.md)."""
        axes = {dim: ends.tolist() for dim, ends in zip(self.chart.dims, self.base, strict=True)}
        return {
            **measured(self.objective, self.chart),
            **about_chart(self.objective, self.chart),
            "sampler": {"kind": KIND, "axes": axes},
            "engine": self.engine.describe,
            "center": lambda: self.center,
            "explorer": {name: self.about[name] for name in ("words", "center", "axes_info")},
            **versions(self.engine),
        }

    # ------------------------------------------------------------------ measuring

    def find(self, point: ArrayLike) -> Row | None:
        """Return the row of a point; None if it was not measured."""
        found = self.place.get(point)
        mine = key(point)
        return found or next((row for row in self._waiting if key(row.point) == mine), None)

    def measure(self, points: ArrayLike) -> list[Row]:
        """Evaluate the points of shape (m, k) that were not measured, write them, and return the rows of all points."""
        places = np.asarray(points, np.float64)
        rows = [self.find(place) for place in places]
        new = np.array([i for i, row in enumerate(rows) if row is None], dtype=int)
        if len(new):
            for i, row in zip(new, self._compute(places[new]), strict=True):
                self._waiting.append(row)
                rows[i] = row
        return [row for row in rows if row is not None]

    def flush(self) -> None:
        """Bring the measured rows to disk; then add them to the place."""
        if self._waiting:
            self.record.flush()
            for row in self._waiting:
                self.place.add(row)
            self._waiting.clear()

    @property
    def at_once(self) -> int:
        """Number of points that are evaluated together."""
        return max(1, getattr(self.function, "points_at_once", 1))

    def _compute(self, points: Array) -> list[Row]:
        with self.record.timing():
            outcomes = list(self.engine.run(self.function, points))
        return [
            self.record.add(
                points[outcome.number], dict(outcome.values), outcome.error
            )  # values without skewness and samples
            for outcome in outcomes
        ]

    # ------------------------------------------------------------------ faster paths

    def speed_up(self) -> None:
        """Look for a faster path, once; this takes about as long as ten points."""
        if self._settled or (self._beside is not None and self._beside.is_alive()):
            return
        try:
            with compiling_later() as kernels, random_state.preserved(device=self.objective.device):
                self.function = self.engine.prepare(self.plain, self.probes, None)
        except LossnavWarning:  # if warnings are errors
            self.function, kernels = self.plain, []
        self._settled = not kernels or self._beside is not None
        if not self._settled:
            self._beside = threading.Thread(target=_compile_all, args=(kernels,), name="lossnav compile", daemon=True)
            self._beside.start()

    def close(self) -> None:
        """Write the measured rows to the arrays of the store."""
        self.flush()
        if self.record.changed:
            self.record.fold()
        if self._beside is not None:  # last: writing does not wait for the compiler
            self._beside.join()


def _compile_all(kernels: Sequence[Kernel]) -> None:
    for kernel in kernels:
        with suppress(NotReadableError):  # the plan without the kernel remains
            kernel.function  # noqa: B018
