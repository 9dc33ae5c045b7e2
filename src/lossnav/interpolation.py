"""From measured points to values between them, with how far off they may be. NumPy and SciPy only.

A polyharmonic spline (radial basis function r^5 with a quadratic) runs through every finite point, wherever the points
lie and in any number of dimensions. Losses span decades, so where all of them are positive their logarithm is what is
interpolated. How far off it is comes from leaving points out: each is predicted from the others (Rippa 1999).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import RBFInterpolator

Array = NDArray[np.float64]

_DIRECT = 1200  # points up to which one system of equations is solved for all
_NEIGHBORS = 80  # beyond that, each value comes from so many nearest points


class Interpolant:
    """A smooth function through measured losses.

    Parameters
    ----------
    points : array of shape (m, k)
    values : array of shape (m,)
        Those that are not finite are left out.
    log : bool, optional
        Whether the logarithm is interpolated; by default where all finite values are positive.

    Attributes
    ----------
    log : bool
    """

    def __init__(self, points: ArrayLike, values: ArrayLike, log: bool | None = None) -> None:
        places, losses = np.asarray(points, np.float64), np.asarray(values, np.float64)
        finite = np.isfinite(losses)
        self.points, losses = places[finite], losses[finite]
        self.log = bool((losses > 0).all()) if log is None else log
        self._heights = np.log(losses) if self.log else losses
        low, high = (places.min(0), places.max(0)) if len(places) else (np.zeros(1), np.ones(1))
        self._middle, self._half = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0)

    def heights(self, where: ArrayLike) -> Array:
        """The logarithm of the loss, or the loss itself, at places of shape (n, k): shape (n,)."""
        scaled = self._scale(np.asarray(where, np.float64))
        if len(scaled) == 0 or self._spline is None:
            return np.full(len(scaled), self._heights.mean() if len(self._heights) else np.nan)
        return np.asarray(self._spline(scaled), np.float64)

    def __call__(self, where: ArrayLike) -> Array:
        """Losses at places of shape (n, k): shape (n,)."""
        return self.losses(self.heights(where))

    def losses(self, heights: Array) -> Array:
        """Heights as losses."""
        return np.exp(heights) if self.log else heights

    def difference(self, heights: Array, losses: Array) -> Array:
        """How far heights are from losses: a relative difference of the loss; without logarithms, of the range."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            if self.log:
                return np.abs(np.expm1(heights - np.log(losses)))
            return np.abs(heights - losses) / max(self.range, 1e-300)

    @property
    def range(self) -> float:
        """Highest minus lowest height; 1 where there is none."""
        spread = float(np.ptp(self._heights)) if len(self._heights) else 0.0
        return spread or 1.0

    # ------------------------------------------------------------------ inside

    def _scale(self, where: Array) -> Array:
        return (where - self._middle) / self._half

    @cached_property
    def _spline(self) -> RBFInterpolator | None:
        count, k = self.points.shape if self.points.ndim == 2 else (0, 1)
        degree = next((d for d in (2, 1, 0) if count >= 2 * _terms(k, d)), None)
        if degree is None:
            return None
        kernel = {2: "quintic", 1: "cubic", 0: "linear"}[degree]
        neighbors = _NEIGHBORS if count > _DIRECT else None
        try:
            return RBFInterpolator(
                self._scale(self.points), self._heights, kernel=kernel, degree=degree, neighbors=neighbors
            )
        except np.linalg.LinAlgError:  # all points on one line, say
            return RBFInterpolator(self._scale(self.points), self._heights, kernel="linear", degree=0)


def _terms(k: int, degree: int) -> int:
    """Number of monomials up to a degree in k variables."""
    return (1, 1 + k, (k + 1) * (k + 2) // 2)[degree]
