"""Checkpoints that are folders: shards with an index, torch's distributed checkpoints, PEFT adapters."""

from __future__ import annotations

import io
import json
import math
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils.paths import is_trajectory
from lossnav.checkpoints.files import Stored, leads_out, read_file, weight_map
from lossnav.errors import CheckpointError, UnsafeCheckpointError

_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".th", ".pth.tar", ".pt.tar", ".pkl", ".pickle")
_TWICE = ("model.safetensors", "pytorch_model.bin")
_NOT_WEIGHTS = re.compile(  # files of trainers beside them
    r"(optim(izer)?|opt|(lr_)?scheduler|sched|(grad_)?scaler|rng(_state)?|random_states|training_args|trainer_state|"
    r"train(er)?_state|sampler|dataloader|tokenizer|args|config|history|metrics|losses|log)s?([_\-.]\w*)*\.\w+$"
)
_SHARD = re.compile(r"^(.*)-(\d{2,})-of-(\d{2,})(\.\w+)$")
_CONFIG, _ADAPTERS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
_METADATA = ".metadata"  # of torch.distributed.checkpoint


def read_folder(folder: Path) -> Stored:
    """Read a folder.

    Raises
    ------
    CheckpointError
        If it has no checkpoint, or several.
    UnsafeCheckpointError
        As for a file.
    """
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be read: {error.strerror or error}. Check the path and your permissions."
        ) from error
    names = _of_weights(folder)
    adapter = (folder / _CONFIG).is_file()
    if adapter or (folder / _METADATA).is_file():
        _require_alone(folder, [path for path in names if not (adapter and path.name in _ADAPTERS)])
        return read_adapter(folder) if adapter else read_distributed(folder)
    indices = [index for index in sorted(folder.glob("*.index.json")) if weight_map(index)]
    if indices:
        listed = {file for index in indices for file in weight_map(index).values()}
        others = [path for path in names if path.name not in listed]
        if len(indices) > 1 or others:
            raise _several(folder, [*indices, *others])
        return read_index(indices[0])
    shards = [path for path in names if _SHARD.match(path.name)]
    if shards and len(shards) == len(names):
        return _read_shards(folder, shards)
    if len(names) == 1:
        return read_file(names[0])
    if names and {path.name for path in names} == set(_TWICE):
        return _read_twice(folder, names)
    if names:
        raise _several(folder, names)
    if is_trajectory(folder):
        raise CheckpointError(
            f"{folder} is a recorded trajectory of many snapshots. Pass one of its files, or in Python "
            f"objective.at(ln.Trajectory.open({str(folder)!r}).state(-1))."
        )
    if (folder / "zarr.json").is_file():
        raise CheckpointError(f"{folder} is a stored surface, not weights. Pass the checkpoint from which it was made.")
    if (folder / "zero_to_fp32.py").is_file() or any(folder.glob("*/mp_rank_*")):
        raise CheckpointError(
            f"{folder} is a DeepSpeed checkpoint, split over processes. Merge it with the script inside: "
            f"python {folder / 'zero_to_fp32.py'} {folder} weights --safe_serialization"
        )
    raise CheckpointError(
        f"The folder {folder} contains no weights ({', '.join(_WEIGHTS)}, an index "
        f"of shards, {_CONFIG} or {_METADATA}). "
        "Pass a file, or the folder that contains them."
    )


def _of_weights(folder: Path) -> list[Path]:
    """Return the files of a folder that may contain weights, by their names."""
    files = sorted(path for path in folder.iterdir() if path.name.endswith(_WEIGHTS) and not path.name.startswith("."))
    return [path for path in files if not _NOT_WEIGHTS.match(path.name)] or files


def _require_alone(folder: Path, others: Sequence[Path]) -> None:
    """Raise if there are other weights beside a checkpoint that is a folder."""
    if others:
        first = _CONFIG if (folder / _CONFIG).is_file() else _METADATA
        raise CheckpointError(
            f"The folder {folder} contains several checkpoints: that of {first}, and "
            f"{', '.join(path.name for path in others[:6])}. Pass the file, or move it to a folder of its own."
        )


def _read_twice(folder: Path, paths: Sequence[Path]) -> Stored:
    """Read weights that are there in two formats, as on the Hugging Face Hub; raise if the two differ."""
    first, second = (read_file(folder / name) for name in _TWICE)
    names = first.keys() & second.keys()  # one of the formats stores tied weights only once
    same = all(isinstance(second[name], Tensor) and algebra.same(first[name], second[name]) for name in names)
    if not same or first.keys() - names:
        raise _several(folder, paths)
    return first


def _several(folder: Path, paths: Sequence[Path]) -> CheckpointError:
    names = ", ".join(path.name for path in paths[:6]) + (", …" if len(paths) > 6 else "")
    return CheckpointError(f"The folder {folder} contains several checkpoints: {names}. Pass one of them: {paths[0]}")


def read_index(index: Path) -> Stored:
    """Read the shards that an index lists.

    Raises
    ------
    CheckpointError
        If it is not an index, a shard is missing, or it names a file outside its folder.
    """
    where = weight_map(index)
    if not where:
        raise CheckpointError(f'{index} has no "weight_map", so it is no index of shards. Pass the file of weights.')
    found: dict[str, Any] = {}
    for file in sorted(set(where.values())):
        shard = _read_shard(index.parent / file, f"which {index.name} lists")
        for name in (name for name, place in where.items() if place == file):
            if name not in shard:
                raise CheckpointError(f'{index} says that {file} contains "{name}", but it does not. Copy both again.')
            found[name] = shard[name]
    return Stored(found, str(index))


def _read_shard(path: Path, why: str) -> Stored:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, {why}. Copy all shards of the checkpoint.")
    return read_file(path)


def _read_shards(folder: Path, paths: Sequence[Path]) -> Stored:
    """Read shards without an index, if all of them are there."""
    named = [match for path in paths if (match := _SHARD.match(path.name))]
    families = {(match[1], match[3], match[4]) for match in named}
    if len(families) > 1:
        raise _several(folder, paths)
    stem, count, suffix = next(iter(families))
    found: dict[str, Any] = {}
    for i in range(1, int(count) + 1):
        path = folder / f"{stem}-{i:0{len(count)}d}-of-{count}{suffix}"
        shard = _read_shard(path, f"and the names say that there are {int(count)}")
        if twice := sorted(found.keys() & shard.keys()):
            raise CheckpointError(
                f'Two shards in {folder} contain "{twice[0]}", so it is not clear how they fit together. Merge them '
                "with the program that wrote them."
            )
        found |= shard
    return Stored(found, str(folder))


def read_adapter(folder: Path) -> Stored:
    """Read the weights of a PEFT adapter (such as LoRA) with its configuration.

    Raises
    ------
    CheckpointError
        If one of the two is missing or cannot be read.
    """
    try:
        config = json.loads((folder / _CONFIG).read_text())
        assert isinstance(config, dict)
    except (OSError, ValueError, AssertionError, RecursionError) as error:
        raise CheckpointError(f"{folder / _CONFIG} cannot be read. Save the adapter again.") from error
    path = next((folder / name for name in _ADAPTERS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(
            f"{folder} has the configuration of an adapter but no {_ADAPTERS[0]}. Save it with "
            "model.save_pretrained(folder)."
        )
    return Stored(read_file(path), str(folder), adapter=config)


# ---------------------------------------------------------------------- torch.distributed.checkpoint


class _Record:
    """Inert stand-in for any object in the metadata: stores its arguments and does nothing."""

    def __init__(self, *arguments: Any, **_: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({str(name): value for name, value in state.items()})
        else:
            self.arguments = state if isinstance(state, tuple) else (state,)


class _Index(_Record):
    """The key of a piece of a tensor, hashable."""

    @property
    def key(self) -> tuple[str, tuple[int, ...] | None]:
        offset = getattr(self, "offset", None)
        return str(getattr(self, "fqn", "")), None if offset is None else tuple(offset)


class _Metadata(pickle.Unpickler):
    """Reads the metadata of a distributed checkpoint, a pickle, without running code.

    torch's own reader unpickles it without restriction. Here types of torch and paths become a `_Record`; others are
    refused.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "pathlib":
            return _Record
        if (module, name) == ("torch", "Size"):
            return _size
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module.partition(".")[0] == "torch":
            return _Index if name == "MetadataIndex" else _Record
        raise UnsafeCheckpointError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafeCheckpointError("a persistent object")


def _size(values: Sequence[int] = ()) -> tuple[int, ...]:
    """Return a shape: whole numbers of at least 0."""
    numbers = tuple(values)
    if not all(isinstance(number, int) and number >= 0 for number in numbers):
        raise ValueError(f"a shape of {numbers}")
    return numbers


def read_distributed(folder: Path) -> Stored:
    """Read the folder of a torch.distributed.checkpoint, with no process group; only its tensors.

    Raises
    ------
    UnsafeCheckpointError
        If the metadata contain a type that torch does not write, or name a file outside the folder.
    CheckpointError
        If they are damaged, or a file is missing.
    """
    path = folder / _METADATA
    try:
        with path.open("rb") as file:
            metadata = _Metadata(file).load()
        tensors, places, ways = _layout(metadata)
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(
            f"{path} is a pickle that holds {error}, which would run code when opened; it was refused and nothing was "
            "executed. Save only the weights: model.state_dict(), best as .safetensors."
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as the metadata of a distributed checkpoint ({type(error).__name__}). Copy the "
            "folder again, or merge it with torch.distributed.checkpoint.format_utils.dcp_to_torch_save."
        ) from error
    found: dict[str, Any] = {}
    for name, (shape, chunks) in tensors.items():
        below = found
        *above, last = ways.get(name, (name,))
        for word in above:
            below = below.setdefault(word, {})
            if not isinstance(below, dict):
                raise CheckpointError(f'{path} has "{name}" below a tensor. Copy the folder again.')
        below[last] = _assemble(folder, name, shape, [(*chunk, places.get((name, chunk[0]))) for chunk in chunks])
    return Stored(found, str(folder))


_Shape = tuple[int, ...]
_Piece = tuple[_Shape, _Shape, Any]  # offset, size, and file


def _layout(metadata: Any) -> tuple[dict[str, Any], dict[Any, Any], dict[str, tuple[str, ...]]]:
    """Return the tensors of a checkpoint with shapes, pieces, their files, and the nested dicts."""
    tensors = {
        str(name): (_size(said.size), [(_size(chunk.offsets), _size(chunk.sizes)) for chunk in said.chunks])
        for name, said in metadata.state_dict_metadata.items()
        if hasattr(said, "chunks")
    }
    places = {index.key: place for index, place in metadata.storage_data.items()}
    planned = getattr(metadata, "planner_data", None)
    ways = planned if isinstance(planned, Mapping) else {}
    paths = {
        str(name): tuple(map(str, way)) for name, way in ways.items() if isinstance(way, tuple | list) and len(way)
    }
    return tensors, places, paths


def _assemble(folder: Path, name: str, shape: _Shape, pieces: Sequence[_Piece]) -> Tensor:
    """Assemble a tensor from its pieces; all must exist before memory is allocated."""
    if sum(math.prod(size) for _, size, _ in pieces) != math.prod(shape):
        raise CheckpointError(
            f'{folder} does not hold all of "{name}" {shape}, or some of it twice. Copy the files of all processes.'
        )
    parts = []
    for offset, size, place in pieces:
        if place is None or len(offset) != len(shape) or len(size) != len(shape):
            raise CheckpointError(f'{folder} does not say where "{name}" lies. Copy the folder again.')
        if any(o + n > whole for o, n, whole in zip(offset, size, shape, strict=True)):
            raise CheckpointError(f'A piece of "{name}" in {folder} reaches beyond its shape. Copy the folder again.')
        parts.append((offset, size, _read_piece(folder, name, size, place)))
    if len(parts) == 1 and parts[0][1] == shape:
        return parts[0][2]
    whole = torch.empty(shape, dtype=parts[0][2].dtype)
    filled = torch.zeros(shape, dtype=torch.bool)
    for offset, size, part in parts:
        at = tuple(slice(o, o + n) for o, n in zip(offset, size, strict=True))
        whole[at], filled[at] = part, True
    if not filled.all():
        raise CheckpointError(f'The pieces of "{name}" in {folder} overlap and leave gaps. Copy the folder again.')
    return whole


def _read_piece(folder: Path, name: str, size: _Shape, place: Any) -> Tensor:
    file, start, length = str(place.relative_path), int(place.offset), int(place.length)
    if leads_out(file):
        raise CheckpointError(
            f'The metadata of {folder} say that "{name}" lies in {file!r}, outside its folder, and were refused.'
        )
    if getattr(place, "transform_descriptors", None):
        raise CheckpointError(
            f'"{name}" in {folder} is compressed ({", ".join(map(str, place.transform_descriptors))}). Save it '
            "without, or join it with torch.distributed.checkpoint.format_utils.dcp_to_torch_save."
        )
    path = folder / file
    if not path.is_file():
        raise CheckpointError(f'{path} is missing, which holds "{name}". Copy the files of all processes.')
    if start < 0 or length < 0 or start + length > path.stat().st_size:
        raise CheckpointError(f'{path} is cut off: "{name}" should lie behind its end. Copy it again.')
    with path.open("rb") as stream:
        stream.seek(start)
        content = io.BytesIO(stream.read(length))
    try:
        tensor = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f'"{name}" in {path} cannot be read ({type(error).__name__}). Copy it again.') from error
    if not isinstance(tensor, Tensor) or tuple(tensor.shape) != size:
        raise CheckpointError(f'"{name}" in {path} is not the tensor of shape {size} it should be. Copy it again.')
    if tensor.numel() * tensor.element_size() > max(length, 1):
        raise CheckpointError(f'"{name}" in {path} says it is larger than the file that holds it, and was refused.')
    return tensor.detach()
