"""`evaluate(..., repair=data)`: the repaired network at every point, as `ln.repair` gives it."""

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav.errors import OptionError, PlanMismatchError


def network(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture
def scene():
    torch.manual_seed(0)
    train = torch.randn(120, 3), torch.randint(3, (120,))
    test = torch.randn(40, 3), torch.randint(3, (40,))
    models = [network(seed) for seed in (1, 2, 3)]
    objective = ln.Objective(models[0], "cross_entropy", test, metrics=["accuracy"])
    return objective, models, train


def losses_by_hand(objective, chart, points, ends, weights, train):
    made = [ln.repair(objective, chart(p), ends, train, weights=w) for p, w in zip(points, weights, strict=True)]
    return [objective.evaluate(point)["loss"] for point in made]


def test_a_line_is_repaired_between_its_ends(scene):
    objective, (a, b, _), train = scene
    line = ln.Line(objective, ln.directions.between(objective, b))
    plain = ln.evaluate(objective, line, ln.Grid(alpha=(-0.5, 1.5, 9)))
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-0.5, 1.5, 9)), repair=train)
    alphas = surface["alpha"].values
    inside = np.clip(alphas, 0, 1)  # outside, the statistics of the nearer end
    wanted = losses_by_hand(objective, line, alphas[:, None], [a, b], np.stack([1 - inside, inside], 1), train)
    ends = np.isin(alphas, (0, 1))
    np.testing.assert_allclose(surface["loss"].values[~ends], np.array(wanted)[~ends], rtol=1e-6)
    np.testing.assert_allclose(surface["loss"].values[ends], plain["loss"].values[ends], rtol=1e-6)
    assert abs(surface["loss"].values - plain["loss"].values)[~ends].min() > 1e-4
    said = surface.attrs["repair"]
    assert (said["layers"], said["places"], said["samples"]) == (["3.weight"], [[0.0], [1.0]], 120)
    assert said["batch_norm"] == ["1.running_mean"]


def test_a_plane_through_three_is_repaired_by_barycentric_coordinates(scene):
    objective, (a, b, c), train = scene
    plane = ln.Plane(objective, *ln.directions.through(objective, b, c, orthogonal=False))
    points = np.array([[0.2, 0.3], [0.5, 0.5], [0.0, 1.0]])
    sampler = ln.Points(points, dims=("alpha", "beta"))
    surface = ln.evaluate(objective, plane, sampler, repair=train)
    places = {tuple(place): end for place, end in zip(surface.attrs["repair"]["places"], (a, b, c), strict=True)}
    assert len(places) == 3
    corners = np.array([[*place, 1.0] for place in places])
    weights = [np.linalg.solve(corners.T, [*point, 1.0]) for point in points]
    wanted = losses_by_hand(objective, plane, points, list(places.values()), weights, train)
    np.testing.assert_allclose(surface["loss"].values[:2], wanted[:2], rtol=1e-6)
    at_end = [objective.evaluate(plane(place))["loss"] for place in places]
    repaired = ln.evaluate(objective, plane, ln.Points(np.array(list(places)), dims=("alpha", "beta")), repair=train)
    np.testing.assert_array_equal(repaired["loss"].values, at_end)


class Bend(ln.Chart):
    dims = ("t",)

    def __init__(self, a, b, c):
        super().__init__({"a": a, "b": b, "c": c})

    def _at(self, coords, points):
        (t,) = coords
        a, b, c = points.values()
        return {name: (1 - t) ** 2 * a[name] + 2 * t * (1 - t) * b[name] + t**2 * c[name] for name in a}


def test_a_curve_is_repaired_between_the_ends_that_lie_on_it(scene):
    objective, (a, b, c), train = scene
    curve = Bend(objective, b, c)
    surface = ln.evaluate(objective, curve, ln.Grid(t=(0, 1, 5)), repair=train)
    ts = surface["t"].values[1:-1]
    wanted = losses_by_hand(objective, curve, ts[:, None], [a, c], np.stack([1 - ts, ts], 1), train)
    np.testing.assert_allclose(surface["loss"].values[1:-1], wanted, rtol=1e-6)


def test_other_repair_data_is_another_run(scene, tmp_path):
    objective, (_, b, _), train = scene
    line = ln.Line(objective, ln.directions.between(objective, b))
    grid, store = ln.Grid(alpha=(0, 1, 5)), tmp_path / "run.zarr"
    first = ln.evaluate(objective, line, grid, store=store, repair=train)
    again = ln.evaluate(objective, line, grid, store=store, repair=train)
    np.testing.assert_array_equal(first["loss"].values, again["loss"].values)
    for other in (ln.RepairData(train, samples=60), None, (train[0] + 1, train[1])):
        with pytest.raises(PlanMismatchError, match="repair"):
            ln.evaluate(objective, line, grid, store=store, repair=other)
        with pytest.raises(OptionError, match="repair"):
            ln.evaluate(objective, line, grid, resume=first, repair=other)
    with pytest.raises(OptionError, match="repair="):
        ln.resume(store, objective)


def test_kept_samples_are_those_of_the_repaired_network(scene):
    objective, (_, b, _), train = scene
    line = ln.Line(objective, ln.directions.between(objective, b))
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 3)), repair=train, keep_samples=True)
    np.testing.assert_allclose(surface["sample_loss"].mean("sample").values, surface["loss"].values, rtol=1e-5)


def test_a_chart_with_less_than_two_checkpoints_is_refused(scene):
    objective, _, train = scene
    plane = ln.Plane(objective, *ln.directions.random(objective, n=2))
    with pytest.raises(OptionError, match="Pass a chart between networks"):
        ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), repair=train)


def test_the_centre_between_two_ends_is_no_end(scene):
    objective, (_, b, _), train = scene
    middle = {name: (tensor + b.state_dict()[name]) / 2 for name, tensor in objective.params.items()}
    line = ln.Line(objective.around(middle).params, ln.directions.between(objective, b))
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(-0.5, 0.5, 3)), repair=train)
    assert sorted(surface.attrs["repair"]["places"]) == [[-0.5], [0.5]]
    straight = ln.evaluate(
        objective, ln.Line(objective, ln.directions.between(objective, b)), ln.Grid(alpha=(0, 1, 3)), repair=train
    )
    np.testing.assert_allclose(surface["loss"].values, straight["loss"].values, rtol=1e-4)


def test_the_report_says_what_was_repaired(scene):
    objective, (_, b, _), train = scene
    line = ln.Line(objective, ln.directions.between(objective, b))
    plain = ln.report(ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 3))))["repair"]
    assert plain.level == "ok" and "not repaired" in plain.said
    surface = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 3)), repair=train)
    found = ln.report(surface)["repair"]
    assert found.level == "warning" and "jumps" in found.said  # these running means are invented
    assert found.values["layers"] == 1 and found.values["batch_norm"] == 1
    settled = ln.Objective(network(1), "cross_entropy", train, bn="recompute")
    line = ln.Line(settled, ln.directions.between(settled, b))
    found = ln.report(ln.evaluate(settled, line, ln.Grid(alpha=(0, 1, 3)), repair=train))["repair"]
    assert found.level == "note" and "units of 1 layer" in found.said
