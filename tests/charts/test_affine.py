import numpy as np
import pytest
import torch

import lossnav as ln
from lossnav import errors
from lossnav import params as algebra

CHARTS = {"line": ln.Line, "plane": ln.Plane, "volume": ln.Volume}


@pytest.fixture(params=CHARTS)
def chart(request, objective):
    kind = CHARTS[request.param]
    return kind(objective.params, *ln.directions.random(objective, len(kind.dims), normalize="layer", seed=2))


def test_the_origin_is_the_centre_bit_for_bit(chart, objective):
    point = chart(np.zeros(len(chart.dims)))
    assert all(torch.equal(point[name], tensor) for name, tensor in objective.params.items())


def test_coordinates_are_lengths_of_the_directions(chart):
    for i in range(len(chart.dims)):
        coords = np.zeros(len(chart.dims))
        coords[i] = -2.0
        step = algebra.subtract(chart(coords), chart.center)
        assert algebra.norm(step) == pytest.approx(2 * algebra.norm(chart.directions[i]), rel=1e-5)
        assert algebra.cosine(step, chart.directions[i]) == pytest.approx(-1, rel=1e-6)


def test_projection_inverts_a_chart(chart):
    coords = np.linspace(-0.7, 1.3, len(chart.dims))
    found = chart.project(chart(coords))
    np.testing.assert_allclose(found.coords, coords, atol=1e-5)
    assert found.residual < 1e-5 * algebra.norm(chart.center)


def test_projection_of_oblique_directions_and_its_residual():
    center = {"x": torch.zeros(3, dtype=torch.float64)}
    d1, d2 = torch.tensor([1.0, 0, 0]).double(), torch.tensor([1.0, 2.0, 0]).double()
    plane = ln.Plane(center, {"x": d1}, {"x": d2})
    coords, residual = plane.project({"x": 3 * d1 - d2 + torch.tensor([0, 0, 7.0]).double()})
    np.testing.assert_allclose(coords, [3, -1], atol=1e-12)
    assert residual == pytest.approx(7)


def test_tensors_that_do_not_move_are_the_centres_own(plane):
    point = plane([0.3, 0.2])
    assert point["conv.bias"] is plane.center["conv.bias"]


def test_describe_holds_recipes_and_cosines(plane):
    said = plane.describe()
    assert said["dims"] == ["alpha", "beta"]
    assert [recipe["seed"] for recipe in said["directions"]] == [0, 0]
    assert abs(said["cosines"]["0,1"]) < 1e-6
    assert ln.Line({"x": torch.ones(1)}, {"x": torch.ones(1)}).describe()["directions"][0]["kind"] == "given"


def test_bad_directions_are_refused(objective):
    center = {"a": torch.ones(2), "b": torch.ones(3)}
    good = {"a": torch.ones(2), "b": torch.ones(3)}
    with pytest.raises(
        errors.StructureMismatchError, match=r'along alpha and the centre differ at "b" \(3,\) is missing'
    ):
        ln.Line(center, {"a": torch.ones(2)})
    with pytest.raises(errors.DirectionError, match="along alpha is zero"):
        ln.Line(center, {"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(errors.DirectionError, match='along beta contains NaN or infinite entries in "b"'):
        ln.Plane(center, good, {"a": torch.ones(2), "b": torch.tensor([1.0, float("nan"), 0.0])})
    with pytest.raises(errors.DirectionError, match="parallel or dependent"):
        ln.Plane(center, good, {name: -2 * tensor for name, tensor in good.items()})
    with pytest.raises(errors.ChartError, match=r"needs 2 direction\(s\), got 1"):
        ln.Plane(center, good)
    with pytest.raises(errors.ChartError, match="one point at a time"):
        ln.Plane(objective.params, *ln.directions.random(objective, 2))([[0, 0], [1, 1]])
    with pytest.raises(errors.StructureMismatchError, match="point and the chart differ"):
        ln.Line(center, good).project({"a": torch.ones(2)})
