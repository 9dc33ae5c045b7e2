"""The base class of charts: ``chart(coords) -> params``, a map defined by control points and one method, `_at`."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import product
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils.validation import described
from lossnav.charts import description, numeric
from lossnav.charts.anchors import Anchors, arrange
from lossnav.charts.control_points import detached, is_lazy, is_same, require_direction, to_double
from lossnav.charts.meeting import fit
from lossnav.charts.projection import Projection, project
from lossnav.errors import ChartError, StructureMismatchError
from lossnav.objective.networks import End, Network
from lossnav.objective.objective import Objective
from lossnav.params import Params

Array = NDArray[np.float64]

_MOST_CORNERS = 6  # up to so many coordinates, all corners of the unit cube are compared with the control points


class Chart(ABC):
    """A map from k coordinates to a point of weight space, defined by control points.

    A subclass defines `dims`, a constructor that passes its control points to this one, and `_at`. Projection,
    tangents, second derivatives, buffers, fingerprints, saving and resuming follow from these. The constructor takes
    the control points by position, in their order, and registered options by name (`lossnav.charts.register`).

    Parameters
    ----------
    points : mapping of str to (mapping of str to Tensor, Objective, nn.Module or path of a checkpoint)
        The control points by name. They are not copied: do not write into their tensors. A network (an objective, a
        module, a checkpoint) also brings its buffers; a dict of parameters does not.
    directions : mapping of str to (mapping of str to Tensor), optional
        Control vectors by name, with the same names and shapes, not zero. Vectors between checkpoints
        (`directions.between`, `directions.through`) also bring the buffers of the checkpoints.

    Attributes
    ----------
    dims : tuple of str
        Names of the coordinates, defined by the class.
    affine : bool
        Whether ``chart(x) = center + sum_i x_i * basis_i``, defined by the class; False by default.
    points : dict of str to (mapping of str to Tensor)
        The control points, then the control vectors.
    directions : tuple of mapping of str to Tensor
        The control vectors.
    center : dict of str to Tensor
        The point at coordinates 0.
    anchors : Anchors or None
        The checkpoints on this chart: their coordinates and buffers.

    Raises
    ------
    ChartError
        If there is no control point, or `_at` does not return a point with the control points' names and shapes.
    StructureMismatchError
        If control points or vectors differ in names or shapes.
    DirectionError
        If a control vector is zero or not finite.

    Examples
    --------
    >>> import torch
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
    files: Mapping[str, str] = MappingProxyType({})  # paths of its checkpoints, by the fingerprint of their weights
    _is_fitted = False
    _shift: tuple[float, ...] = ()  # made by `around`: the coordinates of its origin on the original chart

    def __init__(
        self, points: Mapping[str, End | Network], directions: Mapping[str, Mapping[str, Tensor]] | None = None
    ) -> None:
        kind = type(self).__name__
        if not isinstance(self.dims, tuple) or not self.dims or len(set(self.dims)) < len(self.dims):
            raise ChartError(
                f"{kind}.dims must be a tuple of different names, got dims={self.dims!r}. Write in the class, for "
                'example: dims = ("t",).'
            )
        if not isinstance(points, Mapping) or not points:
            raise ChartError(
                f"The control points of a {kind} must be a dict by name, got {described(points)}. Write in its "
                'constructor: super().__init__({"a": a, "b": b}).'
            )
        self._names = tuple(directions or ())  # of the control vectors
        if twice := set(self._names) & set(points):
            raise ChartError(f"A control point and a control vector are both named {min(twice)!r}. Rename one of them.")
        self._hold(*arrange(points, tuple((directions or {}).values())))

    def _hold(self, networks: Mapping[str, Network], directions: Sequence[Mapping[str, Tensor]]) -> None:
        """Set control points and vectors, and compute the centre and the anchors from them."""
        for name in [name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)]:
            del vars(self)[name]  # it was computed from other control points
        self._networks = dict(networks)
        self.directions = tuple(detached(direction) for direction in directions)
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
                    "architectures. Take all control points from networks of the same architecture."
                )
        for name, direction in zip(self._names, self.directions, strict=True):
            require_direction(direction, points[first], name)
        self.center: Params = self._find_center(points)
        self.anchors = self._find_anchors()

    def _find_center(self, points: Mapping[str, Params]) -> Params:
        """Return the point at the origin. If it is a control point, return the tensors of that control point."""
        first = next(iter(points.values()))
        made = self._map(np.zeros(len(self.dims)))
        whole = isinstance(made, Mapping) and all(isinstance(tensor, Tensor) for tensor in made.values())
        if not whole or (difference := algebra.first_difference(made, first)):
            what = f"a point that differs at {difference}" if whole else described(made)
            raise ChartError(
                f"{type(self).__name__}._at(coords, points) returned {what}. Return a dict with all names of the "
                "control points, and tensors of their shapes."
            )
        return next((point for point in points.values() if is_same(made, point)), made)

    @cached_property
    def _prepared(self) -> Mapping[str, Any]:
        return self._prepare(self.points)

    def _map(self, coords: Array) -> Params:
        """Return the point at some coordinates, without a graph, in the dtypes of the control points."""
        made = self._at([float(x) for x in self._from_origin(coords)], self._prepared)
        first = next(iter(self.points.values()))
        if not isinstance(made, Mapping) or made.keys() != first.keys():
            return made  # the constructor raises
        tensors = {name: made[name].to(tensor.dtype) for name, tensor in first.items()}
        return {name: tensor.detach() if tensor.requires_grad else tensor for name, tensor in tensors.items()}

    def _precise(self) -> Callable[[Array], Params]:
        """Return the same map, computed from the control points in float64."""
        points = {name: vector if name in self._names and is_lazy(vector) else to_double(vector)
                  for name, vector in self.points.items()}  # fmt: skip
        prepared = self._prepare(points)
        return lambda coords: to_double(self._at([float(x) for x in self._from_origin(coords)], prepared))

    def _from_origin(self, coords: Array) -> Array:
        return coords + np.asarray(self._shift) if self._shift else coords

    @abstractmethod
    def _at(self, coords: Sequence[float], points: Mapping[str, Any]) -> Params:
        """Return the point at some coordinates, as a pure function of the coordinates and the control points.

        Parameters
        ----------
        coords : sequence of k floats
        points : mapping of str to (mapping of str to Tensor)
            The control points and vectors by name, as `_prepare` returns them. Use these and not attributes set in
            the constructor: derivatives are computed by calling `_at` with control points in float64.

        Returns
        -------
        dict of str to Tensor
            All tensors of the point, with the names and shapes of the control points.
        """

    def _prepare(self, points: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Any]:
        """Return the `points` that `_at` is called with. Override it for work that is the same at every point."""
        return points

    def places(self) -> dict[str, tuple[float, ...]]:
        """Return the control points that lie on this chart, with their coordinates.

        Coordinates of 0 and 1 are tried, and the weights compared. Override this method if they lie elsewhere. At a
        control point its own buffers are used; between control points buffers are interpolated.

        Examples
        --------
        >>> import torch
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
            name = next((name for name in left if is_same(made, self.points[name])), None)
            if name is not None:
                left.remove(name)
                found[name] = tuple(float(x) for x in at)
        return found

    def _find_anchors(self) -> Anchors | None:
        """Return the checkpoints on this chart; None unless the buffers of all of them are known."""
        if not any(network.buffers for network in self._networks.values()):
            return None
        places = self.places()
        buffers = [self._networks[name].buffers for name in places]
        return Anchors(list(places.values()), buffers, np.eye(len(self.dims))) if buffers and all(buffers) else None

    def _located(self) -> list[tuple[Array, Network]]:
        """Return the checkpoints on this chart, with their coordinates."""
        return [(np.asarray(place), self._networks[name]) for name, place in self.places().items()]

    def __call__(self, coords: ArrayLike) -> Params:
        """Return the point of weight space at some coordinates.

        Parameters
        ----------
        coords : array of shape (k,) or (1, k)

        Returns
        -------
        dict of str to Tensor
            In the dtypes of the control points. If the centre is a control point, the tensors there are its own, bit
            for bit. If the chart has buffers, the result is a `Checkpoint` that also holds those of the point.

        Raises
        ------
        ChartError
            If the coordinates are not k numbers.
        """
        try:
            numbers = np.asarray(coords, dtype=np.float64)
        except (TypeError, ValueError):
            raise ChartError(
                f"Coordinates must be numbers, got {described(coords)}. Pass, for example, {[0.0] * len(self.dims)}."
            ) from None
        if numbers.shape not in ((len(self.dims),), (1, len(self.dims))):
            raise ChartError(
                f"Coordinates of shape {numbers.shape} do not match the dims ({', '.join(self.dims)}). "
                f"Pass {len(self.dims)} number(s), one point at a time."
            )
        made = self._map(numbers.reshape(-1)) if numbers.any() else dict(self.center)
        buffers = self.buffers(numbers)
        return algebra.Checkpoint(made, buffers) if buffers else made

    def buffers(self, coords: ArrayLike) -> Params:
        """Return the buffers at a point of a chart through checkpoints.

        At a checkpoint they are its own, bit for bit. Between checkpoints, floating-point and complex buffers are
        interpolated as the weights are (by barycentric coordinates in the segment, triangle or tetrahedron of the
        checkpoints, in float64); other buffers are those of the nearest checkpoint. Outside, the buffers of the nearest
        point between checkpoints are used, because an extrapolated variance could be negative.

        Parameters
        ----------
        coords : array of shape (k,) or (1, k)

        Returns
        -------
        dict of str to Tensor
            By name; empty if the chart has no checkpoint whose buffers are known. Then the objective's buffers are used
            everywhere.
        """
        return {} if self.anchors is None else self.anchors.at(coords)

    @property
    def moving_buffers(self) -> list[str]:
        """Names of the buffers that vary along this chart."""
        return [] if self.anchors is None else self.anchors.moved

    def still(self) -> dict[str, int] | None:
        """Return how many entries of each tensor are constant on this chart, without zeros; None if it is not known.

        Examples
        --------
        >>> import torch
        >>> from lossnav.charts import Line
        >>> center = {"w": torch.ones(3), "b": torch.ones(2)}
        >>> Line(center, {"w": torch.tensor([1.0, 0, 0]), "b": torch.zeros(2)}).still()
        {'w': 2, 'b': 2}
        """
        return None

    def fitted(self, objective: Objective) -> Chart:
        """Return this chart for an objective, whose model tells parameters from buffers in checkpoints.

        Raises
        ------
        StructureMismatchError, CheckpointMismatchError
            If a checkpoint does not fit the model, lacks some of its buffers, or differs in parameters that the
            objective holds fixed; if a module computes another function with the same weights. For a file it is a
            CheckpointMismatchError.
        """
        return fit(self, objective)

    def replacing(self, points: Mapping[str, Mapping[str, Tensor]]) -> Chart:
        """Return this chart with some control points or vectors replaced; the others stay.

        Parameters
        ----------
        points : mapping of str to (mapping of str to Tensor)
            The new ones, under names of the attribute `points`.

        Raises
        ------
        ChartError
            If there is no control point of that name.

        Examples
        --------
        >>> import torch
        >>> from lossnav.charts import Line
        >>> line = Line({"w": torch.zeros(1)}, {"w": torch.ones(1)})
        >>> line.replacing({"center": {"w": torch.tensor([5.0])}})([1.0])
        {'w': tensor([6.])}
        """
        if unknown := [name for name in points if name not in self.points]:
            raise ChartError(f"There is no control point named {unknown[0]!r}. Use {', '.join(self.points)}.")
        made = copy.copy(self)
        controls = {name: points.get(name, network) for name, network in self._networks.items()}
        vectors = zip(self._names, self.directions, strict=True)
        made._hold(*arrange(controls, [points.get(name, direction) for name, direction in vectors]))
        return made

    def around(self, coords: ArrayLike) -> Chart:
        """Return a chart of the same points whose origin lies at some coordinates of this one.

        (A chart that scales its directions to its centre, such as `RescaledLine`, scales them to the new centre.)
        """
        made = copy.copy(self)
        at = np.asarray(coords, np.float64).reshape(-1)
        made._shift = tuple((np.asarray(self._shift or at * 0) + at).tolist())
        made.center = dict(self(coords))
        made.anchors = None if self.anchors is None else self.anchors.shifted(at)
        return made

    @property
    def lazy(self) -> bool:
        """Whether a direction is drawn again at every point instead of being stored."""
        return any(map(is_lazy, self.directions))

    @cached_property
    def basis(self) -> tuple[Mapping[str, Tensor], ...]:
        """The k basis vectors of an affine chart; any other chart raises ChartError."""
        if not self.affine:
            raise ChartError(f"A {type(self).__name__} is not affine and has no basis. Use a Line, Plane or Volume.")
        return tuple(algebra.subtract(self._map(unit), self.center) for unit in np.eye(len(self.dims)))

    def tangents(self, coords: ArrayLike) -> tuple[Mapping[str, Tensor], ...]:
        """Return the k tangent vectors d chart / d x_i.

        For an affine chart this is its basis; for any other, central differences of the chart in float64, accurate to
        about ten digits.
        """
        return self.basis if self.affine else numeric.tangents(self._precise(), coords)

    def bending(self, coords: ArrayLike, covector: Mapping[str, Tensor]) -> NDArray[np.float64]:
        """Return the chart's second derivatives along a covector: covector . d^2 chart / d x_i d x_j, shape (k, k).

        They are zero for an affine chart; for any other, central differences in float64, accurate to about six digits.
        """
        k = len(self.dims)
        return np.zeros((k, k)) if self.affine else numeric.bending(self._precise(), coords, covector)

    def project(self, params: Mapping[str, Tensor]) -> Projection:
        """Find the closest point of the chart, and the distance to it.

        For an affine chart: least squares by the k x k Gram matrix, in float64. For any other: Levenberg-Marquardt from
        the best of 7^k grid points over [-1, 2]^k. This finds a local minimum of the distance, so the residual is only
        an upper bound of the distance to the chart.

        Raises
        ------
        StructureMismatchError
            If names or shapes of the point and the centre differ.
        """
        return project(self, params)

    def _closest(self, params: Mapping[str, Tensor]) -> tuple[Array, float]:
        """Return the coordinates of the closest point that is found, and its distance; not for an affine chart."""
        return numeric.closest(self._precise(), len(self.dims), params)

    @cached_property
    def _control(self) -> dict[str, Any]:
        return description.describe_control(self)

    def describe(self) -> dict[str, Any]:
        """Return how this chart is made, in values that JSON can hold; a surface stores it as its recipe."""
        return description.describe(self, self._control)

    def __repr__(self) -> str:
        points = [name for name in self.points if name not in self._names] if not self.directions else []
        return f"{type(self).__name__}({', '.join(self.dims)}; {', '.join([*points, *map(repr, self.directions)])})"
