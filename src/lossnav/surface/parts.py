"""Results made from several runs: the stores of the runs lie in a folder beside the result until it is complete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from lossnav._utils.paths import LEASE, require_writable, write_whole
from lossnav.errors import DamagedStoreWarning, StoreError
from lossnav.storage.lease import Lease
from lossnav.surface.zarr_io import open_surface, save_surface

if TYPE_CHECKING:
    import xarray as xr

_GOING = ".partial"  # suffix of a run that is being removed
_WRITTEN = "written.json"  # digests of the results that this call has written or is writing


class Parts:
    """The stores of several runs from which one result is made, in a folder beside it until it is complete.

    ``band.zarr`` has ``band.parts``. If that exists, its runs are resumed, and a partial result that a stopped call
    made from them is replaced, but no other result. Within a ``with`` statement no other process can write there.

    Parameters
    ----------
    target : path
        Of the result.
    overwrite : bool
    goes_on : bool
        Whether the existing result is of the same call and may be replaced.

    Attributes
    ----------
    target, folder : Path
    overwrite : bool
        Whether the result may be replaced, also because a stopped call wrote it.
    anew : bool
        Whether the existing runs in the folder are ignored.

    Raises
    ------
    OutputExistsError, OutputNotWritableError
        See `require_writable`.
    StoreBusyError
        In a ``with`` statement, if another process makes the same result.
    """

    def __init__(self, target: str | os.PathLike[str], overwrite: bool, goes_on: bool = False) -> None:
        self.anew, self._names = overwrite, list[str]()
        place, self.folder = Path(target).expanduser(), folder_of(target)
        self.overwrite = overwrite or goes_on or self._wrote(place)
        self.target = require_writable(target, self.overwrite, kind="surface")

    def __enter__(self) -> Parts:
        self._lease = Lease(self.folder)
        for left in self.folder.glob(f".*{_GOING}"):  # left by a call that was killed during a removal
            shutil.rmtree(left, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        nothing = not any(path.name != LEASE for path in self.folder.glob("*"))
        self._lease.release(forget=nothing)
        if nothing:
            with suppress(OSError):
                self.folder.rmdir()

    def save(self, surface: xr.Dataset) -> None:
        """Write the result so far; its digest is written before, so that it is recognised even after a kill."""
        before = self._digests()[-1:] if self.overwrite else []
        write_whole(self.folder / _WRITTEN, json.dumps([*before, _digest(surface)]))
        save_surface(surface, self.target, overwrite=self.overwrite)
        self.overwrite = True

    def _wrote(self, target: Path) -> bool:
        """Return whether a call that used this folder wrote the existing result."""
        if not (digests := self._digests()) or not target.is_dir():
            return False
        try:
            return _digest(open_surface(target)) in digests
        except StoreError:
            return False

    def _digests(self) -> list[str]:
        try:
            found = json.loads((self.folder / _WRITTEN).read_text("utf-8"))
        except (OSError, ValueError):
            return []
        return [str(digest) for digest in found] if isinstance(found, list) else []

    def options(self, name: str) -> dict[str, Any]:
        """Return the options of `evaluate` that store a run here."""
        self._names.append(name)
        return {"store": self.place(name), "overwrite": self.anew}

    def place(self, name: str) -> Path:
        """Return the store of the run with this name."""
        return self.folder / f"{name}.zarr"

    def remove(self, name: str) -> None:
        """Remove a run in one step; its points are elsewhere, or not needed."""
        going = self.folder / f".{name}{_GOING}"
        with suppress(OSError):  # it does not exist
            self.place(name).rename(going)
        shutil.rmtree(going, ignore_errors=True)

    def discard(self) -> None:
        """Remove all runs of this call, once the result is written."""
        for name in self._names:
            self.remove(name)
        (self.folder / _WRITTEN).unlink(missing_ok=True)  # from now on the result is an ordinary surface


def folder_of(target: str | os.PathLike[str]) -> Path:
    """Return the folder of the runs of a result: ``band.parts`` for ``band.zarr``."""
    place = Path(target).expanduser()
    return place.with_name(place.name.removesuffix(".zarr") + ".parts")


def finished_correction(place: str | os.PathLike[str]) -> xr.Dataset | None:
    """Return the corrected surface that a finished call of `evaluate_subset` wrote; None if there is none.

    One that lost points (a damaged store) is not finished, nor is one whose parts are still beside it.
    """
    target = Path(place).expanduser()
    if not target.is_dir() or folder_of(target).exists():
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            there = open_surface(target)
        except StoreError:
            return None
    whole = not caught and bool(there.attrs.get("finished")) and "seed" not in there.dims
    return there if whole and "sampler" in there.attrs.get("control_variate", {}) else None


def finished_ensemble(place: str | os.PathLike[str], seeds: Sequence[int]) -> xr.Dataset | None:
    """Return the ensemble of exactly these seeds that a finished call wrote; None if there is none.

    Lost points of measured grids count as not evaluated. For interpolated grids it is unknown which points were lost,
    so a damaged one is not returned.
    """
    target = Path(place).expanduser()
    if not target.is_dir():
        return None
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            there = open_surface(target)
    except StoreError:
        return None
    for each in caught:
        warnings.warn(str(each.message), each.category, stacklevel=3)
    ensemble = there.attrs.get("ensemble", {})
    damaged = any(issubclass(each.category, DamagedStoreWarning) for each in caught)
    as_left = (
        "seed" in there.dims
        and not (damaged and "interpolated" in there)
        and (damaged or bool(there.attrs.get("finished")))
    )
    corrected = any("control_variate" in said for said in (there.attrs, *ensemble.get("each", ())))
    return there if as_left and not corrected and ensemble["seeds"] == list(seeds) else None


def _digest(surface: xr.Dataset) -> str:
    """Return a digest of the values of a surface, as read from a store."""
    found = hashlib.sha256()
    for name, variable in sorted(surface.variables.items(), key=lambda item: str(item[0])):
        values = np.ascontiguousarray(variable.values)
        found.update(f"{name} {variable.dims} {values.dtype.str} {values.shape}".encode() + values.tobytes())
    return found.hexdigest()[:32]
