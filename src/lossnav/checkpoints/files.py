"""Reading one checkpoint file: safetensors, or a file of torch.save. Nothing in it is ever executed."""

from __future__ import annotations

import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lossnav._utils import turns
from lossnav.checkpoints.pickles import is_pickle, refusal
from lossnav.errors import CheckpointError, UnsafeCheckpointError

PICK = "::"  # separates a file from the name of a state dict in it
_SHARD = re.compile(r"-(\d{2,})-of-(\d{2,})$")  # in the name of a file that is one of several shards
_ZIP = b"PK\x03\x04"
_LFS = b"version https://git-lfs"
_OTHERS = {b"GGUF": "a GGUF file", b"\x89HDF": "an HDF5 file (perhaps of Keras)"}
_HEADER = 8  # number of bytes for the length of a safetensors header


class Stored(dict[str, Any]):
    """The content of a file or folder as it was saved: tensors by name, or nested dicts of them.

    Attributes
    ----------
    source : str
        The file, and the requested part of it.
    part : str
        A sentence about a file that is one of several shards; else empty.
    adapter : mapping or None
        The configuration, if these are the weights of a PEFT adapter.
    """

    def __init__(
        self, content: Mapping[str, Any], source: str, part: str = "", adapter: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(content)
        self.source, self.part, self.adapter = source, part, adapter


def read_file(source: Path) -> Stored:
    """Read one file.

    Raises
    ------
    UnsafeCheckpointError
        If it is a pickle that contains more than tensors.
    CheckpointError
        If it is damaged, or not a checkpoint.
    """
    start = _start(source)
    named = source.suffix == ".safetensors" and not _is_torch(source, start)
    if named or _is_safetensors(source, start):
        return Stored(_read_safetensors(source), str(source), part_of(source))
    _require_torch(source, start)
    try:
        with turns.hiding(UserWarning):  # a warning about the pickle's protocol, just before it is refused
            content = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpointError(refusal(source, error)) from error
    except Exception as error:
        raise CheckpointError(
            f"{source} cannot be read as a checkpoint ({type(error).__name__}: {_first_line(error)}). It may be "
            "damaged or truncated. Copy it again, or save it again as .safetensors."
        ) from error
    if isinstance(content, Tensor) or not isinstance(content, Mapping | list | tuple):
        raise CheckpointError(
            f"{source} contains a {type(content).__name__}, not a state dict. Save model.state_dict()."
        )
    found = content if isinstance(content, Mapping) else dict(enumerate(content))
    return Stored({str(key): value for key, value in found.items()}, str(source), part_of(source))


def part_of(source: Path) -> str:
    """Return a sentence about a file that is one of several shards, from its name or an index beside it."""
    for index in sorted(source.parent.glob("*.index.json")) if source.parent.is_dir() else []:
        names = set(weight_map(index).values())
        if source.name in names and len(names) > 1:
            return (
                f"{source.name} is one of {len(names)} shards that {index.name} lists. "
                f"Pass the folder or the index: {index}"
            )
    if (named := _SHARD.search(source.stem)) and int(named[2]) > 1:
        return (
            f"By its name, {source.name} is shard {int(named[1])} of {int(named[2])}. If so, pass the folder that "
            f"contains all of them: {source.parent}"
        )
    return ""


def weight_map(index: Path) -> dict[str, str]:
    """Return the file of each tensor, from an index of shards; empty if it is not such an index.

    Raises
    ------
    CheckpointError
        If it names a file outside the folder.
    """
    try:
        found = json.loads(index.read_text())["weight_map"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    for name, file in found.items():
        if not isinstance(file, str) or leads_out(file):
            raise CheckpointError(
                f'{index} says that "{name}" is in {file!r}, outside its folder, and was refused. An index names '
                "files beside it."
            )
    return {str(name): file for name, file in found.items()}


def leads_out(file: str) -> bool:
    """Return whether the name of a file leads out of its folder.

    >>> leads_out("shards/1.safetensors"), leads_out("../secret"), leads_out("/etc/passwd")
    (False, True, True)
    """
    path = Path(file)
    return path.is_absolute() or ".." in path.parts or "\\" in file or "\0" in file


def _read_safetensors(source: Path) -> dict[str, Tensor]:
    try:
        with safe_open(source, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{source} is no safetensors file: {error}. It may be damaged; save it again.") from error


def _start(source: Path) -> bytes:
    try:
        with source.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise CheckpointError(
            f"{source} cannot be read: {error.strerror or error}. Check the path and your permissions."
        ) from error


def _is_safetensors(source: Path, start: bytes) -> bool:
    """Return whether a file with another name starts like a safetensors file: the length of a JSON header, and that."""
    length = int.from_bytes(start[:_HEADER], "little")
    return start[_HEADER : _HEADER + 1] == b"{" and 0 < length <= source.stat().st_size - _HEADER


def _is_torch(source: Path, start: bytes) -> bool:
    return start[:1] == b"\x80" or zipfile.is_zipfile(source)


def _require_torch(source: Path, start: bytes) -> None:
    """Raise for a file that torch.save did not write, naming what it is."""
    if start.startswith(_LFS):
        raise CheckpointError(f"{source} is a Git LFS pointer, not the weights. Fetch them: git lfs pull")
    if other := next((kind for magic, kind in _OTHERS.items() if start.startswith(magic)), None):
        raise CheckpointError(f"{source} is {other}, which lossnav does not read. Convert it to .safetensors.")
    if not start:
        raise CheckpointError(f"{source} is empty. Copy it again, or save model.state_dict() again.")
    written = _is_torch(source, start) or start.startswith(_ZIP) or tarfile.is_tarfile(source)
    if not written and not is_pickle(source):
        raise CheckpointError(
            f"{source} is {_other(start)}, not a checkpoint of torch.save or safetensors. Pass the file of the weights."
        )
    if not zipfile.is_zipfile(source):
        return
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise CheckpointError(f"{source} is damaged: {error}. Copy it again, or save it again.") from error
    ends = {name.partition("/")[2] for name in names}
    if "constants.pkl" in ends and any(name.startswith("code/") for name in ends):
        raise CheckpointError(
            f"{source} is a TorchScript archive, a program with its weights, and programs in files are not run. If "
            f"you trust it, save its weights once: torch.save(torch.jit.load({str(source)!r}).state_dict(), "
            "'weights.pt')"
        )
    if "data.pkl" not in ends:
        what = "an archive of NumPy arrays" if any(name.endswith(".npy") for name in names) else "a zip archive"
        if any(name.endswith("archive_format") or "models/" in name for name in names):
            what = "an exported program (torch.export)"
        raise CheckpointError(
            f"{source} is {what}, not a file of weights from torch.save. Save model.state_dict(), best as .safetensors."
        )


def _other(start: bytes) -> str:
    """Describe an unknown file by its first bytes."""
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        text = start[: error.start].decode() if error.start > len(start) - 4 else ""  # a truncated character
    line = next(iter(text.splitlines()), "").strip()
    return f"a text file ({line[:30]!r} …)" if line.isprintable() and line else f"a file that starts with {start[:4]!r}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200].rstrip(".")
