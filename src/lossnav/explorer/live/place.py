"""A place one stands on: its objective and chart, how values are computed there, and the store that keeps them all.

A value is on disk before anybody sees it: `measure` computes and writes, `flush` brings it to disk, and only then is it
known to the place. The first values come by the plain path; `speed_up` looks for a faster way between two pieces of
work, and has its kernel compiled in a thread beside them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from lossnav._utils import jsonable, random_state
from lossnav._version import __version__
from lossnav.acceleration import ChartFunction
from lossnav.acceleration.kernel import Kernel, compiling_later
from lossnav.acceleration.trace_graph import NotReadableError
from lossnav.charts import meet
from lossnav.engines import Local
from lossnav.errors import LossnavWarning
from lossnav.evaluation.run import about_chart
from lossnav.explorer.stored.session import KIND, Place, key
from lossnav.storage.journal import Row
from lossnav.surface import assemble, run_identity, seeds, variables
from lossnav.surface.run_store import Store

if TYPE_CHECKING:
    import xarray as xr

    from lossnav.charts import Chart
    from lossnav.objective.objective import Objective

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
        self.made_of = {"objective": objective.describe(), "chart": chart.describe()} | about_chart(objective, chart)
        self.center: dict[str, float] = {}
        self.errors: list[str] = []
        self.seconds, self.computed = 0.0, 0
        self.written = False
        self._waiting: list[Row] = []  # written, and not on disk for sure
        self._beside: threading.Thread | None = None
        self._settled = engine.plan == "plain"
        store.require_same_plan(self.attributes())
        known = [] if earlier is None else [row for row in assemble.rows_of(earlier) if row.status != variables.FAILED]
        said = earlier if earlier is not None else beneath
        if said is not None:
            self.center = {name: float(value) for name, value in said.attrs.get("center", {}).items()}
        if earlier is not None:
            self.seconds, self.computed = float(earlier.attrs.get("seconds", 0.0)), len(known)
        origin = np.zeros(len(chart.dims))
        if not self.center:
            values = dict(center)
            row = Row(tuple(origin), variables.status_of(values), values) if values else self._compute(origin[None])[0]
            known, self.center, self.written = [*known, row], dict(row.values), True
        header = assemble.assemble(
            chart.dims, None, *_columns(known, len(chart.dims)), self.attributes() | self._created()
        )
        store.begin(header)
        self.place = Place(
            about["number"], header if beneath is None else beneath, about["words"], about["center"], True
        )
        self.place.axes_info = about["axes_info"]
        self.place.made_of = jsonable.jsonable(self.attributes())
        for row in known:
            self.place.add(row)

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
                self.store.append(row)
                self._waiting.append(row)
                rows[i] = row
            self.written = True
        return [row for row in rows if row is not None]

    def flush(self) -> None:
        """Bring what was measured to disk; then everybody may see it."""
        if self._waiting:
            self.store.flush()
            for row in self._waiting:
                self.place.add(row)
            self._waiting.clear()

    @property
    def at_once(self) -> int:
        """How many points are computed together best."""
        return max(1, getattr(self.function, "points_at_once", 1))

    def _compute(self, points: Array) -> list[Row]:
        rows = []
        started = time.perf_counter()
        for outcome in self.engine.run(self.function, points):
            point = tuple((points[outcome.number] + 0.0).tolist())
            rows.append(Row(point, variables.status_of(outcome.values, outcome.error), outcome.values))
            if outcome.error is not None:
                self.errors.append(f"({', '.join(f'{x:g}' for x in point)}): {outcome.error}")
        self.seconds += time.perf_counter() - started
        self.computed += len(rows)
        return rows

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

    # ------------------------------------------------------------------ what it is

    def attributes(self) -> dict[str, Any]:
        """How the points were measured (docs/schema.md)."""
        axes = {dim: ends.tolist() for dim, ends in zip(self.chart.dims, self.base, strict=True)}
        made: dict[str, Any] = {
            **self.made_of,
            "objective": self.made_of["objective"] | {"samples": self.objective.samples},
            "sampler": {"kind": KIND, "axes": axes},
            "engine": self.engine.describe(),
            "center": self.center,
            "explorer": {name: self.about[name] for name in ("words", "center", "axes_info")},
            "lossnav_version": __version__,
            "torch_version": torch.__version__,
            "torch_threads": self.engine.threads,
            "interrupted": False,
            "finished": False,
            "failures": self.errors[: seeds.FAILURES_KEPT],
            "seconds": round(self.seconds, 3),
            "points_per_second": self.computed / self.seconds if self.seconds > 0 else float("nan"),
        }
        return made | {"plan_hash": run_identity.plan_hash(jsonable.jsonable(made))}

    def surface(self) -> xr.Dataset:
        """All that this session's store knows of the place."""
        rows = self.place.rows()
        if self.place.surface.attrs.get("sampler", {}).get("kind") != KIND:  # what lies beneath has its own store
            theirs = {key(row.point) for row in assemble.rows_of(self.place.surface)}
            rows = [row for row in rows if key(row.point) not in theirs]
        made = assemble.assemble(
            self.chart.dims, None, *_columns(rows, len(self.chart.dims)), self.attributes() | self._created()
        )
        return made

    def close(self) -> None:
        """Fold what was measured into the arrays of the store."""
        self.flush()
        if self.written:
            self.store.finish(self.surface())
            self.written = False
        if self._beside is not None:  # last: what was measured does not wait for a compiler
            self._beside.join()

    def _created(self) -> dict[str, str]:
        earlier = self.store.earlier
        return {} if earlier is None else {"created": earlier.attrs["created"]}


def _columns(rows: Sequence[Row], k: int) -> tuple[Array, list[Any], list[int]]:
    """Points, values and statuses, as `surfaces.assemble` takes them."""
    points = np.array([row.point for row in rows], np.float64).reshape(len(rows), k)
    return points, [row.values for row in rows], [row.status for row in rows]


def _compile_all(kernels: Sequence[Kernel]) -> None:
    for kernel in kernels:
        with suppress(NotReadableError):  # then a plan without it stays
            kernel.function  # noqa: B018
