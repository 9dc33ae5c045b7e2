"""Our own samplers pass the laws of samplers; each law is broken by one; a minimal one works."""

import json

import numpy as np
import pytest
import torch

import lossnav as ln
from commands import lossnav
from lossnav import errors
from lossnav.samplers import register, registry
from lossnav.samplers.grid import Snake
from lossnav.testing import SamplerLaws, check_sampler


class TestGrid(SamplerLaws):
    def make(self):
        return ln.Grid(alpha=(-1, 1, 9), beta=[-0.5, 0.1, 0.7])


class TestGridThatFindsItsRange(SamplerLaws):
    def make(self):
        return ln.Grid(alpha="auto", beta=("auto", 5))


class TestSnake(SamplerLaws):
    def make(self):
        return Snake(ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 4)))

    def test_description_is_complete(self):
        """It describes itself as the grid whose points it asks for, and is made of that."""

    test_it_is_made_again_from_its_description = test_description_is_complete


class TestPoints(SamplerLaws):
    def make(self):
        return ln.Points([[0, 0], [0.5, -1], [0.25, 3]])


class TestAdaptive(SamplerLaws):
    def make(self):
        return ln.Adaptive(alpha=(-1, 1), beta=(-1, 1), start=3, max_points=120)


class TestAdaptiveThatFindsItsRange(SamplerLaws):
    def make(self):
        return ln.Adaptive(alpha="auto", start=8, max_points=60)


class Spiral(ln.Sampler):
    """What a stranger writes: dims, rounds, describe, and no more."""

    dims = ("alpha", "beta")

    def rounds(self):
        lowest = np.inf
        for turn in range(4):
            t = np.linspace(0.1 + turn, 1 + turn, 6) / 5
            losses = yield np.stack([t * np.cos(7 * t), t * np.sin(7 * t)], axis=1)
            lowest = min(lowest, *losses[np.isfinite(losses)].tolist(), np.inf)
        return {"turns": 4, "lowest": str(lowest), "points": "many", "cells": "none"}

    def describe(self):
        return {"tolerance": "whatever I like", "seed": "mine"}


class TestSpiral(SamplerLaws):
    def make(self):
        return Spiral()


class Broken(Spiral):
    def rounds(self):
        return (yield from self.ask(list(super().rounds())))


def spiral(**parts):
    return type("Broken", (Spiral,), parts)


def rounds(*each, outcome=None):
    def ask(self):
        for points in each:
            _ = yield points
        return outcome

    return ask


ONE = np.array([[0.1, 0.2]])


def drawn(self):
    yield np.random.uniform(-1, 1, (3, 2))


def endless(self):
    for i in range(200_000):
        yield np.array([[i / 1e6, 0.0]])


def proud(self):
    losses = yield ONE
    assert np.isfinite(losses).all()


def writing(self):
    losses = yield ONE
    losses[:] = 0.0
    yield -ONE


def settling(self, losses):
    self.reach = getattr(self, "reach", 0) + 1
    return self


BROKEN = {
    "test_coordinates_have_names": {"dims": ["alpha", "beta"]},
    "test_rounds_are_arrays_of_finite_coordinates": {"rounds": rounds(np.array([[np.nan, 0.0]]))},
    "test_no_point_is_asked_for_twice": {"rounds": rounds(ONE, ONE)},
    "test_points_lie_in_its_box": {"rounds": rounds(ONE + 5)},
    "test_the_same_losses_lead_to_the_same_points": {"rounds": drawn},
    "test_it_bears_losses_that_are_not_finite": {"rounds": proud},
    "test_it_leaves_what_it_is_told_alone": {"rounds": writing},
    "test_total_is_how_many_it_asks_for": {"total": 7},
    "test_points_lie_on_its_axes": {"axes": {"alpha": np.array([0.0, 1.0]), "beta": np.array([0.0, 1.0])}},
    "test_settling_leaves_nothing_open": {
        "settle": settling,
        "describe": lambda self: {"reach": getattr(self, "reach", 0)},
    },
    "test_description_is_complete": {"describe": lambda self: {"kind": "Grid", "at": np.zeros(2)}},
    "test_outcome_is_of_json": {"rounds": rounds(ONE, outcome={"at": ONE})},
    "test_it_is_made_again_from_its_description": {
        "again": classmethod(lambda cls, description: ln.Grid(alpha=(0, 1, 2), beta=(0, 1, 2)))
    },
    "test_it_is_evaluated": {"rounds": rounds(np.zeros((2, 3)))},
}


def laws_of(parts):
    class Mine(SamplerLaws):
        def make(self):
            return spiral(**parts)()

    return Mine()


def test_every_law_has_a_sampler_that_breaks_it():
    assert sorted(BROKEN) == SamplerLaws.names()


@pytest.mark.parametrize("law", BROKEN)
def test_the_law_can_fail(law):
    with pytest.raises((AssertionError, errors.SamplerError)) as broken:
        getattr(laws_of(BROKEN[law]), law)()
    assert str(broken.value) or law == "test_it_bears_losses_that_are_not_finite"


def test_one_that_goes_on_for_ever_is_found():
    with pytest.raises(AssertionError, match="must end"):
        laws_of({"rounds": endless}).test_no_point_is_asked_for_twice()


@pytest.fixture
def bowl():
    return ln.Objective.from_function(lambda p: (p["x"] ** 2).sum() + 1, {"x": torch.zeros(2, dtype=torch.float64)})


@pytest.fixture
def plane(bowl):
    d1, d2 = ({"x": row} for row in torch.eye(2, dtype=torch.float64))
    return ln.Plane(bowl.params, d1, d2)


def test_a_minimal_sampler_works_everywhere(bowl, plane, tmp_path):
    store = tmp_path / "run.zarr"
    surface = ln.evaluate(bowl, plane, Spiral(), store=store)
    places = np.stack([surface["alpha"], surface["beta"]], axis=1)
    np.testing.assert_allclose(surface["loss"], (places**2).sum(1) + 1)
    assert len(places) == 24
    assert surface.attrs["sampler"]["kind"] == "Spiral"
    again = ln.open(store)
    assert again.attrs["sampler"]["outcome"]["turns"] == 4
    assert ln.report(store, objective=bowl, progress=False)
    assert ln.estimate(bowl, plane, Spiral()).points is None
    done = lossnav("info", "run.zarr", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "turns" in done.stdout
    done = lossnav("report", "run.zarr", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    np.testing.assert_array_equal(ln.evaluate(bowl, plane, Spiral(), store=store)["loss"], surface["loss"])
    with pytest.raises(errors.OptionError, match="is not registered"):
        ln.resume(store, bowl)
    assert ln.plot.contour(surface)


def test_an_ensemble_takes_it(bowl):
    def planes(seed):
        return ln.Plane(bowl.params, *ln.directions.random(bowl, n=2, seed=seed, exclude=(), normalize=None))

    joined = ln.ensemble(bowl, planes, Spiral(), seeds=range(2), progress=False)
    assert joined.sizes["seed"] == 2
    assert ln.report(joined)


def test_what_is_no_points_is_refused_with_its_name(bowl, plane):
    for points in ([["a", 0]], np.zeros((2, 3)), np.array([[np.inf, 0.0]])):
        with pytest.raises(errors.SamplerError, match="Broken requested"):
            ln.evaluate(bowl, plane, spiral(rounds=rounds(points))())


def test_a_registered_one_is_resumed(bowl, plane, tmp_path, monkeypatch):
    class Ring(Spiral):
        def describe(self):
            return {"kind": "Ring", "axes": {"alpha": [-1, 1], "beta": [-1, 1]}}

        @classmethod
        def again(cls, description):
            return cls()

    monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    register()(Ring)
    check_sampler(Ring)
    store = tmp_path / "run.zarr"
    surface = ln.evaluate(bowl, plane, Ring(), store=store, save_directions=True)
    np.testing.assert_array_equal(ln.resume(store, bowl)["loss"], surface["loss"])
