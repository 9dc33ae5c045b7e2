"""Products with an operator for all estimates: several per pass, with a progress bar, until a stop is requested."""

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

_MEMORY = 2**30  # bytes for the vectors of one pass: each is stored flat, cut, summed and joined, 32 bytes per entry
_MOST = 10  # vectors per pass: more would save little time, and Ctrl-C waits for the end of a pass


class Products:
    """Multiplies vectors by an operator, in a `with` statement: within it, the first Ctrl-C requests a stop.

    Parameters
    ----------
    operator : CheckedOperator
    description : str
        Label of the progress bar.
    total : int or None
        Number of products, if it is known.
    show : bool or None
        See `Progress`.

    Attributes
    ----------
    count : int
        Products computed so far.
    most : int
        Largest number of vectors per pass.
    """

    def __init__(self, operator: CheckedOperator[Any], description: str, total: int | None, show: bool | None) -> None:
        self.operator = operator
        self.count, self._passes = 0, operator.passes
        self._squares, self._vectors = 0.0, 0.0
        self.most = max(1, min(_MOST, _MEMORY // (32 * operator.size)))
        self._bar, self._stop = Progress(description, total, "products", show), StopRequests()

    @property
    def signal(self) -> int | None:
        """The signal that requested a stop, if any."""
        return self._stop.signal

    def __call__(self, vectors: Tensor) -> Tensor:
        """Multiply vectors of shape (k, d): their products, of the same shape, float64, in one pass over the data."""
        images = self.operator.multiply(vectors)
        self.count += len(vectors)
        self._bar.advance(len(vectors))
        self._squares += float(images.square().sum())
        self._vectors += float(vectors.square().sum())
        return images

    @property
    def passes(self) -> int:
        """Number of passes over the data for these products."""
        return self.operator.passes - self._passes

    def conclude(self, result: R, doubt: str = "") -> R:
        """Return a result, raise Interrupted with it, or warn; for the public function that uses the products."""
        return conclude(result, self.signal, f"{self.count} products", doubt, above=1)

    @property
    def norm(self) -> float:
        """The Frobenius norm of the operator, estimated from its products; exact if these are with a basis."""
        mean = self._squares / self._vectors if self._vectors else 0.0
        return math.sqrt(mean * self.operator.size) if math.isfinite(mean) else 0.0

    @property
    def rounding(self) -> float:
        """The rounding error of a trace: a few units in the last place of the operator's norm."""
        return 2 * self.operator.rounding(self.norm)

    def in_blocks(self, vectors: Tensor) -> Tensor:
        """Multiply any number of vectors, in several passes; return fewer products if a stop is requested."""
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
    """Vectors of random signs (Rademacher), drawn on the CPU one after another, so equal on every device.

    Parameters
    ----------
    operator : CheckedOperator
        Defines length and device of the vectors.
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
            raise OptionError(f"seed must be an integer of 0 or more, got seed={seed!r}. Pass, for example, seed=0.")
        self._size, self._device = operator.size, operator.device
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, n: int) -> Tensor:
        """Return the next n vectors, shape (n, d), float64."""
        drawn = [torch.randint(0, 2, (self._size,), generator=self._generator, dtype=torch.int8) for _ in range(n)]
        return (2 * torch.stack(drawn).to(self._device, torch.float64)) - 1

    def blocks(self, n: int, most: int) -> Iterator[Tensor]:
        """Yield the next n vectors, at most `most` at a time."""
        for first in range(0, n, most):
            yield self.draw(min(most, n - first))


class Entries:
    """Unit vectors in a random order, all different; each gives one entry of the diagonal.

    If there are no more parameters than products, they give trace and diagonal up to rounding, without randomness.

    Parameters
    ----------
    operator : CheckedOperator
        Defines length and device of the vectors.
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
        """Yield the first n vectors, at most `most` at a time, shape (k, d), float64."""
        for places in torch.split(self._order[:n], most):
            made = torch.zeros((len(places), self._size), dtype=torch.float64, device=self._device)
            made[range(len(places)), places.to(self._device)] = 1.0
            yield made


def without(vectors: Tensor, known: Tensor | None) -> Tensor:
    """Return the part of some vectors that is orthogonal to the orthonormal rows of `known`, shape (k, d)."""
    return vectors if known is None else vectors - (vectors @ known.T) @ known
