"""The base class of engines: points in, outcomes out, in any order."""

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
    """The result of one point.

    Attributes
    ----------
    number : int
        The index of the point among the requested points.
    values : mapping of str to float
        Loss and metrics; empty if the function raised.
    error : str or None
        The exception, if the function raised.
    """

    number: int
    values: Mapping[str, float]
    error: str | None = None


class Engine(ABC):
    """Evaluates a function at points.

    A subclass defines `run` and `stop`; all else has defaults. It must pass the tests of `lossnav.testing.EngineLaws`.

    Attributes
    ----------
    precision : str
        The precision in which points are computed, one of ``lossnav.engines.plan.PRECISIONS``; "native" if the function
        is called as it is. A run cannot be resumed with another precision.
    on_wait : callable
        Called about twice a second with a message while no point can be computed yet (machines are starting). If it
        raises, the wait ends, and `prepare` or `run` raises the same exception. `evaluate` sets it to show the message
        and to react to Ctrl-C.

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
        """The number of points computed at the same time, after `prepare` was called."""
        return 1

    @property
    def threads(self) -> int:
        """The number of threads that compute a point."""
        return torch.get_num_threads()

    def prepare(self, function: PointFunction, probes: NDArray[np.float64], total: int | None) -> PointFunction:
        """Return the function to run instead of this one: it has the same values, and may be faster.

        Parameters
        ----------
        function : callable
            If it has a method ``accelerate``, an engine may use it.
        probes : ndarray of shape (m, k)
            Points at which both must agree; the first is the centre.
        total : int or None
            The number of points that will be requested, if it is known.
        """
        return function

    @abstractmethod
    def run(self, function: PointFunction, points: NDArray[np.float64]) -> Iterator[Outcome]:
        """Yield the outcome of each of the points, shape (m, k), as it completes; an exception is an outcome too."""

    @abstractmethod
    def stop(self) -> None:
        """End the present `run`: points that were begun are finished and yielded, and no others are begun."""

    def close(self) -> None:  # noqa: B027 - most engines have nothing to release
        """Release what `prepare` acquired (workers, connections); called at the end of every run, however it ends."""

    def describe(self) -> dict[str, Any]:
        """Return how the points were computed, in values that JSON can hold; by default the kind and the precision."""
        return {"kind": type(self).__name__, "plan": "plain", "precision": self.precision}


def description_of(engine: Engine) -> dict[str, Any]:
    """Return an engine's description, with defaults for the keys that a surface requires."""
    return Engine.describe(engine) | dict(engine.describe())


def every_outcome(
    engine: Engine,
    function: PointFunction,
    points: NDArray[np.float64],
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Outcome]:
    """Yield the outcomes of an engine's `run`, exactly one for each point, unless it was stopped.

    A point that the engine omits counts as failed. An outcome for an unknown point, or a second one for the same point,
    is dropped with a warning.

    Parameters
    ----------
    engine, function, points
        As for `Engine.run`.
    stopped : callable
        Whether the engine was told to stop, so that it may omit points.
    """
    left = set(range(len(points)))
    for outcome in engine.run(function, points):
        if outcome.number not in left:
            warnings.warn(
                f"{type(engine).__name__} returned an outcome for point {outcome.number}, which was not requested or "
                "had one already; it is dropped. Test the engine with lossnav.testing.EngineLaws.",
                LossnavWarning,
                stacklevel=2,
            )
            continue
        left.remove(outcome.number)
        yield outcome
    if not stopped():
        for number in sorted(left):
            yield Outcome(number, {}, f"EvaluationError: {type(engine).__name__} returned no outcome for this point.")
