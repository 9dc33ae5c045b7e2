"""How much of each control point a point of a curve has, and the lengths that follow. NumPy only.

A point of a Bézier curve, of a chain of segments or of a simplex is Σ c_j(x) w_j with coefficients that sum to 1. The
square of the distance of two points is then d' G d, with d the difference of their coefficients, and G the inner
products of w_j - w_0: whoever knows G knows all distances on the curve without any weight.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_NODE = 1e-12  # in segments: closer to a bend of a chain is at it, as j / n * n is not always j


def bernstein(t: float, count: int) -> Array:
    """Return the coefficients of a Bézier curve of `count` control points: C(n, j) t^j (1 - t)^(n - j), n = count - 1.

    >>> bernstein(0.5, 3)
    array([0.25, 0.5 , 0.25])
    """
    n = count - 1
    return np.array([math.comb(n, j) * t**j * (1 - t) ** (n - j) for j in range(count)], np.float64)


def bernstein_slope(t: float, count: int) -> Array:
    """Return their derivatives by t.

    >>> bernstein_slope(0.0, 3)
    array([-2.,  2.,  0.])
    """
    if count < 2:
        return np.zeros(count)
    lower = np.concatenate([[0.0], bernstein(t, count - 1), [0.0]])
    made: Array = (count - 1) * (lower[:-1] - lower[1:])
    return made


def bernstein_bend(t: float, count: int) -> Array:
    """Return their second derivatives by t.

    >>> bernstein_bend(0.3, 3)
    array([ 2., -4.,  2.])
    """
    if count < 3:
        return np.zeros(count)
    lower = np.concatenate([[0.0], bernstein_slope(t, count - 1), [0.0]])
    made: Array = (count - 1) * (lower[:-1] - lower[1:])
    return made


def segment(t: float, count: int) -> tuple[int, float]:
    """Return the segment of a chain of `count` points in which t lies, and the place in it from 0 to 1.

    The first and the last segment go on beyond the ends. A bend is the place 0 of the segment after it.

    >>> segment(0.75, 3), segment(1.0, 3), segment(-0.5, 3)
    ((1, 0.5), (1, 1.0), (0, -1.0))
    """
    place = t * (count - 1)
    if abs(place - round(place)) <= _NODE * max(1.0, abs(place)):
        place = float(round(place))
    number = min(max(math.floor(place), 0), count - 2)
    return number, place - number


def hats(t: float, count: int) -> Array:
    """Return the coefficients of a chain of segments between `count` points: max(0, 1 - |t (count - 1) - j|).

    >>> hats(0.75, 3)
    array([0. , 0.5, 0.5])
    """
    number, place = segment(t, count)
    made = np.zeros(count)
    made[number], made[number + 1] = 1 - place, place
    return made


def hats_slope(t: float, count: int) -> Array:
    """Return their derivatives by t; at a bend the mean of those on both sides.

    >>> hats_slope(0.5, 3)
    array([-1.,  0.,  1.])
    """
    number, place = segment(t, count)
    made = np.zeros(count)
    sides = [number - 1, number] if place == 0 and number > 0 else [number]
    for side in sides:
        made[side] -= (count - 1) / len(sides)
        made[side + 1] += (count - 1) / len(sides)
    return made


def barycentric(coords: ArrayLike, count: int) -> Array:
    """Return the coefficients of a simplex: 1 - Σ x_i for the first vertex, x_i for the others.

    >>> barycentric([0.25, 0.25], 3)
    array([0.5 , 0.25, 0.25])
    """
    x = np.asarray(coords, np.float64).reshape(-1)
    return np.concatenate([[1 - x.sum()], x])


def distance(a: Array, b: Array, gram: ArrayLike) -> float:
    """Return the distance of two points from their coefficients, shape (n,), and the Gram matrix, (n - 1, n - 1).

    >>> round(distance(np.array([1.0, 0.0]), np.array([0.0, 1.0]), [[4.0]]), 12)
    2.0
    """
    d = (np.asarray(a) - np.asarray(b))[1:]  # that of the first is minus their sum
    return math.sqrt(max(0.0, float(d @ np.asarray(gram, np.float64) @ d)))


_SCAN = np.linspace(-1.0, 2.0, 769)  # of t, where the search for a closest point starts
_ROUNDS = 60  # of a golden section: eight digits, the most that squares of distances know
_GOLDEN = (math.sqrt(5) - 1) / 2


def closest(of: Callable[[float], Array], pulls: Array, gram: Array) -> float:
    """Return the t in [-1, 2] at which a curve is closest to a point, to about eight digits.

    Parameters
    ----------
    of : callable
        From t to the coefficients of all control points but the first, shape (n - 1,).
    pulls : ndarray of shape (n - 1,)
        Inner products of w_j - w_0 with the point minus w_0.
    gram : ndarray of shape (n - 1, n - 1)

    Examples
    --------
    >>> round(closest(lambda t: bernstein(t, 2)[1:], np.array([1.0]), np.array([[4.0]])), 6)
    0.25
    """

    def height(t: float) -> float:
        c = of(t)
        return float(c @ gram @ c - 2 * c @ pulls)

    best = int(np.argmin([height(float(t)) for t in _SCAN]))
    low, high = float(_SCAN[max(best - 1, 0)]), float(_SCAN[min(best + 1, len(_SCAN) - 1)])
    for _ in range(_ROUNDS):
        a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, b) if height(a) <= height(b) else (a, high)
    return (low + high) / 2


Coefficients = Callable[[float, int], Array]

CURVES: dict[str, tuple[Coefficients, Coefficients]] = {
    "BezierCurve": (bernstein, bernstein_slope),
    "PolygonalChain": (hats, hats_slope),
}
"""Coefficients and their derivatives, by the kind of chart in a surface."""

_PIECES = 64  # of Simpson's rule a stretch; a speed is the root of a polynomial


def arc_length(kind: str, low: float, high: float, count: int, gram: ArrayLike) -> float:
    """Return the length of a curve between two t, of a kind in `CURVES`, with `count` control points.

    Of a chain it is exact; of a Bézier curve Simpson's rule, accurate to ten digits unless the curve turns on the spot.

    Examples
    --------
    >>> arc_length("PolygonalChain", 0.0, 1.0, 3, [[9.0, 9.0], [9.0, 25.0]]), arc_length("BezierCurve", 0, 1, 2, [[4]])
    (7.0, 2.0)
    """
    of, slope = CURVES[kind]
    if kind == "PolygonalChain":
        nodes = [j / (count - 1) for j in range(count)]
        stops = [low, *(node for node in nodes if low < node < high), high]
        points = [of(t, count) for t in stops]
        return sum(distance(a, b, gram) for a, b in itertools.pairwise(points))
    ts = np.linspace(low, high, 2 * _PIECES + 1)
    speeds = np.array([distance(slope(float(t), count), np.zeros(count), gram) for t in ts])
    weights = np.ones(len(ts))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return float(weights @ speeds) * (high - low) / (6 * _PIECES)
