"""Weights on disk, treated as untrusted: safetensors, or torch files that hold nothing but tensors."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lossnav import params as algebra
from lossnav.errors import CheckpointError, CheckpointMismatchError, UnsafeCheckpointError
from lossnav.files import require_writable

State = dict[str, Tensor]

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
    aliases: Collection[str] = (),
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
    aliases : collection of str
        Second names of tied weights, which some files hold; they are passed over.
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
    best = {name: tensor for name, tensor in best.items() if name in known or name not in aliases}
    expected = {**required, **{name: tensor for name, tensor in (optional or {}).items() if name in best}}
    if difference := algebra.first_difference(best, expected):
        raise CheckpointMismatchError(
            f"The weights do not fit {what}: {difference}. "
            "They probably come from another architecture; build the model they were trained with."
        )
    return best


def aliases_of(model: nn.Module) -> frozenset[str]:
    """Names in the state dict of a model that are second names of a tied weight."""
    first_names = dict(model.named_parameters()) | dict(model.named_buffers())
    return frozenset(name for name in model.state_dict() if name not in first_names)


def _tied_names(model: nn.Module) -> dict[str, str]:
    """Second name of each tied weight -> its first."""
    first_names = {id(parameter): name for name, parameter in model.named_parameters()}
    everything = model.named_parameters(remove_duplicate=False)
    return {name: first_names[id(p)] for name, p in everything if first_names[id(p)] != name}


def load_into(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load a checkpoint into a model, in place, and return the model.

    Raises
    ------
    UnsafeCheckpointError, CheckpointError, CheckpointMismatchError
        The model is untouched in each case.
    """
    aliases = aliases_of(model)
    state = load(path)
    mine = {name: tensor for name, tensor in model.state_dict().items() if name not in aliases}
    counters = {name: tensor for name, tensor in mine.items() if name.endswith("num_batches_tracked")}
    required = {name: tensor for name, tensor in mine.items() if name not in counters}
    for alias, first in _tied_names(model).items():  # safetensors' own writer keeps one name, not always ours
        if alias in state and first not in state:
            state[first] = state.pop(alias)
    fitting = fit(state, required, counters, aliases, type(model).__name__)
    with torch.no_grad():
        for name, tensor in fitting.items():
            mine[name].copy_(tensor)
    return model


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
