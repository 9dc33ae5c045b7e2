"""The seed notebook's charts, which blend the weights with a direction scaled to the norm of the weights.

Both work tensor by tensor, with the Frobenius norm of the whole tensor. A tensor in which a direction is zero (a
bias, by default) stays at the centre. To reproduce the notebook, draw directions with ``normalize=None,
orthogonal=False, distribution="uniform"``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav.charts.base import Chart
from lossnav.charts.control_points import moving_names
from lossnav.charts.directed import DirectedChart
from lossnav.charts.registry import register
from lossnav.directions import lazy as lazily
from lossnav.errors import ChartError
from lossnav.params import Params

if TYPE_CHECKING:
    from lossnav.objective.networks import End, Network


_AS_DRAWN = {"normalize": None, "orthogonal": False, "distribution": "uniform"}  # in the notebook


@register(word="rescaled-line", draw=_AS_DRAWN, complete=True)
class RescaledLine(DirectedChart):
    """theta_l(alpha) = (1 - alpha) * theta_l + alpha * ||theta_l|| / ||d_l|| * d_l, for every tensor l.

    At 0 it is the centre, at 1 the direction scaled to the centre's norms. It is affine: its basis is the difference of
    these two. This is `perturbweights` of the seed notebook.

    Parameters
    ----------
    center, direction : mapping of str to Tensor

    Raises
    ------
    ChartError
        If the direction is lazy.

    Examples
    --------
    >>> line = RescaledLine({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([1.0, 0.0])})
    >>> line([1.0])
    {'w': tensor([5., 0.])}
    """

    dims = ("alpha",)
    affine = True

    def _prepare(self, points: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Any]:
        _require_stored(self)
        return {"center": points["center"], "end": _scaled_to(points["center"], points["alpha"])}

    def _at(self, coords: Sequence[float], points: Mapping[str, Any]) -> Params:
        (t,) = coords
        return {name: _blend(tensor, points["end"].get(name), t) for name, tensor in points["center"].items()}

    def still(self) -> dict[str, int]:
        """Count the entries that are zero at both ends, and those of tensors that do not move."""
        return _still(self, self._prepared["end"])


@register(word="rescaled-bilinear", draw=_AS_DRAWN, complete=True)
class RescaledBilinear(DirectedChart):
    """The seed notebook's surface, curved so that the first blend keeps the centre's norm.

    For every tensor l, with theta the centre, a the first direction and b the second::

        phi_l                = alpha * ||theta_l|| / ||a_l|| * a_l + (1 - alpha) * theta_l
        theta_l(alpha, beta) = beta * ||theta_l|| / ||b_l|| * b_l + (1 - beta) * ||theta_l|| / ||phi_l|| * phi_l

    It is not affine, because phi is scaled to the centre's norm at every alpha. This is `pw_2d_bilinear` of the seed
    notebook, where a is its theta2 and b its theta0 (its theta1 is drawn and never used).

    Parameters
    ----------
    center : mapping of str to Tensor
    a, b : mapping of str to Tensor
        The directions of alpha and beta. They must be zero in the same tensors.

    Raises
    ------
    ChartError
        If one direction is zero in a tensor and the other is not, or a direction is lazy.

    Examples
    --------
    >>> w, a, b = ({"w": torch.tensor(x)} for x in ([3.0, 4.0], [1.0, 0.0], [0.0, 1.0]))
    >>> bilinear = RescaledBilinear(w, a, b)
    >>> bilinear([1.0, 0.0]), bilinear([0.0, 1.0])
    ({'w': tensor([5., 0.])}, {'w': tensor([0., 5.])})
    """

    dims = ("alpha", "beta")

    def __init__(self, center: End | Network, *directions: Mapping[str, Tensor]) -> None:
        super().__init__(center, *directions)
        if odd := set(moving_names(self.directions[0])) ^ set(moving_names(self.directions[1])):
            raise ChartError(
                f'Only one of the two directions changes "{sorted(odd)[0]}", so the blend is not defined for it. '
                "Draw both with the same exclude=."
            )

    def _prepare(self, points: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Any]:
        _require_stored(self)
        center = points["center"]
        a, b = (_scaled_to(center, points[dim]) for dim in self.dims)
        return {"center": center, "a": a, "b": b, "norms": algebra.norms(center)}

    def _at(self, coords: Sequence[float], points: Mapping[str, Any]) -> Params:
        alpha, beta = coords
        moved: Params = {}
        for name, theta in points["center"].items():
            if name not in points["a"] or (alpha == 0.0 and beta == 0.0):
                moved[name] = theta
                continue
            phi = _blend(theta, points["a"][name], alpha)
            length = math.sqrt(algebra.tensor_dot(phi, phi))
            kept = phi * (points["norms"][name] / length if length else 0.0)
            moved[name] = _blend(kept, points["b"][name], beta)
        return moved

    def still(self) -> dict[str, int]:
        """Count entries that are zero at the centre and in both directions, and those of tensors that do not move."""
        return _still(self, self._prepared["a"])


def _still(chart: Chart, scaled: Mapping[str, Tensor]) -> dict[str, int]:
    """Count entries that are zero at the centre and in all directions, and those of tensors with a zero direction."""
    moving = {name for name, length in algebra.norms(scaled).items() if length}
    found = lazily.still(chart.directions, also=chart.center)
    whole = {name: tensor.numel() for name, tensor in chart.center.items() if name not in moving}
    return {name: count for name in chart.center if (count := whole.get(name, found.get(name, 0)))}


def _require_stored(chart: Chart) -> None:
    if chart.lazy:
        raise ChartError(
            f"A {type(chart).__name__} stores its directions scaled to the centre, so lazy ones save no memory. "
            "Draw them with lazy=False, or use a Line or a Plane."
        )


def _scaled_to(center: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> Params:
    """Scale each tensor of a direction to the norm of the centre's; zero tensors are omitted."""
    lengths, wanted = algebra.norms(direction), algebra.norms(center)
    return {name: direction[name] * (wanted[name] / length) for name, length in lengths.items() if length}


def _blend(start: Tensor, end: Tensor | None, t: float) -> Tensor:
    """Return (1 - t) * start + t * end; the start itself, bit for bit, if t is 0 or there is no end."""
    if end is None or t == 0.0:
        return start
    shrunk = start * (1.0 - t)
    return torch.add(
        shrunk, end, alpha=t, out=torch.empty_like(shrunk, dtype=torch.promote_types(shrunk.dtype, end.dtype))
    )
