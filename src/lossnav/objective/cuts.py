"""Probes for whether a value depends on how the data is split into batches: a few samples, as one batch and as two."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossnav.objective.batch_tensors import Batch, tensors
from lossnav.objective.functional import StepValues
from lossnav.objective.reduction import reduce_steps

_MOST = 8  # samples in a probe
_COLUMNS, _EACH = 3, 2  # properties by which uneven samples are sought, and samples from either end of each
_LOOKED_AT = 2**24  # entries of the data that are searched
_SPECIAL = (0, -100, 255, -1)  # values that usually mark a position that does not count


@dataclass(frozen=True)
class Cut:
    """The loss (or a metric) of a few samples, split in two ways.

    Attributes
    ----------
    samples : int
    whole, parts : float
        As one batch, and as two batches.
    """

    samples: int
    whole: float
    parts: float

    def agrees(self, tolerance: float) -> bool:
        """Whether both values agree up to rounding; values that are not finite agree with any."""
        if not (math.isfinite(self.whole) and math.isfinite(self.parts)):
            return True
        return abs(self.whole - self.parts) <= tolerance * max(abs(self.whole), abs(self.parts), 1e-12)


@dataclass(frozen=True)
class Probe:
    """A few samples as one batch and as two."""

    whole: Batch
    parts: tuple[Batch, Batch]

    def measure(self, measure: Callable[[Batch], StepValues], name: str = "loss") -> Cut | None:
        """Measure the loss or a metric in both ways; None if the parts do not have as many samples as the whole."""
        whole, *parts = (measure(batch) for batch in (self.whole, *self.parts))
        if whole[0] != sum(part[0] for part in parts):
            return None
        return Cut(whole[0], reduce_steps([whole], True)[0][name], reduce_steps(parts, True)[0][name])


def probes(batches: Sequence[Batch], count: Callable[[Batch], int]) -> list[Probe]:
    """Probes of a few samples of the first and the last batch: together if they can be joined, else one for each.

    Both batches are used because padding may occur in only some of them. Parts have at least two samples if possible,
    because many models cannot take one.
    """
    few: list[Batch] = []
    for batch in batches:
        n = count(batch)
        few.append(rows(batch, n, 0, min(n, _MOST if len(batches) == 1 else _MOST // 2)))
    if len(few) == 2 and (whole := joined(*few)) is not None:
        return [Probe(whole, (few[0], few[1]))]
    found = []
    for batch in few:
        size = 0 if batch is None else count(batch)
        if size > 1:
            first = 2 if size > 3 else 1
            a, b = rows(batch, size, 0, first), rows(batch, size, first, size)
            found.append(Probe(batch, (a, b)))
    return found


def uneven(batches: Iterable[Batch], count: Callable[[Batch], int]) -> list[Probe]:
    """Probes of samples that differ most in what may weight them: marks of padding, NaNs, single numbers.

    The first and the last samples may be complete and count equally although others do not. Empty if all samples are
    alike in these respects, or hold more than tensors with one row per sample.
    """
    tables: list[Tensor] = []
    spent = 0
    for batch in batches:
        inside = list(tensors(batch))
        spent += sum(tensor.numel() for tensor in inside)
        n = count(batch)
        if spent > _LOOKED_AT or any(not tensor.dim() or len(tensor) != n for tensor in inside):
            break
        columns = [column for tensor in inside for column in _marks(tensor)]
        if not columns or (tables and len(columns) != tables[0].shape[1]):
            break
        tables.append(torch.stack(columns, 1))
    if not tables:
        return []
    table = torch.cat(tables).nan_to_num()
    spreads = (table.amax(0) - table.amin(0)) / table.abs().amax(0).clamp_min(1e-300)
    columns = [column for column in spreads.argsort(descending=True)[:_COLUMNS].tolist() if spreads[column] > 0]
    ends = [
        [table[:, column].argsort(descending=largest, stable=True)[:_EACH].tolist() for largest in (False, True)]
        for column in columns
    ]
    wanted = {row for pair in ends for chosen in pair for row in chosen}
    found: dict[int, Batch] = {}
    start = 0
    for batch, known in zip(batches, tables, strict=False):
        stop = start + len(known)
        found |= {r: rows(batch, len(known), r - start, r - start + 1) for r in wanted if start <= r < stop}
        start = stop
    made = []
    for pair in ends:
        low, high = (functools.reduce(_joined_if_both, [found[row] for row in chosen]) for chosen in pair)
        if (whole := _joined_if_both(low, high)) is not None:
            made.append(Probe(whole, (low, high)))
    return made


def _joined_if_both(a: Batch | None, b: Batch | None) -> Batch | None:
    return None if a is None or b is None else joined(a, b)


def _marks(tensor: Tensor) -> list[Tensor]:
    """For each row the number of marks in it, or its value if it is one number; float64, shape (n,) each."""
    flat = tensor.flatten(1) if tensor.dim() > 1 else tensor[:, None]
    if flat.is_complex():
        return []
    if flat.shape[1] == 1:
        return [flat[:, 0].double()]
    made = [(flat == mark).sum(1).double() for mark in _SPECIAL]
    return [*made, flat.isnan().sum(1).double()] if flat.is_floating_point() else made


def joined(a: Batch, b: Batch) -> Batch | None:
    """Two batches joined into one; None if they do not fit together."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        fits = a.dim() > 0 and a.shape[1:] == b.shape[1:] and a.dtype == b.dtype
        return torch.cat([a, b]) if fits else None
    if type(a) is not type(b):
        return None
    if hasattr(a, "to_data_list") and hasattr(type(a), "from_data_list"):  # batches of graphs
        return type(a).from_data_list([*a.to_data_list(), *b.to_data_list()])
    if isinstance(a, Mapping):
        named = {key: joined(part, b.get(key)) for key, part in a.items()}
        return None if any(part is None for part in named.values()) else named
    if isinstance(a, tuple) or (isinstance(a, list) and len(a) == len(b) and not isinstance(a[0], Tensor)):
        parts = [joined(part, other) for part, other in zip(a, b, strict=True)]
        if not any(part is None for part in parts):
            made: Any = type(a)
            return made(*parts) if hasattr(a, "_fields") else made(parts)
    return None


def rows(batch: Batch, n: int, start: int, stop: int) -> Batch | None:
    """Samples start to stop of a batch of n; None if a part of it does not have one entry per sample."""
    if isinstance(batch, Tensor):
        return batch[start:stop] if batch.dim() and len(batch) == n else None
    if hasattr(batch, "to_data_list") and hasattr(type(batch), "from_data_list"):  # a batch of graphs
        return type(batch).from_data_list(batch.to_data_list()[start:stop])
    if isinstance(batch, tuple | list):
        if isinstance(batch, list) and len(batch) == n and not _counts_inside(batch, n):
            return batch[start:stop]
        parts: list[Any] = [rows(part, n, start, stop) for part in batch]
        if any(part is None for part in parts):
            return None
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if isinstance(batch, Mapping):
        named = {key: rows(part, n, start, stop) for key, part in batch.items()}
        return None if any(part is None for part in named.values()) else named
    return None


def _counts_inside(batch: list[Any], n: int) -> bool:
    """Whether a list holds tensors with one row per sample each: [x, y] of two samples."""
    return all(isinstance(part, Tensor) and part.dim() > 0 and len(part) == n for part in batch)
