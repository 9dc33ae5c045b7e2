"""Bézier curves, chains of segments and simplexes: their formulas, their ends, their lengths, their buffers."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.testing import ChartLaws
from networks import ConvNet, images

KINDS = (ln.BezierCurve, ln.PolygonalChain, ln.Simplex)


def weights(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"layer.weight": (3, 4), "layer.bias": (3,), "head.weight": (2, 3)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def several(n, dtype=torch.float32):
    return [weights(seed, dtype) for seed in range(n)]


def flat(params):
    return torch.cat([tensor.double().reshape(-1) for tensor in params.values()]).numpy()


def same_bits(a, b):
    return all(torch.equal(a[n].contiguous().view(torch.uint8), b[n].contiguous().view(torch.uint8)) for n in b)


class TestBezier(ChartLaws):
    def make(self):
        return ln.BezierCurve(*several(3))


class TestBezierOfFiveInHalfPrecision(ChartLaws):
    def make(self):
        return ln.BezierCurve(*several(5, torch.bfloat16))


class TestChain(ChartLaws):
    def make(self):
        return ln.PolygonalChain(*several(6))


class TestTriangle(ChartLaws):
    def make(self):
        return ln.Simplex(*several(3))


class TestTetrahedron(ChartLaws):
    coords = (0.2, 0.3, 0.1)

    def make(self):
        return ln.Simplex(*several(4))


# ---------------------------------------------------------------------- points


def bezier_by_hand(points, t):
    n = len(points) - 1
    return sum(math.comb(n, j) * t**j * (1 - t) ** (n - j) * flat(p) for j, p in enumerate(points))


def chain_by_hand(points, t):
    n = len(points) - 1
    number = min(max(int(np.floor(t * n)), 0), n - 1)
    return flat(points[number]) + (t * n - number) * (flat(points[number + 1]) - flat(points[number]))


@pytest.mark.parametrize("t", [-0.5, 0.0, 0.1, 0.37, 0.5, 0.9, 1.0, 1.5])
@pytest.mark.parametrize("n", [2, 3, 4, 7])
def test_points_are_those_of_the_formula(n, t):
    points = several(n, torch.float64)
    np.testing.assert_allclose(flat(ln.BezierCurve(*points)([t])), bezier_by_hand(points, t), atol=1e-12 * 8**n)
    np.testing.assert_allclose(flat(ln.PolygonalChain(*points)([t])), chain_by_hand(points, t), atol=1e-12)
    for curve in (ln.BezierCurve(*points), ln.PolygonalChain(*points)):
        c = curve.coefficients([t])
        assert c.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(
            sum(x * flat(p) for x, p in zip(c, points, strict=True)), flat(curve([t])), atol=1e-9
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_control_points_on_the_chart_are_hit_bit_for_bit(kind, dtype):
    points = several(4, dtype)
    for point in points:
        point["layer.bias"][0] = -0.0  # a sum with 0 would lose its sign
    points[2]["head.weight"][0, 0] = math.inf
    chart = kind(*points)
    places = chart.places()
    assert len(places) == {ln.BezierCurve: 2}.get(kind, 4)
    for name, place in places.items():
        assert same_bits(chart(place), chart.points[name])


@pytest.mark.parametrize("kind", [ln.BezierCurve, ln.PolygonalChain])
def test_a_curve_through_points_on_a_line_is_the_line(kind):
    a, b = several(2, torch.float64)
    between = {name: (a[name] + b[name]) / 2 for name in a}
    line = ln.Line(a, ln.directions.between(a, b))
    for t in (-0.25, 0.0, 0.2, 0.5, 0.81, 1.0, 1.25):
        np.testing.assert_allclose(flat(kind(a, between, b)([t])), flat(line([t])), atol=1e-13)
    assert kind(a, between, b).length() == pytest.approx(float(np.linalg.norm(flat(b) - flat(a))), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_what_all_control_points_share_stays_as_it_is(kind):
    points = several(3)
    for point in points:
        point["layer.bias"] = torch.tensor([0.1, 1e30, -1 / 3])
        point["head.weight"][1] = 0.7
    chart = kind(*points)
    for coords in itertools.product((0.1, 0.3, 0.77), repeat=len(chart.dims)):
        assert same_bits({"": chart(coords)["layer.bias"]}, {"": points[0]["layer.bias"]})
    assert chart.still() == {"layer.bias": 3, "head.weight": 3}


def test_a_simplex_is_the_mixture_of_its_vertices():
    points = several(4, torch.float64)
    made = ln.Simplex(*points)([0.1, 0.2, 0.3])
    np.testing.assert_allclose(flat(made), np.array([0.4, 0.1, 0.2, 0.3]) @ [flat(p) for p in points], atol=1e-14)
    assert ln.Simplex(*points).dims == ("w1", "w2", "w3")
    found = ln.Simplex(*points).project(made)
    np.testing.assert_allclose(found.coords, [0.1, 0.2, 0.3], atol=1e-12)


# ---------------------------------------------------------------------- derivatives, lengths, projections


@pytest.mark.parametrize("n", [2, 3, 5])
def test_derivatives_are_differences(n):
    points, step = several(n, torch.float64), 1e-4
    covector = weights(9, torch.float64)
    for chart in (ln.BezierCurve(*points), ln.PolygonalChain(*points)):
        for t in (-0.1, 0.13, 0.6, 0.98, 1.2):
            before, here, after = (flat(chart([t + s])) for s in (-step, 0, step))
            np.testing.assert_allclose(
                flat(chart.tangents([t])[0]), (after - before) / (2 * step), rtol=1e-5, atol=1e-5
            )
            bend = flat(covector) @ (after - 2 * here + before) / step**2
            assert chart.bending([t], covector)[0, 0] == pytest.approx(bend, rel=1e-4, abs=1e-4)


def test_at_a_bend_the_derivative_is_the_mean_of_both_sides():
    points = several(3, torch.float64)
    sides = [2 * (flat(b) - flat(a)) for a, b in itertools.pairwise(points)]
    np.testing.assert_allclose(flat(ln.PolygonalChain(*points).tangents([0.5])[0]), sum(sides) / 2, atol=1e-12)


@pytest.mark.parametrize("kind", [ln.BezierCurve, ln.PolygonalChain])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 0.9), (-0.5, 1.5)])
def test_the_length_is_that_of_many_short_steps(kind, low, high):
    points = several(4, torch.float64)
    chart = kind(*points)
    ts = np.unique([*np.linspace(low, high, 801), *(t for t in (0.0, 1 / 3, 2 / 3, 1.0) if low <= t <= high)])
    steps = np.diff([flat(chart([t])) for t in ts], axis=0)
    assert chart.length(low, high) == pytest.approx(np.linalg.norm(steps, axis=1).sum(), rel=1e-4)
    assert chart.around([0.25]).length(low - 0.25, high - 0.25) == pytest.approx(chart.length(low, high), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_around_another_place_lie_the_same_points(kind):
    chart = kind(*several(4, torch.float64))
    at = [0.15, 0.2, 0.3][: len(chart.dims)]
    moved = chart.around(at)
    for coords in (np.zeros(len(at)), np.full(len(at), 0.21)):
        np.testing.assert_allclose(flat(moved(coords)), flat(chart(coords + at)), atol=1e-14)
        for a, b in zip(moved.tangents(coords), chart.tangents(coords + at), strict=True):
            np.testing.assert_allclose(flat(a), flat(b), atol=1e-12)
        np.testing.assert_allclose(moved.project(chart(coords + at)).coords, coords, atol=1e-9)
    for name, place in chart.places().items():
        np.testing.assert_allclose(moved.places()[name], np.subtract(place, at), atol=1e-15)


@pytest.mark.parametrize("kind", [ln.BezierCurve, ln.PolygonalChain])
@pytest.mark.parametrize("seed", range(3))
def test_the_projection_is_the_nearest_of_a_scan(kind, seed):
    points = several(6, torch.float64)
    chart = kind(*points)
    target = weights(100 + seed, torch.float64)
    scan = np.linspace(-1, 2, 601)
    lengths = [np.linalg.norm(flat(chart([t])) - flat(target)) for t in scan]
    found = chart.project(target)
    assert found.residual <= min(lengths) + 1e-9
    assert found.residual == pytest.approx(np.linalg.norm(flat(chart(found.coords)) - flat(target)), rel=1e-9)


# ---------------------------------------------------------------------- buffers, stores, refusals


def nets(n):
    made = []
    for seed in range(n):
        torch.manual_seed(seed)
        model = ConvNet()
        for _ in range(5):
            model(torch.randn(32, 1, 7, 7) * (1 + seed) + 0.2 * seed)
        made.append(model.eval())
    return made


def loss_of(model, data):
    x, y = data
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model(x).double(), y))


@pytest.mark.parametrize("kind", [ln.BezierCurve, ln.PolygonalChain, ln.Simplex])
def test_at_every_network_lies_its_own_loss(kind):
    data, models = images(), nets(3)
    objective = ln.Objective(models[0], "cross_entropy", data)
    chart = kind(*models)
    points = ln.Points(list(chart.places().values()), chart.dims)
    found = ln.evaluate(objective, chart, points, progress=False)["loss"].values
    there = [int(name[-1]) if name[-1].isdigit() else {"start": 0, "end": 2}[name] for name in chart.places()]
    np.testing.assert_allclose(found, [loss_of(models[i], data) for i in there], rtol=1e-6)


def test_between_two_networks_buffers_are_those_of_the_straight_line():
    objective, (a, _, c) = ln.Objective(nets(1)[0], "cross_entropy", images()), nets(3)
    bend = {name: tensor + 0.1 for name, tensor in objective.params.items()}
    curve = ln.BezierCurve(a, bend, c).fitted(objective)
    expected = torch.lerp(a.bn1.running_var.double(), c.bn1.running_var.double(), 0.3).float()
    torch.testing.assert_close(curve([0.3]).buffers["bn1.running_var"], expected)


def test_a_chain_through_a_point_without_buffers_is_refused():
    a, b = nets(2)
    objective = ln.Objective(a, "cross_entropy", images())
    with pytest.raises(errors.StructureMismatchError, match=r'no "bn1\.running_mean"'):
        ln.evaluate(objective, ln.PolygonalChain(a, dict(objective.params), b), ln.Grid(t=(0, 1, 3)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on_from_its_store_alone(kind, tmp_path):
    objective = ln.Objective(nets(1)[0], "cross_entropy", images())
    chart = kind(*nets(3))
    grid = ln.Grid(**dict.fromkeys(chart.dims, (0, 1, 4)))
    whole = ln.evaluate(objective, chart, grid, store=tmp_path / "run.zarr", save_directions=True, progress=False)
    again = ln.resume(tmp_path / "run.zarr", objective, progress=False)
    np.testing.assert_array_equal(again["loss"], whole["loss"])
    assert whole.attrs["chart"]["kind"] == kind.__name__
    assert (
        math.isfinite(float(ln.report(whole).surface["loss"].max())) if hasattr(ln.report(whole), "surface") else True
    )
    other = kind(*nets(3)[:2], nets(4)[3])
    with pytest.raises(errors.PlanMismatchError, match="chart"):
        ln.evaluate(objective, other, grid, store=tmp_path / "run.zarr", progress=False)


def test_the_surface_of_a_curve_is_drawn_along_it():
    objective = ln.Objective(nets(1)[0], "cross_entropy", images())
    surface = ln.evaluate(objective, ln.BezierCurve(*nets(3)), ln.Grid(t=(0, 1, 5)), progress=False)
    assert surface["t"].attrs["long_name"] == "t, along the curve from its start (0) to its end (1)"
    figure = ln.plot.line(surface)
    assert any(np.array_equal(trace.y, surface["loss"].values) for trace in figure.data)
    assert "along the curve" in figure.layout.xaxis.title.text


def test_control_points_must_be_two_and_alike():
    a, b = several(2)
    for kind in KINDS:
        with pytest.raises(errors.ChartError, match="at least two control points, got 1"):
            kind(a)
        with pytest.raises(errors.StructureMismatchError, match=r'"head\.weight": \(2, 4\) vs \(2, 3\)'):
            kind(a, b | {"head.weight": torch.zeros(2, 4)})
    middle = {name: (a[name] + b[name]) / 2 for name in a}
    with pytest.raises(errors.ChartError, match="fewer than 2 dimensions"):
        ln.Simplex(a, middle, b)
    with pytest.raises(errors.ChartError, match="fewer than 1 dimensions"):
        ln.Simplex(a, copy.deepcopy(a))
