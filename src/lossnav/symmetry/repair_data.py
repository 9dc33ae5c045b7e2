"""The data that REPAIR measures statistics on: training data, a seeded part of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from lossnav._utils.validation import described
from lossnav.errors import DataError, OptionError
from lossnav.objective import batch_tensors
from lossnav.objective.batches import Batches
from lossnav.objective.objective import Objective

_SAMPLES = 1000


@dataclass(frozen=True)
class RepairData:
    """The data that statistics are measured on, and how many samples of it.

    Parameters
    ----------
    data : (x, y) tensors or arrays, dict of tensors, Dataset, DataLoader, iterable of batches, or Objective
        Training data, in the form that the objective takes; of an objective its data.
    samples : int or None
        How many samples to draw without replacement; None, or no more than there are: all of them. Batches that are
        more than tensors with one row per sample (graphs, padded text of several lengths) are all used.
    seed : int
        Seed of the draw.

    Raises
    ------
    OptionError
        If `samples` is not a number from 2 upwards.

    Examples
    --------
    >>> RepairData((torch.ones(5, 2), torch.ones(5)), samples=3).samples
    3
    """

    data: Any
    samples: int | None = _SAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a number of samples that gives no standard deviation."""
        n = self.samples
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 2):
            raise OptionError(f"samples is {described(n)}. Pass a whole number from 2 upwards, or None for all.")


def drawn(objective: Objective, asked: RepairData) -> tuple[Batches, int | None]:
    """Return the samples to measure on, and how many they were drawn from; None if they are all.

    Raises
    ------
    OptionError, DataError
        If there is no data.
    """
    own = objective.batches
    if asked.data is None:
        raise OptionError("There is no repair data. Pass training data: repair=(x_train, y_train).")
    if isinstance(asked.data, Objective):
        batches = asked.data.batches
        if batches is None:
            raise OptionError("The objective that was passed as repair data has no data. Pass one that has, or data.")
    else:
        dtype = next(iter(objective.params.values())).dtype if own is None else own.float_dtype
        batches = Batches(asked.data, device=objective.device, float_dtype=dtype, seed=objective.seed, progress=False)
    if asked.samples is None:
        return batches, None
    rows = [next(iter(batch_tensors.tensors(batch)), None) for batch in batches]
    if any(row is None or row.dim() == 0 for row in rows):
        return batches, None
    total = sum(len(cast(Tensor, row)) for row in rows)
    if asked.samples >= total:
        return batches, None
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(asked.seed))[: asked.samples]
    try:
        return batches.take(chosen.sort().values.tolist()), total
    except DataError:  # no rows to draw: all of it
        return batches, None


def fingerprint_of(batches: Batches) -> str:
    """Return sixteen hex digits that change with any bit of the data."""
    digest = hashlib.sha256()
    batches.update_hash(digest)
    return digest.hexdigest()[:16]
