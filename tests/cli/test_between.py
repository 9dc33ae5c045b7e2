"""`lossnav align`: files of permuted weights, the table and the proof."""

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

import lossnav as ln
from commands import lossnav

PROJECT = """
import torch
from torch import nn
import lossnav as ln

def objective():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).eval()
    return ln.Objective(model, "cross_entropy", (torch.randn(20, 3), torch.randint(2, (20,))))
"""


def network(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).eval()
    model[1].running_mean.normal_()
    return model


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "project.py").write_text(PROJECT)
    a = network(1)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    b = {n: t[order] if t.dim() and len(t) == 6 else t for n, t in a.state_dict().items()}
    b["3.weight"] = a[3].weight.detach()[:, order]
    torch.save(a.state_dict(), tmp_path / "a.pt")
    torch.save(b, tmp_path / "b.pt")
    torch.save(network(2).state_dict(), tmp_path / "c.pt")
    return tmp_path


def test_a_planted_permutation_is_undone(folder):
    done = lossnav("align", "project.py:objective", "a.pt", "b.pt", "-o", "new.safetensors", cwd=folder)
    assert done.returncode == 0, done.stderr
    for words in ("0.weight[0]", "proof", "starts", "new.safetensors"):
        assert words in done.stdout
    wanted, got = network(1).state_dict(), ln.checkpoints.load(folder / "new.safetensors")
    assert all(torch.equal(got[name], tensor) for name, tensor in wanted.items())
    with safe_open(folder / "new.safetensors", "pt") as file:
        assert json.loads(file.metadata()["alignment"])["method"] == "weights"


def test_it_is_the_python_call(folder):
    done = lossnav("align", "project.py:objective", "a.pt", "c.pt", "-o", "c.new.pt", "--json", cwd=folder)
    found = json.loads(done.stdout)
    torch.manual_seed(0)
    data = torch.randn(20, 3), torch.randint(2, (20,))
    wanted = ln.align(ln.Objective(network(1), "cross_entropy", data), network(2))
    assert found["objective"] == pytest.approx(wanted.objective)
    assert [group["group"] for group in found["groups"]] == [group.name for group in wanted.symmetries.groups]
    got = torch.load(folder / "c.new.pt", weights_only=True)
    assert all(torch.equal(got[name], tensor) for name, tensor in (wanted.params | wanted.buffers).items())
    fresh = network(5)
    fresh.load_state_dict(got)


def test_several_networks_go_to_a_folder(folder):
    done = lossnav("align", "project.py:objective", "a.pt", "b.pt", "c.pt", "-o", "new", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (folder / "new").iterdir()) == [
        "b.aligned.safetensors",
        "c.aligned.safetensors",
    ]
    alone = lossnav("align", "project.py:objective", "b.pt", cwd=folder)  # to the order of the SPEC's own weights
    assert alone.returncode == 0 and (folder / "b.aligned.safetensors").exists()


def test_bad_input_is_one_sentence_and_writes_nothing(folder):
    torch.save({name: tensor[:5] if tensor.dim() else tensor for name, tensor in network(1).state_dict().items()},
               folder / "small.pt")  # fmt: skip
    torch.save({n: t * float("nan") if t.is_floating_point() else t for n, t in network(1).state_dict().items()},
               folder / "nan.pt")  # fmt: skip
    for name, words in (("small.pt", "CheckpointMismatchError"), ("nan.pt", "not finite"), ("no.pt", "no checkpoint")):
        done = lossnav("align", "project.py:objective", "a.pt", name, "-o", "new.pt", cwd=folder)
        assert done.returncode == 1 and words in done.stderr, done.stderr
        assert not (folder / "new.pt").exists()
    twice = lossnav("align", "project.py:objective", "a.pt", "b.pt", "c.pt", "-o", "new.pt", cwd=folder)
    assert twice.returncode == 2 and "Name a folder" in twice.stderr
    done = lossnav("align", "project.py:objective", "a.pt", "b.pt", "-o", "a.pt", cwd=folder)
    assert done.returncode == 1 and "exists" in done.stderr
