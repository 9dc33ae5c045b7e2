"""The points at which a window is evaluated: all windows share one lattice.

The coordinates along an axis are middle + m 2^-k unit, with integers m and k. A finer level contains every point of a
coarser one, and so do overlapping windows: zooming and panning reuse the points that are already evaluated. Halving a
float does not round, so that a point has the same bits on every level and in every window. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_COARSEST = 4  # minimum number of steps across a window on its first level; the maximum is below twice that
_SLACK = 1e-9  # of a step: rounding does not move the end of a window off the lattice


class Lattice:
    """The lattice of a chart.

    Parameters
    ----------
    base : array of shape (k, 2)
        The ends of each axis, which are points of the lattice.

    Examples
    --------
    >>> levels = Lattice([(-1, 1)]).levels([(-1, 1)], side=9)
    >>> [axis.tolist() for (axis,) in levels]
    [[-1.0, -0.5, 0.0, 0.5, 1.0], [-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0]]
    """

    def __init__(self, base: ArrayLike) -> None:
        self.base = np.asarray(base, np.float64)
        self._middle = self.base.mean(1)
        self._unit = (self.base[:, 1] - self.base[:, 0]) / _COARSEST

    def levels(self, window: ArrayLike, side: int = 65, points: int = 4225) -> Iterator[list[Array]]:
        """Yield the axes of each level that covers a window, from coarse to fine.

        Parameters
        ----------
        window : array of shape (k, 2)
        side, points : int
            Maximum number of points of a level along each axis, and in all. The first level is always yielded.

        Yields
        ------
        list of k ndarray
            Increasing coordinates along each axis.
        """
        ranges = np.asarray(window, np.float64)
        depths = [
            math.ceil(math.log2(_COARSEST * unit / (high - low)) - _SLACK)
            for unit, (low, high) in zip(self._unit, ranges, strict=True)
        ]
        level = 0
        while True:
            axes = [self._axis(i, low, high, depths[i] + level) for i, (low, high) in enumerate(ranges)]
            sizes = [len(axis) for axis in axes]
            if level and (max(sizes) > side or math.prod(sizes) > points):
                return
            yield axes
            level += 1

    def _axis(self, i: int, low: float, high: float, depth: int) -> Array:
        step = self._unit[i] * 2.0**-depth
        first = math.floor((low - self._middle[i]) / step + _SLACK)
        last = math.ceil((high - self._middle[i]) / step - _SLACK)
        places: Array = self._middle[i] + np.arange(first, last + 1) * 2.0**-depth * self._unit[i]
        return places
