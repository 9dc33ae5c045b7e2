"""The record of a run: what was measured, how and in how long; a surface at every moment, kept in a store. No torch."""

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
    """The rows of a run, their statuses and errors, the seconds they took and how they were made.

    `evaluate`, the places of the explorer and evaluated trajectories keep their books here, and so can any other loop::

        made = provenance(objective, chart, {"kind": "MySearch"}, ln.Local(plan="plain"))
        with Store("run.zarr") as store, RunRecord(chart.dims, made, store=store) as record:
            known, _ = record.take_known(points)
            for point in points[~known]:
                with record.timing():
                    values = objective.evaluate(chart(point))
                record.add(point, values)
        surface = record.surface

    Every point is in the store within about a second, whatever happens to the process; the same program goes on from
    there. At the end of the ``with`` statement the surface is made and the journal folded into the store. Ctrl-C within
    it does the same, and becomes an `Interrupted` with the surface in its ``partial``; after any other error the points
    stay in the journal.

    Parameters
    ----------
    dims : sequence of str
        Names of the k coordinates.
    provenance : mapping of str to value
        How the points are measured, as the surface is to say it (docs/schema.md): ``objective``, ``chart``,
        ``sampler``, ``engine``, ``torch_version``, and what else there is. `lossnav.evaluation.provenance` makes it.
        A value that is a function is called whenever attributes are made: for what changes while the run goes on.
    axes : mapping of str to ndarray, optional
        Of a grid: the increasing coordinates along each of `dims`. Without, points lie anywhere.
    store : Store, optional
        Where the run is kept. Points that an earlier run measured there are known, but for those that failed.
    resume : xarray.Dataset, optional
        A surface of the same objective on the same chart: its points are known too.
    keep_samples : bool
        Whether the losses of single samples are kept (the ``samples`` of the values that are added).
    clock : callable
        Returns seconds.

    Attributes
    ----------
    errors : list of str
        Of the points that raised in this session, in the order in which they came.
    seconds : float
        Spent in `timing`, by this session and those it goes on from.
    finished : bool
        Whether nothing is left to measure.
    changed : bool
        Whether there are points that no store's arrays have.
    surface : xarray.Dataset
        What `end` returned.

    Raises
    ------
    OptionError
        If the provenance lacks a part; if the surface to resume is another one's, or was computed without samples where
        they are to be kept.
    PlanMismatchError
        If the store holds another run; it says in what they differ.

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
    hint = "Call objective.evaluate(chart(coords)) at that point to see where it comes from."
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
            raise OptionError(f"A record is kept in an open Store, got {store!r}. Write: with Store(path) as store.")
        assemble.require_axes(self.dims, axes)
        self._provenance = {key: v if callable(v) else jsonable(v) for key, v in provenance.items()}
        self._clock = clock
        self._gathered = Gathered(len(self.dims))
        self.errors: list[str] = []
        self.seconds, self._computed = 0.0, 0  # of this session and those it goes on from
        self.finished = self.changed = self._begun = False
        self._early: list[tuple[Row, kept.SampleLosses | None]] = []  # added before the store was begun
        self._known = KnownPoints(len(self.dims))
        self._before: dict[str, Any] = {}  # what the earlier run says of its work, while nothing new was computed
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
        """How many points there are."""
        return len(self._gathered)

    @property
    def known(self) -> Rows:
        """What is known from before; `take_known` takes it over into this run."""
        return self._known.rows

    # ------------------------------------------------------------------ rows in

    def begin(self) -> None:
        """Begin the store, if there is one: from now on every point that is added is written there."""
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
        """Take over what is known from before of some points.

        Parameters
        ----------
        points : array of shape (m, k)

        Returns
        -------
        known : ndarray of bool, shape (m,)
            At which of the points nothing is to be measured.
        losses : ndarray of shape (m,)
            There; nan elsewhere.
        """
        asked = np.asarray(points, np.float64).reshape(-1, len(self.dims))
        numbers = self._known.find(asked)
        known, losses = numbers >= 0, np.full(len(asked), math.nan)
        if not known.any():
            return known, losses
        asked, rows = asked[known], self.known.take(numbers[known])
        stored = self._known.stored[numbers[known]] if self.store is not None else np.zeros(len(asked), bool)
        if self.store is None and self._samples is None:
            stored[:] = True  # nothing is to be kept of them but their values
        self._gathered.extend(Rows(asked[stored], *rows.take(stored)[1:]))
        for point, row in zip(asked[~stored], rows_of(rows.take(~stored)), strict=True):
            self._keep(point, row.values)
        losses[known] = rows.values["loss"]
        return known, losses

    def add(self, point: ArrayLike, values: Mapping[str, float], error: str | Exception | None = None) -> Row:
        """Take what was measured at a point.

        Parameters
        ----------
        point : array of shape (k,)
        values : mapping of str to float
            The ``loss`` and metrics; nothing where an error was raised.
        error : str or Exception, optional
            What was raised there: the point has status 3 then, and is tried again when the run is gone on with.

        Returns
        -------
        Row
            The point with its status and values as they are stored.

        Raises
        ------
        OptionError
            If the point does not lie on the axes, or the values have no loss or are no numbers.
        StoreError
            If the store cannot be written; all that was measured is in its ``surface``.
        """
        if self._before:
            self.computing()
        row = self._keep(np.asarray(point, np.float64), values, error)
        self._computed += 1
        return row

    def add_known(self, point: ArrayLike, values: Mapping[str, float]) -> Row:
        """Take what was measured elsewhere: as `add`, and it counts for nothing in the points per second."""
        return self._keep(np.asarray(point, np.float64), values)

    def _keep(
        self, point: NDArray[np.float64], values: Mapping[str, float], error: str | Exception | None = None
    ) -> Row:
        """Keep a point that is in no store yet."""
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
        """What a point is called in messages."""
        return f"({', '.join(f'{x:g}' for x in point)})"

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Count the seconds of a ``with`` statement among those of the run."""
        started = self._clock()
        try:
            yield
        finally:
            self.seconds += self._clock() - started

    def computing(self) -> None:
        """Say, before the first point that is measured anew, by what engine: who is killed leaves the points with it.

        Until then the surface says of engine and seconds what the earlier run did. `add` does it where nobody did.
        """
        self._before = {}
        if self.store is not None and self._begun:
            self.store.describe({"engine": self._now()["engine"]})

    def flush(self) -> None:
        """Have all that was added on disk."""
        if self.store is not None and self._begun:
            with self._telling():
                self.store.flush()

    # ------------------------------------------------------------------ a surface out

    @property
    def rows(self) -> Rows:
        """All points, in the order in which they came."""
        return self._gathered.rows

    def _now(self) -> dict[str, Any]:
        """The provenance as it is now, as JSON holds it."""
        return {key: jsonable(value()) if callable(value) else value for key, value in self._provenance.items()}

    def attributes(self, interrupted: bool = False) -> dict[str, Any]:
        """How the surface is made, as JSON holds it, with the hash of its plan.

        Raises
        ------
        OptionError
            If the provenance lacks a part.
        """
        made = self._now()
        made.setdefault("lossnav_version", __version__)
        if lacking := [part for part in _PARTS if part not in made]:
            raise OptionError(f"The provenance of the run lacks {', '.join(lacking)}. {_MAKE_IT}")
        if list(made["chart"].get("dims", ())) != list(self.dims):
            raise OptionError(
                f"The record has the coordinates {', '.join(self.dims)} and the chart of its provenance has "
                f"{', '.join(made['chart'].get('dims', ()))}. Pass chart.dims and chart.describe() of one chart."
            )
        if self._samples is not None:
            made["keep_samples"] = True  # a run that is killed before it has one goes on keeping them
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
            raise OptionError(f"The provenance of the run lacks {error} of a part. {_MAKE_IT}") from error

    def dataset(self, interrupted: bool = False) -> xr.Dataset:
        """All there is so far, as a surface."""
        return self._assembled(self.rows, interrupted)

    def _assembled(self, rows: Rows, interrupted: bool = False) -> xr.Dataset:
        made = assemble.assemble_table(self.dims, self.axes, rows, self.attributes(interrupted))
        made.attrs |= self._created
        self._created = {"created": made.attrs["created"]}
        return made

    def fold(self, interrupted: bool = False) -> xr.Dataset:
        """Make the surface, fold it into the store, and let others write there.

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
        """Do the same at the end of a run; what was not interrupted is finished.

        Raises
        ------
        EvaluationError
            If every point raised.
        StoreError
            If the store cannot be written.
        """
        self.finished = self.finished or not interrupted
        self.require_a_value()
        self.surface = self.fold(interrupted)
        return self.surface

    def _order_as_stored(self, store: Store) -> None:
        """Take the points as their samples lie in the store, with those that an earlier run alone asked for.

        Writing all samples again in another order would at worst take as long as the run.
        """
        tables = [] if store.earlier is None else [assemble.table_of(store.earlier)]
        rows = joined([*tables, self.rows], len(self.dims))
        numbers = {tuple(point): i for i, point in enumerate(rows.points.tolist())}
        order = rows.take(np.array([numbers[point] for point in store.places], np.intp))
        self._gathered = Gathered(len(self.dims))
        self._gathered.extend(order)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Where the store cannot be written, what was computed goes with the error."""
        try:
            yield
        except StoreError as error:
            error.surface = self.dataset(interrupted=True)
            raise

    # ------------------------------------------------------------------ what went wrong

    def require_a_value(self) -> None:
        """Raise EvaluationError if every point raised."""
        if self.errors and len(self.errors) == len(self):
            raise EvaluationError(
                f"All {len(self.errors)} {self.what} raised an error, the first at {self.errors[0]}. {self.hint}"
            )

    def warn(self, stacklevel: int = 3) -> None:
        """Warn of points that raised, in the name of who called the caller."""
        if self.errors:
            warnings.warn(
                f"{len(self.errors):,} of {len(self):,} {self.what} raised an error and have status 3 (failed), the "
                f"first at {self.errors[0]}. The others are there.",
                PointsFailedWarning,
                stacklevel=stacklevel,
            )

    def stopped(
        self, partial: xr.Dataset, signal: int = 2, total: str = "", place: str = "", command: str = ""
    ) -> Interrupted:
        """Make the exception of a run that a signal stopped.

        It holds `partial`, what there is, and says of how many points in `total` (in words) there are how many, where
        they are kept (by default in the store), and by what other `command` one goes on.
        """
        place = place or ("" if self.store is None else str(self.store))
        where = "It is in the .partial of this exception."
        if place:
            where = f"It is kept in {place}; the same call goes on from there{command or '.'}"
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
            with suppress(StoreError):  # the error itself is the one to see
                self.flush()
