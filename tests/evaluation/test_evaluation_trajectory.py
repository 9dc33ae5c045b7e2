"""A run seen from a plane: where it lies, what it leaves out, and the loss there and on the plane."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

import lossnav as ln
from lossnav import errors
from lossnav.engines import Outcome
from lossnav.evaluation import trajectory


@pytest.fixture
def run(everything, images, tmp_path):
    """Ten steps of training, in which BatchNorm's statistics move too."""
    optimizer = torch.optim.SGD(everything.parameters(), lr=0.2)
    everything.train()
    with ln.Trajectory(everything, store=tmp_path / "run") as recorder:
        for i in range(10):
            x, y = images
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(everything(x + 0.3 * i), y)
            loss.backward()
            optimizer.step()
            recorder.step(epoch=i / 4, loss=loss)
    everything.eval()
    return recorder


@pytest.fixture
def trained(run, everything, images):
    """The objective at the end of the run, and the plane of its components."""
    objective = ln.Objective(everything, "cross_entropy", images, metrics=["accuracy"], batch_size=10)
    return objective, ln.Plane(objective.params, *ln.directions.pca(run))


def flat(params, names):
    return np.concatenate([params[name].double().reshape(-1).numpy() for name in names])


def test_projection_is_least_squares_on_any_plane(run, trained):
    objective, _ = trained
    d1, d2 = ln.directions.random(objective, n=2, seed=1, orthogonal=False)
    skewed = ln.Plane(objective.params, d1, {name: d1[name] + 2 * d2[name] for name in d2})
    path = ln.project(run, skewed)
    names = list(objective.params)
    basis = np.stack([flat(d, names) for d in skewed.directions], 1)
    for i, params in enumerate(run):
        offset = flat(params, names) - flat(objective.params, names)
        x, (left,), *_ = np.linalg.lstsq(basis, offset)[0], np.linalg.lstsq(basis, offset)[1]
        np.testing.assert_allclose([path["alpha"][i], path["beta"][i]], x, rtol=1e-6, atol=1e-9)
        assert float(path["residual"][i]) == pytest.approx(np.sqrt(left), rel=1e-6, abs=1e-9)
        assert float(path["distance"][i]) == pytest.approx(np.linalg.norm(offset), rel=1e-6, abs=1e-9)
    assert path["step"].values.tolist() == list(range(11))
    np.testing.assert_array_equal(path["epoch"], run.epochs)
    np.testing.assert_array_equal(path["training_loss"], run.losses)
    assert all("units" in path[name].attrs for name in path.variables)


def test_the_loss_at_a_snapshot_is_that_of_the_network_as_it_was(run, trained, everything, images):
    objective, plane = trained
    path = ln.evaluate_trajectory(objective, plane, run)
    for i in (0, 4, 10):
        everything.load_state_dict(run.state(i), strict=False)
        as_it_was = ln.Objective(everything.eval(), "cross_entropy", images, metrics=["accuracy"])
        expected = as_it_was.evaluate(as_it_was.params)
        shadow = objective.evaluate(plane([float(path["alpha"][i]), float(path["beta"][i])]))
        for name, value in expected.items():
            assert float(path[name][i]) == pytest.approx(value, rel=1e-5)
            assert float(path[f"{name}_projected"][i]) == pytest.approx(shadow[name], rel=1e-6)
    assert (path["status"] == 1).all()
    assert float(path["loss"][-1]) == pytest.approx(float(path["loss_projected"][-1]), rel=1e-5)  # the centre
    assert path.attrs["buffers"] == "snapshot"
    assert "projection" in path["loss_projected"].attrs["long_name"]
    assert path["loss_projected"].attrs["units"] == path["loss"].attrs["units"] == "nat"


def test_buffers_are_a_choice_that_shows(run, trained):
    objective, plane = trained
    own = ln.evaluate_trajectory(objective, plane, run[:3])
    centre = ln.evaluate_trajectory(objective, plane, run[:3], buffers="objective")
    assert centre.attrs["buffers"] == "objective"
    for i in range(3):
        assert float(centre["loss"][i]) == objective.evaluate(run[i])["loss"]
    assert (np.abs(own["loss"] - centre["loss"]) > 1e-3).any()
    xr.testing.assert_equal(own["loss_projected"], centre["loss_projected"])


def test_the_model_and_the_world_are_as_before(run, trained, everything):
    objective, plane = trained
    before = {name: tensor.clone() for name, tensor in everything.state_dict().items()}
    state = torch.get_rng_state()
    center = {name: tensor.clone() for name, tensor in objective.params.items()}
    ln.evaluate_trajectory(objective, plane, run)
    assert all(torch.equal(tensor, everything.state_dict()[name]) for name, tensor in before.items())
    assert all(torch.equal(tensor, objective.params[name]) for name, tensor in center.items())
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------------- in the store


@pytest.fixture
def stored(run, trained, tmp_path):
    objective, plane = trained
    grid = ln.Grid(alpha=(-1, 3, 4), beta=(-1, 1, 3))
    surface = ln.evaluate(objective, plane, grid, store=tmp_path / "run.zarr")
    return tmp_path / "run.zarr", surface


@pytest.mark.slow
def test_a_path_lies_beside_its_surface(run, trained, stored):
    objective, plane = trained
    place, surface = stored
    path = ln.evaluate_trajectory(objective, plane, run, store=place)
    xr.testing.assert_identical(ln.open_trajectory(place), path)
    xr.testing.assert_identical(ln.open(place), surface)
    again = xr.open_zarr(place, group="trajectory", consolidated=False)
    assert again["loss"].dims == ("snapshot",)
    code = (
        "import sys, lossnav as ln\n"
        f"surface, path = ln.open({str(place)!r}), ln.open_trajectory({str(place)!r})\n"
        "ln.plot.contour(surface, trajectory=path); ln.plot.surface(surface, trajectory=path)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_same_call_goes_on(run, trained, stored, monkeypatch):
    objective, plane = trained
    place, _ = stored
    ln.evaluate_trajectory(objective, plane, run[:4], store=place)
    calls = []
    whole = trajectory._AtSnapshot.__call__
    monkeypatch.setattr(
        trajectory._AtSnapshot, "__call__", lambda self, point: calls.append(int(point[0])) or whole(self, point)
    )
    path = ln.evaluate_trajectory(objective, plane, run, store=place)
    assert calls == list(range(4, 11))
    xr.testing.assert_identical(path, ln.evaluate_trajectory(objective, plane, run, store=place))
    assert len(calls) == 7
    with pytest.raises(errors.PlanMismatchError, match="another buffers"):
        ln.evaluate_trajectory(objective, plane, run, store=place, buffers="objective")
    other = ln.evaluate_trajectory(objective, plane, run, store=place, buffers="objective", overwrite=True)
    xr.testing.assert_identical(ln.open_trajectory(place), other)


def test_a_path_goes_with_its_surface(run, trained, stored):
    objective, plane = trained
    place, _ = stored
    path = ln.evaluate_trajectory(objective, plane, run[:2], store=place)
    same = {"alpha": (-1, 3, 4), "beta": (-1, 1, 3)}
    ln.evaluate(objective, plane, ln.Grid(**same), store=place)  # goes on, with nothing to do
    xr.testing.assert_identical(ln.open_trajectory(place), path)
    ln.evaluate(objective, plane, ln.Grid(**same), store=place, overwrite=True)
    with pytest.raises(errors.NotATrajectoryError):
        ln.open_trajectory(place)


def test_ctrl_c_keeps_what_was_computed(run, trained, stored, monkeypatch):
    objective, plane = trained
    place, _ = stored
    whole = trajectory._AtSnapshot.__call__

    def interrupted(self, point):
        if point[0] == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return whole(self, point)

    monkeypatch.setattr(trajectory._AtSnapshot, "__call__", interrupted)
    with pytest.raises(ln.Interrupted, match="4 of 11 snapshots") as stopped:
        ln.evaluate_trajectory(objective, plane, run, store=place)
    kept = ln.open_trajectory(place)
    xr.testing.assert_identical(kept, stopped.value.partial)
    assert kept["status"].values.tolist() == [1] * 4 + [0] * 7
    assert np.isnan(kept["loss"][4:]).all()
    monkeypatch.undo()
    assert (ln.evaluate_trajectory(objective, plane, run, store=place)["status"] == 1).all()


def test_a_snapshot_that_fails_is_one_snapshot(run, trained, monkeypatch):
    objective, plane = trained
    whole = trajectory._AtSnapshot.__call__

    def failing(self, point):
        if point[0] == 1:
            raise RuntimeError("out of luck")
        return whole(self, point)

    monkeypatch.setattr(trajectory._AtSnapshot, "__call__", failing)
    with pytest.warns(errors.PointsFailedWarning, match="1 of 3 snapshots"):
        path = ln.evaluate_trajectory(objective, plane, run[:3])
    assert path["status"].values.tolist() == [1, 3, 1]
    assert path.attrs["failures"] == ["step 1: RuntimeError: out of luck"]
    with pytest.raises(errors.EvaluationError, match="out of luck"):
        ln.evaluate_trajectory(objective, plane, run[1:2], engine=Failing())


class Failing(ln.Local):
    """An engine on which nothing works."""

    def run(self, function, points):
        yield from (Outcome(i, {}, "RuntimeError: out of luck") for i in range(len(points)))


# ---------------------------------------------------------------------- what does not fit


def test_surfaces_of_something_else_are_refused(run, trained, stored, tmp_path, images, everything):
    objective, plane = trained
    place, _ = stored
    other = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))
    with pytest.raises(errors.PlanMismatchError, match="another chart"):
        ln.evaluate_trajectory(objective, other, run, store=place)
    with pytest.raises(errors.PlanMismatchError, match="another objective"):
        ln.evaluate_trajectory(objective.subset(10), plane, run, store=place)
    with pytest.raises(errors.NotASurfaceError):
        ln.evaluate_trajectory(objective, plane, run, store=tmp_path / "nothing.zarr")
    with pytest.raises(errors.NotATrajectoryError, match="contains no trajectory"):
        ln.open_trajectory(place)
    with pytest.raises(errors.NotATrajectoryError, match="There is no"):
        ln.open_trajectory(tmp_path / "nothing.zarr")
    named = ln.Objective(everything, "cross_entropy", images, metrics={"distance": lambda out, y: out.mean()})
    with pytest.raises(errors.OptionError, match="have the same name, 'distance'"):
        ln.evaluate_trajectory(named, plane, run)
    with pytest.raises(errors.OptionError, match="got 'mine'"):
        ln.evaluate_trajectory(objective, plane, run, buffers="mine")


def test_charts_and_models_that_do_not_fit(run, trained, tmp_path):
    objective, plane = trained
    bent = ln.RescaledBilinear(objective.params, *ln.directions.random(objective, n=2, seed=0, orthogonal=False))
    with pytest.raises(errors.ChartError, match="not affine"):
        ln.project(run, bent)
    small = ln.Trajectory(torch.nn.Linear(2, 2), store=tmp_path / "small")
    with pytest.raises(errors.StructureMismatchError, match="trajectory and the chart differ"):
        ln.project(small, plane)
    part = ln.Trajectory(torch.nn.Sequential(torch.nn.Linear(2, 2)), store=tmp_path / "part", params="0.weight")
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    whole = ln.Objective(model, "mse", (torch.eye(2), torch.eye(2)))
    line = ln.Line(whole.params, *ln.directions.random(whole))
    with pytest.raises(errors.StructureMismatchError, match="0.bias"):
        ln.evaluate_trajectory(whole, line, part)


def test_a_part_of_the_model_on_its_own_plane(run, everything, images):
    """An objective that moves the last layers only: the path is projected on what moves."""
    everything.load_state_dict(run.state(-1), strict=False)
    part = ln.Objective(everything, "cross_entropy", images, params=["first.*", "second.*"])
    line = ln.Line(part.params, *ln.directions.random(part))
    path = ln.evaluate_trajectory(part, line, run)
    assert float(path["distance"][-1]) == 0
    whole = ln.Objective(everything, "cross_entropy", images)
    assert float(path["loss"][2]) == pytest.approx(whole.at(run.state(2)).evaluate(run[2])["loss"], rel=1e-6)
