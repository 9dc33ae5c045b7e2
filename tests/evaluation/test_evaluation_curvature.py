"""Curvature over a chart: dense truth at grid points, a stored group, and what happens when a run is cut short."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.samplers.grid import Snake
from networks import BATCH, conv_loss, conv_net, dense, flat, images

GRID = ln.Grid(alpha=(-0.5, 0.5, 3), beta=(-0.4, 0.4, 2))
SMALL = ln.Grid(alpha=(0, 0.2, 2), beta=(0, 0.2, 2))


def make(bn="frozen", chart=ln.Plane, n=2, **options):
    model, (x, y) = conv_net(), images()
    objective = ln.Objective(model, "cross_entropy", (x, y), bn=bn, batch_size=BATCH)
    directions = ln.directions.random(objective, n=n, seed=4, exclude=(), normalize="layer")
    return objective, chart(objective.params, *directions), conv_loss(model, x, y, bn)


@pytest.mark.parametrize("bn", ["frozen", pytest.param("recompute", marks=pytest.mark.slow), "batch"])
def test_every_number_equals_the_dense_hessians(bn):
    objective, plane, loss = make(bn)
    found = ln.evaluate_curvature(objective, plane, GRID, tolerance=1e-4)
    tangents = torch.stack([flat(direction) for direction in plane.basis])
    for i, j in ((0, 0), (1, 1), (2, 0)):
        at = found.isel(alpha=i, beta=j)
        value, slope, matrix = dense(loss, plane([float(at.alpha), float(at.beta)]))
        values = torch.linalg.eigvalsh(matrix)
        low, high = float(values[0]), float(values[-1])
        assert float(at.loss) == pytest.approx(value, rel=1e-5)
        assert float(at.lambda_min) == pytest.approx(low, rel=1e-4)
        assert float(at.lambda_max) == pytest.approx(high, rel=1e-4)
        assert float(at.lambda_ratio) == pytest.approx(abs(low / high), rel=1e-4)
        in_plane = tangents @ matrix @ tangents.T
        assert np.allclose(at.hessian_in_plane, in_plane, atol=1e-4 * float(in_plane.abs().max()))
        metric = torch.linalg.cholesky(tangents @ tangents.T)
        left = torch.linalg.solve_triangular(metric, in_plane, upper=False)
        within = torch.linalg.eigvalsh(torch.linalg.solve_triangular(metric, left.T, upper=False))
        assert float(at.lambda_min_in_plane) == pytest.approx(float(within[0]), rel=1e-4, abs=1e-4 * float(within[-1]))
        assert float(at.lambda_max_in_plane) == pytest.approx(float(within[-1]), rel=1e-4)
        assert float(at.gradient_norm) == pytest.approx(float(slope.norm()), rel=1e-4)
        along = torch.linalg.lstsq(tangents.T, slope).solution @ tangents
        assert float(at.gradient_in_plane) == pytest.approx(float(along.norm()), rel=1e-4)
        assert float(at.gradient_out_of_plane) == pytest.approx(float((slope - along).norm()), rel=1e-4)
    assert (found.lambda_min <= found.lambda_min_in_plane + found.lambda_min_error).all()  # Courant and Fischer
    assert (found.lambda_max_in_plane <= found.lambda_max + found.lambda_max_error).all()
    assert (found.status == 1).all()
    surface = ln.evaluate(objective, plane, GRID, engine=ln.Local(plan="plain"))
    assert np.allclose(found.loss, surface.loss, rtol=1e-6)


@pytest.mark.slow
def test_what_a_curvature_dataset_is(tmp_path):
    objective, plane, _ = make()
    store = tmp_path / "run.zarr"
    surface = ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 5)), store=store)
    found = ln.evaluate_curvature(ln.curvature.Hessian(objective, exclude=("bias",)), plane, SMALL, store=store, seed=3)
    assert found["hessian_in_plane"].dims == ("alpha", "beta", "row", "column")
    for name, variable in found.data_vars.items():
        assert variable.attrs["long_name"] and variable.attrs["units"], name
    assert found["lambda_max"].attrs["units"] == "nat"
    said = found.attrs["curvature"]
    assert said["seed"] == 3
    assert said["excluded"] == ["conv1.bias", "conv2.bias", "out.bias"]  # those of BatchNorm have another role
    assert said["parameters"] == 317 - 15
    for opened in (ln.open(f"{store}/curvature"), xr.open_zarr(store, group="curvature", consolidated=False).load()):
        xr.testing.assert_equal(opened, found)
        assert opened["lambda_min"].attrs.items() >= found["lambda_min"].attrs.items()
    xr.testing.assert_identical(ln.open(store), surface)  # which is left as it was
    with pytest.raises(errors.OptionError, match="no variable 'hessian_in_plane'.*lambda_ratio"):
        ln.plot.heatmap(found, variable="hessian_in_plane")
    assert ln.save(found, tmp_path / "copy.zarr")
    xr.testing.assert_equal(ln.open(tmp_path / "copy.zarr"), found)


def test_lambda_ratio_is_drawn_in_logarithmic_colours():
    objective, plane, _ = make()
    found = ln.evaluate_curvature(objective, plane, SMALL)
    figure = ln.plot.heatmap(found, variable="lambda_ratio", log=True)
    drawn = np.array(figure.data[0].z, dtype=float)
    assert np.allclose(drawn.T, np.log10(found.lambda_ratio))
    paper = ln.plot.heatmap(found, variable="lambda_ratio", log=True, backend="matplotlib")
    assert np.allclose(paper.axes[0].collections[0].get_array(), np.log10(found.lambda_ratio).T)


@pytest.mark.slow
def test_the_same_call_gives_the_same_bits_and_leaves_the_model_alone():
    objective, plane, _ = make("batch")
    before, state = objective.evaluate(objective.params), torch.get_rng_state()
    a, b = (ln.evaluate_curvature(objective, plane, SMALL) for _ in range(2))
    for name in a.data_vars:
        assert np.array_equal(a[name], b[name]), name
    assert torch.equal(state, torch.get_rng_state())
    assert objective.evaluate(objective.params) == before


def test_points_are_taken_neighbour_after_neighbour():
    for grid in (GRID, ln.Grid(alpha=(0, 1, 3)), ln.Grid(alpha=(0, 1, 3), beta=(0, 1, 2), gamma=(0, 1, 4))):
        (points,) = Snake(grid).rounds()
        steps = [axis[1] - axis[0] for axis in grid.axes.values()]
        moves = np.abs(np.diff(points, axis=0) / steps).round(9)
        assert (moves.sum(1) == 1).all()  # one step along one axis
        assert {tuple(point) for point in points} == {tuple(point) for point in grid.points()}
        assert Snake(grid).describe() == grid.describe()


@pytest.mark.slow
def test_a_warm_start_costs_no_products():
    objective, line, _ = make(chart=ln.Line, n=1)
    found = ln.evaluate_curvature(objective, line, ln.Grid(alpha=(0, 0.05, 6)))
    products = found.products.values
    assert products[1:].mean() <= products[0]


@pytest.mark.parametrize("precision", ["native", "float64"])
def test_a_bent_chart_has_the_second_derivatives_of_its_coordinates(precision):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).eval()  # smooth: kinks are in no Hessian
    objective = ln.Objective(model, "mse", (torch.randn(9, 3), torch.randn(9, 2)))
    directions = ln.directions.random(objective, n=2, normalize=None, orthogonal=False, distribution="uniform")
    chart, at, h = ln.RescaledBilinear(objective.params, *directions), np.array([0.2, 0.3]), 1e-3
    found = ln.evaluate_curvature(
        ln.curvature.Hessian(objective, precision=precision), chart, ln.Grid(alpha=[0.2, 0.9], beta=[0.3, 0.9])
    )
    precise = ln.RescaledBilinear({n: t.double() for n, t in chart.center.items()}, *chart.directions)
    double = objective.double()

    def height(a, b):
        return double.evaluate(precise(at + h * np.array([a, b])))["loss"]

    wanted = np.array(
        [
            [height(1, 0) - 2 * height(0, 0) + height(-1, 0), 0],
            [(height(1, 1) - height(1, -1) - height(-1, 1) + height(-1, -1)) / 4, 0],
        ]
    )
    wanted[0, 1], wanted[1, 1] = wanted[1, 0], height(0, 1) - 2 * height(0, 0) + height(0, -1)
    got = found.hessian_in_plane.values[0, 0]
    assert np.allclose(got, wanted / h**2, rtol=1e-4, atol=1e-4 * np.abs(got).max())
    slopes = np.array([height(*step) - height(*(-s for s in step)) for step in ((1, 0), (0, 1))]) / (2 * h)
    gram = np.array([[float(flat(a) @ flat(b)) for b in chart.tangents(at)] for a in chart.tangents(at)])
    along = np.sqrt(slopes @ np.linalg.solve(gram, slopes))
    assert float(found.gradient_in_plane[0, 0]) == pytest.approx(along, rel=1e-4)


def walled():
    """A saddle on a plane that is infinite beyond a wall."""

    def loss(p):
        x = p["x"]
        value = x[0] ** 2 - 2 * x[1] ** 2 + x[2] ** 2
        return value / 0 if x[0] > 0.5 else value

    objective = ln.Objective.from_function(loss, {"x": torch.zeros(3)})
    e = torch.eye(3)
    return objective, ln.Plane(objective.params, {"x": e[0]}, {"x": e[1]})


def test_points_that_are_not_finite_are_there_as_they_came():
    found = ln.evaluate_curvature(*walled(), GRID_OF_WALL)
    assert (found.status.values == [[1] * 3, [1] * 3, [2] * 3]).all()
    assert np.isfinite(found.lambda_min.values[:2]).all()
    assert np.allclose(found.lambda_ratio.values[:2], 2, rtol=1e-5)
    assert np.isnan(found.lambda_min.values[2]).all()
    assert np.isinf(found.lambda_min_error.values[2]).all()
    assert not np.isfinite(found.loss.values[2]).any()


GRID_OF_WALL = ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3))


def test_a_run_that_is_stopped_goes_on_where_it_was(tmp_path):
    store, calls, kill = tmp_path / "run.zarr", [0], [0]

    def loss(p):
        calls[0] += 1
        if calls[0] == kill[0]:
            os.kill(os.getpid(), signal.SIGINT)
        return (p["x"] ** 2 * torch.tensor([1.0, -2.0, 3.0])).sum()

    objective = ln.Objective.from_function(loss, {"x": torch.zeros(3)})
    calls[0] = -1000
    ln.curvature.Hessian(objective) @ objective.params  # its derivatives are examined once
    calls[0] = 0
    e = torch.eye(3)
    plane = ln.Plane(objective.params, {"x": e[0]}, {"x": e[1]})
    ln.evaluate(objective, plane, GRID_OF_WALL, store=store)
    kill[0] = calls[0] + 14
    with pytest.raises(ln.Interrupted, match=r"Stopped after \d points. They are stored in .*the same call") as stopped:
        ln.evaluate_curvature(objective, plane, GRID_OF_WALL, store=store)
    part = ln.open(f"{store}/curvature")
    done = int((part.status == 1).sum())
    assert 1 <= done < 9
    xr.testing.assert_equal(part, stopped.value.partial)
    with pytest.raises(
        errors.OptionError, match="contains curvature, which resume does not evaluate. Repeat the same call"
    ):
        ln.resume(f"{store}/curvature", objective)
    before = calls[0]
    whole = ln.evaluate_curvature(objective, plane, GRID_OF_WALL, store=store)
    assert (whole.status == 1).all()
    assert calls[0] - before < 9 * 5
    kept = whole.where(part.status == 1)
    assert np.array_equal(kept.hessian_in_plane, part.hessian_in_plane.where(part.status == 1), equal_nan=True)
    assert np.allclose(whole.lambda_min, -4)
    assert np.allclose(whole.lambda_max, 6)
    before = calls[0]
    xr.testing.assert_equal(ln.evaluate_curvature(objective, plane, GRID_OF_WALL, store=store, check=False), whole)
    assert calls[0] == before  # nothing is computed twice


KILLED = """
import os, sys, torch, lossnav as ln
calls = [0]
def loss(p):
    calls[0] += 1
    if calls[0] == 33: os._exit(9)
    return (p["x"] ** 2 * torch.tensor([1.0, -2.0, 3.0])).sum()
objective = ln.Objective.from_function(loss, {"x": torch.zeros(3)})
e = torch.eye(3)
plane = ln.Plane(objective.params, {"x": e[0]}, {"x": e[1]})
grid = ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3))
from lossnav.storage import journal
journal._SECONDS = journal._SHARE = 0.0
journal._SHARE = 1e9
if not os.path.exists(sys.argv[1]):
    ln.evaluate(objective, plane, grid, store=sys.argv[1])
    calls[0] = 0
ln.evaluate_curvature(objective, plane, grid, store=sys.argv[1])
"""


@pytest.mark.slow
def test_a_run_that_is_killed_has_kept_its_points(tmp_path):
    store = tmp_path / "run.zarr"
    process = subprocess.run([sys.executable, "-c", KILLED, str(store)], check=False)
    assert process.returncode == 9
    part = ln.open(f"{store}/curvature")
    done = part.status == 1
    assert 1 <= int(done.sum()) < 9
    assert np.allclose(part.lambda_min.values[done.values], -4)
    assert np.isfinite(part.hessian_in_plane.values[done.values]).all()


def test_any_store_that_holds_a_surface_will_do(tmp_path):
    for store in (zarr.storage.MemoryStore(), f"file://{tmp_path}/run.zarr"):
        objective, plane = walled()
        ln.evaluate(objective, plane, GRID_OF_WALL, store=store)
        found = ln.evaluate_curvature(objective, plane, GRID_OF_WALL, store=store)
        again = ln.evaluate_curvature(objective, plane, GRID_OF_WALL, store=store)
        xr.testing.assert_equal(found, again)
        assert "curvature" in zarr.open_group(store, mode="r")


def test_stores_of_something_else_are_refused(tmp_path):
    objective, plane = walled()
    store = tmp_path / "run.zarr"
    with pytest.raises(errors.NotASurfaceError, match="There is no"):
        ln.evaluate_curvature(objective, plane, GRID_OF_WALL, store=store)
    ln.evaluate(objective, plane, GRID_OF_WALL, store=store)
    e = torch.eye(3)
    other = ln.Plane(objective.params, {"x": e[0]}, {"x": e[2]})
    with pytest.raises(errors.PlanMismatchError, match="surface on another chart:\n  chart.directions"):
        ln.evaluate_curvature(objective, other, GRID_OF_WALL, store=store)
    ln.evaluate_curvature(objective, plane, GRID_OF_WALL, store=store)
    with pytest.raises(errors.PlanMismatchError, match="curvature.tolerance: was 0.001, is 0.01"):
        ln.evaluate_curvature(objective, plane, GRID_OF_WALL, store=store, tolerance=0.01)
    ln.evaluate_curvature(objective, plane, GRID_OF_WALL, store=store, tolerance=0.01, overwrite=True)
    assert ln.open(f"{store}/curvature").attrs["curvature"]["tolerance"] == 0.01
    assert (ln.open(store).status.values[:2] == 1).all()


def test_values_that_are_not_sure_enough_are_counted():
    objective, line, _ = make(chart=ln.Line, n=1)
    with pytest.warns(errors.LossnavWarning, match="At 2 points.*lambda_min_error"):
        found = ln.evaluate_curvature(objective, line, ln.Grid(alpha=(0, 1, 2)), limit=3)
    assert (found.lambda_min_error > 0).all()
    assert (found.products == 3 + 1).all()


def test_what_cannot_be_asked():
    objective, plane = walled()
    for options, words in (
        ({"tolerance": 2}, "tolerance=2"),
        ({"seed": -1}, "seed=-1"),
    ):
        with pytest.raises(errors.OptionError, match=words):
            ln.evaluate_curvature(objective, plane, GRID_OF_WALL, **options)
    with pytest.raises(errors.OptionError, match="'half' is unknown"):
        ln.evaluate_curvature(ln.curvature.Hessian(objective, precision="half"), plane, GRID_OF_WALL)
    bent = ln.Objective(torch.nn.Linear(2, 1), "mse", (torch.zeros(4, 2), torch.zeros(4, 1)))
    with pytest.raises(errors.OptionError, match="got a Gauss-Newton matrix. Pass ln.curvature.Hessian"):
        ln.evaluate_curvature(ln.curvature.GaussNewton(bent), plane, GRID_OF_WALL)
    with pytest.raises(errors.SamplerError):
        ln.evaluate_curvature(objective, plane, ln.Grid(alpha=(-1, 1, 3)))
