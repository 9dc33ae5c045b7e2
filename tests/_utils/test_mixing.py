"""Coefficients of curves and what follows from them, against scipy and sums of short steps."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.interpolate import BPoly

from lossnav._utils import mixing


@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("t", [-0.5, 0.0, 0.3, 1.0, 1.7])
def test_bernstein_and_its_derivatives_are_scipys(count, t):
    basis = BPoly(np.eye(count)[:, None, :], [0, 1])
    np.testing.assert_allclose(mixing.bernstein(t, count), basis(t), atol=1e-9)
    np.testing.assert_allclose(mixing.bernstein_slope(t, count), basis.derivative()(t), atol=1e-8)
    np.testing.assert_allclose(mixing.bernstein_bend(t, count), basis.derivative(2)(t), atol=1e-7)


@pytest.mark.parametrize("count", [2, 3, 50])
def test_hats_are_one_at_their_own_place(count):
    for j in range(count):
        np.testing.assert_array_equal(mixing.hats(j / (count - 1), count), np.eye(count)[j])
    for t in np.linspace(0, 1, 37):
        expected = np.maximum(0, 1 - np.abs(t * (count - 1) - np.arange(count)))
        np.testing.assert_allclose(mixing.hats(t, count), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_length_of_a_bezier_curve_is_its_integral(seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(4, 7))
    steps = points[1:] - points[0]
    speed = BPoly(points[:, None, :], [0, 1]).derivative()
    expected, _ = quad(lambda t: float(np.linalg.norm(speed(t))), 0.1, 0.8)
    found = mixing.arc_length("BezierCurve", 0.1, 0.8, 4, steps @ steps.T)
    assert found == pytest.approx(expected, rel=1e-7)


def test_distances_are_those_of_the_points():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(5, 9))
    steps = points[1:] - points[0]
    a, b = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(5))
    expected = math.dist(a @ points, b @ points)
    assert mixing.distance(a, b, steps @ steps.T) == pytest.approx(expected, rel=1e-12)
