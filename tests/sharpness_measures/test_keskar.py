"""The sharpness of Keskar et al.: a convex quadratic is highest at a corner of the box."""

import itertools
import math

import pytest
import torch

import lossnav as ln
from landscapes import quadratic, relu_net, rosy, symmetric, walled_bowl


def test_a_diagonal_quadratic_is_highest_at_a_corner():
    curvature, center = torch.tensor([1.0, 4.0, 0.2, 2.0]), torch.tensor([0.0, -3.0, 10.0, 1.0])
    found = ln.sharpness(quadratic(curvature, center, floor=0.5), "epsilon", epsilon=0.1, steps=20)
    width = 0.1 * (center.abs() + 1)
    assert found.value == pytest.approx(100 * float((curvature * width**2).sum() / 2) / 1.5, rel=1e-6)
    assert not found.scale_invariant
    assert found.interval == (found.value, math.inf)
    tilted = quadratic(curvature, center, slope=[0.1, -0.2, 0.3, -0.4], floor=0.5)
    found = ln.sharpness(tilted, "epsilon", epsilon=0.1, steps=20, starts=1)
    rise = (curvature * width**2).sum() / 2 + (torch.tensor([0.1, 0.2, 0.3, 0.4]) * width).sum()
    assert found.value == pytest.approx(100 * float(rise) / 1.5, rel=1e-6)


def test_a_concave_one_is_highest_inside():
    found = ln.sharpness(quadratic(-torch.ones(3), [0.0, 0.0, 0.0], [0.02, 0.0, 0.0]), "epsilon", epsilon=0.1, steps=20)
    assert found.value == pytest.approx(100 * 0.0002 / 2, rel=1e-4)


def test_in_a_random_subspace_it_is_the_best_of_the_corners():
    matrix, center = symmetric([4.0, 2.0, 1.0, 0.5, 0.1, 3.0]), torch.tensor([1.0, 2.0, -1.0, 0.0, 0.5, -2.0]).double()
    found = ln.sharpness(quadratic(matrix, center), "epsilon", epsilon=0.1, dimension=3, steps=30, starts=8, seed=4)
    generator = torch.Generator().manual_seed(4)
    lift = torch.stack([torch.randn(6, dtype=torch.float64, generator=generator) for _ in range(3)], 1) / math.sqrt(6)
    width = 0.1 * (torch.linalg.lstsq(lift, center).solution.abs() + 1)
    corners = [lift @ (width * torch.tensor(signs).double()) for signs in itertools.product((-1, 1), repeat=3)]
    assert found.value == pytest.approx(100 * max(float(c @ matrix @ c) / 2 for c in corners) / 2, rel=1e-6)
    assert found.settings["dimension"] == 3


def test_a_subspace_holds_no_more_than_the_whole():
    model, data = relu_net()
    objective = rosy(model, data)
    whole = ln.sharpness(objective, "epsilon", epsilon=0.01)
    part = ln.sharpness(objective, "epsilon", epsilon=0.01, dimension=10)
    assert 0 < part.value < whole.value


def test_what_is_not_finite_is_said():
    walled = walled_bowl()
    assert ln.sharpness(walled, "epsilon", epsilon=0.5).value == math.inf
