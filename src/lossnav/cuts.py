"""Whether a value depends on how the data is cut into batches, seen on a few samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lossnav.batches import Batch
from lossnav.calling import StepValues
from lossnav.measures import reduce_steps

_MOST = 8  # samples that are cut


@dataclass(frozen=True)
class Cut:
    """The loss of a few samples, or a metric, by how they were cut.

    Attributes
    ----------
    samples : int
    whole, parts : float
        As one batch, and as two.
    """

    samples: int
    whole: float
    parts: float

    def agrees(self, tolerance: float) -> bool:
        """Whether both are the same, up to rounding; what is no number says nothing."""
        if not (math.isfinite(self.whole) and math.isfinite(self.parts)):
            return True
        return abs(self.whole - self.parts) <= tolerance * max(abs(self.whole), abs(self.parts), 1e-12)


@dataclass(frozen=True)
class Probe:
    """A few samples as one batch and as two."""

    whole: Batch
    parts: tuple[Batch, Batch]

    def measure(self, measure: Callable[[Batch], StepValues], name: str = "loss") -> Cut | None:
        """Measure the loss or a metric of them; None where the samples of the parts are not those of the whole."""
        whole, *parts = (measure(batch) for batch in (self.whole, *self.parts))
        if whole[0] != sum(part[0] for part in parts):
            return None
        return Cut(whole[0], reduce_steps([whole], True)[0][name], reduce_steps(parts, True)[0][name])


def probes(batches: Sequence[Batch], count: Callable[[Batch], int]) -> list[Probe]:
    """A few samples of a first and a last batch, to be measured together and apart; or of each, where they do not fit.

    Together, since padding and the like may show in some batches alone. Parts have two samples where they can: many a
    model cannot take one.
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


def joined(a: Batch, b: Batch) -> Batch | None:
    """Two batches as one; None where they do not fit."""
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
    """Samples start to stop of a batch of n; None where it holds what does not count its samples."""
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
    """Whether a list holds things that each count all samples: [x, y] of two samples."""
    return all(isinstance(part, Tensor) and part.dim() > 0 and len(part) == n for part in batch)
