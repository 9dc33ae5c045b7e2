"""The content of a refused pickle, inspected without constructing any of it, for a message that says what to type.

torch's reader for untrusted files (``weights_only=True``) reads tensors and little else. A file that it refuses is read
again by a reader that replaces every object by an inert record, so that the message can name what is in the file, where
the weights are, and a line that works.
"""

from __future__ import annotations

import itertools
import pickle
import pickletools
import re
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lossnav.checkpoints.training_state import is_training_state

PLAIN = ("state_dict", "model_state_dict", "model", "module", "net", "network", "params", "weights")  # of weights
_HARMFUL = ("os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "importlib", "runpy", "ctypes", "operator")
_TORCH_READS = re.compile(  # by itself
    r"torch\.(_utils\._rebuild_\w+|_tensor\._rebuild_from_type_v2|nn\.parameter\.Parameter|serialization\._get_layout|"
    r"storage\.\w+|sparse\.\w+|Size|Tensor|device|\w*Storage|per_\w+|q?u?int\d+\w*|(b|c|\w)?float\d\w*|complex\d+|bool)|"
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(bytearray|set|complex)"
)
_TENSOR = re.compile(r"torch\.(_utils\._rebuild_\w+|_tensor\._rebuild_from_type_v2|nn\.parameter\.Parameter)")
_ARRAY = re.compile(r"numpy\._?core\.multiarray\._reconstruct")
_VALUES = re.compile(  # types of plain values, which torch constructs once they are allowed
    r"argparse\.Namespace|types\.SimpleNamespace|builtins\.(frozenset|range|slice)|"
    r"datetime\.(datetime|date|time|timedelta|timezone)|pathlib\.(_local\.)?Pure(Posix|Windows)?Path|"
    r"numpy\.(dtype|ndarray)|numpy\._?core\.multiarray\.(scalar|_reconstruct)"
)
_PATH = re.compile(r"pathlib\.(?:_local\.)?(Posix|Windows)Path")
_OLD_NUMPY = re.compile(r"numpy\.core\.multiarray\.(\w+)")  # its name before version 2
_PICKLES = 4  # in the old format: magic number, version, system, content
_OLD_PROTOCOL = 2  # of pickles, the only one that torch's reader for untrusted files supports
_DEEPEST = 24


class _Inert:
    """Inert stand-in for any object of a pickle: stores its arguments and does nothing."""

    path = ""
    state: Any = None
    is_filled = False

    def __new__(cls, *arguments: Any, **_: Any) -> _Inert:
        made = object.__new__(cls)
        made.arguments, made.entries = arguments, {}
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        self.arguments: tuple[Any, ...]
        self.entries: dict[Any, Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *arguments: Any) -> _Inert:
        return _Inert(self, *arguments)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.is_filled, self.entries[key] = True, value

    def append(self, value: Any) -> None:
        """Of a list: torch fills none but its own."""
        self[len(self.entries)] = value

    add = append

    def parts(self) -> Iterator[Any]:
        """Return all stored arguments."""
        yield from self.arguments
        yield self.state
        yield from self.entries.values()


class _Dict(dict[Any, Any]):
    """An ordered dict."""


class _PickleReader(pickle.Unpickler):
    """Reads a pickle into dicts, lists and inert records."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, encoding="latin1", errors="replace")
        self.kinds: dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))  # of Python 2
        path = f"{module}.{name}"
        if path not in self.kinds:
            self.kinds[path] = _Dict if path in _DICTS else type(name, (_Inert,), {"path": path})
        return self.kinds[path]

    def persistent_load(self, pid: Any) -> Any:
        return _Inert(pid)


_MAGIC = torch.serialization.MAGIC_NUMBER.to_bytes(10, "little")  # at the start of torch's older format
_FEWEST_CODES, _MOST_CODES = 4, 10**6  # of a pickle
_DICTS = ("collections.OrderedDict", "collections.Counter")


@dataclass
class Inside:
    """The content of a pickle.

    Attributes
    ----------
    kinds : list of str
        Types in it that torch does not construct from an untrusted file.
    content : object
        As read by `_PickleReader`; None if it cannot be read.
    protocol : int
        Protocol of the pickle.
    """

    kinds: list[str] = field(default_factory=list)
    content: Any = None
    protocol: int = _OLD_PROTOCOL


def look_into(source: Path) -> Inside:
    """Return the content of a pickle; nothing in it is constructed or run."""
    found = Inside()
    try:
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                with archive.open(name) as file:
                    found.protocol = _protocol(file.read(2))
                with archive.open(name) as file:
                    reader = _PickleReader(file)
                    found.content = reader.load()
        else:
            with source.open("rb") as file:
                found.protocol = _protocol(file.read(2))
                file.seek(0)
                for _ in range(_PICKLES):
                    reader = _PickleReader(file)
                    found.content = reader.load()
                    if not isinstance(found.content, int) and not _is_system(found.content):
                        break
        allowed = {_name_of(kind) for kind in torch.serialization.get_safe_globals()}
        found.kinds = sorted(kind for kind in reader.kinds if not _TORCH_READS.fullmatch(kind) and kind not in allowed)
    except Exception:  # damaged, perhaps on purpose: torch refused it
        return found
    return found


def _protocol(start: bytes) -> int:
    return start[1] if start[:1] == b"\x80" else 0


def _is_system(content: Any) -> bool:
    return isinstance(content, Mapping) and "protocol_version" in content


def _name_of(kind: Any) -> str:
    return kind[1] if isinstance(kind, tuple) else f"{kind.__module__}.{kind.__qualname__}"


def refusal(source: Path, error: Exception) -> str:
    """Return a message: what a refused pickle contains beside tensors, and what its owner can do."""
    inside = look_into(source)
    kinds = inside.kinds or re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]
    again = "save only the weights: model.state_dict(), best as .safetensors."
    line = _line(source, inside)
    if not kinds and inside.content is not None:
        why = f"a pickle of protocol {inside.protocol}" if inside.protocol != _OLD_PROTOCOL else "a pickle of a kind"
        return (
            f"{source} is {why} that torch does not read from an untrusted file ({_first_line(error)}); it was refused "
            f"and nothing was executed. If you trust the file, {line or again.rstrip('.')}."
        )
    if line and _is_bare(source) and not any(_is_harmful(kind) for kind in kinds):
        return (
            f"{source} is a pickle that torch.save did not write, so it is not read from an untrusted file; it was "
            f"refused and nothing was executed. If you trust the file, {line}."
        )
    what = f"holds {', '.join(kinds[:5])}{', …' if len(kinds) > 5 else ''} beside tensors" if kinds else "is a pickle"
    refused = f"{source} {what}, which could run code when opened; it was refused and nothing was executed. "
    if inside.content is None or any(_is_harmful(kind) for kind in kinds):
        return refused + f"Do not open it unless you know who made it; {again}"
    trusting = "Where you trust the file, "
    where = "in the program that defines them, " if any(kind.startswith("__main__.") for kind in kinds) else ""
    if _model_in(inside.content) is not None:
        return refused + f"It seems to hold a whole model that was pickled. {trusting}{where}{line}."
    if _holds_arrays_alone(inside.content):
        return refused + f"It contains NumPy arrays, not tensors. {trusting}{line}."
    allowed = _allowing(inside)
    if allowed and line:
        return refused + f"{trusting}allow its types: {allowed}; or {line}."
    if allowed or line:
        return refused + (f"{trusting}allow its types: {allowed}." if allowed else f"{trusting}{where}{line}.")
    return refused + f"{trusting}{where}{again}"


def _is_harmful(kind: str) -> bool:
    root = kind.partition(".")[0]
    return root in _HARMFUL or (
        root in ("builtins", "__builtin__") and not _VALUES.fullmatch(kind) and not _is_type(kind)
    )


def _is_type(kind: str) -> bool:
    """Return whether it is a built-in type of plain values, such as the list of a defaultdict."""
    return kind.partition(".")[2] in ("list", "dict", "tuple", "int", "float", "str", "bytes", "bool", "object")


def _allowing(inside: Inside) -> str:
    """Return the line that lets torch read it; empty if there is none, or it would allow more than values."""
    if inside.protocol != _OLD_PROTOCOL:
        return ""
    wanted, modules = list[str](), {"torch"}
    for kind in inside.kinds:
        module = kind.rpartition(".")[0]
        if path := _PATH.fullmatch(kind):  # a path of another system can only be constructed as a pure path
            mine = kind == _name_of(type(Path()))
            modules |= {module if mine else "pathlib"}
            wanted.append(kind if mine else f"(pathlib.Pure{path[1]}Path, {kind!r})")
        elif not _VALUES.fullmatch(kind):
            return ""
        elif old := _OLD_NUMPY.fullmatch(kind):
            modules |= {"numpy"}
            wanted.append(f"(numpy._core.multiarray.{old[1]}, {kind!r})")
        else:
            modules |= {module.partition(".")[0] if module.startswith("numpy") else module}
            wanted.append(kind)
    records = [record for record in _records(inside.content) if record.path in inside.kinds]
    if any(record.is_filled for record in records):  # torch only fills dicts and lists
        return ""
    try:
        types = {
            _name_of(type(np.dtype(_text(record.arguments[0])))) for record in records if record.path == "numpy.dtype"
        }
    except (TypeError, ValueError, IndexError):
        return ""
    wanted += sorted(types)  # numpy.dtype("f8") has its own type
    imported = ", ".join(["torch", *sorted(modules - {"torch"})])
    return f"import {imported}; torch.serialization.add_safe_globals([{', '.join(wanted)}])"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _records(content: Any) -> Iterator[_Inert]:
    """Yield every record in the content, once."""
    ahead, seen = [content], set[int]()
    while ahead:
        value = ahead.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, _Inert):
            yield value
            ahead += value.parts()
        elif isinstance(value, Mapping):
            ahead += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            ahead += value


def _is_tensor(value: Any) -> bool:
    return isinstance(value, _Inert) and _TENSOR.fullmatch(value.path) is not None


def _is_array(value: Any) -> bool:
    """Return whether it is a NumPy array of at least one dimension."""
    return isinstance(value, _Inert) and _ARRAY.fullmatch(value.path) is not None


IsLeaf = Callable[[Any], bool]


def _is_bare(source: Path) -> bool:
    """Return whether pickle alone wrote a file; torch's older format starts with a magic number."""
    with source.open("rb") as file:
        return not zipfile.is_zipfile(source) and _MAGIC not in file.read(32)


def is_pickle(source: Path) -> bool:
    """Return whether a file is a complete pickle; nothing is constructed. The oldest protocols look like text."""
    try:
        with source.open("rb") as file:
            count = sum(1 for _ in itertools.islice(pickletools.genops(file), _MOST_CODES))
        return count >= _FEWEST_CODES
    except Exception:
        return False


def _is_model(value: Any) -> bool:
    return (
        isinstance(value, _Inert)
        and isinstance(value.state, Mapping)
        and {"_parameters", "_modules"} <= set(value.state)
    )


def _model_in(content: Any) -> str | None:
    """Return the Python expression for a pickled module in the content; None if there is none."""
    if _is_model(content):
        return ""
    if not isinstance(content, Mapping):
        return None
    names = sorted((name for name, value in content.items() if _is_model(value)), key=_is_usual, reverse=True)
    return f"[{names[0]!r}]" if names and (_is_usual(names[0]) or not _count(content)) else None


def _is_usual(name: Any) -> bool:
    return str(name) in PLAIN


def _line(source: Path, inside: Inside) -> str:
    """Return the line that reads or saves only the weights; empty if their place is not known."""
    loaded = f"torch.load({str(source)!r}, map_location='cpu', weights_only=False)"
    imports = ""
    if _is_bare(source):
        loaded, imports = f"pickle.load(open({str(source)!r}, 'rb'))", "import pickle; "
    if (place := _model_in(inside.content)) is not None:
        return f"save its weights once: {imports}torch.save({loaded}{place}.state_dict(), 'weights.pt')"
    if _holds_arrays_alone(inside.content):
        place, level = _state_in(inside.content, _is_array)
        arrays = (
            ""
            if all(map(_is_array, level.values()))
            else f" if name in {[name for name, value in level.items() if _is_array(value)]}"
        )
        made = f"{{name: torch.as_tensor(value) for name, value in {loaded}{place}.items(){arrays}}}"
        return f"make tensors of its arrays once: {imports}torch.save({made}, 'weights.pt')"
    if not _count(inside.content):
        return ""
    place, level = _state_in(inside.content)
    parts = {name: value for name, value in level.items() if _count(value)}
    foreign = any(record.path in inside.kinds for value in parts.values() for record in _records(value))
    if foreign or not all(isinstance(name, str | int) for name in parts):
        return f"read it yourself: objective.at({loaded})"
    if len(parts) == len(level):
        kept = f"dict({loaded}{place})"
    else:
        names = "torch.is_tensor(value)" if all(map(_is_tensor, parts.values())) else f"name in {list(parts)}"
        kept = f"{{name: value for name, value in {loaded}{place}.items() if {names}}}"
    return f"save its weights once: {imports}torch.save({kept}, 'weights.pt')"


def _state_in(content: Any, is_leaf: IsLeaf = _is_tensor) -> tuple[str, Mapping[Any, Any]]:
    """Return the level with the state dict or state dicts of a file, and its Python expression."""
    place, level = "", _entries(content)
    while not any(map(is_leaf, level.values())):
        inner = [name for name, value in level.items() if _count(value, is_leaf)]
        usual = [name for name in inner if _is_usual(name)]
        if len(usual) != 1 and len(inner) != 1:
            break
        name = (usual or inner)[0]
        place, level = f"{place}[{name!r}]", _entries(level[name])
    return place, level


def _holds_arrays_alone(content: Any) -> bool:
    """Return whether one level has named arrays, and there are no tensors."""
    return not _count(content) and any(map(_is_array, _state_in(content, _is_array)[1].values()))


def _entries(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else getattr(value, "entries", {})


def _count(value: Any, is_leaf: IsLeaf = _is_tensor, deep: int = 0) -> int:
    """Return the number of tensors, or other leaves, below, without the state of an optimiser."""
    if is_leaf(value):
        return 1
    inner = _entries(value)
    if deep > _DEEPEST or ("param_groups" in inner and "state" in inner):
        return 0
    return sum(_count(part, is_leaf, deep + 1) for name, part in inner.items() if not is_training_state(str(name)))


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    known = next((line for line in lines if line.startswith(("WeightsUnpickler error:", "Unsupported"))), "")
    return (known.removeprefix("WeightsUnpickler error:").strip() or type(error).__name__).rstrip(".")[:160]
