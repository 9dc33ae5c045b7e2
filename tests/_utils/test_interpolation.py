"""Values between points: where they lie on a line, come twice, or crowd along one coordinate."""

import numpy as np
import pytest

import lossnav as ln
from lossnav._utils.interpolation import Interpolant


def bowl(places):
    return 1 + (np.asarray(places) ** 2).sum(1)


def test_points_on_a_line_in_a_plane_reach_along_it_alone():
    t = np.linspace(-1, 1, 30)
    line = np.stack([t, 0.5 * t + 0.1], axis=1)
    found = Interpolant(line, bowl(line))
    places = np.array([[0.013, 0.1065], [0.0, 0.0], [1.2, 0.7], [-1, -0.4]])
    assert found.reaches(places).tolist() == [True, False, False, True]
    np.testing.assert_allclose(found(places[:1]), bowl(places[:1]), rtol=1e-6)
    assert np.nanmax(found.left_out()) < 1e-3


def test_points_on_a_plane_in_a_volume_too():
    flat = np.random.default_rng(0).uniform(-1, 1, (60, 2))
    points = np.column_stack([flat, flat.sum(1)])
    found = Interpolant(points, bowl(points))
    assert found.reaches([[0.1, 0.1, 0.2], [0.1, 0.1, 0.3]]).tolist() == [True, False]
    np.testing.assert_allclose(found([[0.1, 0.1, 0.2]]), [1.06], rtol=0.01)


def test_one_point_reaches_itself():
    found = Interpolant([[0.3, 0.1]], [2.0])
    assert found.reaches([[0.3, 0.1], [0.3, 0.2]]).tolist() == [True, False]
    assert found([[5, 5]]) == [2]


@pytest.mark.parametrize("apart", [0, 1e-16, 1e-13, 1e-10])
def test_points_that_are_one_but_for_rounding_are_one(apart):
    x = np.array([0, 0.1, 0.2, 0.3, 0.3 + apart, 0.5, 0.7, 0.8, 1])
    losses = 1 + x
    losses[4] += 1e-7  # as float32 may have it
    found = Interpolant(x[:, None], losses)
    assert len(found.points) == 8
    between = np.linspace(0, 1, 50)
    np.testing.assert_allclose(found(between[:, None]), 1 + between, rtol=1e-3)


@pytest.mark.parametrize("n", [301, 501, 2001])
def test_a_grid_that_is_dense_along_one_coordinate_only(n):
    """Its nearest 80 points lay on one line: a singular system, or nonsense that predicted itself."""
    points = np.stack(np.meshgrid(np.linspace(-1, 1, n), [-1, 0, 1], indexing="ij"), -1).reshape(-1, 2)
    found = Interpolant(points, bowl(points))
    places = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    assert np.abs(found(places) / bowl(places) - 1).max() < 0.1
    assert np.isfinite(found.left_out()).any()


def test_a_system_that_has_no_solution_is_replaced(monkeypatch):
    import lossnav._utils.interpolation as module

    class Singular(module.LocalSpline):
        def through(self, places, near):
            if self.kernel == "quintic":
                raise np.linalg.LinAlgError("Singular matrix.")
            return super().through(places, near)

    monkeypatch.setattr(module, "LocalSpline", Singular)
    points = np.random.default_rng(0).uniform(-1, 1, (1300, 2))
    found = Interpolant(points, bowl(points))
    assert found([[0.1, 0.2]]) == pytest.approx(1.05, rel=1e-3)
    assert np.nanmedian(found.left_out()) < 0.01
    monkeypatch.setattr(module, "_DIRECT_AT_WORST", 100)
    assert Interpolant(points, bowl(points))([[0.1, 0.2]]) == pytest.approx(1.05, rel=0.05)


def test_points_given_twice_are_asked_for_once():
    points = ln.Points([[0.3], [0.1 + 0.2], [0.3], [1.0], [0.0]], dims=("alpha",))
    assert points.places[:, 0].tolist() == [0.3, 1.0, 0.0]
    assert ln.Points([[0.0], [1e-10], [1.0]], dims=("alpha",)).total == 3
