"""Tips and folds between the tests of `Adaptive`: they are looked for before cells are believed, and cost little."""

import itertools

import numpy as np
import pytest

import lossnav as ln
from lossnav._utils.interpolation import Interpolant
from lossnav.samplers.edges import fit_edges


def refine(function, dims=2, **options):
    """Points, losses and outcome of a run on a function of (m, k)."""
    rounds = ln.Adaptive(**dict.fromkeys(("alpha", "beta", "gamma")[:dims], (-1, 1)), **options).rounds()
    points, losses, asked = [], [], next(rounds)
    try:
        while True:
            points.append(asked)
            losses.append(function(asked))
            asked = rounds.send(losses[-1])
    except StopIteration as end:
        return np.concatenate(points), np.concatenate(losses), end.value


def claims_falsely(function, near, **options):
    """Whether nothing is said to be unresolved, with an estimate below half the error at places near a middle."""
    points, losses, outcome = refine(function, **options)
    axes = [np.linspace(max(m - 0.4, -1), min(m + 0.4, 1), 61) for m in near]
    where = np.stack([x.reshape(-1) for x in np.meshgrid(*axes, indexing="ij")], axis=1)
    true = np.abs(Interpolant(points, losses)(where) / function(where) - 1).max()
    return outcome["unresolved"] == 0 and outcome["estimated_error"] < true / 2


def bowl(p):
    return 1 + 0.3 * (p**2).sum(1) + 0.2 * p[:, 0]


def length(p, middle):
    return np.linalg.norm(p - middle, axis=1)


def cone(middle, width, depth, power=1.0, stretch=(1.0, 1.0)):
    return lambda p: depth * np.maximum(0, 1 - (length(p * stretch, middle * stretch) / width) ** power)


def ridge(middle, width, depth, half=0.2, way=(0.6, 0.8)):
    """A roof over a stretch of a line: its crease ends twice."""

    def roof(p):
        along = np.clip((p - middle) @ np.array(way), -half, half)
        return depth * np.maximum(0, 1 - length(p - along[:, None] * np.array(way), middle) / width)

    return roof


GROUNDS = {
    "down, a part of the loss": lambda dent: lambda p: bowl(p) * (1 - dent(p)),
    "up, added": lambda dent: lambda p: bowl(p) + dent(p),
    "down, on a slope": lambda dent: lambda p: 2 + p @ np.array([0.8, -0.5]) - dent(p),
    "of both signs": lambda dent: lambda p: bowl(p) - 1.5 - dent(p),
}
SHAPES = {
    "cone": cone,
    "cusp": lambda *of: cone(*of, power=0.7),
    "elliptic": lambda *of: cone(*of, stretch=(1.0, 0.5)),
    "ridge": ridge,
}


def drawn(seed, draws):
    random = np.random.default_rng(seed)
    for _ in range(draws):
        yield random.uniform(-0.8, 0.8, 2), random.uniform(0.12, 0.3), random.uniform(0.2, 0.6)


def test_cones_on_planes():
    """Of these, at a tolerance of 5 %, eight were claimed falsely when nothing was looked for."""
    whole = GROUNDS["down, a part of the loss"]
    false = [claims_falsely(whole(cone(*of)), of[0], tolerance=0.05) for of in drawn(11, 12)]
    assert sum(false) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_siblings_of_cones(shape):
    """Cusps r^0.7 are the hardest of them: the tip is finer than any cone that fits the points around it."""
    false = [
        claims_falsely(ground(SHAPES[shape](*of)), of[0], tolerance=0.05)
        for name, ground in GROUNDS.items()
        for of in drawn(23, 6)
        if name != "of both signs"
    ]
    assert sum(false) <= 3


def test_a_loss_of_both_signs_is_looked_at_in_parts_of_its_range():
    for middle, width, depth in drawn(29, 3):
        function = GROUNDS["of both signs"](cone(middle, width, depth))
        points, losses, outcome = refine(function, tolerance=0.05)
        tip = np.array([middle])
        off = abs(float((Interpolant(points, losses)(tip) - function(tip))[0])) / np.ptp(losses)
        assert outcome["unresolved"] or off < 2 * outcome["estimated_error"]


@pytest.mark.parametrize(
    ("function", "most"),
    [
        (bowl, 189),
        (lambda p: 1 + np.exp(0.8 * p[:, 0]) * (p[:, 1] - 0.3) ** 2, 195),
        (
            lambda p: 1 + 0.5 * p[:, 0] ** 2 + 40 * (p[:, 1] - 0.4 * p[:, 0] ** 2) ** 2,
            720,
        ),  # 661 where nothing is looked for
    ],
)
def test_smooth_ground_costs_a_few_points_at_most(function, most):
    points, _, outcome = refine(function)
    assert len(points) <= most and outcome["unresolved"] == 0


def scattered(random, dims):
    """Places half a cell apart in and around the cell [0, 1]^k, each off by a fifth of that."""
    even = np.array(list(itertools.product(np.arange(-1, 2.25, 0.5), repeat=dims)))
    return even + random.uniform(-0.1, 0.1, even.shape)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_tip_is_found_where_it_lies_and_not_on_smooth_ground(dims):
    random = np.random.default_rng(5)
    cell = np.array([list(itertools.product((0.0, 1.0), repeat=dims))])
    off = []
    for _ in range(10):
        points = scattered(random, dims)
        middle, slope = random.uniform(0.2, 0.8, dims), random.normal(size=dims)
        apart = length(points, middle)
        assert len(fit_edges(points, points @ slope + apart**2, cell, np.array([0.01])).cells) == 0
        edges = fit_edges(points, points @ slope + apart, cell, np.array([0.01]))
        if len(edges.cells):
            truth = edges.places[0] @ slope + length(edges.places[0], middle)
            off.append(np.abs(edges.heights[0] - truth).max())
    assert len(off) >= (10 if dims < 3 else 8) and max(off) < 0.25  # places tried are up to a quarter of the cell apart


def test_a_fold_is_found_across_a_cell():
    points, way = scattered(np.random.default_rng(6), 2), np.array([0.8, 0.6])
    cell = np.array([list(itertools.product((0.0, 1.0), repeat=2))])
    edges = fit_edges(points, np.maximum(points @ way - 0.7, 0), cell, np.array([0.01]))
    assert np.abs(edges.heights[0] - np.maximum(edges.places[0] @ way - 0.7, 0)).max() < 0.1


def test_what_is_looked_at_is_the_same_each_time_and_no_place_twice():
    middle, width, depth = next(drawn(11, 1))
    function = GROUNDS["down, a part of the loss"](cone(middle, width, depth))
    points, _, outcome = refine(function, tolerance=0.05)
    again, _, _ = refine(function, tolerance=0.05)
    assert np.array_equal(points, again) and (np.abs(points) <= 1).all()
    gaps = np.abs(points[:, None] - points).max(2) + 3.0 * np.eye(len(points))
    assert (gaps < 1e-6).any(1).sum() == 2 * outcome["places_twice"]


@pytest.mark.parametrize("most", [189, 191, 230])
def test_looks_take_no_more_points_than_allowed(most):
    for middle, width, depth in drawn(31, 3):
        points, _, outcome = refine(GROUNDS["up, added"](cone(middle, width, depth)), max_points=most)
        assert len(points) <= most and outcome["points"] == len(points)
