"""Control points and control vectors of a chart: checks, comparisons, and conversion to float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav.charts.anchors import points_of
from lossnav.directions import lazy as lazily
from lossnav.directions.base import Direction
from lossnav.directions.lazy import LazyDirection
from lossnav.errors import DirectionError, StructureMismatchError
from lossnav.objective.networks import coincidence
from lossnav.params import Params


def require_direction(direction: Mapping[str, Tensor], center: Params, dim: str) -> None:
    """Raise unless a direction has the structure of the centre, is finite, and is not zero.

    Raises
    ------
    StructureMismatchError
        If names or shapes differ.
    DirectionError
        If the direction is zero or not finite.
    """
    if difference := algebra.first_difference(lazily.structure(direction), center):
        raise StructureMismatchError(
            f"The direction along {dim} and the centre differ at {difference}. They probably come from two "
            "architectures. Make directions from the same objective: ln.directions.random(objective, n=2)."
        )
    lengths = lazily.norms(direction)
    for name, length in lengths.items():
        if not math.isfinite(length):
            raise DirectionError(
                f'The direction along {dim} contains NaN or infinite entries in "{name}". '
                "Check the checkpoints or gradients from which it was computed."
            )
    if not any(lengths.values()):
        coincidences = [coincidence(*pair) for pair in combinations(points_of(direction), 2)]
        if coincidences and all(coincidences):
            raise DirectionError(coincidences[0])
        raise DirectionError(f"The direction along {dim} is zero. Pass a direction that is not zero.")


def detached(direction: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a direction without its autograd graph (it may come from a model's parameters); its recipe stays."""
    if isinstance(direction, LazyDirection) or not any(tensor.requires_grad for tensor in direction.values()):
        return direction
    tensors = {name: tensor.detach() for name, tensor in direction.items()}
    return Direction(tensors, getattr(direction, "recipe", {"kind": "given"}), points_of(direction))


def is_lazy(vector: Mapping[str, Tensor]) -> bool:
    """Whether a vector is drawn again at each use instead of being stored."""
    return isinstance(vector, LazyDirection)


def is_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two points are equal up to rounding."""
    if all(one[name] is tensor or torch.equal(one[name], tensor) for name, tensor in other.items()):
        return True
    rounding = max(torch.finfo(t.dtype).eps if t.is_floating_point() or t.is_complex() else 0.0 for t in other.values())
    return algebra.norm(algebra.subtract(to_double(one), to_double(other))) <= 4 * rounding * algebra.norm(other)


def to_double(params: Mapping[str, Tensor]) -> Params:
    """Return a point in float64 or complex128, without a graph."""
    wide = {name: torch.complex128 if tensor.is_complex() else torch.float64 for name, tensor in params.items()}
    return {name: tensor.detach().to(wide[name]) for name, tensor in params.items()}


def moving_names(*directions: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors in which at least one direction is not zero."""
    return [name for name in directions[0] if any(_moves(direction, name) for direction in directions)]


def _moves(direction: Mapping[str, Tensor], name: str) -> bool:
    if isinstance(direction, LazyDirection):
        return name in direction.recipe["norms"]
    return bool(torch.any(direction[name] != 0))
