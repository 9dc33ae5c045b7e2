"""The store of a run: a valid surface at every moment, whatever happens to the process.

The store is a Zarr group, on a local path or behind an fsspec URL. It starts as a surface without evaluated points.
Rows are appended to its journal as they are measured (`lossnav.storage.journal`). At the end, also of a stopped run,
the journal is written into the arrays, `status` last, and removed. The content of a store is always that of its arrays
and its journal together, so the process may be killed at any moment. One process writes at a time
(`lossnav.storage.lease`). No torch.
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
    """The store of a run, locked for this process; checked for write access before anything is computed.

    `close` it, or use it in a ``with`` statement: until then no other process can write to it.

    Parameters
    ----------
    place : path, URL or zarr store
    overwrite : bool
        Whether to replace an existing surface; otherwise the run resumes it.

    Attributes
    ----------
    earlier : xarray.Dataset or None
        The existing surface, without the losses of single samples.
    has_samples : bool
        Whether it has those losses, or will have them once points are written.

    Raises
    ------
    OutputExistsError
        If the path is something else than a surface.
    OutputNotWritableError
        If it cannot be written.
    StoreBusyError
        If another run is writing to it.
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
        """Read the existing surface."""
        place = self.place
        self.earlier: xr.Dataset | None = None
        if there and not overwrite:
            try:
                self.earlier = zarr_io.open_surface(place)
            except StoreError as error:
                raise OutputExistsError(
                    f"{name_of(place)} exists and cannot be resumed: {error} "
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
        """Release the store; if nothing was written, remove it."""
        self._lease.release(forget=not self._begun)
        if not self._begun and is_local(self.place):
            with suppress(OSError):
                Path(self.place).rmdir()

    def require_same_plan(self, attributes: Mapping[str, Any]) -> None:
        """Raise if the existing surface is of another run.

        Raises
        ------
        PlanMismatchError
            The message lists the differences.
        """
        if self.earlier is None:
            return
        if made_by := run_identity.put_together(self.earlier.attrs):
            raise PlanMismatchError(
                f"{self} is not the measurement of one run: its attributes contain {made_by}. {_ANOTHER}"
            )
        if different := run_identity.differences(self.earlier.attrs, jsonable.jsonable(attributes)):
            raise PlanMismatchError(f"{self} contains another run:\n  " + "\n  ".join(different) + f"\n{_ANOTHER}")

    def begin(self, header: xr.Dataset, keep_samples: bool = False) -> None:
        """Make the store, a surface without evaluated points; an existing surface is kept as it is."""
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
        """Update the attributes of the run."""
        with self._telling(), self._lease.writing():
            arrays.seal(self._root, {**self._root.attrs, **attributes})

    def _clear(self, attributes: Mapping[str, Any]) -> None:
        """Replace the content, except the lease, by a group with these attributes."""
        keys, document = keys_of(self.place, writing=True), group_document(attributes)
        self._begun = True
        for name in sorted(keys.names(""), key=lambda name: name == DOCUMENT):  # last the document
            if name not in (LEASE, DOCUMENT):
                keys.remove(name)
        keys.write(DOCUMENT, document)

    def append(self, row: Row, samples: SampleLosses | None = None) -> None:
        """Append a measured point."""
        with self._telling():
            if self._samples is not None:
                self._samples.add(self._place(row.point), samples)
            self._journal.append(row)
            if self._samples is not None and self._samples.full:
                self._journal.flush()

    def _place(self, point: tuple[float, ...]) -> tuple[int, ...]:
        """Return the index of a point in the arrays of samples: in the grid, or in the order of arrival."""
        if point not in self.places:
            if self._axes is None:
                self.places[point] = (len(self.places),)
            else:
                found = zip(self._axes, point, strict=True)
                self.places[point] = tuple(int(np.searchsorted(axis, x)) for axis, x in found)
        return self.places[point]

    def flush(self) -> None:
        """Bring all appended points to disk."""
        with self._telling():
            self._journal.flush()

    def finish(self, surface: xr.Dataset) -> xr.Dataset:
        """Write the journal into the arrays, remove it, and release the store.

        Returns
        -------
        xarray.Dataset
            The surface now in the store, with the points of earlier runs and the stored samples.
        """
        if not self._ready:  # stopped while starting: nothing was appended, and the store is unchanged
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
                self._seal(surface)  # only the attributes are new
            else:
                if anew or (there is not None and not np.array_equal(there.points, now.points)):
                    self._journal.supersede(now)  # the arrays are replaced, not only their chunks
                if self._samples is not None:
                    self._samples.finish(surface["loss"].shape[0])
                self._write(surface, anew)
            keys_of(self.place, writing=True).remove(GROUP)  # also the rest of one whose removal was interrupted
            if self._samples is not None:
                surface = assemble.attach_samples(surface, self.place)
                for name in set(VARIABLES) & set(surface.data_vars):
                    arrays.seal(self._root[name], jsonable.jsonable(surface[name].attrs))
        self.close()
        return surface

    def _replaces(self, surface: xr.Dataset) -> bool:
        """Return whether a stored array has another shape, or comes from an older lossnav."""
        pairs = (
            (self._root.get(str(name)), surface[name].values) for name in surface.variables if name not in VARIABLES
        )
        return any(isinstance(array, zarr.Array) and not arrays.is_like(array, values) for array, values in pairs)

    def _write(self, surface: xr.Dataset, anew: bool = False, begun: bool = False) -> None:
        """Write coordinates, values, status, and last the attributes."""
        names = [*surface.coords, *(name for name in surface.data_vars if name not in ("status", *VARIABLES)), "status"]
        beside = {} if surface.indexes else {"coordinates": " ".join(map(str, surface.coords))}  # as xarray has it
        for name in names:
            variable = surface[name]
            attributes = jsonable.jsonable(variable.attrs) | (beside if name in surface.data_vars else {})
            dims = list(map(str, variable.dims))
            arrays.write(self._root, str(name), np.asarray(variable.values), dims, attributes, anew)
        self._seal(surface, begun)

    def _seal(self, surface: xr.Dataset, begun: bool = False) -> None:
        """Write the attributes, which also list the arrays."""
        names = sorted(str(name) for name in surface.variables if name not in VARIABLES)
        arrays.seal(self._root, {**surface.attrs, **({} if begun else {WRITTEN: names})})

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Turn any exception of a disk or object store into a StoreError."""
        try:
            yield
        except LossnavError:
            raise
        except Exception as error:
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            what = "Make room" if full else "See that it can be written"
            raise StoreError(
                f"{self} could not be written: {reason}. Points written before are safe. {what} and repeat the same "
                "call, which resumes the run; the surface so far is in the .surface of this error."
            ) from error


def _rows_in(root: zarr.Group, damaged: list[str]) -> Rows | None:
    """Return the content of the arrays; None if they are empty or were being replaced."""
    try:
        arrays = zarr_io.arrays_of(root, damaged=damaged)
    except StoreError as error:  # of different lengths, or one of them missing
        damaged.append(str(error))
        return None
    return None if arrays is None or not bool(arrays["status"].any()) else assemble.table_of(arrays)


def _last_writer(place: Location) -> int:
    """Return the highest writer number in the journal."""
    try:
        return journal.last_writer(zarr.open_group(place, mode="r"))
    except Exception:  # not a group of ours, which is reported elsewhere
        return 0


_ANOTHER = "Choose another store, or pass overwrite=True (--overwrite)."
