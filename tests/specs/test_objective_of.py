import sys

import pytest

import lossnav as ln
from lossnav import errors
from lossnav.specs.objective_of import load_objective

PROJECT = """
import torch
import lossnav as ln
from helper import START

objective = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": START})
number = 3
broken_name = None


def make():
    import neighbour  # found beside the file also now

    return objective


def wants(data):
    return objective


model = torch.nn.Linear(2, 2)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "my_project.py").write_text(PROJECT)
    (tmp_path / "helper.py").write_text("import torch\nSTART = torch.tensor([1.0, 2.0])\n")
    (tmp_path / "neighbour.py").write_text("")
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("my_project", "helper", "neighbour", "broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "spec", ["my_project.py:objective", "my_project.py:make", "my_project:objective", "my_project:make"]
)
def test_a_spec_leads_to_an_objective(project, spec):
    assert load_objective(spec).evaluate(load_objective(spec).params) == {"loss": 5.0}


def test_a_checkpoint_moves_the_centre(project, tmp_path):
    import torch

    path = ln.checkpoints.save({"x": torch.tensor([3.0, 0.0])}, tmp_path / "x.safetensors")
    objective = load_objective("my_project.py:objective", checkpoint=path)
    assert objective.evaluate(objective.params) == {"loss": 9.0}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nonsense", "'nonsense' is not a SPEC.*file.py:name"),
        ("none.py:objective", "There is no file none.py"),
        ("my_project.py:nothing", "has no 'nothing'.*Define nothing"),
        ("my_project.py:model", "is a Linear, not an Objective"),
        ("my_project.py:wants", "cannot be called without arguments.*data"),
        ("my_project.py:number", "is a int, not an Objective"),
        ("broken.py:objective", "cannot be imported: ModuleNotFoundError.*nothing_of_that_name"),
        ("no_such_package:x", "cannot be imported"),
        ("zoo:alexnet", "has no 'alexnet'.*zoo:notebook-digits"),
        ("zoo:notebook-digits", "lossnav train zoo:notebook-digits.*--checkpoint"),
    ],
)
def test_specs_that_lead_nowhere(project, spec, words):
    with pytest.raises(errors.SpecError, match=words):
        load_objective(spec)
