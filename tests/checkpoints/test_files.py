"""What no table of checkpoints can hold: hostile files, adapters in a model, names that are found or not."""

import argparse
import json
import os
import pathlib
import pickle
import re
import struct
import warnings

import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import nn
from torch.distributed.checkpoint import filesystem, metadata

import lossnav as ln
from lossnav import checkpoints, errors
from lossnav.checkpoints import matching
from lossnav.checkpoints import weights as weights_module

EXECUTED = []


class Evil:
    def __reduce__(self):
        return EXECUTED.append, (1,)


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()


def data():
    torch.manual_seed(9)
    return torch.randn(10, 3), torch.arange(10) % 2


def truth(network):
    x, y = data()
    with torch.no_grad():
        return float(F.cross_entropy(network(x), y))


def objective(network=None, **options):
    return ln.Objective(network or model(5), F.cross_entropy, data(), **options)


def loss_at(path, **options):
    there = objective(**options).at(path)
    return there.evaluate(there.params)["loss"]


# ---------------------------------------------------------------------- hostile files


@pytest.mark.parametrize("place", ["../secret.safetensors", "/etc/passwd", "a/../../secret.safetensors", "..\\x", 7])
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path, place):
    folder = tmp_path / "hub"
    folder.mkdir()
    safetensors.torch.save_file(model().state_dict(), tmp_path / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"0.weight": place}}))
    for path in (folder, folder / "model.safetensors.index.json"):
        with pytest.raises(errors.CheckpointError, match="outside its folder, and was refused"):
            checkpoints.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"weight_map": 3}', '{"weight_map": {}}', "[" * 100_000])
def test_an_index_that_is_none(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(errors.CheckpointError, match="no index of shards"):
        checkpoints.load(tmp_path / "model.safetensors.index.json")


def test_a_missing_shard_is_named(tmp_path):
    where = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(model().state_dict())}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    state = {name: tensor for name, tensor in model().state_dict().items() if "1-of" in where[name]}
    safetensors.torch.save_file(state, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(errors.CheckpointError, match=r"00002-of-00002.safetensors is missing.*Copy all shards"):
        checkpoints.load(tmp_path)
    safetensors.torch.save_file(state, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(errors.CheckpointError, match='contains "0.bias", but it does not'):
        checkpoints.load(tmp_path)


def test_a_header_with_an_enormous_shape_takes_no_memory(tmp_path):
    header = json.dumps({"0.weight": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    for name in ("a", "b"):
        with pytest.raises(errors.CheckpointError, match="no safetensors file"):
            checkpoints.load(tmp_path / f"{name}.safetensors")


def distributed(folder, content=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": model().state_dict()} if content is None else content, checkpoint_id=folder)
    return folder


def rewritten(folder, change):
    """A distributed checkpoint whose metadata are changed."""
    said = pickle.loads((folder / ".metadata").read_bytes())
    change(said)
    (folder / ".metadata").write_bytes(pickle.dumps(said))
    return folder


def test_the_metadata_of_a_distributed_checkpoint_run_no_code(tmp_path):
    folder = rewritten(distributed(tmp_path / "dcp"), lambda said: setattr(said, "planner_data", Evil()))
    for wrong in (Evil(), [Evil()]):
        with pytest.raises(errors.UnsafeCheckpointError, match=r"holds builtins.getattr.*nothing was executed"):
            checkpoints.load(folder)
        (folder / ".metadata").write_bytes(pickle.dumps(wrong))
    (folder / ".metadata").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    with pytest.raises(errors.UnsafeCheckpointError, match=r"holds os.system"):
        checkpoints.load(folder)
    assert not EXECUTED
    assert not os.path.exists("executed")


def test_the_pieces_of_a_distributed_checkpoint_run_no_code(tmp_path):
    folder = distributed(tmp_path / "dcp")
    path = folder / "evil.distcp"
    torch.save(Evil(), path)

    def change(said):
        for index, place in said.storage_data.items():
            if index.fqn == "model.0.weight":
                place.relative_path, place.offset, place.length = "evil.distcp", 0, path.stat().st_size

    with pytest.raises(errors.CheckpointError, match=r'"model.0.weight" in .*evil.distcp cannot be read'):
        checkpoints.load(rewritten(folder, change))
    assert not EXECUTED


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"relative_path": "../secret"}, "outside its folder"),
        ({"relative_path": "/etc/passwd"}, "outside its folder"),
        ({"relative_path": "gone.distcp"}, "gone.distcp is missing"),
        ({"length": 1 << 50}, "is cut off"),
        ({"offset": -5}, "is cut off"),
        ({"transform_descriptors": ["zstd"]}, r"is compressed \(zstd\)"),
    ],
)
def test_pieces_that_lie_elsewhere(tmp_path, change, words):
    def all_of_them(said):
        for place in said.storage_data.values():
            for name, value in change.items():
                setattr(place, name, value)

    with pytest.raises(errors.CheckpointError, match=words):
        checkpoints.load(rewritten(distributed(tmp_path / "dcp"), all_of_them))


def test_shapes_that_the_files_do_not_hold_take_no_memory(tmp_path):
    def enlarge(said):
        entry = said.state_dict_metadata["model.0.weight"]
        entry.size = torch.Size([1 << 40, 1 << 10])

    with pytest.raises(errors.CheckpointError, match="does not hold all of"):
        checkpoints.load(rewritten(distributed(tmp_path / "a"), enlarge))

    def enlarge_piece(said):
        enlarge(said)
        said.state_dict_metadata["model.0.weight"].chunks[0].sizes = torch.Size([1 << 40, 1 << 10])

    with pytest.raises(errors.CheckpointError, match="is not the tensor of shape"):
        checkpoints.load(rewritten(distributed(tmp_path / "b"), enlarge_piece))

    def repeat(said):  # a tensor of stride 0: small in the file, enormous when it is copied
        torch.save(torch.zeros(1).expand(1 << 40, 1 << 10), tmp_path / "c" / "x.distcp")
        enlarge_piece(said)
        for index, place in said.storage_data.items():
            if index.fqn == "model.0.weight":
                place.relative_path, place.offset = "x.distcp", 0
                place.length = (tmp_path / "c" / "x.distcp").stat().st_size

    with pytest.raises(errors.CheckpointError, match="says it is larger than the file"):
        checkpoints.load(rewritten(distributed(tmp_path / "c"), repeat))


def test_a_file_that_refers_to_itself_is_refused(tmp_path):
    loop = {"model": {}}
    loop["model"]["again"] = loop
    torch.save(loop, tmp_path / "loop.pt")
    with pytest.raises(errors.CheckpointError, match="refers to itself"):
        checkpoints.load(tmp_path / "loop.pt")
    laughs = {"weight": torch.zeros(1)}
    for _ in range(22):
        laughs = {"a": laughs, "b": laughs}
    torch.save(laughs, tmp_path / "laughs.pt")
    with pytest.raises(errors.CheckpointError, match="more names and dicts than any model"):
        objective().at(tmp_path / "laughs.pt")
    deep = {"weight": torch.zeros(1)}
    for _ in range(30):
        deep = {"a": deep}
    torch.save(deep, tmp_path / "deep.pt")
    with pytest.raises(errors.CheckpointError, match="dicts deep"):
        objective().at(tmp_path / "deep.pt")


@pytest.mark.parametrize("count", [2, 80, 3000])
def test_one_dict_by_many_names_is_one(tmp_path, count):
    state, options = model().state_dict(), {"lr": 0.1}
    torch.save({"weights": state} | {f"epoch-{i}": state for i in range(count)}, tmp_path / "a.pt")
    assert loss_at(tmp_path / "a.pt") == pytest.approx(truth(model()), rel=1e-6)
    torch.save({"model": state, "groups": [options] * count}, tmp_path / "b.pt")
    assert loss_at(tmp_path / "b.pt") == pytest.approx(truth(model()), rel=1e-6)


# ---------------------------------------------------------------------- distributed checkpoints of several processes


def test_pieces_of_several_processes_are_put_together(tmp_path):
    """Two files with half of each weight, as two processes write them."""
    state = model().state_dict()
    folder = tmp_path / "dcp"
    folder.mkdir()
    entries, places = {}, {}
    for rank in (0, 1):
        with (folder / f"__{rank}_0.distcp").open("wb") as file:
            for name, tensor in state.items():
                half = tensor.shape[0] // 2
                start, part = rank * half, tensor[rank * half : (rank + 1) * half].clone()
                offset = (start, *[0] * (tensor.dim() - 1))
                begin = file.tell()
                torch.save(part, file)
                index = metadata.MetadataIndex(name, offset)
                places[index] = filesystem._StorageInfo(f"__{rank}_0.distcp", begin, file.tell() - begin)
                properties = metadata.TensorProperties.create_from_tensor(tensor)
                entry = entries.setdefault(name, metadata.TensorStorageMetadata(properties, tensor.shape, []))
                entry.chunks.append(metadata.ChunkStorageMetadata(torch.Size(offset), part.shape))
    (folder / ".metadata").write_bytes(pickle.dumps(metadata.Metadata(entries, None, places)))
    found = checkpoints.load(folder)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    theirs = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(theirs, checkpoint_id=folder)  # torch's own reader agrees
    assert all(torch.equal(found[name], tensor) for name, tensor in theirs.items())
    assert loss_at(folder) == pytest.approx(truth(model()), rel=1e-6)
    (folder / "__1_0.distcp").unlink()
    with pytest.raises(errors.CheckpointError, match=r"__1_0.distcp is missing.*all processes"):
        checkpoints.load(folder)


# ---------------------------------------------------------------------- adapters


def tuned(alpha=8, seed=0, **options):
    peft = pytest.importorskip("peft")
    made = peft.get_peft_model(model(), peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=["0"], **options))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_()
    return made.eval()


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"modules_to_save": ["2"]}, {"use_rslora": True}])
def test_the_adapter_of_a_model_that_has_it(tmp_path, options):
    trained = tuned(seed=3, **options)
    trained.save_pretrained(str(tmp_path))
    fresh = tuned(seed=4, **options)
    names = [name for name, parameter in fresh.named_parameters() if parameter.requires_grad]
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        there = objective(fresh, params=names).at(path)
        assert there.evaluate(there.params)["loss"] == pytest.approx(truth(trained), rel=1e-6)
    assert truth(checkpoints.load_into(fresh, tmp_path)) == pytest.approx(truth(trained), rel=1e-6)


def test_an_adapter_with_another_scale_is_another_one(tmp_path):
    tuned(alpha=8).save_pretrained(str(tmp_path))
    fresh = tuned(alpha=32)
    for call in (
        lambda: objective(fresh, params="*lora*").at(tmp_path),
        lambda: checkpoints.load_into(fresh, tmp_path),
    ):
        with pytest.raises(errors.CheckpointMismatchError, match="lora_alpha 8 and not 32"):
            call()


def test_a_line_leads_to_an_adapter(tmp_path):
    trained = tuned(seed=3)
    trained.save_pretrained(str(tmp_path))
    start = objective(tuned(seed=4))  # what peft trains moves
    line = ln.Line(start, ln.directions.between(start, tmp_path))
    assert start.evaluate(line([1.0]))["loss"] == pytest.approx(truth(trained), rel=1e-6)


def test_an_adapter_moves_alone(tmp_path):
    tuned().save_pretrained(str(tmp_path))
    with pytest.raises(
        errors.CheckpointMismatchError, match=r"parameters of .* move that are none of its own.*params="
    ):
        objective(tuned(), params="*").at(tmp_path)


WAYS = {
    "plain": {},
    "saved module": {"modules_to_save": ["2"]},
    "biases": {"bias": "lora_only"},
    "all biases": {"bias": "all"},
    "both": {"modules_to_save": ["2"], "bias": "lora_only"},
}


@pytest.mark.parametrize("mine", WAYS)
@pytest.mark.parametrize("its", WAYS)
def test_tensors_that_only_one_of_two_adapters_has(tmp_path, its, mine):
    trained = tuned(seed=3, **WAYS[its])
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad and name.endswith("bias"):
                parameter.normal_()
    trained.save_pretrained(str(tmp_path))
    fresh = tuned(seed=4, **WAYS[mine])
    start = objective(fresh)
    if its == mine:
        there = start.at(tmp_path)
        assert there.evaluate(there.params)["loss"] == pytest.approx(truth(trained), rel=1e-6)
        assert truth(checkpoints.load_into(fresh, tmp_path)) == pytest.approx(truth(trained), rel=1e-6)
        return
    for call in (lambda: start.at(tmp_path), lambda: checkpoints.load_into(fresh, tmp_path)):
        with pytest.raises(
            errors.CheckpointMismatchError, match=r"do not hold the same tensors.*from_pretrained"
        ) as caught:
            call()
        assert "no such adapter" not in str(caught.value)
        for key in ("modules_to_save", "bias"):
            assert (f"{key}=" in str(caught.value)) == (WAYS[its].get(key) != WAYS[mine].get(key))


# ---------------------------------------------------------------------- folders


def write(folder, *names, seed=0):
    for name in names:
        if name.endswith(".safetensors"):
            checkpoints.save(model(seed), folder / name)
        elif name.endswith(".json"):
            state = model(seed).state_dict()
            first = name.partition(".index")[0] + "-00001-of-00001.safetensors"
            checkpoints.save(model(seed), folder / first)
            (folder / name).write_text(json.dumps({"weight_map": dict.fromkeys(state, first)}))
        else:
            torch.save(model(seed).state_dict(), folder / name)


@pytest.mark.parametrize(
    "names",
    [
        ("model.pt", "best.pt"),
        ("model.safetensors", "best.ckpt"),
        ("model.pt", "checkpoint.pth.tar"),
        ("model.pt", "ema.pkl"),
        ("pytorch_model.bin", "model.pt"),
        ("model.safetensors.index.json", "best.pt"),
        ("model-00001-of-00001.safetensors", "model.pt"),
    ],
)
def test_a_folder_with_several_that_may_be_meant_is_refused(tmp_path, names):
    write(tmp_path, *names)
    with pytest.raises(errors.CheckpointError, match="several checkpoints") as caught:
        loss_at(tmp_path)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize("beside", ["adapter_config.json", ".metadata"])
def test_weights_beside_a_checkpoint_that_is_a_folder(tmp_path, beside):
    (tmp_path / beside).write_text("{}")
    write(tmp_path, "model.pt")
    with pytest.raises(errors.CheckpointError, match=rf"several checkpoints.*{beside}.*model.pt"):
        loss_at(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        "optim.bin",
        "optimizer_state.pt",
        "scheduler.pt",
        "lr_scheduler.bin",
        "rng_state.pth",
        "scaler.pt",
        "rng_state_0.pth",
        "training_args.bin",
        "random_states_0.pkl",
        "trainer_state.pt",
        "metrics.pt",
        "optimizer-1.pt",
    ],
)
def test_what_a_trainer_writes_beside_the_weights_is_none(tmp_path, name):
    for weights in ("model.pt", "weights.safetensors"):
        folder = tmp_path / weights.partition(".")[0]
        folder.mkdir()
        write(folder, weights)
        write(folder, name, seed=5)
        assert loss_at(folder) == pytest.approx(truth(model()), rel=1e-6)


def test_weights_in_two_formats_are_one_where_they_are_the_same(tmp_path):
    write(tmp_path, "model.safetensors", "pytorch_model.bin")
    assert loss_at(tmp_path) == pytest.approx(truth(model()), rel=1e-6)
    write(tmp_path, "pytorch_model.bin", seed=5)
    with pytest.raises(errors.CheckpointError, match="several checkpoints: model.safetensors, pytorch_model.bin"):
        loss_at(tmp_path)


# ---------------------------------------------------------------------- what is allowed, and names


def test_a_type_that_is_allowed_knowingly_is_read(tmp_path):
    torch.save({"model": model().state_dict(), "args": argparse.Namespace(lr=1)}, tmp_path / "a.pt")
    with pytest.raises(errors.UnsafeCheckpointError, match=r"add_safe_globals\(\[argparse.Namespace\]\)"):
        loss_at(tmp_path / "a.pt")
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert loss_at(tmp_path / "a.pt") == pytest.approx(truth(model()), rel=1e-6)


def test_commands_are_not_offered_to_be_allowed(tmp_path):
    class Command:
        def __reduce__(self):
            return os.system, ("true",)

    torch.save({"model": model().state_dict(), "x": Command()}, tmp_path / "a.pt")
    with pytest.raises(errors.UnsafeCheckpointError, match=r"system beside tensors.*Do not open it") as caught:
        checkpoints.load(tmp_path / "a.pt")
    assert "add_safe_globals" not in str(caught.value)


@pytest.mark.parametrize(
    "wrap", [lambda m: nn.DataParallel(m), torch.compile, lambda m: nn.Sequential(nn.Sequential(m))]
)
def test_a_wrapped_model_takes_the_weights_of_the_bare_one(tmp_path, wrap):
    path = checkpoints.save(model(), tmp_path / "bare.safetensors")
    wrapped = wrap(model(5))
    assert truth(checkpoints.load_into(wrapped, path)) == pytest.approx(truth(model()), rel=1e-6)
    torch.save(dict(wrapped.state_dict()), tmp_path / "wrapped.pt")
    assert loss_at(tmp_path / "wrapped.pt") == pytest.approx(truth(model()), rel=1e-6)


def test_a_layer_of_another_network_is_not_taken_for_the_model(tmp_path):
    torch.save(model().state_dict() | {"4.weight": torch.ones(9, 2)}, tmp_path / "a.pt")
    single = nn.Linear(3, 4)
    with pytest.raises(errors.CheckpointMismatchError, match="fits what is called 0 in .*::0"):
        checkpoints.load_into(single, tmp_path / "a.pt")
    checkpoints.load_into(single, f"{tmp_path / 'a.pt'}::0")  # where it is meant
    assert torch.equal(single.weight, model()[0].weight)


def test_two_tensors_are_not_made_one(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x))

    torch.save({"a.weight": torch.ones(3, 3), "b.weight": torch.zeros(3, 3)}, tmp_path / "apart.pt")
    with pytest.raises(
        errors.CheckpointMismatchError, match=r'"a.weight" and "b.weight" are one tensor in Tied and two'
    ):
        checkpoints.load_into(Tied(), tmp_path / "apart.pt")
    torch.save({"module.b.weight": torch.eye(3)}, tmp_path / "second.pt")
    assert torch.equal(checkpoints.load_into(Tied(), tmp_path / "second.pt").a.weight, torch.eye(3))


def test_a_model_that_does_not_take_the_extra_state_is_left_as_it_was(tmp_path):
    class Particular(nn.Linear):
        kind = "mine"

        def get_extra_state(self):
            return {"kind": self.kind}

        def set_extra_state(self, state):
            if state["kind"] not in ("mine", "ours"):
                raise ValueError("not mine")
            self.kind = state["kind"]

    for kind, words in (("theirs", "ValueError: not mine"), ("ours", None)):
        torch.save(Particular(3, 2).state_dict() | {"_extra_state": {"kind": kind}}, tmp_path / "a.pt")
        fresh = Particular(3, 2)
        before = fresh.weight.detach().clone()
        if words:
            with pytest.raises(errors.CheckpointMismatchError, match=words):
                checkpoints.load_into(fresh, tmp_path / "a.pt")
            assert torch.equal(fresh.weight, before)
        else:
            assert checkpoints.load_into(fresh, tmp_path / "a.pt").kind == "ours"
        with pytest.raises(errors.CheckpointMismatchError, match="_extra_state"):
            objective(Particular(3, 2)).at(tmp_path / "a.pt")


def test_two_files_with_other_prefixes_make_a_line(tmp_path):
    torch.save({"state_dict": {f"module.{n}": t for n, t in model(1).state_dict().items()}}, tmp_path / "a.pt")
    torch.save({f"_orig_mod.{n}": t for n, t in model(2).state_dict().items()}, tmp_path / "b.pt")
    a, b = tmp_path / "a.pt", tmp_path / "b.pt"
    surface = ln.evaluate(objective(), ln.Line(a, ln.directions.between(a, b)), ln.Grid(alpha=(0, 1, 3)))
    assert surface["loss"].values[[0, -1]] == pytest.approx([truth(model(1)), truth(model(2))], rel=1e-6)


def test_without_a_model_the_usual_name_is_taken_or_all_are_listed(tmp_path):
    state = model().state_dict()
    torch.save({"ema": model(1).state_dict(), "model": state, "step": torch.tensor(3)}, tmp_path / "a.pt")
    assert torch.equal(checkpoints.load(tmp_path / "a.pt")["0.weight"], state["0.weight"])
    assert torch.equal(checkpoints.load(f"{tmp_path / 'a.pt'}::ema")["0.weight"], model(1)[0].weight)
    with pytest.raises(errors.CheckpointError, match=r"nothing called 'emma', but .*model.*::"):
        checkpoints.load(f"{tmp_path / 'a.pt'}::emma")
    torch.save({"G": state, "D": state}, tmp_path / "b.pt")
    with pytest.raises(errors.CheckpointError, match=r"holds several state dicts: G, D. Say which one.*b.pt::G"):
        checkpoints.load(tmp_path / "b.pt")
    assert loss_at(tmp_path / "b.pt") == pytest.approx(truth(model()), rel=1e-6)  # they are the same


def test_an_average_is_not_taken_because_the_weights_do_not_fit(tmp_path):
    trained = model(1).state_dict()
    torch.save({"model": trained | {"extra": torch.ones(1)}, "ema": model(2).state_dict()}, tmp_path / "a.pt")
    with pytest.raises(errors.CheckpointMismatchError, match=r'"model.extra" \(1,\).*::ema'):
        loss_at(tmp_path / "a.pt")
    assert loss_at(f"{tmp_path / 'a.pt'}::ema") == pytest.approx(truth(model(2)), rel=1e-6)


def test_what_was_read_is_recorded(tmp_path):
    norm = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    state = {name: tensor for name, tensor in norm.state_dict().items() if "num_batches" not in name}
    torch.save({"ema": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "a.pt")
    there = ln.Objective(norm, F.cross_entropy, data()).at(tmp_path / "a.pt")
    said = {"file": str(tmp_path / "a.pt"), "place": "ema.module", "kept": ["1.num_batches_tracked"]}
    assert there.describe()["weights"] == said
    assert there.at(norm.state_dict()).describe()["weights"] is None


def test_names_that_are_none(tmp_path):
    torch.save({".".join("a" * 5000): torch.ones(1)}, tmp_path / "long.pt")
    with pytest.raises(errors.CheckpointError, match="5,000 words, too many"):
        loss_at(tmp_path / "long.pt")
    torch.save({"0.weight": torch.ones(1), "0": {"weight": torch.ones(1)}}, tmp_path / "twice.pt")
    with pytest.raises(errors.CheckpointError, match='two tensors called "0.weight"'):
        loss_at(tmp_path / "twice.pt")


@pytest.mark.parametrize("url", ["https://host/a.pt", "s3://bucket/a.pt"])
def test_a_url_is_said_to_be_one(url):
    for place in (url, pathlib.Path(url)):
        with pytest.raises(errors.CheckpointError, match="is a URL.*Download it first"):
            checkpoints.load(place)


def test_a_colon_in_a_name_is_a_name(tmp_path):
    path = checkpoints.save(model(), tmp_path / "a::b.safetensors")
    assert loss_at(path) == pytest.approx(truth(model()), rel=1e-6)


def test_names_of_a_large_model_are_found_at_once():
    state = {f"blocks.{i}.{j}.{k}.weight": torch.zeros(1) for i in range(40) for j in range(10) for k in range(5)}
    wrapped = {f"a.b.{name}": tensor for name, tensor in state.items()}
    visits = []
    aligned = matching._aligned

    def counting(*arguments):
        visits.append(1)
        return aligned(*arguments)

    matching._aligned = counting
    try:
        assert weights_module.fit(wrapped, state).keys() == state.keys()
    finally:
        matching._aligned = aligned
    levels = sum(1 for _ in matching.tree_of(wrapped).walk())
    assert len(visits) < 3 * levels


# ---------------------------------------------------------------------- what is no weight of the model


def with_frozen_body():
    network = model(5)
    network[0].requires_grad_(False)
    return network


def test_a_part_of_what_is_frozen_may_not_be_missing_all_of_it_may():
    whole = model(1).state_dict()
    for lacking in ("0.weight", "0.bias"):
        part = {name: tensor for name, tensor in whole.items() if name != lacking}
        with pytest.raises(errors.CheckpointMismatchError, match=f'"{lacking}" .* is missing'):
            objective(with_frozen_body()).at(part)
    head = {name: tensor for name, tensor in whole.items() if name.startswith("2.")}
    mixed = model(5)
    mixed.load_state_dict(head, strict=False)
    there = objective(with_frozen_body()).at(head)
    assert there.evaluate(there.params)["loss"] == pytest.approx(truth(mixed), rel=1e-6)


def momentum(network):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    F.cross_entropy(network(data()[0]), data()[1]).backward()
    optimizer.step()
    names = dict(enumerate(name for name, _ in network.named_parameters()))
    return {names[i]: state for i, state in optimizer.state_dict()["state"].items()}


def test_the_state_of_an_optimiser_is_no_weight_wherever_it_lies(tmp_path):
    network = model(1)
    moving = momentum(network)
    for content in ({"state": moving}, {"optim": {"state": moving}}, moving):
        torch.save(content, tmp_path / "optim.pt")
        with pytest.raises(errors.CheckpointError):
            loss_at(tmp_path / "optim.pt")
    torch.save({"generator": network.state_dict(), "optimizer": {"state": moving}}, tmp_path / "both.pt")
    assert loss_at(tmp_path / "both.pt") == pytest.approx(truth(network), rel=1e-6)
    dcp.save(
        {"generator": network.state_dict(), "optimizer": {"state": moving}},
        checkpoint_id=tmp_path / "dcp",
        no_dist=True,
    )
    assert loss_at(tmp_path / "dcp") == pytest.approx(truth(network), rel=1e-6)


def test_what_a_weight_is_made_of_is_no_weight():
    made = model(1)
    torch.nn.utils.parametrizations.orthogonal(made[0], orthogonal_map="matrix_exp", use_trivialization=False)
    with pytest.raises(errors.CheckpointMismatchError):
        objective().at(made.state_dict())
    with pytest.raises(errors.CheckpointMismatchError):
        objective(made).at(model(2).state_dict())


def test_a_bias_is_no_weight():
    class Scale(nn.Module):
        def __init__(self, name):
            super().__init__()
            setattr(self, name, nn.Parameter(torch.tensor([2.0, 3.0])))

        def forward(self, x):
            return x * next(self.parameters())

    file = nn.Sequential(nn.Linear(3, 2), Scale("bias")).state_dict()
    with pytest.raises(errors.CheckpointMismatchError, match="weight"):
        objective(nn.Sequential(nn.Linear(3, 2), Scale("weight")).eval()).at(file)


@pytest.mark.parametrize("given", [None, 3, ["a.pt"]])
def test_what_is_no_checkpoint_at_all(given):
    with pytest.raises(errors.CheckpointError, match=r"objective.at\('weights.pt'\)"):
        objective().at(given)


# ---------------------------------------------------------------------- parts that lie elsewhere


def apart(name):
    """Files whose frozen part lies elsewhere than beside the rest."""
    body = {n.removeprefix("0."): t for n, t in with_frozen_body().state_dict().items() if n.startswith("0.")}
    rest = {n: t for n, t in with_frozen_body().state_dict().items() if not n.startswith("0.")}
    return {
        "by another name": {**rest, "encoder": body},
        "beside the dict of the rest": {"state_dict": rest, "0": body},
        "in a list": [rest, {f"body.{n}": t for n, t in body.items()}],
        "deeper": {"model": rest, "parts": {"encoder": {"weights": body}}},
    }[name]


@pytest.mark.parametrize("name", ["by another name", "beside the dict of the rest", "in a list", "deeper"])
def test_a_part_of_the_model_that_lies_elsewhere_is_not_dropped(tmp_path, name):
    torch.save(apart(name), tmp_path / "a.pt")
    with pytest.raises(errors.CheckpointMismatchError, match=r'"0\.\w+".*elsewhere in it may be that') as caught:
        objective(with_frozen_body()).at(tmp_path / "a.pt")
    if found := re.search(r"pass (\S+)$", str(caught.value)):
        there = objective(with_frozen_body()).at(found[1])  # what trained alone, as it was said
        assert "0.weight" in there.describe()["weights"]["kept"]


def test_a_head_in_a_flat_dict_is_not_taken_from_beside_a_larger_nested_part(tmp_path):
    head, body = nn.Linear(4, 2), nn.Linear(9, 9).state_dict()
    torch.save({f"head.{n}": t for n, t in head.state_dict().items()} | {"encoder": body}, tmp_path / "a.pt")
    with pytest.raises(errors.CheckpointMismatchError, match='most of that lies beside it \\("encoder.weight".*::head'):
        checkpoints.load_into(nn.Linear(4, 2), tmp_path / "a.pt")
    assert torch.equal(checkpoints.load_into(nn.Linear(4, 2), f"{tmp_path / 'a.pt'}::head").weight, head.weight)


# ---------------------------------------------------------------------- tensors without plain values


def quantised(tensor):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(tensor, 0.01, 0, torch.qint8)


PECULIAR = {
    "sparse": (lambda t: t.to_sparse(), "is sparse.*to_dense"),
    "sparse rows": (lambda t: t.to_sparse_csr(), "is sparse.*to_dense"),
    "quantised": (quantised, "is quantised"),
    "meta": (lambda t: t.to("meta"), "has no values .*meta device"),
    "nested": (lambda t: torch.nested.nested_tensor(list(t)), "is a nested tensor"),
    "complex": (lambda t: t.to(torch.complex64), "complex64"),
    "packed": (lambda t: torch.zeros(t.shape, dtype=torch.float4_e2m1fn_x2), "is packed"),
    "int": (lambda t: t.long(), "int64"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", PECULIAR)
def test_a_tensor_without_plain_values_is_refused_in_words(tmp_path, name):
    change, words = PECULIAR[name]
    state = model().state_dict()
    peculiar = change(state["0.weight"])
    torch.save({**state, "0.weight": peculiar}, tmp_path / "a.pt")
    torch.save({"model": state, "graph": peculiar}, tmp_path / "beside.pt")
    fresh = model(5)
    before = truth(fresh)
    for call in (
        lambda: loss_at(tmp_path / "a.pt"),
        lambda: checkpoints.load_into(fresh, tmp_path / "a.pt"),
        lambda: ln.directions.between(objective(), tmp_path / "a.pt"),
        lambda: objective().at({**state, "0.weight": peculiar}),
    ):
        with pytest.raises(errors.CheckpointMismatchError, match=f'"0.weight" .*{words}'):
            call()
    assert truth(fresh) == before
    assert loss_at(tmp_path / "beside.pt") == pytest.approx(truth(model()), rel=1e-6)


@pytest.mark.parametrize("change", [torch._neg_view, lambda t: t.t().contiguous().t(), lambda t: nn.Parameter(t)])
def test_views_of_weights_are_weights(tmp_path, change):
    state = {n: change(t) if t.is_floating_point() and t.dim() == 2 else t for n, t in model().state_dict().items()}
    torch.save(state, tmp_path / "a.pt")
    plain = model(3)
    plain.load_state_dict(torch.load(tmp_path / "a.pt"))
    start = objective()
    line = ln.Line(start, ln.directions.between(start, tmp_path / "a.pt"))
    assert loss_at(tmp_path / "a.pt") == pytest.approx(truth(plain), rel=1e-6)
    assert start.evaluate(line([1.0]))["loss"] == pytest.approx(truth(plain), rel=1e-6)
