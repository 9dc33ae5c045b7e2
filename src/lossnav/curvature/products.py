"""Products with an operator as all estimates make them: several in one pass, on a bar, until somebody asks to stop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from lossnav._utils.conclusion import conclude
from lossnav._utils.progress import Progress
from lossnav._utils.signals import StopRequests
from lossnav.curvature.base import CheckedOperator
from lossnav.errors import OptionError

R = TypeVar("R")

_MEMORY = 2**30  # bytes for the vectors of one pass: each is held flat, cut, summed and joined, 32 bytes an entry
_MOST = 10  # vectors in one pass: with more the passes before them weigh little, and Ctrl-C waits for a whole one


class Products:
    """Multiply vectors with an operator, for a `with`: the first Ctrl-C in it asks to stop.

    Parameters
    ----------
    operator : CheckedOperator
    description : str
        What is being done, for the progress bar.
    total : int or None
        How many products there will be.
    show : bool or None
        See `Progress`.

    Attributes
    ----------
    count : int
        Products made so far.
    most : int
        How many vectors fit in one pass.
    """

    def __init__(self, operator: CheckedOperator[Any], description: str, total: int | None, show: bool | None) -> None:
        self.operator = operator
        self.count, self._passes = 0, operator.passes
        self._squares, self._vectors = 0.0, 0.0
        self.most = max(1, min(_MOST, _MEMORY // (32 * operator.size)))
        self._bar, self._stop = Progress(description, total, "products", show), StopRequests()

    @property
    def signal(self) -> int | None:
        """The signal that asked to stop, if one did."""
        return self._stop.signal

    def __call__(self, vectors: Tensor) -> Tensor:
        """Products with some vectors, shape (k, d) as theirs, float64, in one pass over the data."""
        images = self.operator.multiply(vectors)
        self.count += len(vectors)
        self._bar.advance(len(vectors))
        self._squares += float(images.square().sum())
        self._vectors += float(vectors.square().sum())
        return images

    @property
    def passes(self) -> int:
        """Over the data, for these products."""
        return self.operator.passes - self._passes

    def conclude(self, result: R, doubt: str = "") -> R:
        """Return a result, or raise Interrupted with it, or warn; for the public function that made the products."""
        return conclude(result, self.signal, f"{self.count} products", doubt, above=1)

    @property
    def norm(self) -> float:
        """The Frobenius norm of the operator as far as its products show it; exact where these are with a basis."""
        mean = self._squares / self._vectors if self._vectors else 0.0
        return math.sqrt(mean * self.operator.size) if math.isfinite(mean) else 0.0

    @property
    def rounding(self) -> float:
        """What rounding may make of a trace: a digit or two of the operator's norm."""
        return 2 * self.operator.rounding(self.norm)

    def in_blocks(self, vectors: Tensor) -> Tensor:
        """The same, in as many passes as it takes; fewer products where a stop was asked for."""
        made = []
        for block in torch.split(vectors, self.most):
            made.append(self(block))
            if self.signal is not None:
                break
        return torch.cat(made)

    def __enter__(self) -> Products:
        self._stop.__enter__()
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)
        self._stop.__exit__(kind, error, trace)


class Signs:
    """Vectors of random signs (Rademacher), drawn on the CPU one after the other: the same on every device.

    Parameters
    ----------
    operator : CheckedOperator
        Whose vectors they are to be.
    seed : int

    Examples
    --------
    >>> from lossnav.curvature import Hessian
    >>> from lossnav.objective.objective import Objective
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.ones(5)})
    >>> Signs(Hessian(bowl), seed=0).draw(2).abs().sum()
    tensor(10., dtype=torch.float64)
    """

    def __init__(self, operator: CheckedOperator[Any], seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise OptionError(f"seed={seed!r} cannot be used. Pass a whole number from 0 upwards.")
        self._size, self._device = operator.size, operator.device
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, n: int) -> Tensor:
        """The next n, shape (n, d), float64."""
        drawn = [torch.randint(0, 2, (self._size,), generator=self._generator, dtype=torch.int8) for _ in range(n)]
        return (2 * torch.stack(drawn).to(self._device, torch.float64)) - 1

    def blocks(self, n: int, most: int) -> Iterator[Tensor]:
        """The next n, at most so many at a time."""
        for first in range(0, n, most):
            yield self.draw(min(most, n - first))


class Entries:
    """Vectors that show one entry of the diagonal each: unit vectors in a random order, all of them different.

    Where there are no more parameters than products, they give trace and diagonal to rounding, and random signs would
    leave to chance what need not be.

    Parameters
    ----------
    operator : CheckedOperator
        Whose vectors they are to be.
    seed : int

    Examples
    --------
    >>> from lossnav.curvature import Hessian
    >>> from lossnav.objective.objective import Objective
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.ones(5)})
    >>> sum(block.sum(0) for block in Entries(Hessian(bowl), seed=0).blocks(5, most=2))
    tensor([1., 1., 1., 1., 1.], dtype=torch.float64)
    """

    def __init__(self, operator: CheckedOperator[Any], seed: int) -> None:
        self._size, self._device = operator.size, operator.device
        self._order = torch.randperm(operator.size, generator=torch.Generator().manual_seed(seed))

    def blocks(self, n: int, most: int) -> Iterator[Tensor]:
        """The first n, at most so many at a time, shape (k, d), float64."""
        for places in torch.split(self._order[:n], most):
            made = torch.zeros((len(places), self._size), dtype=torch.float64, device=self._device)
            made[range(len(places)), places.to(self._device)] = 1.0
            yield made


def without(vectors: Tensor, known: Tensor | None) -> Tensor:
    """What of some vectors is orthogonal to the orthonormal rows of `known`, shape (k, d)."""
    return vectors if known is None else vectors - (vectors @ known.T) @ known
