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
