"""The parts of AutoNEB by hand: tangents, forces, distances, and where pivots are inserted."""

import numpy as np
import pytest
import torch

from lossnav.evaluation.elastic_band import insert_pivots, places_for_pivots, space_equally, tangent, without_part_along
from lossnav.evaluation.path_training import PathState, distances, zeros_like


def at(*coords):
    return {"x": torch.tensor(coords, dtype=torch.float64)}


POINTS = [at(0.0, 0.0), at(1.0, 0.0), at(1.0, 2.0)]


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((0.0, 1.0, 2.0), (0.0, 1.0)),  # uphill ahead
        ((2.0, 1.0, 0.0), (1.0, 0.0)),  # uphill behind
        ((0.0, 3.0, 1.0), (2 * 1.0, 3 * 2.0)),  # the highest: 3 for the higher neighbour, 2 for the lower
        ((1.0, 0.0, 3.0), (1 * 1.0, 3 * 2.0)),  # the lowest
        ((1.0, 1.0, 1.0), (1.0, 2.0)),
    ],
)
def test_the_tangent_leads_uphill(losses, expected):
    found = tangent(POINTS, losses, 1)["x"].numpy()
    np.testing.assert_allclose(found, np.array(expected) / np.hypot(*expected), atol=1e-12)


def test_the_force_is_perpendicular():
    along = at(0.6, 0.8)
    force = without_part_along(at(3.0, -1.0), along)
    assert float(force["x"] @ along["x"]) == pytest.approx(0, abs=1e-15)
    np.testing.assert_allclose(force["x"] + (3 * 0.6 - 0.8) * along["x"], [3.0, -1.0])


@pytest.mark.parametrize("seed", range(4))
def test_distances_become_equal_along_the_band_and_the_ends_stay(seed):
    rng = np.random.default_rng(seed)
    points = [at(*row) for row in np.cumsum(rng.uniform(0.01, 1, (7, 2)), axis=0)]
    before = [point["x"].clone() for point in points]
    space_equally(points)
    assert torch.equal(points[0]["x"], before[0]) and torch.equal(points[-1]["x"], before[-1])
    line = [at(0.0, 0.0), at(0.1, 0.0), at(0.2, 0.0), at(3.0, 0.0)]
    space_equally(line)
    np.testing.assert_allclose(distances(line), [1.0, 1.0, 1.0], atol=1e-12)
    corner = [at(0.0, 0.0), at(2.0, 0.0), at(2.0, 0.0), at(2.0, 2.0)]
    space_equally(corner)
    np.testing.assert_allclose(corner[1]["x"], [4 / 3, 0.0], atol=1e-12)
    np.testing.assert_allclose(corner[2]["x"], [2.0, 2 / 3], atol=1e-12)


def test_pivots_come_where_the_profile_rises_above_its_chord():
    profile = np.array([[0.0, 0.3, 0.2], [0.2, 0.6, 1.0], [1.0, 0.64, 0.0]])
    assert places_for_pivots(profile) == [(0, 0.5), (2, 0.5)]  # 0.2 and 0.14 above, of a range of 1; the second by none
    assert places_for_pivots(np.array([[0.0, 0.55, 1.0]])) == []  # 0.05: less than a tenth
    assert places_for_pivots(np.ones((3, 4))) == []
    state = PathState([*POINTS, at(3.0, 2.0)], [zeros_like(POINTS[0]), zeros_like(POINTS[0])])
    state.velocities[1]["x"] += 5
    assert insert_pivots(state, profile) == 2
    np.testing.assert_allclose([point["x"].numpy() for point in state.points],
                               [[0, 0], [0.5, 0], [1, 0], [1, 2], [2, 2], [3, 2]])  # fmt: skip
    np.testing.assert_allclose([v["x"].numpy() for v in state.velocities], [[0, 0], [0, 0], [5, 5], [0, 0]])
