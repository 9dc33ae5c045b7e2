"""Points cut into tiles: how large, whose turn, and what becomes of a tile that killed its worker."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence

Tile = tuple[int, ...]  # numbers of points

TILE_SECONDS = 0.5  # long against the millisecond that sending a tile takes, short to wait for when a run is stopped
_DRIVER_SECONDS = 3e-3  # that the process which sends and takes back has for each tile
DEATHS = 3  # a point whose worker died so often is given up


def tile_seconds(workers: int) -> float:
    """How long a tile should take, so that one process can serve so many workers."""
    return max(TILE_SECONDS, workers * _DRIVER_SECONDS)


class Tiles:
    """Points that wait to be evaluated, handed out in order.

    A tile holds as many points as take about half a second by what the last ones took, or longer where workers are
    many (see `tile_seconds`); the first holds one unit. As the end comes near they get smaller, so that all workers
    finish together.

    Parameters
    ----------
    count : int
        How many points there are.
    unit : int
        Points that are evaluated together: a tile holds a multiple of it, cut where one process alone would cut.
    size : int, optional
        Points a tile, in place of what the clock says.
    seconds : float
        A point, where it is known from before.

    Attributes
    ----------
    seconds : float
        A point, by the last tiles; nan before the first.
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
        """Whether the worker of the next point died before."""
        return bool(self._waiting) and self.is_suspect(self._waiting[0])

    def is_suspect(self, tile: Tile) -> bool:
        """Whether a worker died at this tile: it is a single point by now, and best alone with a worker.

        An answer that was ready may be lost with the worker that dies at the tile behind it, and the wrong one is
        charged; so a charge is believed only of a point that had a worker to itself.
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
        """Say how long a tile took."""
        each = seconds / len(tile)
        self.seconds = each if math.isnan(self.seconds) else (self.seconds + each) / 2

    def put_back(self, tiles: Sequence[Tile]) -> None:
        """Take back tiles that nobody began: they are the next."""
        for tile in reversed(tiles):
            units = [tile[i : i + self.unit] for i in range(0, len(tile), self.unit)]
            self._waiting.extendleft(reversed(units))

    def charge(self, tile: Tile) -> list[int]:
        """Take back a tile whose worker died of it, as single points; return those that are given up."""
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
