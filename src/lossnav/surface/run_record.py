"""The record of a run: its points, provenance and time, which are a surface at every moment. No torch."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossnav._utils.jsonable import jsonable
from lossnav._utils.signals import signal_of
from lossnav._version import __version__
from lossnav.errors import (
    EvaluationError,
    Interrupted,
    OptionError,
    PointsFailedWarning,
    StoreError,
)
from lossnav.storage import samples as kept
from lossnav.storage.journal import Gathered, Row, Rows, joined, rows_of
from lossnav.surface import assemble, run_identity, seeds, variables
from lossnav.surface.kept_samples import KeptSamples
from lossnav.surface.known_points import KnownPoints, require_same, require_samples_there
from lossnav.surface.run_store import Store

if TYPE_CHECKING:
    import xarray as xr

_PARTS = ("objective", "chart", "sampler", "engine", "torch_version")  # of a provenance
_MAKE_IT = "Make it with lossnav.evaluation.provenance.provenance(objective, chart, sampler, engine)."


class RunRecord:
    """The rows of a run with status, errors, time and provenance.

    `evaluate`, the explorer and `evaluate_trajectory` use it, and any other loop can::

        made = provenance(objective, chart, {"kind": "MySearch"}, ln.Local(plan="plain"))
        with Store("run.zarr") as store, RunRecord(chart.dims, made, store=store) as record:
            known, _ = record.take_known(points)
            for point in points[~known]:
                with record.timing():
                    values = objective.evaluate(chart(point))
                record.add(point, values)
        surface = record.surface

    Every point is in the store within about a second, whatever happens to the process; the same program resumes the
    run. At the end of the ``with`` statement the surface is made and the journal is written into the arrays of the
    store. Ctrl-C does the same and raises an `Interrupted` with the surface in ``partial``; after any other error the
    points stay in the journal.

    Parameters
    ----------
    dims : sequence of str
        Names of the k coordinates.
    provenance : mapping of str to value
        Attributes of the surface (docs/schema.md): ``objective``, ``chart``, ``sampler``, ``engine``,
        ``torch_version`` and others. `lossnav.evaluation.provenance` makes it. A value that is a function is called
        whenever attributes are made, for what changes during the run.
    axes : mapping of str to ndarray, optional
        The axes of a grid: increasing coordinates for each of `dims`. Without, points may lie anywhere.
    store : Store, optional
        Where the run is written. The points that it contains are known, except failed ones.
    resume : xarray.Dataset, optional
        A surface of the same objective on the same chart, whose points are known too.
    keep_samples : bool
        Whether to store the losses of single samples (``samples`` of the added values).
    clock : callable
        Returns seconds.

    Attributes
    ----------
    errors : list of str
        Errors of points in this session, in order.
    seconds : float
        Time within `timing`, of this session and those it resumes.
    finished : bool
        Whether all points are measured.
    changed : bool
        Whether there are points that are not in the arrays of a store.
    surface : xarray.Dataset
        The result of `end`.

    Raises
    ------
    OptionError
        If the provenance is incomplete, or the surface to resume is of another run or lacks required samples.
    PlanMismatchError
        If the store contains another run; the message lists the differences.

    Examples
    --------
    >>> made = {"objective": {"device": "cpu"}, "chart": {"dims": ["alpha"]}, "sampler": {"kind": "Mine"}}
    >>> made |= {"engine": {"precision": "native"}, "torch_version": "2.10.0"}
    >>> with RunRecord(["alpha"], made, axes={"alpha": np.array([0.0, 0.5, 1.0])}) as record:
    ...     row = record.add([0.5], {"loss": 2.0})
    >>> record.surface["loss"].values, record.surface["status"].values.tolist()
    (array([nan,  2., nan]), [0, 1, 0])
    """

    what = "points"  # in messages
    hint = "Call objective.evaluate(chart(coords)) at that point to see the traceback."
    surface: xr.Dataset

    def __init__(
        self,
        dims: Sequence[str],
        provenance: Mapping[str, Any],
        *,
        axes: Mapping[str, NDArray[np.float64]] | None = None,
        store: Store | None = None,
        resume: xr.Dataset | None = None,
        keep_samples: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.dims, self.axes, self.store = tuple(dims), axes, store
        if store is not None and not isinstance(store, Store):
            raise OptionError(f"store must be an open Store, got {store!r}. Write: with Store(path) as store.")
        assemble.require_axes(self.dims, axes)
        self._provenance = {key: v if callable(v) else jsonable(v) for key, v in provenance.items()}
        self._clock = clock
        self._gathered = Gathered(len(self.dims))
        self.errors: list[str] = []
        self.seconds, self._computed = 0.0, 0  # of this session and those it resumes
        self.finished = self.changed = self._begun = False
        self._early: list[tuple[Row, kept.SampleLosses | None]] = []  # added before the store was made
        self._known = KnownPoints(len(self.dims))
        self._before: dict[str, Any] = {}  # attributes of the earlier run, until new points are computed
        self._created: dict[str, str] = {}
        require_samples_there(keep_samples, store, resume)
        keep = keep_samples or (store is not None and store.has_samples)
        self._samples = KeptSamples(resume) if keep else None
        attributes = self.attributes()
        if resume is not None:
            require_same(resume, attributes)
            self._go_on(resume)
        if store is not None:
            store.require_same_plan(attributes)
            if store.earlier is not None:
                self._go_on(store.earlier, stored=True)
                said = store.earlier.attrs
                self._created = {key: said[key] for key in ("created",) if key in said}
                self._before = {key: said[key] for key in ("engine", "seconds", "points_per_second") if key in said}

    def _go_on(self, earlier: xr.Dataset, stored: bool = False) -> None:
        self._computed = self._known.learn(earlier, stored)
        self.seconds = float(earlier.attrs.get("seconds", 0.0))

    def __len__(self) -> int:
        """Number of points."""
        return len(self._gathered)

    @property
    def known(self) -> Rows:
        """Points of earlier runs, which `take_known` adds to this run."""
        return self._known.rows

    # ------------------------------------------------------------------ rows in

    def begin(self) -> None:
        """Make the store, if there is one; from now on every added point is written to it."""
        if self.store is None:
            return
        self.store.begin(self._assembled(joined([], len(self.dims))), self._samples is not None)
        self._begun = True
        for row, samples in self._early:
            self.store.append(row, samples)
        if self._early:
            self.store.flush()
        self._early.clear()

    def take_known(self, points: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Add those of the points that earlier runs measured.

        Parameters
        ----------
        points : array of shape (m, k)

        Returns
        -------
        known : ndarray of bool, shape (m,)
            Which of the points are known.
        losses : ndarray of shape (m,)
            Their losses; nan elsewhere.
        """
        asked = np.asarray(points, np.float64).reshape(-1, len(self.dims))
        numbers = self._known.find(asked)
        known, losses = numbers >= 0, np.full(len(asked), math.nan)
        if not known.any():
            return known, losses
        asked, rows = asked[known], self.known.take(numbers[known])
        stored = self._known.stored[numbers[known]] if self.store is not None else np.zeros(len(asked), bool)
        if self.store is None and self._samples is None:
            stored[:] = True  # only their values are added
        self._gathered.extend(Rows(asked[stored], *rows.take(stored)[1:]))
        for point, row in zip(asked[~stored], rows_of(rows.take(~stored)), strict=True):
            self._keep(point, row.values)
        losses[known] = rows.values["loss"]
        return known, losses

    def add(self, point: ArrayLike, values: Mapping[str, float], error: str | Exception | None = None) -> Row:
        """Add a measured point.

        Parameters
        ----------
        point : array of shape (k,)
        values : mapping of str to float
            The ``loss`` and metrics; empty if an error was raised.
        error : str or Exception, optional
            The error: the point gets status 3, and is evaluated again when the run is resumed.

        Returns
        -------
        Row
            The point with its status and values as they are stored.

        Raises
        ------
        OptionError
            If the point is not on the axes, or the values lack the loss or are not numbers.
        StoreError
            If the store cannot be written; the surface so far is in ``surface`` of the error.
        """
        if self._before:
            self.computing()
        row = self._keep(np.asarray(point, np.float64), values, error)
        self._computed += 1
        return row

    def add_known(self, point: ArrayLike, values: Mapping[str, float]) -> Row:
        """Add a point that was measured elsewhere; it does not count in the points per second."""
        return self._keep(np.asarray(point, np.float64), values)

    def _keep(
        self, point: NDArray[np.float64], values: Mapping[str, float], error: str | Exception | None = None
    ) -> Row:
        """Write a point that is not in the store yet."""
        if isinstance(error, Exception):
            error = f"{type(error).__name__}: {error}"
        assemble.require_place(point, self.dims, self.axes)
        numbers = {} if error is not None else variables.stored_values(values, self.dims)
        row = Row(tuple((point + 0.0).tolist()), variables.status_of(numbers, error), numbers)
        samples = None if self._samples is None else self._samples.of(point, values, error is not None)
        self._gathered.append(point, row.status, numbers)
        self.changed = True
        if error is not None:
            self.errors.append(f"{self.place_words(row.point)}: {error}")
        if self.store is not None and self._begun:
            with self._telling():
                self.store.append(row, samples)
        elif self.store is not None:
            self._early.append((row, samples))
        elif self._samples is not None and samples is not None:
            self._samples.keep(point, samples)
        return row

    def place_words(self, point: Sequence[float]) -> str:
        """Return the name of a point in messages."""
        return f"({', '.join(f'{x:g}' for x in point)})"

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Add the time of a ``with`` statement to that of the run."""
        started = self._clock()
        try:
            yield
        finally:
            self.seconds += self._clock() - started

    def computing(self) -> None:
        """Record the engine before the first new point, so that it is stored even after a kill.

        Until then engine and seconds are those of the earlier run. `add` calls this if nothing else has.
        """
        self._before = {}
        if self.store is not None and self._begun:
            self.store.describe({"engine": self._now()["engine"]})

    def flush(self) -> None:
        """Bring all added points to disk."""
        if self.store is not None and self._begun:
            with self._telling():
                self.store.flush()

    # ------------------------------------------------------------------ a surface out

    @property
    def rows(self) -> Rows:
        """All points, in the order of arrival."""
        return self._gathered.rows

    def _now(self) -> dict[str, Any]:
        """Return the current provenance as JSON values."""
        return {key: jsonable(value()) if callable(value) else value for key, value in self._provenance.items()}

    def attributes(self, interrupted: bool = False) -> dict[str, Any]:
        """Return the attributes of the surface as JSON values, with the hash of its plan.

        Raises
        ------
        OptionError
            If the provenance is incomplete.
        """
        made = self._now()
        made.setdefault("lossnav_version", __version__)
        if lacking := [part for part in _PARTS if part not in made]:
            raise OptionError(f"The provenance of the run lacks {', '.join(lacking)}. {_MAKE_IT}")
        if list(made["chart"].get("dims", ())) != list(self.dims):
            raise OptionError(
                f"The record has the coordinates {', '.join(self.dims)}, but the chart of its provenance has "
                f"{', '.join(made['chart'].get('dims', ()))}. Pass chart.dims and chart.describe() of one chart."
            )
        if self._samples is not None:
            made["keep_samples"] = True  # a resumed run keeps storing them
        made |= {
            "interrupted": interrupted,
            "finished": self.finished,
            "failures": self.errors[: seeds.FAILURES_KEPT],
            "seconds": round(self.seconds, 3),
            "points_per_second": jsonable(self._computed / self.seconds if self.seconds > 0 else math.nan),
        }
        made |= self._before
        try:
            return made | {"plan_hash": run_identity.plan_hash(made)}
        except KeyError as error:
            raise OptionError(f"The provenance of the run lacks the entry {error}. {_MAKE_IT}") from error

    def dataset(self, interrupted: bool = False) -> xr.Dataset:
        """Return the points so far as a surface."""
        return self._assembled(self.rows, interrupted)

    def _assembled(self, rows: Rows, interrupted: bool = False) -> xr.Dataset:
        made = assemble.assemble_table(self.dims, self.axes, rows, self.attributes(interrupted))
        made.attrs |= self._created
        self._created = {"created": made.attrs["created"]}
        return made

    def fold(self, interrupted: bool = False) -> xr.Dataset:
        """Make the surface, write it to the store, and release the store.

        Raises
        ------
        StoreError
            If the store cannot be written.
        """
        if self.store is not None and self._samples is not None and self.axes is None:
            self._order_as_stored(self.store)
        made = self.dataset(interrupted)
        if self.store is not None:
            with self._telling():
                made = self.store.finish(made)
        elif self._samples is not None:
            made = self._samples.put_into(made)
        self.changed = False
        return made

    def end(self, interrupted: bool = False) -> xr.Dataset:
        """Do the same at the end of a run, which is finished unless it was interrupted.

        Raises
        ------
        EvaluationError
            If every point raised an error.
        StoreError
            If the store cannot be written.
        """
        self.finished = self.finished or not interrupted
        self.require_a_value()
        self.surface = self.fold(interrupted)
        return self.surface

    def _order_as_stored(self, store: Store) -> None:
        """Return the points in the order of their samples in the store, with those that only an earlier run requested.

        Writing all samples again in another order could take as long as the run.
        """
        tables = [] if store.earlier is None else [assemble.table_of(store.earlier)]
        rows = joined([*tables, self.rows], len(self.dims))
        numbers = {tuple(point): i for i, point in enumerate(rows.points.tolist())}
        order = rows.take(np.array([numbers[point] for point in store.places], np.intp))
        self._gathered = Gathered(len(self.dims))
        self._gathered.extend(order)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Attach the surface so far to an error of the store."""
        try:
            yield
        except StoreError as error:
            error.surface = self.dataset(interrupted=True)
            raise

    # ------------------------------------------------------------------ what went wrong

    def require_a_value(self) -> None:
        """Raise EvaluationError if every point raised an error."""
        if self.errors and len(self.errors) == len(self):
            raise EvaluationError(
                f"All {len(self.errors)} {self.what} raised an error, the first at {self.errors[0]}. {self.hint}"
            )

    def warn(self, stacklevel: int = 3) -> None:
        """Warn about failed points, at the caller of the caller."""
        if self.errors:
            warnings.warn(
                f"{len(self.errors):,} of {len(self):,} {self.what} raised an error and have status 3 (failed), the "
                f"first at {self.errors[0]}. The others are evaluated.",
                PointsFailedWarning,
                stacklevel=stacklevel,
            )

    def stopped(
        self, partial: xr.Dataset, signal: int = 2, total: str = "", place: str = "", command: str = ""
    ) -> Interrupted:
        """Return the exception of a run that a signal stopped.

        It has the surface so far in `partial`. Its message says how many points of `total` (a text) there are, where
        they are stored (by default in the store), and by which other `command` to resume.
        """
        place = place or ("" if self.store is None else str(self.store))
        where = "It is in the .partial of this exception."
        if place:
            where = f"It is stored in {place}. To resume, repeat the same call{command or '.'}"
        of = f" of {total}" if total else ""
        return Interrupted(f"Stopped after {len(self):,}{of} {self.what}. {where}", partial, signal)

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.end()
            self.warn()
        elif isinstance(error, KeyboardInterrupt):
            raise self.stopped(self.end(interrupted=True), signal_of(error)) from error
        else:
            with suppress(StoreError):  # the first error is the one to show
                self.flush()
