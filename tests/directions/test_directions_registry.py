"""A kind of directions that somebody else registers: named on the axis, made again from a store, asked for in words."""

import numpy as np
import pytest
import torch

import lossnav as ln
from lossnav import errors
from lossnav.directions import Direction, kinds, register, registry
from lossnav.evaluation.views import view_of


@pytest.fixture
def waves(monkeypatch):
    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))

    @register("waves", options=("n", "seed"), on_command_line=True)
    def waves(objective, n=1, seed=0):
        made = []
        for i in range(n):
            tensors = {
                name: torch.cos(torch.arange(t.numel()).to(t) * (i + 1) + seed).reshape(t.shape)
                for name, t in objective.params.items()
            }
            recipe = {"kind": "waves", "n": n, "seed": seed, "index": i, "words": f"wave {i}"}
            made.append(Direction(tensors, recipe))
        return tuple(made)

    return waves


@pytest.fixture
def bowl():
    return ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.linspace(-1, 1, 5)})


def test_it_is_resumed_from_its_store_alone(waves, bowl, tmp_path):
    plane = ln.Plane(bowl.params, *waves(bowl, n=2, seed=3))
    surface = ln.evaluate(bowl, plane, ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), store=tmp_path / "run.zarr")
    assert [surface[dim].attrs["long_name"] for dim in ("alpha", "beta")] == ["α, wave 0", "β, wave 1"]
    np.testing.assert_array_equal(ln.resume(tmp_path / "run.zarr", bowl)["loss"], surface["loss"])
    assert ln.report(surface)


def test_without_its_maker_its_words_are_left(waves, bowl, tmp_path, monkeypatch):
    line = ln.Line(bowl.params, *waves(bowl))
    ln.evaluate(bowl, line, ln.Grid(alpha=(-1, 1, 3)), store=tmp_path / "run.zarr")
    monkeypatch.setattr(registry, "_KINDS", {})
    assert ln.open(tmp_path / "run.zarr")["alpha"].attrs["long_name"] == "α, wave 0"
    with pytest.raises(errors.ChartError, match="kind 'waves' cannot be made from its recipe"):
        ln.resume(tmp_path / "run.zarr", bowl)


def test_it_is_asked_for_in_words(waves, bowl):
    view = view_of(bowl, kinds=["waves", "random"], seed=2)
    expected = waves(bowl, n=1, seed=2)[0]["x"]
    assert torch.equal(view.chart.directions[0]["x"], expected)
    with pytest.raises(errors.OptionError, match="'tides' are unknown. Use gradient, hessian, pca, random or waves"):
        view_of(bowl, kinds=["tides"])


def test_what_the_command_line_may_ask_for_says_how_it_is_made():
    for kind in kinds().values():
        assert kind.make is not None or kind.lead is not None or kind.name in ("pca", "moment")
        assert kind.several == ("n" in kind.options)


@pytest.mark.parametrize("name", [name for name, kind in kinds().items() if kind.make is not None])
def test_the_maker_is_the_public_function(name):
    assert kinds()[name].make is getattr(ln.directions, name)


def test_another_one_of_the_name_is_refused(waves):
    with pytest.raises(errors.DirectionError, match="registered already"):
        register("random")(lambda objective: None)
