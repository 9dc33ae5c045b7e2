"""Points go where the surface bends, and what is not resolved is said; on functions whose truth is known."""

import numpy as np
import pytest

import lossnav as ln
from lossnav._utils.interpolation import Interpolant
from lossnav.errors import SamplerError
from lossnav.evaluation.center import probe_points

SIDE = 61


def refine(function, dims=2, ends=(-1, 1), **options):
    """Points, losses and outcome of a run on a function of (m, k)."""
    names = ("alpha", "beta", "gamma")[:dims]
    sampler = ln.Adaptive(**dict.fromkeys(names, ends), **options)
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


def true_error(function, points, losses, ends=(-1, 1), side=SIDE):
    dims = points.shape[1]
    names = ("alpha", "beta", "gamma")[:dims]
    where = ln.Grid(**dict.fromkeys(names, (*ends, side))).points()
    truth = function(where)
    finite = np.isfinite(truth)
    return float(np.abs(Interpolant(points, losses)(where)[finite] / truth[finite] - 1).max())


def bowl(p):
    return 0.2 + 3 * np.exp(0.3 * p[:, 0]) * (p**2).sum(1) / (1 + 0.3 * (p**2).sum(1))


def rosenbrock(p):
    return 1 + (1 - p[:, 0]) ** 2 + 100 * (p[:, 1] - p[:, 0] ** 2) ** 2


def cliff(p):
    return np.where(p[:, 0] + 0.3 * p[:, 1] > 0.21, 50.0, 1.0)


def with_nan(p):
    return np.where(((p - 0.4) ** 2).sum(1) < 0.15, np.nan, 1 + (p**2).sum(1))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_smooth_function_is_found_and_its_error_is_known(dims):
    points, losses, outcome = refine(bowl, dims)
    error = true_error(bowl, points, losses, side={1: 801, 2: 61, 3: 17}[dims])
    assert error <= 0.01
    assert error / 2 <= outcome["estimated_error"] <= 0.01
    assert outcome["unresolved"] == 0
    assert len(points) == outcome["points"] < {1: 80, 2: 250, 3: 2000}[dims]
    assert len(np.unique(points, axis=0)) == len(points)


def test_a_narrow_valley_gets_its_points():
    points, losses, outcome = refine(rosenbrock)
    assert outcome["unresolved"] == 0
    assert true_error(rosenbrock, points, losses) <= 2 * outcome["estimated_error"] <= 0.02
    valley = np.abs(points[:, 1] - points[:, 0] ** 2) < 0.25
    strip = 0.25  # the part of the square within 0.25 of the valley
    assert valley.mean() > 1.3 * strip


def test_a_cliff_is_followed_and_said_to_be_unresolved():
    points, losses, outcome = refine(cliff, max_points=1500)
    assert outcome["unresolved"] > 0
    assert np.isfinite(outcome["estimated_error"])
    distance = np.abs(points[:, 0] + 0.3 * points[:, 1] - 0.21)
    assert (distance < 0.1).mean() > 0.25  # a tenth of the square
    where = ln.Grid(alpha=(-1, 1, SIDE), beta=(-1, 1, SIDE)).points()
    error = np.abs(Interpolant(points, losses)(where) / cliff(where) - 1)
    assert np.quantile(error, 0.9) < 1e-9  # beside the cliff the ground is flat, and nothing rings


def test_a_region_of_nan_is_ringed_and_counted():
    points, _, outcome = refine(with_nan, max_points=1500)
    assert outcome["non_finite"] > 0
    radius = np.sqrt(((points - 0.4) ** 2).sum(1))
    assert ((radius > 0.28) & (radius < 0.5)).mean() > 0.4  # of the points lie about the rim
    assert (radius < 0.25).mean() < 0.1  # and few inside, where nothing is to be seen


@pytest.mark.parametrize("value", [3.0, 0.0, -2.0])
def test_a_constant_costs_the_coarse_grid_its_middles_and_those_of_the_rim(value):
    points, _, outcome = refine(lambda p: np.full(len(p), value))
    assert (
        len(points) == 81 + 64 + 32 + 9
    )  # the last are evaluated a second time: 8 places, and that of the lowest loss
    assert outcome["unresolved"] == 0
    assert outcome["estimated_error"] == pytest.approx(0, abs=1e-9)


def test_nothing_finite_ends_after_the_coarse_grid():
    points, _, outcome = refine(lambda p: np.full(len(p), np.nan))
    assert len(points) == 81 + 64 + 32 + 8
    assert outcome["non_finite"] == 64


def test_losses_of_both_signs_are_measured_against_their_range():
    def wave(p):
        return np.sin(3 * p[:, 0]) * np.cos(2 * p[:, 1])

    points, losses, outcome = refine(wave)
    where = ln.Grid(alpha=(-1, 1, SIDE), beta=(-1, 1, SIDE)).points()
    error = np.abs(Interpolant(points, losses)(where) - wave(where)).max() / np.ptp(wave(where))
    assert error <= 2 * outcome["estimated_error"] <= 0.02


def test_what_happens_in_the_rim_only_is_found():
    def step(p):
        return 1 + 2 * np.exp(-(((p[:, 0] - 1) / 0.15) ** 2) - ((p[:, 1] - 0.75) / 0.15) ** 2)

    points, losses, outcome = refine(step)
    assert outcome["unresolved"] == 0
    assert true_error(step, points, losses) <= 2 * outcome["estimated_error"] <= 0.02


@pytest.mark.parametrize("tolerance", [0.05, 0.01])
def test_an_error_is_never_more_than_twice_what_is_said(tolerance):
    for seed in range(15):
        random = np.random.default_rng(seed)
        middles, widths = random.uniform(-1.2, 1.2, (12, 2)), random.uniform(0.35, 1.2, 12)
        heights, slopes = random.normal(size=12), random.normal(size=(2, 2))

        def loss(p, middles=middles, widths=widths, heights=heights, slopes=slopes):
            bumps = (heights * np.exp(-((p[:, None] - middles) ** 2).sum(2) / widths**2)).sum(1)
            return np.exp(bumps + np.logaddexp(*(4 * p @ slopes).T) / 8)  # a bend, as of a rectifier that switches

        points, losses, outcome = refine(loss, tolerance=tolerance)
        assert outcome["unresolved"] == 0
        assert true_error(loss, points, losses) <= 2 * outcome["estimated_error"] <= 2 * tolerance


@pytest.mark.parametrize("most", [25, 40, 41, 60, 77])
def test_no_more_points_than_allowed(most):
    points, _, outcome = refine(rosenbrock, max_points=most)
    assert len(points) <= most
    assert outcome["unresolved"] > 0


def test_the_same_losses_lead_to_the_same_points():
    first, again = refine(rosenbrock)[0], refine(rosenbrock)[0]
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "at least one axis"),
        ({"alpha": (1, -1)}, "not an interval"),
        ({"alpha": (0, float("inf"))}, "not an interval"),
        ({"alpha": (0, 1), "tolerance": 0}, "not a positive number"),
        ({"alpha": (0, 1), "start": 0}, "at least 1 and 0"),
        ({"alpha": (0, 1), "max_points": 4}, "fewer than the 5 points"),
        ({"alpha": "auto", "rise": 1.0}, "above 1"),
    ],
)
def test_what_cannot_be_refined_is_refused(options, words):
    with pytest.raises(SamplerError, match=words):
        ln.Adaptive(**options)


# ---------------------------------------------------------------------- automatic ranges


def test_an_automatic_range_ends_where_the_loss_has_risen():
    grid = ln.Grid(alpha="auto", beta=("auto", 5)).settle(lambda p: 1 + p[:, 0] ** 2 + 100 * p[:, 1] ** 2)
    assert grid.describe()["axes"] == {"alpha": [-4.0, 4.0, 51], "beta": [-0.5, 0.5, 5]}
    assert grid.describe()["auto"]["beta"]["found"] == 26.0
    assert grid.describe()["auto"]["alpha"]["points"] == 7
    assert grid.settle(None) is grid


def test_flat_ground_ends_at_the_cap_and_says_so():
    sampler = ln.Adaptive(alpha="auto", cap=5).settle(lambda p: np.ones(len(p)))
    assert sampler.ends == {"alpha": (-5.0, 5.0)}
    assert sampler.describe()["auto"]["alpha"]["capped"]


def test_a_rim_that_is_not_finite_has_risen():
    grid = ln.Grid(alpha="auto").settle(lambda p: np.where(np.abs(p[:, 0]) > 0.3, np.inf, 1.0))
    assert grid.describe()["axes"]["alpha"][:2] == [-0.5, 0.5]


@pytest.mark.parametrize("spec", ["all", ("auto", 5, 6), ("wide", 5)])
def test_other_words_are_no_axis(spec):
    with pytest.raises(SamplerError, match="must be .*got"):
        ln.Grid(alpha=spec)


def test_no_multiple_of_nothing():
    with pytest.raises(SamplerError, match="positive loss at the centre"):
        ln.Grid(alpha="auto").settle(lambda p: p[:, 0] ** 2)


# ---------------------------------------------------------------------- levels and lists


def test_a_grid_comes_from_coarse_to_fine():
    rounds = list(ln.Grid(alpha=(-1, 1, 51), beta=(-1, 1, 51)).rounds())
    assert [len(points) for points in rounds][:3] == [25, 81 - 25, 289 - 81]
    everything = np.concatenate(rounds)
    assert len(np.unique(everything, axis=0)) == len(everything) == 51 * 51
    assert {(-1, -1), (1, 1), (0, 0)} <= {tuple(point) for point in rounds[0]}


def test_points_are_asked_for_once_and_in_order():
    sampler = ln.Points([(0, 0), (0.5, -1), (0, 0)])
    (asked,) = sampler.rounds()
    assert asked.tolist() == [[0, 0], [0.5, -1]]
    assert sampler.total == 2
    assert sampler.describe()["axes"] == {"alpha": [0.0, 0.5], "beta": [-1.0, 0.0]}


@pytest.mark.parametrize("points", [[], [(0,)], [(0, float("nan"))], [0, 1]])
def test_points_that_are_none_are_refused(points):
    with pytest.raises(SamplerError):
        ln.Points(points)


@pytest.mark.parametrize(
    "sampler",
    [
        ln.Grid(alpha=(-3, 1, 5), beta=(0, 2, 5)),
        ln.Adaptive(alpha=(-3, 1), beta=(0, 2)),
        ln.Points([(-3, 2), (1, 0), (0, 1)]),
    ],
)
def test_plans_are_proved_where_the_points_will_be(sampler):
    assert sampler.box.tolist() == [[-3, 1], [0, 2]]
    probes = probe_points(sampler)
    assert {(-3, 0), (-3, 2), (1, 0), (1, 2), (0, 0)} <= {tuple(point) for point in probes.tolist()}
    assert (probes >= sampler.box[:, 0]).all() & (probes <= sampler.box[:, 1]).all()
