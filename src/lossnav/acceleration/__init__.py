"""Faster ways to compute the same values; each is compared with the plain path before it is used."""

from lossnav.acceleration.point_function import ChartFunction
from lossnav.engines.plan import PRECISIONS, Plan, Precision

__all__ = ["PRECISIONS", "ChartFunction", "Plan", "Precision"]
