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

    Distances are in units of the points' range: `0.3` and `0.1 + 0.2` are one place, whatever their bits. What lies
    near the same point is one with it.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    spans = np.ptp(points, axis=0) if len(points) else np.ones(points.shape[1])
    scaled = points / np.where(spans > 0, spans, 1.0)
    near = np.arange(len(points))
    for column in scaled.T:  # points that are one agree in every coordinate, which few others do
        order = np.argsort(column[near], kind="stable")
        close = np.diff(column[near][order]) <= within
        near = np.sort(near[np.union1d(order[1:][close], order[:-1][close])])
    # of one place that comes m times there are m^2 pairs: it is looked for once
    unique, which = np.unique(scaled[near], axis=0, return_inverse=True)
    i, j = cKDTree(unique).query_pairs(within, output_type="ndarray").T
    _, group = connected_components(coo_array((np.ones(len(i)), (i, j)), (len(unique), len(unique))), directed=False)
    _, first, group = np.unique(group[which.reshape(-1)], return_index=True, return_inverse=True)
    found = np.arange(len(points))
    found[near] = near[first[group]]
    return np.unique(found, return_inverse=True)[1]
