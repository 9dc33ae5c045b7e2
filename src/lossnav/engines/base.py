"""What every engine is: points in, outcomes out, in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Point = NDArray[np.float64]  # (k,)
PointFunction = Callable[[Point], Mapping[str, float]]


class Outcome(NamedTuple):
    """What became of one point.

    Attributes
    ----------
    number : int
        Which of the points asked for.
    values : mapping of str to float
        Empty where the function raised.
    error : str or None
        What it raised.
    """

    number: int
    values: Mapping[str, float]
    error: str | None = None


class Engine(ABC):
    """Runs a function at points.

    Attributes
    ----------
    on_wait : callable
        Called about twice a second with what is waited for, where no point can be computed yet (machines that start);
        what it raises ends the wait, and comes out of `prepare` or `run`. `evaluate` sets it to show the words and to
        hear Ctrl-C.
    """

    on_wait: Callable[[str], None] = staticmethod(lambda words: None)

    @property
    def concurrency(self) -> int:
        """How many points are computed at the same time, once `prepare` was called."""
        return 1

    @property
    def threads(self) -> int:
        """How many threads compute a point."""
        return torch.get_num_threads()

    def prepare(self, function: PointFunction, probes: NDArray[np.float64], total: int | None) -> PointFunction:
        """Return the function to run in place of this one: the same values, perhaps sooner.

        Parameters
        ----------
        function : callable
            Where it has a method ``accelerate`` an engine may use it.
        probes : ndarray of shape (m, k)
            Points at which both must agree; the first is the centre.
        total : int or None
            How many points will be asked for.
        """
        return function

    @abstractmethod
    def run(self, function: PointFunction, points: NDArray[np.float64]) -> Iterator[Outcome]:
        """Yield the outcome of every point of `points`, shape (m, k), as it comes; an error is an outcome too."""

    @abstractmethod
    def stop(self) -> None:
        """End a `run` that is under way: what was begun is finished and yielded, nothing more is begun."""

    def close(self) -> None:  # noqa: B027 - most engines hold nothing
        """Give back what `prepare` took (workers, connections); called at the end of every run, however it ends."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Say how the points were computed, in values that JSON can hold."""
