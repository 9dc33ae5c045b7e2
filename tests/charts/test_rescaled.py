"""The notebook's charts equal the notebook's formulas, tensor by tensor."""

import numpy as np
import pytest
import torch

import lossnav as ln
from lossnav import errors

RAW = {"normalize": None, "distribution": "uniform", "orthogonal": False}


def norm(x):
    return np.sqrt((x.astype(np.float64) ** 2).sum())


def arrays(params):
    return {name: tensor.double().numpy() for name, tensor in params.items()}


@pytest.mark.parametrize("t", [-2.0, -0.3, 0.0, 0.5, 1.0, 2.0])
def test_rescaled_line_is_perturbweights(digits_objective, t):
    (d,) = ln.directions.random(digits_objective, seed=1, **RAW)
    point, theta, direction = (
        arrays(ln.RescaledLine(digits_objective.params, d)([t])),
        arrays(digits_objective.params),
        arrays(d),
    )
    for name in theta:
        expected = theta[name]
        if name.endswith("weight"):
            expected = (1 - t) * theta[name] + t * norm(theta[name]) / norm(direction[name]) * direction[name]
        np.testing.assert_allclose(point[name], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [-1.0, -0.4, 0.0, 0.7, 1.0])
@pytest.mark.parametrize("beta", [-1.0, 0.0, 0.3, 1.0])
def test_rescaled_bilinear_is_pw_2d_bilinear(digits_objective, alpha, beta):
    d0, _, d2 = ln.directions.random(digits_objective, 3, seed=1, **RAW)
    point = arrays(ln.RescaledBilinear(digits_objective.params, d2, d0)([alpha, beta]))
    theta0, theta2, theta3 = arrays(d0), arrays(d2), arrays(digits_objective.params)
    for name in theta3:
        expected = theta3[name]
        if name.endswith("weight"):
            size = norm(theta3[name])
            phi = alpha * size / norm(theta2[name]) * theta2[name] + (1 - alpha) * theta3[name]
            expected = beta * size / norm(theta0[name]) * theta0[name] + (1 - beta) * size / norm(phi) * phi
        np.testing.assert_allclose(point[name], expected, rtol=1e-5, atol=1e-6)


def test_origins_are_the_centre_bit_for_bit(digits_objective):
    d0, d2 = ln.directions.random(digits_objective, 2, **RAW)
    for chart in (ln.RescaledLine(digits_objective.params, d0), ln.RescaledBilinear(digits_objective.params, d2, d0)):
        point = chart(np.zeros(len(chart.dims)))
        assert all(torch.equal(point[name], tensor) for name, tensor in digits_objective.params.items())


def test_the_line_is_affine_and_projects(digits_objective):
    (d,) = ln.directions.random(digits_objective, **RAW)
    line = ln.RescaledLine(digits_objective.params, d)
    found = line.project(line([0.75]))
    assert found.coords == pytest.approx([0.75], abs=1e-5)
    assert found.residual < 1e-5


def test_the_bilinear_is_not_and_projects_all_the_same(digits_objective):
    chart = ln.RescaledBilinear(digits_objective.params, *ln.directions.random(digits_objective, 2, **RAW))
    with pytest.raises(errors.ChartError, match="not affine"):
        _ = chart.basis
    found = chart.project(chart([0.2, 0.4]))
    assert found.coords == pytest.approx([0.2, 0.4], abs=1e-4)
    assert found.residual < 1e-5


def test_directions_must_move_the_same_tensors(digits_objective):
    (a,), (b,) = (ln.directions.random(digits_objective, exclude=e, **RAW) for e in (("bias",), ("bias", "conv1.*")))
    with pytest.raises(errors.ChartError, match='"conv1.weight".*same exclude='):
        ln.RescaledBilinear(digits_objective.params, a, b)


def test_tangents_and_bending_of_the_bilinear_chart_by_hand():
    """In two dimensions phi is a unit vector u at the angle of (1 - alpha, alpha), three long."""
    theta, a = {"w": torch.tensor([3.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}
    chart, alpha, beta = ln.RescaledBilinear(theta, a, {"w": torch.tensor([5.0, 0.0])}), 0.3, 0.4
    s = np.hypot(1 - alpha, alpha)
    u, turned = np.array([1 - alpha, alpha]) / s, np.array([-alpha, 1 - alpha]) / s
    by_alpha, by_beta = 3 * (1 - beta) * turned / s**2, np.array([3, 0]) - 3 * u
    tangents = chart.tangents([alpha, beta])
    np.testing.assert_allclose(tangents[0]["w"], by_alpha, rtol=1e-9)
    np.testing.assert_allclose(tangents[1]["w"], by_beta, rtol=1e-9)
    c = np.array([2.0, -1.0])
    aa = 3 * (1 - beta) * (-u / s**4 - turned * (4 * alpha - 2) / s**4) @ c
    ab = -3 * turned / s**2 @ c
    bending = chart.bending([alpha, beta], {"w": torch.from_numpy(c)})
    np.testing.assert_allclose(bending, [[aa, ab], [ab, 0]], rtol=1e-5, atol=1e-8)


def test_tangents_of_affine_charts_are_their_basis(digits_objective):
    (d,) = ln.directions.random(digits_objective, seed=1, **RAW)
    for chart in (ln.Line(digits_objective.params, d), ln.RescaledLine(digits_objective.params, d)):
        (tangent,) = chart.tangents([0.7])
        assert all(torch.equal(tangent[name], chart.basis[0][name]) for name in tangent)
        assert not chart.bending([0.7], tangent).any()
