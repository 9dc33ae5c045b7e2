"""What makes two functions the same one: a hash over whatever their value depends on, as far as it can be had."""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from lossnav import params as algebra

_DEPTH = 6  # of what refers to what: deeper than any loss of classes, weights and closures


def update(digest: hashlib._Hash, value: Any, depth: int = _DEPTH) -> None:
    """Feed a value into a hash: tensors by their bytes, functions by their code and what they enclose.

    What cannot be looked into (a C extension's state) is known by its type. So equal hashes are no proof, but other
    class weights, another closure or another keyword of a partial do show.
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
        digest.update(value.__qualname__.encode())
        _update_code(digest, value.__code__)
        enclosed = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        named = {name: value.__globals__.get(name) for name in value.__code__.co_names}
        shared = {name: part for name, part in named.items() if isinstance(part, int | float | str | Tensor | np.ndarray)}
        update(digest, (enclosed, value.__defaults__, value.__kwdefaults__, shared), depth - 1)
    elif isinstance(value, nn.Module):
        digest.update(type(value).__qualname__.encode())
        algebra.update_hash(digest, {**dict(value.named_parameters()), **dict(value.named_buffers())})
        plain = {k: v for k, v in vars(value).items() if isinstance(v, int | float | str | bool) and k != "training"}
        update(digest, plain, depth - 1)
    else:
        digest.update(f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value))}".encode())
        if not isinstance(value, type | types.BuiltinFunctionType | types.ModuleType):
            update(digest, getattr(value, "__dict__", {}), depth - 1)


def _update_code(digest: hashlib._Hash, code: types.CodeType) -> None:
    digest.update(code.co_code + repr(code.co_names).encode())
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _update_code(digest, constant)
        else:
            digest.update(repr(constant).encode())


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name that is not bound yet
        return False
