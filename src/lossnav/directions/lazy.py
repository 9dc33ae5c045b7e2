"""Lazy directions, which are drawn again at each use, and the algebra that charts need for them.

They are for models too large to be held in memory together with directions: a direction keeps only its seed and a few
numbers per filter. A point is computed from the centre piece by piece, so the point itself is the only extra memory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils.threads import in_threads
from lossnav.directions.counter_based import Draws
from lossnav.directions.draw_parts import DrawPart, block, pieces, slices
from lossnav.errors import DirectionError
from lossnav.params import Params


class Family:
    """The lazy directions of one call, which are drawn and measured together.

    Parameters
    ----------
    draws : Draws
    params : mapping of str to Tensor
        All names and shapes, including parameters that the directions do not change.

    Attributes
    ----------
    hollow : dict of str to Tensor
        Zeros that take no memory, in the shape of every parameter.
    norms : dict of str to list of n floats
        Frobenius norm of each tensor that is drawn, for each direction.
    gram : ndarray of shape (n, n)
        Inner products of the directions.
    """

    def __init__(self, draws: Draws, params: Mapping[str, Tensor]) -> None:
        self.draws = draws
        self.hollow = {name: algebra.hollow(tensor) for name, tensor in params.items()}
        self.norms, self.gram = draws.measure()

    def beside(self, more: Params) -> Family:
        """Return the same family in a space with more tensors, in which the directions are zero."""
        other = copy.copy(self)
        other.hollow = {**self.hollow, **more}
        return other


class LazyDirection(Mapping[str, Tensor]):
    """A random direction whose tensors are drawn again each time they are used.

    It has the same bits as the stored `Direction` with the same seed, and is read in the same way; ``direction[name]``
    takes the time of a draw and the memory of one tensor.

    Attributes
    ----------
    recipe : dict
        As for a `Direction`, with ``lazy``: True.
    """

    def __init__(self, family: Family, index: int, recipe: Mapping[str, Any]) -> None:
        self.family, self.index = family, index
        norms = {name: length for name, length in self.norms().items() if length}
        self.recipe = {**recipe, "lazy": True, "norm": math.sqrt(family.gram[index, index]), "norms": norms}

    def __getitem__(self, name: str) -> Tensor:
        hollow = self.family.hollow[name]
        if name not in self.family.norms:
            return hollow
        made = torch.empty(hollow.shape, dtype=hollow.dtype, device=hollow.device)
        self.family.draws.fill({name: {self.index: made}})
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(self.family.hollow)

    def __len__(self) -> int:
        return len(self.family.hollow)

    def __contains__(self, name: object) -> bool:
        return name in self.family.hollow

    def within(self, family: Family) -> LazyDirection:
        """Return the same direction as a member of another family with the same draws."""
        other = copy.copy(self)
        other.family = family
        return other

    def _no_arithmetic(self, *_: Any) -> Any:
        raise DirectionError(
            "A lazy direction cannot be added or multiplied. Use a chart, whose point chart([-1.0]) lies at -1 times "
            "the direction, or draw it with lazy=False."
        )

    __neg__ = __mul__ = __rmul__ = __truediv__ = __add__ = __radd__ = __sub__ = __rsub__ = _no_arithmetic

    def norms(self) -> dict[str, float]:
        """Return the Frobenius norm of each tensor, which was measured once."""
        drawn = self.family.norms
        return {name: drawn[name][self.index] if name in drawn else 0.0 for name in self}

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={self.recipe[key]!r}" for key in ("kind", "normalize", "seed"))
        return f"LazyDirection({options}, norm={self.recipe['norm']:.4g})"


def structure(direction: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return tensors with the names and shapes of a direction; a lazy one is not drawn."""
    return direction.family.hollow if isinstance(direction, LazyDirection) else direction


def norms(direction: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the Frobenius norm of each tensor; a lazy direction is not drawn."""
    return direction.norms() if isinstance(direction, LazyDirection) else algebra.norms(direction)


def gram(directions: Sequence[Mapping[str, Tensor]]) -> NDArray[np.float64]:
    """Return the inner products of directions, (k, k); lazy ones of the same call are not drawn."""
    products = np.zeros((len(directions), len(directions)))
    for i, a in enumerate(directions):
        for j, b in enumerate(directions[: i + 1]):
            lazy = isinstance(a, LazyDirection) and isinstance(b, LazyDirection) and a.family is b.family
            products[i, j] = a.family.gram[a.index, b.index] if lazy else algebra.dot(a, b)  # type: ignore[attr-defined]
            products[j, i] = products[i, j]
    return products


def still(directions: Sequence[Mapping[str, Tensor]], also: Mapping[str, Tensor] | None = None) -> dict[str, int]:
    """Count the entries of each tensor that are zero in all directions; tensors without such entries are omitted.

    Lazy directions of one call are not drawn: they are zero exactly where their norm is zero.

    Parameters
    ----------
    directions : sequence of mappings of str to Tensor
    also : mapping of str to Tensor, optional
        A further vector; entries that are not zero in it are not counted.
    """
    families = {direction.family for direction in directions if isinstance(direction, LazyDirection)}
    if len(families) == 1 and also is None and all(isinstance(direction, LazyDirection) for direction in directions):
        (family,) = families
        found = {name: family.draws.still(name) if name in family.norms else hollow.numel()
                 for name, hollow in family.hollow.items()}  # fmt: skip
        return {name: count for name, count in found.items() if count}
    counts = {}
    for name, first in structure(directions[0]).items():
        moving = torch.zeros(first.shape, dtype=torch.bool, device=first.device)
        for tensors in (*directions, *([] if also is None else [also])):
            moving |= (tensors[name] != 0).to(moving.device)
        counts[name] = moving.numel() - int(torch.count_nonzero(moving))
    return {name: count for name, count in counts.items() if count}


def combine(
    center: Mapping[str, Tensor], coefficients: Sequence[float], directions: Sequence[Mapping[str, Tensor]]
) -> Params:
    """Return center + sum of coefficient * direction, with the bits of `params.combine`, without storing a direction.

    Each piece is summed in float32 or wider, and rounded once, into the new tensor. Lazy and stored directions may be
    mixed.
    """
    steps = [(x, direction) for x, direction in zip(coefficients, directions, strict=True) if x]
    wanted: dict[Family, list[int]] = {}
    for _, direction in steps:
        if isinstance(direction, LazyDirection):
            wanted.setdefault(direction.family, []).append(direction.index)
    made = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for name, tensor in center.items()
    }

    def move(job: tuple[str, DrawPart]) -> None:
        name, part = job
        streams = {
            family: family.draws.pieces(name, part, indices)
            for family, indices in wanted.items()
            if name in family.norms
        }
        for piece in pieces(part):
            drawn = {family: next(stream) for family, stream in streams.items()}
            total = block(center[name], piece)
            for x, direction in steps:
                if isinstance(direction, LazyDirection) and direction.family in drawn:
                    step = drawn[direction.family][direction.index]
                else:
                    step = block(structure(direction)[name], piece)
                total = torch.add(total, step, alpha=x)
            block(made[name], piece).copy_(total)

    in_threads(move, [(name, part) for name, tensor in center.items() for part in slices(tensor.shape)])
    for name, tensor in center.items():
        if not tensor.is_contiguous():  # without its channels-last layout, the next layer would take 3x the time
            made[name] = torch.empty_like(tensor).copy_(made[name])
    return made
