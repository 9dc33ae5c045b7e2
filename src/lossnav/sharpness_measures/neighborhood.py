"""The loss around an objective's centre as a function of flat steps; it counts its passes and can be stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav.curvature.hessian import Hessian
from lossnav.curvature.loss_operator import ProductPrecision
from lossnav.curvature.products import Entries, Signs
from lossnav.objective.objective import Objective


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A stop was requested; used only within this package."""


class Neighborhood:
    """Loss, gradient and Hessian-vector products at the centre of an objective and at steps away from it.

    A step is a Tensor of shape (d,), float64: the parameters that move, concatenated. The others stay constant.

    Parameters
    ----------
    objective : Objective
    params, exclude, precision
        Parameters that move and precision of the model, as in `Hessian`.
    stopping : callable
        Returns before each pass whether to stop.
    advance : callable
        Called after each pass.

    Attributes
    ----------
    objective : Objective
        Without metrics, in the requested precision.
    names : tuple of str
        The parameters that move.
    size : int
        Number of entries d of a step.
    center : float
        The loss at the centre.
    evaluations, gradients, products : int
        Numbers of losses, gradients and Hessian-vector products so far.
    passes : int
        Number of passes over the data so far.

    Raises
    ------
    OptionError
        If no parameter is left to move, or an option is unknown.
    Stopped
        During use, if `stopping` returns True.
    """

    def __init__(
        self,
        objective: Objective,
        params: str | Sequence[str] = "*",
        exclude: str | Sequence[str] = (),
        precision: ProductPrecision = "native",
        stopping: Callable[[], bool] = lambda: False,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self._moving: dict[str, Any] = {"params": params, "exclude": exclude}
        self._hessian = Hessian(objective, **self._moving, precision=precision)
        self.objective, self.names, self.size = self._hessian.objective, self._hessian.names, self._hessian.size
        self._stopping, self._advance = stopping, advance
        self.center = self.objective.evaluate(self.objective.params)["loss"]
        anew = self.objective.bn == "recompute"  # the statistics first; their derivatives last
        self._each, self._each_derived = (2, 3) if anew else (1, 1)
        self.evaluations, self.gradients, self.products, self.passes = 1, 0, 0, self._each

    @property
    def stopped(self) -> bool:
        """Whether a stop was requested."""
        return self._stopping()

    def origin(self) -> Tensor:
        """Return the zero step."""
        return torch.zeros(self.size, dtype=torch.float64, device=self.objective.device)

    def signs(self, seed: int) -> Signs:
        """Vectors of random signs."""
        return Signs(self._hessian, seed)

    def entries(self, seed: int) -> Entries:
        """Return unit vectors in random order."""
        return Entries(self._hessian, seed)

    def normal(self, generator: torch.Generator) -> Tensor:
        """Return standard normal numbers of shape (d,), drawn on the CPU, so that they are the same on every device."""
        drawn = torch.randn(self.size, dtype=torch.float64, generator=generator)
        return drawn.to(self.objective.device)

    def loss(self, step: Tensor) -> float:
        """Return the loss at a step from the centre."""
        return self.loss_at(self._at(step))

    def loss_at(self, params: Mapping[str, Tensor]) -> float:
        """Return the loss at any point."""
        self._begin()
        value = self.objective.evaluate(params)["loss"]
        self.evaluations += 1
        self._passed(self._each)
        return value

    def slope(self, step: Tensor) -> tuple[float, Tensor]:
        """Return loss and gradient, shape (d,), at a step from the centre."""
        self._begin()
        found = Hessian(self.objective, self._at(step), **self._moving).derive()
        self.gradients += 1
        self._passed(self._each_derived)
        return found.loss, found.gradient

    def multiply(self, *vectors: Tensor) -> list[Tensor]:
        """Return H v at the centre for vectors of shape (d,), in one pass over the data."""
        self._begin()
        made = self._hessian.derive(vectors).products
        self.products += len(vectors)
        self._passed(self._each_derived)
        return made

    def rounding(self, size: float) -> float:
        """Return the rounding error of products with a Hessian of this size."""
        return self._hessian.rounding(size)

    def _at(self, step: Tensor) -> dict[str, Tensor]:
        return algebra.combine(self.objective.params, [1.0], [self._hessian.from_flat(step)])

    def _passed(self, passes: int) -> None:
        self.passes += passes
        self._advance()

    def _begin(self) -> None:
        if self.stopped:
            raise Stopped
