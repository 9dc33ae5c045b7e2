"""A journal of measured points that survives a kill: appended tile by tile, never rewritten.

A journal is a Zarr group inside the store of a surface. Every writer (each session of a run) has arrays of its own in
it, of shape (rows, columns) in float64: status, coordinates, values. One chunk is one tile, written once, in one atomic
step with a checksum; the tiles of an array are consecutive. So every stored tile is complete, and a kill loses at most
the tile that was not yet written. Arrays have the numbers of their writers (`lossnav.storage.lease`), so their order
does not depend on clocks. No torch.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.lazy_import import lazily
from lossnav.storage.arrays import array_documents, codecs, seal
from lossnav.storage.keys import is_whole, keys_of
from lossnav.storage.schema import NAME, RESERVED, WrongError, check_array

if TYPE_CHECKING:
    import zarr
else:
    zarr = lazily("zarr")

GROUP = "journal"

_ROWS = 1024  # of a tile, at most
_TILES = 10**9  # an array may hold; those not written take no room
_SECONDS = 1.0  # between two tiles at least, and
_SHARE = 0.01  # no more of the time than this part goes into writing
_MOST = 2**24  # values of a tile that is read, far beyond those that are written
_FAILED = 3  # the status of a point that raised: whatever was measured there counts more


class Row(NamedTuple):
    """One measured point."""

    point: tuple[float, ...]
    status: int
    values: Mapping[str, float]


class Rows(NamedTuple):
    """Measured points, column by column.

    Attributes
    ----------
    points : ndarray of shape (m, k)
    status : ndarray of uint8, shape (m,)
    values : mapping of str to ndarray of shape (m,)
        NaN if a point has no such value.
    """

    points: NDArray[np.float64]
    status: NDArray[np.uint8]
    values: Mapping[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.status)

    def take(self, which: Any) -> Rows:
        """Some of them."""
        return Rows(self.points[which], self.status[which], {name: v[which] for name, v in self.values.items()})


class Gathered:
    """Collects points, one by one or many at once, column by column: a million take tens of megabytes.

    Parameters
    ----------
    k : int
        Number of coordinates of a point.

    Examples
    --------
    >>> gathered = Gathered(1)
    >>> gathered.append((0.5,), 1, {"loss": 2.0})
    >>> gathered.rows.values["loss"]
    array([2.])
    """

    def __init__(self, k: int) -> None:
        self._n, self._points = 0, np.empty((0, k))
        self._status, self._values = np.empty(0, np.uint8), dict[str, NDArray[np.float64]]()

    def __len__(self) -> int:
        return self._n

    def append(self, point: Sequence[float] | NDArray[np.float64], status: int, values: Mapping[str, float]) -> None:
        """Take one point."""
        self._make_room(1, values)
        self._points[self._n], self._status[self._n] = point, status
        for name, value in values.items():
            self._values[name][self._n] = value
        self._n += 1

    def extend(self, rows: Rows) -> None:
        """Take many."""
        self._make_room(len(rows), rows.values)
        end = self._n + len(rows)
        self._points[self._n : end], self._status[self._n : end] = rows.points, rows.status
        for name, values in rows.values.items():
            self._values[name][self._n : end] = values
        self._n = end

    @property
    def rows(self) -> Rows:
        """All of them, in the order in which they came."""
        values = {name: column[: self._n] for name, column in self._values.items()}
        return Rows(self._points[: self._n], self._status[: self._n], values)

    def _make_room(self, more: int, names: Iterable[str]) -> None:
        if self._n + more > len(self._status):
            room = max(64, 2 * len(self._status), self._n + more)
            self._points = _longer(self._points, room)
            self._status = _longer(self._status, room)
            self._values = {name: _longer(column, room) for name, column in self._values.items()}
        for name in names:
            if name not in self._values:
                self._values[name] = np.full(len(self._status), np.nan)


def _longer(column: NDArray[Any], room: int) -> NDArray[Any]:
    made = np.full((room, *column.shape[1:]), np.nan if column.dtype.kind == "f" else 0, column.dtype)
    made[: len(column)] = column
    return made


def keys(points: NDArray[np.float64]) -> list[bytes]:
    """Key of each point, for points of shape (m, k): its bits, with -0.0 and 0.0 equal."""
    whole = np.ascontiguousarray(points, np.float64) + 0.0
    if not whole.size:
        return []
    return list(whole.view(np.dtype((np.void, whole.itemsize * whole.shape[1]))).reshape(-1).tolist())  # type: ignore[arg-type]


class Journal:
    """One writer's part of the journal of a store.

    Parameters
    ----------
    root : zarr.Group
        Of the store.
    number : int
        Number of the writer, higher than those of earlier writers.
    before : callable, optional
        Called before a tile is written, to write data that its rows refer to.
    writing : callable, optional
        Makes the context in which a tile is written.
    """

    def __init__(
        self,
        root: zarr.Group,
        number: int = 1,
        before: Callable[[], None] | None = None,
        writing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._root, self._before, self._writing = root, before, writing
        self._array: zarr.Array[Any] | None = None
        self._names: tuple[str, ...] = ()
        self._waiting: list[list[float]] = []
        self._tiles = self._arrays = 0
        self._written, self._cost = time.monotonic(), 0.0
        self._writer = f"{number:08d}"

    def append(self, row: Row) -> None:
        """Add a row; it is on disk after the next `flush`, which happens automatically once a tile is full."""
        if self._array is None or not set(row.values) <= set(self._names):
            self.flush()
            with self._writing():
                self._begin(row)
        self._waiting.append([row.status, *row.point, *(row.values.get(name, np.nan) for name in self._names)])
        since = time.monotonic() - self._written
        if len(self._waiting) == _ROWS or since > max(_SECONDS, self._cost / _SHARE):
            self.flush()

    def supersede(self, rows: Rows) -> None:
        """Write all points as a separate array; from then on other arrays and rows do not count."""
        self.flush()
        columns = [rows.status.astype(np.float64), *rows.points.T, *rows.values.values()]
        tile = max(1, min(len(rows), _MOST // (2 * len(columns))))
        with self._writing():
            array = self._create(rows.points.shape[1], list(rows.values), tile)
            array[: len(rows)] = np.stack(columns, axis=1)
            seal(array, {**array.attrs, "whole": len(rows)})
        self._array = None

    def flush(self) -> None:
        """Write the pending rows as one tile."""
        if not self._waiting:
            return
        assert self._array is not None
        started = time.monotonic()
        tile = np.array(self._waiting, dtype=np.float64)
        start = self._tiles * _ROWS
        with self._writing():
            if self._before is not None:
                self._before()
            self._array[start : start + len(tile)] = tile
        self._tiles += 1
        self._waiting.clear()
        self._written = time.monotonic()
        self._cost = self._written - started

    def _begin(self, row: Row) -> None:
        """Begin an array with columns for this row's values."""
        self._names = tuple(dict.fromkeys([*self._names, *row.values]))
        self._array, self._tiles = self._create(len(row.point), self._names, _ROWS), 0

    def _create(self, k: int, names: Sequence[str], rows: int) -> zarr.Array[Any]:
        """An array for rows of k coordinates and such values, with so many to a tile."""
        columns = ["status", *(f"coordinate {i}" for i in range(k)), *names]
        self._arrays += 1
        made = self._root.require_group(GROUP).create_array(
            f"{self._writer}-{self._arrays:04d}",
            shape=(rows * _TILES, len(columns)),
            chunks=(rows, len(columns)),
            dtype="float64",
            fill_value=np.nan,
            **codecs(),
        )
        seal(made, {"columns": columns})
        return made


def read(root: zarr.Group) -> list[Row]:
    """Every row of every writer, the earlier writer first; empty if there is no journal."""
    return [row for table in tables(root) for row in rows_of(table)]


def rows_of(table: Rows) -> Iterator[Row]:
    """Iterate over rows, each with the values of its own columns."""
    names = list(table.values)
    columns = [column.tolist() for column in table.values.values()]
    for i, (point, status) in enumerate(zip(table.points.tolist(), table.status.tolist(), strict=True)):
        yield Row(tuple(point), status, {name: column[i] for name, column in zip(names, columns, strict=True)})


def known(root: zarr.Group, arrays: Rows | None, k: int, damaged: list[str] | None = None) -> list[Rows]:
    """All points of a store, earlier ones first: those of its arrays, then the rows of its journal.

    Arrays that are being replaced do not count once the journal holds all their points.
    """
    found = list(_tables(root, k, damaged))
    whole = [i for i, (table, n) in enumerate(found) if n == len(table)]
    tables = [table for table, _ in found[whole[-1] if whole else 0 :]]
    return tables if whole or arrays is None else [arrays, *tables]


def supersedes(root: zarr.Group) -> bool:
    """Whether the journal holds all points from before arrays began to be replaced; the arrays then do not count."""
    return any(table is not None and whole == len(table) for table, whole in _tables(root, None, []))


def tables(root: zarr.Group, k: int | None = None, damaged: list[str] | None = None) -> list[Rows]:
    """The rows of each array of the journal, in the order in which they were written.

    Parameters
    ----------
    root : zarr.Group
        Of the store.
    k : int, optional
        Number of coordinates of a point. An array with another number does not belong to this run.
    damaged : list, optional
        Receives the names of tiles that cannot be read, instead of an error.
    """
    return [table for table, _ in _tables(root, k, damaged)]


def _tables(root: zarr.Group, k: int | None, damaged: list[str] | None) -> Iterator[tuple[Rows, int]]:
    """Each with how many rows it has where it holds all that was known, else with -1."""
    taken = {_whole(str(name)): "ours" for name in (*_dims(root), *RESERVED)}  # names, and of what shape the values are
    for _, array in sorted(_arrays(root, damaged).items(), key=lambda pair: _order(pair[0])):
        table = _table(array, k, damaged)
        if table is not None and _fit(table.values, taken):
            whole = array.attrs.get("whole")
            yield table, whole if isinstance(whole, int) else -1


_ENTRY = re.compile(r"([^\[\]]+)\[(\d{1,4}), (\d{1,4})\]")


def _dims(root: zarr.Group) -> Iterable[Any]:
    """The coordinates of the run; none where its attributes do not say them."""
    chart = root.attrs.get("chart")
    dims = chart.get("dims") if isinstance(chart, Mapping) else None
    return dims if isinstance(dims, list) else ()


def _whole(name: str) -> str:
    """What a column is of: itself, or the matrix of which it is an entry."""
    return name.partition("[")[0]


def _fit(names: Iterable[str], taken: dict[str, str]) -> bool:
    """Whether columns can be values of one run: whole square matrices, and each name of one shape; which they take."""
    shapes: dict[str, str] = {}
    entries: dict[str, set[tuple[int, int]]] = {}
    for name in names:
        found = _ENTRY.fullmatch(name)
        if ("[" in name or "]" in name) and found is None:
            return False
        if found is not None:
            entries.setdefault(found[1], set()).add((int(found[2]), int(found[3])))
        kind = "value" if found is None else "matrix"
        if shapes.setdefault(_whole(name), kind) != kind:
            return False
    for places in entries.values():
        side = 1 + max(max(place) for place in places)
        if len(places) != side * side:
            return False
    if any(taken.get(name, kind) != kind for name, kind in shapes.items()):
        return False
    taken |= shapes
    return True


def _arrays(root: zarr.Group, damaged: list[str] | None) -> dict[str, zarr.Array[Any]]:
    """The arrays of the journal by their names, as far as their documents are whole."""
    found: dict[str, zarr.Array[Any]] = {}
    for name, said in array_documents(keys_of(root.store_path), GROUP).items():
        try:
            check_array(said, name, most=_TILES * _ROWS)
            if is_whole(said) is False:
                raise WrongError(name, "what was written", "damaged")
            array = root[f"{GROUP}/{name}"]
            assert isinstance(array, zarr.Array)
            found[name] = array
        except Exception:
            if damaged is None:
                raise
            damaged.append(f"{GROUP}/{name}")
    return found


def last_writer(root: zarr.Group) -> int:
    """The highest number of a writer in the journal; 0 where there is none."""
    return max((_order(name)[0] for name in keys_of(root.store_path).names(GROUP)), default=0)


def _order(name: str) -> tuple[int, str]:
    """By the number of the writer; arrays of before writers had numbers are named by their clocks, and come first."""
    number = name.partition("-")[0]
    return (int(number) if len(number) == 8 and number.isascii() and number.isdigit() else 0), name


def _table(array: zarr.Array[Any], k: int | None, damaged: list[str] | None) -> Rows | None:
    """The rows of an array: of those tiles that are there, however many it declares."""
    columns = array.attrs.get("columns")
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        return None
    width = sum(column.startswith("coordinate ") for column in columns)
    names: Sequence[str] = columns[1 + width :]
    if (
        len(set(columns)) < len(columns)
        or any(not 0 < len(name) <= NAME for name in columns)
        or columns[:1] != ["status"]
    ):
        return None
    rows = array.chunks[0] if array.ndim == 2 else 0
    sound = array.dtype == np.float64 and array.shape[-1:] == (len(columns),) == array.chunks[-1:]
    if not sound or not 0 < rows * len(columns) <= _MOST or (k is not None and width != k):
        return None
    tiles = []
    for tile in tiles_of(array):
        try:
            tiles.append(np.asarray(array[tile * rows : (tile + 1) * rows], np.float64))
        except Exception:
            if damaged is None:
                raise
            damaged.append(f"{array.path}, tile {tile}")
    block = np.concatenate(tiles) if tiles else np.empty((0, len(columns)))
    block = block[np.isin(block[:, 0], (1, 2, 3)) & np.isfinite(block[:, 1 : 1 + width]).all(1)]
    values = {name: block[:, 1 + width + i] for i, name in enumerate(names)}
    return Rows(block[:, 1 : 1 + width], block[:, 0].astype(np.uint8), values)


def tiles_of(array: zarr.Array[Any]) -> list[int]:
    """The numbers of the tiles that were written."""
    from zarr.core.sync import sync

    async def listed() -> list[str]:
        return [key async for key in array.store.list_prefix(f"{array.path}/c/")]

    parts = [key.rsplit("/", 2)[-2:] for key in sync(listed())]
    limit = array.shape[0] // array.chunks[0]
    return sorted({int(row) for row, *rest in parts if rest == ["0"] and row.isdigit() and int(row) < limit})


def is_same(a: Rows, b: Rows) -> bool:
    """Whether two tables have the same rows in the same order, bit for bit."""
    return (
        np.array_equal(a.points, b.points)
        and np.array_equal(a.status, b.status)
        and a.values.keys() == b.values.keys()
        and all(np.array_equal(a.values[name], b.values[name], equal_nan=True) for name in a.values)
    )


def joined(tables: Sequence[Rows], k: int) -> Rows:
    """Merge rows, each point once: its last measurement, or if there is none its last failure."""
    names = list(dict.fromkeys(name for table in tables for name in table.values))
    points = np.concatenate([np.empty((0, k)), *(table.points for table in tables)]) + 0.0  # -0.0 and 0.0 are one place
    status = np.concatenate([np.empty(0, np.uint8), *(table.status for table in tables)])
    values = {
        name: np.concatenate([np.empty(0), *(table.values.get(name, np.full(len(table), np.nan)) for table in tables)])
        for name in names
    }
    return Rows(points, status, values).take(latest(points, status))


def latest(points: NDArray[np.float64], status: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Which of several rows of one point counts, by their numbers, in the order in which points first came."""
    if not len(points):
        return np.empty(0, np.intp)
    whole = np.ascontiguousarray(points).view(np.dtype((np.void, points.itemsize * points.shape[1]))).reshape(-1)
    first, which = np.unique(whole, return_index=True, return_inverse=True)[1:]
    if len(first) == len(points):
        return np.arange(len(points))
    order = np.lexsort((np.arange(len(points)), status != _FAILED, which))
    last = order[np.append(np.flatnonzero(np.diff(which[order])), len(order) - 1)]  # of each point
    return np.asarray(last[np.argsort(first)])
