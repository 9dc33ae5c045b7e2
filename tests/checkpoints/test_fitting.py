"""Every kind of checkpoint that docs/checkpoints.md lists: its loss is that of plain torch, or it is refused in words.

The table in the docs has one line a row here, and a test holds the two together.
"""

import argparse
import copy
import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import checkpoints, errors

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"


class Net(nn.Module):
    """A convolution, batch normalisation with statistics of its own, and a head."""

    def __init__(self, classes=3):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))


class Scaled(Net):
    """A network with something to say beside its tensors."""

    scale = 1.0

    def get_extra_state(self):
        return {"scale": self.scale}

    def set_extra_state(self, state):
        self.scale = state["scale"]

    def forward(self, x):
        return super().forward(x) * self.scale


def network(kind=Net, seed=1):
    torch.manual_seed(seed)
    model = kind()
    for _ in range(3):
        model(torch.randn(8, 1, 6, 6) * 2 + 1)  # the statistics are no longer those of a new layer
    return model.eval()


def data():
    torch.manual_seed(0)
    return torch.randn(12, 1, 6, 6), torch.arange(12) % 3


def truth(model):
    """The loss in plain torch."""
    x, y = data()
    with torch.no_grad():
        return float(F.cross_entropy(model.eval()(x), y))


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


def inside(state, word):
    """The names of a model whose stem is wrapped."""
    return {name.replace("stem.", f"stem.{word}."): tensor for name, tensor in state.items()}


def saved(content, folder, name="file.pt", **options):
    torch.save(content, folder / name, **options)
    return folder / name


def under(*keys):
    """A row of weights under a key, or under one in another, beside what training keeps."""

    def make(model, folder):
        content = model.state_dict()
        for key in reversed(keys):
            content = {key: content, "epoch": 3}
        adam = torch.optim.Adam(model.parameters())
        return saved(content | {"optimizer": adam.state_dict()}, folder)

    return make


def named(change):
    """A row of weights whose names are changed."""
    return lambda model, folder: saved(change(model.state_dict()), folder)


def by_layers(model, folder):
    content = {}
    for name, tensor in model.state_dict().items():
        *layers, last = name.split(".")
        below = content
        for layer in layers:
            below = below.setdefault(layer, {})
        below[last] = tensor
    return saved({"params": content, "step": 3}, folder)


def shards(model, folder, index=True, suffix=".safetensors"):
    state = model.state_dict()
    names = list(state)
    files = [f"model-0000{i}-of-00003{suffix}" for i in (1, 2, 3)]
    where = {name: files[i * 3 // len(names)] for i, name in enumerate(names)}
    for file in files:
        part = {name: state[name] for name in names if where[name] == file}
        safetensors.torch.save_file(part, folder / file) if suffix == ".safetensors" else torch.save(
            part, folder / file
        )
    if index:
        (folder / f"model{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def distributed(model, folder, nested=True):
    adam = torch.optim.Adam(model.parameters())
    model(data()[0]).sum().backward()
    adam.step()  # an optimiser with a state of its own
    adam.zero_grad()
    content = {"model": model.state_dict(), "optim": adam.state_dict(), "epoch": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group
        dcp.save(content if nested else model.state_dict(), checkpoint_id=folder / "dcp")
    return folder / "dcp"


def averaged(model, folder):
    mean = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    other = network(seed=5)
    mean.update_parameters(other)
    mean.update_parameters(network(seed=6))
    model.load_state_dict(mean.module.state_dict())
    return saved(mean.state_dict(), folder)


def lightning(model, folder):
    state = prefixed(model.state_dict(), "model.") | {"criterion.weight": torch.ones(3)}
    beside = {"epoch": 1, "global_step": 9, "pytorch-lightning_version": "2.6.0", "loops": {}, "callbacks": {}}
    beside |= {"optimizer_states": [torch.optim.Adam(model.parameters()).state_dict()], "lr_schedulers": []}
    return saved({"state_dict": state, **beside, "hyper_parameters": {"lr": 0.1}}, folder, "last.ckpt")


def rounded(dtype):
    def make(model, folder):
        state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in model.state_dict().items()}
        model.load_state_dict(state)  # as torch does it
        return checkpoints.save(state, folder / "half.safetensors")

    return make


def with_args(model, folder):
    return saved({"model": model.state_dict(), "args": argparse.Namespace(lr=0.1)}, folder)


def with_adapter(model=None):
    """A network with an adapter of its head that changes nothing yet; the network is the same every time."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    return peft.get_peft_model(model or Net(), peft.LoraConfig(r=2, lora_alpha=8, target_modules=["head"]))


def adapter(tuned, folder):
    """An adapter, trained."""
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    tuned.save_pretrained(str(folder / "adapter"))
    return folder / "adapter"


def lora(model, folder):
    return adapter(with_adapter(model), folder)


def without(*words):
    return named(lambda state: {n: t for n, t in state.items() if not any(word in n for word in words)})


def lfs(model, folder):
    (folder / "file.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return folder / "file.bin"


def cut_off(model, folder):
    path = saved(model.state_dict(), folder)
    path.write_bytes(path.read_bytes()[:-300])
    return path


def arrays(model, folder):
    np.savez(folder / "file.npz", **{n: t.numpy() for n, t in model.state_dict().items()})
    return folder / "file.npz"


def script(model, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, data()[0]).save(folder / "file.pt")
    return folder / "file.pt"


def deepspeed(model, folder):
    (folder / "zero_to_fp32.py").write_text("")
    (folder / "global_step3").mkdir()
    return folder


def two_checkpoints(model, folder):
    checkpoints.save(model, folder / "a.safetensors")
    checkpoints.save(model, folder / "b.safetensors")
    return folder


def picked(key, make):
    return lambda model, folder: f"{make(model, folder)}::{key}"


def with_ema(**names):
    """Several state dicts in one file; the model's own is the one called mine."""

    def make(model, folder):
        return saved({n: (model if m == "mine" else network(seed=7)).state_dict() for n, m in names.items()}, folder)

    return make


def flat(**names):
    """The same in one state dict, by prefixes."""

    def make(model, folder):
        content = {}
        for name, which in names.items():
            content |= prefixed((model if which == "mine" else network(seed=7)).state_dict(), f"{name}.")
        return saved(content, folder)

    return make


def int8(model, folder):
    state = model.state_dict()
    return saved(state | {"head.weight": (state["head.weight"] * 20).to(torch.int8)}, folder)


MISMATCH = errors.CheckpointMismatchError
ROWS = {  # what it is: how it is made, and for one that is refused the error and its words
    "state dict, by `torch.save`": (named(lambda state: state),),
    "state dict, in torch's old format": (lambda m, f: saved(m.state_dict(), f, _use_new_zipfile_serialization=False),),
    "`.safetensors`": (lambda m, f: checkpoints.save(m, f / "file.safetensors"),),
    "`.safetensors` under another suffix": (lambda m, f: checkpoints.save(m, f / "file.bin"),),
    "folder with one file of weights": (lambda m, f: checkpoints.save(m, f / "model.safetensors").parent,),
    "folder with several": (two_checkpoints, errors.CheckpointError, r"several checkpoints: a.safetensors, b.saf"),
    "sharded safetensors: folder": (shards,),
    "sharded safetensors: index": (lambda m, f: shards(m, f) / "model.safetensors.index.json",),
    "sharded safetensors: folder without an index": (lambda m, f: shards(m, f, index=False),),
    "sharded `.bin`: folder": (lambda m, f: shards(m, f, suffix=".bin"),),
    "sharded safetensors: a single shard": (
        lambda m, f: shards(m, f) / "model-00001-of-00003.safetensors",
        MISMATCH,
        r"is one of 3 shards that model.safetensors.index.json lists. Pass the folder or the index",
    ),
    "a single shard, alone": (
        lambda m, f: shards(m, f, index=False) / "model-00002-of-00003.safetensors",
        MISMATCH,
        r"is shard 2 of 3. If so, pass the folder",
    ),
    **{f"weights under `{key}`": (under(key),) for key in ("state_dict", "model", "net", "ema", "swa_model")},
    **{f"weights under `{key}` ": (under(key),) for key in ("params", "state_dict_ema", "my_weights")},
    'nested by layers (`{"stem": {"0": {"weight": ...}}}`)': (by_layers,),
    "flat shards of FSDP": (
        lambda m, f: saved({"_flat_param": torch.ones(99)}, f),
        MISMATCH,
        r"flat shards of FSDP. Save a full state dict",
    ),
    "nested twice (`checkpoint` in it `model`)": (under("checkpoint", "model"),),
    "`model` beside `ema`: the first": (with_ema(model="mine", ema="other"),),
    "`model` beside `ema`: `file.pt::ema`": (picked("ema", with_ema(model="other", ema="mine")),),
    "`params` beside `params_ema`: the first": (with_ema(params_ema="other", params="mine"),),
    "`student` beside `teacher`": (
        with_ema(student="mine", teacher="other"),
        MISMATCH,
        r"Several state dicts in .* fit Net: student, teacher. Say which one, after two colons: .*file.pt::student",
    ),
    "`student` beside `teacher`: `file.pt::teacher`": (picked("teacher", with_ema(student="other", teacher="mine")),),
    "prefixes `encoder_q.` beside `encoder_k.`": (
        flat(**{"module.encoder_q": "mine", "module.encoder_k": "other"}),
        MISMATCH,
        r"fit Net: module.encoder_q, module.encoder_k. Say which one.*::module.encoder_q",
    ),
    "prefixes `encoder_q.` beside `encoder_k.`: `file.pt::module.encoder_k`": (
        picked("module.encoder_k", flat(**{"module.encoder_q": "other", "module.encoder_k": "mine"})),
    ),
    "prefix `module.`": (named(lambda state: prefixed(state, "module.")),),
    "prefix `_orig_mod.`": (named(lambda state: prefixed(state, "_orig_mod.")),),
    "prefixes `module._orig_mod.`": (named(lambda state: prefixed(state, "module._orig_mod.")),),
    "prefixes `_orig_mod.module.`": (named(lambda state: prefixed(state, "_orig_mod.module.")),),
    "prefix `model.`": (named(lambda state: prefixed(state, "model.")),),
    "prefix `backbone.`": (named(lambda state: prefixed(state, "backbone.")),),
    "prefix `_fsdp_wrapped_module.`, outside and inside": (
        named(lambda state: prefixed(inside(state, "_fsdp_wrapped_module"), "_fsdp_wrapped_module.")),
    ),
    "inner `_orig_mod.`": (named(lambda state: inside(state, "_orig_mod")),),
    "a prefix of your own (`policy.actor.`)": (named(lambda state: prefixed(state, "policy.actor.")),),
    "prefix `backbone.` beside a smaller head": (
        named(lambda state: prefixed(state, "backbone.") | {"neck.weight": torch.ones(3)}),
    ),
    "prefix `backbone.` beside a larger part": (
        named(lambda state: prefixed(state, "backbone.") | {"decoder.weight": torch.ones(99, 99)}),
        MISMATCH,
        r'most of that lies beside it \("decoder.weight" \(99, 99\)\). To use that part, pass .*file.pt::backbone',
    ),
    "Lightning, with a criterion": (lightning,),
    "`AveragedModel` (`module.` and `n_averaged`)": (averaged,),
    "distributed checkpoint (DCP): folder, with an optimiser": (distributed,),
    "distributed checkpoint (DCP) of a bare state dict": (lambda m, f: distributed(m, f, nested=False),),
    "distributed checkpoint (DCP): one of its files": (
        lambda m, f: distributed(m, f) / "__0_0.distcp",
        errors.CheckpointError,
        r"is a part of a distributed checkpoint. Pass its folder",
    ),
    "PEFT adapter: folder, for a model that has it": (adapter, with_adapter),
    "PEFT adapter: folder, for the model without it": (
        lora,
        MISMATCH,
        r"are a PEFT adapter \(LORA\), which changes a network but is not one.*peft.PeftModel.from_pretrained",
    ),
    "bfloat16": (rounded(torch.bfloat16),),
    "float16": (rounded(torch.float16),),
    "int8, quantised": (
        int8,
        MISMATCH,
        r'"head.weight" is int8 in .* and float32 in Net. If these are quantised weights',
    ),
    "no `num_batches_tracked`": (without("num_batches_tracked"),),
    "no running statistics": (
        without("running", "num_batches"),
        MISMATCH,
        r'lacks the buffers "stem.1.running_mean", "stem.1.running_var" of Net.*missing="keep"',
    ),
    "a tensor too few": (
        without("head.bias"),
        MISMATCH,
        r'"head.bias" \(3,\) is missing. Pass the file that contains all',
    ),
    "an extra head": (
        named(lambda state: state | {"aux.weight": torch.ones(3, 4), "aux.bias": torch.ones(3)}),
        MISMATCH,
        r'"aux.weight" \(3, 4\) and "aux.bias" \(3,\) are not in the model. Build the model with them, or',
    ),
    "a head for another number of classes": (
        lambda m, f: saved(network(lambda: Net(5)).state_dict(), f),
        MISMATCH,
        r'"head.weight": \(5, 4\) vs \(3, 4\) and .*Build the model with these sizes',
    ),
    "weights with LoRA that is not merged": (
        named(
            lambda state: (
                {n.replace("head.", "head.base_layer."): t for n, t in state.items()}
                | {"head.lora_A.default.weight": torch.ones(2, 4), "head.lora_B.default.weight": torch.ones(3, 2)}
            )
        ),
        MISMATCH,
        r"to a network with PEFT adapters.*merge_and_unload",
    ),
    "only the state of an optimiser": (
        lambda m, f: saved({"optimizer": torch.optim.Adam(m.parameters()).state_dict()}, f),
        errors.CheckpointError,
        r"contains no state dict: no named tensors, except perhaps the state of an optimiser",
    ),
    "`_extra_state` (`get_extra_state`), of a model that has the same": (named(lambda state: state), Scaled),
    "`argparse.Namespace` beside the weights": (
        with_args,
        errors.UnsafeCheckpointError,
        r"holds argparse.Namespace beside tensors.*nothing was executed.*"
        r"import torch, argparse; torch.serialization.add_safe_globals\(\[argparse.Namespace\]\)",
    ),
    "a NumPy number beside the weights": (
        lambda m, f: saved({"model": m.state_dict(), "best": np.float64(0.5)}, f),
        errors.UnsafeCheckpointError,
        r"holds numpy.*scalar, numpy.dtype beside tensors",
    ),
    "a pickled model (`torch.save(model)`)": (
        lambda m, f: saved(m, f),
        errors.UnsafeCheckpointError,
        r"Net, .* beside tensors.*seems to hold a whole model that was pickled.*weights_only=False\).state_dict\(\)",
    ),
    "a TorchScript archive": (
        script,
        errors.CheckpointError,
        r"is a TorchScript archive, a program with its weights.*torch.jit.load\(.*\).state_dict\(\)",
    ),
    "NumPy arrays (`.npz`)": (arrays, errors.CheckpointError, r"is an archive of NumPy arrays, not a file of weights"),
    "a pointer of Git LFS": (
        lfs,
        errors.CheckpointError,
        r"a Git LFS pointer, not the weights. Fetch them: git lfs pull",
    ),
    "a file that is cut off": (
        cut_off,
        errors.CheckpointError,
        r"cannot be read as a checkpoint .*damaged or truncated",
    ),
    "a DeepSpeed folder": (deepspeed, errors.CheckpointError, r"is a DeepSpeed checkpoint.*zero_to_fp32.py"),
}


def row(name, folder):
    """Make a file; returns its path, the loss that it has in plain torch, and an objective of a new model."""
    make, *rest = ROWS[name]
    kind = rest[0] if len(rest) == 1 else Net
    model = network(kind)
    if kind is Scaled:
        model.scale = Scaled.scale = 0.5
    path = make(model, folder)
    fresh = network(kind, seed=2)
    return path, truth(model), ln.Objective(fresh, F.cross_entropy, data()), rest[-2:] if len(rest) == 2 else []


@pytest.fixture(autouse=True)
def scale(monkeypatch):
    monkeypatch.setattr(Scaled, "scale", 1.0)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_table(name, tmp_path):
    path, loss, objective, refused = row(name, tmp_path)
    if refused:
        error, words = refused
        fresh = network(seed=2)
        before = copy.deepcopy(fresh.state_dict())
        for call in (lambda: objective.at(path), lambda: checkpoints.load_into(fresh, path)):
            with pytest.raises(error) as caught:
                call()
            assert re.search(words, str(caught.value), re.DOTALL), str(caught.value)
            assert "another architecture" not in str(caught.value)
        assert all(torch.equal(before[n], t) for n, t in fresh.state_dict().items())
        return
    there = objective.at(path)
    assert there.evaluate(there.params)["loss"] == pytest.approx(loss, rel=1e-6)
    assert objective.evaluate(objective.params)["loss"] != pytest.approx(loss, rel=1e-3)  # else nothing was shown
    loaded = checkpoints.load_into(network(ROWS[name][1] if len(ROWS[name]) == 2 else Net, seed=2), path)
    assert truth(loaded) == pytest.approx(loss, rel=1e-6)
    line = ln.Line(objective, ln.directions.between(objective, path))
    end = ln.evaluate(objective, line, ln.Grid(alpha=(0, 1, 2)))["loss"].values[1]
    assert end == pytest.approx(loss, rel=1e-6)


def page_rows():
    lines = PAGE.read_text().splitlines()
    start = lines.index("| checkpoint | result |")
    table = [line for line in lines[start + 2 :] if line.startswith("|")]
    return dict(tuple(cell.strip() for cell in line.strip("|").rsplit("|", 1)) for line in table)


def test_the_table_in_the_docs_has_a_line_for_every_row():
    said = {name: what.partition(":")[0] for name, what in page_rows().items()}
    assert said == {name.strip(): "refused" if len(row) == 3 else "loads" for name, row in ROWS.items()}
