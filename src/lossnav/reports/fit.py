"""The curvature that a picture shows at its centre: a quadratic fitted to the points around it."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from lossnav._utils.geometry import Array
from lossnav.reports.digits import rounding
from lossnav.reports.evidence import Subject


class Fit(NamedTuple):
    """Second derivatives of the loss by the coordinates at the centre, from the points of the picture.

    Attributes
    ----------
    hessian : ndarray of shape (k, k)
    error : float
        Error of its eigenvalues: the difference from a wider fit, and rounding.
    """

    hessian: Array
    error: float

    @property
    def eigenvalues(self) -> Array:
        """Increasing, shape (k,)."""
        return np.asarray(np.linalg.eigvalsh(self.hessian), np.float64)


def fitted(subject: Subject) -> Fit | None:
    """Fit quadratics to about 3^k and 5^k points around the centre by least squares; None if there are too few points.

    The result is the narrower fit; its difference from the wider one is part of the error.
    """
    if not subject.has_center:
        return None
    k = subject.places.shape[1]
    order = np.argsort(subject.distances, kind="stable")
    terms = 1 + k + k * (k + 1) // 2
    made, used = [], []
    for points in (3**k, 5**k):
        reach = subject.distances[order[min(points, len(order)) - 1]] * (1 + 1e-9)
        inside = np.flatnonzero(subject.distances <= reach)  # with all points at the same distance
        if len(inside) < terms:
            return None
        hessian = _quadratic(subject.places[inside], subject.losses[inside])
        if hessian is None:
            return None
        made.append(hessian)
        used.append(len(inside))
    if used[0] == used[1]:
        return None  # the error cannot be estimated
    near, wide = made
    step = np.abs(subject.places[order[1 : 3**k]]).max()
    error = float(np.abs(np.linalg.eigvalsh(near - wide)).max()) + 2 * rounding(subject) / step**2
    return Fit(near, error)


def _quadratic(places: Array, losses: Array) -> Array | None:
    """Return the second derivatives of the best quadratic; None if the points do not determine it."""
    k = places.shape[1]
    scale = np.abs(places).max(0)
    if not (scale > 0).all():
        return None
    x = places / scale
    pairs = list(itertools.combinations_with_replacement(range(k), 2))
    columns = [np.ones(len(x)), *x.T, *(x[:, i] * x[:, j] for i, j in pairs)]
    solution, _, rank, _ = np.linalg.lstsq(np.stack(columns, 1), losses, rcond=1e-9)
    if rank < len(columns):
        return None
    made = np.zeros((k, k))
    for (i, j), c in zip(pairs, solution[1 + k :], strict=True):
        made[i, j] = made[j, i] = (2 if i == j else 1) * c / (scale[i] * scale[j])
    return made
