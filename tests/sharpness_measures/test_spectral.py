"""Trace, largest eigenvalue and relative flatness against dense Hessians."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch.func import functional_call

import lossnav as ln
from landscapes import quadratic, relu_net, rosy, symmetric
from lossnav import errors
from lossnav import params as algebra

SPECTRUM = np.linspace(-1.0, 3.0, 40)
CENTER = np.linspace(-2.0, 2.0, 40)


def dense(model, data, names):
    """The block of the Hessian of some parameters, by plain autograd."""
    params = {name: p.detach() for name, p in model.named_parameters()}
    sizes = [params[name].numel() for name in names]

    def loss(flat):
        parts = {n: part.reshape(params[n].shape) for n, part in zip(names, flat.split(sizes), strict=True)}
        return torch.nn.functional.cross_entropy(functional_call(model, params | parts, (data[0],)), data[1])

    return torch.autograd.functional.hessian(loss, torch.cat([params[name].reshape(-1) for name in names]))


def scale_of(objective, normalize):
    parts = []
    for theta in objective.params.values():
        by_entry = normalize == "weight" or (normalize == "filter" and theta.dim() < 2)
        rows = theta.norm(dim=1, keepdim=True) if theta.dim() > 1 else theta
        norms = theta.abs() if by_entry else rows if normalize == "filter" else theta.norm()
        parts.append((torch.ones_like(theta) if normalize is None else norms.expand_as(theta)).reshape(-1))
    return torch.cat(parts)


@pytest.mark.parametrize("normalize", [None, "weight", "filter", "layer"])
def test_against_the_dense_hessian(normalize):
    model, data = relu_net()
    objective = rosy(model, data, batch_size=15)
    scale = scale_of(objective, normalize)
    matrix = scale[:, None] * dense(model, data, list(objective.params)) * scale
    largest = ln.sharpness(objective, "lambda_max", normalize=normalize, tolerance=1e-4)
    wanted = float(torch.linalg.eigvalsh(matrix)[-1])
    assert largest.value == pytest.approx(wanted, rel=1e-6)
    assert largest.interval[0] <= wanted <= largest.interval[1]
    assert largest.products < 40
    found = ln.sharpness(objective, "trace", normalize=normalize, probes=80)
    assert abs(found.value - float(matrix.trace())) < 3.5 * found.error < abs(found.value)
    assert (found.products, found.passes) == (80, 1 + 10)  # eight share a pass
    exact = ln.sharpness(objective, "trace", normalize=normalize, probes=200)
    assert exact.value == pytest.approx(float(matrix.trace()), rel=1e-9)
    assert (exact.products, exact.passes) == (len(matrix), 1 + 11)


@pytest.mark.parametrize("spectrum", [SPECTRUM, np.r_[np.linspace(0, 0.5, 39), 20.0]], ids=["even", "one outlier"])
def test_the_interval_of_the_trace_is_honest(spectrum):
    bowl = quadratic(symmetric(spectrum), CENTER)
    found = [ln.sharpness(bowl, "trace", seed=seed) for seed in range(100)]
    assert sum(f.interval[0] <= spectrum.sum() <= f.interval[1] for f in found) >= 93
    assert np.mean([f.error for f in found]) < spectrum.sum() / 5


@pytest.mark.parametrize("layer", ["0.weight", "2.weight", "4.weight"])
def test_relative_flatness_is_its_definition(layer):
    model, data = relu_net()
    objective = rosy(model, data)
    rows = objective.params[layer]
    blocks = dense(model, data, [layer]).reshape(*rows.shape, *rows.shape)  # (m, n, m, n)
    wanted = sum(
        float(rows[s] @ rows[t]) * float(blocks[s, :, t, :].trace()) for s in range(len(rows)) for t in range(len(rows))
    )
    found = ln.sharpness(objective, "relative_flatness", params=layer, probes=300)
    assert abs(found.value - wanted) < 3.5 * found.error < 0.5 * abs(found.value)
    with pytest.raises(errors.OptionError, match="one layer's weight, .*such as params='4.weight'"):
        ln.sharpness(objective, "relative_flatness")


def test_relative_flatness_of_a_transposed_convolution_goes_by_its_outputs():
    torch.manual_seed(0)
    model = torch.nn.ConvTranspose2d(4, 6, 2, groups=2).double().eval()
    objective = ln.Objective(model, "mse", (torch.randn(5, 4, 3, 3).double(), torch.randn(5, 6, 4, 4).double()))
    weight = objective.params["weight"]
    rows = algebra.to_filters(weight, 2)
    hessian = ln.curvature.Hessian(objective, params="weight")
    unit = torch.eye(weight.numel(), dtype=torch.float64)
    columns = [algebra.to_filters(h.reshape(weight.shape), 2) for h in hessian.derive(list(unit)).products]
    place = algebra.to_filters(torch.arange(weight.numel()).reshape(weight.shape), 2)
    wanted = sum(
        float(rows[s] @ rows[t]) * sum(float(columns[int(place[s, i])][t, i]) for i in range(rows.shape[1]))
        for s in range(len(rows))
        for t in range(len(rows))
    )
    found = ln.sharpness(objective, "relative_flatness", params="weight", probes=300)
    assert abs(found.value - wanted) < 3.5 * found.error < 0.5 * abs(found.value)


def test_limits_and_infinities_are_said():
    bowl = quadratic(symmetric(SPECTRUM), CENTER)
    with pytest.warns(
        errors.LossnavWarning, match="known to within .* only. Allow more products with limit="
    ) as caught:
        found = ln.sharpness(bowl, "lambda_max", limit=3)
    assert caught[0].filename == __file__
    assert found.value < 3.0 <= found.value + 5 * found.error
    rooted = ln.Objective.from_function(lambda p: 1 + p["x"].abs().sqrt().sum(), {"x": torch.zeros(2)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("lambda_max", "trace"):
            found = ln.sharpness(rooted, kind)
            assert math.isnan(found.value)
            assert "not finite" in found.uncertainty
            assert found.interval == (-math.inf, math.inf)
