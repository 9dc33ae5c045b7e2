"""What every chart is: ``chart(coords) -> params``, with a centre at the origin and names for its coordinates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lossnav import lazy as lazily
from lossnav import params as algebra
from lossnav.directions import Direction, cosines
from lossnav.errors import ChartError, DirectionError, StructureMismatchError
from lossnav.lazy import LazyDirection
from lossnav.params import Params

_FIRST_STEP, _SECOND_STEP = 1e-5, 1e-3  # of differences in float64, in units of the coordinates


class Projection(NamedTuple):
    """Where a point of weight space lies as seen from a chart.

    Attributes
    ----------
    coords : ndarray of shape (k,)
        Coordinates of the closest point of the chart.
    residual : float
        Distance from there to the point itself, in units of weights.
    """

    coords: NDArray[np.float64]
    residual: float


class Chart(ABC):
    """A map from k coordinates to a point of weight space; the origin is the centre.

    Parameters
    ----------
    center : mapping of str to Tensor
        The point at coordinates 0. Not copied: do not write into its tensors.
    directions : mappings of str to Tensor
        One or more, of the centre's names and shapes.

    Attributes
    ----------
    dims : tuple of str
        Names of the coordinates.
    affine : bool
        Whether ``chart(x) = center + sum_i x_i * basis_i``.

    Raises
    ------
    StructureMismatchError
        If a direction has other names or shapes than the centre.
    DirectionError
        If a direction is zero or not finite.
    """

    dims: ClassVar[tuple[str, ...]]
    affine: ClassVar[bool] = False

    def __init__(self, center: Mapping[str, Tensor], *directions: Mapping[str, Tensor]) -> None:
        kind = type(self).__name__
        if len(directions) != len(self.dims):
            raise ChartError(
                f"A {kind} takes {len(self.dims)} direction(s), not {len(directions)}. "
                f"Make them with ln.directions.random(objective, n={len(self.dims)})."
            )
        self.center: Params = {name: tensor.detach() for name, tensor in center.items()}
        directions = tuple(_detached(direction) for direction in directions)
        self.directions: tuple[Mapping[str, Tensor], ...] = directions
        for dim, direction in zip(self.dims, directions, strict=True):
            _require_direction(direction, self.center, dim)

    def __call__(self, coords: ArrayLike) -> Params:
        """Return the point of weight space at some coordinates.

        Parameters
        ----------
        coords : array of shape (k,) or (1, k)

        Returns
        -------
        dict of str to Tensor
            In the dtypes of the centre. At the origin every tensor is the centre's own, bit for bit. A `Checkpoint`
            with the buffers of the point, where there are any.
        """
        numbers = np.asarray(coords, dtype=np.float64)
        if numbers.shape not in ((len(self.dims),), (1, len(self.dims))):
            raise ChartError(
                f"Coordinates of shape {numbers.shape} do not fit ({', '.join(self.dims)}). "
                f"Pass {len(self.dims)} number(s), one point at a time."
            )
        made = self._at([float(number) for number in numbers.reshape(-1)])
        buffers = self.buffers(numbers)
        return algebra.Checkpoint(made, buffers) if buffers else made

    def buffers(self, coords: ArrayLike) -> Params:
        """Return the buffers that belong to a point, where the chart leads through checkpoints; none elsewhere."""
        return {}

    @property
    def moving_buffers(self) -> list[str]:
        """Names of the buffers in which points of this chart differ."""
        return []

    @abstractmethod
    def _at(self, coords: Sequence[float]) -> Params: ...

    @property
    def lazy(self) -> bool:
        """Whether a direction is drawn anew at every point instead of stored."""
        return any(isinstance(direction, LazyDirection) for direction in self.directions)

    @property
    def basis(self) -> tuple[Mapping[str, Tensor], ...]:
        """The k vectors of an affine chart; ChartError for any other."""
        raise ChartError(f"A {type(self).__name__} is not affine and has no basis. Use a Line, Plane or Volume.")

    def tangents(self, coords: ArrayLike) -> tuple[Mapping[str, Tensor], ...]:
        """How the point moves as each coordinate does: the k vectors d chart / d x_i.

        Of an affine chart its basis, everywhere; of another central differences of the chart in float64, good to about
        ten digits.
        """
        if self.affine:
            return self.basis
        precise, (steps, at) = self._double(), self._around(coords, _FIRST_STEP)
        pairs = [(precise(at + step), precise(at - step)) for step in steps]
        return tuple({name: (a[name] - b[name]) / (2 * _FIRST_STEP) for name in a} for a, b in pairs)

    def bending(self, coords: ArrayLike, covector: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """Second derivatives of the chart along a covector: covector . d^2 chart / d x_i d x_j, shape (k, k).

        Zero for an affine chart; of another by central differences in float64, good to about six digits.
        """
        k = len(self.dims)
        made = np.zeros((k, k))
        if self.affine:
            return made
        precise, (steps, at) = self._double(), self._around(coords, _SECOND_STEP)
        names = list(covector)
        flat = torch.cat([covector[name].double().reshape(-1) for name in names])

        def height(x: NDArray[np.float64]) -> float:
            point = precise(x)
            return float(torch.dot(flat, torch.cat([point[name].reshape(-1) for name in names])))

        for i in range(k):
            for j in range(i + 1):
                a, b = steps[i], steps[j]
                bend = height(at + a + b) - height(at + a - b) - height(at - a + b) + height(at - a - b)
                made[i, j] = made[j, i] = bend / (4 * _SECOND_STEP**2)
        return made

    def _double(self) -> Chart:
        """The same chart around a centre in float64."""
        return type(self)({name: tensor.double() for name, tensor in self.center.items()}, *self.directions)

    def _around(self, coords: ArrayLike, step: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A step along each coordinate, (k, k), and the coordinates, (k,)."""
        return step * np.eye(len(self.dims)), np.asarray(coords, dtype=np.float64).reshape(-1)

    def project(self, params: Mapping[str, Tensor]) -> Projection:
        """Find the coordinates of the closest point of an affine chart, and how far away it is.

        Least squares by the k x k Gram matrix, in float64.

        Raises
        ------
        ChartError
            If the chart is not affine.
        StructureMismatchError
            If the point has other names or shapes than the centre.
        """
        if difference := algebra.first_difference(params, self.center):
            raise StructureMismatchError(
                f"The point and the chart differ at {difference}. Take the point from a model of the same architecture."
            )
        basis = self.basis
        offset = {name: tensor.detach().double() - self.center[name].double() for name, tensor in params.items()}
        gram = lazily.gram(basis)  # (k, k)
        coords = np.linalg.solve(gram, np.array([algebra.dot(a, offset) for a in basis]))
        left = algebra.combine(offset, [-float(x) for x in coords], basis)
        return Projection(coords, algebra.norm(left))

    def describe(self) -> dict[str, Any]:
        """Say how this chart is made, in values that JSON can hold: the recipe of a surface."""
        recipes = []
        for direction in self.directions:
            recipe = getattr(direction, "recipe", None)
            recipe = recipe or Direction(direction, {"kind": "given"}).recipe
            if recipe["kind"] == "given":
                recipe = recipe | {"fingerprint": algebra.fingerprint(direction)}
            recipes.append(recipe)
        return {
            "kind": type(self).__name__,
            "dims": list(self.dims),
            "affine": self.affine,
            "center": algebra.fingerprint(self.center),
            "center_norm": algebra.norm(self.center),
            "directions": recipes,
            "cosines": cosines(self.directions),
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.dims)}; {', '.join(map(repr, self.directions))})"


def _detached(direction: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same direction off any graph (made of a model's own parameters, say), its recipe kept."""
    if isinstance(direction, LazyDirection) or not any(tensor.requires_grad for tensor in direction.values()):
        return direction
    tensors = {name: tensor.detach() for name, tensor in direction.items()}
    return Direction(tensors, getattr(direction, "recipe", {"kind": "given"}))


def moving_names(*directions: Mapping[str, Tensor]) -> list[str]:
    """The tensors in which at least one direction is not zero."""
    return [name for name in directions[0] if any(_moves(direction, name) for direction in directions)]


def _moves(direction: Mapping[str, Tensor], name: str) -> bool:
    if isinstance(direction, LazyDirection):
        return name in direction.recipe["norms"]
    return bool(torch.any(direction[name] != 0))


def _require_direction(direction: Mapping[str, Tensor], center: Params, dim: str) -> None:
    if difference := algebra.first_difference(lazily.structure(direction), center):
        raise StructureMismatchError(
            f"The direction along {dim} and the centre differ at {difference}. They probably come from two "
            "architectures. Make directions from the same objective: ln.directions.random(objective, n=2)."
        )
    lengths = lazily.norms(direction)
    for name, length in lengths.items():
        if not math.isfinite(length):
            raise DirectionError(
                f'The direction along {dim} holds NaN or infinite entries in "{name}". '
                "Check the checkpoints or gradients it was made of."
            )
    if not any(lengths.values()):
        raise DirectionError(f"The direction along {dim} is zero, so it leads nowhere. Pass another one.")
