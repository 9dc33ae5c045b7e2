"""Tiles of points for workers: their size, their order, and tiles whose worker died."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence

Tile = tuple[int, ...]  # numbers of points

TILE_SECONDS = 0.5  # much longer than sending a tile (1 ms), and short enough to wait for when a run is stopped
_DRIVER_SECONDS = 3e-3  # time per tile of the process that sends tiles and receives outcomes
DEATHS = 3  # a point is recorded as failed after its worker died so often


def tile_seconds(workers: int) -> float:
    """Return how long a tile should take, so that one process can serve so many workers."""
    return max(TILE_SECONDS, workers * _DRIVER_SECONDS)


class Tiles:
    """A queue of points, from which tiles are taken in order.

    The size of a tile is chosen by the time of the last ones, so that a tile takes about half a second, or longer for
    many workers (see `tile_seconds`). The first tile is one unit. Towards the end tiles become smaller, so that all
    workers finish together.

    Parameters
    ----------
    count : int
        Number of points.
    unit : int
        Points that are evaluated together. A tile consists of whole units, with the boundaries of a single process.
    size : int, optional
        A fixed number of points per tile.
    seconds : float
        Seconds per point, if it is known from before.

    Attributes
    ----------
    seconds : float
        Seconds per point in the last tiles; nan before the first.
    largest : int
        Points in the largest tile so far.

    Examples
    --------
    >>> tiles = Tiles(5, size=2)
    >>> [tiles.take(workers=1) for _ in range(3)]
    [(0, 1), (2, 3), (4,)]
    """

    def __init__(self, count: int, unit: int = 1, size: int | None = None, seconds: float = math.nan) -> None:
        self.unit, self.size, self.seconds, self.largest = unit, size, seconds, 0
        self._waiting = deque(tuple(range(i, min(i + unit, count))) for i in range(0, count, unit))
        self._charges: Counter[int] = Counter()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def next_is_suspect(self) -> bool:
        """Whether a worker died while it evaluated the next point."""
        return bool(self._waiting) and self.is_suspect(self._waiting[0])

    def is_suspect(self, tile: Tile) -> bool:
        """Whether a worker died at this tile, which is then a single point and is evaluated alone.

        When a worker dies, a finished answer may be lost with it, and the death is attributed to the wrong tile. Only a
        point that had a worker to itself is certain to be the cause.
        """
        return tile[0] in self._charges

    def take(self, workers: int) -> Tile:
        """Return the next tile."""
        units, tile = self._units(workers), list(self._waiting.popleft())
        alone = self.is_suspect(tuple(tile))
        while units > 1 and self._waiting and not alone and not self.next_is_suspect and len(tile) % self.unit == 0:
            tile += self._waiting.popleft()
            units -= 1
        self.largest = max(self.largest, len(tile))
        return tuple(tile)

    def learn(self, tile: Tile, seconds: float) -> None:
        """Record how long a tile took."""
        each = seconds / len(tile)
        self.seconds = each if math.isnan(self.seconds) else (self.seconds + each) / 2

    def put_back(self, tiles: Sequence[Tile]) -> None:
        """Put tiles that were not begun back to the front of the queue."""
        for tile in reversed(tiles):
            units = [tile[i : i + self.unit] for i in range(0, len(tile), self.unit)]
            self._waiting.extendleft(reversed(units))

    def charge(self, tile: Tile) -> list[int]:
        """Put back a tile whose worker died, as single points; return the points that are given up."""
        self._charges.update(tile)
        lost = [number for number in tile if self._charges[number] >= DEATHS]
        self._waiting.extendleft((number,) for number in reversed(tile) if number not in lost)
        return lost

    def _units(self, workers: int) -> int:
        if self.size is not None:
            return max(1, self.size // self.unit)
        if math.isnan(self.seconds):
            return 1
        by_time = tile_seconds(workers) / max(1e-9, self.seconds * self.unit)
        fair = math.ceil(len(self._waiting) / (2 * max(1, workers)))
        return max(1, min(int(by_time), fair))
