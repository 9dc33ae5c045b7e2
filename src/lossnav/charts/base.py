"""What every chart is: ``chart(coords) -> params``, with a centre at the origin and names for its coordinates."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils.moving import is_left_open
from lossnav._utils.validation import described, require_directions
from lossnav.charts.anchors import Anchors, arrange, find, points_of, with_points
from lossnav.checkpoints.weights import Anatomy
from lossnav.directions import lazy as lazily
from lossnav.directions.base import Direction, cosines
from lossnav.directions.lazy import LazyDirection
from lossnav.errors import ChartError, CheckpointMismatchError, DirectionError, StructureMismatchError
from lossnav.objective.networks import End, Network, coincidence, differing
from lossnav.objective.objective import Objective
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
    center : mapping of str to Tensor, Objective, nn.Module or path of a checkpoint
        The point at coordinates 0. Not copied: do not write into its tensors.
    directions : mappings of str to Tensor
        One or more, of the centre's names and shapes. Those that lead to checkpoints (`directions.between`,
        `directions.through`) bring their buffers along.

    Attributes
    ----------
    dims : tuple of str
        Names of the coordinates.
    affine : bool
        Whether ``chart(x) = center + sum_i x_i * basis_i``.
    anchors : Anchors or None
        Which checkpoints lie where, with the buffers of each.

    Raises
    ------
    StructureMismatchError
        If a direction has other names or shapes than the centre.
    DirectionError
        If a direction is zero or not finite.
    """

    dims: ClassVar[tuple[str, ...]]
    affine: ClassVar[bool] = False
    knows_buffers = False  # whether the buffers of its points were known when it was fitted to an objective
    anchors: Anchors | None = None
    files: Mapping[str, str] = MappingProxyType({})  # of the checkpoints on it, by the fingerprints of their weights

    def __init__(self, center: End | Network, *directions: Mapping[str, Tensor]) -> None:
        kind = type(self).__name__
        require_directions(center, directions, kind, len(self.dims))
        if len(directions) != len(self.dims):
            raise ChartError(
                f"A {kind} takes {len(self.dims)} direction(s), not {len(directions)}. "
                f"Make them with ln.directions.random(objective, n={len(self.dims)})."
            )
        self._network, directions = arrange(center, directions)
        self.center: Params = algebra.detach(self._network.params)
        directions = tuple(_detached(direction) for direction in directions)
        self.directions: tuple[Mapping[str, Tensor], ...] = directions
        for dim, direction in zip(self.dims, directions, strict=True):
            _require_direction(direction, self.center, dim)
        self.anchors = self._find_anchors()

    def _find_anchors(self) -> Anchors | None:
        """The checkpoints on this chart: of a bent one the centre alone, where its buffers are known."""
        return find(self._network, self.directions, np.eye(len(self.dims)), straight=False)

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
        try:
            numbers = np.asarray(coords, dtype=np.float64)
        except (TypeError, ValueError):
            raise ChartError(
                f"Coordinates are numbers, and were {described(coords)}. Pass {[0.0] * len(self.dims)}, say."
            ) from None
        if numbers.shape not in ((len(self.dims),), (1, len(self.dims))):
            raise ChartError(
                f"Coordinates of shape {numbers.shape} do not fit ({', '.join(self.dims)}). "
                f"Pass {len(self.dims)} number(s), one point at a time."
            )
        made = self._at([float(number) for number in numbers.reshape(-1)])
        buffers = self.buffers(numbers)
        return algebra.Checkpoint(made, buffers) if buffers else made

    def buffers(self, coords: ArrayLike) -> Params:
        """Return the buffers that belong to a point of a chart through checkpoints.

        At the place of a checkpoint they are its own, bit for bit. Between checkpoints floating-point and complex
        buffers are interpolated as the weights are (by barycentric coordinates in the segment, triangle or tetrahedron
        of the checkpoints, in float64), others are those of the nearest checkpoint. Outside they are held at the
        nearest point between checkpoints: extrapolated, a variance could become negative.

        Parameters
        ----------
        coords : array of shape (k,) or (1, k)

        Returns
        -------
        dict of str to Tensor
            By name; empty where the chart leads through no checkpoint, or the buffers of none are known. Then those of
            the objective hold everywhere.
        """
        return {} if self.anchors is None else self.anchors.at(coords)

    @property
    def moving_buffers(self) -> list[str]:
        """Names of the buffers in which points of this chart differ."""
        return [] if self.anchors is None else self.anchors.moved

    def still(self) -> dict[str, int] | None:
        """How many entries of each tensor this chart moves nowhere, where there are some; None where that is not known.

        Examples
        --------
        >>> from lossnav.charts import Line
        >>> center = {"w": torch.ones(3), "b": torch.ones(2)}
        >>> Line(center, {"w": torch.tensor([1.0, 0, 0]), "b": torch.zeros(2)}).still()
        {'w': 2, 'b': 2}
        """
        return None

    def fitted(self, objective: Objective) -> Chart:
        """Return this chart for an objective: tensors of checkpoints told apart by what they are in its model.

        Raises
        ------
        StructureMismatchError, CheckpointMismatchError
            If a checkpoint does not fit the model, lacks buffers that it has, or differs in parameters that the
            objective holds still, or a module is another function with the same weights; the second of a file.
        """
        chart, anatomy = self, objective.anatomy
        points = [point for direction in self.directions for point in points_of(direction)]
        if not points and self.anchors is None:
            return self
        if points and not all(network.is_sorted_by(anatomy) for network in (self._network, *points)):
            chart = type(self)(*_flat(arrange(self._network, self.directions, objective)))
            points = [point for direction in chart.directions for point in points_of(direction)]
        for network in (chart._network, *points):
            network.require_held(anatomy)
            network.code.require_same_function(objective)
        for point in points:
            point.require_buffers(anatomy)
        files = {network.fingerprint: network.path for network in (chart._network, *points) if network.path}
        chart = copy.copy(chart)
        chart.files = files or self.files
        chart.knows_buffers = True
        chart.anchors = None if chart.anchors is None else chart.anchors.fitted(objective)
        chart.directions = tuple(with_points(direction, ()) for direction in chart.directions)
        chart._network = Network(chart.center, {}, {}, chart._network.source)  # what follows hangs on nothing else
        return chart

    def leads_along(self, objective: Objective) -> list[str]:
        """Names of parameters that an objective holds still by the rule alone, and along which this chart leads.

        They are those of its centre, and those in which a checkpoint on it differs from the objective.
        """
        anatomy = objective.anatomy
        points = [point for direction in self.directions for point in points_of(direction)]
        if not anatomy.free or not anatomy.held:
            return []
        more = {name for name in self.center if name in anatomy.held}
        networks = [_sorted(network, anatomy) for network in dict.fromkeys((self._network, *points))]
        return sorted(more | differing(anatomy, networks))

    def around(self, coords: ArrayLike) -> Chart:
        """Return a chart of the same directions around the point at some coordinates of this one.

        Of a straight chart it shows the same points, and the checkpoints that lie among them with their buffers.
        """
        made = type(self)(dict(self(coords)), *(with_points(direction, ()) for direction in self.directions))
        if self.anchors is not None:
            made.anchors = self.anchors.shifted(coords)
        return made

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
            **({"buffers": self.anchors.describe()} if self.anchors is not None and self.anchors.matters else {}),
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.dims)}; {', '.join(map(repr, self.directions))})"


def meet(objective: Objective, chart: Chart) -> tuple[Objective, Chart]:
    """Return an objective and a chart as they are for each other.

    What is frozen is held still by an objective whose user did not say what moves; where the chart leads along it all
    the same, as a line to a network with another frozen part does, it moves too. What a chart around the objective's
    own centre does not know, as that of a run in which it was frozen, is held. Then see `Chart.fitted`.

    Raises
    ------
    StructureMismatchError, CheckpointMismatchError
        As `Chart.fitted` does.
    """
    if more := chart.leads_along(objective):
        objective = objective.moving_also(more)
    elif not chart.center.keys() >= objective.params.keys() and is_left_open(objective.moves):
        mine = {name: tensor for name, tensor in objective.params.items() if name in chart.center}
        if mine.keys() == chart.center.keys() and all(algebra.same(chart.center[name], mine[name]) for name in mine):
            objective = objective.moving_only(mine)
    return objective, chart.fitted(objective)


def _sorted(network: Network, anatomy: Anatomy) -> Network:
    """The same tensors by what they are in a model; as they are where they are no whole network."""
    try:
        return network if network.is_sorted_by(anatomy) else network.sorted_by(anatomy)
    except (CheckpointMismatchError, StructureMismatchError):  # a centre of some tensors; who fits it says so
        return network


def _detached(direction: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same direction off any graph (made of a model's own parameters, say), its recipe kept."""
    if isinstance(direction, LazyDirection) or not any(tensor.requires_grad for tensor in direction.values()):
        return direction
    tensors = {name: tensor.detach() for name, tensor in direction.items()}
    return Direction(tensors, getattr(direction, "recipe", {"kind": "given"}), points_of(direction))


def _flat(arranged: tuple[Network, tuple[Mapping[str, Tensor], ...]]) -> tuple[Any, ...]:
    return arranged[0], *arranged[1]


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
        words = [coincidence(*pair) for pair in combinations(points_of(direction), 2)]
        if words and all(words):
            raise DirectionError(words[0])
        raise DirectionError(f"The direction along {dim} is zero, so it leads nowhere. Pass another one.")
