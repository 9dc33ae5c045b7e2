"""Per-sample losses are kept as plain torch gives them, in the order of the data, whatever computes them."""

import dataclasses
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
import zarr
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import killing
import lossnav as ln
from lossnav import cli
from lossnav.acceleration import ChartFunction, Plan
from lossnav.storage import samples
from lossnav.surface.assemble import without_samples

GRID = ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 3))


def data(n=203, classes=3, seed=0):
    torch.manual_seed(seed)
    return torch.randn(n, 4), torch.randint(0, classes, (n,))


def network(outputs=3):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs)).requires_grad_(False)


def plane_of(objective):
    return ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))


def padded(y):
    y = y.clone()
    y[::7] = 255
    return y


def problems():
    """Objectives with what plain torch says of each sample, from the outputs for all the data."""
    x, y = data()
    weight = torch.tensor([0.1, 1.0, 10.0])
    ones = torch.ones(len(x))
    tokens = torch.randint(0, 3, (len(x), 5))
    tokens[:, 3:] = -100
    return {
        "cross entropy": (
            ln.Objective(network(), "cross_entropy", (x, y)),
            lambda out: (F.cross_entropy(out, y, reduction="none"), ones),
        ),
        "class weights": (
            ln.Objective(network(), nn.CrossEntropyLoss(weight=weight), (x, y), batch_size=16),
            lambda out: (F.cross_entropy(out, y, weight, reduction="none"), weight[y]),
        ),
        "ignored targets": (
            ln.Objective(network(), nn.CrossEntropyLoss(ignore_index=255), (x, padded(y))),
            lambda out: (F.cross_entropy(out, padded(y), ignore_index=255, reduction="none"), (padded(y) != 255) * 1.0),
        ),
        "tokens": (
            ln.Objective(nn.Sequential(network(15), nn.Unflatten(1, (3, 5))), "cross_entropy", (x, tokens)),
            lambda out: (F.cross_entropy(out, tokens, reduction="none").sum(1), (tokens != -100).sum(1) * 1.0),
        ),
        "mse of several outputs": (
            ln.Objective(network(), "mse", (x, x[:, :3])),
            lambda out: (((out - x[:, :3]) ** 2).mean(1), ones),
        ),
        "a value a sample": (
            ln.Objective(network(), lambda out, y: out.abs().sum(1) + y, (x, y), reduction="none"),
            lambda out: (out.abs().sum(1) + y, ones),
        ),
        "a loader": (
            ln.Objective(network(), "cross_entropy", DataLoader(TensorDataset(x, y), batch_size=60)),
            lambda out: (F.cross_entropy(out, y, reduction="none"), ones),
        ),
    }


def module_of(name):
    return nn.Sequential(network(15), nn.Unflatten(1, (3, 5))) if name == "tokens" else network()


def truth(name, objective, chart, surface):
    """Numerators at every point of the grid, and weights, by plain torch."""
    _, of_outputs = problems()[name]
    model, (x, _) = module_of(name), data()
    shape = surface["loss"].shape
    losses = np.zeros((*shape, len(x)))
    for i, alpha in enumerate(surface["alpha"].values):
        for j, beta in enumerate(surface["beta"].values):
            with torch.no_grad():
                numerators, weights = of_outputs(functional_call(model, chart([alpha, beta]), (x,)))
            losses[i, j] = numerators.numpy()
    return losses, weights.numpy()


@pytest.mark.parametrize("name", list(problems()))
@pytest.mark.parametrize("plan", ["plain", "auto"])
def test_what_is_kept_is_what_plain_torch_gives_for_each_sample(name, plan):
    objective, _ = problems()[name]
    chart = plane_of(objective)
    surface = ln.evaluate(objective, chart, GRID, keep_samples=True, engine=ln.Local(plan=plan))
    losses, weights = truth(name, objective, chart, surface)
    np.testing.assert_allclose(surface["sample_loss"], losses, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(surface["sample_weight"], weights, rtol=1e-6)
    assert surface["sample_loss"].dtype == np.float32
    np.testing.assert_allclose(losses.sum(-1) / weights.sum(), surface["loss"], rtol=1e-5)


@pytest.mark.parametrize("fields", [{"batch_size": 64}, {"points": 4}, {"amortize_first_layer": True}])
def test_their_order_is_that_of_the_data_whatever_a_plan_cuts(fields):
    objective, _ = problems()["cross entropy"]
    chart = plane_of(objective)
    plain = ln.evaluate(objective, chart, GRID, keep_samples=True, engine=ln.Local(plan="plain"))
    other = ln.evaluate(
        objective, chart, GRID, keep_samples=True, engine=ln.Local(plan=dataclasses.replace(Plan(), **fields))
    )
    assert other.attrs["engine"]["plan"] != "plain"
    np.testing.assert_allclose(other["sample_loss"], plain["sample_loss"], rtol=1e-5, atol=1e-6)


def test_the_skewness_beside_the_standard_error_is_that_of_the_residuals():
    for name in ("cross entropy", "class weights"):
        objective, _ = problems()[name]
        surface = ln.evaluate(objective, plane_of(objective), GRID, keep_samples=True)
        losses, weights = surface["sample_loss"].values.astype(np.float64), surface["sample_weight"].values
        residuals = losses - surface["loss"].values[..., None] * weights
        expected = (residuals**3).mean(-1) / (residuals**2).mean(-1) ** 1.5
        np.testing.assert_allclose(surface["loss_skewness"], expected, rtol=1e-4)


# ---------------------------------------------------------------------- stores


@pytest.mark.parametrize("sampler", [GRID, killing.SAMPLERS["adaptive"], ln.Points([[0.0, 0.0], [0.3, -0.2]])])
def test_a_store_holds_what_memory_does_and_reads_it_when_asked(tmp_path, sampler):
    objective, chart = killing.regression()
    whole = ln.evaluate(objective, chart, sampler, keep_samples=True)
    stored = ln.evaluate(objective, chart, sampler, keep_samples=True, store=tmp_path / "run.zarr")
    opened, bare = ln.open(tmp_path / "run.zarr"), xr.open_zarr(tmp_path / "run.zarr", consolidated=False)
    assert not opened["sample_loss"].variable._in_memory
    assert len(repr(opened)) < 3000
    for surface in (stored, opened, bare):
        np.testing.assert_array_equal(surface["sample_loss"].values, whole["sample_loss"].values)
        np.testing.assert_array_equal(surface["sample_weight"].values, whole["sample_weight"].values)
        np.testing.assert_array_equal(surface["loss"].values, whole["loss"].values)
    ln.save(opened, tmp_path / "copy.zarr")
    assert ln.open(tmp_path / "copy.zarr").equals(whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grid", "adaptive"])
def test_killed_at_a_write_and_gone_on_from_it_holds_the_same_bits(tmp_path, kind):
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["killing", "lossnav.evaluation.evaluate", "lossnav.surface.run_store"])
    whole = ln.evaluate(*killing.regression(), killing.SAMPLERS[kind], keep_samples=True)
    number, exitcode = 0, 9
    while exitcode == 9:
        number += 1 if number < 12 else 3  # at each of the first writes, and at every third of those that are alike
        store = tmp_path / f"{number}.zarr"
        process = processes.Process(target=killing.keep_samples_until_write, args=(kind, store, number, 24))
        process.start()
        process.join()
        exitcode = process.exitcode
        assert exitcode in (0, 9)
        if (store / "zarr.json").exists():
            found = ln.open(store)
            if "sample_loss" in found:  # of what the store says is there, the samples are there
                done = found["status"].values == 1
                means = found["sample_loss"].values[done].mean(-1)
                np.testing.assert_allclose(means, found["loss"].values[done], rtol=1e-5)
            else:
                assert not (found["status"] == 1).any()
        again = ln.evaluate(*killing.regression(), killing.SAMPLERS[kind], keep_samples=True, store=store)
        for surface in (again, ln.open(store)):
            xr.testing.assert_identical(surface["sample_loss"], whole["sample_loss"])
            assert surface["loss"].equals(whole["loss"])
        assert "journal" not in zarr.open_group(store, mode="r")
    assert number > 15


def test_a_stopped_run_goes_on_keeping_and_a_finer_grid_takes_over_what_is_known(tmp_path):
    objective, chart = killing.regression()
    coarse = ln.evaluate(objective, chart, ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), keep_samples=True)
    fine = ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 5))
    whole = ln.evaluate(objective, chart, fine, keep_samples=True)
    resumed = ln.evaluate(objective, chart, fine, keep_samples=True, resume=coarse)
    xr.testing.assert_equal(resumed["sample_loss"], whole["sample_loss"])

    few = killing.SAMPLERS["adaptive"].__class__(alpha=(-1, 1), beta=(-1, 1), tolerance=0.003, max_points=85)
    ln.evaluate(objective, chart, few, keep_samples=True, store=tmp_path / "run.zarr")
    more = ln.evaluate(
        objective, chart, killing.SAMPLERS["adaptive"], store=tmp_path / "run.zarr"
    )  # it has them: it keeps
    means = more["sample_loss"].values.mean(-1)
    np.testing.assert_allclose(means, more["loss"], rtol=1e-5)
    assert more["sample_loss"].shape == (more.sizes["point"], 37)


def test_points_measured_without_samples_are_no_start_for_a_run_with_them(tmp_path):
    objective, chart = killing.regression()
    bare = ln.evaluate(objective, chart, GRID, store=tmp_path / "run.zarr")
    with pytest.raises(ln.errors.OptionError, match="lacks the per-sample losses"):
        ln.evaluate(objective, chart, GRID, keep_samples=True, store=tmp_path / "run.zarr")
    with pytest.raises(ln.errors.OptionError, match="lacks the per-sample losses"):
        ln.evaluate(objective, chart, GRID, keep_samples=True, resume=bare)
    again = ln.evaluate(objective, chart, GRID, keep_samples=True, store=tmp_path / "run.zarr", overwrite=True)
    assert "sample_loss" in again


def test_points_that_fail_have_no_samples_and_are_tried_again(tmp_path):
    broken = [True]

    def loss(p, batch):
        if broken[0] and p["x"][0] > 0.4:
            raise ValueError("not yet")
        return (batch - p["x"]).square()

    objective = ln.Objective.from_function(loss, {"x": torch.zeros(1)}, torch.arange(6.0), reduction="none")
    line = ln.Line(objective.params, {"x": torch.ones(1)})
    points = ln.Points([[-0.5], [0.5], [0.0]], dims=("alpha",))
    with pytest.warns(ln.errors.PointsFailedWarning):
        first = ln.evaluate(objective, line, points, keep_samples=True, store=tmp_path / "run.zarr")
    assert np.isnan(first["sample_loss"].values[1]).all()
    broken[0] = False
    second = ln.evaluate(objective, line, points, keep_samples=True, store=tmp_path / "run.zarr")
    at = second["alpha"].values[:, None]
    np.testing.assert_allclose(second["sample_loss"], (np.arange(6.0) - at) ** 2, rtol=1e-6)
    assert set(at[:, 0].tolist()) == {-0.5, 0.5, 0.0}


# ---------------------------------------------------------------------- refusals, and what does not keep them


def test_a_loss_that_hides_its_samples_is_refused_before_anything_is_computed(tmp_path):
    x, y = data()
    objective = ln.Objective(network(), lambda out, y: F.cross_entropy(out, y), (x, y))
    for check in (True, False):
        with pytest.raises(ln.errors.OptionError, match="reduction='none'"):
            ln.evaluate(objective, plane_of(objective), GRID, keep_samples=True, check=check, store=tmp_path / "a.zarr")


def test_ensembles_say_that_they_keep_none():
    objective, _ = killing.regression()
    with pytest.raises(ln.errors.OptionError, match="one seed"):
        ln.ensemble(objective, lambda seed: plane_of(objective), GRID, seeds=range(2), keep_samples=True)


def test_what_is_derived_from_a_surface_leaves_them_out(tmp_path):
    objective, chart = killing.regression()
    surface = ln.evaluate(objective, chart, killing.SAMPLERS["adaptive"], keep_samples=True)
    grid = surface.lossnav.to_grid()
    assert "sample_loss" not in grid
    ln.export(surface, tmp_path / "a.csv")
    ln.export(surface, tmp_path / "a.json")
    assert "sample_loss" not in (tmp_path / "a.json").read_text()
    assert without_samples(surface).equals(ln.evaluate(objective, chart, killing.SAMPLERS["adaptive"]))


def test_a_surface_without_them_is_what_it_was():
    objective, chart = killing.regression()
    assert not {*samples.VARIABLES} & set(ln.evaluate(objective, chart, GRID).variables)


@pytest.mark.parametrize("killed", ["before the first", "later"])
def test_a_run_that_goes_on_from_its_store_alone_keeps_them(tmp_path, killed):
    objective, chart = killing.regression()
    store = tmp_path / "run.zarr"

    def stop(*_):
        raise KeyboardInterrupt

    if killed == "later":
        with pytest.raises(KeyboardInterrupt):
            ln.evaluate(objective, chart, GRID, keep_samples=True, store=store, on_update=stop)
    else:
        engine = ln.Local(plan="plain")
        engine.run = stop
        with pytest.raises(KeyboardInterrupt):
            ln.evaluate(objective, chart, GRID, keep_samples=True, store=store, engine=engine)
    again = ln.resume(store, objective)
    xr.testing.assert_equal(again["sample_loss"], ln.evaluate(objective, chart, GRID, keep_samples=True)["sample_loss"])


def test_the_command_line_keeps_them(tmp_path):
    out = str(tmp_path / "run.zarr")
    project = tmp_path / "project.py"
    project.write_text(
        "import torch, lossnav as ln\nx = torch.linspace(-1, 1, 60).reshape(-1, 1)\n"
        "objective = ln.Objective(torch.nn.Linear(1, 1), 'mse', (x, x.sin()))\n"
    )
    called = ["evaluate", f"{project}:objective", "--chart", "line", "--grid", "3", "--subset", "50", "-o", out]
    result = CliRunner().invoke(cli.app, [*called, "--keep-samples"])
    assert result.exit_code == 0, result.output
    assert ln.open(out)["sample_loss"].shape == (3, 50)
    assert CliRunner().invoke(cli.app, [*called, "--keep-samples", "--seeds", "2"]).exit_code == 2


def test_chunks_hold_about_a_mebibyte():
    assert samples.chunks((51, 51, 100)) == (51, 51, 100)
    assert samples.chunks((4096, 3)) == (4096, 3)
    assert samples.chunks((7, 2**20)) == (1, 2**18)


# ---------------------------------------------------------------------- subsets, workers


def test_of_a_subset_the_samples_drawn_are_kept_in_their_order():
    x = torch.linspace(-1, 1, 50).reshape(-1, 1)
    model = nn.Linear(1, 1).requires_grad_(False)
    whole = ln.Objective(model, "mse", (x, x.sin()))
    part = whole.subset(20, seed=3)
    line = ln.Line(whole.params, ln.directions.random(whole, seed=0, exclude=())[0])
    every = ln.evaluate(whole, line, ln.Grid(alpha=(-1, 1, 3)), keep_samples=True)["sample_loss"].values
    few = ln.evaluate(part, line, ln.Grid(alpha=(-1, 1, 3)), keep_samples=True)["sample_loss"].values
    drawn = torch.randperm(50, generator=torch.Generator().manual_seed(3))[:20].sort().values.numpy()
    np.testing.assert_allclose(few, every[:, drawn], rtol=1e-5)


def test_what_a_worker_answers_has_them():
    pytest.importorskip("ray")
    from lossnav.engines.sending import pickled
    from lossnav.engines.worker import Worker

    objective, _ = problems()["class weights"]
    chart = plane_of(objective)
    here = ln.evaluate(objective, chart, GRID, keep_samples=True, engine=ln.Local(plan="plain"))
    points = np.array([[-1.0, -1.0], [0.5, 1.0]])
    worker = Worker()
    worker.build(pickled(ChartFunction(objective, chart).keeping_samples()), False, points, 2, "plain", "native", 1, 0)
    made = pickle.loads(pickle.dumps(worker.evaluate(points)[0]))
    for (values, error), (i, j) in zip(made, [(0, 0), (3, 2)], strict=True):
        assert error is None
        np.testing.assert_array_equal(values.samples.losses, here["sample_loss"][i, j])
        assert values.skewness == float(here["loss_skewness"][i, j])


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_send_them_back():
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        objective, _ = problems()["class weights"]
        chart = plane_of(objective)
        here = ln.evaluate(objective, chart, GRID, keep_samples=True)
        there = ln.evaluate(objective, chart, GRID, keep_samples=True, engine=ln.Ray())
        np.testing.assert_allclose(there["sample_loss"], here["sample_loss"], rtol=1e-5, atol=1e-6)
        assert there["sample_weight"].equals(here["sample_weight"])
    finally:
        ray.shutdown()
