"""What `Adaptive` says of its error holds on functions that it was not made for, or it says that it does not."""

import numpy as np
import pytest
import torch

import lossnav as ln
from lossnav._utils.interpolation import Interpolant
from lossnav.errors import SamplerError


def refine(function, dims=1, ends=(-1, 1), **options):
    """Points, losses and outcome of a run on a function of (m, k)."""
    sampler = ln.Adaptive(**dict.fromkeys(("alpha", "beta", "gamma")[:dims], ends), **options)
    rounds, points, losses = sampler.rounds(), [], []
    asked = next(rounds)
    try:
        while True:
            told = function(asked)
            points.append(asked)
            losses.append(told)
            asked = rounds.send(told)
    except StopIteration as end:
        return np.concatenate(points), np.concatenate(losses), end.value


def true_error(function, points, losses):
    axis = np.linspace(-1, 1, 1501 if points.shape[1] == 1 else 91)
    where = np.stack([x.reshape(-1) for x in np.meshgrid(*[axis] * points.shape[1], indexing="ij")], axis=1)
    return float(np.abs(Interpolant(points, losses)(where) / function(where) - 1).max())


def claims_falsely(function, dims=1, **options):
    """Whether all is said to be resolved and without noise, with an estimate below half the true error."""
    points, losses, outcome = refine(function, dims, **options)
    if outcome["unresolved"] or outcome["noise"] > 0:
        return False
    return outcome["estimated_error"] < true_error(function, points, losses) / 2


def test_a_ripple_on_a_bowl_is_not_overlooked():
    assert not claims_falsely(lambda p: 1 + p[:, 0] ** 2 + 0.3 * np.sin(27 * p[:, 0] + 0.4))


@pytest.mark.parametrize("rates", [(3, 16), (16, 32), (32, 64)])
def test_ripples_of_any_rate_on_a_line(rates):
    random, false = np.random.default_rng(7), 0
    for _ in range(30):
        rate, phase, height = random.uniform(*rates), random.uniform(0, 7), np.exp(random.uniform(-4, -1.2))
        false += claims_falsely(lambda p, r=rate, f=phase, h=height: 1 + p[:, 0] ** 2 + h * np.sin(r * p[:, 0] + f))
    assert false <= 1


@pytest.mark.parametrize("cells", [2, 4, 8, 16])
@pytest.mark.parametrize("way", [(1, 0), (1, 1)])
def test_a_wave_as_long_as_a_cell_or_part_of_one(cells, way):
    """All points of an even grid, and all middles of its cells, see such a wave at one phase."""
    for phase in (0.0, np.pi / 2)[: 1 if cells > 4 else 2]:
        assert not claims_falsely(
            lambda p, f=phase: 1 + 0.3 * (p**2).sum(1) + 0.1 * np.sin(np.pi * cells * p @ np.array(way) + f), dims=2
        )


@pytest.mark.parametrize("dims", [1, 2])
def test_rectifiers_that_switch(dims):
    random, false = np.random.default_rng(3), 0
    draws = 30 if dims == 1 else 3
    for _ in range(draws):
        ways, places = random.normal(size=(3, dims)), random.uniform(-0.7, 0.7, 3)
        false += claims_falsely(
            lambda p, w=ways, c=places: 1 + (p**2).sum(1) + np.maximum(p @ w.T - c, 0).sum(1), dims, max_points=1200
        )
    assert false <= draws // 20


@pytest.mark.parametrize("dims", [1, 2])
def test_wells_a_tenth_wide(dims):
    random, false = np.random.default_rng(5), 0
    for _ in range(20 if dims == 1 else 5):
        middle, width = random.uniform(-0.9, 0.9, dims), random.uniform(0.1, 0.2)
        false += claims_falsely(
            lambda p, m=middle, w=width: (1 + (p**2).sum(1)) * (1 - 0.3 * np.exp(-((p - m) ** 2).sum(1) / w**2)), dims
        )
    assert false == 0


def test_steep_steps_on_a_line():
    random, false = np.random.default_rng(2), 0
    for _ in range(20):
        place, width = random.uniform(-0.8, 0.8), np.exp(random.uniform(-7, -3))
        false += claims_falsely(lambda p, c=place, w=width: 2 + p[:, 0] ** 2 + np.tanh((p[:, 0] - c) / w))
    assert false <= 1


@pytest.mark.slow
@pytest.mark.parametrize("power", [0.3, 0.5, 0.7])
def test_cusps_on_a_line(power):
    random, false = np.random.default_rng(17), 0
    for _ in range(30):
        place, height = random.uniform(-0.8, 0.8), random.uniform(0.3, 2)
        false += claims_falsely(lambda p, c=place, h=height: 1 + p[:, 0] ** 2 + h * np.abs(p[:, 0] - c) ** power)
    assert false <= 1


# ---------------------------------------------------------------------- noise


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("size", [0.001, 0.01, 0.1])
def test_noise_is_named_with_its_size(dims, size):
    random = np.random.default_rng(11)
    _, _, outcome = refine(lambda p: (1 + (p**2).sum(1)) * (1 + size * random.standard_normal(len(p))), dims)
    assert size / 2 < outcome["noise"] < 2 * size
    assert not outcome["noise_repeats"]


def test_noise_is_a_part_of_the_range_where_losses_have_both_signs():
    random = np.random.default_rng(1)
    _, _, outcome = refine(lambda p: 5 * np.sin(3 * p[:, 0]) + 0.1 * random.standard_normal(len(p)))
    assert 0.005 < outcome["noise"] < 0.02


@pytest.mark.parametrize("dims", [1, 2])
def test_noise_that_no_points_resolve_does_not_cost_all_points(dims):
    random = np.random.default_rng(0)
    points, _, outcome = refine(lambda p: (1 + (p**2).sum(1)) * (1 + 0.05 * random.standard_normal(len(p))), dims)
    assert outcome["unresolved"] > 0
    assert len(points) < 400


@pytest.mark.parametrize(
    "function",
    [
        lambda p: 1 + (p**2).sum(1),
        lambda p: 1e-3 + 1e4 * (p**2).sum(1),
        lambda p: 1 + np.maximum(p.sum(1), 0),
        lambda p: np.float32(1) + (p.astype(np.float32) ** 2).sum(1),
        lambda p: 1 + 0.1 * np.sin(9 * p[:, 0]),
    ],
)
@pytest.mark.parametrize("dims", [1, 2])
def test_what_is_the_same_each_time_is_no_noise(function, dims):
    _, _, outcome = refine(function, dims)
    assert outcome["noise"] == 0.0


@pytest.mark.parametrize("rate", [1e4, 31_417.0])
def test_ripples_far_finer_than_the_points_are_named(rate):
    """As of an arithmetic of few digits: the same each time, and no smaller between nearer points."""
    _, _, outcome = refine(lambda p: 1 + p[:, 0] ** 2 + 0.003 * np.sin(rate * p[:, 0]))
    assert outcome["noise_repeats"] and 0.0005 < outcome["noise"] < 0.02


@pytest.mark.parametrize(("repeats", "words"), [(False, "The loss is noisy"), (True, "finer than the points")])
def test_the_report_names_noise(repeats, words):
    outcome = {"cells": 9, "unresolved": 0, "non_finite": 0, "estimated_error": 0.01, "estimated_error_p99": 0.01}
    outcome |= {"noise": 0.02, "noise_repeats": repeats}
    objective = ln.Objective.from_function(lambda p: 1 + p["x"].square().sum(), {"x": torch.zeros(1)})
    line = ln.Line(objective.params, {"x": torch.ones(1)})
    surface = ln.evaluate(objective, line, ln.Adaptive(alpha=(-1, 1)), progress=False)
    assert surface.attrs["sampler"]["outcome"]["noise"] == 0.0
    assert ln.report(surface)["adaptive_noise"].level == "ok"
    surface.attrs["sampler"]["outcome"] = outcome
    finding = ln.report(surface)["adaptive_noise"]
    assert finding.level == "warning" and words in finding.said


# ---------------------------------------------------------------------- seeds and budgets


def test_tests_lie_where_the_seed_puts_them():
    def bowl(p):
        return 1 + (p**2).sum(1)

    first, again, other = (refine(bowl, 2, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(np.sort(first, 0), np.sort(other, 0))
    inner = np.abs(first).max(1) < 1
    off = np.abs(first * 8 - np.round(first * 8)).max(1) > 1e-6  # of the places that even halving leads to
    assert off[inner].sum() == 64 + 12  # tests, and places evaluated twice
    sampler = ln.Adaptive(alpha=(-1, 1), beta=(0, 1), seed=5)
    assert sampler.describe()["seed"] == 5
    assert ln.Adaptive.again(sampler.describe()).describe() == sampler.describe()
    for wrong in (-1, 0.5):
        with pytest.raises(SamplerError, match="seed"):
            ln.Adaptive(alpha=(-1, 1), seed=wrong)


@pytest.mark.parametrize(("dims", "most"), [(1, 30), (1, 48), (2, 60), (2, 100), (2, 170)])
def test_cells_that_no_point_was_left_for_are_unresolved(dims, most):
    points, _, outcome = refine(lambda p: 1 + (p**2).sum(1), dims, max_points=most)
    assert len(points) == outcome["points"] <= most
    assert outcome["unresolved"] > 0


def test_in_a_range_as_narrow_as_rounding_no_point_comes_twice():
    points, _, outcome = refine(lambda p: 1 + 0 * p[:, 0], ends=(1e6, 1e6 + 1e-5))
    assert len(np.unique(points)) == len(points)
    assert outcome["noise"] == 0.0
