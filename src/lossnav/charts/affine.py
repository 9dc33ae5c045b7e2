"""Affine charts: a line, a plane or a volume through the centre."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lossnav import params as algebra
from lossnav.charts.anchors import Anchors, find, locate, points_of
from lossnav.charts.control_points import moving_names
from lossnav.charts.directed import DirectedChart
from lossnav.charts.registry import register
from lossnav.directions import lazy as lazily
from lossnav.errors import DirectionError
from lossnav.objective.networks import Network
from lossnav.params import Params


class _Straight(DirectedChart):
    """The map center + sum_i x_i * d_i; coordinate i is in units of the length of direction i."""

    affine = True

    def _prepare(self, points: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Any]:
        names = moving_names(*(points[dim] for dim in self.dims))
        return {**points, "moving": {name: points["center"][name] for name in names}}

    def _at(self, coords: Sequence[float], points: Mapping[str, Any]) -> Params:
        combine = lazily.combine if self.lazy and any(coords) else algebra.combine
        moved = combine(points["moving"], coords, [points[dim] for dim in self.dims])
        return {name: moved.get(name, tensor) for name, tensor in points["center"].items()}

    @cached_property
    def _gram(self) -> NDArray[np.float64]:
        return lazily.gram(self.directions)

    def _find_anchors(self) -> Anchors | None:
        gram = self._gram
        lengths = np.sqrt(gram.diagonal())
        if np.linalg.eigvalsh(gram / np.outer(lengths, lengths))[0] < 1e-9:
            raise DirectionError(
                f"The directions along {', '.join(self.dims)} are parallel or dependent, so they do not span a "
                f"{type(self).__name__.lower()}. Pass independent ones, such as ln.directions.random(objective, "
                f"n={len(self.directions)})."
            )
        return find(self._networks["center"], self.directions, self._gram, straight=True)

    def _located(self) -> list[tuple[NDArray[np.float64], Network]]:
        found = locate(self._networks["center"], self.directions, self._gram, straight=True)
        ends = {end.fingerprint for direction in self.directions for end in points_of(direction)}
        return [(place, network) for place, network in found if network.fingerprint in ends]

    def still(self) -> dict[str, int]:
        """Count the entries that are zero in all directions."""
        return lazily.still(self.directions)

    @property
    def basis(self) -> tuple[Mapping[str, Tensor], ...]:
        """The directions."""
        return self.directions


@register(word="line", complete=True)
class Line(_Straight):
    """theta(alpha) = center + alpha * d.

    Parameters
    ----------
    center, direction : mapping of str to Tensor
        Names and shapes of the model's parameters; the centre may also be a module or an objective.

    Raises
    ------
    StructureMismatchError
        If names or shapes of the centre and the direction differ.

    Examples
    --------
    >>> import torch
    >>> line = Line({"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([0.0, 2.0])})
    >>> line([0.5])
    {'w': tensor([1., 2.])}
    >>> line.project({"w": torch.tensor([4.0, 2.0])})
    Projection(coords=array([0.5]), residual=3.0)
    """

    dims = ("alpha",)


@register(word="plane", complete=True)
class Plane(_Straight):
    """theta(alpha, beta) = center + alpha * d1 + beta * d2 (Li et al. 2018, eq. 1).

    Parameters
    ----------
    center, d1, d2 : mapping of str to Tensor
        Names and shapes of the model's parameters; the centre may also be a module or an objective.

    Raises
    ------
    StructureMismatchError
        If names or shapes of the centre and the directions differ.
    DirectionError
        If the directions are dependent.

    Examples
    --------
    >>> import torch
    >>> plane = Plane({"w": torch.zeros(2)}, {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 2.0])})
    >>> plane([0.5, -1.0])
    {'w': tensor([ 0.5000, -2.0000])}
    """

    dims = ("alpha", "beta")


@register(word="volume", complete=True)
class Volume(_Straight):
    """theta(alpha, beta, gamma) = center + alpha * d1 + beta * d2 + gamma * d3.

    Parameters
    ----------
    center, d1, d2, d3 : mapping of str to Tensor
        Names and shapes of the model's parameters; the centre may also be a module or an objective.

    Raises
    ------
    StructureMismatchError
        If names or shapes of the centre and the directions differ.
    DirectionError
        If the directions are dependent.

    Examples
    --------
    >>> import torch
    >>> x, y, z = ({"w": row} for row in torch.eye(3))
    >>> Volume({"w": torch.ones(3)}, x, y, z)([1.0, 2.0, 3.0])
    {'w': tensor([2., 3., 4.])}
    """

    dims = ("alpha", "beta", "gamma")
