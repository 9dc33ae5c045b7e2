"""Charts: maps from a few coordinates to a point of weight space."""

from lossnav.charts.affine import Line, Plane, Volume
from lossnav.charts.base import Chart
from lossnav.charts.directed import DirectedChart
from lossnav.charts.meeting import meet
from lossnav.charts.projection import Projection
from lossnav.charts.registry import ChartKind, kind_of, kinds, register
from lossnav.charts.rescaled import RescaledBilinear, RescaledLine

__all__ = [
    "Chart",
    "ChartKind",
    "DirectedChart",
    "Line",
    "Plane",
    "Projection",
    "RescaledBilinear",
    "RescaledLine",
    "Volume",
    "kind_of",
    "kinds",
    "meet",
    "register",
]
