"""Charts whose points are mixtures of control points: Bézier curves, chains of segments, simplexes."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils import mixing
from lossnav.charts.anchors import Anchors
from lossnav.charts.base import Chart
from lossnav.charts.control_points import to_double
from lossnav.charts.registry import register
from lossnav.errors import ChartError
from lossnav.params import Params

if TYPE_CHECKING:
    from lossnav.objective.networks import End, Network

Array = NDArray[np.float64]

_POLISH = 8  # steps at the end of a projection, at most
_DEPENDENT = 1e-9  # eigenvalue of the cosines below which vertices lie in fewer dimensions


class Mixture(Chart):
    """A chart whose points are Σ c_j(x) w_j, with coefficients that sum to 1.

    Attributes
    ----------
    gram : ndarray of shape (n - 1, n - 1)
        Inner products of w_j - w_0, by which all distances on the chart are known.
    """

    def __init__(self, *points: End | Network) -> None:
        if len(points) < 2:
            raise ChartError(
                f"A {type(self).__name__} needs at least two control points, got {len(points)}. Pass its ends, and "
                f"what lies between them: ln.{type(self).__name__}(a, bend, b)."
            )
        super().__init__(dict(zip(self._named(len(points)), points, strict=True)))

    @staticmethod
    def _named(count: int) -> list[str]:
        """Return the names of the control points."""
        return ["start", *(f"bend{j}" for j in range(1, count - 1)), "end"]

    @abstractmethod
    def coefficients(self, coords: ArrayLike) -> Array:
        """Return the coefficients c of the control points at some coordinates, shape (n,); their sum is 1."""

    def _slopes(self, coords: Array) -> Array:
        """Return the derivatives of the coefficients, shape (k, n), at coordinates from the first origin."""
        raise NotImplementedError

    @cached_property
    def gram(self) -> Array:
        """Inner products of the differences from the first control point."""
        first, *others = map(to_double, self.points.values())
        steps = [algebra.subtract(point, first) for point in others]
        made = np.zeros((len(steps), len(steps)))
        for i, a in enumerate(steps):
            for j, b in enumerate(steps[: i + 1]):
                made[i, j] = made[j, i] = algebra.dot(a, b)
        return made

    def tangents(self, coords: ArrayLike) -> tuple[Mapping[str, Tensor], ...]:
        """Return the k tangent vectors d chart / d x_i, Σ_j dc_j/dx_i w_j, in float64."""
        slopes = self._slopes(self._from_origin(np.asarray(coords, np.float64).reshape(-1)))
        return tuple(_mix(slope, [to_double(point) for point in self.points.values()]) for slope in slopes)

    def still(self) -> dict[str, int]:
        """Count the entries that are the same in all control points."""
        first, *others = self.points.values()
        counts = {}
        for name, tensor in first.items():
            moving = torch.zeros(tensor.shape, dtype=torch.bool, device=tensor.device)
            for other in others:
                moving |= other[name] != tensor
            counts[name] = moving.numel() - int(torch.count_nonzero(moving))
        return {name: count for name, count in counts.items() if count}

    def describe(self) -> dict[str, Any]:
        """Return how this chart is made; ``gram`` gives all distances on it without its weights."""
        return super().describe() | {"gram": self.gram.tolist()}


class Curve(Mixture):
    """A curve through weight space, w(t) with t from 0 at its first control point to 1 at its last."""

    dims = ("t",)

    def __init__(self, *points: End | Network, trained: Mapping[str, Any] | None = None) -> None:
        self.trained = None if trained is None else dict(trained)
        super().__init__(*points)

    def length(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return the length of the curve between two t, in units of weights.

        Examples
        --------
        >>> a, b, c = ({"w": torch.tensor(x)} for x in ([0.0, 0.0], [3.0, 0.0], [3.0, 4.0]))
        >>> PolygonalChain(a, b, c).length(), round(BezierCurve(a, b, c).length(), 3)
        (7.0, 5.704)
        """
        low, high = (float(self._from_origin(np.array([t]))[0]) for t in (low, high))
        return mixing.arc_length(type(self).__name__, low, high, len(self.points), self.gram)

    def coefficients(self, coords: ArrayLike) -> Array:
        """Return the coefficients of the control points at t, shape (n,)."""
        (t,) = self._from_origin(np.asarray(coords, np.float64).reshape(-1))
        return mixing.CURVES[type(self).__name__][0](float(t), len(self.points))

    def _slopes(self, coords: Array) -> Array:
        return mixing.CURVES[type(self).__name__][1](float(coords[0]), len(self.points)).reshape(1, -1)

    def _closest(self, params: Mapping[str, Tensor]) -> tuple[Array, float]:
        """Scan the curve over [-1, 2] and refine the best place; distances follow from inner products alone."""
        first, *others = map(to_double, self.points.values())
        target = {name: tensor.detach().double() for name, tensor in params.items()}
        pulls = np.array([algebra.dot(algebra.subtract(point, first), algebra.subtract(target, first))
                          for point in others])  # fmt: skip
        of = mixing.CURVES[type(self).__name__][0]
        t = mixing.closest(lambda t: of(t, len(self.points))[1:], pulls, self.gram)
        at = np.array([t - (self._shift or (0.0,))[0]])
        precise = self._precise()
        left = algebra.subtract(target, precise(at))
        for _ in range(_POLISH):  # inner products know t to eight digits only
            (tangent,) = self.tangents(at)
            step = algebra.dot(tangent, left) / (algebra.dot(tangent, tangent) or 1.0)
            nearer = algebra.subtract(target, precise(at + step))
            if algebra.norm(nearer) >= algebra.norm(left):
                break
            at, left = at + step, nearer
        return at, algebra.norm(left)

    def places(self) -> dict[str, tuple[float, ...]]:
        """Return the control points that lie on the curve, with their t."""
        (origin,) = self._shift or (0.0,)
        return {name: (t - origin,) for name, t in self._nodes().items()}

    def _nodes(self) -> dict[str, float]:
        """Return t of the control points that lie on the curve."""
        return {"start": 0.0, "end": 1.0}


_ALONG = {"t": "along the curve from its start (0) to its end (1)"}


@register(axes=_ALONG, word="bezier", options=("trained",), complete=True)
class BezierCurve(Curve):
    """w(t) = Σ_j C(n, j) t^j (1 - t)^(n - j) w_j, the Bézier curve of n + 1 control points.

    It starts at the first and ends at the last, bit for bit; the bends between them are not on it. It is computed by
    repeated linear interpolation (de Casteljau), so a weight that all control points share stays as it is.

    Parameters
    ----------
    *points : mapping of str to Tensor, Objective, nn.Module or path of a checkpoint
        Two or more, in order. Buffers of the ends are used at the ends and interpolated between.
    trained : mapping, optional
        How the bends were trained, in JSON values, for the surface; `lossnav.connect` sets it.

    Raises
    ------
    ChartError
        If there are fewer than two control points.
    StructureMismatchError
        If names or shapes differ.

    References
    ----------
    Garipov et al. 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", eq. 4 (for one bend).

    Examples
    --------
    >>> a, b, c = ({"w": torch.tensor([x])} for x in (0.0, 3.0, 4.0))
    >>> curve = BezierCurve(a, b, c)
    >>> curve([0.5]), curve.coefficients([0.5])
    ({'w': tensor([2.5000])}, array([0.25, 0.5 , 0.25]))
    """

    def _at(self, coords: Sequence[float], points: Mapping[str, Any]) -> Params:
        (t,) = coords
        controls = list(points.values())
        if t in (0.0, 1.0):
            return dict(controls[0 if t == 0.0 else -1])
        return {name: _casteljau([point[name] for point in controls], t) for name in controls[0]}

    def bending(self, coords: ArrayLike, covector: Mapping[str, Tensor]) -> Array:
        """Return the second derivative along a covector, covector . d^2 w / dt^2, shape (1, 1)."""
        (t,) = self._from_origin(np.asarray(coords, np.float64).reshape(-1))
        bends = mixing.bernstein_bend(float(t), len(self.points))
        return np.array([[algebra.dot(covector, _mix(bends, [to_double(point) for point in self.points.values()]))]])


@register(axes=_ALONG, word="chain", options=("trained",), complete=True)
class PolygonalChain(Curve):
    """w(t) = Σ_j max(0, 1 - |t n - j|) w_j, the segments between n + 1 control points.

    Every control point lies on it, bit for bit, at t = j / n. Beyond the ends, the first and last segment go on.

    Parameters
    ----------
    *points : mapping of str to Tensor, Objective, nn.Module or path of a checkpoint
        Two or more, in order. At each its own buffers are used, and between two they are interpolated.
    trained : mapping, optional
        How the bends were trained, in JSON values, for the surface; `lossnav.connect` sets it.

    Raises
    ------
    ChartError
        If there are fewer than two control points.
    StructureMismatchError
        If names or shapes differ.

    References
    ----------
    Garipov et al. 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", eq. 3 (for one bend).

    Examples
    --------
    >>> a, b, c = ({"w": torch.tensor([x])} for x in (0.0, 3.0, 4.0))
    >>> chain = PolygonalChain(a, b, c)
    >>> chain([0.5]), chain([0.75]), chain.places()
    ({'w': tensor([3.])}, {'w': tensor([3.5000])}, {'start': (0.0,), 'bend1': (0.5,), 'end': (1.0,)})
    """

    def _at(self, coords: Sequence[float], points: Mapping[str, Any]) -> Params:
        controls = list(points.values())
        number, place = mixing.segment(coords[0], len(controls))
        if place in (0.0, 1.0):
            return dict(controls[number + int(place)])
        return {name: _casteljau([point[name] for point in controls[number : number + 2]], place)
                for name in controls[0]}  # fmt: skip

    def bending(self, coords: ArrayLike, covector: Mapping[str, Tensor]) -> Array:
        """Return zero, the second derivative inside a segment; at a bend there is none."""
        return np.zeros((1, 1))

    def _nodes(self) -> dict[str, float]:
        return {name: j / (len(self.points) - 1) for j, name in enumerate(self.points)}


@register(
    axes={"w1": "weight of vertex 1", "w2": "weight of vertex 2", "w3": "weight of vertex 3"},
    word="simplex",
    complete=True,
)
class Simplex(Mixture):
    """w(x) = (1 - Σ x_i) v_0 + Σ x_i v_i, the mixtures of k + 1 vertices; coordinate i is the weight of vertex i.

    A segment, triangle or tetrahedron of networks. Inside, all coordinates are at least 0 and their sum is at most 1;
    outside, it goes on as the line, plane or volume that it spans.

    Parameters
    ----------
    *points : mapping of str to Tensor, Objective, nn.Module or path of a checkpoint
        Two or more vertices. At each its own buffers are used; inside they are interpolated.

    Raises
    ------
    ChartError
        If there are fewer than two vertices, or they lie on a line, in a plane, ...: the weights are then not unique.
    StructureMismatchError
        If names or shapes differ.

    References
    ----------
    Benton et al. 2021, "Loss Surface Simplexes for Mode Connecting Volumes and Fast Ensembling", section 3.

    Examples
    --------
    >>> a, b, c = ({"w": torch.tensor(x)} for x in ([0.0, 0.0], [4.0, 0.0], [0.0, 8.0]))
    >>> Simplex(a, b, c)([0.5, 0.25])
    {'w': tensor([2., 2.])}
    """

    affine = True

    def __init__(self, *points: End | Network) -> None:
        self.dims = tuple(f"w{i}" for i in range(1, len(points))) or ("w1",)
        super().__init__(*points)

    @staticmethod
    def _named(count: int) -> list[str]:
        return [f"vertex{j}" for j in range(count)]

    def coefficients(self, coords: ArrayLike) -> Array:
        """Return the weights of all vertices at some coordinates, shape (k + 1,)."""
        at = self._from_origin(np.asarray(coords, np.float64).reshape(-1))
        return mixing.barycentric(at, len(self.points))

    def _at(self, coords: Sequence[float], points: Mapping[str, Any]) -> Params:
        controls = list(points.values())
        weights = mixing.barycentric(list(coords), len(controls))
        if (weights == 1.0).any() and np.count_nonzero(weights) == 1:
            return dict(controls[int(weights.argmax())])
        first = controls[0]
        return {
            name: algebra.combine(
                {name: _wide(tensor)},
                [float(x) for x in coords],
                [{name: _wide(point[name]) - _wide(tensor)} for point in controls[1:]],
            )[name]
            for name, tensor in first.items()
        }

    def tangents(self, coords: ArrayLike) -> tuple[Mapping[str, Tensor], ...]:
        """Return the steps from the first vertex to each of the others."""
        return self.basis

    def places(self) -> dict[str, tuple[float, ...]]:
        """Return the vertices with their coordinates."""
        k = len(self.dims)
        corners = np.concatenate([np.zeros((1, k)), np.eye(k)]) - np.asarray(self._shift or [0.0] * k)
        return {name: tuple(map(float, at)) for name, at in zip(self.points, corners, strict=True)}

    def _find_anchors(self) -> Anchors | None:
        if np.isfinite(self.gram).all() and _is_dependent(self.gram):
            raise ChartError(
                f"The {len(self.points)} vertices of this Simplex span fewer than {len(self.dims)} dimensions, so a "
                "point has no unique weights. Leave out a vertex that is a mixture of the others."
            )
        return super()._find_anchors()


def _is_dependent(gram: Array) -> bool:
    """Whether vectors with these inner products are linearly dependent, or nearly so."""
    lengths = np.sqrt(gram.diagonal())
    return bool(not lengths.all() or np.linalg.eigvalsh(gram / np.outer(lengths, lengths))[0] < _DEPENDENT)


def _wide(tensor: Tensor) -> Tensor:
    """In float32 or wider: half precision is rounded once, at the end."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _casteljau(tensors: Sequence[Tensor], t: float) -> Tensor:
    """Interpolate between neighbours until one is left; exact where all are equal."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    layer = [tensor.detach().to(dtype) for tensor in tensors]
    while len(layer) > 1:
        # in the memory layout of the first: a weight that loses channels-last makes the next layer 3x slower
        layer = [torch.lerp(a, b, t, out=torch.empty_like(a)) for a, b in itertools.pairwise(layer)]
    return layer[0]


def _mix(coefficients: Array, points: Sequence[Mapping[str, Tensor]]) -> Params:
    """Return Σ c_j w_j for coefficients whose sum is 0: Σ c_j (w_j - w_0), so that what is shared stays 0."""
    first = points[0]
    return {
        name: sum((float(c) * (point[name] - tensor) for c, point in zip(coefficients[1:], points[1:], strict=True)),
                  start=torch.zeros_like(tensor))
        for name, tensor in first.items()
    }  # fmt: skip
