"""Checkpoints are untrusted: what is in them is never executed."""

import errno
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from lossnav import checkpoints, errors
from lossnav.checkpoints import weights


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in b)


def test_round_trip(model, tmp_path):
    path = checkpoints.save(model, tmp_path / "model.safetensors", metadata={"seed": 3})
    assert same(checkpoints.load(path), model.state_dict())
    fresh = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert same(checkpoints.load_into(fresh, path).state_dict(), model.state_dict())
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"seed": "3"}


def test_tied_weights_round_trip(everything, tmp_path):
    path = checkpoints.save(everything, tmp_path / "tied.safetensors")
    twin = type(everything)()
    checkpoints.load_into(twin, path)
    assert same(twin.state_dict(), everything.state_dict())
    assert twin.tied.weight is twin.second.weight
    torch.save(everything.state_dict(), tmp_path / "tied.pt")  # torch writes both names
    assert same(checkpoints.load_into(type(everything)(), tmp_path / "tied.pt").state_dict(), everything.state_dict())


@pytest.mark.parametrize("wrap", ["state_dict", "model_state_dict", "model", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_torch_files_of_many_makers(model, tmp_path, wrap, prefix):
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / "model.pt")
    fresh = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    assert same(checkpoints.load_into(fresh, tmp_path / "model.pt").state_dict(), model.state_dict())


def test_tied_weights_saved_under_their_other_name(everything, tmp_path):
    safetensors.torch.save_model(everything, str(tmp_path / "theirs.safetensors"))
    twin = checkpoints.load_into(type(everything)(), tmp_path / "theirs.safetensors")
    assert same(twin.state_dict(), everything.state_dict())


def test_what_is_no_tensor_is_refused(tmp_path):
    with pytest.raises(errors.CheckpointError, match='"extra" is a dict, not a tensor'):
        checkpoints.save({"w": torch.zeros(1), "extra": {}}, tmp_path / "x.safetensors")


EXECUTED = []


class Evil:
    def __reduce__(self):
        return EXECUTED.append, (1,)


@pytest.mark.parametrize("how", ["torch", "legacy torch", "pickle", "whole model"])
def test_pickles_with_code_are_refused_and_never_executed(model, tmp_path, how):
    path = tmp_path / "evil.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps({"w": Evil()}))
    elif how == "whole model":
        torch.save(model, path)
    else:
        torch.save({"w": torch.zeros(1), "evil": Evil()}, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(errors.UnsafeCheckpointError, match=r"could run code.*nothing was executed.*state_dict"):
        checkpoints.load(path)
    assert not EXECUTED


def test_weights_of_another_model_leave_this_one_untouched(model, tmp_path):
    path = checkpoints.save(
        nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 5)), tmp_path / "o.safetensors"
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        errors.CheckpointMismatchError, match=r'do not fit Sequential: "2.weight": \(5, 4\) vs \(2, 4\)'
    ):
        checkpoints.load_into(model, path)
    assert same(model.state_dict(), before)
    with pytest.raises(errors.CheckpointMismatchError, match='"extra" .* is not in the model'):
        weights.fit({**model.state_dict(), "extra": torch.zeros(1)}, model.state_dict())


def test_files_that_are_no_checkpoints(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"not safe at all")
    (tmp_path / "b.pt").write_bytes(b"hello")
    (tmp_path / "c.pt").write_bytes(b"")
    torch.save([1, 2], tmp_path / "d.pt")
    for name, words in (
        ("a.safetensors", "no safetensors file.*damaged"),
        ("b.pt", "b.pt"),
        ("c.pt", "c.pt"),
        ("d.pt", "contains no state dict.*Save model.state_dict"),
        ("none.pt", "There is no checkpoint.*lossnav train"),
    ):
        with pytest.raises(errors.CheckpointError, match=words) as caught:
            checkpoints.load(tmp_path / name)
        assert not isinstance(caught.value, errors.UnsafeCheckpointError)


def test_what_exists_is_kept_and_a_full_disk_leaves_it(model, tmp_path, monkeypatch):
    path = checkpoints.save(model, tmp_path / "model.safetensors")
    with pytest.raises(errors.OutputExistsError):
        checkpoints.save(model, path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(errors.StoreError, match="No space left"):
        checkpoints.save(model, path, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_public_resnet_checkpoint_opens():
    from conftest import shared_data

    state = checkpoints.load(shared_data("resnet56-cifar10.th"))
    assert sum(t.numel() for name, t in state.items() if "running" not in name and "num_batches" not in name) > 850_000
    assert all(name.startswith("module.") for name in state)
