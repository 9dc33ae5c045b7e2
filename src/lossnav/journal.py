"""What a run has measured so far, in a form that survives being killed: appended tile by tile, never rewritten.

A journal is a Zarr group inside the store of a surface. Every writer (each session of a run) has an array of its own
in it, of shape (rows, columns) in float64: status, coordinates, values. One chunk is one tile, written once, in one
atomic step with a checksum; the tiles of an array are consecutive. So whatever is there is whole, and at most the tile
that had not been written yet is lost. No torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

GROUP = "journal"

_ROWS = 1024  # of a tile, at most
_TILES = 10**9  # an array may hold; those not written take no room
_SECONDS = 1.0  # between two tiles at least, and
_SHARE = 0.01  # no more of the time than this part goes into writing
_READ = 16  # tiles at a time


class Row(NamedTuple):
    """One point that was measured."""

    point: tuple[float, ...]
    status: int
    values: Mapping[str, float]


class Journal:
    """One writer's part of the journal of a store.

    Parameters
    ----------
    root : zarr.Group
        Of the store.
    before : callable, optional
        Called before a tile is written: what its rows speak of must be on disk by then.
    """

    def __init__(self, root: zarr.Group, before: Callable[[], None] | None = None) -> None:
        self._root, self._before = root, before
        self._array: zarr.Array[Any] | None = None
        self._names: tuple[str, ...] = ()
        self._waiting: list[list[float]] = []
        self._tiles = self._arrays = 0
        self._written, self._cost = time.monotonic(), 0.0
        self._writer = f"{time.time_ns():020d}-{os.getpid()}"

    def append(self, row: Row) -> None:
        """Take a row; it is on disk after the next `flush`, which comes by itself when there is enough to write."""
        if self._array is None or not set(row.values) <= set(self._names):
            self.flush()
            self._begin(row)
        self._waiting.append([row.status, *row.point, *(row.values.get(name, np.nan) for name in self._names)])
        since = time.monotonic() - self._written
        if len(self._waiting) == _ROWS or since > max(_SECONDS, self._cost / _SHARE):
            self.flush()

    def flush(self) -> None:
        """Write what waits as one tile."""
        if not self._waiting:
            return
        assert self._array is not None
        started = time.monotonic()
        if self._before is not None:
            self._before()
        tile = np.array(self._waiting, dtype=np.float64)
        start = self._tiles * _ROWS
        self._array[start : start + len(tile)] = tile
        self._tiles += 1
        self._waiting.clear()
        self._written = time.monotonic()
        self._cost = self._written - started

    def _begin(self, row: Row) -> None:
        """Begin an array with columns for this row's values."""
        self._names = tuple(dict.fromkeys([*self._names, *row.values]))
        columns = ["status", *(f"coordinate {i}" for i in range(len(row.point))), *self._names]
        self._array = self._root.require_group(GROUP).create_array(
            f"{self._writer}-{self._arrays:04d}",
            shape=(_ROWS * _TILES, len(columns)),
            chunks=(_ROWS, len(columns)),
            dtype="float64",
            fill_value=np.nan,
            serializer=BytesCodec(),
            compressors=(ZstdCodec(), Crc32cCodec()),
            attributes={"columns": columns},
        )
        self._arrays, self._tiles = self._arrays + 1, 0


def read(root: zarr.Group) -> list[Row]:
    """Every row of every writer, the earlier writer first; empty where there is no journal."""
    group = root.get(GROUP)
    if not isinstance(group, zarr.Group):
        return []
    return [row for name in sorted(group.array_keys()) for row in _rows(group[name])]  # type: ignore[arg-type]


def _rows(array: zarr.Array[Any]) -> Iterator[Row]:
    columns: Sequence[str] = array.attrs["columns"]  # type: ignore[assignment]
    k = sum(column.startswith("coordinate ") for column in columns)
    rows = array.chunks[0]
    for start in range(0, _TILES, _READ):
        block: NDArray[np.float64] = np.asarray(array[start * rows : (start + _READ) * rows])
        for row in block[~np.isnan(block[:, 0])].tolist():
            status, point, values = int(row[0]), tuple(row[1 : 1 + k]), row[1 + k :]
            yield Row(point, status, dict(zip(columns[1 + k :], values, strict=True)))
        if np.isnan(block[-rows:, 0]).all():
            return
