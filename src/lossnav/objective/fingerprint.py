"""A hash over everything that the value of a function depends on, as far as it can be found."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from lossnav import params as algebra

_PLAIN = (int, float, str, Tensor, np.ndarray)
_DEPTH = 6  # levels of references: deeper than any loss made of classes, weights and closures


def update(digest: hashlib._Hash, value: Any, depth: int = _DEPTH) -> None:
    """Feed a value into a hash: tensors by their bytes, functions by their names and what they enclose.

    Other class weights, another number in a closure or another keyword of a partial change the hash. The code of a
    function does not: a user who corrects a loss that raised may continue with the stored points. Objects that cannot
    be inspected (the state of a C extension) count by their type.
    """
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Tensor):
        algebra.update_hash(digest, {"": value})
    elif value is None or isinstance(value, str | bytes | int | float | complex | bool):
        digest.update(repr(value).encode())
    elif depth == 0:
        digest.update(type(value).__qualname__.encode())
    elif isinstance(value, Mapping):
        for key, part in value.items():
            digest.update(repr(key).encode())
            update(digest, part, depth - 1)
    elif isinstance(value, Sequence):
        digest.update(f"{type(value).__qualname__}{len(value)}".encode())
        for part in value:
            update(digest, part, depth - 1)
    elif isinstance(value, functools.partial):
        update(digest, (value.func, value.args, value.keywords), depth - 1)
    elif isinstance(value, types.MethodType):
        update(digest, (value.__func__, value.__self__), depth - 1)
    elif isinstance(value, types.FunctionType):
        digest.update(value.__name__.encode())
        # not lists and dicts: a function may count its calls in one
        enclosed = [c.cell_contents for c in value.__closure__ or () if _filled(c) and not _grows(c.cell_contents)]
        named = {name: value.__globals__.get(name) for name in value.__code__.co_names}
        shared = {name: part for name, part in named.items() if isinstance(part, _PLAIN)}
        update(digest, (enclosed, value.__defaults__, value.__kwdefaults__, shared), depth - 1)
    elif isinstance(value, nn.Module):
        digest.update(type(value).__qualname__.encode())
        algebra.update_hash(digest, {**dict(value.named_parameters()), **dict(value.named_buffers())})
        update(
            digest, {name: part for name, part in _public_attributes(value).items() if name != "training"}, depth - 1
        )
    else:
        digest.update(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value))}".encode())
        if not isinstance(value, type | types.BuiltinFunctionType | types.ModuleType):
            update(digest, _public_attributes(value), depth - 1)


def _public_attributes(value: Any) -> dict[str, Any]:
    """The public plain attributes of an object; private ones may be counters or caches."""
    every = getattr(value, "__dict__", {})
    return {name: part for name, part in every.items() if isinstance(part, _PLAIN) and not name.startswith("_")}


def _grows(value: Any) -> bool:
    return isinstance(value, list | dict | set)


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # the name is not bound yet
        return False
