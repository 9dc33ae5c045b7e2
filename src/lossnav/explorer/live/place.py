"""A place one stands on: its objective and chart, how values are computed there, and the store that keeps them all.

A value is on disk before anybody sees it: `measure` computes and writes, `flush` brings it to disk, and only then is it
known to the place. The first values come by the plain path; `speed_up` looks for a faster way between two pieces of
work, and has its kernel compiled in a thread beside them.
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
from lossnav.explorer.stored.session import KIND, Place, key
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
        What is seen first; a store that is gone on from says its own.
    probes : ndarray of shape (m, k)
        Where a faster way must agree with the plain one.
    store : Store
    engine : Local
    about : mapping
        ``number``, ``words``, ``center`` and ``axes_info`` of the place.
    beneath : xarray.Dataset, optional
        A surface of the same objective on the same chart: its points are known.
    center : mapping
        What was measured at the centre by the plain path, if it was.

    Attributes
    ----------
    place : Place
        What is known, for all to read.

    Raises
    ------
    PlanMismatchError
        If the store holds something else.
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
        self._waiting: list[Row] = []  # written, and not on disk for sure
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
        """How the points are measured (docs/schema.md)."""
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
        """What is known of a point, or was just measured."""
        found = self.place.get(point)
        mine = key(point)
        return found or next((row for row in self._waiting if key(row.point) == mine), None)

    def measure(self, points: ArrayLike) -> list[Row]:
        """Measure points of shape (m, k) that are not known, keep them, and return all; seen after `flush`."""
        places = np.asarray(points, np.float64)
        rows = [self.find(place) for place in places]
        new = np.array([i for i, row in enumerate(rows) if row is None], dtype=int)
        if len(new):
            for i, row in zip(new, self._compute(places[new]), strict=True):
                self._waiting.append(row)
                rows[i] = row
        return [row for row in rows if row is not None]

    def flush(self) -> None:
        """Bring what was measured to disk; then everybody may see it."""
        if self._waiting:
            self.record.flush()
            for row in self._waiting:
                self.place.add(row)
            self._waiting.clear()

    @property
    def at_once(self) -> int:
        """How many points are computed together best."""
        return max(1, getattr(self.function, "points_at_once", 1))

    def _compute(self, points: Array) -> list[Row]:
        with self.record.timing():
            outcomes = list(self.engine.run(self.function, points))
        return [
            self.record.add(points[outcome.number], dict(outcome.values), outcome.error)  # without skewness and samples
            for outcome in outcomes
        ]

    # ------------------------------------------------------------------ going faster

    def speed_up(self) -> None:
        """Look for a faster way, where that has not been done; takes about as long as ten points."""
        if self._settled or (self._beside is not None and self._beside.is_alive()):
            return
        try:
            with compiling_later() as kernels, random_state.preserved(device=self.objective.device):
                self.function = self.engine.prepare(self.plain, self.probes, None)
        except LossnavWarning:  # where warnings are errors
            self.function, kernels = self.plain, []
        self._settled = not kernels or self._beside is not None
        if not self._settled:
            self._beside = threading.Thread(target=_compile_all, args=(kernels,), name="lossnav compile", daemon=True)
            self._beside.start()

    def close(self) -> None:
        """Fold what was measured into the arrays of the store."""
        self.flush()
        if self.record.changed:
            self.record.fold()
        if self._beside is not None:  # last: what was measured does not wait for a compiler
            self._beside.join()


def _compile_all(kernels: Sequence[Kernel]) -> None:
    for kernel in kernels:
        with suppress(NotReadableError):  # then a plan without it stays
            kernel.function  # noqa: B018
