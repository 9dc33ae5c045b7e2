"""An objective on a chart, repaired at every point: `evaluate(..., repair=data)`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.simplex import Triangulation
from lossnav.acceleration import ChartFunction
from lossnav.charts import Chart, ends_on, meet
from lossnav.directions import lazy as lazily
from lossnav.engines.base import Point
from lossnav.errors import OptionError
from lossnav.objective.objective import Objective
from lossnav.params import Params
from lossnav.symmetry import Repair


class RepairedFunction(ChartFunction):
    """Maps coordinates to the values of the repaired network (`lossnav.repair`).

    The ends are the checkpoints on the chart. Their statistics are mixed by barycentric coordinates in the segment,
    triangle or tetrahedron of the checkpoints, as buffers are (`Chart.buffers`): on a line between a and b by 1 - alpha
    and alpha, on a curve by t between the ends, on a chain by t between the two bends beside it. Outside, the
    statistics of the nearest point between the checkpoints are used. At a checkpoint nothing is changed.

    Parameters
    ----------
    objective : Objective
    chart : Chart
        As the user made it: a fitted one has forgotten its ends.
    data : RepairData, or anything that it takes as data

    Raises
    ------
    OptionError
        If there are fewer than two checkpoints on the chart.
    """

    def __init__(self, objective: Objective, chart: Chart, data: Any) -> None:
        self.objective, self.chart = meet(objective, chart)
        ends = ends_on(chart, self.objective)
        if len(ends) < 2:
            raise OptionError(
                f"repair= interpolates between the statistics of checkpoints on the chart, and this "
                f"{type(chart).__name__} has {len(ends) or 'none'}. Pass a chart between networks, such as ln.Line(a, "
                "ln.directions.between(a, b)), or repair single points: ln.repair(objective, point, [a, b], data)."
            )
        self.places = np.array([place for place, _ in ends])
        metric = None if chart.anchors is None else chart.anchors.metric
        self._hull = Triangulation(self.places, _metric_of(self.chart) if metric is None else metric)
        self.repair = Repair(self.objective, [end for _, end in ends], data)

    def at(self, point: Point) -> Params:
        """Return the repaired weights and buffers at some coordinates; at a checkpoint those of the chart."""
        there = self.chart(point)
        coords = np.asarray(point, np.float64).reshape(-1)
        if (self.places == coords).all(1).any():
            return there
        return self.repair.at(there, self._hull.weights(coords))

    def keeping_samples(self) -> RepairedFunction:
        """Return the same function, whose values also contain the per-sample losses."""
        made = object.__new__(RepairedFunction)
        vars(made).update(vars(self), objective=self.objective.keeping_samples())
        return made

    def by_spec(self) -> Any:
        """Raise OptionError: a SPEC does not say what the repair data is."""
        raise OptionError("build='spec' cannot build repair= elsewhere. Use build='send'.")

    def accelerate(self, *given: Any) -> Any:
        """Return this function: it has no faster path."""
        return self

    def describe(self) -> dict[str, Any]:
        """Describe the plan, as an evaluation does."""
        return {"plan": "plain"}

    def about(self) -> dict[str, Any]:
        """Describe the repair in values that JSON can hold, with the places of its ends."""
        return self.repair.describe() | {"places": self.places.tolist()}


def _metric_of(chart: Chart) -> NDArray[np.float64]:
    """Inner products of an affine chart's directions, so that distances are those between weights."""
    return lazily.gram(chart.directions) if chart.affine and chart.directions else np.eye(len(chart.dims))
