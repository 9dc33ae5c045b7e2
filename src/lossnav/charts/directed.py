"""Charts around a centre, with one direction for each coordinate."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from lossnav._utils.validation import require_directions
from lossnav.charts.anchors import Anchors, arrange, find, with_points
from lossnav.charts.base import Chart
from lossnav.errors import ChartError

if TYPE_CHECKING:
    from lossnav.objective.networks import End, Network


class DirectedChart(Chart):
    """A chart of which the control point is its centre, and the control vectors are directions named as coordinates.

    Parameters
    ----------
    center : mapping of str to Tensor, Objective, nn.Module or path of a checkpoint
        The point at coordinates 0. Not copied: do not write into its tensors.
    directions : mappings of str to Tensor
        One for each coordinate, of the centre's names and shapes. Those that lead to checkpoints
        (`directions.between`, `directions.through`) bring their buffers along.

    Raises
    ------
    ChartError
        If there are more or fewer directions than coordinates.
    StructureMismatchError
        If a direction has other names or shapes than the centre.
    DirectionError
        If a direction is zero or not finite.
    """

    def __init__(self, center: End | Network, *directions: Mapping[str, Tensor]) -> None:
        kind = type(self).__name__
        require_directions(center, directions, kind, len(self.dims))
        if len(directions) != len(self.dims):
            raise ChartError(
                f"A {kind} takes {len(self.dims)} direction(s), not {len(directions)}. "
                f"Make them with ln.directions.random(objective, n={len(self.dims)})."
            )
        super().__init__({"center": center}, dict(zip(self.dims, directions, strict=True)))

    def _find_anchors(self) -> Anchors | None:
        """The checkpoints on this chart: of a bent one the centre alone, where its buffers are known."""
        return find(self._networks["center"], self.directions, np.eye(len(self.dims)), straight=False)

    def around(self, coords: ArrayLike) -> Chart:
        """Return a chart of the same directions around the point at some coordinates of this one.

        Of a straight chart it shows the same points, and the checkpoints that lie among them with their buffers.
        """
        made = copy.copy(self)
        made._hold(*arrange({"center": dict(self(coords))}, [with_points(each, ()) for each in self.directions]))
        if self.anchors is not None:
            made.anchors = self.anchors.shifted(coords)
        return made
