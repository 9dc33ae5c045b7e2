"""Charts: maps from a few coordinates to a point of weight space."""

from lossnav.charts.affine import Line, Plane, Volume
from lossnav.charts.base import Chart
from lossnav.charts.curve import BezierCurve, Curve, Mixture, PolygonalChain, Simplex
from lossnav.charts.directed import DirectedChart
from lossnav.charts.meeting import ends_on, meet
from lossnav.charts.projection import Projection
from lossnav.charts.registry import ChartKind, kind_of, kinds, register
from lossnav.charts.rescaled import RescaledBilinear, RescaledLine

__all__ = [
    "BezierCurve",
    "Chart",
    "ChartKind",
    "Curve",
    "DirectedChart",
    "Line",
    "Mixture",
    "Plane",
    "PolygonalChain",
    "Projection",
    "RescaledBilinear",
    "RescaledLine",
    "Simplex",
    "Volume",
    "ends_on",
    "kind_of",
    "kinds",
    "meet",
    "register",
]
