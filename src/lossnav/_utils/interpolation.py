"""From measured points to values between them, with how far off they may be. NumPy and SciPy only.

A polyharmonic spline (radial basis function r^5 with a quadratic) runs through every finite point, wherever the points
lie and in any number of dimensions; points on one line in a plane are interpolated along it. Losses span decades, so
where all of them are positive their logarithm is what is interpolated. How far off it is comes from leaving points out:
each is predicted from the others (Rippa 1999).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossnav._utils.geometry import distinct
from lossnav._utils.lazy_import import lazily
from lossnav._utils.local_splines import DEGREES, LocalSpline

if TYPE_CHECKING:
    from scipy import interpolate, spatial
else:
    interpolate, spatial = lazily("scipy.interpolate"), lazily("scipy.spatial")

Array = NDArray[np.float64]

DIRECT = 1200  # points up to which one system of equations is solved for all
_NEIGHBORS = 80  # beyond that, each value comes from so many nearest points
_MANY = 10_000  # beyond that, those of a line or plane from half as many in half the time, as far from the truth to 3 %
_DIRECT_AT_WORST = 4000  # where these lie on one line; a few seconds
_FOLDS = 5
_SIDES = 2000  # of a hull, up to which a place is held against each
_CROWDED = 4  # times as many points along one coordinate as along another
_SPARE = 0.5
_MISSED = 1e-6  # of the range: a spline that is off by more at its own points is none
_ONE_PLACE = 1e-9  # of the range: nearer than this, points are one, and a place is on a line


class Interpolant:
    """A smooth function through measured losses.

    Parameters
    ----------
    points : array of shape (m, k)
    values : array of shape (m,)
        Those that are not finite are left out. Points that are one but for rounding become one, of their mean height:
        a spline through both would swing.
    log : bool, optional
        Whether the logarithm is interpolated; by default where all finite values are positive.

    Attributes
    ----------
    log : bool
    """

    def __init__(self, points: ArrayLike, values: ArrayLike, log: bool | None = None) -> None:
        places, losses = np.asarray(points, np.float64), np.asarray(values, np.float64)
        low, high = (places.min(0), places.max(0)) if len(places) else (np.zeros(1), np.ones(1))
        self._middle, self._half = (low + high) / 2, np.where(high > low, (high - low) / 2, 1.0) / _crowding(places)
        finite = np.isfinite(losses)
        places = places[finite]
        self._which: NDArray[np.intp] | None = None  # of fewer points each one is
        if len(places):
            which = distinct(places, _ONE_PLACE)
            _, first = np.unique(which, return_index=True)
            if len(first) < len(places):
                places, self._which = places[first], which
        self.points = places
        self._take(losses[finite], log)

    def _take(self, losses: Array, log: bool | None) -> None:
        """Take the finite losses."""
        self.log = bool((losses > 0).all()) if log is None else log
        heights = np.log(losses) if self.log else losses
        if self._which is not None:
            heights = np.bincount(self._which, heights) / np.bincount(self._which)
        self._heights = heights

    def of(self, values: ArrayLike) -> Interpolant:
        """An interpolant of another variable that is finite at the same points.

        Examples
        --------
        >>> points = np.linspace(-1, 1, 9)[:, None]
        >>> losses = Interpolant(points, (points**2).sum(1), log=False)
        >>> float(losses.of(1 - 2 * points[:, 0])([[0.25]])[0].round(6))
        0.5
        """
        other, values = copy(self), np.asarray(values, np.float64)
        other.__dict__.pop("_spline", None)
        other._take(values[np.isfinite(values)], None)
        return other

    def heights(self, where: ArrayLike) -> Array:
        """The logarithm of the loss, or the loss itself, at places of shape (n, k): shape (n,)."""
        scaled = self._scale(np.asarray(where, np.float64))
        if len(scaled) == 0 or self._spline is None:
            return np.full(len(scaled), self._heights.mean() if len(self._heights) else np.nan)
        try:
            heights = self._spline(scaled)
        except np.linalg.LinAlgError:  # of a place's nearest points, which are asked only now: all on one line, say
            self._spline = self._whole(self._spline.kernel)
            heights = self._spline(scaled)
        return self._limit(np.asarray(heights, np.float64), self._around(scaled))

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

    def left_out(self, most: int | None = None) -> Array:
        """How far each finite point is from what the others predict, shape (m,), as `difference` has it.

        All of them from one system of equations (Rippa 1999, eq. 6); beyond 1,200 points each is predicted from the
        four fifths that it is not in. Points at the corners of all others are predicted from one side: nan.

        Parameters
        ----------
        most : int, optional
            Of more points a random sample of so many is predicted (from all of those four fifths), and the others are
            nan too. The same points are chosen each time.
        """
        scaled, spline = self._places, self._spline
        count, k = scaled.shape
        if spline is None or count < 3:
            return np.full(count, np.nan)
        if count > DIRECT:
            return self._left_out_by_fifths(count if most is None else most)
        predicted = np.array(self._heights)
        distances = np.linalg.norm(scaled[:, None] - scaled[None], axis=-1)
        kernels = {"quintic": -(distances**5), "cubic": distances**3, "linear": -distances}
        degree = DEGREES[spline.kernel]
        powers = [p for p in itertools.product(range(degree + 1), repeat=k) if sum(p) <= degree]
        terms = np.stack([np.prod(scaled**power, axis=1) for power in powers], axis=1)
        zeros = np.zeros((len(powers), len(powers)))
        inverse = np.linalg.pinv(np.block([[kernels[spline.kernel], terms], [terms.T, zeros]]))
        weights = inverse[:count, :count] @ self._heights
        predicted = self._limit(predicted - weights / np.diagonal(inverse)[:count], self._around(scaled, skip=1))
        errors = self.difference(predicted, self.losses(self._heights))
        errors[self._corners()] = np.nan
        return errors

    def _left_out_by_fifths(self, most: int) -> Array:
        """The same of up to so many points, each from the fifths that it is not in."""
        count = len(self.points)
        fold = np.random.default_rng(0).permutation(count) % _FOLDS
        asked = np.setdiff1d(np.arange(count), self._corners())
        if len(asked) > most:
            asked = np.sort(np.random.default_rng(1).choice(asked, most, replace=False))
        predicted = self._from_other_folds(fold, asked)
        errors = np.full(count, np.nan)
        errors[asked] = self.difference(predicted, self.losses(self._heights[asked]))
        return errors

    def _from_other_folds(self, fold: NDArray[np.intp], asked: NDArray[np.intp]) -> Array:
        """Heights of points that are given by number, each predicted from those of other folds."""
        spline, k = self._spline, self._places.shape[1]
        if isinstance(spline, LocalSpline):
            scaled, nearest = self._places[asked], min(2 * spline.neighbors, len(fold))
            _, near = self._tree.query(scaled, nearest)
            others = fold[near] != fold[asked, None]
            if (others.sum(1) >= spline.neighbors).all():  # the nearest of them, in their order
                first = np.argsort(~others, axis=1, kind="stable")[:, : spline.neighbors]
                near = np.take_along_axis(near, first, axis=1)
                with suppress(np.linalg.LinAlgError):
                    return self._limit(spline.through(scaled, near), near[:, : 3**k])
        predicted = np.empty(len(asked))
        for i in range(_FOLDS):
            mine = fold[asked] == i
            rest = Interpolant(self.points[fold != i], self.losses(self._heights[fold != i]), log=self.log)
            predicted[mine] = rest.heights(self.points[asked[mine]])
        return predicted

    def reaches(self, where: ArrayLike) -> NDArray[np.bool_]:
        """Whether each place of shape (n, k) lies between the points, and not outside of them all.

        Between points on one line (a trajectory in its plane, say) lies that line alone, from end to end.
        """
        raw = (np.asarray(where, np.float64) - self._middle) / self._half
        if len(self.points) == 0:
            return np.zeros(len(raw), bool)
        places, points = raw, self._places
        on_it = np.ones(len(raw), bool)
        if self._span is not None:
            start, basis = self._span
            places = (raw - start) @ basis
            on_it = np.linalg.norm(raw - start - places @ basis.T, axis=1) <= _ONE_PLACE
        low, high = points.min(0), points.max(0)
        inside: NDArray[np.bool_] = on_it & ((places >= low - _ONE_PLACE) & (places <= high + _ONE_PLACE)).all(1)
        boxed = itertools.product(*zip(low, high, strict=True))
        if points.shape[1] <= 1 or all((points == corner).all(1).any() for corner in boxed):
            return inside
        inside[inside] = self._hull_holds(places[inside])
        return inside

    def _hull_holds(self, places: Array) -> NDArray[np.bool_]:
        """Whether places lie in the hull of the points, for which its corners are enough."""
        hull = self._hull
        if len(hull.equations) > _SIDES:  # a circle of points, say
            return np.asarray(spatial.Delaunay(self._places[hull.vertices]).find_simplex(places, tol=1e-9) >= 0, bool)
        inside = np.ones(len(places), bool)
        for *normal, offset in np.unique(hull.equations, axis=0):
            inside &= places @ np.array(normal) + offset <= _ONE_PLACE
        return inside

    @cached_property
    def _hull(self) -> spatial.ConvexHull:
        return spatial.ConvexHull(self._places)

    def _corners(self) -> NDArray[np.intp]:
        points = self._places
        if points.shape[1] == 1:
            return np.array([points[:, 0].argmin(), points[:, 0].argmax()])
        return np.asarray(self._hull.vertices, np.intp)

    @property
    def range(self) -> float:
        """Highest minus lowest height; 1 where there is none."""
        spread = float(np.ptp(self._heights)) if len(self._heights) else 0.0
        return spread or 1.0

    # ------------------------------------------------------------------ inside

    def _limit(self, heights: Array, around: NDArray[np.intp]) -> Array:
        """Keep heights near those of the nearest points: a spline rings beside a cliff, and these do not.

        Half the range of the 3^k nearest is allowed beyond it; between points of a smooth function no more is needed.
        """
        nearest = self._heights[around]
        low, high = nearest.min(1), nearest.max(1)
        spare = _SPARE * (high - low)
        return np.clip(heights, low - spare, high + spare)

    def _around(self, scaled: Array, skip: int = 0) -> NDArray[np.intp]:
        """The numbers of the 3^k nearest points of each place; but for the very nearest, where these are skipped."""
        count, k = self._places.shape
        nearest = min(3**k, count - skip)
        _, places = self._tree.query(scaled, nearest + skip)
        return np.asarray(places, np.intp).reshape(len(scaled), -1)[:, skip:]

    @cached_property
    def _tree(self) -> spatial.cKDTree:
        return spatial.cKDTree(self._places)

    @cached_property
    def _span(self) -> tuple[Array, Array] | None:
        """Of points on a line or a plane of fewer than k dimensions: one of them, and its directions (k, r)."""
        scaled = (self.points - self._middle) / self._half
        if len(scaled) == 0:
            return None
        _, sizes, directions = np.linalg.svd(scaled - scaled[0], full_matrices=False)
        basis = directions[sizes > _ONE_PLACE].T
        return None if basis.shape[1] == scaled.shape[1] else (scaled[0], basis)

    def _scale(self, where: Array) -> Array:
        """Places in units of half the range; where the points span less than k dimensions, as those of what they do."""
        scaled = (where - self._middle) / self._half
        return scaled if self._span is None else (scaled - self._span[0]) @ self._span[1]

    @cached_property
    def _places(self) -> Array:
        return self._scale(self.points)

    @cached_property
    def _spline(self) -> interpolate.RBFInterpolator | LocalSpline | None:
        count, k = self._places.shape
        kernel = next((kernel for kernel, d in DEGREES.items() if count >= 2 * _terms(k, d)), None)
        if kernel is None or k == 0:
            return None
        return self._local(kernel) if count > DIRECT else self._whole(kernel)

    def _whole(self, kernel: str) -> interpolate.RBFInterpolator | LocalSpline:
        """One spline through all points, or a plainer one; the plainest where they are too many.

        Points crowded at a cliff make the system of a smooth kernel so ill-conditioned that its spline misses them, by
        6 % of the loss where 119 points on a line were 0.0007 apart at one place and 0.08 at others.
        """
        if len(self.points) <= _DIRECT_AT_WORST:
            for plainer in list(DEGREES)[list(DEGREES).index(kernel) :]:
                try:
                    spline = interpolate.RBFInterpolator(
                        self._places, self._heights, kernel=plainer, degree=DEGREES[plainer]
                    )
                except np.linalg.LinAlgError:  # all on a curve that a polynomial vanishes on: a circle, two lines
                    continue
                if np.abs(spline(self._places) - self._heights).max() <= _MISSED * self.range:
                    return spline
        return self._local("linear")

    def _local(self, kernel: str) -> LocalSpline:
        count, k = self._places.shape
        neighbors = _NEIGHBORS // 2 if count > _MANY and k <= 2 else _NEIGHBORS
        return LocalSpline(self._places, self._heights, kernel, neighbors, self._tree)


def interpolants(points: Array, columns: Mapping[str, Array]) -> dict[str, Interpolant]:
    """An interpolant of each of several variables; those that are finite at the same points share what takes long.

    Parameters
    ----------
    points : array of shape (m, k)
    columns : mapping of str to array of shape (m,)
    """
    made: dict[str, Interpolant] = {}
    first: dict[bytes, Interpolant] = {}  # by the points that it is finite at
    for name, values in columns.items():
        mask = np.isfinite(values).tobytes()
        made[name] = first[mask].of(values) if mask in first else Interpolant(points, values)
        first.setdefault(mask, made[name])
    return made


def together(interpolants: Sequence[Interpolant], where: ArrayLike) -> list[Array]:
    """Losses of several variables at the same places; what was measured at the same points is one system of equations.

    Parameters
    ----------
    interpolants : sequence of s Interpolant
    where : array of shape (n, k)

    Returns
    -------
    list of s ndarray of shape (n,)
        What each interpolant gives by itself.
    """
    losses: list[Array | None] = [None] * len(interpolants)
    for i, first in enumerate(interpolants):
        if losses[i] is not None:
            continue
        alike = [j for j in range(i, len(interpolants)) if losses[j] is None and _are_alike(first, interpolants[j])]
        spline = first._spline
        if len(alike) == 1 or not isinstance(spline, LocalSpline):
            losses[i] = first(where)
            continue
        scaled = first._scale(np.asarray(where, np.float64))
        columns = np.stack([interpolants[j]._heights for j in alike], axis=1)
        try:
            heights = LocalSpline(spline.points, columns, spline.kernel, spline.neighbors, first._tree)(scaled)
        except np.linalg.LinAlgError:  # each finds its own way out
            losses[i] = first(where)
            continue
        around = first._around(scaled)
        for j, column in zip(alike, heights.T, strict=True):
            losses[j] = interpolants[j].losses(interpolants[j]._limit(column, around))
    return [found for found in losses if found is not None]


def _are_alike(one: Interpolant, other: Interpolant) -> bool:
    """Whether two have the same points in the same units."""
    return np.array_equal(one.points, other.points) and np.array_equal(one._half, other._half)


def _crowding(places: Array) -> Array:
    """How much denser points lie along each coordinate than along the sparsest; 1 where that is not far off.

    Distances are measured in such steps: of a grid of 501 x 3 points the nearest are not all on one line.
    """
    counts = np.array([len(np.unique(column)) for column in places.T] or [1])
    return counts / counts.min() if counts.max() > _CROWDED * counts.min() else np.ones(len(counts))


def _terms(k: int, degree: int) -> int:
    """Number of monomials up to a degree in k variables."""
    return (1, 1 + k, (k + 1) * (k + 2) // 2)[degree]
