"""A subset of the data corrected by all of it at fewer points: one call, resumed and returned by the same call."""

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav.errors import OutputExistsError
from lossnav.evaluation import subset


def network():
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(64, 3, generator=generator)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
    with torch.no_grad():
        for i, tensor in enumerate(model.parameters()):
            tensor.copy_(torch.sin(torch.arange(tensor.numel()) + i).reshape(tensor.shape))
    return ln.Objective(model, "cross_entropy", (x, torch.arange(64) % 2))


def test_a_subset_with_control_is_one_call(tmp_path):
    objective = network()
    line = ln.Line(objective.params, *ln.directions.random(objective, seed=1))
    grid = ln.Grid(alpha=(-1, 1, 21))
    options = {"engine": ln.Local(plan="plain")}
    few = ln.evaluate(objective.subset(20, 3), line, grid, **options)
    whole = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 11)), **options)
    by_hand = ln.control_variate(few, whole)
    for store in (None, tmp_path / "run.zarr"):
        found = ln.evaluate_subset(objective, line, grid, subset=20, control=11, seed=3, store=store, **options)
        assert np.array_equal(found["loss"], by_hand["loss"])
        assert found.attrs["control_variate"] == by_hand.attrs["control_variate"]
    assert np.array_equal(ln.open(tmp_path / "run.zarr")["loss"], by_hand["loss"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.zarr"]
    own = ln.evaluate_subset(objective, line, grid, subset=20, control=ln.Grid(alpha=(-1, 1, 11)), seed=3, **options)
    assert np.array_equal(own["loss"], by_hand["loss"])
    alone = ln.evaluate_subset(objective, line, grid, subset=20, seed=3, **options)
    assert np.array_equal(alone["loss"], few["loss"])


@pytest.mark.parametrize(
    ("axes", "control", "words"),
    [
        (
            {"alpha": (-1, 1, 21)},
            3,
            r"control=3 does not fit a grid of 21 points.*there must be 6 points in all. Use control=6",
        ),
        ({"alpha": (-1, 1, 51), "beta": (-1, 1, 51)}, 4, r"a grid of 51 x 51 points.*Use control=3"),
        ({"alpha": (-1, 1, 4)}, 4, r"Use a grid of 11 points along each axis and control=6"),
        ({"alpha": (-1, 1, 21), "beta": (-1, 1, 31)}, 5, r"21 x 31 points.*Use control=3"),
    ],
)
def test_grids_that_do_not_fit(axes, control, words):
    with pytest.raises(ln.errors.OptionError, match=words):
        subset.coarse_grid(ln.Grid(**axes), control)
    with pytest.raises(ln.errors.OptionError, match="needs a Grid to take points from, got Adaptive"):
        subset.coarse_grid(ln.Adaptive(**dict.fromkeys(axes, (-1, 1))), control)


@pytest.fixture
def call(tmp_path):
    """One call with a store; its options may be changed."""
    objective = network()
    line = ln.Line(objective.params, *ln.directions.random(objective, seed=1))
    options = {"engine": ln.Local(plan="plain"), "store": tmp_path / "run.zarr", "seed": 3}

    def made(subset=20, control=11, grid=21, chart=line, objective=objective, **others):
        axes = dict.fromkeys(chart.dims, (-1, 1, grid))
        return ln.evaluate_subset(objective, chart, ln.Grid(**axes), subset=subset, control=control, **options | others)

    made.objective = objective
    return made


def test_the_same_call_returns_a_finished_surface(call, tmp_path, monkeypatch):
    first = call()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run.zarr").rglob("*")}
    monkeypatch.setattr(subset, "evaluate", lambda *arguments, **options: pytest.fail("a point was evaluated"))
    for control in (11, ln.Grid(alpha=(-1, 1, 11))):
        again = call(control=control)
        assert np.array_equal(again["loss"], first["loss"]) and np.array_equal(again["status"], first["status"])
        assert again.attrs["control_variate"] == first.attrs["control_variate"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run.zarr").rglob("*")} == files


def test_another_call_does_not_take_it(call):
    first = call()
    other = network()
    other_line = ln.Line(other.params, *ln.directions.random(other, seed=2))
    with torch.no_grad():
        weights = {name: 1.5 * tensor for name, tensor in other.params.items()}
    for changed in (
        {"subset": 21},
        {"seed": 4},
        {"control": 6},
        {"control": ln.Grid(alpha=(-1, 1, 21))},
        {"grid": 41},
        {"chart": other_line},
        {"chart": ln.Line(weights, *ln.directions.random(other, seed=1)), "objective": other.around(weights)},
        {"engine": ln.Local(precision="float64")},
    ):
        with pytest.raises(OutputExistsError):
            call(**changed)
    anew = call(subset=21, overwrite=True)
    assert anew.attrs["objective"]["samples"] == 21
    assert np.array_equal(call(subset=21)["loss"], anew["loss"])
    assert not np.array_equal(anew["loss"], first["loss"])


def test_a_subset_without_correction_is_returned_as_any_run(call):
    first = call(control=None)
    assert np.array_equal(call(control=None)["loss"], first["loss"])
