"""Ways to compute the same values sooner, each of which must prove itself before it is used."""

from lossnav.acceleration.function import PointFunction
from lossnav.acceleration.plan import PRECISIONS, Plan, Precision

__all__ = ["PRECISIONS", "Plan", "PointFunction", "Precision"]
