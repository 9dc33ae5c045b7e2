"""A pickle with other things in it than tensors is refused, and what the message says to type works."""

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import os
import pathlib
import pickle
import re
import types
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lossnav as ln
from lossnav import checkpoints, errors


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass
class Options:
    rate: float = 0.1


@dataclasses.dataclass(slots=True)
class Slots:
    rate: float = 0.1


class Registry(dict):
    """A dict of one's own."""


class State(collections.OrderedDict):
    """A state dict of one's own."""


Point = collections.namedtuple("Point", "x y")


def network(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def data():
    torch.manual_seed(0)
    return torch.randn(9, 3), torch.arange(9) % 2


def truth(model):
    x, y = data()
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


def loss_at(path):
    objective = ln.Objective(network(2), F.cross_entropy, data())
    there = objective.at(path)
    return there.evaluate(there.params)["loss"]


OBJECTS = {
    "np.float64": lambda: np.float64(0.5),
    "np.int32": lambda: np.int32(3),
    "np.bool": lambda: np.bool_(True),
    "np.str": lambda: np.str_("word"),
    "np.ndarray": lambda: np.arange(6.0).reshape(2, 3),
    "np.ndarray of words": lambda: np.array(["a", "bc"]),
    "np.ndarray of objects": lambda: np.array([1, "a"], dtype=object),
    "np.ndarray with fields": lambda: np.zeros(2, dtype=[("a", "f4"), ("b", "i8")]),
    "np.ndarray of dates": lambda: np.array(["2020-01-01"], dtype="datetime64[D]"),
    "np.dtype": lambda: np.dtype("float32"),
    "np.random": lambda: np.random.default_rng(0),
    "deque": lambda: collections.deque([1, 2], maxlen=3),
    "empty deque": lambda: collections.deque(),
    "defaultdict": lambda: collections.defaultdict(list, a=[1]),
    "defaultdict of floats": lambda: collections.defaultdict(float, a=1.0),
    "Counter": lambda: collections.Counter("abc"),
    "OrderedDict": lambda: collections.OrderedDict(a=1),
    "Namespace": lambda: argparse.Namespace(lr=0.1, path=pathlib.Path("a")),
    "Namespace with numbers": lambda: argparse.Namespace(lr=np.float32(0.1)),
    "SimpleNamespace": lambda: types.SimpleNamespace(a=1),
    "Path": lambda: pathlib.Path("a/b"),
    "datetime": lambda: datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
    "timedelta": lambda: datetime.timedelta(seconds=3),
    "Enum": lambda: Colour.RED,
    "dataclass": Options,
    "dataclass with slots": Slots,
    "namedtuple": lambda: Point(1, 2),
    "dict of one's own": lambda: Registry(a=1),
    "torch.Size": lambda: torch.Size([2, 3]),
    "torch.device": lambda: torch.device("cpu"),
    "dtype of torch": lambda: torch.bfloat16,
    "partial": lambda: functools.partial(F.relu, inplace=False),
    "function": lambda: F.relu,
    "class": lambda: nn.Linear,
    "module": lambda: nn.Linear(1, 1),
    "set": lambda: {1, 2},
    "frozenset": lambda: frozenset({1}),
    "range": lambda: range(3),
    "slice": lambda: slice(1, 2),
    "complex": lambda: 1j,
    "bytes": lambda: b"abc",
    "bytearray": lambda: bytearray(b"abc"),
    "large int": lambda: 10**40,
    "Decimal": lambda: decimal.Decimal("0.1"),
    "Generator": lambda: torch.Generator().get_state(),
    "scheduler": lambda: torch.optim.lr_scheduler.StepLR(torch.optim.SGD([torch.ones(1)], lr=0.1), 3),
}


@pytest.fixture(autouse=True)
def no_type_is_allowed():
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()


def typed(message, path, part=None):
    """Do each thing that a message says, in the folder of the file; returns the losses of what can be loaded then."""
    losses = []

    def loss(source):
        if part is None:
            return loss_at(source)
        return loss_at(source[part] if isinstance(source, dict) else f"{source}::{part}")

    if allow := re.search(r"allow its types: (.*?\]\))[;.]", message):
        exec(allow[1], {})
        losses.append(loss(path))
        torch.serialization.clear_safe_globals()
    if save := re.search(r"((?:import pickle; )?torch\.save\(.*, 'weights\.pt'\))\.$", message):
        exec(save[1], {"torch": torch})
        losses.append(loss("weights.pt"))
    if read := re.search(r"objective\.at\((.*)\)\.$", message):
        losses.append(loss(eval(read[1], {"torch": torch})))
    return losses


def wrapped(state, thing):
    """Where a thing may lie beside weights."""
    return {
        "beside": {"model": state, "thing": thing, "optimizer": {"state": {}, "param_groups": []}},
        "in a list": {"epoch": 3, "state_dict": state, "history": [{"thing": thing}]},
        "among them": {**state, "thing": thing},
        "twice": {"ema": state, "things": (thing, thing), "student": {**state}},
    }


@pytest.mark.parametrize("where", ["beside", "in a list", "among them", "twice"])
@pytest.mark.parametrize("name", OBJECTS)
def test_what_a_message_says_to_type_works(name, where, tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    content = wrapped(network().state_dict(), OBJECTS[name]())[where]
    torch.save(content, path)
    part = "ema" if where == "twice" else None  # of two that fit
    try:
        assert loss_at(f"{path}::{part}" if part else path) == pytest.approx(truth(network()), rel=1e-6)
        return  # torch knows what it is
    except errors.CheckpointMismatchError:
        assert name == "Generator" and where in ("among them", "twice")  # a tensor more
        return
    except errors.UnsafeCheckpointError as error:
        message = str(error)
    assert "nothing was executed" in message
    if "Do not open it" in message:
        pytest.fail(message)
    monkeypatch.chdir(tmp_path)
    losses = typed(message, path, part)
    assert losses, message
    assert losses == pytest.approx([truth(network())] * len(losses), rel=1e-6), message


def rewritten(path, change):
    """Change the pickle in a file that torch.save wrote."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, change(part) if name.endswith("data.pkl") else part)


@pytest.mark.parametrize(
    ("thing", "old", "new"),
    [
        (pathlib.Path("a"), b"cpathlib\nPosixPath", b"cpathlib\nWindowsPath"),
        (np.float64(1.0), b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"),
        (np.ones(3), b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"),
    ],
)
def test_files_of_another_system_or_numpy(thing, old, new, tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    torch.save({"model": network().state_dict(), "thing": thing}, path)
    rewritten(path, lambda program: program.replace(old, new))
    with pytest.raises(errors.UnsafeCheckpointError) as caught:
        loss_at(path)
    assert new[1:].replace(b"\n", b".").decode() in str(caught.value)
    (allow,) = re.findall(r"allow its types: (.*?\]\));", str(caught.value))
    exec(allow, {})
    assert loss_at(path) == pytest.approx(truth(network()), rel=1e-6)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("thing", [None, "Namespace", "np.float64", "dataclass"])
def test_what_pickle_alone_wrote(protocol, thing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("raw.pkl", "raw.pt", "raw"):
        state = network().state_dict()
        content = state if thing is None else {"model": state, "thing": OBJECTS[thing]()}
        pathlib.Path(name).write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(errors.UnsafeCheckpointError, match="nothing was executed") as caught:
            loss_at(name)
        assert typed(str(caught.value), name) == pytest.approx([truth(network())], rel=1e-6), str(caught.value)


@pytest.mark.parametrize(
    "write", [torch.save, lambda content, path: pathlib.Path(path).write_bytes(pickle.dumps(content))]
)
@pytest.mark.parametrize("where", ["alone", "under model", "beside a word", "under a name of its own"])
def test_arrays_by_names(where, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = {name: tensor.numpy() for name, tensor in network().state_dict().items()}
    write(
        {
            "alone": arrays,
            "under model": {"model": arrays, "epoch": 3},
            "beside a word": {**arrays, "word": "a"},
            "under a name of its own": {"epoch": 1, "w": arrays},
        }[where],
        "a.pt",
    )
    with pytest.raises(errors.UnsafeCheckpointError, match="make tensors of its arrays") as caught:
        loss_at("a.pt")
    assert typed(str(caught.value), "a.pt") == pytest.approx([truth(network())], rel=1e-6), str(caught.value)


@pytest.mark.parametrize("content", [b"I1\n.", b"words of a readme", b"(lp0\n.", b"\x80\x04N."])
def test_other_files_are_no_pickled_weights(content, tmp_path):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(errors.CheckpointError) as caught:
        loss_at(tmp_path / "a.pkl")
    assert "save its weights once" not in str(caught.value)


@pytest.mark.parametrize("options", [{"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}])
def test_other_formats_of_torch(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for thing in (None, argparse.Namespace(a=np.float32(1)), collections.deque([1]), Options()):
        torch.save({"model": network().state_dict(), "thing": thing}, "a.pt", **options)
        try:
            assert loss_at("a.pt") == pytest.approx(truth(network()), rel=1e-6)
            continue
        except errors.UnsafeCheckpointError as error:
            losses = typed(str(error), "a.pt")
        assert losses == pytest.approx([truth(network())] * len(losses), rel=1e-6)
        assert losses


def test_a_model_that_was_pickled_among_other_things(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (network(), {"epoch": 3, "model": network(), "mean": torch.ones(3)}, {"best": network()}):
        torch.save(content, "a.pt")
        with pytest.raises(errors.UnsafeCheckpointError, match="a whole model that was pickled") as caught:
            loss_at("a.pt")
        assert typed(str(caught.value), "a.pt") == pytest.approx([truth(network())], rel=1e-6)


def test_weights_in_a_dict_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in (Registry, State):
        for content in (kind(network().state_dict()), {"model": kind(network().state_dict())}):
            torch.save(content, "a.pt")
            with pytest.raises(errors.UnsafeCheckpointError, match=kind.__name__) as caught:
                loss_at("a.pt")
            assert typed(str(caught.value), "a.pt") == pytest.approx([truth(network())], rel=1e-6)


def test_a_file_of_several_state_dicts_keeps_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = {"student": network().state_dict(), "teacher": network(3).state_dict(), "options": Options()}
    torch.save(both, "a.pt")
    with pytest.raises(errors.UnsafeCheckpointError) as caught:
        loss_at("a.pt")
    assert typed(str(caught.value), "a.pt", "teacher") == pytest.approx([truth(network(3))], rel=1e-6)


class Command:
    def __reduce__(self):
        return os.system, ("touch run",)


class Evaluated:
    def __reduce__(self):
        return eval, ("1",)


@pytest.mark.parametrize("options", [{}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize("thing", [Command, Evaluated])
def test_what_runs_is_not_offered_to_be_run(thing, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": network().state_dict(), "thing": thing()}, "a.pt", **options)
    with pytest.raises(errors.UnsafeCheckpointError, match="Do not open it unless you know who made it") as caught:
        loss_at("a.pt")
    assert "weights_only=False" not in str(caught.value) and "add_safe_globals" not in str(caught.value)
    assert not pathlib.Path("run").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02.",
        b"\x80\x02" + b"(" * 1000,
        b"\x80\x02]" + b"]" * 100_000 + b"a" * 100_000 + b".",
        b"\x80\xff",
        b"\x80",
    ],
)
def test_pickles_that_are_none(program, tmp_path):
    (tmp_path / "a.pt").write_bytes(program)
    with pytest.raises(errors.CheckpointError):
        loss_at(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello world", r"is a text file \('hello world' …\), not a checkpoint"),
        ("Grüße, ".encode() * 30, r"is a text file"),
        (b'{"lr": 0.1}', r"is a text file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 90, r"starts with b'\\x89PNG', not a checkpoint"),
        (b"\0" * 200, r"not a checkpoint"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_checkpoint_is_not_called_damaged(content, words, tmp_path):
    for name in ("a.pt", "a.bin", "a"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(errors.CheckpointError, match=words) as caught:
            checkpoints.load(tmp_path / name)
        assert "damaged" not in str(caught.value)
