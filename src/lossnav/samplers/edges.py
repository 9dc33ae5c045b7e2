"""Tips and folds between measured points, fitted to the points around each cell. NumPy and SciPy only."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.lazy_import import lazily

if TYPE_CHECKING:
    from scipy import spatial
else:
    spatial = lazily("scipy.spatial")

Array = NDArray[np.float64]

_ALONG = {1: 9, 2: 7, 3: 5}  # places tried along each axis of a cell; 3 for more axes
_TURNS, _OFFSETS = 12, 9  # folds tried: directions in a plane; offsets from one end of a cell to the other
_NEAR = 0.5  # squared distance, in sides of a cell, within which points have about the same weight
_RIDGE = 1e-10  # relative: keeps the equations solvable
_TRACE = 0.05  # of the height that matters: if a paraboloid fits better than this, there is no edge
_BETTER = 0.5  # an edge must have at most this part of a paraboloid's squared residuals
_CLEAR = (2.5, 3.5)  # in residuals: the least difference of a tip, and of a fold, from the spline


@dataclass(frozen=True)
class Edges:
    """Possible tips and folds in cells, with their heights at places within the cells.

    Attributes
    ----------
    cells : array of shape (e,)
        Numbers of the cells.
    places : array of shape (e, c, k)
    heights : array of shape (e, c)
    doubt : array of shape (e,)
        Height differences below this do not count, because the points themselves have this error.
    """

    cells: NDArray[np.intp]
    places: Array
    heights: Array
    doubt: Array


def fit_edges(points: Array, heights: Array, boxes: Array, least: Array) -> Edges:
    """Fit tips and folds to the points around cells; return those that fit better than a smooth surface.

    To the points nearest to each cell are fitted, by least squares: a paraboloid (on a line a cubic); cones
    a + b (x - c) + s |x - c|, for tips c throughout the cell; and folds a + b x + s |n x - d|, for normals n and
    offsets d. All have about as many parameters (on a plane six, on a line four).

    Parameters
    ----------
    points : array of shape (m, k)
        In units in which cells are cubes, about.
    heights : array of shape (m,)
    boxes : array of shape (n, 2^k, k)
        Corners of each cell, in the order of `itertools.product((0, 1), repeat=k)`.
    least : array of shape (n,)
        Differences of heights below this do not count.
    """
    k = points.shape[1]
    count = (k + 1) * (k + 2)
    found: list[tuple[int, Array, Array, float]] = []
    if len(points) < count or not len(boxes):
        return Edges(np.zeros(0, np.intp), np.zeros((0, 1, k)), np.zeros((0, 1)), np.zeros(0))
    middles, sides = boxes.mean(1), np.ptp(boxes, axis=1).max(1)
    _, near = spatial.cKDTree(points).query(middles, count)
    x, y = (points[near] - middles[:, None]) / sides[:, None, None], heights[near]  # (n, N, k), (n, N)
    trust = 1 / (_NEAR + (x**2).sum(2))
    trust /= np.sqrt((trust**2).sum(1, keepdims=True))
    degree = 3 if k == 1 else 2
    powers = np.array([p for p in itertools.product(range(degree + 1), repeat=k) if sum(p) <= degree])
    plain, _ = _fit(np.prod(x[:, :, None] ** powers, axis=3), y, trust)
    normals, offsets = _normals(k), np.linspace(-0.5, 0.5, _OFFSETS)
    for i in np.flatnonzero(np.sqrt(plain) > _TRACE * least):
        places = _throughout(boxes[i])
        c = (places - middles[i]) / sides[i]
        tips = np.linalg.norm(x[i] - c[:, None], axis=2)  # (c, N)
        folds = np.abs((normals @ x[i].T)[:, None] - offsets[:, None]).reshape(-1, count)
        shapes = np.concatenate([tips, folds])[..., None]
        even = np.broadcast_to(np.concatenate([np.ones((count, 1)), x[i]], axis=1), (len(shapes), count, k + 1))
        left, parts = _fit(np.concatenate([even, shapes], axis=2), y[i], trust[i])
        best = int(left.argmin())
        if left[best] > _BETTER * plain[i]:
            continue
        way, offset = divmod(best - len(c), _OFFSETS)
        edge = np.linalg.norm(c - c[best], axis=1) if way < 0 else np.abs(c @ normals[way] - offsets[offset])
        its = np.concatenate([np.ones((len(c), 1)), c, edge[:, None]], axis=1) @ parts[best]
        found.append((int(i), places, its, max(float(least[i]), _CLEAR[way >= 0] * math.sqrt(left[best]))))
    if not found:
        return Edges(np.zeros(0, np.intp), np.zeros((0, 1, k)), np.zeros((0, 1)), np.zeros(0))
    cells, where, tops, doubt = zip(*found, strict=True)
    return Edges(np.array(cells), np.array(where), np.array(tops), np.array(doubt))


def _throughout(box: Array) -> Array:
    """Return a grid of places within a cell, shape (c, k), from its corners, shape (2^k, k)."""
    k = box.shape[1]
    steps = np.array(list(itertools.product(np.linspace(0, 1, _ALONG.get(k, 3)), repeat=k)))
    corners = np.array(list(itertools.product((0, 1), repeat=k)))
    return np.asarray(np.prod(np.where(corners, steps[:, None], 1 - steps[:, None]), axis=2) @ box)


def _normals(k: int) -> Array:
    """Return directions across folds, shape (d, k); none on a line, where a fold is a tip."""
    if k == 2:
        turns = np.arange(_TURNS) * np.pi / _TURNS
        return np.stack([np.cos(turns), np.sin(turns)], axis=1)
    ways = [way for way in itertools.product((-1, 0, 1), repeat=k) if k > 2 and way > (0,) * k]
    normals = np.array(ways, np.float64).reshape(-1, k)
    return np.asarray(normals / np.linalg.norm(normals, axis=1, keepdims=True))


def _fit(terms: Array, values: Array, trust: Array) -> tuple[Array, Array]:
    """Fit terms of shape (c, N, t) by weighted least squares: mean squared residuals (c,), coefficients (c, t)."""
    weighed = terms * trust[..., None]
    square = np.swapaxes(weighed, 1, 2) @ weighed
    square += _RIDGE * np.trace(square, axis1=1, axis2=2)[:, None, None] * np.eye(terms.shape[2])
    found = np.linalg.solve(
        square, np.swapaxes(weighed, 1, 2) @ np.broadcast_to(values * trust, weighed.shape[:2])[..., None]
    )
    left = values - (terms @ found)[..., 0]
    return np.asarray(((left * trust) ** 2).sum(1)), np.asarray(found[..., 0])
