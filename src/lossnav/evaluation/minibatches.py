"""Minibatches of an objective's data in a random order that is known from the seed and the number of the pass alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch

from lossnav._utils import random_state
from lossnav.objective import comparing
from lossnav.objective.batch_tensors import Batch, map_tensors
from lossnav.objective.objective import Objective


class ShuffledData:
    """Passes over an objective's data in minibatches.

    Samples that are rows of tensors are shuffled anew in each pass, and split into minibatches of about one length.
    Batches of anything else stay as they are: they come in a random order if they are kept on the device, else in the
    order in which they are read. A function without data has one step a pass.

    Parameters
    ----------
    objective : Objective
    size : int
        Samples of a minibatch, at most.
    seed : int

    Attributes
    ----------
    steps : int
        Minibatches of a pass.
    """

    def __init__(self, objective: Objective, size: int, seed: int) -> None:
        self._batches, self._seed, self._objective = objective.batches, seed, objective
        self._rows, self._joined = 0, None
        if self._batches is None:
            self.steps = 1
        else:
            if self._batches.resident:
                self._joined, self._rows = comparing.join(self._batches)
            self.steps = len(self._batches) if self._joined is None else -(-self._rows // min(size, self._rows))

    @property
    def splits(self) -> bool:
        """Whether the data consists of samples that can be drawn one by one."""
        return self._joined is not None

    def generator(self, number: int) -> torch.Generator:
        """Return the generator of random numbers of a pass."""
        state = np.random.SeedSequence([self._seed, number]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]) >> 1)

    def draw(self, number: int) -> tuple[list[torch.Tensor], list[float]]:
        """Return the places on the curve of all steps of a pass, uniform in [0, 1], and which rows each has."""
        generator = self.generator(number)
        places = torch.rand(self.steps, generator=generator, dtype=torch.float64).tolist()
        count = self._rows or self.steps
        order = torch.randperm(count, generator=generator)
        return list(torch.tensor_split(order, self.steps)), places

    def batches(self, number: int, start: int = 0) -> Iterator[tuple[Batch, float]]:
        """Yield the minibatches of a pass from a step on, each with its place on the curve."""
        rows, places = self.draw(number)
        if self._batches is None:
            yield from ((None, place) for place in places[start:])
        elif self._joined is not None:
            for chosen, place in zip(rows[start:], places[start:], strict=True):
                on_device = chosen.to(self._objective.device)
                yield map_tensors(self._joined, lambda tensor, on=on_device: tensor[on]), place  # type: ignore[misc]
        elif self._batches.resident:
            kept = list(self._batches)
            yield from ((kept[int(i)], place) for i, place in zip(rows[start:], places[start:], strict=True))
        else:
            with random_state.preserved(self._objective.seed, self._objective.device):
                read = itertools.islice(self._batches, start, None)
                yield from zip(read, places[start:], strict=False)
