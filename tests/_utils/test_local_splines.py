"""Pictures of many points are those that SciPy's loop over places gives, worked out here anew."""

import itertools

import numpy as np
import pytest
from scipy.interpolate import RBFInterpolator
from scipy.spatial import Delaunay, cKDTree

import lossnav as ln
from lossnav._utils.geometry import distinct, unpacked
from lossnav._utils.interpolation import Interpolant, together
from lossnav._utils.local_splines import LocalSpline
from lossnav.storage.journal import Rows
from lossnav.surface import assemble, resample, variables

DEGREES = {"quintic": 2, "cubic": 1, "linear": 0}


def losses_of(points):
    return 0.1 + (points**2).sum(1) + 0.3 * np.sin(4 * points[:, 0]) ** 2


def old_values(points, heights, places, neighbors):
    """One spline a place through its nearest points, kept near those around it."""
    low, high = points.min(0), points.max(0)
    points, places = ((x - (low + high) / 2) / ((high - low) / 2) for x in (points, places))
    found = RBFInterpolator(points, heights, kernel="quintic", degree=2, neighbors=neighbors)(places)
    around = heights[cKDTree(points).query(places, 3 ** points.shape[1])[1]]
    spare = 0.5 * np.ptp(around, axis=1)
    return np.clip(found, around.min(1) - spare, around.max(1) + spare)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("kernel", list(DEGREES))
def test_splines_are_those_of_scipy(k, kernel):
    rng = np.random.default_rng(k)
    side = {1: 400, 2: 25, 3: 8}[k]
    points = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * k, indexing="ij"), -1).reshape(-1, k)
    points = points + rng.uniform(-0.3, 0.3, points.shape) / side  # scattered, and nowhere crowded
    heights = np.stack([np.log(losses_of(points)), points.sum(1) ** 3], axis=1)
    places = rng.uniform(-1, 1, (300, k))
    places = np.concatenate([places, places[:20] + 1e-6, points[:3]])  # several share their neighbours
    degree = DEGREES[kernel]
    expected = RBFInterpolator(points, heights, kernel=kernel, degree=degree, neighbors=40)(places)
    np.testing.assert_allclose(LocalSpline(points, heights, kernel, 40)(places), expected, rtol=1e-5, atol=1e-6)
    one = LocalSpline(points, heights[:, 0], kernel, 40)(places)
    np.testing.assert_allclose(one, expected[:, 0], rtol=1e-5, atol=1e-6)
    assert LocalSpline(points, heights, kernel, 40)(places[:0]).shape == (0, 2)


def test_neighbours_on_one_line_have_no_spline():
    points = np.stack([np.linspace(-1, 1, 100), np.zeros(100)], axis=1)
    with pytest.raises(np.linalg.LinAlgError):
        LocalSpline(points, points[:, 0], "quintic", 20)([[0.1, 0.0]])


@pytest.mark.parametrize(("k", "count"), [(1, 1300), (2, 3000), (3, 2500)])
def test_pictures_of_scattered_points_have_the_old_values(k, count):
    """Failed points and infinite losses among them."""
    rng = np.random.default_rng(10 + k)
    points = rng.uniform(-1, 1, (count, k))
    if k == 1:
        points = (np.linspace(-1, 1, count) + rng.uniform(-0.2, 0.2, count) / count)[:, None]
    losses, status = losses_of(points), np.ones(count, np.uint8)
    losses[5:8], status[5:8] = np.inf, variables.NON_FINITE
    losses[8:11], status[8:11] = np.nan, variables.FAILED
    accuracy = np.where(status == variables.FAILED, np.nan, np.exp(-losses))
    dims = ["alpha", "beta", "gamma"][:k]
    rows = Rows(points, status, {"loss": losses, "accuracy": accuracy})
    attributes = {"chart": {"dims": dims}, "objective": {}, "sampler": {}, "engine": {}, "center": {}}
    grid = assemble.assemble_table(dims, None, rows, attributes).lossnav.to_grid(17 if k < 3 else 9)
    places = np.stack(np.meshgrid(*[grid[dim].values for dim in dims], indexing="ij"), -1).reshape(-1, k)
    for name, values, invert in (("loss", np.log(losses), np.exp), ("accuracy", accuracy, lambda x: x)):
        finite = np.isfinite(values)
        expected = invert(old_values(points[finite], values[finite], places, 80))
        if name == "accuracy":
            expected = np.clip(expected, np.nanmin(accuracy[status == 1]), np.nanmax(accuracy))
        found = grid[name].values.reshape(-1)
        here = (grid["status"].values.reshape(-1) == variables.OK) & (grid["interpolated"].values.reshape(-1) == 1)
        inside = here & (Delaunay(points[finite]).find_simplex(places) >= 0 if k > 1 else True)
        assert inside.sum() > 0.5 * len(places) if k < 3 else inside.sum() > 250
        np.testing.assert_allclose(found[inside & np.isfinite(found)], expected[inside & np.isfinite(found)], rtol=1e-5)
        assert np.isfinite(found[inside]).mean() > 0.9


def test_of_very_many_points_half_the_neighbours_are_as_good():
    rng = np.random.default_rng(3)
    points = rng.uniform(-1, 1, (12_000, 2))
    truth = lambda x: 0.1 + (x**2).sum(1) + 0.3 * np.sin(12 * x[:, 0]) ** 2 + np.abs(x[:, 1] - 0.3)  # noqa: E731
    places = rng.uniform(-0.95, 0.95, (500, 2))
    interpolant = Interpolant(points, truth(points))
    found = interpolant(places)
    old = np.exp(old_values(points, np.log(truth(points)), places, 80))
    off, before = (np.sqrt(np.mean((x / truth(places) - 1) ** 2)) for x in (found, old))
    assert off < 1.1 * before
    said = np.nanquantile(interpolant.left_out(1000), 0.99)  # the error that the picture states
    assert np.quantile(np.abs(found / old - 1), 0.99) < 0.5 * said


def test_variables_of_the_same_points_are_solved_together(monkeypatch):
    rng = np.random.default_rng(4)
    points = rng.uniform(-1, 1, (1500, 2))
    columns = [losses_of(points), points.sum(1), np.cos(points[:, 0]), losses_of(points)]
    columns[3][7] = np.nan  # a hole of its own
    interpolants = [Interpolant(points, values) for values in columns]
    places = rng.uniform(-0.9, 0.9, (50, 2))
    alone = [Interpolant(points, values)(places) for values in columns]
    calls = []
    solve = LocalSpline.__call__
    monkeypatch.setattr(LocalSpline, "__call__", lambda self, x: calls.append(1) or solve(self, x))
    for found, expected in zip(together(interpolants, places), alone, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len(calls) == 2


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("shape", ["cloud", "sphere"])
def test_what_lies_between_the_points_is_what_their_triangulation_holds(k, shape):
    rng = np.random.default_rng(k)
    points = rng.standard_normal((2600 if shape == "sphere" and k == 2 else 400, k))
    if shape == "sphere":
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    places = rng.uniform(-3, 3, (2000, k)) if shape == "cloud" else rng.uniform(-1.3, 1.3, (2000, k))
    expected = Delaunay(points).find_simplex(places) >= 0
    assert (Interpolant(points, losses_of(points)).reaches(places) == expected).all()
    assert 0.05 < expected.mean() < 0.95


@pytest.mark.parametrize("k", [1, 2, 3])
def test_points_that_are_one_are_found_as_a_look_at_all_pairs_finds_them(k):
    rng = np.random.default_rng(k)
    points = rng.integers(0, 4, (200, k)) / 3 + rng.choice([0, 4e-10, 9e-10], (200, k))
    spans = np.ptp(points, axis=0)
    group = list(range(200))  # joined pair by pair, the lower number staying
    for i, j in itertools.combinations(range(200), 2):
        if np.linalg.norm((points[i] - points[j]) / spans) <= 1e-9:
            one, other = sorted((group[i], group[j]))
            group = [one if number == other else number for number in group]
    assert (distinct(points, 1e-9) == np.unique(group, return_inverse=True)[1]).all()
    assert len(set(group)) < 190


def test_one_place_that_comes_ten_thousand_times_is_one():
    points = np.repeat([[0.0, 0.0], [1.0, 1.0]], 10_000, axis=0)
    assert distinct(points, 1e-9).tolist() == [0] * 10_000 + [1] * 10_000


def test_holes_beside_a_place_are_those_of_its_cells():
    rng = np.random.default_rng(0)
    axes = [np.linspace(-1, 1, 7), np.array([0.0, 0.1, 0.5, 2.0]), np.array([3.0])]
    points = np.stack([rng.choice(axis, 60) + rng.choice([0, 0.03], 60) for axis in axes], axis=1)
    bad = rng.random(60) < 0.5
    expected = np.full((7, 4, 1), -1)
    for number in np.flatnonzero(bad):
        ends = []
        for axis, x in zip(axes, points[number], strict=True):
            near = int(np.abs(axis - x).argmin())
            after = min(max(int(np.searchsorted(axis, x)), 1), len(axis) - 1) if len(axis) > 1 else 0
            ends.append([near] if abs(axis[near] - x) <= 1e-9 * np.ptp(axis) or len(axis) == 1 else [after - 1, after])
        expected[np.ix_(*ends)] = number
    assert (resample._beside_holes(axes, points, bad) == expected.reshape(-1)).all()


def test_errors_of_a_sample_of_points_are_those_of_all_and_their_limit_holds():
    rng = np.random.default_rng(5)
    points = rng.uniform(-1, 1, (4000, 2))
    found = Interpolant(points, losses_of(points) * np.exp(0.05 * rng.standard_normal(4000)))
    everywhere, some = found.left_out(), found.left_out(1000)
    chosen = np.isfinite(some)
    assert chosen.sum() == 1000
    np.testing.assert_allclose(some[chosen], everywhere[chosen], rtol=1e-9)
    errors = everywhere[np.isfinite(everywhere)]
    true = np.quantile(errors, 0.99)
    samples = [rng.choice(errors, 1000, replace=False) for _ in range(500)]
    held = [resample._largest_but_one_per_cent(sample, sampled=True) >= true for sample in samples]
    assert np.mean(held) > 0.93
    # each from the four fifths that it is not in, by SciPy
    fold = rng.permutation(4000)  # of another seed: nearly the same error
    asked = np.flatnonzero(fold % 5 == 0)[:150]
    rest = fold % 5 != 0
    other = np.exp(old_values(points[rest], found._heights[rest], points[asked], 80))
    theirs = np.abs(other / np.exp(found._heights[asked]) - 1)
    assert np.median(theirs) == pytest.approx(np.median(errors), rel=0.3)


def test_a_picture_says_how_many_points_were_left_out_in_turn():
    points = np.random.default_rng(6).uniform(-1, 1, (2500, 2))
    rows = Rows(points, np.ones(2500, np.uint8), {"loss": losses_of(points)})
    attributes = {"chart": {"dims": ["alpha", "beta"]}, "objective": {}, "sampler": {}, "engine": {}, "center": {}}
    made = assemble.assemble_table(["alpha", "beta"], None, rows, attributes)
    said = made.lossnav.to_grid(9).attrs["interpolation"]
    assert said["left_out_points"] == 1000
    assert 0 < said["left_out_error_p99"] <= said["left_out_error"]
    np.testing.assert_array_equal(unpacked(said["measured"], 2), points)
    np.testing.assert_array_equal(unpacked(said["values"]["loss"]), losses_of(points))
    assert ln.plot.contour(made) is not None
