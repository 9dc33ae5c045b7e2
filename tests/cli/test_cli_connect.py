"""The commands connect and barrier, through the command line alone."""

import json

import pytest
import torch

import lossnav as ln
from commands import lossnav

PROJECT = """
import torch
from torch import nn
import lossnav as ln

def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).eval()

def data(seed=9):
    torch.manual_seed(seed)
    x = torch.randn(64, 3)
    return x, (x.sum(1) > 0).long()

objective = ln.Objective(network(5), "cross_entropy", data(), metrics=["accuracy"])
held_out = ln.Objective(network(5), "cross_entropy", data(10), metrics=["accuracy"])
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "net.py").write_text(PROJECT)
    made = {}
    exec(PROJECT, made)
    for seed, name in ((1, "a.pt"), (2, "b.pt")):
        torch.save(made["network"](seed).state_dict(), tmp_path / name)
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "other.pt")
    return tmp_path


def test_a_curve_is_trained_evaluated_and_its_barrier_printed(project):
    words = ("connect", "net.py:objective", "a.pt", "b.pt", "--epochs", 3, "--lr", 0.1, "--run", "run.zarr",
             "--points", 9, "--on", "net.py:held_out")  # fmt: skip
    done = lossnav(*words, cwd=project)
    assert done.returncode == 0, done.stderr
    assert "curve       bezier, 1 bend" in done.stdout and "an upper bound" in done.stdout
    surface = ln.open(project / "run.zarr")
    printed = lossnav("barrier", "run.zarr", "--json", cwd=project)
    found = json.loads(printed.stdout)
    expected = ln.barrier(surface)
    assert found["above_line"]["value"] == pytest.approx(expected.above_line.value)
    assert found["above_line"]["low"] == pytest.approx(expected.above_line.low) and found["upper_bound"]
    again = lossnav(*words, "--json", cwd=project)  # the same call finds both finished
    assert json.loads(again.stdout)["finished"] and again.returncode == 0
    curve = ln.open_connection(project / "curve.safetensors").curve
    end = torch.load(project / "b.pt")
    assert all(torch.equal(curve([1.0])[name], tensor) for name, tensor in end.items())


def test_one_checkpoint_is_connected_with_the_spec(project):
    done = lossnav("connect", "net.py:objective", "b.pt", "--kind", "chain", "--epochs", 1, "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "chain"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("connect", "net.py:objective", "a.pt", "other.pt"), 1, "do not fit"),
        (("connect", "net.py:objective", "a.pt", "b.pt", "a.pt"), 2, "A curve has two ends"),
        (("connect", "net.py:objective", "a.pt", "a.pt"), 2, "same weights"),
        (("connect", "net.py:objective", "a.pt", "b.pt", "--on", "net.py:held_out"), 2, "Add --run"),
        (("connect", "net.py:objective", "a.pt", "b.pt", "--lr", "-1"), 2, "lr is -1"),
        (("barrier", "nothing.zarr"), 1, "nothing.zarr"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(project, arguments, code, words):
    done = lossnav(*arguments, cwd=project)
    assert done.returncode == code, done.stderr
    assert words in " ".join(done.stderr.split())
    assert not (project / "curve.safetensors").exists()
