"""The average case: its truth on quadratics, and whether its errors are what they say."""

import math

import numpy as np
import pytest
import torch

import lossnav as ln
from landscapes import quadratic, relu_net, rosy, symmetric
from lossnav.sharpness_measures.noise import mean_of

SPECTRUM = torch.linspace(0.1, 3.0, 40)
CENTER = torch.linspace(-2.0, 2.0, 40)


def truth(matrix, scale, sigma):
    return sigma**2 / 2 * float((matrix.diagonal() * scale**2).sum())


SCALES = {None: torch.ones(40), "weight": CENTER.abs(), "layer": CENTER.norm().expand(40) / math.sqrt(40)}
SCALES["filter"] = SCALES["weight"]  # each entry of a vector is a filter of its own


@pytest.mark.parametrize("normalize", list(SCALES))
def test_on_a_quadratic_it_is_half_the_trace(normalize):
    matrix = symmetric(SPECTRUM)
    found = ln.sharpness(quadratic(matrix, CENTER), "average", sigma=0.3, normalize=normalize, draws=200, exclude=())
    assert abs(found.value - truth(matrix, SCALES[normalize].double(), 0.3)) < 3.5 * found.error < 0.2 * found.value
    assert found.evaluations == 401


def test_noise_is_as_long_as_each_filter():
    center = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    flat = ln.Objective.from_function(lambda p: 1 + (p["w"] - center)[0].square().sum(), {"w": center})
    found = ln.sharpness(flat, "average", sigma=0.1, draws=400, antithetic=False)
    assert abs(found.value - 0.1**2 * 25) < 3.5 * found.error < 0.05


def test_pairs_cancel_the_gradient():
    slope = torch.ones(40)
    tilted = quadratic(torch.zeros(40), CENTER, slope)
    found = ln.sharpness(tilted, "average", normalize=None)
    assert abs(found.value) < 1e-12
    alone = ln.sharpness(tilted, "average", normalize=None, antithetic=False)
    assert alone.error > 1e-3
    assert alone.evaluations == 21


@pytest.mark.parametrize("spectrum", [SPECTRUM.numpy(), [1.0, 0.5, 0.1], [1.0]], ids=["even", "uneven", "one"])
def test_the_interval_is_honest_of_skewed_rises_too(spectrum):
    """Rises on a quadratic are sums of squares; the fewer count, the more skewed they are."""
    z = np.random.default_rng(0).normal(size=(2000, 20, len(spectrum)))
    intervals = np.array([mean_of(list(rises))[2] for rises in (z**2 @ np.array(spectrum)) / 2])
    wanted = np.sum(spectrum) / 2
    assert 0.93 <= np.mean((intervals[:, 0] <= wanted) & (wanted <= intervals[:, 1])) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("antithetic", [True, False])
def test_the_interval_is_honest(antithetic):
    matrix = symmetric(SPECTRUM)
    bowl = quadratic(matrix, CENTER, 0.1 * torch.ones(40))
    wanted = truth(matrix, SCALES[None].double(), 0.5)
    options = {"sigma": 0.5, "normalize": None, "draws": 20 if antithetic else 30, "antithetic": antithetic}
    found = [ln.sharpness(bowl, "average", seed=seed, **options) for seed in range(100)]
    assert sum(f.interval[0] <= wanted <= f.interval[1] for f in found) >= 93
    assert sum(f.interval[1] - f.interval[0] for f in found) < 50 * wanted  # and says something


@pytest.mark.slow
def test_the_noise_that_is_borne():
    matrix = symmetric(SPECTRUM)
    bowl = quadratic(matrix, CENTER, 0.1 * torch.ones(40), floor=2.0)
    sigma = math.sqrt(2 * 2.0 / float(SPECTRUM.sum()))  # where sigma^2 / 2 times the trace is the loss at the centre
    options = {"normalize": None, "draws": 6, "tolerance": 0.05, "limit": 0.5}
    found = [ln.sharpness(bowl, "magnitude", seed=seed, **options) for seed in range(100)]
    assert sum(f.interval[0] <= sigma <= f.interval[1] for f in found) >= 93
    assert all(abs(f.value / sigma - 1) < 0.2 for f in found)
    by = ln.sharpness(bowl, "magnitude", rise_by=2.0, **options)
    assert by.value == pytest.approx(found[0].value, rel=1e-6)


def test_noise_that_is_always_borne_is_bounded_from_below():
    found = ln.sharpness(quadratic(torch.zeros(3), torch.ones(3)), "magnitude", limit=2.0, exclude=())
    assert (found.value, found.interval) == (2.0, (2.0, math.inf))
    assert "lower bound" in found.uncertainty


def test_draws_that_are_not_finite_are_counted():
    walled = ln.Objective.from_function(lambda p: torch.where(p["x"].sum() > 1.0, math.inf, 1.0), {"x": torch.zeros(2)})
    found = ln.sharpness(walled, "average", normalize=None, sigma=1.0)
    assert found.value == math.inf
    assert "samples are not finite" in found.uncertainty
    assert math.isnan(found.error)


def test_biases_and_norms_stay_unless_they_are_asked_for():
    model, data = relu_net()
    found = ln.sharpness(rosy(model, data), "average")
    assert found.settings["excluded"] == ["0.bias", "2.bias", "4.bias"]
    assert ln.sharpness(rosy(model, data), "average", exclude=()).value != found.value
    assert ln.sharpness(rosy(model, data), "sam").settings["excluded"] == []
