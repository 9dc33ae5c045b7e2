"""The data of an objective: any batches, loaded once and kept on the device if they fit.

Any source becomes a sequence of *batches*. A batch is whatever the source yields (a tuple, a dict, a tensor, an object
of the user's own), with its tensors on the objective's device. Its tensors are never the user's own, and it is the same
in every pass, whatever earlier passes did to it.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from lossnav._utils import random_state
from lossnav._utils.progress import Progress
from lossnav._utils.validation import described
from lossnav.errors import DataError
from lossnav.objective.batch_tensors import (
    Batch,
    itself,
    map_tensors,
    move,
    n_bytes,
    only_tensors,
    tensors,
    to_double,
    update_hash,
    versions,
)
from lossnav.objective.loading import LoaderWorkers, without_restarts
from lossnav.objective.sources import Slices, as_iterable, generators_of

DEFAULT_BUDGET = 4 * 1024**3


def default_batch_size(device: torch.device) -> int:
    """Samples per batch if the user does not pass `batch_size`.

    On the CPU activations of 50 samples stay in the cache (2-6x faster than one batch of 1,000 on the notebook's CNN;
    125 is sometimes as slow as 1,000, because its activations are mapped and returned at every layer).
    """
    return 50 if device.type == "cpu" else 1024


class Batches:
    """Batches in a fixed order, iterated as often as needed.

    Parameters
    ----------
    source : tuple or dict of tensors, Dataset, DataLoader, or iterable of batches
        Tensors (or NumPy arrays) of equal length are split into batches. A Dataset goes through a DataLoader in its
        stored order. Any other iterable yields the batches itself.
    device : torch.device
        Device of the batches.
    batch_size : int, optional
        For tensors and Datasets; the last batch may be shorter. By default 50 on the CPU, 1,024 elsewhere.
    budget : int
        Bytes of data to keep. A larger source is read again in each pass, so it must be possible to iterate it twice.
    float_dtype : torch.dtype, optional
        The dtype that double-precision NumPy arrays are converted to.
    progress : bool or None
        Whether to show a bar while loading (None: on a terminal).
    seed : int
        Seed for the random numbers that a loader draws when it starts, and perhaps for its order.

    Attributes
    ----------
    written_to : bool
        Whether a pass writes into its batches; every pass then gets copies. Set by the objective, or when a batch has
        changed since the last pass.

    Raises
    ------
    DataError
        If there is no data, lengths differ, or a one-time iterator exceeds the budget.
    """

    def __init__(
        self,
        source: Any,
        *,
        device: torch.device,
        batch_size: int | None = None,
        budget: int = DEFAULT_BUDGET,
        float_dtype: torch.dtype | None = None,
        progress: bool | None = None,
        seed: int = 0,
    ) -> None:
        if batch_size is None:
            batch_size = default_batch_size(device)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer):
            raise DataError(f"batch_size is {described(batch_size)}. Pass a whole number from 1 upwards.")
        if not isinstance(budget, int | float | np.number):
            raise DataError(f"data_budget is {described(budget)}. Pass a number of bytes: data_budget=4 * 2**30.")
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}. Pass a whole number from 1 upwards.")
        self.device, self.float_dtype, self.seed = device, float_dtype, seed
        self.written_to = False
        self._source = without_restarts(as_iterable(source, batch_size))
        self._kept: list[Batch] | None = []
        self._versions: list[list[int]] = []
        self._first: Batch = None  # of data that is not kept
        self.n_bytes = 0
        self.count = 0
        with Progress("load data", None, "batches", progress) as bar:
            for batch in self._read():
                self.count += 1
                self.n_bytes += n_bytes(batch)
                if self._kept is not None:
                    if self.n_bytes > budget:
                        self._require_second_pass(budget)
                        self._first = self._kept[0] if self._kept else move(batch, device, float_dtype)
                        self._kept = None
                    else:
                        self._kept.append(move(batch, device, float_dtype))
                bar.advance()
        self._keep(self._kept)
        if self._kept is not None and isinstance(self._source, LoaderWorkers):
            self._source.close()
        if self.count == 0:
            used_up = isinstance(source, Iterator)
            raise DataError(
                f"The data is empty: {described(source)} yields nothing, or nothing more. Pass at least one sample: a "
                "list of batches, or the DataLoader itself, which can be read again."
                if used_up
                else "The data is empty: it yields no batch. Pass at least one sample."
            )

    @property
    def resident(self) -> bool:
        """Whether the data is kept on the device; else it is read again in each pass."""
        return self._kept is not None

    def __iter__(self) -> Iterator[Batch]:
        if self._kept is None:
            yield from (move(batch, self.device, self.float_dtype) for batch in self._read())
            return
        for number in range(len(self._kept)):
            if versions(self._kept[number]) != self._versions[number]:
                self._read_again(number)
            batch = self._kept[number]
            # new containers each time: a forward may pop the labels out of its batch
            yield move(batch, self.device) if self.written_to else map_tensors(batch, itself)

    def __len__(self) -> int:
        return self.count

    def peek(self) -> Batch:
        """The first batch, without reading the source, whose workers would start with the next ones."""
        if self._kept is None and self._first is not None:
            return move(self._first, self.device)
        return next(iter(self))

    @property
    def last(self) -> list[Batch]:
        """The last batch of several that are kept; empty if that takes a pass over the source."""
        return self._kept[-1:] if self._kept is not None and len(self._kept) > 1 else []

    def __getstate__(self) -> dict[str, Any]:
        """Kept data is copied or sent without its source, which may be large or a generator."""
        return self.__dict__ if self._kept is None else self.__dict__ | {"_source": self._kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._keep(self._kept)  # tensors that were sent start with new versions

    def take(self, rows: Sequence[int]) -> Batches:
        """Return some of the samples in their order, as new batches that are kept on the device.

        The new batches are as long as the longest old one, or slightly shorter so that all have about the same length.
        All samples together keep their batches. If batches differ in more than their length (padded text), each keeps
        those of its samples that were drawn.

        Parameters
        ----------
        rows : increasing sequence of int
            Which samples, counted over all batches.

        Raises
        ------
        DataError
            If a batch holds anything but tensors with one row per sample.
        """
        wanted = torch.as_tensor(rows)
        lengths: list[int] = []
        pieces: list[Batch] = []
        with random_state.preserved(self.seed, self.device):
            for batch in self:
                found = {tensor.shape[0] if tensor.dim() else -1 for tensor in tensors(batch)}
                if len(found) != 1 or -1 in found or not only_tensors(batch):
                    raise DataError(
                        "A subset cannot be drawn, because a batch holds more than tensors with one row per sample. "
                        "Pass data as (x, y) tensors, or choose the samples yourself."
                    )
                start, length = sum(lengths), found.pop()
                inside = wanted[(wanted >= start) & (wanted < start + length)] - start
                if len(inside):
                    pieces.append(map_tensors(batch, lambda tensor, rows=inside: tensor[rows.to(tensor.device)]))  # type: ignore[misc]
                lengths.append(length)
        taken = copy.copy(self)
        taken._kept = pieces
        columns = [list(column) for column in zip(*(tensors(piece) for piece in pieces), strict=True)]
        if len(wanted) < sum(lengths) and all(len({part.shape[1:] for part in column}) == 1 for column in columns):
            joined = iter([torch.cat(column) for column in columns])
            whole = map_tensors(pieces[0], lambda _: next(joined))
            cuts = torch.linspace(0, len(wanted), -(-len(wanted) // max(lengths)) + 1).long().tolist()
            taken._kept = [map_tensors(whole, lambda t, a=a, b=b: t[a:b].clone()) for a, b in itertools.pairwise(cuts)]  # type: ignore[misc]
        taken._keep(taken._kept)
        taken._source, taken.count = taken._kept, len(taken._kept)
        taken.n_bytes = sum(n_bytes(batch) for batch in taken._kept)
        return taken

    def first(self, samples: int | None = None) -> Batches:
        """Return only the first batch, or its first samples if it consists of tensors with one row per sample."""
        with random_state.preserved(self.seed, self.device):
            batch = self.peek()
        found = {tensor.shape[0] if tensor.dim() else -1 for tensor in tensors(batch)}
        if samples is not None and len(found) == 1 and -1 not in found and only_tensors(batch):
            batch = map_tensors(batch, lambda tensor: tensor[:samples])
        taken = copy.copy(self)
        taken._kept = taken._source = [batch]
        taken.count, taken.n_bytes = 1, n_bytes(batch)
        return taken

    def double(self) -> Batches:
        """Return the same batches with floating-point tensors in float64."""
        other = copy.copy(self)
        if self._kept is not None:
            other._keep([map_tensors(batch, to_double) for batch in self._kept])
        else:
            other._source, other._first = _Doubled(self), map_tensors(self._first, to_double)
        return other

    def update_hash(self, digest: hashlib._Hash, look: Callable[[Batch], None] | None = None) -> None:
        """Feed every batch into a hash, in order, and call `look` with it."""
        for batch in self:
            update_hash(batch, digest)
            if look is not None:
                look(batch)

    def _keep(self, kept: list[Batch] | None) -> None:
        self._kept = kept
        self._versions = [versions(batch) for batch in kept or ()]

    def _read_again(self, number: int) -> None:
        """Read a changed batch again from its source; from now on every pass gets copies."""
        assert self._kept is not None
        self.written_to = True
        if self._source is self._kept or not isinstance(
            self._source, Slices | list | tuple
        ):  # other sources may be shuffled
            raise DataError(
                f"Batch {number} of the data was changed by the model, the loss or a metric, and cannot be read "
                "again. Let forward() write into a copy (x = x.clone()), or pass tensors or a list of batches."
            )
        batch = next(itertools.islice(iter(self._source), number, None))
        self._kept[number] = move(batch, self.device, self.float_dtype)
        self._versions[number] = versions(self._kept[number])

    def _read(self) -> Iterator[Batch]:
        """One pass over the source; the random generators of a loader and its samplers are restored."""
        states = [(generator, generator.get_state()) for generator in generators_of(self._source)]
        try:
            yield from self._source
        finally:
            for generator, state in states:
                generator.set_state(state)

    def _require_second_pass(self, budget: int) -> None:
        if isinstance(self._source, Iterator):
            raise DataError(
                f"The data is larger than the budget of {budget:,} bytes and can be iterated only once. Pass a "
                "DataLoader or a list instead of a generator, or increase data_budget=."
            )


class _Doubled:
    """Batches in float64 that are read again in each pass."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            yield map_tensors(batch, to_double)
