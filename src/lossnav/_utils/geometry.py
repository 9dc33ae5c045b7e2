"""Small things about coordinates that samplers, surfaces and pictures share. NumPy, and SciPy on use."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LISTED = 1000  # rows that JSON holds one by one


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


# ---------------------------------------------------------------------- many numbers in JSON


def packed(values: Array) -> list[Any] | str:
    """Numbers of shape (m,) or (m, k) as a value of JSON: of up to 1,000 rows a list, beyond that a text.

    The text is Base64 of the numbers, row by row, as little-endian float64. A list of a hundred thousand takes seconds
    to write, to check and to compare. In a list inf and nan, which JSON lacks, are words.

    Examples
    --------
    >>> packed(np.array([[0.5, -1.0]]))
    [[0.5, -1.0]]
    >>> unpacked(packed(np.arange(4000.0).reshape(-1, 2)), 2).shape
    (2000, 2)
    """
    if len(values) > _LISTED:
        return base64.b64encode(np.ascontiguousarray(values, "<f8").tobytes()).decode()
    rows: list[Any] = values.tolist()
    if np.isfinite(values).all():
        return rows
    return [row if isinstance(row, list) or math.isfinite(row) else str(row) for row in rows]


def unpacked(value: Any, k: int | None = None) -> Array:
    """The numbers that `packed` put away, of shape (m, k), or (m,) without k.

    Raises
    ------
    ValueError
        If it put away no such thing.
    """
    if isinstance(value, str):
        try:
            numbers = np.frombuffer(base64.b64decode(value, validate=True), "<f8").astype(np.float64)
        except binascii.Error as error:
            raise ValueError(f"no Base64: {error}") from None
        return numbers if k is None else numbers.reshape(-1, k)
    numbers = np.asarray(value, np.float64)
    return numbers.reshape(-1, k) if k is not None and not len(numbers) else numbers
