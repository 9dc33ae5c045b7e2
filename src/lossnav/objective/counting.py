"""How many samples a batch holds, which is also its weight in a mean where nothing better is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from lossnav.errors import DataError, OptionError
from lossnav.objective.batch_tensors import Batch, tensors

Counting = Callable[[Batch, Any], int]  # of a batch and its targets

_INPUTS = (  # usual names of the inputs of a model, the most reliable first
    "input_ids", "inputs_embeds", "pixel_values", "input_values", "input_features", "x", "input", "inputs", "images",
    "image", "features", "attention_mask",
)  # fmt: skip


def resolve_count(count: Any) -> Counting:
    """Turn the option ``count=`` into a function of a batch and its targets.

    Raises
    ------
    OptionError
        If it is neither None, "samples", "targets" nor a callable.
    """
    if count is None or (isinstance(count, str) and count == "samples"):
        return count_samples
    if isinstance(count, str) and count == "targets":
        return _count_targets
    if not callable(count):
        raise OptionError(f"count={count!r} is unknown. Use 'samples', 'targets', or a callable count(batch) -> int.")
    return _Own(count)


class _Own:
    """The user's own way of counting."""

    def __init__(self, function: Callable[[Batch], Any]) -> None:
        self.function = function

    def __call__(self, batch: Batch, targets: Any) -> int:
        n = self.function(batch)
        number = n.item() if isinstance(n, np.generic) or (isinstance(n, Tensor) and n.numel() == 1) else n
        if isinstance(number, bool) or not isinstance(number, int | float) or number != int(number) or number < 0:
            raise OptionError(f"count(batch) returned {n!r}. Return the number of samples in the batch, 0 or more.")
        return int(number)


def count_samples(batch: Batch, targets: Any = None) -> int:
    """Count the samples of a batch from the inputs of the model; targets may be concatenated.

    Graphs are counted by ``num_graphs``, packed sequences by their sequences, a list by its entries, a tensor by its
    first axis, and a dict by ``input_ids``, ``pixel_values``, ``x`` or a similar key; otherwise the most common length
    decides. If the first tensor has shape (T, n, features) and the other parts have length n, its first axis is time.

    Examples
    --------
    >>> import torch
    >>> images, boxes = torch.zeros(2, 3, 8, 8), torch.zeros(7, 4)
    >>> count_samples((images, boxes), boxes)
    2
    """
    graphs = _graphs(batch)
    if graphs is not None:
        return graphs
    if isinstance(batch, PackedSequence | Tensor | np.ndarray):
        return _length(batch) or 1
    if isinstance(batch, Mapping):
        known = next((key for key in _INPUTS if _length(batch.get(key)) is not None), None)
        return _most_common(batch) if known is None else _length(batch[known]) or 0
    if isinstance(batch, list | tuple) and batch:
        first, rest = batch[0], batch[1:]
        if isinstance(first, list | tuple | Mapping) and not isinstance(first, PackedSequence):
            return _of_nested(first, rest, targets)
        n = _length(first)
        if n is not None:
            others = {_length(part) for part in rest} - {None}
            time_first = isinstance(first, Tensor) and first.dim() == 3 and n not in others
            return int(first.shape[1]) if time_first and int(first.shape[1]) in others else n
    if isinstance(targets, Tensor) and targets.dim():
        return int(targets.shape[0])
    return _most_common(batch)


def _of_nested(first: Any, rest: Any, targets: Any) -> int:
    """Samples of a list: its entries, or the rows of the inputs in it."""
    if isinstance(first, Mapping):
        return count_samples(first)
    inside = [_length(part) for part in first]
    rows = inside[0] if inside and len(set(inside)) == 1 else None
    if rows is None:
        return len(first)
    others = {_length(part) for part in (*rest, targets)} - {None}
    if (len(first) in others) != (rows in others):
        return len(first) if len(first) in others else rows
    images = isinstance(first, list) and isinstance(first[0], Tensor) and first[0].dim() == 3 and rows in (1, 3, 4)
    return len(first) if images else rows


def _graphs(batch: Batch) -> int | None:
    parts = batch if isinstance(batch, list | tuple) else batch.values() if isinstance(batch, Mapping) else ()
    for part in (batch, *parts):
        n = None if isinstance(part, Tensor) else getattr(part, "num_graphs", None)
        if isinstance(n, int) and not isinstance(n, bool):
            return n
    return None


def _length(part: Any) -> int | None:
    """Samples in one part of a batch; None if it does not have a length."""
    if isinstance(part, PackedSequence):
        return int(part.batch_sizes[0])
    if isinstance(part, Tensor | np.ndarray):
        return int(part.shape[0]) if part.ndim else None
    return len(part) if isinstance(part, list) else None


def _most_common(batch: Batch) -> int:
    lengths = Counter(int(tensor.shape[0]) for tensor in tensors(batch) if tensor.dim())
    return lengths.most_common(1)[0][0] if lengths else 1


def _count_targets(batch: Batch, targets: Any) -> int:
    n = _length(targets)
    if n is None:
        raise DataError(
            f"count='targets' needs targets with a length, but they are of type {type(targets).__name__}. Pass "
            "count=lambda batch: the number of samples in it."
        )
    return n
