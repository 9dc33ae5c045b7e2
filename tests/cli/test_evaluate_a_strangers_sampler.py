"""A sampler, a direction and a chart that a project registers are chosen on the command line like our own."""

import json

import numpy as np
import pytest

import lossnav as ln
from commands import lossnav
from lossnav import charts, directions, samplers

PROJECT = """
import numpy as np, torch
import lossnav as ln
from lossnav import charts, directions, samplers


@samplers.register(word="spiral", help="points of a spiral", options=("turns",))
class Spiral(ln.Sampler):
    def __init__(self, turns=2, **ends):
        self.dims, self.ends, self.turns = tuple(ends), ends, turns

    def rounds(self):
        t = np.linspace(0.1, 1.0, 5 * self.turns)
        circle = np.stack([t * np.cos(7 * t), t * np.sin(7 * t)], axis=1)[:, : len(self.dims)]
        low, high = np.array(list(self.ends.values())).T
        yield low + (high - low) * (circle + 1) / 2
        return {"turns": self.turns}

    def describe(self):
        return {"turns": self.turns, "axes": {dim: list(pair) for dim, pair in self.ends.items()}}

    @classmethod
    def again(cls, description):
        return cls(description["turns"], **description["axes"])


@directions.register("ones", on_command_line=True)
def ones(objective):
    tensors = {name: torch.ones_like(tensor) for name, tensor in objective.params.items()}
    return directions.Direction(tensors, {"kind": "ones", "words": "all ones"})


@charts.register(word="half-line")
class HalfLine(charts.DirectedChart):
    dims = ("alpha",)

    def _at(self, coords, points):
        center, direction = points.values()
        return {name: center[name] + coords[0] ** 2 * direction[name] for name in center}


def objective():
    made = ln.Objective.from_function(lambda p: 1 + ((p["x"] - 1) ** 2).sum(), {"x": torch.zeros(3)})
    return made
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a SPEC; what it registers is forgotten after the test."""
    (tmp_path / "project.py").write_text(PROJECT)
    (tmp_path / "pyproject.toml").write_text("")
    for registry in (samplers.registry, directions.registry, charts.registry):
        monkeypatch.setattr(registry, "_KINDS", dict(registry._KINDS))
    return tmp_path


def run(folder, *words):
    return lossnav("evaluate", "project.py:objective", *words, "--normalize", "none", cwd=folder)


def spiral(turns, low=-1.0, high=1.0):
    t = np.linspace(0.1, 1.0, 5 * turns)
    return low + (high - low) * (np.stack([t * np.cos(7 * t), t * np.sin(7 * t)], axis=1) + 1) / 2


def test_its_sampler_is_chosen_with_its_options(project):
    done = run(project, "--sampler", "spiral", "--set", "turns=3", "--range", "-2", "2")
    assert done.returncode == 0, done.stderr
    surface = ln.open(project / "run.zarr")
    assert (surface.attrs["sampler"]["kind"], surface.attrs["sampler"]["outcome"]) == ("Spiral", {"turns": 3})
    points = np.stack([surface["alpha"].values, surface["beta"].values], axis=1)
    np.testing.assert_allclose(np.sort(points, 0), np.sort(spiral(3, -2.0, 2.0), 0), rtol=1e-12)


def test_its_run_is_estimated_and_resumed(project):
    done = run(project, "--sampler", "spiral", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
    assert run(project, "--sampler", "spiral").returncode == 0
    before = ln.open(project / "run.zarr")["loss"].values
    done = lossnav("resume", "run.zarr", "--spec", "project.py:objective", cwd=project)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(ln.open(project / "run.zarr")["loss"].values, before)


def test_its_direction_and_its_chart_are_chosen(project):
    done = lossnav(
        "evaluate", "project.py:objective", "--chart", "half-line", "--directions", "ones", "--grid", "5", cwd=project
    )
    assert done.returncode == 0, done.stderr
    surface = ln.open(project / "run.zarr")
    alpha = np.linspace(-1, 1, 5)
    np.testing.assert_allclose(surface["loss"].values, 1 + 3 * (alpha**2 - 1) ** 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sampler", "helix"), "There is no sampler 'helix'. Use adaptive or grid or spiral."),
        (("--sampler", "spiral", "--grid", "5"), "--grid is not an option of --sampler spiral. Its options are turns"),
        (("--sampler", "spiral", "--set", "twists=3"), "--set twists=3 is not an option of --sampler spiral."),
        (("--sampler", "spiral", "--subset", "9", "--control", "3"), "leave out --sampler spiral"),
        (("--sampler", "grid", "--tolerance", "0.1"), "--tolerance is not an option of --sampler grid."),
        (("--sampler", "grid", "--set", "cap=many"), "does not accept"),
        (("--chart", "circle"), "There is no chart 'circle'"),
        (("--directions", "twos"), "Directions 'twos' are unknown"),
    ],
)
def test_what_it_does_not_have_is_refused(project, words, message):
    done = run(project, *words)
    assert (done.returncode, (project / "run.zarr").exists()) == (2, False), done.stderr
    assert message in done.stderr


def test_the_help_lists_what_is_registered(project, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")

    @samplers.register(word="helix", help="points of a helix")
    class Helix(ln.Sampler):
        dims = ("alpha",)

        def rounds(self):
            yield np.zeros((1, 1))

        def describe(self):
            return {}

    shown = " ".join(lossnav("evaluate", "--help", cwd=project).stdout.replace("│", " ").split())
    for word, kind in samplers.by_word().items():
        assert f"{word}: {kind.help}." in shown
    for words in ([kind.word for kind in charts.kinds().values() if kind.word],):
        assert [word for word in words if word not in shown] == []
    named = [name for name, kind in directions.kinds().items() if kind.on_command_line]
    assert [name for name in named if name not in shown] == []
