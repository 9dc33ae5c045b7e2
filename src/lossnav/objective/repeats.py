"""Repeated samples in the data, and the classes of samples, found in the pass that hashes the data anyway."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossnav.objective.batch_tensors import TARGET_KEYS, Batch, only_tensors, tensors

_BUDGET = 2**31  # bytes of data up to which rows are compared
_COLUMNS = 64  # columns of each tensor that are used to tell copies from coincidences
_BITS = 16  # bits that a row must hold for equal rows to be copies
_TOO_EVEN = 1e-3  # probability of counts as equal as these, if equal rows were coincidences


class Repeats:
    """Looks at one batch after another; afterwards `copies` and `labels` are known.

    Equal rows are copies if a row holds more than a few bits. Rows of a few zeros and ones are often equal by chance,
    and the standard error is right for them; they are copies only if each of them occurs equally often.
    """

    def __init__(self) -> None:
        self._keys: list[NDArray[np.uint64]] | None = []
        self._kinds: set[tuple[Any, ...]] = set()  # dtypes and shapes of the parts of a row
        self._columns: list[NDArray[np.float64]] = []
        self._labels: list[NDArray[np.int64]] | None = []
        self._bytes = 0

    def look(self, batch: Batch) -> None:
        """Look at a batch."""
        parts = list(tensors(batch))
        self._bytes += sum(part.numel() * part.element_size() for part in parts)
        lengths = {part.shape[0] if part.dim() else -1 for part in parts}
        if self._bytes > _BUDGET or len(lengths) != 1 or -1 in lengths or not only_tensors(batch):
            self._keys = None
        if self._keys is not None:
            arrays = [_array(part) for part in parts]
            self._keys.append(_row_keys(arrays))
            self._kinds.add(tuple((str(part.dtype), *part.shape[1:]) for part in parts))
            self._columns.append(np.concatenate([_some_columns(array) for array in arrays], axis=1))
        target = _target(batch)
        if target is None:
            self._labels = None
        elif self._labels is not None:
            self._labels.append(target.cpu().numpy().astype(np.int64))

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of every sample, shape (n,), or of every position; None if the targets are not classes."""
        if not self._labels or len({labels.shape[1:] for labels in self._labels}) != 1:
            return None
        return np.concatenate(self._labels)

    @property
    def rows(self) -> str | None:
        """Sixteen hex digits that change with the samples and their order, not with the batches; None if not known."""
        if not self._keys or len(self._kinds) != 1:
            return None
        digest = hashlib.sha256(repr(sorted(self._kinds)).encode())
        digest.update(np.concatenate(self._keys).tobytes())
        return digest.hexdigest()[:16]

    def copies(self) -> dict[str, Any]:
        """``distinct`` rows, and the factor ``copies`` on the variance of a mean, Σ c² / n; empty if not known."""
        if not self._keys or len({columns.shape[1] for columns in self._columns}) != 1:
            return {}
        keys = np.concatenate(self._keys)
        counts = np.unique(keys, return_counts=True)[1]
        distinct, n = len(counts), len(keys)
        factor = float((counts**2).sum() / n)
        if distinct == n or not (self._holds_much(distinct) or _too_even(counts)):
            return {"distinct": n, "copies": 1.0}
        return {"distinct": distinct, "copies": factor}

    def _holds_much(self, distinct: int) -> bool:
        columns = np.concatenate(self._columns)
        bits = 0.0
        for column in columns.T:
            bits += math.log2(max(1, len(np.unique(column))))
            if bits >= _BITS:
                return True
        return False


def _too_even(counts: NDArray[np.int64]) -> bool:
    """Whether the rows occur so equally often that it cannot be chance."""
    from scipy.special import chdtr

    mean = counts.mean()
    if len(counts) < 5 or mean < 1.5:
        return False
    dispersion = float(((counts - mean) ** 2).sum() / mean)
    return bool(chdtr(len(counts) - 1, dispersion) < _TOO_EVEN)


def _array(tensor: Tensor) -> NDArray[Any]:
    """The tensor's values as they lie in memory, shape (n, entries)."""
    flat = tensor.detach().reshape(tensor.shape[0], -1).cpu().contiguous()
    if flat.is_complex():
        flat = torch.view_as_real(flat).flatten(1)
    if flat.dtype in (torch.bfloat16,):
        flat = flat.view(torch.int16)
    made: NDArray[Any] = flat.numpy()
    return made


def _some_columns(array: NDArray[Any]) -> NDArray[np.float64]:
    chosen = np.unique(np.linspace(0, max(0, array.shape[1] - 1), _COLUMNS).astype(int))[: array.shape[1]]
    columns: NDArray[np.float64] = array[:, chosen].astype(np.float64)
    return columns


def _row_keys(arrays: list[NDArray[Any]]) -> NDArray[np.uint64]:
    """A hash of 64 bits for each row; equal rows have equal hashes."""
    made = np.zeros(len(arrays[0]), np.uint64)
    for i, array in enumerate(arrays):
        width = array.shape[1] * array.itemsize
        padded = np.zeros((len(array), -(-width // 8) * 8), np.uint8)
        padded[:, :width] = np.ascontiguousarray(array).view(np.uint8).reshape(len(array), width)
        words = padded.view(np.uint64)
        factors = np.random.default_rng(i).integers(0, 2**63, words.shape[1], dtype=np.uint64) * 2 + 1
        mixed = (words ^ (words >> np.uint64(29))) * factors
        made = (made ^ (made >> np.uint64(31))) * np.uint64(0x9E3779B97F4A7C15) + mixed.sum(1, dtype=np.uint64)
    return made


def _target(batch: Batch) -> Tensor | None:
    """The targets of a batch (its last part, or the one with a usual name), if they are whole numbers."""
    if isinstance(batch, Mapping):
        found = next((batch[key] for key in TARGET_KEYS if key in batch), None)
    else:
        found = batch[-1] if isinstance(batch, list | tuple) and len(batch) > 1 else None
    if not isinstance(found, Tensor) or found.is_floating_point() or found.is_complex() or not found.dim():
        return None
    return found
