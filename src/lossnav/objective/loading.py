"""Read a DataLoader again and again without starting its workers anew.

A pass over data that is not kept would start `num_workers` processes and end them: at every point of a surface, at
every product with a Hessian. Here a private copy of the loader keeps its workers from pass to pass; the user's own is
never iterated, and so neither starts nor holds any.

Workers that live on remember. Every pass begins as if they had just been started: their random generators and what the
dataset keeps of its own (a counter, a generator, an open file) are put back, and the order of the samples is drawn from
the same numbers. So a pass has the same bits as one by new workers.
"""

from __future__ import annotations

import copy
import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lossnav.objective import kept_state


def without_restarts(source: Any) -> Any:
    """Return what reads a source again without starting its workers anew; itself where it has none.

    A loader that iterates in a way of its own is left as it is, and so is a datapipe, which torch seeds itself.
    """
    if not isinstance(source, DataLoader) or source.num_workers < 1:
        return source
    is_own = (
        type(source).__iter__ is not DataLoader.__iter__ or type(source)._get_iterator is not DataLoader._get_iterator
    )
    is_pipe = any(kind.__name__ in ("IterDataPipe", "MapDataPipe") for kind in type(source.dataset).__mro__)
    return source if is_own or is_pipe else LoaderWorkers(source)


class LoaderWorkers:
    """Passes over a DataLoader by workers that are started once.

    Passes that overlap (of two threads, or one begun inside another) have workers of their own.

    Parameters
    ----------
    loader : DataLoader
        With workers; it is not changed.

    Attributes
    ----------
    loader : DataLoader
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self._idle: list[_Private] = []
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __iter__(self) -> Iterator[Any]:
        with self._lock:
            if self._process != os.getpid():  # a forked process has no workers
                self._idle, self._process = [], os.getpid()
            private = self._idle.pop() if self._idle else _Private(self.loader)
        try:
            yield from private.batches()
        except BaseException as error:
            if not isinstance(error, GeneratorExit):  # a worker may be gone: the next pass starts others
                private.close()
                raise
            raise
        finally:
            with self._lock:
                if not private.closed:
                    self._idle.append(private)

    def close(self) -> None:
        """End the workers that wait; the next pass starts others."""
        with self._lock:
            idle, self._idle = self._idle, []
        for private in idle:
            private.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"loader": self.loader}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["loader"])  # type: ignore[misc]


class _Private:
    """A copy of a loader whose workers stay."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.closed, self._passes = False, 0
        self._loader = copy.copy(loader)
        streams = isinstance(loader.dataset, IterableDataset)
        own: Any = (_Stream if streams else _LabelledRows)(loader.dataset, loader.collate_fn)
        changes: dict[str, Any] = {
            "dataset": own,
            "worker_init_fn": _Beginning(loader.worker_init_fn),
            "persistent_workers": True,
            "_iterator": None,  # the user's own, where it is there
        }
        self._sampler = None
        if not streams:
            name = "batch_sampler" if loader.batch_sampler is not None else "sampler"
            self._sampler = changes[name] = _Numbered(getattr(loader, name), loader.generator)
        vars(self._loader).update(changes)  # torch refuses to set these one by one

    def batches(self) -> Iterator[Any]:
        """One pass; what a new loader draws from the generator of its order, this one draws too."""
        self._passes += 1
        if self._sampler is not None:
            self._sampler.number = self._passes
        elif self._passes > 1:
            _draw_seed(self._loader.generator)
        yield from self._loader

    def close(self) -> None:
        """End the workers."""
        self.closed = True
        vars(self._loader)["_iterator"] = None  # what it was ends its workers when nobody refers to it


class _Numbered:
    """A sampler whose indices say of which pass they are."""

    def __init__(self, sampler: Iterable[Any], generator: torch.Generator | None) -> None:
        self.sampler, self.generator, self.number = sampler, generator, 0

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        if self.number > 1:  # torch asks a new loader twice, and draws a seed for its workers between
            iter(self.sampler)
            _draw_seed(self.generator)
        return _labelled(self.number, iter(self.sampler))

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]


def _draw_seed(generator: torch.Generator | None) -> None:
    """As torch does for new workers."""
    torch.empty((), dtype=torch.int64).random_(generator=generator)


def _labelled(number: int, indices: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    return ((number, index) for index in indices)


class _Remembered:
    """A dataset in a worker: at the beginning of each pass in the state in which the worker was started."""

    def __init__(self, dataset: Any, collate: Any) -> None:
        self.inner, self.collate = dataset, collate
        self._number = -1
        self._kept: kept_state.Kept | None = None
        self._generators: tuple[Any, ...] = ()

    def begin(self, number: int) -> None:
        """Put back what passes before this one have left."""
        if number == self._number:
            return
        self._number = number
        if self._kept is None:
            self._kept = kept_state.Kept((self.inner, self.collate), numbers=False, borrowed=True)
            self._generators = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
            return
        self._kept.restore()
        random.setstate(self._generators[0])
        np.random.set_state(self._generators[1])  # noqa: NPY002
        torch.set_rng_state(self._generators[2])


class _LabelledRows(_Remembered):
    """A dataset with indices that say of which pass they are."""

    def __getitem__(self, labelled: tuple[int, Any]) -> Any:
        number, index = labelled
        self.begin(number)
        return self.inner[index]

    def __getitems__(self, labelled: tuple[int, Any]) -> Any:
        number, indices = labelled
        self.begin(number)
        several = getattr(self.inner, "__getitems__", None)
        return several(indices) if several else [self.inner[index] for index in indices]

    def __len__(self) -> int:
        return len(self.inner)


class _Stream(_Remembered, IterableDataset[Any]):
    """A dataset that is iterated: in each worker once a pass."""

    def __iter__(self) -> Iterator[Any]:
        self.begin(self._number + 1)
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


class _Beginning:
    """What a worker does first: it knows the user's dataset for its own, and calls the user's `worker_init_fn`."""

    def __init__(self, function: Callable[[int], Any] | None) -> None:
        self.function = function

    def __call__(self, worker: int) -> None:
        info = get_worker_info()
        if info is not None:
            object.__setattr__(
                info, "dataset", cast(Any, info.dataset).inner
            )  # it refuses to be changed in the usual way
        if self.function is not None:
            self.function(worker)
