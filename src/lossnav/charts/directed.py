"""Charts around a centre, with one direction for each coordinate."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lossnav._utils.validation import require_directions
from lossnav.charts.anchors import Anchors, arrange, find, with_points
from lossnav.charts.base import Chart
from lossnav.errors import ChartError

if TYPE_CHECKING:
    from lossnav.objective.networks import End, Network


class DirectedChart(Chart):
    """A chart whose only control point is its centre, with one control vector (direction) per coordinate.

    Parameters
    ----------
    center : mapping of str to Tensor, Objective, nn.Module or path of a checkpoint
        The point at coordinates 0. It is not copied: do not write into its tensors.
    directions : mappings of str to Tensor
        One for each coordinate, with the names and shapes of the centre. Directions between checkpoints
        (`directions.between`, `directions.through`) also bring their buffers.

    Raises
    ------
    ChartError
        If the numbers of directions and of coordinates differ.
    StructureMismatchError
        If names or shapes of a direction and the centre differ.
    DirectionError
        If a direction is zero or not finite.
    """

    def __init__(self, center: End | Network, *directions: Mapping[str, Tensor]) -> None:
        kind = type(self).__name__
        require_directions(center, directions, kind, len(self.dims))
        if len(directions) != len(self.dims):
            raise ChartError(
                f"A {kind} needs {len(self.dims)} direction(s), got {len(directions)}. "
                f"Make them with ln.directions.random(objective, n={len(self.dims)})."
            )
        super().__init__({"center": center}, dict(zip(self.dims, directions, strict=True)))

    def _find_anchors(self) -> Anchors | None:
        """Return the checkpoints on this chart; for a chart that is not affine, only the centre if it has buffers."""
        return find(self._networks["center"], self.directions, np.eye(len(self.dims)), straight=False)

    def _located(self) -> list[tuple[NDArray[np.float64], Network]]:
        """Return the networks that the directions connect, where they lie on this chart: none if it is not straight."""
        return []

    def around(self, coords: ArrayLike) -> Chart:
        """Return a chart with the same directions around the point at some coordinates of this one.

        For an affine chart it has the same points, and the same checkpoints with their buffers.
        """
        made = copy.copy(self)
        made._hold(*arrange({"center": dict(self(coords))}, [with_points(each, ()) for each in self.directions]))
        if self.anchors is not None:
            made.anchors = self.anchors.shifted(coords)
        return made
