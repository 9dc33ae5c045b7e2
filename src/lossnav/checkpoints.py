"""Weights on disk, treated as untrusted: safetensors, or torch files that hold nothing but tensors."""

from __future__ import annotations

import copy
import os
import pickle
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lossnav import params as algebra
from lossnav.errors import (
    CheckpointError,
    CheckpointMismatchError,
    LossnavWarning,
    OptionError,
    UnsafeCheckpointError,
)
from lossnav.files import require_writable
from lossnav.moving import trainable

State = dict[str, Tensor]
Missing = Literal["refuse", "keep"]
MISSING: tuple[Missing, ...] = ("refuse", "keep")

_EXTRA = "_extra_state"  # torch's name in a state dict
_COUNTER = "num_batches_tracked"  # of normalisation layers; used only in training, and there without a momentum
_NESTED = ("state_dict", "model_state_dict", "model", "module", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, Lightning


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
        If writing fails half-way.
    """
    target = require_writable(path, overwrite)
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
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        save_file(unique, scratch, metadata={key: str(value) for key, value in (metadata or {}).items()})
        mask = os.umask(0)  # reading it means setting it
        os.umask(mask)
        scratch.chmod(0o666 & ~mask)  # safetensors writes for the owner alone
        scratch.replace(target)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{target} could not be written: {error}. Make room, or choose another folder."
        ) from error
    finally:
        scratch.unlink(missing_ok=True)
    return target


def load(path: str | os.PathLike[str]) -> State:
    """Read a state dict from a safetensors or torch file without running any code in it.

    A dict that holds the weights under ``state_dict`` (or ``model``, ...) is unwrapped.

    Parameters
    ----------
    path : path
        ``.safetensors``, or anything `torch.load` reads with ``weights_only=True``.

    Returns
    -------
    dict of str to Tensor
        On the CPU.

    Raises
    ------
    UnsafeCheckpointError
        If the file is a pickle with more in it than tensors. Nothing of it was executed.
    CheckpointError
        If the file is missing, damaged, or holds no weights.
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise CheckpointError(f"There is no checkpoint {source}. Check the path, or make one with lossnav train.")
    if source.suffix == ".safetensors":
        try:
            with safe_open(source, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except SafetensorError as error:
            raise CheckpointError(
                f"{source} is no safetensors file: {error}. It may be damaged; save it anew."
            ) from error
    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if _is_torch_or_pickle(source):
            raise UnsafeCheckpointError(
                f"{source} is a pickle that holds more than tensors and would run code when opened; it was refused "
                "and nothing was executed. Save model.state_dict() instead of the model, best as .safetensors."
            ) from error
        raise CheckpointError(f"{source} is no checkpoint. Pass a .safetensors file or a saved state dict.") from error
    except Exception as error:
        raise CheckpointError(
            f"{source} cannot be read as a checkpoint ({type(error).__name__}). Pass a .safetensors file or a "
            "saved state dict."
        ) from error
    return _unwrap(content, source)


def fit(
    state: Mapping[str, Tensor],
    required: Mapping[str, Tensor],
    optional: Mapping[str, Tensor] | None = None,
    aliases: Mapping[str, str] = MappingProxyType({}),
    what: str = "the model",
) -> State:
    """Match the names of a state dict to a model's, dropping the prefix that a wrapper left (``module.``).

    Parameters
    ----------
    state : mapping of str to Tensor
    required : mapping of str to Tensor
        Names and shapes that must be there.
    optional : mapping of str to Tensor, optional
        Those that may be.
    aliases : mapping of str to str
        Second names of tied tensors, each with the first. They are passed over, but where a file has only the second.
    what : str
        The model, for the message.

    Raises
    ------
    CheckpointMismatchError
        If a tensor is missing, has another shape, or a name is left over.
    """
    known = {*required, *(optional or {})}
    best = dict(state)
    for prefix in _PREFIXES:
        stripped = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        if len(stripped) == len(state) and len(known & set(stripped)) > len(known & set(best)):
            best = stripped
    for alias, first in aliases.items():  # safetensors' own writer keeps one name, not always ours
        if alias in best and first in known and first not in best:
            best[first] = best.pop(alias)
    best = {name: tensor for name, tensor in best.items() if name in known or name not in aliases}
    expected = {**required, **{name: tensor for name, tensor in (optional or {}).items() if name in best}}
    if difference := algebra.first_difference(best, expected):
        raise CheckpointMismatchError(
            f"The weights do not fit {what}: {difference}. "
            "They probably come from another architecture; build the model they were trained with."
        )
    return best


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

    def sort(self, state: Mapping[str, Tensor]) -> tuple[State, State, State]:
        """Tell the tensors of a state dict apart: parameters that move, others, buffers.

        They are brought to the dtypes of the model and where its weights are. A parameter that moves must be there.

        Raises
        ------
        CheckpointMismatchError
            If a tensor is missing, has another shape, or a name is left over.
        """
        found = fit(state, self.params, self.held | self.buffers, self.aliases, self.name)
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
    optional, aliases = optional_buffers(model), aliases_of(model)
    return Anatomy(type(model).__name__, params, held, buffers, optional, aliases, extra_of(model.state_dict()), True)


def extra_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the extra state of modules out of a state dict."""
    return {name: copy.deepcopy(value) for name, value in state.items() if name.rpartition(".")[2] == _EXTRA}


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
    return frozenset(name for name in names if name not in saved or name.endswith(_COUNTER))


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
    mine = dict(model.named_parameters()) | dict(model.named_buffers())
    buffers = dict(model.named_buffers())
    required = {name: tensor for name, tensor in mine.items() if name not in buffers}
    fitting = fit(load(path), required, buffers, aliases_of(model), type(model).__name__)
    optional = optional_buffers(model)
    lacking = [name for name in buffers if name not in fitting and name not in optional]
    require_complete(lacking, missing, f"The checkpoint {path}", type(model).__name__)
    with torch.no_grad():
        for name, tensor in fitting.items():
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


def _unwrap(content: Any, source: Path) -> State:
    for key in _NESTED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{source} holds no state dict. Save model.state_dict().")
    return {str(name): tensor for name, tensor in content.items()}


def _is_torch_or_pickle(source: Path) -> bool:
    with source.open("rb") as file:
        start = file.read(2)
    return zipfile.is_zipfile(source) or start[:1] == b"\x80"
