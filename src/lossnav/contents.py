"""What a value of the user's is made of, as far as it can be seen: objects, closures, and the tensors in them.

A loss may be a module, a `functools.partial`, a bound method or a function that encloses a module; a batch may be an
object of any class. All that lossnav copies, watches or restores it finds by the one walk of this file.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_ATOMS = (  # nothing of what these refer to is looked into
    str, bytes, bytearray, int, float, complex, type, types.ModuleType, types.BuiltinFunctionType, types.CodeType,
    types.GeneratorType, types.FrameType, torch.dtype, torch.device, torch.Generator, torch.Size, np.ndarray,
    np.generic, range, slice,
)  # fmt: skip
_MOST = 100_000  # objects that are looked at: whoever encloses a whole data set in a loss need not wait for it


def is_object(value: Any) -> bool:
    """Whether a value is more than a number, a word or a function: it may hold tensors.

    >>> is_object(3), is_object("word"), is_object({"x": 1}), is_object(torch.nn.ReLU())
    (False, False, True, True)
    """
    return not (value is None or isinstance(value, (*_ATOMS, Tensor, types.FunctionType)))


def parts(value: Any) -> Iterator[Any]:
    """What a value refers to: items, attributes, what a function encloses."""
    if value is None or isinstance(value, (*_ATOMS, Tensor)):
        return
    if isinstance(value, _CONTAINERS):
        yield from value.values() if isinstance(value, dict) else value
    if isinstance(value, types.FunctionType):
        yield from (cell.cell_contents for cell in filled(value))
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    else:
        yield from (getattr(value, "__dict__", None) or {}).values()
        slots = (name for kind in type(value).__mro__ for name in _listed(getattr(kind, "__slots__", ())))
        yield from (
            getattr(value, name) for name in slots if name not in ("__dict__", "__weakref__") and hasattr(value, name)
        )


def reachable(value: Any) -> Iterator[Any]:
    """A value and all that it refers to, each once, depth first.

    >>> layer = torch.nn.Linear(2, 1)
    >>> any(part is layer.weight for part in reachable(functools.partial(layer, torch.ones(2))))
    True
    """
    seen: set[int] = set()
    ahead = [value]
    kept = []  # ids are those of living objects: an attribute may be made when it is asked for
    while ahead and len(seen) < _MOST:
        part = ahead.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        kept.append(part)
        yield part
        ahead += reversed(list(parts(part)))


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor that a value reaches, once."""
    return (part for part in reachable(value) if isinstance(part, Tensor))


def filled(function: types.FunctionType) -> list[types.CellType]:
    """Cells of what a function encloses, without names that are not bound yet."""

    def is_bound(cell: types.CellType) -> bool:
        try:
            return cell.cell_contents is not cell
        except ValueError:
            return False

    return [cell for cell in function.__closure__ or () if is_bound(cell)]


def _listed(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
