"""Where a run is kept while it goes on: a surface at every moment, whatever happens to the process.

The store is a Zarr group, on a local path or behind an fsspec URL. It begins as a surface in which nothing is
evaluated. Rows go into its journal as they are measured (`lossnav.storage.journal`). At the end, also of a run that is
stopped, the journal is folded into the arrays, `status` last, and removed. What is known is always what the arrays say
together with what the journal says, so a process may be killed anywhere in between. One process writes at a time
(`lossnav.storage.lease`), and what it folds is what lies there, with its own rows among it. No torch.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossnav._utils import jsonable
from lossnav._utils.lazy_import import lazily
from lossnav._utils.paths import LEASE, Location, as_path, is_local, is_there, name_of, require_writable
from lossnav.errors import LossnavError, OutputExistsError, PlanMismatchError, StoreError
from lossnav.storage import arrays, journal
from lossnav.storage.journal import GROUP, Journal, Row, Rows, is_same
from lossnav.storage.keys import DOCUMENT, WRITTEN, group_document, keys_of
from lossnav.storage.lease import Lease
from lossnav.storage.samples import LOSS, VARIABLES, SampleLosses, SampleStore
from lossnav.surface import assemble, run_identity, variables, zarr_io

if TYPE_CHECKING:
    import xarray as xr
    import zarr
else:
    zarr = lazily("zarr")


class Store:
    """A run's place, that can be written to by this process alone; checked before anything is computed.

    `close` it, or use it in a ``with`` statement: until then no other process can write there.

    Parameters
    ----------
    place : path, URL or zarr store
    overwrite : bool
        Whether a surface that is there is replaced. Else it is what the run goes on from.

    Attributes
    ----------
    earlier : xarray.Dataset or None
        The surface that is there, without the losses of single samples.
    has_samples : bool
        Whether those are there, or were asked for and none was written yet.

    Raises
    ------
    OutputExistsError
        If something else than a surface is there.
    OutputNotWritableError
        If it cannot be written.
    StoreBusyError
        If another run is writing there.
    """

    def __init__(self, place: Location, overwrite: bool = False) -> None:
        self.place = place = as_path(place)
        there = is_there(place)
        if is_local(place):
            self.place = require_writable(place, overwrite=True, kind="surface")
        self._begun, self._ready = there, False
        with self._telling():
            self._lease = Lease(self.place, _last_writer(self.place) if there else 0)
        try:
            self._look(is_there(place), overwrite)
        except BaseException:
            self.close()
            raise

    def _look(self, there: bool, overwrite: bool) -> None:
        """See what the run goes on from."""
        place = self.place
        self.earlier: xr.Dataset | None = None
        if there and not overwrite:
            try:
                self.earlier = zarr_io.open_surface(place)
            except StoreError as error:
                raise OutputExistsError(
                    f"{name_of(place)} exists and cannot be gone on from: {error} "
                    "Choose another name, or pass overwrite=True (--overwrite)."
                ) from error
        self.has_samples = self.earlier is not None and (
            LOSS in self.earlier
            or (
                bool(self.earlier.attrs.get("keep_samples"))
                and not bool((self.earlier["status"] == variables.OK).any())
            )
        )
        self.earlier = None if self.earlier is None else assemble.without_samples(self.earlier)
        self._samples: SampleStore | None = None
        self._axes: list[NDArray[np.float64]] | None = None
        self.places: dict[tuple[float, ...], tuple[int, ...]] = {}
        self._root: zarr.Group
        self._journal: Journal

    def __str__(self) -> str:
        return name_of(self.place)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others write there; where nothing was written nothing is left."""
        self._lease.release(forget=not self._begun)
        if not self._begun and is_local(self.place):
            with suppress(OSError):
                Path(self.place).rmdir()

    def require_same_plan(self, attributes: Mapping[str, Any]) -> None:
        """Refuse to go on from a surface of something else.

        Raises
        ------
        PlanMismatchError
            That says in what it differs, item by item.
        """
        if self.earlier is None:
            return
        if made_by := run_identity.put_together(self.earlier.attrs):
            raise PlanMismatchError(
                f"{self} is no measurement of one run: it has {made_by} in its attributes. {_ANOTHER}"
            )
        if different := run_identity.differences(self.earlier.attrs, jsonable.jsonable(attributes)):
            raise PlanMismatchError(f"{self} holds another run:\n  " + "\n  ".join(different) + f"\n{_ANOTHER}")

    def begin(self, header: xr.Dataset, keep_samples: bool = False) -> None:
        """Make the store, with a surface in which nothing is evaluated; what is gone on from stays as it is."""
        with self._telling(), self._lease.writing():
            if self.earlier is None:
                self._clear(header.attrs)
            self._root = zarr.open_group(self.place, mode="r+")
            if "status" not in self._root:
                self._write(header, begun=True)
            if keep_samples:
                dims = [str(dim) for dim in header["loss"].dims]
                if "point" not in dims:
                    self._axes = [header[dim].values for dim in dims]
                self._samples = SampleStore(self._root, dims, None if self._axes is None else header["loss"].shape)
                for row in [] if self.earlier is None else assemble.rows_of(self.earlier):
                    self._samples.add(self._place(row.point), None)
            before = None if self._samples is None else self._samples.flush
            self._journal = Journal(self._root, self._lease.number, before, self._lease.writing)
            self._ready = True

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Say of the run what is known only now."""
        with self._telling(), self._lease.writing():
            arrays.seal(self._root, {**self._root.attrs, **attributes})

    def _clear(self, attributes: Mapping[str, Any]) -> None:
        """Remove what is there, but for the lease, and put a group there with such attributes."""
        keys, document = keys_of(self.place, writing=True), group_document(attributes)
        self._begun = True
        for name in sorted(keys.names(""), key=lambda name: name == DOCUMENT):  # till the last it is a surface of ours
            if name not in (LEASE, DOCUMENT):
                keys.remove(name)
        keys.write(DOCUMENT, document)

    def append(self, row: Row, samples: SampleLosses | None = None) -> None:
        """Keep a point that was measured."""
        with self._telling():
            if self._samples is not None:
                self._samples.add(self._place(row.point), samples)
            self._journal.append(row)
            if self._samples is not None and self._samples.full:
                self._journal.flush()

    def _place(self, point: tuple[float, ...]) -> tuple[int, ...]:
        """Where a point lies in the arrays of samples: in the grid, or in the order in which points came."""
        if point not in self.places:
            if self._axes is None:
                self.places[point] = (len(self.places),)
            else:
                found = zip(self._axes, point, strict=True)
                self.places[point] = tuple(int(np.searchsorted(axis, x)) for axis, x in found)
        return self.places[point]

    def flush(self) -> None:
        """Have all that was kept on disk, however little it is."""
        with self._telling():
            self._journal.flush()

    def finish(self, surface: xr.Dataset) -> xr.Dataset:
        """Fold the journal into the arrays, remove it, and let others write there.

        Returns
        -------
        xarray.Dataset
            What is there now: the surface with whatever else was measured in this store, and the samples kept there.
        """
        if not self._ready:  # stopped while it was begun: nothing was appended, and what was there is there
            self.close()
            return surface if self.earlier is None else self.earlier
        with self._telling(), self._lease.writing():
            self._journal.flush()
            k = len(surface.attrs["chart"]["dims"])
            damaged: list[str] = []
            there = _rows_in(self._root, damaged)
            known = journal.known(self._root, there, k, damaged=damaged)
            surface = assemble.with_rows(surface, known)
            now = assemble.table_of(surface)
            anew = bool(damaged) or (there is not None and self._replaces(surface))
            if there is not None and not anew and len(known) == 1 and is_same(there, now) and self._samples is None:
                self._seal(surface)  # nothing is new but what is said of the run
            else:
                if anew or (there is not None and not np.array_equal(there.points, now.points)):
                    self._journal.supersede(now)  # arrays are replaced, and not only their chunks
                if self._samples is not None:
                    self._samples.finish(surface["loss"].shape[0])
                self._write(surface, anew)
            keys_of(self.place, writing=True).remove(GROUP)  # also what is left of one whose removal was cut short
            if self._samples is not None:
                surface = assemble.attach_samples(surface, self.place)
                for name in set(VARIABLES) & set(surface.data_vars):
                    arrays.seal(self._root[name], jsonable.jsonable(surface[name].attrs))
        self.close()
        return surface

    def _replaces(self, surface: xr.Dataset) -> bool:
        """Whether an array that is there is of another shape, or of an older lossnav."""
        pairs = (
            (self._root.get(str(name)), surface[name].values) for name in surface.variables if name not in VARIABLES
        )
        return any(isinstance(array, zarr.Array) and not arrays.is_like(array, values) for array, values in pairs)

    def _write(self, surface: xr.Dataset, anew: bool = False, begun: bool = False) -> None:
        """Write coordinates, values, status and at last the attributes."""
        names = [*surface.coords, *(name for name in surface.data_vars if name not in ("status", *VARIABLES)), "status"]
        beside = {} if surface.indexes else {"coordinates": " ".join(map(str, surface.coords))}  # as xarray has it
        for name in names:
            variable = surface[name]
            attributes = jsonable.jsonable(variable.attrs) | (beside if name in surface.data_vars else {})
            dims = list(map(str, variable.dims))
            arrays.write(self._root, str(name), np.asarray(variable.values), dims, attributes, anew)
        self._seal(surface, begun)

    def _seal(self, surface: xr.Dataset, begun: bool = False) -> None:
        """Write the attributes, which at the end say what arrays were written."""
        names = sorted(str(name) for name in surface.variables if name not in VARIABLES)
        arrays.seal(self._root, {**surface.attrs, **({} if begun else {WRITTEN: names})})

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn whatever a disk or a cloud raises into an error of ours."""
        try:
            yield
        except LossnavError:
            raise
        except Exception as error:
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "Make room" if full else "See that it can be written"
            raise StoreError(
                f"{self} could not be written: {reason}. What was written before is sound. {what} and make the same "
                "call again, which goes on from there; all that was computed is in the .surface of this error."
            ) from error


def _rows_in(root: zarr.Group, damaged: list[str]) -> Rows | None:
    """What the arrays of a store hold; None where they hold nothing, or were being replaced."""
    try:
        arrays = zarr_io.arrays_of(root, damaged=damaged)
    except StoreError as error:  # of several lengths, or one of them gone
        damaged.append(str(error))
        return None
    return None if arrays is None or not bool(arrays["status"].any()) else assemble.table_of(arrays)


def _last_writer(place: Location) -> int:
    """The highest number of a writer in the journal that is there."""
    try:
        return journal.last_writer(zarr.open_group(place, mode="r"))
    except Exception:  # no group of ours, which is said elsewhere
        return 0


_ANOTHER = "Choose another store, or pass overwrite=True (--overwrite)."
