"""Small things about coordinates that samplers, surfaces and pictures share. NumPy, and SciPy on use."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def mesh(axes: Iterable[Array]) -> Array:
    """Every combination of the axes' values, shape (m, k), the last coordinate running fastest."""
    return np.stack([part.reshape(-1) for part in np.meshgrid(*axes, indexing="ij")], axis=1)


def nearest(points: Array, places: Array) -> tuple[Array, NDArray[np.intp]]:
    """How far the nearest point is from each place, each coordinate in units of the points' range, and which it is."""
    from scipy.spatial import cKDTree

    spans = np.ptp(points, axis=0)
    scale = np.where(spans > 0, spans, 1.0)
    distance, which = cKDTree(points / scale).query(places / scale)
    return distance, which


def distinct(points: Array, within: float) -> NDArray[np.intp]:
    """A number for each point, the same for those that lie within so much of each other, counted from 0 as they come.

    Distances are in units of the points' range: `0.3` and `0.1 + 0.2` are one place, whatever their bits.
    """
    from scipy.spatial import cKDTree

    spans = np.ptp(points, axis=0) if len(points) else np.ones(points.shape[1])
    first = np.arange(len(points))
    for i, j in sorted(cKDTree(points / np.where(spans > 0, spans, 1.0)).query_pairs(within)):
        first[j] = min(first[j], first[i])
    return np.unique(first, return_inverse=True)[1]
