"""A definition of sharpness of somebody else's is one as any other: in Python, in the shell, in the docs' table."""

import json
import math
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import lossnav as ln
from landscapes import quadratic
from lossnav import errors
from lossnav.cli import app
from lossnav.sharpness_measures import KINDS, Invariance, KindResult, register, table

DOCS = Path(__file__).parents[2] / "docs" / "sharpness.md"
WORDS = {
    "formula": "L(θ + r g/|g|) − L(θ) | one step uphill",
    "source": "this test",
    "invariant_under": "nothing",
    "uncertainty": "rounding alone",
}


PROJECT = """
import torch, lossnav as ln
objective = ln.Objective.from_function(lambda p: (p["x"] ** 2 + p["y"] ** 2).sum(), {n: torch.ones(1) for n in "xy"})
"""


def uphill(ground, seed, *, radius=0.5, twice=False):
    """Find what one step uphill raises the loss by, as somebody else would write it."""
    _, slope = ground.slope(ground.origin())
    value = ground.loss(radius * (1 + twice) * slope / slope.norm()) - ground.center
    known = Invariance(False, "a step has a length")
    return KindResult(value, 0.0, (value, value), "rounding", "one step", "this test", known, (), {"radius": radius})


@pytest.fixture
def registered():
    yield register("uphill", **WORDS, exclude=("y",))(uphill)
    KINDS.pop("uphill", None)


def test_a_kind_of_somebody_elses_is_measured_counted_and_printed(registered):
    assert registered is uphill
    objective = quadratic([1.0, 3.0], center=[0.0, 0.0], slope=[0.0, 2.0])
    found = ln.sharpness(objective, "uphill", radius=0.1, exclude=())
    assert found.value == pytest.approx(2 * 0.1 + 3 * 0.1**2 / 2)  # slope and curvature along the second axis
    assert (found.kind, found.gradients, found.evaluations) == ("uphill", 1, 2)
    assert "one step" in str(found)
    both = ln.Objective.from_function(lambda p: (p["x"] ** 2 + p["y"] ** 2).sum(), {n: torch.ones(2) for n in "xy"})
    assert ln.sharpness(both, "uphill").settings["excluded"] == ["y"]
    with pytest.raises(errors.OptionError, match=r"takes no sigma=. Its options are radius, twice\."):
        ln.sharpness(objective, "uphill", sigma=1)
    with pytest.raises(errors.OptionError, match="kind='flat' is unknown. Use one of .*, uphill"):
        ln.sharpness(objective, "flat")


def test_the_command_line_knows_it(registered, tmp_path):
    (tmp_path / "project.py").write_text(PROJECT)
    run = lambda *words: CliRunner().invoke(app, ["sharpness", *words])  # noqa: E731
    spec = f"{tmp_path / 'project.py'}:objective"
    done = run(spec, "--kind", "uphill", "--set", "radius=1", "--set", "twice=true", "--json")
    assert json.loads(done.stdout)["value"] == pytest.approx(8)  # 3^2 - 1
    listed = run("--kinds")
    assert listed.exit_code == 0
    assert "one step uphill" in listed.stdout
    assert "radius=0.5  twice=false" in listed.stdout
    assert all(f"\n{name} " in "\n" + listed.stdout for name in KINDS)


def test_the_table_of_the_docs_is_that_of_the_registry(registered):
    last = r"| `uphill` | L(θ + r g/\|g\|) − L(θ) \| one step uphill | this test | nothing | rounding alone |"
    assert table().splitlines()[-1] == last
    KINDS.pop("uphill")
    assert table() in DOCS.read_text()


def test_a_name_that_is_taken_is_refused(registered):
    for name in ("uphill", "sam"):
        with pytest.raises(errors.OptionError, match=f"kind of sharpness '{name}' is registered already: .*another"):
            register(name, **WORDS)(uphill)
    assert KINDS["sam"].measure.__name__ == "sam"


@pytest.mark.parametrize(
    "measure",
    [
        lambda ground: None,
        lambda: None,
        lambda ground, seed, radius: None,
        lambda ground, seed, *, radius: None,
        lambda ground, seed, *, params="*": None,
        lambda ground, seed, **options: None,
    ],
)
def test_a_function_that_cannot_be_called_as_a_kind_is_refused(measure):
    with pytest.raises(errors.OptionError, match=r"Let it take \(ground, seed, \*, option=default"):
        register("new", **WORDS)(measure)
    assert "new" not in KINDS


def test_every_kind_says_what_it_is_and_has_defaults():
    for kind in KINDS.values():
        assert all((kind.formula, kind.source, kind.invariant_under, kind.uncertainty))
        assert kind.options
        for value in kind.options.values():
            assert value is None or isinstance(value, str | bool) or math.isfinite(value)
