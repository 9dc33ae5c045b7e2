"""From measured points to values between them, with how far off they may be. NumPy and SciPy only.

A polyharmonic spline (radial basis function r^5 with a quadratic) runs through every finite point, wherever the points
lie and in any number of dimensions. Losses span decades, so where all of them are positive their logarithm is what is
interpolated. How far off it is comes from leaving points out: each is predicted from the others (Rippa 1999).
"""

from __future__ import annotations

import itertools
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import RBFInterpolator
from scipy.spatial import ConvexHull, Delaunay, QhullError, cKDTree

Array = NDArray[np.float64]

_DIRECT = 1200  # points up to which one system of equations is solved for all
_SPARE = 0.5
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
        return self._limit(np.asarray(self._spline(scaled), np.float64), scaled)

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

    def left_out(self) -> Array:
        """How far each finite point is from what the others predict, shape (m,), as `difference` has it.

        All of them from one system of equations (Rippa 1999, eq. 6); beyond 1,200 points each is predicted from the
        four fifths that it is not in. Points at the corners of all others are predicted from one side: nan.
        """
        count, k = self.points.shape
        spline = self._spline
        if spline is None or count < 3:
            return np.full(count, np.nan)
        predicted = np.array(self._heights)
        if count > _DIRECT:
            fold = np.random.default_rng(0).permutation(count) % 5
            for i in range(5):
                rest = Interpolant(self.points[fold != i], self.losses(self._heights[fold != i]), log=self.log)
                predicted[fold == i] = rest.heights(self.points[fold == i])
        else:
            scaled = self._scale(self.points)
            distances = np.linalg.norm(scaled[:, None] - scaled[None], axis=-1)
            kernels = {"quintic": -(distances**5), "cubic": distances**3, "linear": -distances}
            degree = {"quintic": 2, "cubic": 1, "linear": 0}[spline.kernel]
            powers = [p for p in itertools.product(range(degree + 1), repeat=k) if sum(p) <= degree]
            terms = np.stack([np.prod(scaled**power, axis=1) for power in powers], axis=1)
            zeros = np.zeros((len(powers), len(powers)))
            inverse = np.linalg.pinv(np.block([[kernels[spline.kernel], terms], [terms.T, zeros]]))
            weights = inverse[:count, :count] @ self._heights
            predicted = self._limit(predicted - weights / np.diagonal(inverse)[:count], scaled, skip=1)
        found = self.difference(predicted, self.losses(self._heights))
        found[self._corners()] = np.nan
        return found

    def reaches(self, where: ArrayLike) -> NDArray[np.bool_]:
        """Whether each place of shape (n, k) lies between the points, and not outside of them all."""
        places = np.asarray(where, np.float64)
        if len(self.points) == 0:
            return np.zeros(len(places), bool)
        low, high = self.points.min(0), self.points.max(0)
        inside: NDArray[np.bool_] = ((places >= low - 1e-9) & (places <= high + 1e-9)).all(1)
        boxed = {tuple(corner) for corner in itertools.product(*zip(low, high, strict=True))}
        if self.points.shape[1] == 1 or boxed <= {tuple(point) for point in self.points}:
            return inside
        try:
            hull = Delaunay(self._scale(self.points))
        except QhullError:  # on one line
            return inside
        return np.asarray(inside & (hull.find_simplex(self._scale(places), tol=1e-9) >= 0), bool)

    def _corners(self) -> NDArray[np.intp]:
        if self.points.shape[1] == 1:
            return np.array([self.points[:, 0].argmin(), self.points[:, 0].argmax()])
        try:
            return np.asarray(ConvexHull(self.points).vertices, np.intp)
        except QhullError:
            return np.array([], np.intp)

    @property
    def range(self) -> float:
        """Highest minus lowest height; 1 where there is none."""
        spread = float(np.ptp(self._heights)) if len(self._heights) else 0.0
        return spread or 1.0

    # ------------------------------------------------------------------ inside

    def _limit(self, heights: Array, scaled: Array, skip: int = 0) -> Array:
        """Keep heights near those of the nearest points: a spline rings beside a cliff, and these do not.

        Half the range of the 3^k nearest is allowed beyond it; between points of a smooth function no more is needed.
        """
        count, k = self.points.shape
        nearest = min(3**k, count - skip)
        _, places = self._tree.query(scaled, nearest + skip)
        around = self._heights[places.reshape(len(scaled), -1)[:, skip:]]
        low, high = around.min(1), around.max(1)
        spare = _SPARE * (high - low)
        return np.clip(heights, low - spare, high + spare)

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self._scale(self.points))

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
