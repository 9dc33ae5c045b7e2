"""What the explorer knows: places in weight space, each a chart with what was measured on it, and what lies beside.

A place is read from a stored surface, or grows while a live session evaluates. Nothing here computes a loss. No torch.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from lossnav._utils.geometry import unpacked
from lossnav._utils.paths import Location, as_path, is_local, name_of, require_writable, write_whole
from lossnav._version import __version__
from lossnav.errors import LossnavError, NotATrajectoryError, OptionError, StoreError
from lossnav.explorer.server import wire
from lossnav.explorer.stored.lattice import Array, Lattice
from lossnav.reports import report
from lossnav.reports.report import with_beside
from lossnav.storage.journal import Row, Rows
from lossnav.storage.journal import rows_of as rows_in
from lossnav.surface import assemble, resample, variables, zarr_io
from lossnav.surface.groups import open_trajectory

KIND = "Explorer"  # what the sampler of a live session's surface is called

_SHAPES = {1: "line", 2: "plane", 3: "volume"}
_INTERPOLATED = {1: 201, 2: 201, 3: 41}  # points along each axis of what is drawn between points on no grid
_AT_FIRST = {1: 201, 2: 26, 3: 9}  # the same of what is shown until that is there: some hundred places
_SOON = 1200  # points from which a page waits for nothing finer
_BESIDE = ("interpolated",)  # variables that are no measurement


class Place:
    """A chart with what is known of it.

    Parameters
    ----------
    number : int
        0 is where one begins.
    surface : xarray.Dataset
        What was measured; of several seeds their mean is shown.
    words : str
        What it is called in the breadcrumb.
    at : sequence of float, optional
        Its centre in the coordinates of the place it was reached from.
    grows : bool
        Whether points are added.

    Attributes
    ----------
    explored : bool
        Whether points of windows are known, and not only a surface of its own.
    dims : tuple of str
    base : ndarray of shape (k, 2)
        The ends of each axis to begin with.
    lattice : Lattice
        Of `base`.
    known : dict
        From the bytes of coordinates to what was measured there. Made when it is first asked for: of a stored surface
        with 100,000 points it takes seconds, and its columns are enough to show it.
    axes_info : dict
        What was found about the axes, such as eigenvalues.
    store : path, URL, zarr store or None
        Where it is kept.
    made_of : mapping
        Of what ``objective`` on what ``chart`` it is; of a live session as the session has them, not its store.
    """

    def __init__(
        self,
        number: int,
        surface: xr.Dataset,
        words: str = "start",
        at: Sequence[float] | None = None,
        grows: bool = False,
    ) -> None:
        if "seed" in surface.dims:
            surface = surface.lossnav.over_seeds()
        self.number, self.surface, self.words = number, surface, words
        self.at = None if at is None else [float(x) for x in at]
        self.dims: tuple[str, ...] = surface.lossnav.dims
        if len(self.dims) not in _SHAPES:
            raise OptionError(f"A surface over {len(self.dims)} coordinates cannot be shown. Use one of up to three.")
        self.base = _ends(surface, self.dims)
        self.lattice = Lattice(self.base)
        self.axes_info: dict[str, Any] = {}
        self.store: Location | None = None
        self.made_of: Mapping[str, Any] = surface.attrs
        self._is_own = surface.attrs.get("sampler", {}).get("kind") != KIND
        self.explored = grows or not self._is_own
        self._lock = threading.RLock()  # the worker writes, sockets read
        self._drawing = threading.Lock()
        self._table: Rows | None = assemble.table_of(surface)  # None once `known` has more
        self._known: dict[bytes, Row] | None = None
        self._frames: list[bytes] | None = None

    @property
    def known(self) -> dict[bytes, Row]:
        """What was measured, by the bytes of its coordinates."""
        with self._lock:
            if self._known is None:
                self._known = {key(row.point): row for row in assemble.rows_of(self.surface)}
            return self._known

    @property
    def variables(self) -> list[dict[str, str]]:
        """Names of what was measured, the loss first, with units."""
        said = []
        for name in self.names:
            attributes = self.surface[name].attrs if name in self.surface else {}
            words = attributes.get("long_name", f"{name}, mean over the data")
            said.append({"name": name, "units": attributes.get("units", "1"), "long_name": words})
        return said

    @property
    def names(self) -> list[str]:
        """Names of what was measured, the loss first."""
        dims = self.surface["loss"].dims
        stored = [str(name) for name, variable in self.surface.data_vars.items() if variable.dims == dims]
        with self._lock:
            measured = [name for row in self.known.values() for name in row.values] if self.explored else []
        names = dict.fromkeys(["loss", *stored, *measured])
        return [name for name in names if name not in ("status", *_BESIDE) and "[" not in name]

    def add(self, row: Row) -> None:
        """Take what was measured."""
        with self._lock:
            self.known[key(row.point)] = row
            self._table = None

    def get(self, point: ArrayLike) -> Row | None:
        """What is known of a point."""
        with self._lock:
            return self.known.get(key(point))

    def rows(self) -> list[Row]:
        """All that is known."""
        with self._lock:
            return list(self.known.values())

    def nearest(self, at: ArrayLike) -> Row | None:
        """The measured point that is nearest as one sees it: in units of the ranges."""
        table = self._columns()
        if not len(table):
            return None
        spans = self.base[:, 1] - self.base[:, 0]
        away = (table.points - np.asarray(at, np.float64)) / spans
        i = int((away**2).sum(1).argmin())
        with self._lock:
            if self._known is not None:
                return self._known[key(table.points[i])]
        (row,) = rows_in(table.take(slice(i, i + 1)))
        return row if row.status != variables.FAILED else row._replace(values={})

    def _columns(self) -> Rows:
        """What was measured, column by column."""
        with self._lock:
            if self._table is not None:
                return self._table
            rows = [row for row in self.known.values() if row.status != variables.NOT_EVALUATED]
        points = np.array([row.point for row in rows], np.float64).reshape(len(rows), len(self.dims))
        names = dict.fromkeys(name for row in rows for name in row.values)
        values = {name: np.array([row.values.get(name, np.nan) for row in rows], np.float64) for name in names}
        return Rows(points, np.array([row.status for row in rows], np.uint8), values)

    # ------------------------------------------------------------------ frames

    def frames(self) -> list[bytes]:
        """All that is known, as frames: blocks of a grid, and points on none."""
        with self._drawing:  # what is stored does not change, and is drawn once, whoever asks meanwhile
            if self._frames is None:
                self._frames = list(self._stored_frames(_INTERPOLATED)) if self._is_own else []
        return [*self._frames, *(self._explored_frames() if self.explored else [])]

    def first_frames(self) -> list[bytes] | None:
        """What is shown until `frames` of very many points are there, which takes seconds; None where they are.

        The points themselves, and a coarse grid of what lies between them.
        """
        many = self._is_own and not self.surface.lossnav.is_grid and self.surface["loss"].size > _SOON
        if self._frames is not None or not many:
            return None
        return [*self._stored_frames(_AT_FIRST), *(self._explored_frames() if self.explored else [])]

    def block(self, axes: Sequence[Array], window: int | None = None, level: int = 0, final: bool = True) -> bytes:
        """The frame of what is known on some axes; nan and status 0 elsewhere."""
        shape = tuple(len(axis) for axis in axes)
        places = np.stack([part.reshape(-1) for part in np.meshgrid(*axes, indexing="ij")], axis=1)
        with self._lock:
            rows = [self.known.get(key(place)) for place in places]
        values = {
            name: np.array([np.nan if row is None else row.values.get(name, np.nan) for row in rows]).reshape(shape)
            for name in self.names
        }
        values["status"] = np.array([0 if row is None else row.status for row in rows], np.float64).reshape(shape)
        return self._grid(axes, values, window=window, level=level, final=final)

    def known_levels(self, window: ArrayLike) -> Iterator[list[Array]]:
        """The levels of a window of which every point is known."""
        for axes in self.lattice.levels(window, **sides(len(self.dims))):
            places = np.stack([part.reshape(-1) for part in np.meshgrid(*axes, indexing="ij")], axis=1)
            with self._lock:
                if not all(key(place) in self.known for place in places):
                    return
            yield axes

    def _explored_frames(self) -> list[bytes]:
        levels = list(self.known_levels(self.base))
        made = [self.block(levels[-1], level=len(levels) - 1, final=False)] if levels else []
        return [*made, self._points_frame()]

    def _stored_frames(self, sides: Mapping[int, int]) -> Iterator[bytes]:
        surface, interpolated = self.surface, not self.surface.lossnav.is_grid
        if interpolated:
            drawn = resample.between(surface, sides[len(self.dims)])  # a frame of its own has the points
            yield self._grid_of(drawn, interpolated=True)
            yield self._points_frame()
        else:
            yield self._grid_of(surface, interpolated="interpolated" in surface)

    def _grid_of(self, surface: xr.Dataset, interpolated: bool) -> bytes:
        axes = [surface[dim].values.astype(np.float64) for dim in self.dims]
        values = {name: surface[name].values for name in [*self.names, "status"] if name in surface}
        said = surface.attrs.get("interpolation", {})
        measured = unpacked(said["measured"], len(said["dims"])).tolist() if "measured" in said else None
        return self._grid(axes, values, interpolated=interpolated, measured=measured)

    def _grid(self, axes: Sequence[Array], values: Mapping[str, NDArray[Any]], **header: Any) -> bytes:
        said = {"type": "grid", "place": self.number, "window": None, "level": 0, "final": True}
        said |= {"interpolated": False, "measured": None, "axes": [axis.tolist() for axis in axes]}
        return wire.frame(said | header, values)

    def _points_frame(self) -> bytes:
        table = self._columns()
        arrays: dict[str, NDArray[Any]] = {dim: table.points[:, i] for i, dim in enumerate(self.dims)}
        failed, missing = table.status == variables.FAILED, np.full(len(table), np.nan)
        for name in self.names:
            arrays[name] = np.where(failed, np.nan, table.values.get(name, missing))
        arrays["status"] = table.status.astype(np.float64)
        return wire.frame({"type": "points", "place": self.number, "count": len(table)}, arrays)


class Session:
    """All places, and what lies beside them.

    Parameters
    ----------
    places : list of Place
        At least one.
    title : str
    store : path, URL or zarr store, optional
        Of place 0: bookmarks are kept beside it, and a trajectory may be in it.
    live : bool
        Whether more can be evaluated.

    Attributes
    ----------
    path : dict or None
        The trajectory in the store, as lists.
    report : list of dict
        What the stored picture can and cannot say (`lossnav.report`): ``level``, ``check``, ``said``, ``do``.
    bookmarks : list of dict
        Each a ``name`` and a ``view``.
    """

    def __init__(self, places: list[Place], title: str, store: Location | None = None, live: bool = False) -> None:
        self.places, self.title, self.store, self.live = places, title, store, live
        places[0].store = store
        self.path: dict[str, Any] | None = None
        self.report: list[dict[str, str]] = []
        if store is not None:
            with suppress(NotATrajectoryError):
                self.path = _path(open_trajectory(store), places[0].dims)
        self._file = None if store is None or not is_local(store) else folder_of(store) / "session.json"
        self.bookmarks = self._read_bookmarks()
        self._writing = threading.Lock()  # pages keep views at the same time

    def place(self, number: int) -> Place:
        """One of the places.

        Raises
        ------
        OptionError
            If there is none of that number.
        """
        if not 0 <= number < len(self.places):
            raise OptionError(f"There is no place {number}. Use 0 to {len(self.places) - 1}.")
        return self.places[number]

    def breadcrumb(self) -> list[dict[str, Any]]:
        """Every place in the order they were reached."""
        return [{"number": place.number, "words": place.words, "center": place.at} for place in self.places]

    def message(self, number: int = 0) -> dict[str, Any]:
        """What a page is told first."""
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
            "report": self.report if number == 0 else [],
            "bookmarks": self.bookmarks,
            "limits": wire.LIMITS,
            "objective": said.get("objective", {}),
            "engine": said.get("engine", {}),
            "axes_info": place.axes_info,
            "shape": _SHAPES[len(place.dims)],
            "store": None if self.store is None else name_of(self.store),
            "version": __version__,
        }

    def bookmark(self, name: str, view: Mapping[str, Any] | None) -> None:
        """Keep a view by a name; None takes it away."""
        with self._writing:
            kept = [mark for mark in self.bookmarks if mark["name"] != name]
            if view is not None:
                if len(kept) >= _BOOKMARKS:
                    raise OptionError(f"There are {_BOOKMARKS} bookmarks. Take one away first.")
                kept.append({"name": name, "view": dict(view)})
            self.bookmarks = kept
            if self._file is None:
                return
            try:
                require_writable(self._file, overwrite=True)
                write_whole(self._file, json.dumps({"schema": "lossnav.explorer", "bookmarks": kept}, indent=1))
            except StoreError as error:
                raise StoreError(f"{error} The bookmark is kept until the explorer ends.") from error

    def _read_bookmarks(self) -> list[dict[str, Any]]:
        if self._file is None:
            return []
        try:
            found = json.loads(self._file.read_text("utf-8"))["bookmarks"]
            marks = [{"name": str(mark["name"]), "view": mark["view"]} for mark in found]
            return [mark for mark in marks if wire.is_view(mark["view"])][:_BOOKMARKS]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # none yet, or not ours
            return []


_BOOKMARKS = 200


def open_session(store: Location) -> Session:
    """Read a stored surface, and the places beside it that a live session left.

    Raises
    ------
    NotASurfaceError, SchemaTooNewError
        If it is no surface.
    OptionError
        If it has more than three coordinates.
    """
    store = as_path(store)
    opened = zarr_io.open_surface(store)
    first = Place(0, opened)
    places = [first]
    for number, path in place_stores(store).items() if is_local(store) else ():
        with suppress(StoreError):
            surface = zarr_io.open_surface(path)
            if number == 0:  # what was explored on a surface of its own
                first.explored = True
                for row in assemble.rows_of(surface):
                    first.add(row)
                continue
            said = surface.attrs.get("explorer", {})
            places.append(Place(len(places), surface, str(said.get("words", path.stem)), said.get("center")))
            places[-1].axes_info = said.get("axes_info", {})
            places[-1].store = path
    session = Session(places, Path(name_of(store)).stem, store)
    session.report = findings_of(store, opened)
    return session


def findings_of(run: Location | xr.Dataset, surface: xr.Dataset | None = None) -> list[dict[str, str]]:
    """What a run's report says, line by line; nothing where it is of a kind that nothing is said of.

    The surface of a store is not read again where it is given.
    """
    try:
        parts = [run] if isinstance(run, xr.Dataset) else with_beside(run, surface)
        lines = report(parts[0], *parts[1:]).lines
    except LossnavError:
        return []
    return [{"level": line.level, "check": line.check, "said": line.said, "do": line.do} for line in lines]


def folder_of(store: Location) -> Path:
    """Where what lies beside a store is kept: ``run.zarr`` has ``run.explore``."""
    return Path(store).expanduser().with_suffix(".explore")


def place_store(store: Location, number: int) -> Path:
    """Where a further place is kept; 0 is for what was explored on a stored surface of its own."""
    return folder_of(store) / f"place-{number:04d}.zarr"


def place_stores(store: Location) -> dict[int, Path]:
    """The stores of further places by their numbers, in the order they were reached."""
    found = sorted(folder_of(store).glob("place-[0-9][0-9][0-9][0-9].zarr"))
    return {int(path.stem.removeprefix("place-")): path for path in found}


def key(point: ArrayLike) -> bytes:
    """What a point is known by: its bits, -0.0 and 0.0 being one."""
    return (np.asarray(point, np.float64) + 0.0).tobytes()


def sides(k: int) -> dict[str, int]:
    """How fine a window may become, for `Lattice.levels`: a line finer than the side of a plane."""
    return {"side": wire.LIMITS["side"] * (4 if k == 1 else 1), "points": wire.LIMITS["points"]}


def _ends(surface: xr.Dataset, dims: Sequence[str]) -> Array:
    """The ends of each axis: as the sampler says them, else of the points."""
    points = assemble.points_of(surface)
    said = surface.attrs.get("sampler", {}).get("axes", {})
    ends = []
    for i, dim in enumerate(dims):
        low, high = (float(x) for x in said[dim][:2]) if dim in said else (np.nan, np.nan)
        if not high > low:
            low, high = (points[:, i].min(), points[:, i].max()) if len(points) else (-1.0, 1.0)
        ends.append((low, high) if high > low else (low - 1.0, low + 1.0))
    return np.array(ends, np.float64)


def _path(path: xr.Dataset, dims: Sequence[str]) -> dict[str, Any] | None:
    """A projected trajectory as lists; None where it is on other coordinates."""
    if any(dim not in path.coords for dim in dims):
        return None
    at = np.stack([path[dim].values for dim in dims], axis=1)
    said: dict[str, Any] = {"at": at.tolist()}
    for name in ("step", "epoch", "loss", "loss_projected", "residual", "training_loss"):
        said[name] = path[name].values.tolist() if name in path.variables else None
    return said
