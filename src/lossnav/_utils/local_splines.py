"""Polyharmonic splines through the points nearest to each place, many places at a time. NumPy and SciPy only.

SciPy's `RBFInterpolator(neighbors=...)` finds the same values in a loop over places; of 100,000 points on a grid of
101 x 101 places that took 31 s, with one call for each variable and one for each error. Here systems are built and
solved in blocks that stay in the cache, and those of several variables have one matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossnav._utils.lazy_import import lazily

if TYPE_CHECKING:
    from scipy import spatial
else:
    spatial = lazily("scipy.spatial")

Array = NDArray[np.float64]
Numbers = NDArray[np.intp]

DEGREES = {"quintic": 2, "cubic": 1, "linear": 0}  # of the polynomial that goes with a kernel

_KERNELS: dict[str, Callable[[Array], Array]] = {  # of squared distances: a power of 5/2 takes ten times as long
    "quintic": lambda square: _times(square, _times(square, np.sqrt(square), -1.0)),
    "cubic": lambda square: _times(square, np.sqrt(square)),
    "linear": lambda square: np.negative(np.sqrt(square)),
}
_BLOCK = 2**17  # entries of the matrices that are solved together: 1 MB


class LocalSpline:
    """Through the nearest points of each place goes a spline of its own, which is evaluated there.

    Parameters
    ----------
    points : array of shape (m, k)
    heights : array of shape (m,) or (m, s)
        Of s variables.
    kernel : "quintic", "cubic" or "linear"
    neighbors : int
        Of points for each place, at most m.

    Examples
    --------
    >>> points = np.random.default_rng(0).uniform(-1, 1, (300, 2))
    >>> LocalSpline(points, (points**2).sum(1), "quintic", 80)([[0.3, 0.4]]).round(6)
    array([0.25])
    """

    def __init__(
        self, points: ArrayLike, heights: ArrayLike, kernel: str, neighbors: int, tree: spatial.cKDTree | None = None
    ) -> None:
        self.points, self.heights = np.asarray(points, np.float64), np.asarray(heights, np.float64)
        self.kernel, self.neighbors = kernel, min(neighbors, len(self.points))
        self._tree = spatial.cKDTree(self.points) if tree is None else tree

    def __call__(self, places: ArrayLike) -> Array:
        """Heights at places of shape (n, k): shape (n,) or (n, s).

        Raises
        ------
        LinAlgError
            If the nearest points of a place lie where a polynomial of the kernel's degree vanishes: on one line, say.
        """
        where = np.asarray(places, np.float64)
        if not len(where):
            return np.empty((0, *self.heights.shape[1:]))
        _, near = self._tree.query(where, self.neighbors)
        return self.through(where, near.reshape(len(where), -1))

    def through(self, places: Array, near: Numbers) -> Array:
        """The same through points that are given by their numbers, shape (n, p)."""
        sets, which = np.unique(np.sort(near, axis=1), axis=0, return_inverse=True)
        order = np.argsort(which.reshape(-1), kind="stable")  # places of one set stand together
        ends = np.searchsorted(which.reshape(-1)[order], np.arange(len(sets) + 1))
        terms = _terms(self.points.shape[1], DEGREES[self.kernel])
        step = max(1, _BLOCK // (near.shape[1] + len(terms)) ** 2)
        found = np.empty((len(places), *self.heights.shape[1:]))
        for start in range(0, len(sets), step):
            chosen = order[ends[start] : ends[min(start + step, len(sets))]]
            mine = which.reshape(-1)[chosen] - start
            found[chosen] = self._solved(sets[start : start + step], places[chosen], mine, terms)
        return found

    def _solved(self, sets: Numbers, places: Array, which: Numbers, terms: list[tuple[int, ...]]) -> Array:
        """Values at places of shape (n, k), each by the spline of one of the sets."""
        corners = self.points.T[:, sets]  # (k, b, p): contiguous along each coordinate
        low, high = corners.min(2), corners.max(2)
        middle, half = (low + high) / 2, (high - low).max(0) / 2
        # one unit for all coordinates: such splines do not depend on it, and their systems are the better conditioned
        half = np.where(half > 0, half, 1.0)
        corners = (corners - middle[..., None]) / half[:, None]
        count, (_, b, p) = len(terms), corners.shape
        system = np.zeros((b, p + count, p + count))
        system[:, :p, :p] = self._kernel(corners[..., None], corners[:, :, None])
        polynomials = _monomials(corners, terms)  # (terms, b, p)
        system[:, p:, :p] = polynomials.transpose(1, 0, 2)
        system[:, :p, p:] = polynomials.transpose(1, 2, 0)
        heights = self.heights.reshape(len(self.heights), -1)
        right = np.zeros((b, p + count, heights.shape[1]))
        right[:, :p] = heights[sets]
        weights = np.linalg.solve(system, right)  # (b, p + count, s)
        if not np.isfinite(weights).all():
            raise np.linalg.LinAlgError("Singular matrix.")
        at = (places.T - middle[:, which]) / half[which]  # (k, n)
        row = np.concatenate([self._kernel(at[..., None], corners[:, which]), _monomials(at, terms).T], axis=1)
        values: Array = (row[:, None] @ weights[which])[:, 0]
        return values.reshape(len(places), *self.heights.shape[1:])

    def _kernel(self, a: Array, b: Array) -> Array:
        square: Array = np.square(a[0] - b[0])
        for i in range(1, len(a)):
            away = a[i] - b[i]
            square += _times(away, away)
        return _KERNELS[self.kernel](square)


def _times(a: Array, into: Array, factor: float = 1.0) -> Array:
    """The product of two arrays, in the place of the second: new memory takes longer than the numbers."""
    np.multiply(a, into, out=into)
    return into if factor == 1.0 else np.multiply(into, factor, out=into)


def _terms(k: int, degree: int) -> list[tuple[int, ...]]:
    """Exponents of the monomials up to a degree in k variables."""
    return [powers for powers in itertools.product(range(degree + 1), repeat=k) if sum(powers) <= degree]


def _monomials(places: Array, terms: list[tuple[int, ...]]) -> Array:
    """Of places of shape (k, ...): shape (terms, ...)."""
    made = np.ones((len(terms), *places.shape[1:]))
    for into, powers in zip(made, terms, strict=True):
        for x, power in zip(places, powers, strict=True):
            for _ in range(power):
                into *= x
    return made
