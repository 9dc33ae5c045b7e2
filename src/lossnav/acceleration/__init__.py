"""Ways to compute the same values sooner, each of which must prove itself before it is used."""

from lossnav.acceleration.point_function import ChartFunction
from lossnav.engines.plan import PRECISIONS, Plan, Precision

__all__ = ["PRECISIONS", "ChartFunction", "Plan", "Precision"]
