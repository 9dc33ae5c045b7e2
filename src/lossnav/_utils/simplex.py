"""The hull of a few points, and the weights of each in the point of it that is nearest to a given one."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_ROUNDING = 1e-12  # of weights: what is so near a corner, or so little outside, is there but for rounding


class SimplexCoordinates:
    """One point, a segment, a triangle or a tetrahedron.

    Parameters
    ----------
    corners : array of shape (m, k)
        Independent, so m <= k + 1. Coordinates that are the same in all corners do not count.
    metric : array of shape (k, k), optional
        Inner products of the coordinates' directions, for what is near. By default they are perpendicular.

    Examples
    --------
    >>> segment = SimplexCoordinates([[0.0, 0.0], [1.0, 0.0]])
    >>> segment.weights([0.25, 7.0]), segment.weights([-3.0, 0.0])
    (array([0.75, 0.25]), array([1., 0.]))
    >>> segment.holds([[0.25, 7.0], [-3.0, 0.0]])
    array([ True, False])
    """

    def __init__(self, corners: ArrayLike, metric: ArrayLike | None = None) -> None:
        self.corners = np.atleast_2d(np.asarray(corners, np.float64))
        self.axes = np.flatnonzero((self.corners != self.corners[0]).any(0))
        metric = np.eye(self.corners.shape[1]) if metric is None else np.asarray(metric, np.float64)
        self._metric = metric[np.ix_(self.axes, self.axes)]
        self._within = self.corners[:, self.axes]  # (m, k')
        m = len(self.corners)
        self._faces = [self._face(face) for size in range(m, 0, -1) for face in combinations(range(m), size)]

    def weights(self, point: ArrayLike) -> Array:
        """Barycentric weights of the nearest point of the hull, shape (m,): none negative, of sum 1.

        Exactly one of them is 1 at a corner. Of a point that is not finite they are those of the first corner.
        """
        x = np.asarray(point, np.float64).reshape(-1)[self.axes]
        best: Array = np.eye(len(self.corners))[0]
        least = np.inf
        if not np.isfinite(x).all():
            return best
        for number, (face, onto) in enumerate(self._faces):
            weights: Array = np.zeros(len(self.corners))
            inner = onto @ (x - self._within[face[0]])
            weights[list(face)] = [1.0 - inner.sum(), *inner]
            if weights.min() < -_ROUNDING:
                continue
            weights = np.clip(weights, 0.0, None)
            weights = np.eye(len(weights))[weights.argmax()] if weights.max() > 1 - _ROUNDING else weights
            off = x - weights @ self._within
            distance = float(off @ self._metric @ off)
            if number == 0:  # the nearest point of all that the corners span
                return weights
            if distance < least:
                best, least = weights, distance
        return best

    def nearest(self, weights: Array) -> int:
        """Number of the corner that is nearest to a point of the hull with these weights; the first of several."""
        off = self._within - weights @ self._within  # (m, k')
        return int(np.einsum("ij,jk,ik->i", off, self._metric, off).argmin())

    def holds(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Whether points of shape (n, k) lie in the hull, whatever their coordinates that do not count are."""
        x = np.asarray(points, np.float64)[:, self.axes]
        (face, onto), *_ = self._faces
        inner = (x - self._within[face[0]]) @ onto.T
        weights = np.column_stack([1.0 - inner.sum(1), inner])
        with np.errstate(invalid="ignore"):
            return np.asarray((weights >= -_ROUNDING).all(1), dtype=np.bool_)

    def _face(self, face: tuple[int, ...]) -> tuple[tuple[int, ...], Array]:
        """A face, and the matrix that takes what a point is off its first corner to the weights of the others."""
        edges = self._within[list(face[1:])] - self._within[face[0]]  # (s, k')
        if not len(edges):
            return face, np.zeros((0, len(self.axes)))
        return face, np.linalg.solve(edges @ self._metric @ edges.T, edges @ self._metric)


class Triangulation:
    """The hull of points that may lie between each other: simplices that share their faces.

    Parameters
    ----------
    corners : array of shape (m, k)
        Different ones.
    metric : array of shape (k, k), optional
        As of `SimplexCoordinates`; what is a Delaunay triangulation depends on it.

    Examples
    --------
    >>> chain = Triangulation([[0.0], [1.0], [0.5]])
    >>> chain.weights([0.75]), chain.weights([0.5]), chain.holds([[0.2], [2.0]])
    (array([0. , 0.5, 0.5]), array([0., 0., 1.]), array([ True, False]))
    """

    def __init__(self, corners: ArrayLike, metric: ArrayLike | None = None) -> None:
        self.corners = np.atleast_2d(np.asarray(corners, np.float64))
        self._metric = np.eye(self.corners.shape[1]) if metric is None else np.asarray(metric, np.float64)
        self._simplices = [(s, SimplexCoordinates(self.corners[list(s)], self._metric)) for s in self._divided()]

    def weights(self, point: ArrayLike) -> Array:
        """Barycentric weights of the nearest point of the hull, shape (m,), in the simplex that it lies in."""
        best, least = np.zeros(len(self.corners)), np.inf
        for numbers, simplex in self._simplices:
            weights = np.zeros(len(self.corners))
            weights[list(numbers)] = simplex.weights(point)
            if len(self._simplices) == 1:
                return weights
            off = (np.asarray(point, np.float64).reshape(-1) - weights @ self.corners)[simplex.axes]
            distance = float(off @ self._metric[np.ix_(simplex.axes, simplex.axes)] @ off)
            if distance < least or not best.any():  # the first for what is not finite
                best, least = weights, distance
        return best

    def nearest(self, weights: Array) -> int:
        """Number of the corner that is nearest to a point of the hull with these weights; the first of several."""
        axes = self._simplices[0][1].axes
        off = (self.corners - weights @ self.corners)[:, axes]
        return int(np.einsum("ij,jk,ik->i", off, self._metric[np.ix_(axes, axes)], off).argmin())

    def holds(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Whether points of shape (n, k) lie in the hull, whatever their coordinates that do not count are."""
        found: NDArray[np.bool_] = np.any([simplex.holds(points) for _, simplex in self._simplices], axis=0)
        return found

    def _divided(self) -> list[tuple[int, ...]]:
        """The corners of each simplex, by number."""
        m = len(self.corners)
        edges = (self.corners - self.corners[0]) @ np.linalg.cholesky(self._metric)  # lengths are those in weights
        _, sizes, axes = np.linalg.svd(edges, full_matrices=False)
        rank = int((sizes > 1e-9 * max(sizes[0], 1e-300)).sum())
        if rank == m - 1:
            return [tuple(range(m))]
        flat = edges @ axes[:rank].T
        if rank == 1:
            order = np.argsort(flat[:, 0])
            return [(int(i), int(j)) for i, j in pairwise(order)]
        from scipy.spatial import Delaunay  # heavy, and hardly ever needed

        return [tuple(int(i) for i in simplex) for simplex in Delaunay(flat / sizes[0]).simplices]
