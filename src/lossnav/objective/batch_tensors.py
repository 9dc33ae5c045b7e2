"""The tensors of a batch, which may be any container or object: find, copy, move, change and compare them."""

from __future__ import annotations

import copy
import hashlib
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav.errors import DataError
from lossnav.objective import contents as contents_module

Batch = Any

TARGET_KEYS = ("labels", "label", "targets", "target", "y")  # names that a batch may give its targets


def move(batch: Batch, device: torch.device, float_dtype: torch.dtype | None = None) -> Batch:
    """Copy every tensor of a batch to a device, so that the user's own tensors do not change.

    Arrays become tensors; double-precision arrays, the default of NumPy, are converted to the model's `float_dtype`. An
    object of any class (BatchEncoding, a graph, a dataclass) is copied with its tensors, and its own ``to(device)`` is
    called on the copy if it has one.
    """

    def finish(remade: Any) -> Any:
        moved = remade.to(device) if hasattr(remade, "to") else None
        return remade if moved is None else moved

    return map_tensors(batch, lambda tensor: tensor.detach().to(device, copy=True), float_dtype, finish)


def map_tensors(
    batch: Batch,
    change: Callable[[Tensor], Tensor],
    float_dtype: torch.dtype | None = None,
    finish: Callable[[Any], Any] | None = None,
) -> Batch:
    """Return the same batch with every tensor (or array) changed, depth first; other values stay as they are.

    Containers are new. An object that holds tensors is replaced by a copy that holds the changed ones; `finish`, if
    given, is applied to every object.
    """
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "biufc":
        tensor = torch.from_numpy(np.ascontiguousarray(batch))
        return change(tensor.to(float_dtype) if float_dtype and tensor.dtype == torch.float64 else tensor)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(map_tensors(part, change, float_dtype, finish) for part in batch))
    if type(batch) in (list, tuple):
        return type(batch)(map_tensors(part, change, float_dtype, finish) for part in batch)
    if type(batch) is dict:
        return {key: map_tensors(part, change, float_dtype, finish) for key, part in batch.items()}
    if not contents_module.is_object(batch):
        return batch
    inside = {id(tensor): tensor for tensor in contents_module.tensors(batch)}
    if not inside and finish is None:
        return batch
    return (finish or itself)(_remade(batch, {key: change(tensor) for key, tensor in inside.items()}))


def _remade(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of an object in which some tensors, given by their id, are replaced."""
    try:
        return copy.deepcopy(value, dict(memo))
    except Exception as error:  # it holds a lock or an open file: copy the parts with tensors, share the rest
        try:
            made = copy.copy(value)
            for name, part in vars(made).items():
                if any(id(tensor) in memo for tensor in contents_module.tensors(part)):
                    object.__setattr__(made, name, copy.deepcopy(part, dict(memo)))
            return made
        except Exception:
            raise DataError(
                f"A batch holds a {type(value).__name__} that cannot be copied: {error}. lossnav works on a copy so "
                "that your data never changes. Pass batches of tensors, or give the class a __deepcopy__."
            ) from error


def itself(value: Any) -> Any:
    """Return the value: a change that changes nothing."""
    return value


def to_double(tensor: Tensor) -> Tensor:
    """Convert a floating-point tensor to float64; return any other as it is."""
    return tensor.double() if tensor.is_floating_point() else tensor


def versions(batch: Batch) -> list[int]:
    """How often each tensor was written to."""
    return [tensor._version for tensor in tensors(batch)]


def tensors(batch: Batch) -> Iterator[Tensor]:
    """Every tensor in a batch, depth first; those of an object in the order of its attributes."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, np.ndarray) and batch.dtype.kind in "biufc":
        yield torch.from_numpy(np.ascontiguousarray(batch))
    elif isinstance(batch, Mapping):
        for part in batch.values():
            yield from tensors(part)
    elif isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        for part in batch:
            yield from tensors(part)
    elif contents_module.is_object(batch):
        yield from contents_module.tensors(batch)


def same(a: Batch, b: Batch) -> bool:
    """Whether all tensors of two batches are equal; NaN equals NaN.

    >>> same([torch.tensor([1.0, float("nan")])], [torch.tensor([1.0, float("nan")])])
    True
    """
    ours, theirs = list(tensors(a)), list(tensors(b))
    return len(ours) == len(theirs) and all(contents_module.equal(x, y) for x, y in zip(ours, theirs, strict=True))


def only_tensors(batch: Batch) -> bool:
    """Whether a batch holds nothing but tensors."""
    if isinstance(batch, Mapping):
        return all(only_tensors(part) for part in batch.values())
    if isinstance(batch, list | tuple):
        return all(only_tensors(part) for part in batch)
    return isinstance(batch, Tensor)


def n_bytes(batch: Batch) -> int:
    """Bytes of all tensors in a batch."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors(batch))


def update_hash(batch: Batch, digest: hashlib._Hash) -> None:
    """Feed the tensors of a batch into a hash; an object without tensors is pickled."""
    found = {str(i): tensor for i, tensor in enumerate(tensors(batch))}
    if found:
        algebra.update_hash(digest, found)
        return
    try:
        digest.update(pickle.dumps(batch))
    except Exception:  # an object that cannot be pickled counts by its type
        digest.update(type(batch).__qualname__.encode())
