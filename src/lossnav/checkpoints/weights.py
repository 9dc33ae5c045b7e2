"""Saving weights, reading them as untrusted data, and assigning them to a model."""

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

COUNTER = "num_batches_tracked"  # buffers of normalisation layers, used only in training without momentum


def save(
    model: nn.Module | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write weights and buffers to a safetensors file, completely or not at all.

    A path that ends in ``.pt`` or ``.pth`` gets a file of torch.save, which has no metadata.

    Parameters
    ----------
    model : nn.Module or state dict
        Weights that share memory (tied ones) are written once.
    path : path
    overwrite : bool
    metadata : mapping, optional
        Written to the file's header as strings.

    Raises
    ------
    OutputExistsError, OutputNotWritableError
    CheckpointError
        If a value is not a tensor.
    StoreError
        If writing fails.
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
    """Write as `save` does, without its checks; `durable` as in `paths.replacing`."""
    state = model.state_dict() if isinstance(model, nn.Module) else dict(model)
    unique: State = {}
    seen: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):  # the extra state of a module, which safetensors cannot hold
            raise CheckpointError(f'"{name}" is a {type(tensor).__name__}, not a tensor. Save only the tensors.')
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))
        if tensor.numel() and key in seen:
            continue
        seen[key] = name
        unique[name] = tensor.detach().to("cpu", copy=True).contiguous()
    with replacing(target, durable=durable) as new:
        if target.suffix in (".pt", ".pth"):
            torch.save(unique, new)
            return
        try:
            save_file(unique, new, metadata={key: str(value) for key, value in (metadata or {}).items()})
        except SafetensorError as error:  # it contains the error of the system as text: "... (os error 28)"
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error)) from error


def load(path: str | os.PathLike[str]) -> State:
    """Read a state dict from a file or folder without running any code in it.

    A dict that has the weights under a usual name (``state_dict``, ``model``, ...) is unwrapped. ``file.pt::ema`` is
    the state dict ``ema`` in it, and ``file.pt::state_dict.model`` one further down. Prefixes of wrappers (``module.``)
    are kept, since there is no model to match.

    Parameters
    ----------
    path : path
        A format of docs/checkpoints.md: ``.safetensors``, files that ``torch.load(weights_only=True)`` reads, shards
        (their folder or index), the folder of a distributed checkpoint or of a PEFT adapter.

    Returns
    -------
    dict of str to Tensor
        On the CPU. Includes the extra state of modules (``_extra_state``), if there is any.

    Raises
    ------
    UnsafeCheckpointError
        If the file is a pickle that contains more than tensors. Nothing in it was executed.
    CheckpointError
        If the file is missing, damaged, one of several shards, or contains no weights or several state dicts.
    """
    found = stored(path)
    if found.part and "index" in found.part:
        raise CheckpointError(found.part)
    return without_model(tree_of(found), found.source).state()


def stored(path: str | os.PathLike[str]) -> Stored:
    """Read a file or folder as it was saved; for ``file.pt::ema`` the part ``ema`` of it.

    Raises
    ------
    UnsafeCheckpointError, CheckpointError
        As `load` does.
    """
    text, name = os.fspath(path), ""
    if "://" in text or text.startswith(("http:/", "https:/", "s3:/", "gs:/", "hf:/")):  # a Path removes one slash
        raise CheckpointError(
            f"{text} is a URL, but weights are read from files. Download it first: "
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
    """Return the second names of tensors in a model's state dict, each with the first name, or ""."""
    firsts = dict(model.named_parameters()) | dict(model.named_buffers())
    names = {id(tensor): name for name, tensor in firsts.items()}
    every = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    return {name: names.get(id(every.get(name)), "") for name in model.state_dict() if name not in firsts}


@dataclass(frozen=True, eq=False)
class Anatomy:
    """The role of each tensor of a model.

    Attributes
    ----------
    name : str
        Name of the model.
    params : dict of str to Tensor
        Parameters that move.
    held : dict of str to Tensor
        Other parameters.
    buffers : dict of str to Tensor
    optional : frozenset of str
        Buffers that a checkpoint may lack: those that are never saved (``persistent=False``), and those that do not
        affect results (``num_batches_tracked``).
    aliases : mapping of str to str
        Second names, as in `aliases_of`.
    extra : mapping of str to object
        Extra state of modules (``get_extra_state``), which no chart moves.
    adapters : mapping of str to mapping
        Configurations of its PEFT adapters, by their names.
    free : bool
        Whether the moving parameters were chosen by the default rule (`moving`), so that held ones may move too.
    also : frozenset of str
        Parameters that move only because checkpoints differ in them.
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
        """Return the same model with some held parameters moving too."""
        more = [name for name, tensor in self.held.items() if name in names and tensor.is_floating_point()]
        params = self.params | {name: self.held[name] for name in more}
        held = {name: tensor for name, tensor in self.held.items() if name not in params}
        return replace(self, params=params, held=held, also=self.also | set(more))

    def other_extra(self, extra: Mapping[str, Any]) -> str | None:
        """Return the name of an extra state that differs from the model's; None if all are equal."""
        names = (name for name, value in extra.items() if name in self.extra and not _equal(value, self.extra[name]))
        return next(names, None)

    def match(self, state: Mapping[str, Any]) -> Match:
        """Find the tensors of the model in a state dict, or in dicts of them.

        Raises
        ------
        CheckpointMismatchError
            If a tensor is missing, has another shape, or a name is left over. Held parameters may be missing, if all
            of them are (a file of the trained weights only).
        """
        if isinstance(state, Stored) and state.adapter is not None and self.adapters:
            return match_adapter(state, self.params, self.held, self.adapters, self.name)
        found = match(state, self.params, self.held | self.buffers, self.aliases, self.name)
        held = [name for name in self.held if name not in self.aliases]
        there = [name for name in held if name in found.tensors]
        if there and len(there) < len(held):
            match(state, self.params | self.held, self.buffers, self.aliases, self.name)  # reports what is missing
        return found

    def sort(self, state: Mapping[str, Any]) -> tuple[State, State, State]:
        """Split the tensors of a state dict into moving parameters, held parameters and buffers.

        They get the dtypes and the device of the model. All moving parameters are required.

        Raises
        ------
        CheckpointMismatchError
            As `match` does.
        """
        return self.split(self.match(state).tensors)

    def split(self, found: Mapping[str, Tensor]) -> tuple[State, State, State]:
        """Split the tensors of the model in the same way."""
        params, held, buffers = (
            {n: found[n].detach().to(t.device, t.dtype) for n, t in part.items() if n in found}
            for part in (self.params, self.held, self.buffers)
        )
        return params, held, buffers

    def missing(self, buffers: Collection[str]) -> list[str]:
        """Return the names of required buffers that are missing."""
        return [name for name in self.buffers if name not in self.optional and name not in buffers]


def anatomy_of(model: nn.Module) -> Anatomy:
    """Return the roles of a model's tensors; trained parameters move (see `moving`)."""
    trained = trainable(dict(model.named_parameters()))
    parameters = algebra.detach(dict(model.named_parameters()))
    params = {name: tensor for name, tensor in parameters.items() if name in trained and tensor.is_floating_point()}
    held = {name: tensor for name, tensor in parameters.items() if name not in params}
    buffers = algebra.detach(dict(model.named_buffers()))
    optional, aliases, extra = optional_buffers(model), aliases_of(model), extra_of(model.state_dict())
    return Anatomy(type(model).__name__, params, held, buffers, optional, aliases, extra, adapters_of(model), True)


def extra_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the extra states in a state dict."""
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
    """Return the names of buffers that a checkpoint may lack; see `Anatomy`."""
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
        What to do if the file lacks buffers of the model; see `Objective.at`.

    Raises
    ------
    UnsafeCheckpointError, CheckpointError, CheckpointMismatchError
        The model is unchanged in each case.
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
            f"{type(model).__name__} does not accept the extra state in {path}: {type(error).__name__}: {error}. Build "
            "the model from which it was saved."
        ) from error
    mine = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in found.tensors.items():
            mine[name].copy_(tensor)
    return model


def require_complete(lacking: Sequence[str], missing: Missing, source: str, model: str) -> None:
    """Raise if a checkpoint lacks buffers of the model, or warn that the model's own are used.

    Raises
    ------
    CheckpointMismatchError
        If they are required.
    OptionError
        If the option is unknown.
    """
    if missing not in MISSING:
        raise OptionError(f"missing must be 'refuse' or 'keep', got {missing!r}. The default is 'refuse'.")
    if not lacking:
        return
    names = ", ".join(f'"{name}"' for name in lacking)
    if missing == "refuse":
        raise CheckpointMismatchError(
            f"{source} lacks the buffers {names} of {model}, and buffers of other weights would make another network. "
            'Save model.state_dict(), which has them; or pass missing="keep" (on the command line '
            "--missing-buffers keep) to use those of the model."
        )
    warnings.warn(
        f"{source} lacks the buffers {names} of {model}; those of the model are used. They may not belong to "
        "these weights.",
        LossnavWarning,
        stacklevel=3,
    )
