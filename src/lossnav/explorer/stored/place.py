"""A place of a session: a chart and the points measured on it. No torch.

It is read from a stored surface, or grows while a live session evaluates. Nothing here computes a loss.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from lossnav._utils.geometry import unpacked
from lossnav._utils.paths import Location
from lossnav.errors import OptionError
from lossnav.explorer.server import wire
from lossnav.explorer.stored.beside import Curvature
from lossnav.explorer.stored.lattice import Array, Lattice
from lossnav.storage.journal import Row, Rows
from lossnav.storage.journal import rows_of as rows_in
from lossnav.surface import assemble, resample, variables
from lossnav.surface.difference import difference

KIND = "Explorer"  # the sampler of a live session's surface

SHAPES = {1: "line", 2: "plane", 3: "volume"}
_INTERPOLATED = {1: 201, 2: 201, 3: 41}  # points along each axis of what is drawn between points on no grid
_AT_FIRST = {1: 201, 2: 26, 3: 9}  # the same for the first, coarse drawing: some hundred points
_SOON = 1200  # measured points from which a coarse drawing is sent first
_BESIDE = ("interpolated",)  # variables that are not measured


class Place:
    """A chart and its measured points.

    Parameters
    ----------
    number : int
        0 is the first place of the session.
    surface : xarray.Dataset
        The measured points. Of several seeds their mean is shown.
    words : str
        Its name in the breadcrumb.
    at : sequence of float, optional
        Its centre in the coordinates of the place it was reached from.
    grows : bool
        Whether points are added.

    Attributes
    ----------
    explored : bool
        Whether it has points of windows; False if it only has the surface of another sampler.
    dims : tuple of str
    base : ndarray of shape (k, 2)
        The ends of each axis at first.
    lattice : Lattice
        Of `base`.
    known : dict
        From the bytes of coordinates to the row measured there. Built on first use: for a stored surface of 100,000
        points that takes seconds, and showing it needs only its columns.
    axes_info : dict
        Results about the axes, such as eigenvalues.
    store : path, URL, zarr store or None
    curvature : Curvature or None
        Evaluated on the same chart.
    made_of : mapping
        The ``objective`` and ``chart`` of the measurement; in a live session those of the session, not of its store.
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
        if len(self.dims) not in SHAPES:
            raise OptionError(
                f"The explorer shows surfaces over up to three coordinates, got {len(self.dims)}. Evaluate a "
                "line, plane or volume."
            )
        self.base = _ends(surface, self.dims)
        self.lattice = Lattice(self.base)
        self.axes_info: dict[str, Any] = {}
        self.store: Location | None = None
        self.curvature: Curvature | None = None
        self.made_of: Mapping[str, Any] = surface.attrs
        self._is_own = surface.attrs.get("sampler", {}).get("kind") != KIND
        self.explored = grows or not self._is_own
        self._lock = threading.RLock()  # the worker thread writes, the threads of sockets read
        self._drawing = threading.Lock()
        self._table: Rows | None = assemble.table_of(surface)  # None once `known` has more points
        self._known: dict[bytes, Row] | None = None
        self._frames: list[bytes] | None = None

    @property
    def known(self) -> dict[bytes, Row]:
        """The measured rows, by the bytes of their coordinates."""
        with self._lock:
            if self._known is None:
                self._known = {key(row.point): row for row in assemble.rows_of(self.surface)}
            return self._known

    @property
    def variables(self) -> list[dict[str, str]]:
        """The measured variables with their units, the loss first, those of the curvature last."""
        described = []
        for name in self.names:
            attributes = self.surface[name].attrs if name in self.surface else {}
            words = attributes.get("long_name", f"{name}, mean over the data")
            described.append({"name": name, "units": attributes.get("units", "1"), "long_name": words})
        return described + (self.curvature.variables if self.curvature is not None and self._maps_curvature else [])

    @property
    def _maps_curvature(self) -> bool:
        """Whether the curvature is a picture of its own: on a grid. At single points it is read there."""
        return self.curvature is not None and self.curvature.surface.lossnav.is_grid and len(self.dims) > 1

    @property
    def names(self) -> list[str]:
        """Names of the measured variables, the loss first."""
        dims = self.surface["loss"].dims
        stored = [str(name) for name, variable in self.surface.data_vars.items() if variable.dims == dims]
        with self._lock:
            measured = [name for row in self.known.values() for name in row.values] if self.explored else []
        names = dict.fromkeys(["loss", *stored, *measured])
        return [name for name in names if name not in ("status", *_BESIDE) and "[" not in name]

    def add(self, row: Row) -> None:
        """Add a measured row."""
        with self._lock:
            self.known[key(row.point)] = row
            self._table = None

    def get(self, point: ArrayLike) -> Row | None:
        """Return the row of a point; None if it was not measured."""
        with self._lock:
            return self.known.get(key(point))

    def rows(self) -> list[Row]:
        """Return all measured rows."""
        with self._lock:
            return list(self.known.values())

    def difference(self, point: Sequence[float]) -> dict[str, float] | None:
        """The loss at a measured point less that of the centre, with its paired error; None without stored samples."""
        try:
            found = difference(self.surface, point, [0.0] * len(self.dims))
        except OptionError:  # no samples are stored, or the centre was not evaluated
            return None
        return {"value": found.value, "error": found.error}

    def nearest(self, at: ArrayLike) -> Row | None:
        """Return the row nearest to a point, in units of the ranges of the axes; None if there is none."""
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
        """Return the measured rows as columns."""
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
        """Return all measured points as frames: blocks of a grid, and points on no grid."""
        with self._drawing:  # computed once, also if several pages ask at the same time
            if self._frames is None:
                self._frames = list(self._stored_frames(_INTERPOLATED)) if self._is_own else []
        return [*self._frames, *(self._explored_frames() if self.explored else []), *self._curvature_frames()]

    def first_frames(self) -> list[bytes] | None:
        """Return frames to show first, if computing `frames` takes seconds (very many points on no grid); else None.

        They are the points themselves and a coarse interpolated grid.
        """
        many = self._is_own and not self.surface.lossnav.is_grid and self.surface["loss"].size > _SOON
        if self._frames is not None or not many:
            return None
        explored = self._explored_frames() if self.explored else []
        return [*self._stored_frames(_AT_FIRST), *explored, *self._curvature_frames()]

    def block(self, axes: Sequence[Array], window: int | None = None, level: int = 0, final: bool = True) -> bytes:
        """Return the frame of a grid with these axes; nan and status 0 where nothing was measured."""
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
        """Yield the axes of the levels of a window whose points are all measured."""
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
            drawn = resample.between(surface, sides[len(self.dims)])  # the points have their own frame
            yield self._grid_of(drawn, interpolated=True)
            yield self._points_frame()
        else:
            yield self._grid_of(surface, interpolated="interpolated" in surface)

    def _curvature_frames(self) -> Iterator[bytes]:
        if self.curvature is None or not self._maps_curvature:
            return
        surface = self.curvature.surface
        axes = [surface[dim].values.astype(np.float64) for dim in self.dims]
        values = {name: surface[name].values for name in [*self.curvature.names, "status"]}
        yield self._grid(axes, values, beside="curvature")

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


def key(point: ArrayLike) -> bytes:
    """Return the bytes that identify a point; -0.0 and 0.0 are the same."""
    return (np.asarray(point, np.float64) + 0.0).tobytes()


def sides(k: int) -> dict[str, int]:
    """Return the limits of `Lattice.levels`; a line may be finer than the side of a plane."""
    return {"side": wire.LIMITS["side"] * (4 if k == 1 else 1), "points": wire.LIMITS["points"]}


def _ends(surface: xr.Dataset, dims: Sequence[str]) -> Array:
    """Return the ends of each axis: those of the sampler, or else of the points."""
    points = assemble.points_of(surface)
    said = surface.attrs.get("sampler", {}).get("axes", {})
    ends = []
    for i, dim in enumerate(dims):
        low, high = (float(x) for x in said[dim][:2]) if dim in said else (np.nan, np.nan)
        if not high > low:
            low, high = (points[:, i].min(), points[:, i].max()) if len(points) else (-1.0, 1.0)
        ends.append((low, high) if high > low else (low - 1.0, low + 1.0))
    return np.array(ends, np.float64)
