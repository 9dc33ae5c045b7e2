"""Projection onto a chart: the closest point of the chart to a point of weight space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lossnav import params as algebra
from lossnav.directions import lazy as lazily
from lossnav.errors import StructureMismatchError

if TYPE_CHECKING:
    from lossnav.charts.base import Chart


class Projection(NamedTuple):
    """The closest point of a chart to a point of weight space.

    Attributes
    ----------
    coords : ndarray of shape (k,)
        Coordinates of the closest point of the chart.
    residual : float
        Distance between the two points, in units of weights.
    """

    coords: NDArray[np.float64]
    residual: float


def project(chart: Chart, params: Mapping[str, Tensor]) -> Projection:
    """Find the closest point of a chart; `Chart.project` documents it."""
    if difference := algebra.first_difference(params, chart.center):
        raise StructureMismatchError(
            f"The point and the chart differ at {difference}. Take the point from a model of the same architecture."
        )
    if not chart.affine:
        return Projection(*chart._closest(params))
    basis = chart.basis
    offset = {name: tensor.detach().double() - chart.center[name].double() for name, tensor in params.items()}
    gram = lazily.gram(basis)  # (k, k)
    coords = np.linalg.solve(gram, np.array([algebra.dot(a, offset) for a in basis]))
    left = algebra.combine(offset, [-float(x) for x in coords], basis)
    return Projection(coords, algebra.norm(left))
