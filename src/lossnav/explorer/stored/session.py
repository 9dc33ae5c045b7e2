"""A session of the explorer: its places, and the trajectory, report and bookmarks that belong to them. No torch."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lossnav._utils.paths import Location, as_path, is_local, name_of, require_writable, write_whole
from lossnav._version import __version__
from lossnav.errors import LossnavError, NotATrajectoryError, OptionError, StoreError
from lossnav.explorer.server import wire
from lossnav.explorer.stored.beside import curvature_beside, spectrum_beside
from lossnav.explorer.stored.place import SHAPES, Place
from lossnav.reports import report
from lossnav.reports.report import with_beside
from lossnav.surface import assemble, variables, zarr_io
from lossnav.surface.groups import open_trajectory


class Session:
    """The places, with the trajectory, report and bookmarks.

    Parameters
    ----------
    places : list of Place
        At least one.
    title : str
    store : path, URL or zarr store, optional
        Of place 0. Bookmarks are stored beside it; it may contain a trajectory.
    live : bool
        Whether points can be evaluated.

    Attributes
    ----------
    path : dict or None
        The trajectory in the store, as lists.
    spectrum : dict or None
        The spectrum at the centre, as lists.
    report : list of dict
        Lines of `lossnav.report` on the stored surface: ``level``, ``check``, ``said``, ``do``.
    bookmarks : list of dict
        Each has a ``name`` and a ``view``.
    """

    def __init__(self, places: list[Place], title: str, store: Location | None = None, live: bool = False) -> None:
        self.places, self.title, self.store, self.live = places, title, store, live
        places[0].store = store
        self.path: dict[str, Any] | None = None
        self.spectrum: dict[str, Any] | None = None
        self.report: list[dict[str, str]] = []
        if store is not None:
            with suppress(NotATrajectoryError):
                self.path = _path(open_trajectory(store), places[0].dims)
        self._file = None if store is None or not is_local(store) else folder_of(store) / "session.json"
        self.bookmarks = self._read_bookmarks()
        self._writing = threading.Lock()  # several pages may set bookmarks at the same time

    def place(self, number: int) -> Place:
        """Return a place by its number.

        Raises
        ------
        OptionError
            If there is no such place.
        """
        if not 0 <= number < len(self.places):
            raise OptionError(
                f"place must be a number from 0 to {len(self.places) - 1}, got {number}. Choose one of these."
            )
        return self.places[number]

    def breadcrumb(self) -> list[dict[str, Any]]:
        """Return the places in the order in which they were reached."""
        return [{"number": place.number, "words": place.words, "center": place.at} for place in self.places]

    def message(self, number: int = 0) -> dict[str, Any]:
        """Return the message that a page receives first."""
        place = self.place(number)
        said = place.surface.attrs
        letters, words = variables.DIM_LETTERS, variables.axis_words(said.get("chart", {}))
        axes = [
            {"letter": letters.get(dim, dim), "meaning": words.get(dim, ""), "range": ends.tolist()}
            for dim, ends in zip(place.dims, place.base, strict=True)
        ]
        return {
            "type": "session",
            "live": self.live,
            "place": number,
            "places": self.breadcrumb(),
            "dims": list(place.dims),
            "axes": axes,
            "variables": place.variables,
            "title": self.title,
            "center": said.get("center", {}),
            "trajectory": self.path if number == 0 else None,
            "spectrum": self.spectrum if number == 0 else None,
            "report": self.report if number == 0 else [],
            "bookmarks": self.bookmarks,
            "limits": wire.LIMITS,
            "objective": said.get("objective", {}),
            "engine": said.get("engine", {}),
            "axes_info": place.axes_info,
            "shape": SHAPES[len(place.dims)],
            "store": None if self.store is None else name_of(self.store),
            "version": __version__,
        }

    def bookmark(self, name: str, view: Mapping[str, Any] | None) -> None:
        """Store a view under a name; None removes the bookmark."""
        with self._writing:
            kept = [mark for mark in self.bookmarks if mark["name"] != name]
            if view is not None:
                if len(kept) >= _BOOKMARKS:
                    raise OptionError(f"This session has {_BOOKMARKS} bookmarks, its maximum. Remove one first.")
                kept.append({"name": name, "view": dict(view)})
            self.bookmarks = kept
            if self._file is None:
                return
            try:
                require_writable(self._file, overwrite=True)
                write_whole(self._file, json.dumps({"schema": "lossnav.explorer", "bookmarks": kept}, indent=1))
            except StoreError as error:
                raise StoreError(f"{error} The bookmark lasts until the explorer ends.") from error

    def _read_bookmarks(self) -> list[dict[str, Any]]:
        if self._file is None:
            return []
        try:
            found = json.loads(self._file.read_text("utf-8"))["bookmarks"]
            marks = [{"name": str(mark["name"]), "view": mark["view"]} for mark in found]
            return [mark for mark in marks if wire.is_view(mark["view"])][:_BOOKMARKS]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # there are none, or the file is not ours
            return []


_BOOKMARKS = 200


def open_session(store: Location) -> Session:
    """Read a stored surface, and the places that a live session stored beside it.

    Raises
    ------
    NotASurfaceError, SchemaTooNewError
        If it is not a surface that can be read.
    OptionError
        If it has more than three coordinates.
    """
    store = as_path(store)
    opened = zarr_io.open_surface(store)
    first = Place(0, opened)
    first.curvature = curvature_beside(store, first.dims)
    places = [first]
    for number, path in place_stores(store).items() if is_local(store) else ():
        with suppress(StoreError):
            surface = zarr_io.open_surface(path)
            if number == 0:  # points explored on the surface of another sampler
                first.explored = True
                for row in assemble.rows_of(surface):
                    first.add(row)
                continue
            said = surface.attrs.get("explorer", {})
            places.append(Place(len(places), surface, str(said.get("words", path.stem)), said.get("center")))
            places[-1].axes_info = said.get("axes_info", {})
            places[-1].store = path
    session = Session(places, Path(name_of(store)).stem, store)
    session.spectrum = spectrum_beside(store)
    session.report = findings_of(store, opened)
    return session


def findings_of(run: Location | xr.Dataset, surface: xr.Dataset | None = None) -> list[dict[str, str]]:
    """Return the lines of the report on a run; none if the report does not cover this kind of surface.

    If `surface` is given, it is not read again from the store.
    """
    try:
        parts = [run] if isinstance(run, xr.Dataset) else with_beside(run, surface)
        lines = report(parts[0], *parts[1:]).lines
    except LossnavError:
        return []
    return [{"level": line.level, "check": line.check, "said": line.said, "do": line.do} for line in lines]


def folder_of(store: Location) -> Path:
    """Return the folder of further places and bookmarks: ``run.explore`` for ``run.zarr``."""
    return Path(store).expanduser().with_suffix(".explore")


def place_store(store: Location, number: int) -> Path:
    """Return the store of a further place; 0 is for points explored on the surface of another sampler."""
    return folder_of(store) / f"place-{number:04d}.zarr"


def place_stores(store: Location) -> dict[int, Path]:
    """Return the stores of further places by their numbers, in the order in which they were reached."""
    found = sorted(folder_of(store).glob("place-[0-9][0-9][0-9][0-9].zarr"))
    return {int(path.stem.removeprefix("place-")): path for path in found}


def _path(path: xr.Dataset, dims: Sequence[str]) -> dict[str, Any] | None:
    """Return a projected trajectory as lists; None if it has other coordinates."""
    if any(dim not in path.coords for dim in dims):
        return None
    at = np.stack([path[dim].values for dim in dims], axis=1)
    said: dict[str, Any] = {"at": at.tolist()}
    for name in ("step", "epoch", "loss", "loss_projected", "residual", "training_loss"):
        said[name] = path[name].values.tolist() if name in path.variables else None
    return said
