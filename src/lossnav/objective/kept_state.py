"""The state of the user's objects, kept while they are used and restored afterwards."""

from __future__ import annotations

import copy
import random
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lossnav.objective.contents import (
    _LARGEST,
    _MOST,
    _OWN,
    _SMALL,
    _cells_with_state,
    _defaults,
    _is_state,
    _slots,
    equal,
    parts,
)


class Kept:
    """The present state of objects, to restore later: attributes, items of containers, numbers in tensors.

    Parameters
    ----------
    value : object
        Everything that it refers to is kept; of the hooks of modules only which there are. Hooks by which lossnav
        watches a pass are left alone.
    without : iterable of Tensor
        Tensors whose numbers are not kept, because every pass sets them.
    borrowed : bool
        Whether it is the user's own object, not a copy by `copied`.
    numbers : bool
        Whether the numbers in tensors and arrays are kept; in a dataset they are most of its memory.

    Examples
    --------
    >>> state = {"steps": 0, "mean": torch.zeros(2)}
    >>> kept = Kept(state)
    >>> state["steps"] += 1
    >>> _ = state["mean"].add_(1)
    >>> kept.restore()
    >>> state
    {'steps': 0, 'mean': tensor([0., 0.])}
    """

    def __init__(
        self, value: Any, without: Iterable[Tensor] = (), borrowed: bool = False, numbers: bool = True
    ) -> None:
        self.value = value
        skipped = {id(tensor) for tensor in without}
        self._tensors: list[list[Any]] = []  # tensor, numbers, version, whether it is compared each time
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._others: list[tuple[Any, Any]] = []  # lists, sets and deques
        self._inner: list[list[Any]] = []  # arrays, bytes, random generators: object, state, whether it is compared
        self._slots: list[tuple[Any, dict[str, Any]]] = []
        self._hooks: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        for part in _stateful(value, borrowed=borrowed):
            if isinstance(part, Tensor | np.ndarray) and not numbers:
                continue
            if isinstance(part, Tensor):
                if id(part) not in skipped and part.numel() * part.element_size() <= _LARGEST:
                    small = part.numel() <= _SMALL
                    self._tensors.append([part, part.detach().clone(), part._version, small])
            elif isinstance(part, dict):
                self._dicts.append((part, dict(part)))
            elif isinstance(part, list | set | deque):
                self._others.append((part, copy.copy(part)))
            elif (inner := _inner_state(part)) is not None:
                self._inner.append([part, inner, not isinstance(part, np.ndarray) or part.size <= _SMALL])
            if isinstance(part, nn.Module):
                tables = [table for name, table in vars(part).items() if _of_hooks(name) and isinstance(table, dict)]
                self._hooks += [(table, dict(table)) for table in tables]
            attributes = None if isinstance(part, types.FunctionType | Tensor) else getattr(part, "__dict__", None)
            if isinstance(attributes, dict):
                self._dicts.append((attributes, dict(attributes)))
            if slots := _slots(part):
                self._slots.append((part, slots))

    def changed(self) -> bool:
        """Whether anything has changed."""
        return (
            any(not _alike(dictionary, saved) for dictionary, saved in self._dicts)
            or any(not _alike(_without_ours(table), _without_ours(saved)) for table, saved in self._hooks)
            or any(not _same_items(part, saved) for part, saved in self._others)
            or any(not _alike(_slots(part), saved) for part, saved in self._slots)
            or any(not _same_values(_inner_state(part), saved) for part, saved, _ in self._inner)
            or any(not equal(part, saved) for part, saved, *_ in self._tensors)
        )

    def learn(self) -> None:
        """See which tensors change without a new version (`tensor.data`, large arrays), to compare them each time."""
        for row in self._tensors:
            row[3] = row[3] or not equal(row[0], row[1])
        for row in self._inner:
            row[2] = row[2] or not _same_values(_inner_state(row[0]), row[1])

    @property
    def compared(self) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
        """Which tensors, and which other numbers, are compared each time: the result of `learn`."""
        return tuple(row[3] for row in self._tensors), tuple(row[2] for row in self._inner)

    def compare(self, known: tuple[tuple[bool, ...], tuple[bool, ...]]) -> None:
        """Compare the same objects each time as a copy does: set the result of `learn`."""
        tensors, inner = known
        for row, looks in zip(self._tensors, tensors, strict=True):
            row[3] = looks
        for row, looks in zip(self._inner, inner, strict=True):
            row[2] = looks

    def restore(self) -> None:
        """Restore everything that has changed."""
        for dictionary, saved in self._dicts:
            if not _alike(dictionary, saved):
                dictionary.clear()
                dictionary.update(saved)
        for table, saved in self._hooks:  # a model may mark itself as hooked, and add its hooks again without the mark
            if not _alike(_without_ours(table), _without_ours(saved)):
                ours = {key: hook for key, hook in table.items() if _is_ours(hook)}
                table.clear()
                table.update(saved | ours)
        for part, saved in self._others:
            if not _same_items(part, saved):
                part.clear()
                part.update(saved) if isinstance(part, set) else part.extend(saved)
        for part, saved in self._slots:
            if not _alike(now := _slots(part), saved):
                for name in now.keys() | saved.keys():
                    object.__setattr__(part, name, saved[name]) if name in saved else object.__delattr__(part, name)
        for part, saved, looks in self._inner:
            if looks and not _same_values(_inner_state(part), saved):
                _put_back(part, saved)
        for row in self._tensors:
            part, saved, version, looks = row
            if part._version != version or (looks and not equal(part, saved)):
                part.detach().copy_(saved)
                row[2] = part._version


def _inner_state(part: Any) -> Any:
    """The state of an object that is changed in place and is not a tensor or container; else None."""
    if isinstance(part, np.ndarray):
        return None if part.dtype == object or part.nbytes > _LARGEST or not part.flags.writeable else part.copy()
    if isinstance(part, bytearray):
        return bytes(part)
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, np.random.Generator):
        return copy.deepcopy(part.bit_generator.state)
    if isinstance(part, np.random.RandomState):
        return part.get_state()
    return part.getstate() if isinstance(part, random.Random) else None


def _same_values(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return bool(a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same_values(value, b[name]) for name, value in a.items())
    if isinstance(a, tuple):
        return len(a) == len(b) and all(_same_values(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _put_back(part: Any, saved: Any) -> None:
    if isinstance(part, np.ndarray):
        if part.shape != saved.shape:
            part.resize(saved.shape, refcheck=False)
        part[...] = saved
    elif isinstance(part, bytearray):
        part[:] = saved
    elif isinstance(part, np.random.Generator):
        part.bit_generator.state = saved
    elif isinstance(part, random.Random):
        part.setstate(saved)
    else:  # generators of torch, and the older ones of NumPy
        part.set_state(saved)


def same_state(a: Any, b: Any) -> bool:
    """Whether two copies of one object are in the same state, as far as attributes, items and tensors show."""
    ours, theirs = list(_stateful(a, atoms=True)), list(_stateful(b, atoms=True))
    return len(ours) == len(theirs) and all(_same_part(x, y) for x, y in zip(ours, theirs, strict=True))


def _same_part(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return equal(a, b)
    if isinstance(a, dict | list | tuple | set | deque):
        return len(a) == len(b)
    if (inner := _inner_state(a)) is not None:
        return _same_values(inner, _inner_state(b))
    return not isinstance(a, int | float | str | bytes) or a == b


def _stateful(value: Any, atoms: bool = False, borrowed: bool = False) -> Iterator[Any]:
    """What a call may change, each object once; hooks are not searched."""
    seen: set[int] = set()
    ahead: list[Any] = [value]
    kept: list[Any] = []
    while ahead and len(kept) < _MOST:
        part = ahead.pop()
        plain = isinstance(part, int | float | complex | str | bytes)
        if part is None or id(part) in seen or (plain and not atoms):
            continue
        if not plain:  # equal numbers may be one object or two
            seen.add(id(part))
        kept.append(part)
        yield part
        if isinstance(part, types.FunctionType):  # a list in which the user counts calls is not restored
            if borrowed or _OWN in part.__dict__:
                ahead += reversed([cell.cell_contents for cell in _cells_with_state(part)])
                ahead += reversed([default for default in _defaults(part) if _is_state(default)])
        elif isinstance(part, nn.Module):
            ahead += reversed([value for name, value in vars(part).items() if not _of_hooks(name)])
        else:
            ahead += reversed(list(parts(part)))


def _of_hooks(name: str) -> bool:
    return name.startswith("_") and "hook" in name


def _is_ours(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("lossnav.")


def _without_ours(table: dict[Any, Any]) -> dict[Any, Any]:
    return {key: hook for key, hook in table.items() if not _is_ours(hook)}


def _same_items(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _alike(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    return len(a) == len(b) and all(name in a and a[name] is value for name, value in b.items())
