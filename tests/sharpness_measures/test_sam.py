"""The largest rise in a ball: on quadratics it is known, with one step it is the papers'."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch

import lossnav as ln
from landscapes import quadratic, relu_net, rosy, symmetric, walled_bowl

SPECTRUM = [5.0, 3.0, 1.0, 0.3, -0.5, -2.0]
CENTER = [1.0, -2.0, 0.5, 3.0, -1.0, 0.2]


@pytest.mark.parametrize("spectrum", [SPECTRUM, [0.1] * 5 + [4.0], [-1.0] * 5 + [-0.5]])
def test_at_a_stationary_point_it_is_half_the_largest_eigenvalue(spectrum):
    found = ln.sharpness(quadratic(symmetric(spectrum), CENTER), "sam", radius=0.3, steps=60)
    wanted = 0.3**2 / 2 * max(spectrum)
    wanted = max(0.0, wanted)  # of a maximum, whose highest point is the centre
    assert found.value == pytest.approx(wanted, rel=1e-3)
    assert found.value <= wanted * (1 + 1e-12)  # never more than the maximum
    assert found.interval == (found.value, math.inf)
    assert found.error == pytest.approx(max(found.samples) - min(found.samples))
    assert len(found.samples) == 3
    assert "lower bound" in found.uncertainty


def largest_in_ball(matrix, slope, radius):
    """max slope . e + e . matrix e / 2 over |e| <= radius, by its secular equation: (mu - matrix) e = slope."""
    values, vectors = np.linalg.eigh(matrix)
    along = vectors.T @ np.asarray(slope)

    def length(mu):
        return np.linalg.norm(along / (mu - values)) - radius

    mu = scipy.optimize.brentq(length, values[-1] + 1e-9, values[-1] + 1e9, xtol=1e-14)
    e = along / (mu - values)
    return along @ e + e @ (values * e) / 2


def test_with_a_slope_it_is_the_solution_of_the_secular_equation():
    matrix, slope = symmetric(SPECTRUM), [0.3, -0.2, 0.1, 0.5, 0.0, -0.4]
    found = ln.sharpness(quadratic(matrix, CENTER, slope), "sam", radius=0.5, steps=60)
    assert found.value == pytest.approx(largest_in_ball(matrix.numpy(), slope, 0.5), rel=1e-4)
    saddle = quadratic(-torch.eye(3), [1.0, 1.0, 1.0], [0.2, 0.0, 0.0])  # the highest point lies inside the ball
    assert ln.sharpness(saddle, "sam", radius=1.0, steps=30).value == pytest.approx(0.02, rel=1e-3)


def test_one_step_is_that_of_foret_and_kwon():
    model, data = relu_net()
    objective = rosy(model, data)
    slope = ln.curvature.gradient(objective)
    center = objective.evaluate(objective.params)["loss"]
    for kind, scale in (
        ("sam", {name: torch.ones_like(t) for name, t in objective.params.items()}),
        ("asam", {name: t.abs() + 0.01 for name, t in objective.params.items()}),
    ):
        length = math.sqrt(sum(float(((scale[n] * g) ** 2).sum()) for n, g in slope.items()))
        point = {n: t + 0.2 * scale[n] ** 2 * slope[n] / length for n, t in objective.params.items()}
        options = {"eta": 0.01} if kind == "asam" else {}
        found = ln.sharpness(objective, kind, radius=0.2, steps=1, starts=1, **options)
        assert found.value == pytest.approx(objective.evaluate(point)["loss"] - center, rel=1e-10)
        assert (found.evaluations, found.gradients, found.products, found.passes) == (2, 1, 0, 3)
        assert math.isnan(found.error)  # of one ascent nothing is known of what others reach
        assert not found.scale_invariant


@pytest.mark.parametrize("normalize", ["weight", "filter", "layer"])
def test_adaptive_sharpness_is_that_of_the_scaled_hessian(normalize):
    center = torch.tensor([[3.0, 4.0], [0.5, 0.0], [-1.0, 2.0]], dtype=torch.float64)
    matrix = symmetric(SPECTRUM)
    wide = quadratic(matrix, center.reshape(-1))
    objective = ln.Objective.from_function(lambda p: wide_loss(wide, p["w"].reshape(-1)), {"w": center})
    scale = {
        "weight": center.abs(),
        "filter": center.norm(dim=1, keepdim=True).expand(3, 2),
        "layer": center.norm().expand(3, 2),
    }[normalize].reshape(-1)
    values = torch.linalg.eigvalsh(scale[:, None] * matrix * scale)
    found = ln.sharpness(objective, "asam", radius=0.1, normalize=normalize, steps=80)
    assert found.value == pytest.approx(0.1**2 / 2 * float(values[-1]), rel=1e-3)
    assert found.scale_invariant
    assert float(ln.sharpness(objective, "lambda_max", normalize=normalize, tolerance=1e-6)) == pytest.approx(
        float(values[-1]), rel=1e-6
    )


def wide_loss(objective, x):
    return objective._measured_by({"x": x})


def test_more_steps_and_starts_find_no_less():
    model, data = relu_net()
    objective = rosy(model, data)
    one = ln.sharpness(objective, "sam", radius=0.5, steps=1, starts=1)
    ten = ln.sharpness(objective, "sam", radius=0.5, steps=10, starts=1)
    many = ln.sharpness(objective, "sam", radius=0.5, steps=10, starts=4)
    assert 0 < one.value <= ten.value <= many.value
    assert many.samples[0] == ten.value


def test_what_is_not_finite_is_said():
    walled = walled_bowl()
    found = ln.sharpness(walled, "sam", radius=0.5)
    assert found.value == math.inf
    assert "loss or gradient is inf" in found.uncertainty
    lost = ln.Objective.from_function(lambda p: -torch.log(1.2 - p["x"].sum()), {"x": torch.full((2,), 0.5)})
    assert math.isnan(ln.sharpness(lost, "sam", radius=0.5).value)
    rooted = ln.Objective.from_function(lambda p: 1 + p["x"].sqrt().sum(), {"x": torch.zeros(2)})
    assert math.isnan(ln.sharpness(rooted, "sam").value)  # its gradient is infinite
