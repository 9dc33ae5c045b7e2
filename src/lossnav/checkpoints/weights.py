"""Weights on disk, treated as untrusted: what a file or folder holds, and which tensor of a model is which in it."""

from __future__ import annotations

import copy
import os
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from lossnav import params as algebra
from lossnav._utils.moving import trainable
from lossnav._utils.paths import replacing, require_writable
from lossnav.checkpoints.adapters import adapters_of as adapters_of
from lossnav.checkpoints.adapters import match_adapter, tensors_of
from lossnav.checkpoints.files import PICK, Stored, read_file, weight_map
from lossnav.checkpoints.fitting import Match, match
from lossnav.checkpoints.fitting import State as State
from lossnav.checkpoints.fitting import fit as fit
from lossnav.checkpoints.folders import read_adapter, read_folder, read_index
from lossnav.checkpoints.matching import EXTRA, pick_words, state_dicts, tree_of, without_model
from lossnav.errors import CheckpointError, CheckpointMismatchError, LossnavWarning, OptionError

Missing = Literal["refuse", "keep"]
MISSING: tuple[Missing, ...] = ("refuse", "keep")

COUNTER = "num_batches_tracked"  # of normalisation layers; used only in training, and there without a momentum


def save(
    model: nn.Module | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write weights and buffers to a safetensors file, whole or not at all.

    Parameters
    ----------
    model : nn.Module or state dict
        Weights that share memory (tied ones) are written once.
    path : path
    overwrite : bool
    metadata : mapping, optional
        Written as strings into the file's header.

    Raises
    ------
    OutputExistsError, OutputNotWritableError
    CheckpointError
        If what is to be saved is not all tensors.
    StoreError
        If writing fails half-way.
    """
    target = require_writable(path, overwrite)
    write_state(model, target, metadata)
    return target


def write_state(
    model: nn.Module | Mapping[str, Tensor],
    target: Path,
    metadata: Mapping[str, Any] | None = None,
    durable: bool = True,
) -> None:
    """Write as `save` does, where it is known that it may be written; `durable` as `paths.replacing` has it."""
    state = model.state_dict() if isinstance(model, nn.Module) else dict(model)
    unique: State = {}
    seen: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):  # the extra state of a module, which safetensors cannot hold
            raise CheckpointError(
                f'"{name}" is a {type(tensor).__name__}, not a tensor. Save the others by themselves.'
            )
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() and key in seen:
            continue
        seen[key] = name
        unique[name] = tensor.detach().to("cpu", copy=True).contiguous()
    with replacing(target, durable=durable) as new:
        try:
            save_file(unique, new, metadata={key: str(value) for key, value in (metadata or {}).items()})
        except SafetensorError as error:  # which has what the system says as words: "... (os error 28)"
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error)) from error


def load(path: str | os.PathLike[str]) -> State:
    """Read a state dict from a file or folder without running any code in it.

    A dict that holds the weights under a usual name (``state_dict``, ``model``, ...) is unwrapped. ``file.pt::ema`` is
    the state dict called ``ema`` in it; a name may lead further down, ``file.pt::state_dict.model``. Prefixes that a
    wrapper left (``module.``) stay, as no model is there to tell.

    Parameters
    ----------
    path : path
        Anything that docs/checkpoints.md lists: ``.safetensors``, what ``torch.load(weights_only=True)`` reads, shards
        (their folder or index), the folder of a distributed checkpoint or of a PEFT adapter.

    Returns
    -------
    dict of str to Tensor
        On the CPU. Beside the tensors what modules say of themselves (``_extra_state``), where there is some.

    Raises
    ------
    UnsafeCheckpointError
        If the file is a pickle with more in it than tensors. Nothing of it was executed.
    CheckpointError
        If the file is missing, damaged, one of several shards, or holds no weights or several state dicts.
    """
    found = stored(path)
    if found.part and "index" in found.part:
        raise CheckpointError(found.part)
    return without_model(tree_of(found), found.source).state()


def stored(path: str | os.PathLike[str]) -> Stored:
    """Read what a file or folder holds, as it was saved; of ``file.pt::ema`` what is called ``ema`` in it.

    Raises
    ------
    UnsafeCheckpointError, CheckpointError
        As `load` does.
    """
    text, name = os.fspath(path), ""
    if "://" in text or text.startswith(("http:/", "https:/", "s3:/", "gs:/", "hf:/")):  # a Path has one slash less
        raise CheckpointError(
            f"{text} is a URL, and weights are read from files. Download it first: "
            'torch.hub.download_url_to_file(url, "weights.pt").'
        )
    source = Path(text).expanduser()
    if PICK in text and not source.exists():
        text, _, name = text.rpartition(PICK)
        source = Path(text).expanduser()
    if not source.exists():
        raise CheckpointError(f"There is no checkpoint {source}. Check the path, or make one with lossnav train.")
    found = _read(source)
    if not name:
        return found
    root = tree_of(found)
    node = root.find(name.split("."))
    if node is None or not node.leaves:
        names = [place.name for place in state_dicts(root)]
        raise CheckpointError(f"{source} holds nothing called {name!r}, but {pick_words(names, str(source))}")
    return Stored(node.state(), f"{source}{PICK}{name}", found.part, found.adapter)


def _read(source: Path) -> Stored:
    if source.is_dir():
        return read_folder(source)
    if (
        source.name in ("adapter_model.safetensors", "adapter_model.bin")
        and (source.parent / "adapter_config.json").is_file()
    ):
        return read_adapter(source.parent)
    if source.suffix == ".json" and (source.name.endswith(".index.json") or weight_map(source)):
        return read_index(source)
    if source.name == ".metadata" or source.suffix == ".distcp":
        raise CheckpointError(f"{source} is a part of a distributed checkpoint. Pass its folder: {source.parent}")
    return read_file(source)


def aliases_of(model: nn.Module) -> dict[str, str]:
    """Names in a model's state dict that are no first names, each with the first of its tensor, or ""."""
    firsts = dict(model.named_parameters()) | dict(model.named_buffers())
    names = {id(tensor): name for name, tensor in firsts.items()}
    every = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    return {name: names.get(id(every.get(name)), "") for name in model.state_dict() if name not in firsts}


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What each tensor of a model is, by its name.

    Attributes
    ----------
    name : str
        Of the model.
    params : dict of str to Tensor
        Parameters that move.
    held : dict of str to Tensor
        Other parameters.
    buffers : dict of str to Tensor
    optional : frozenset of str
        Buffers that a checkpoint may lack: those that are in no file (``persistent=False``), and those that no result
        hangs on (``num_batches_tracked``).
    aliases : mapping of str to str
        Second names, as of `aliases_of`.
    extra : mapping of str to object
        What modules have to say of themselves besides (``get_extra_state``), which no chart moves.
    adapters : mapping of str to mapping
        The configurations of its PEFT adapters, by their names.
    free : bool
        Whether what moves was left to the rule (`moving`), so that what is held may move as well.
    also : frozenset of str
        What moves only because checkpoints differ in it.
    """

    name: str
    params: State
    held: State
    buffers: State
    optional: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    adapters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    free: bool = False
    also: frozenset[str] = frozenset()

    def letting_move(self, names: Collection[str]) -> Anatomy:
        """Return the same model, some of whose held parameters move too."""
        more = [name for name, tensor in self.held.items() if name in names and tensor.is_floating_point()]
        params = self.params | {name: self.held[name] for name in more}
        held = {name: tensor for name, tensor in self.held.items() if name not in params}
        return replace(self, params=params, held=held, also=self.also | set(more))

    def other_extra(self, extra: Mapping[str, Any]) -> str | None:
        """The name of an extra state that is another than the model's; None where all are the same."""
        names = (name for name, value in extra.items() if name in self.extra and not _equal(value, self.extra[name]))
        return next(names, None)

    def match(self, state: Mapping[str, Any]) -> Match:
        """Find the tensors of the model in a state dict, or in dicts of them.

        Raises
        ------
        CheckpointMismatchError
            If a tensor is missing, has another shape, or a name is left over. All that is held may be missing (weights
            of what was trained alone), a part of it may not.
        """
        if isinstance(state, Stored) and state.adapter is not None and self.adapters:
            return match_adapter(state, self.params, self.held, self.adapters, self.name)
        found = match(state, self.params, self.held | self.buffers, self.aliases, self.name)
        held = [name for name in self.held if name not in self.aliases]
        there = [name for name in held if name in found.tensors]
        if there and len(there) < len(held):
            match(state, self.params | self.held, self.buffers, self.aliases, self.name)  # says what is missing
        return found

    def sort(self, state: Mapping[str, Any]) -> tuple[State, State, State]:
        """Tell the tensors of a state dict apart: parameters that move, others, buffers.

        They are brought to the dtypes of the model and where its weights are. A parameter that moves must be there.

        Raises
        ------
        CheckpointMismatchError
            As `match` does.
        """
        return self.split(self.match(state).tensors)

    def split(self, found: Mapping[str, Tensor]) -> tuple[State, State, State]:
        """Tell the tensors of the model apart, in its dtypes and where its weights are."""
        params, held, buffers = (
            {n: found[n].detach().to(t.device, t.dtype) for n, t in part.items() if n in found}
            for part in (self.params, self.held, self.buffers)
        )
        return params, held, buffers

    def missing(self, buffers: Collection[str]) -> list[str]:
        """Names of the buffers that are not there and may not be missing."""
        return [name for name in self.buffers if name not in self.optional and name not in buffers]


def anatomy_of(model: nn.Module) -> Anatomy:
    """Say what each tensor of a model is; what moves is what its user trains (see `moving`)."""
    trained = trainable(dict(model.named_parameters()))
    parameters = algebra.detach(dict(model.named_parameters()))
    params = {name: tensor for name, tensor in parameters.items() if name in trained and tensor.is_floating_point()}
    held = {name: tensor for name, tensor in parameters.items() if name not in params}
    buffers = algebra.detach(dict(model.named_buffers()))
    optional, aliases, extra = optional_buffers(model), aliases_of(model), extra_of(model.state_dict())
    return Anatomy(type(model).__name__, params, held, buffers, optional, aliases, extra, adapters_of(model), True)


def extra_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the extra state of modules out of a state dict."""
    return {name: copy.deepcopy(value) for name, value in state.items() if name.rpartition(".")[2] == EXTRA}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return algebra.same(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(value, b[name]) for name, value in a.items())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    same = a == b
    return same if isinstance(same, bool) else True  # nobody knows


def optional_buffers(model: nn.Module) -> frozenset[str]:
    """Names of the buffers of a model that a checkpoint may lack; see `Anatomy`."""
    saved = {*model.state_dict(), *aliases_of(model).values()}
    names = [name for name, _ in model.named_buffers()]
    return frozenset(name for name in names if name not in saved or name.endswith(COUNTER))


def load_into(model: nn.Module, path: str | os.PathLike[str], missing: Missing = "refuse") -> nn.Module:
    """Load a checkpoint into a model, in place, and return the model.

    Parameters
    ----------
    model : nn.Module
    path : path
    missing : "refuse" or "keep"
        What is done where the file lacks buffers of the model; see `Objective.at`.

    Raises
    ------
    UnsafeCheckpointError, CheckpointError, CheckpointMismatchError
        The model is untouched in each case.
    """
    anatomy, given = anatomy_of(model), stored(path)
    if given.adapter is not None and anatomy.adapters:
        anatomy = replace(anatomy, params=tensors_of(anatomy.adapters, anatomy.params))
        found, lacking = anatomy.match(given), list[str]()
    else:
        anatomy = replace(anatomy, params=anatomy.params | anatomy.held, held={})
        found = anatomy.match(given)
        lacking = anatomy.missing(found.tensors)
    require_complete(lacking, missing, f"The checkpoint {path}", type(model).__name__)
    modules = dict(model.named_modules())
    before = {name: modules[name.rpartition(".")[0]].get_extra_state() for name in found.extra}
    try:
        for name, value in found.extra.items():
            modules[name.rpartition(".")[0]].set_extra_state(value)
    except Exception as error:
        for name, value in before.items():
            modules[name.rpartition(".")[0]].set_extra_state(value)
        raise CheckpointMismatchError(
            f"{type(model).__name__} does not take the extra state in {path}: {type(error).__name__}: {error}. Build "
            "the model that it was saved from."
        ) from error
    mine = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in found.tensors.items():
            mine[name].copy_(tensor)
    return model


def require_complete(lacking: Sequence[str], missing: Missing, source: str, model: str) -> None:
    """Refuse a checkpoint that lacks buffers of the model, or warn that the model's own are kept.

    Raises
    ------
    CheckpointMismatchError
        If they may not be missing.
    OptionError
        If the option is unknown.
    """
    if missing not in MISSING:
        raise OptionError(f"missing={missing!r} is unknown. Use 'refuse' or 'keep'.")
    if not lacking:
        return
    names = ", ".join(f'"{name}"' for name in lacking)
    if missing == "refuse":
        raise CheckpointMismatchError(
            f"{source} lacks the buffers {names} of {model}. With those of other weights it would be another network. "
            'Save model.state_dict(), which has them; or pass missing="keep" (on the command line '
            "--missing-buffers keep) for the ones that the model has."
        )
    warnings.warn(
        f"{source} lacks the buffers {names} of {model}; those that the model has are kept. They may not belong to "
        "these weights.",
        LossnavWarning,
        stacklevel=3,
    )
