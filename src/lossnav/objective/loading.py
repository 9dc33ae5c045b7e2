"""Read a DataLoader repeatedly without restarting its workers.

A pass over data that is not kept would start and end `num_workers` processes at every point of a surface and every
product with a Hessian. Here a private copy of the loader keeps its workers from pass to pass; the user's own loader is
never iterated and never starts a worker.

Workers that stay alive have state. At the beginning of every pass their random generators and the state of the dataset
(a counter, a generator, an open file) are restored, and the order of the samples is drawn from the same numbers. So a
pass has the same bits as one by new workers.
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
    """Return a source that is read repeatedly without restarting its workers; the source itself if it has none.

    A loader with its own ``__iter__`` is left as it is, and so is a datapipe, which torch seeds itself.
    """
    if not isinstance(source, DataLoader) or source.num_workers < 1:
        return source
    is_own = (
        type(source).__iter__ is not DataLoader.__iter__ or type(source)._get_iterator is not DataLoader._get_iterator
    )
    is_pipe = any(kind.__name__ in ("IterDataPipe", "MapDataPipe") for kind in type(source.dataset).__mro__)
    return source if is_own or is_pipe else LoaderWorkers(source)


class LoaderWorkers:
    """A DataLoader whose workers are started once and kept from pass to pass.

    Passes that overlap (in two threads, or one inside another) have their own workers.

    Parameters
    ----------
    loader : DataLoader
        A loader with workers; it is not changed.

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
            if not isinstance(error, GeneratorExit):  # a worker may have died: the next pass starts new ones
                private.close()
                raise
            raise
        finally:
            with self._lock:
                if not private.closed:
                    self._idle.append(private)

    def close(self) -> None:
        """End the idle workers; the next pass starts new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for private in idle:
            private.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"loader": self.loader}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["loader"])  # type: ignore[misc]


class _Private:
    """A copy of a loader whose workers stay alive."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.closed, self._passes = False, 0
        self._loader = copy.copy(loader)
        streams = isinstance(loader.dataset, IterableDataset)
        own: Any = (_Stream if streams else _LabelledRows)(loader.dataset, loader.collate_fn)
        changes: dict[str, Any] = {
            "dataset": own,
            "worker_init_fn": _Beginning(loader.worker_init_fn),
            "persistent_workers": True,
            "_iterator": None,  # the user's loader may have one
        }
        self._sampler = None
        if not streams:
            name = "batch_sampler" if loader.batch_sampler is not None else "sampler"
            self._sampler = changes[name] = _Numbered(getattr(loader, name), loader.generator)
        vars(self._loader).update(changes)  # torch does not allow setting these one by one

    def batches(self) -> Iterator[Any]:
        """One pass; it draws from the generator of the loader what a new loader draws."""
        self._passes += 1
        if self._sampler is not None:
            self._sampler.number = self._passes
        elif self._passes > 1:
            _draw_seed(self._loader.generator)
        yield from self._loader

    def close(self) -> None:
        """End the workers."""
        self.closed = True
        vars(self._loader)["_iterator"] = None  # the iterator ends its workers when it is deleted


class _Numbered:
    """A sampler whose indices carry the number of the pass."""

    def __init__(self, sampler: Iterable[Any], generator: torch.Generator | None) -> None:
        self.sampler, self.generator, self.number = sampler, generator, 0

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        if self.number > 1:  # torch calls a new loader twice, and draws a seed for its workers between
            iter(self.sampler)
            _draw_seed(self.generator)
        return _labelled(self.number, iter(self.sampler))

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]


def _draw_seed(generator: torch.Generator | None) -> None:
    """Draw a seed, as torch does for new workers."""
    torch.empty((), dtype=torch.int64).random_(generator=generator)


def _labelled(number: int, indices: Iterator[Any]) -> Iterator[tuple[int, Any]]:
    return ((number, index) for index in indices)


class _Remembered:
    """A dataset in a worker: at the beginning of each pass the state is that at the start of the worker."""

    def __init__(self, dataset: Any, collate: Any) -> None:
        self.inner, self.collate = dataset, collate
        self._number = -1
        self._kept: kept_state.Kept | None = None
        self._generators: tuple[Any, ...] = ()

    def begin(self, number: int) -> None:
        """Restore the state that earlier passes changed."""
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
    """A dataset whose indices carry the number of the pass."""

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
    """An iterable dataset, iterated once per pass in each worker."""

    def __iter__(self) -> Iterator[Any]:
        self.begin(self._number + 1)
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


class _Beginning:
    """What a worker does first: show the user's dataset in its worker info, and call the user's `worker_init_fn`."""

    def __init__(self, function: Callable[[int], Any] | None) -> None:
        self.function = function

    def __call__(self, worker: int) -> None:
        info = get_worker_info()
        if info is not None:
            object.__setattr__(
                info, "dataset", cast(Any, info.dataset).inner
            )  # torch does not allow setting it directly
        if self.function is not None:
            self.function(worker)
