"""Directions in weight space, as values that carry the recipe by which they were made.

A direction is a ``dict[str, Tensor]`` with the names and shapes of the objective's parameters (zeros for parameters
that it does not change). Its ``recipe`` holds its kind, its seed, its norm, and the norm of each tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils.validation import described
from lossnav.directions import lazy as lazily
from lossnav.directions.normalize import require_same
from lossnav.errors import DirectionError, OptionError
from lossnav.objective.networks import Network

Distribution = Literal["normal", "uniform"]


TOGETHER = 128  # directions computed at once; the draws are repeated for the next ones


class Direction(dict[str, Tensor]):
    """A vector with the names and shapes of parameters, and the recipe by which it was made.

    Attributes
    ----------
    recipe : dict
        Values that JSON can hold: ``kind``, ``seed``, ``normalize``, ``norm`` (float64, over all tensors), ``norms``
        (Frobenius norm of each tensor that is not zero), and other options of the function that made it.
    points : tuple of Network
        The checkpoints between which it leads, if any; charts take buffers from them. ``-d``, ``2 * d`` and ``d / 2``
        keep them. A dict made from its tensors (``{name: 2 * d[name] ...}``) does not, and a chart of that dict uses
        the buffers of its centre everywhere.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], recipe: Mapping[str, Any], points: tuple[Network, ...] = ()
    ) -> None:
        super().__init__(tensors)
        self.points = points
        norms = {name: length for name, length in algebra.norms(self).items() if length}
        self.recipe: dict[str, Any] = {**recipe, "norm": algebra.norm(self), "norms": norms}

    def copy(self) -> Direction:
        """Return the same direction, which shares its tensors."""
        return Direction(self, self.recipe, self.points)

    def __mul__(self, factor: Any) -> Direction:
        """Return the direction times a number.

        A direction between checkpoints still leads to them, at coordinate 1 / factor. For any other, the kind of the
        result is "given".
        """
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        tensors = {name: tensor * float(factor) for name, tensor in self.items()}
        if not self.points:
            return Direction(tensors, {"kind": "given"})
        return Direction(tensors, self.recipe | {"times": float(factor) * self.recipe.get("times", 1.0)}, self.points)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Direction:
        factor: float = 1.0 / divisor
        return self * factor

    def __neg__(self) -> Direction:
        return self * -1.0

    def __add__(self, other: Any) -> Direction:
        """Return the sum of two directions that do not lead to a checkpoint.

        Raises
        ------
        DirectionError
            If one leads to a checkpoint: the sum leads to another network, whose buffers are not known.
        StructureMismatchError
            If names or shapes differ.
        """
        if not isinstance(other, Mapping):
            return NotImplemented
        if self.points or getattr(other, "points", ()):
            raise DirectionError(
                "A sum of directions between checkpoints leads to none of them, so its buffers are not known. Put the "
                "checkpoints on one chart, ln.Plane(a, *ln.directions.through(a, b, c)), which contains the sums; or "
                "add the weights only, {name: d1[name] + d2[name] for name in d1}, to use the buffers of the centre."
            )
        require_same(other, self)
        return Direction({name: tensor + other[name] for name, tensor in self.items()}, {"kind": "given"})

    def __sub__(self, other: Any) -> Direction:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self + (-other if isinstance(other, Direction) else {name: -tensor for name, tensor in other.items()})

    def __repr__(self) -> str:
        options = ", ".join(
            f"{key}={self.recipe[key]!r}" for key in ("kind", "normalize", "seed") if key in self.recipe
        )
        return f"Direction({options}, norm={self.recipe['norm']:.4g})"


def cosines(directions: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Return the cosine of every pair of directions, under keys ``"0,1"``, ``"0,2"``, ..."""
    gram = lazily.gram(directions)
    lengths = [math.sqrt(square) for square in gram.diagonal()]
    return {
        f"{i},{j}": float(gram[i, j] / length) if (length := lengths[i] * lengths[j]) else math.nan
        for i, j in combinations(range(len(directions)), 2)
    }


def direction_dtype(center: Tensor) -> torch.dtype:
    """Return the dtype of a direction for a parameter: the parameter's own, or float32 if that is less precise."""
    return torch.promote_types(center.dtype, torch.float32)


def require_number(n: int) -> None:
    """Raise OptionError unless n is a positive number of directions."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise OptionError(f"The number of directions n must be an integer, got {described(n)}. Pass, for example, n=2.")
    if n < 1:
        raise OptionError(f"The number of directions must be positive, got n={n}. Ask for 1 or more.")
