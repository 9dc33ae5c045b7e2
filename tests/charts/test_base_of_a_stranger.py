"""A chart that lossnav does not know: control points and `_at`, and all else follows."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.charts import Chart, kinds
from lossnav.charts.io import open_chart, save_chart
from networks import dense, flat
from quadratic_path import QuadraticPath, model, objective, path

GRID = ln.Grid(t=(0, 1, 5))


@pytest.fixture(scope="module")
def one():
    return objective()


def truth(points, t):
    a, b, c = points
    return {n: (1 - t) ** 2 * a[n].double() + 2 * t * (1 - t) * b[n].double() + t**2 * c[n].double() for n in a}


def controls(chart):
    return [chart.points[name] for name in "abc"]


@pytest.mark.parametrize("t", [-0.5, 0.0, 0.25, 1.0, 1.5])
def test_points_tangents_and_bending_are_those_of_the_formula(one, t):
    chart = path(one)
    a, b, c = controls(chart)
    expected = truth((a, b, c), t)
    covector = {n: torch.sin(torch.arange(x.numel()).double()).reshape(x.shape) for n, x in a.items()}
    slope = {n: 2 * (1 - t) * (b[n].double() - a[n].double()) + 2 * t * (c[n].double() - b[n].double()) for n in a}
    bend = sum(float((covector[n] * 2 * (a[n].double() - 2 * b[n].double() + c[n].double())).sum()) for n in a)
    point, (tangent,) = chart([t]), chart.tangents([t])
    for name in a:
        torch.testing.assert_close(point[name].double(), expected[name], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(tangent[name], slope[name], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(chart.bending([t], covector), [[bend]], rtol=1e-5, atol=1e-6)


def test_its_centre_is_the_control_point_at_zero_bit_for_bit(one):
    chart = path(one)
    assert all(chart([0.0])[name] is tensor for name, tensor in chart.points["a"].items())
    assert chart.places() == {"a": (0.0,), "c": (1.0,)}


def test_a_centre_between_control_points_is_what_the_map_says(one):
    class Mean(Chart):
        dims = ("x",)

        def __init__(self, a, b):
            super().__init__({"a": a, "b": b})

        def _at(self, coords, points):
            (x,), a, b = coords, points["a"], points["b"]
            return {name: (a[name] + b[name]) / 2 + x * (b[name] - a[name]) for name in a}

    a, b = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}
    chart = Mean(a, b)
    assert torch.equal(chart.center["w"], torch.tensor([2.0, 4.0]))
    assert chart.project({"w": torch.tensor([3.0, 6.0])}).coords == pytest.approx([0.5])
    bowl = ln.Objective.from_function(lambda p: (p["w"] ** 2).sum(), {"w": torch.zeros(2)})
    found = ln.evaluate(bowl, chart, ln.Grid(x=(-0.5, 0.5, 3)))
    np.testing.assert_allclose(found["loss"], [5, 20, 45])


def test_projection_finds_the_point_of_a_bent_chart(one):
    chart = path(one)
    for t in (-0.3, 0.4, 0.9):
        found = chart.project(chart([t]))
        assert found.coords == pytest.approx([t], abs=1e-4)
        assert found.residual < 1e-5
    # the nearest by a scan, of a point beside the curve
    beside = {name: tensor + 0.2 for name, tensor in chart([0.6]).items()}
    scan = np.linspace(-1, 2, 3001)
    a, b, c = (torch.cat([t.double().reshape(-1) for t in p.values()]).numpy() for p in controls(chart))
    curve = np.outer((1 - scan) ** 2, a) + np.outer(2 * scan * (1 - scan), b) + np.outer(scan**2, c)
    target = torch.cat([t.double().reshape(-1) for t in beside.values()]).numpy()
    lengths = np.linalg.norm(curve - target, axis=1)
    found = chart.project(beside)
    assert found.coords == pytest.approx([scan[lengths.argmin()]], abs=2e-3)
    assert found.residual == pytest.approx(lengths.min(), rel=1e-5)


def test_evaluated_it_is_the_loss_along_the_path(one):
    chart = path(one)
    surface = ln.evaluate(one, chart, GRID)
    for t, loss in zip(surface["t"].values, surface["loss"].values, strict=True):
        tensors = {name: x.float() for name, x in truth(controls(chart), t).items()}
        assert loss == pytest.approx(one.evaluate(tensors)["loss"], rel=1e-5)
    assert surface["t"].attrs["long_name"] == "t, from a to c, drawn towards b"
    assert surface.attrs["chart"]["kind"] == "QuadraticPath"


def test_another_state_does_not_continue_its_store(one, tmp_path):
    store = tmp_path / "run.zarr"
    first = ln.evaluate(one, path(one), GRID, store=store)
    again = ln.evaluate(one, path(one), GRID, store=store)
    np.testing.assert_array_equal(first["loss"], again["loss"])
    with pytest.raises(errors.PlanMismatchError, match="chart.points"):
        ln.evaluate(one, path(one, bend=0.31), GRID, store=store)
    with pytest.raises(errors.OptionError, match="chart.points"):
        ln.evaluate(one, path(one, bend=0.31), GRID, resume=first)


class Turned(Chart):
    """A state that no control point and no option holds: an angle. Every point of it has the same length."""

    dims = ("s",)

    def __init__(self, a, angle):
        self.angle = angle
        super().__init__({"a": a})

    def _at(self, coords, points):
        turn = self.angle * coords[0]
        cos, sin = np.cos(turn), np.sin(turn)
        return {name: cos * tensor + sin * tensor.flip(0) for name, tensor in points["a"].items()}


def test_a_state_that_nobody_declared_is_told_apart_too(one, tmp_path):
    store, grid = tmp_path / "run.zarr", ln.Grid(s=(0, 1, 3))
    ln.evaluate(one, Turned(one.params, 0.1), grid, store=store)
    ln.evaluate(one, Turned(one.params, 0.1), grid, store=store)
    with pytest.raises(errors.PlanMismatchError, match="chart.signature"):
        ln.evaluate(one, Turned(one.params, 0.2), grid, store=store)


def test_a_class_called_as_one_of_ours_is_another(one, tmp_path):
    Line = type("Line", (ln.Line,), {"_at": lambda self, x, points: super(ln.Line, self)._at([x[0] ** 3], points)})
    (d,) = ln.directions.random(one, seed=1)
    ln.evaluate(one, ln.Line(one.params, d), ln.Grid(alpha=(0, 1, 3)), store=tmp_path / "run.zarr")
    with pytest.raises(errors.PlanMismatchError, match="chart"):
        ln.evaluate(one, Line(one.params, d), ln.Grid(alpha=(0, 1, 3)), store=tmp_path / "run.zarr")


def test_it_is_made_again_from_what_was_kept(one, tmp_path):
    chart = path(one)
    save_chart(chart, tmp_path / "chart.safetensors")
    again = open_chart(chart.describe(), kept=tmp_path / "chart.safetensors")
    assert again.describe() == chart.describe()
    assert all(torch.equal(again([0.3])[name], tensor) for name, tensor in chart([0.3]).items())


def test_resumed_from_its_store_alone(one, tmp_path):
    store = tmp_path / "run.zarr"
    surface = ln.evaluate(one, path(one), GRID, store=store, save_directions=True)
    np.testing.assert_array_equal(ln.resume(store, one)["loss"], surface["loss"])


def test_without_its_class_it_is_still_opened_and_says_what_is_missing(one, tmp_path, monkeypatch):
    store = tmp_path / "run.zarr"
    ln.evaluate(one, path(one), GRID, store=store, save_directions=True)
    known = {name: kind for name, kind in kinds().items() if name != "QuadraticPath"}
    monkeypatch.setattr("lossnav.charts.io.kinds", lambda: known)
    assert ln.open(store)["t"].attrs["long_name"] == "t, from a to c, drawn towards b"
    with pytest.raises(errors.ChartError, match=r"No chart of kind 'QuadraticPath' is registered.*Import the module"):
        ln.resume(store, one)


def test_curvature_is_that_of_the_dense_hessian(one):
    chart = path(one)
    found = ln.evaluate_curvature(one, chart, ln.Grid(t=(0.25, 0.75, 2)), tolerance=1e-4)
    x = torch.cos(torch.arange(60.0)).reshape(20, 3).double()
    net, y = model().double(), torch.arange(20) % 2

    def loss(tensors):
        return nn.functional.cross_entropy(torch.func.functional_call(net, tensors, (x,)), y)

    a, b, c = ({n: t.double() for n, t in p.items()} for p in controls(chart))
    for i, t in enumerate((0.25, 0.75)):
        value, slope, matrix = dense(loss, truth((a, b, c), t))
        along = flat({n: 2 * (1 - t) * (b[n] - a[n]) + 2 * t * (c[n] - b[n]) for n in a})
        bend = flat({n: 2 * (a[n] - 2 * b[n] + c[n]) for n in a})
        second = along @ matrix @ along + bend @ slope
        assert float(found["hessian_in_plane"][i, 0, 0]) == pytest.approx(float(second), rel=1e-3)
        assert float(found["lambda_max"][i]) == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-3)
        assert float(found["loss"][i]) == pytest.approx(value, rel=1e-5)


def test_around_a_point_it_shows_the_same_points(one, tmp_path):
    chart = path(one)
    moved = chart.around([0.4])
    for x in (-0.4, 0.0, 0.3):
        for name, tensor in chart([0.4 + x]).items():
            torch.testing.assert_close(moved([x])[name], tensor)
    assert moved.describe() != chart.describe()
    save_chart(moved, tmp_path / "chart.safetensors")
    assert open_chart(moved.describe(), kept=tmp_path / "chart.safetensors").describe() == moved.describe()


def normed(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    net[1].running_mean.copy_(torch.randn(4))
    net[1].running_var.copy_(torch.rand(4) + 0.5)
    return net.eval()


def test_networks_bring_their_buffers_to_the_places_where_they_lie(tmp_path):
    x, y = torch.cos(torch.arange(60.0)).reshape(20, 3), torch.arange(20) % 2
    a, b, c = (normed(seed) for seed in range(3))
    objective = ln.Objective(a, "cross_entropy", (x, y))
    surface = ln.evaluate(objective, QuadraticPath(objective, b, c), ln.Grid(t=(0, 1, 3)))
    for network, at in ((a, 0), (c, 2)):
        own = nn.functional.cross_entropy(network(x), y)
        assert float(surface["loss"][at]) == pytest.approx(own.item(), rel=1e-5)
    ends = {"t=0.5": [(one + other) / 2 for one, other in zip(a.buffers(), c.buffers(), strict=True)]}
    middle = copy.deepcopy(a)
    with torch.no_grad():
        for name, tensor in middle.named_parameters():
            p, q, r = (dict(net.named_parameters())[name] for net in (a, b, c))
            tensor.copy_(0.25 * p + 0.5 * q + 0.25 * r)
        for tensor, mean in zip(middle.buffers(), ends["t=0.5"], strict=True):
            if tensor.is_floating_point():
                tensor.copy_(mean)
    expected = float(nn.functional.cross_entropy(middle(x), y))
    assert float(surface["loss"][1]) == pytest.approx(expected, rel=1e-5)
    bare = {name: tensor.detach() for name, tensor in c.named_parameters()}
    with pytest.raises(errors.StructureMismatchError, match="buffers"):
        ln.evaluate(objective, QuadraticPath(objective, b, bare), ln.Grid(t=(0, 1, 3)))


def test_files_are_control_points_and_resumed_from(tmp_path):
    x, y = torch.cos(torch.arange(60.0)).reshape(20, 3), torch.arange(20) % 2
    a, *others = (normed(seed) for seed in range(3))
    paths = [tmp_path / f"{i}.pt" for i in range(2)]
    for network, place in zip(others, paths, strict=True):
        torch.save(network.state_dict(), place)
    objective = ln.Objective(a, "cross_entropy", (x, y))
    store = tmp_path / "run.zarr"
    surface = ln.evaluate(objective, QuadraticPath(objective, *paths), ln.Grid(t=(0, 1, 3)), store=store)
    own = nn.functional.cross_entropy(others[1](x), y)
    assert float(surface["loss"][-1]) == pytest.approx(own.item(), rel=1e-5)
    np.testing.assert_array_equal(ln.resume(store, objective)["loss"], surface["loss"])
    paths[0].unlink()
    with pytest.raises(errors.ChartError, match=r"control points b are neither.*save_directions=True"):
        ln.resume(store, objective)


def test_what_a_stranger_may_get_wrong_is_said():
    a = {"w": torch.zeros(2)}

    class Nameless(Chart):
        def _at(self, coords, points):
            return dict(points["a"])

    with pytest.raises(errors.ChartError, match=r"Nameless.dims must be .* got dims=\(\)"):
        Nameless({"a": a})

    class Half(Chart):
        dims = ("t",)

        def _at(self, coords, points):
            return {"w": points["a"]["w"][:1]}

    with pytest.raises(errors.ChartError, match=r"Half._at.*differs at \"w\""):
        Half({"a": a})
    with pytest.raises(errors.ChartError, match="must be a dict by name"):
        Half({})
    with pytest.raises(errors.StructureMismatchError, match=r"control points b and a differ at \"w\""):
        Half({"a": a, "b": {"w": torch.zeros(3)}})


def test_it_is_explored_live(one, tmp_path):
    from lossnav.explorer.live.inspect_point import slope
    from lossnav.explorer.live.new_axes import depart
    from lossnav.explorer.live.start import begin

    chart = path(one)
    handler = begin(one, chart, ends=(0, 1), store=tmp_path / "live.zarr")
    try:
        (axis,) = handler.session.message()["axes"]
        assert axis == {"letter": "t", "meaning": "from a to c, drawn towards b", "range": [0.0, 1.0]}
    finally:
        handler.close()
    there = depart(one, chart, np.array([[0.0, 1.0]]), [0.4], "keep").chart
    torch.testing.assert_close(there([0.1])["0.weight"], chart([0.5])["0.weight"])
    found, step = slope(one, chart, [0.5]), 1e-3
    near = [one.double().evaluate(truth(controls(chart), 0.5 + s))["loss"] for s in (-step, step)]
    assert found["in_plane"] == pytest.approx([(near[1] - near[0]) / (2 * step)], rel=1e-4)
