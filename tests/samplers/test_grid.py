import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lossnav as ln
from lossnav.errors import SamplerError


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 200))
def test_axes_increase_and_hit_both_ends(low, span, n):
    axis = ln.Grid(alpha=(low, low + span, n)).axes["alpha"]
    assert len(axis) == n
    assert (axis[0], axis[-1]) == (low, low + span)
    assert (np.diff(axis) > 0).all()


@pytest.mark.parametrize(("ends", "n"), [((-1, 1), 51), ((-2, 2), 41), ((-1, 1), 21), ((-3, 3), 7)])
def test_odd_symmetric_axes_hold_an_exact_zero(ends, n):
    axis = ln.Grid(alpha=(*ends, n)).axes["alpha"]
    assert axis[n // 2] == 0
    np.testing.assert_array_equal(axis, -axis[::-1])


def test_points_run_the_last_coordinate_fastest():
    grid = ln.Grid(alpha=(0, 1, 2), beta=[10.0, 20.0, 40.0])
    assert grid.points().tolist() == [[0, 10], [0, 20], [0, 40], [1, 10], [1, 20], [1, 40]]
    assert grid.total == 6
    rounds = list(grid.rounds())
    assert len(rounds) == 1
    np.testing.assert_array_equal(rounds[0], grid.points())


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"alpha": (-1, 1, 1)}, r"at least 2 points, got 1.*2 or more"),
        ({"alpha": [0.5]}, "at least two points"),
        ({"alpha": (1, -1, 5)}, r"runs from 1 down to -1.*\(-1, 1, 5\)"),
        ({"alpha": (1, 1, 5)}, "runs from 1 down to 1"),
        ({"alpha": [0.0, 2.0, 1.0]}, "must increase"),
        ({"alpha": (-1, 1)}, r"how many points.*\(-1, 1, 51\).*\[-1, 1\]"),
        ({"alpha": (-1, 1, 5), "beta": (0.0, 2.0)}, "beta.*how many points"),
        ({"alpha": (0, float("nan"), 5)}, "must have finite ends"),
        ({"alpha": (0, float("inf"), 5)}, "must have finite ends"),
        ({"alpha": (-1, 1, 2.5)}, "not a whole number"),
        ({"alpha": [0.0, float("nan")]}, "must all be finite"),
        ({}, "at least one axis"),
    ],
)
def test_grids_that_are_none_are_refused(axes, words):
    with pytest.raises(SamplerError, match=words):
        ln.Grid(**axes)


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-1, 1)), min_size=2, max_size=20), st.floats(0, 1))
def test_a_grid_around_points_has_them_inside(points, margin):
    x, y = np.array(points).T
    if max(np.ptp(x), np.ptp(y)) < 1e-6:
        return
    box = ln.Grid.around({"alpha": x, "beta": y}, 5, margin).box
    spans = np.ptp(box, axis=1)
    for (low, high), values in zip(box, (x, y), strict=True):
        assert low <= values.min() - 0.999 * margin * np.ptp(values) + 1e-9
        assert high >= values.max() + 0.999 * margin * np.ptp(values) - 1e-9
    assert spans[0] == pytest.approx(spans[1], rel=1e-6)


@pytest.mark.parametrize("points", [{}, {"alpha": []}, {"alpha": [np.nan]}, {"alpha": [1.0, 1.0], "beta": [0.0, 0.0]}])
def test_no_grid_around_nothing(points):
    with pytest.raises(SamplerError, match="points"):
        ln.Grid.around(points)
