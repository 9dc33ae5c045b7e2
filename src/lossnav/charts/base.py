"""What every chart is: ``chart(coords) -> params``, a map that control points and one method make."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import combinations, product
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils.jsonable import jsonable
from lossnav._utils.moving import is_left_open
from lossnav._utils.validation import described
from lossnav.charts import numeric
from lossnav.charts.anchors import Anchors, arrange, points_of, with_points
from lossnav.charts.registry import kind_of
from lossnav.checkpoints.weights import Anatomy
from lossnav.directions import lazy as lazily
from lossnav.directions.base import Direction, cosines
from lossnav.directions.lazy import LazyDirection
from lossnav.errors import ChartError, CheckpointMismatchError, DirectionError, StructureMismatchError
from lossnav.objective.networks import End, Network, coincidence, differing
from lossnav.objective.objective import Objective
from lossnav.params import Params

Array = NDArray[np.float64]

_MOST_CORNERS = 6  # coordinates, up to which control points are looked for at all corners of the unit cube


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
    """A map from k coordinates to a point of weight space, made of control points.

    A class of charts has `dims`, a constructor that passes its control points on, and `_at`. Projection, tangents,
    second derivatives, buffers, fingerprints, saving and resuming follow from these. The constructor takes the control
    points by position, in their order, and registered options by name (`lossnav.charts.register`).

    Parameters
    ----------
    points : mapping of str to (mapping of str to Tensor, Objective, nn.Module or path of a checkpoint)
        The control points by name. Not copied: do not write into their tensors. Those that are a network's, not bare
        dicts of parameters, bring their buffers along.
    directions : mapping of str to (mapping of str to Tensor), optional
        Control vectors beside the points, by name: of the same names and shapes, and not zero. Those that lead to
        checkpoints (`directions.between`, `directions.through`) bring their buffers along.

    Attributes
    ----------
    dims : tuple of str
        Names of the coordinates. Set by the class.
    affine : bool
        Whether ``chart(x) = center + sum_i x_i * basis_i``. Set by the class; False where it is not.
    points : dict of str to (mapping of str to Tensor)
        The control points, then the control vectors.
    directions : tuple of mapping of str to Tensor
        The control vectors.
    center : dict of str to Tensor
        The point at coordinates 0.
    anchors : Anchors or None
        Which checkpoints lie where, with the buffers of each.

    Raises
    ------
    ChartError
        If there is no control point, or `_at` returns something else than such a point.
    StructureMismatchError
        If control points or vectors differ in names or shapes.
    DirectionError
        If a control vector is zero or not finite.

    Examples
    --------
    >>> class Arc(Chart):
    ...     dims = ("t",)
    ...
    ...     def __init__(self, a, b, c):
    ...         super().__init__({"a": a, "b": b, "c": c})
    ...
    ...     def _at(self, coords, points):
    ...         (t,) = coords
    ...         a, b, c = points.values()
    ...         return {name: (1 - t) ** 2 * a[name] + 2 * t * (1 - t) * b[name] + t**2 * c[name] for name in a}
    >>> arc = Arc(*({"w": torch.tensor([x])} for x in (0.0, 3.0, 4.0)))
    >>> arc([0.5]), arc.tangents([0.0])[0]["w"].round(decimals=6), arc.project({"w": torch.tensor([2.5])}).coords
    ({'w': tensor([2.5000])}, tensor([6.], dtype=torch.float64), array([0.5]))
    """

    dims: tuple[str, ...] = ()
    affine: ClassVar[bool] = False
    knows_buffers = False  # whether the buffers of its points were known when it was fitted to an objective
    anchors: Anchors | None = None
    files: Mapping[str, str] = MappingProxyType({})  # of the checkpoints on it, by the fingerprints of their weights
    _is_fitted = False
    _shift: tuple[float, ...] = ()  # of a chart around another one's point: where its origin lies on that

    def __init__(
        self, points: Mapping[str, End | Network], directions: Mapping[str, Mapping[str, Tensor]] | None = None
    ) -> None:
        kind = type(self).__name__
        if not isinstance(self.dims, tuple) or not self.dims or len(set(self.dims)) < len(self.dims):
            raise ChartError(
                f"dims={self.dims!r} of {kind} names no coordinates. Give the class a tuple of different names, "
                'dims = ("t",).'
            )
        if not isinstance(points, Mapping) or not points:
            raise ChartError(
                f"A {kind} was given {described(points)} as its control points. Pass them by name: "
                'super().__init__({"a": a, "b": b}).'
            )
        self._names = tuple(directions or ())  # of the control vectors
        if twice := set(self._names) & set(points):
            raise ChartError(f"A control point and a control vector are both called {min(twice)!r}. Rename one.")
        self._hold(*arrange(points, tuple((directions or {}).values())))

    def _hold(self, networks: Mapping[str, Network], directions: Sequence[Mapping[str, Tensor]]) -> None:
        """Take control points and vectors, and find what follows from them."""
        for name in [name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)]:
            del vars(self)[name]  # of other control points
        self._networks = dict(networks)
        self.directions = tuple(_detached(direction) for direction in directions)
        points = {name: algebra.detach(network.params) for name, network in networks.items()}
        self.points: dict[str, Mapping[str, Tensor]] = {
            **points,
            **dict(zip(self._names, self.directions, strict=True)),
        }
        first, *others = points
        for name in others:
            if difference := algebra.first_difference(points[name], points[first]):
                raise StructureMismatchError(
                    f"The control points {name} and {first} differ at {difference}. They probably come from two "
                    "architectures. Take all of them from networks of one."
                )
        for name, direction in zip(self._names, self.directions, strict=True):
            _require_direction(direction, points[first], name)
        self.center: Params = self._find_center(points)
        self.anchors = self._find_anchors()

    def _find_center(self, points: Mapping[str, Params]) -> Params:
        """The point at the origin; the tensors of the control point that it is, where it is one."""
        first = next(iter(points.values()))
        made = self._map(np.zeros(len(self.dims)))
        whole = isinstance(made, Mapping) and all(isinstance(tensor, Tensor) for tensor in made.values())
        if not whole or (difference := algebra.first_difference(made, first)):
            what = f"a point that differs at {difference}" if whole else described(made)
            raise ChartError(
                f"{type(self).__name__}._at(coords, points) returned {what}. Return a dict of all names of the control "
                "points, with tensors of their shapes."
            )
        return next((point for point in points.values() if _is_same(made, point)), made)

    @cached_property
    def _prepared(self) -> Mapping[str, Any]:
        return self._prepare(self.points)

    def _map(self, coords: Array) -> Params:
        """The point at some coordinates, off any graph, in the dtypes of the control points."""
        made = self._at([float(x) for x in self._from_origin(coords)], self._prepared)
        first = next(iter(self.points.values()))
        if not isinstance(made, Mapping) or made.keys() != first.keys():
            return made  # which the constructor refuses
        tensors = {name: made[name].to(tensor.dtype) for name, tensor in first.items()}
        return {name: tensor.detach() if tensor.requires_grad else tensor for name, tensor in tensors.items()}

    def _precise(self) -> Callable[[Array], Params]:
        """The same map of control points in float64."""
        points = {name: vector if name in self._names and _is_lazy(vector) else _double(vector)
                  for name, vector in self.points.items()}  # fmt: skip
        prepared = self._prepare(points)
        return lambda coords: _double(self._at([float(x) for x in self._from_origin(coords)], prepared))

    def _from_origin(self, coords: Array) -> Array:
        return coords + np.asarray(self._shift) if self._shift else coords

    @abstractmethod
    def _at(self, coords: Sequence[float], points: Mapping[str, Any]) -> Params:
        """Return the point at some coordinates: a pure function of these and of the control points.

        Parameters
        ----------
        coords : sequence of k floats
        points : mapping of str to (mapping of str to Tensor)
            The control points and vectors by their names, as `_prepare` returns them. Use these, not what the
            constructor was given: derivatives are taken of the same map of control points in float64.

        Returns
        -------
        dict of str to Tensor
            All tensors of the point.
        """

    def _prepare(self, points: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Any]:
        """Return what `_at` is to be given, where it takes work that is the same at every point; else the points."""
        return points

    def places(self) -> dict[str, tuple[float, ...]]:
        """Return which control points lie on this chart, and at which coordinates.

        They are found at coordinates of 0 and 1, by comparing weights. Override it where they lie elsewhere: there the
        buffers of each hold, and between them are interpolated.

        Examples
        --------
        >>> from lossnav.charts import Line
        >>> Line({"w": torch.zeros(2)}, {"w": torch.ones(2)}).places()
        {'center': (0.0,)}
        """
        k = len(self.dims)
        left = [name for name in self.points if name not in self._names]
        found: dict[str, tuple[float, ...]] = {}
        shift = np.asarray(self._shift or [0.0] * k)
        for corner in product((0.0, 1.0), repeat=k) if k <= _MOST_CORNERS else [(0.0,) * k, *map(tuple, np.eye(k))]:
            at = np.asarray(corner) - shift
            made = self._map(at)
            name = next((name for name in left if _is_same(made, self.points[name])), None)
            if name is not None:
                left.remove(name)
                found[name] = tuple(float(x) for x in at)
        return found

    def _find_anchors(self) -> Anchors | None:
        """The checkpoints on this chart, where the buffers of all that lie on it are known."""
        if not any(network.buffers for network in self._networks.values()):
            return None
        places = self.places()
        buffers = [self._networks[name].buffers for name in places]
        return Anchors(list(places.values()), buffers, np.eye(len(self.dims))) if buffers and all(buffers) else None

    def __call__(self, coords: ArrayLike) -> Params:
        """Return the point of weight space at some coordinates.

        Parameters
        ----------
        coords : array of shape (k,) or (1, k)

        Returns
        -------
        dict of str to Tensor
            In the dtypes of the control points. At a control point that is the centre every tensor is its own, bit for
            bit. A `Checkpoint` with the buffers of the point, where there are any.

        Raises
        ------
        ChartError
            If the coordinates are no k numbers.
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
        made = self._map(numbers.reshape(-1)) if numbers.any() else dict(self.center)
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
        ends = self._ends()
        if not ends and (len(self._networks) == 1 or self._is_fitted) and self.anchors is None:
            return self
        if not all(network.is_sorted_by(anatomy) for network in (*self._networks.values(), *ends)):
            chart = copy.copy(self)
            chart._hold(*arrange(self._networks, self.directions, objective))
            ends = chart._ends()
        for network in (*chart._networks.values(), *ends):
            network.require_held(anatomy)
            network.code.require_same_function(objective)
        for end in (*ends, *chart._require_known(anatomy)):
            end.require_buffers(anatomy)
        networks = (*chart._networks.values(), *ends)
        files = {network.fingerprint: network.path for network in networks if network.path}
        chart = copy.copy(chart)
        chart.files = files or self.files
        chart.knows_buffers = self.knows_buffers or bool(ends) or chart.anchors is not None
        chart.anchors = None if chart.anchors is None else chart.anchors.fitted(objective)
        chart.directions = tuple(with_points(direction, ()) for direction in chart.directions)
        chart.points = chart.points | dict(zip(chart._names, chart.directions, strict=True))
        chart._networks = {  # what follows hangs on nothing else
            name: Network(network.params, {}, {}, network.source) for name, network in chart._networks.items()
        }
        chart._is_fitted = True
        return chart

    def _require_known(self, anatomy: Anatomy) -> list[Network]:
        """The control points of which the buffers must be known, since the chart says that it leads there."""
        if len(self._networks) == 1 or self._is_fitted or not anatomy.missing(()):
            return []
        places = self.places()
        return [self._networks[name] for name in places] if len(places) > 1 else []

    def _ends(self) -> list[Network]:
        """The checkpoints that directions lead from and to."""
        return [end for direction in self.directions for end in points_of(direction)]

    def leads_along(self, objective: Objective) -> list[str]:
        """Names of parameters that an objective holds still by the rule alone, and along which this chart leads.

        They are those of its centre, and those in which a checkpoint on it differs from the objective.
        """
        anatomy = objective.anatomy
        if not anatomy.free or not anatomy.held:
            return []
        more = {name for name in self.center if name in anatomy.held}
        networks = dict.fromkeys((*self._networks.values(), *self._ends()))
        return sorted(more | differing(anatomy, [_sorted(network, anatomy) for network in networks]))

    def replacing(self, points: Mapping[str, Mapping[str, Tensor]]) -> Chart:
        """Return the same chart of other control points or vectors; those that are not named stay.

        Parameters
        ----------
        points : mapping of str to (mapping of str to Tensor)
            By the names of `points`.

        Raises
        ------
        ChartError
            If there is no control point of that name.

        Examples
        --------
        >>> from lossnav.charts import Line
        >>> line = Line({"w": torch.zeros(1)}, {"w": torch.ones(1)})
        >>> line.replacing({"center": {"w": torch.tensor([5.0])}})([1.0])
        {'w': tensor([6.])}
        """
        if unknown := [name for name in points if name not in self.points]:
            raise ChartError(f"There is no control point {unknown[0]!r}. Use {', '.join(self.points)}.")
        made = copy.copy(self)
        controls = {name: points.get(name, network) for name, network in self._networks.items()}
        vectors = zip(self._names, self.directions, strict=True)
        made._hold(*arrange(controls, [points.get(name, direction) for name, direction in vectors]))
        return made

    def around(self, coords: ArrayLike) -> Chart:
        """Return a chart with its origin at some coordinates of this one; it shows the same points.

        (One that scales its directions to its centre, as a `RescaledLine` does, shows those around the new centre.)
        """
        made = copy.copy(self)
        at = np.asarray(coords, np.float64).reshape(-1)
        made._shift = tuple((np.asarray(self._shift or at * 0) + at).tolist())
        made.center = dict(self(coords))
        made.anchors = None if self.anchors is None else self.anchors.shifted(at)
        return made

    @property
    def lazy(self) -> bool:
        """Whether a direction is drawn anew at every point instead of stored."""
        return any(map(_is_lazy, self.directions))

    @cached_property
    def basis(self) -> tuple[Mapping[str, Tensor], ...]:
        """The k vectors of an affine chart; ChartError for any other."""
        if not self.affine:
            raise ChartError(f"A {type(self).__name__} is not affine and has no basis. Use a Line, Plane or Volume.")
        return tuple(algebra.subtract(self._map(unit), self.center) for unit in np.eye(len(self.dims)))

    def tangents(self, coords: ArrayLike) -> tuple[Mapping[str, Tensor], ...]:
        """Return how the point moves as each coordinate does: the k vectors d chart / d x_i.

        Of an affine chart its basis, everywhere; of another central differences of the chart in float64, good to about
        ten digits.
        """
        return self.basis if self.affine else numeric.tangents(self._precise(), coords)

    def bending(self, coords: ArrayLike, covector: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """Second derivatives of the chart along a covector: covector . d^2 chart / d x_i d x_j, shape (k, k).

        Zero for an affine chart; of another by central differences in float64, good to about six digits.
        """
        k = len(self.dims)
        return np.zeros((k, k)) if self.affine else numeric.bending(self._precise(), coords, covector)

    def project(self, params: Mapping[str, Tensor]) -> Projection:
        """Find the coordinates of the closest point of the chart, and how far away it is.

        Of an affine chart least squares by the k x k Gram matrix, in float64. Of another the closest point near the
        best of a lattice of 7^k points over [-1, 2]^k (Levenberg-Marquardt): the residual is an upper bound of the
        distance, since a branch of the chart farther away may pass nearer.

        Raises
        ------
        StructureMismatchError
            If the point has other names or shapes than the centre.
        """
        if difference := algebra.first_difference(params, self.center):
            raise StructureMismatchError(
                f"The point and the chart differ at {difference}. Take the point from a model of the same architecture."
            )
        if not self.affine:
            return Projection(*numeric.closest(self._precise(), len(self.dims), params))
        basis = self.basis
        offset = {name: tensor.detach().double() - self.center[name].double() for name, tensor in params.items()}
        gram = lazily.gram(basis)  # (k, k)
        coords = np.linalg.solve(gram, np.array([algebra.dot(a, offset) for a in basis]))
        left = algebra.combine(offset, [-float(x) for x in coords], basis)
        return Projection(coords, algebra.norm(left))

    @cached_property
    def _control(self) -> dict[str, Any]:
        """What a description holds of control points and options; of a kind that is not complete, of the map too."""
        kind = kind_of(self)
        said: dict[str, Any] = {}
        points = {name: point for name, point in self.points.items() if name not in self._names}
        if list(points) != ["center"] or not kind.complete:
            said["points"] = [
                {
                    "name": name,
                    "fingerprint": algebra.fingerprint(dict(sorted(point.items()))),
                    "norm": algebra.norm(point),
                }
                for name, point in points.items()
            ]
        if kind.options:
            said["options"] = {name: jsonable(getattr(self, name)) for name in kind.options}
        if not kind.complete:
            whole = copy.copy(self)
            whole._shift = ()
            said["signature"] = numeric.signature(whole._precise(), len(self.dims))
        return said

    def describe(self) -> dict[str, Any]:
        """Say how this chart is made, in values that JSON can hold: the recipe of a surface."""
        recipes = []
        for direction in self.directions:
            recipe = getattr(direction, "recipe", None)
            recipe = recipe or Direction(direction, {"kind": "given"}).recipe
            if recipe["kind"] == "given":
                recipe = recipe | {"fingerprint": algebra.fingerprint(direction)}
            recipes.append(recipe)
        axes = kind_of(self).axes
        return {
            "kind": type(self).__name__,
            "dims": list(self.dims),
            "affine": self.affine,
            "center": algebra.fingerprint(self.center),
            "center_norm": algebra.norm(self.center),
            "directions": recipes,
            "cosines": cosines(self.directions),
            **self._control,
            **({"origin": list(self._shift)} if any(self._shift) else {}),
            **({"axes": {dim: str(axes[dim]) for dim in self.dims if dim in axes}} if axes else {}),
            **({"buffers": self.anchors.describe()} if self.anchors is not None and self.anchors.matters else {}),
        }

    def __repr__(self) -> str:
        points = [name for name in self.points if name not in self._names] if not self.directions else []
        return f"{type(self).__name__}({', '.join(self.dims)}; {', '.join([*points, *map(repr, self.directions)])})"


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


def _fingerprint(params: Mapping[str, Tensor]) -> str:
    """Whatever the order of names: a file has another one than a model."""
    return algebra.fingerprint(dict(sorted(params.items())))


def _is_lazy(vector: Mapping[str, Tensor]) -> bool:
    return isinstance(vector, LazyDirection)


def _is_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two points are the same to rounding."""
    if all(one[name] is tensor or torch.equal(one[name], tensor) for name, tensor in other.items()):
        return True
    rounding = max(torch.finfo(t.dtype).eps if t.is_floating_point() or t.is_complex() else 0.0 for t in other.values())
    return algebra.norm(algebra.subtract(_double(one), _double(other))) <= 4 * rounding * algebra.norm(other)


def _double(params: Mapping[str, Tensor]) -> Params:
    wide = {name: torch.complex128 if tensor.is_complex() else torch.float64 for name, tensor in params.items()}
    return {name: tensor.detach().to(wide[name]) for name, tensor in params.items()}


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
