"""Automatic ranges, which end where the loss has risen by a given factor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossnav.errors import SamplerError
from lossnav.samplers.base import Losses, PointArray

Ask = Callable[[PointArray], Losses]

RISE = 10.0
_SMALLEST = 2.0**-10


@dataclass(frozen=True)
class AutoRange:
    """A range [-r, r], with r the smallest power of two at which the loss has risen by a factor.

    Attributes
    ----------
    rise : float
        The higher of the two losses at the ends is at least this multiple of the centre's.
    cap : float
        Largest r, however flat the surface.
    """

    rise: float = RISE
    cap: float = 16.0

    def __post_init__(self) -> None:
        if not self.rise > 1 or not _SMALLEST < self.cap < math.inf:
            raise SamplerError(
                f"rise must be above 1, and cap finite and above {_SMALLEST:g}, got rise={self.rise} and "
                f"cap={self.cap}. Pass rise=10 and cap=16."
            )

    def find(self, i: int, k: int, losses: Ask) -> dict[str, Any]:
        """Find r along coordinate i of k, all others zero.

        Returns
        -------
        dict
            ``reach`` (r), ``rise`` (requested factor), ``found`` (factor at r), ``capped`` (the rise was smaller),
            ``floored`` (the rise was reached at the smallest r that is tried; a smaller one may do), ``points`` (number
            of evaluated points).
        """
        center = float(losses(np.zeros((1, k)))[0])
        found: dict[float, float] = {}

        def risen(r: float) -> bool:
            ends = np.zeros((2, k))
            ends[:, i] = -r, r
            heights = losses(ends)
            found[r] = float(np.max(heights)) / center if np.isfinite(heights).all() else math.inf
            return found[r] >= self.rise

        if not center > 0:
            raise SamplerError(
                f"An automatic range needs a positive loss at the centre, got {center:g}. Give the ends of the axes."
            )
        r = min(1.0, self.cap)
        if risen(r):
            while r / 2 >= _SMALLEST and risen(r / 2):
                r /= 2
        else:
            while r < self.cap and not risen(r := min(2 * r, self.cap)):
                pass
        return {
            "reach": r,
            "rise": self.rise,
            "found": found[r],
            "capped": found[r] < self.rise,
            "floored": found[r] >= self.rise and r / 2 < _SMALLEST,
            "points": 1 + 2 * len(found),
        }


def find_ranges(dims: Sequence[str], wanted: dict[str, AutoRange], losses: Ask) -> dict[str, dict[str, Any]]:
    """Find the range of every coordinate with an automatic one, by name."""
    return {dim: wanted[dim].find(i, len(dims), losses) for i, dim in enumerate(dims) if dim in wanted}
