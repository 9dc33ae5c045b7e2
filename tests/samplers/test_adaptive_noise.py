"""Noise is what differs at one place: nothing of a deterministic loss, all of a noisy one, and said as far as seen."""

import numpy as np
import pytest
import torch
from tests.samplers.test_adaptive_claims import refine

import lossnav as ln
from lossnav.errors import SamplerError

SEEDS = (0, 1, 2)

# ---------------------------------------------------------------------- a deterministic loss is never called noisy

EDGES = {
    "step": lambda x: 1.0 * (x > 0),
    "step that includes its place": lambda x: 1.0 * (x >= 0),
    "stairs": lambda x: np.floor(4 * x) / 8,
    "rounding": lambda x: np.round(16 * x) / 16,
    "cusp": lambda x: np.abs(x) ** 0.3,
    "steep root": lambda x: np.sqrt(np.abs(x)),
    "pole": lambda x: 1 / (np.abs(x) + 1e-9),
    "sawtooth of eighths": lambda x: (8 * x) % 1,
    "ripples of a millionth": lambda x: 0.1 * np.sin(1e6 * x),
    "steps of a float16": lambda x: x.astype(np.float16).astype(float),
}


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("dims", [1, 2])
def test_edges_at_any_even_place_are_no_noise(edge, dims):
    for seed in SEEDS:
        for at in (0.0, 0.5, -0.375, 0.875, -1.0):
            _, _, outcome = refine(
                lambda p, c=at: 2 + edge(p[:, 0] - c) + p[:, -1] ** 2, dims, seed=seed, max_points=150
            )
            assert outcome["noise_places"] == 0 and outcome["noise_non_finite"] == 0
            assert outcome["noise"] == 0 or outcome["noise_repeats"]


def test_a_float32_model_gives_equal_bits_at_one_place():
    model = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    x, y = torch.randn(64, 5), torch.randint(3, (64,))
    objective = ln.Objective(model, torch.nn.CrossEntropyLoss(), (x, y))
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=1))
    surface = ln.evaluate(objective, plane, ln.Adaptive(alpha=(-1, 1), beta=(-1, 1), max_points=200), progress=False)
    outcome = surface.attrs["sampler"]["outcome"]
    assert outcome["noise"] == 0 and outcome["noise_largest"] < 1e-6 and outcome["places_twice"] >= 8
    assert f"at {outcome['places_twice']} places" in ln.report(surface)["adaptive_noise"].said


def test_places_evaluated_twice_are_one_place_and_spread_over_every_quarter():
    for seed in range(20):
        for dims in (1, 2):
            points, _, outcome = refine(lambda p: 1 + (p**2).sum(1), dims, seed=seed)
            ordered = points[np.lexsort(points.T)]
            twins = ordered[1:][np.abs(np.diff(ordered, axis=0)).max(1) < 1e-14]
            assert len(twins) == outcome["places_twice"] >= 8
            assert len(np.unique(points, axis=0)) == len(points)  # a store has one value a place
            assert np.abs(twins).max() < 1
            for axis in twins.T:
                assert set(np.floor((axis + 1) * 2).astype(int)) == {0, 1, 2, 3}
            assert np.abs(twins * 32 - np.round(twins * 32)).min() > 1e-9


# ---------------------------------------------------------------------- noise is named


def regional(where, size, random):
    return lambda p: (1 + (p**2).sum(1)) * (1 + size * where(p) * random.standard_normal(len(p)))


REGIONS = {
    "left of -0.6": lambda p: p[:, 0] < -0.6,
    "right of 0.55": lambda p: p[:, 0] > 0.55,
    "below": lambda p: p[:, -1] < -0.55,
    "about the centre": lambda p: np.abs(p).max(1) < 0.3,
}


@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
@pytest.mark.parametrize("size", [0.003, 0.03])
@pytest.mark.parametrize("dims", [1, 2])
def test_noise_in_a_region_is_named_there_and_costs_little(region, size, dims):
    named = 0
    for seed in SEEDS:
        random = np.random.default_rng(seed)
        points, _, outcome = refine(regional(region, size, random), dims, seed=seed)
        if outcome["noise"] > 0 and not outcome["noise_repeats"]:
            named += 1
            assert region(np.array(outcome["noise_at"])).all()
            assert 0 < outcome["noise_places"] < outcome["places_twice"]
        assert len(points) < 600
    assert named >= 2


@pytest.mark.parametrize("dims", [1, 2])
def test_noise_that_is_small_beside_an_offset_is_seen_in_the_picture(dims):
    random = np.random.default_rng(3)
    _, _, outcome = refine(lambda p: 1e6 + 10 * (p**2).sum(1) + random.standard_normal(len(p)), dims)
    assert 0.3e-6 < outcome["noise"] < 3e-6
    assert outcome["noise_of_range"] > 0.02
    assert outcome["noise_places"] > outcome["places_twice"] / 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_each_time_is_noisy(value):
    named = 0
    for seed in range(12):
        random = np.random.default_rng(seed)
        _, _, outcome = refine(
            lambda p, r=random: np.where(r.random(len(p)) < 0.2, value, 1 + p[:, 0] ** 2), max_points=400
        )
        named += outcome["noise"] == np.inf and outcome["noise_non_finite"] > 0
    assert named >= 11


def test_a_region_that_is_never_finite_is_no_noise():
    for value in (np.nan, np.inf):
        _, _, outcome = refine(lambda p, v=value: np.where(p[:, 0] < 0.2, v, 1 + p[:, 0] ** 2))
        assert outcome["noise"] == 0.0 and outcome["places_twice"] > 8


@pytest.mark.parametrize("dims", [1, 2])
def test_noise_of_one_size_is_measured_where_it_weighs_most(dims):
    """Of 0.001 everywhere, a tenth of the loss at the bottom: one mean over all places would say 0.0001 of the loss."""
    random = np.random.default_rng(5)
    _, _, outcome = refine(
        lambda p: 0.01 + 50 * (p**2).sum(1) + 1e-3 * random.standard_normal(len(p)), dims, max_points=500
    )
    assert outcome["noise_largest"] > 4 * outcome["noise"] / 3
    assert np.abs(np.array(outcome["noise_at"][0])).max() < 0.5


# ---------------------------------------------------------------------- what is said


def surface_of(function, **options):
    objective = ln.Objective.from_function(function, {"x": torch.zeros(1, dtype=torch.float64)})
    line = ln.Line(objective.params, {"x": torch.ones(1, dtype=torch.float64)})
    return ln.evaluate(objective, line, ln.Adaptive(alpha=(-1, 1), **options), progress=False, check=False)


def test_the_report_says_at_how_many_places_and_where():
    random = np.random.default_rng(0)
    surface = surface_of(
        lambda p: 1 + p["x"][0] ** 2 + 0.03 * float(p["x"][0] < -0.5) * float(random.standard_normal())
    )
    outcome, finding = surface.attrs["sampler"]["outcome"], ln.report(surface)["adaptive_noise"]
    assert f"at {outcome['noise_places']} of {outcome['places_twice']} places" in finding.said
    assert f"largest at ({outcome['noise_at'][0][0]:.3g})" in finding.said
    assert finding.level == "warning" and surface.lossnav.to_grid(51)["loss"].notnull().all()


def test_the_report_says_that_a_loss_is_finite_once_and_once_not():
    random = np.random.default_rng(1)
    finding = ln.report(
        surface_of(lambda p: 1 + p["x"][0] ** 2 + (float("nan") if random.random() < 0.3 else 0.0), max_points=150)
    )["adaptive_noise"]
    assert "only one of the two values is finite" in finding.said and finding.level == "warning"


def test_the_report_never_says_that_the_loss_is_the_same_where_nothing_was_looked_at():
    said = ln.report(surface_of(lambda p: 1 + p["x"][0] ** 2))["adaptive_noise"].said
    assert said.startswith("Repeated evaluation at 9 places gave the same loss")


def test_cells_without_a_test_are_in_every_share():
    """Of 36 cells 28 are untested: no share of all is within anything."""
    _, _, outcome = refine(lambda p: 1 + (p**2).sum(1), 2, max_points=70)
    assert outcome["untested"] == outcome["unresolved"] > outcome["cells"] / 2
    assert outcome["estimated_error_p99"] == np.inf
    _, _, outcome = refine(lambda p: 1 + (p**2).sum(1), 2)
    assert outcome["untested"] == 0 and outcome["estimated_error_p99"] <= outcome["estimated_error"]


def test_the_report_says_untested_and_no_share():
    surface = surface_of(lambda p: 1 + p["x"][0] ** 2, max_points=55)
    said = ln.report(surface)["adaptive"].said
    assert "untested" in said and "99 %" not in said


@pytest.mark.parametrize("depth", [51, 62, 70, 1000])
def test_cells_finer_than_coordinates_are_refused(depth):
    with pytest.raises(SamplerError, match="max_depth"):
        ln.Adaptive(alpha=(-1, 1), max_depth=depth)
    with pytest.raises(SamplerError, match="max_depth"):
        ln.Adaptive(alpha=(-1, 1), start=2**20, max_points=2**30, max_depth=50)


def test_the_deepest_cells_allowed_are_divided():
    _, _, outcome = refine(lambda p: 1.0 * (p[:, 0] > 1 / 3) + 1, max_depth=50, max_points=300)
    assert outcome["noise"] == 0
