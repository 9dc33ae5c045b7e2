"""Charts: maps from a few coordinates to a point of weight space."""

from lossnav.charts.affine import Line, Plane, Volume
from lossnav.charts.base import Chart, Projection, meet
from lossnav.charts.rescaled import RescaledBilinear, RescaledLine

__all__ = ["Chart", "Line", "Plane", "Projection", "RescaledBilinear", "RescaledLine", "Volume", "meet"]
