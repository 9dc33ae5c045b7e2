"""`lossnav tree`: what the Python call returns, its file and its picture."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from commands import lossnav

PROJECT = """
import torch
from torch import nn
import lossnav as ln

def objective():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    return ln.Objective(model, "cross_entropy", (torch.randn(40, 3), torch.randint(2, (40,))))
"""


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "project.py").write_text(PROJECT)
    for seed, name in enumerate("abc", 1):
        torch.save(network(seed).state_dict(), tmp_path / f"{name}.pt")
    return tmp_path


def test_it_is_the_python_call_and_goes_on(folder):
    command = ["tree", "project.py:objective", "a.pt", "b.pt", "c.pt", "-o", "out", "--points", "5", "--restarts", "2"]
    done = lossnav(*command, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    network(0)  # which leaves the generator as the project's does
    data = torch.randn(40, 3), torch.randint(2, (40,))
    objective = ln.Objective(network(1), "cross_entropy", data)
    minima = [objective, network(2), network(3)]
    wanted = ln.tree(minima, names=["a", "b", "c"], points=5, restarts=2, progress=False)
    np.testing.assert_allclose(said["pass_loss"], wanted.pass_loss, rtol=1e-6)
    assert said["names"] == ["a", "b", "c"] and len(said["edges"]) == 2
    assert (folder / "out" / "tree.png").stat().st_size > 5_000
    assert str(ln.open_tree(folder / "out" / "tree.json")) == str(wanted)
    again = lossnav(*command, cwd=folder)
    assert again.returncode == 0 and again.stdout.startswith("3 minima")
    other = lossnav(*command, "--seed", "9", "--points", "7", cwd=folder)
    assert other.returncode == 1 and "pair-000-001.zarr" in other.stderr


def test_one_checkpoint_is_compared_with_the_spec(folder):
    done = lossnav("tree", "project.py:objective", "b.pt", "-o", "out", "--points", "3", "--no-align", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "objective - b" in done.stdout and "not aligned" in done.stdout


def test_bad_input_is_one_sentence_and_writes_no_tree(folder):
    torch.save(nn.Linear(3, 2).state_dict(), folder / "other.pt")
    done = lossnav("tree", "project.py:objective", "a.pt", "other.pt", "-o", "out", cwd=folder)
    assert done.returncode == 1 and "other.pt" in done.stderr and "Traceback" not in done.stderr
    assert not (folder / "out" / "tree.json").exists()
