"""What every engine is: points in, outcomes out, in any order."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lossnav.engines.plan import Precision
from lossnav.errors import LossnavWarning

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

    A class of engines has `run` and `stop`; what else it says or holds has defaults. `lossnav.testing.EngineLaws` are
    the laws that it must pass.

    Attributes
    ----------
    precision : str
        What the points are computed in, one of ``lossnav.engines.plan.PRECISIONS``: "native" where the function is
        called as it is. Two runs of different precisions are not one run.
    on_wait : callable
        Called about twice a second with what is waited for, where no point can be computed yet (machines that start);
        what it raises ends the wait, and comes out of `prepare` or `run`. `evaluate` sets it to show the words and to
        hear Ctrl-C.

    Raises
    ------
    TypeError
        If a class without `run` or `stop` is constructed.

    Examples
    --------
    An engine that computes the points in reverse order:

    >>> class Backwards(Engine):
    ...     def run(self, function, points):
    ...         for number in reversed(range(len(points))):
    ...             yield Outcome(number, function(points[number]))
    ...     def stop(self):
    ...         pass
    >>> points = np.array([[0.0], [2.0]])
    >>> [outcome.number for outcome in Backwards().run(lambda point: {"loss": point[0] ** 2}, points)]
    [1, 0]
    """

    precision: Precision = "native"
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
        """Yield the outcome of every point of `points`, shape (m, k), once, as it comes; an error is an outcome too."""

    @abstractmethod
    def stop(self) -> None:
        """End a `run` that is under way: what was begun is finished and yielded, nothing more is begun."""

    def close(self) -> None:  # noqa: B027 - most engines hold nothing
        """Give back what `prepare` took (workers, connections); called at the end of every run, however it ends."""

    def describe(self) -> dict[str, Any]:
        """Say how the points were computed, in values that JSON can hold; by default the kind and the precision."""
        return {"kind": type(self).__name__, "plan": "plain", "precision": self.precision}


def description_of(engine: Engine) -> dict[str, Any]:
    """Return what an engine says of itself, completed by what a surface needs to know of any."""
    return Engine.describe(engine) | dict(engine.describe())


def every_outcome(
    engine: Engine,
    function: PointFunction,
    points: NDArray[np.float64],
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Outcome]:
    """Yield what an engine's `run` does, held to its word: one outcome for each point, unless it was stopped.

    A point that it passes over has failed; an outcome of no point, or a second one, is left out with a warning.

    Parameters
    ----------
    engine, function, points
        As of `Engine.run`.
    stopped : callable
        Whether the engine was told to stop, so that it may pass points over.
    """
    left = set(range(len(points)))
    for outcome in engine.run(function, points):
        if outcome.number not in left:
            warnings.warn(
                f"{type(engine).__name__} gave an outcome of point {outcome.number}, which was not asked for or had "
                "one already; it is left out. Test the engine with lossnav.testing.EngineLaws.",
                LossnavWarning,
                stacklevel=2,
            )
            continue
        left.remove(outcome.number)
        yield outcome
    if not stopped():
        for number in sorted(left):
            yield Outcome(number, {}, f"EvaluationError: {type(engine).__name__} gave no outcome of this point.")
