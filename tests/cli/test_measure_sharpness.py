"""`lossnav sharpness`: the same numbers as in Python, as words or as JSON."""

import json

import pytest
from typer.testing import CliRunner

from lossnav.cli import app

PROJECT = """
import torch
import lossnav as ln

objective = ln.Objective.from_function(lambda p: (p["x"] ** 2 * torch.tensor([1.0, 3.0])).sum(), {"x": torch.ones(2)})
"""


@pytest.fixture
def command(tmp_path):
    project = tmp_path / "project.py"
    project.write_text(PROJECT)
    return lambda *options: CliRunner().invoke(app, ["sharpness", f"{project}:objective", *options])


def test_options_of_a_kind_are_set(command):
    done = command("--kind", "lambda_max", "--set", "normalize=filter", "--set", "tolerance=1e-6", "--json")
    found = json.loads(done.stdout)
    assert (round(found["value"], 4), found["scale_invariant"], found["settings"]["tolerance"]) == (6.0, True, 1e-6)
    plain = command("--kind", "lambda_max", "--set", "normalize=none", "--set", "params=x").stdout
    assert "largest eigenvalue of the Hessian H" in plain
    bound = json.loads(command("--kind", "sam", "--set", "steps=1", "--set", "starts=1", "--json").stdout)
    assert (bound["interval"][1], bound["error"]) == ("inf", "nan")  # which JSON does not have


@pytest.mark.parametrize("options", [("--kind", "flat"), ("--kind", "sam", "--set", "radius"), ("--set", "radius=1")])
def test_usage_errors(command, options):
    assert command(*options).exit_code == 2
