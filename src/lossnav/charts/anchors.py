"""Checkpoints on a chart (anchors): their coordinates, and the buffers at and between them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils.simplex import Triangulation
from lossnav.checkpoints.weights import Anatomy
from lossnav.directions import lazy as lazily
from lossnav.directions.base import Direction
from lossnav.directions.between_points import remade
from lossnav.directions.lazy import Family, LazyDirection
from lossnav.errors import ChartError, StructureMismatchError
from lossnav.objective.networks import End, Network, differing, leading, named, network_of
from lossnav.objective.objective import Objective
from lossnav.params import Checkpoint, Params

Array = NDArray[np.float64]

_NEAR = 0.1  # of a direction's length: a point further from a chart does not lie on it, whatever the rounding


class Anchors:
    """The buffers of a chart: those of each checkpoint at its place, interpolated between as the weights are.

    Between the checkpoints, a floating-point or complex buffer is the mean by barycentric coordinates, computed in
    float64; any other buffer is that of the nearest checkpoint. If a checkpoint lies between others, the coordinates
    are those in a simplex of a Delaunay triangulation. Outside, the buffers of the nearest point between the
    checkpoints are used, because an extrapolated variance could be negative. Coordinates in which the checkpoints do
    not differ have no effect.

    Parameters
    ----------
    places : array of shape (m, k)
        Coordinates of the checkpoints.
    buffers : sequence of m dicts of str to Tensor
    metric : array of shape (k, k)
        Inner products of the chart's directions, so that distances are those between weights.
    others : sequence of str
        Buffers that are equal at all places, and differ from those of the objective.

    Attributes
    ----------
    moved : list of str
        Buffers in which the checkpoints differ.
    """

    def __init__(
        self, places: ArrayLike, buffers: Sequence[Params], metric: ArrayLike, others: Sequence[str] = ()
    ) -> None:
        self.metric = np.asarray(metric, np.float64)
        self.hull = Triangulation(places, self.metric)
        first = buffers[0]
        common = [name for name in sorted(first) if all(name in one for one in buffers)]
        for one in buffers[1:]:
            if difference := algebra.first_difference({n: one[n] for n in common}, {n: first[n] for n in common}):
                raise StructureMismatchError(
                    f"The buffers of two checkpoints differ at {difference}. Use checkpoints whose buffers have the "
                    "same shapes."
                )
        self._buffers = [{name: one[name] for name in common} for one in buffers]
        self.moved = [n for n in common if not all(algebra.same(first[n], one[n]) for one in buffers[1:])]
        self.others = list(others)

    @property
    def places(self) -> Array:
        """Coordinates of the checkpoints, shape (m, k)."""
        return self.hull.corners

    def at(self, coords: ArrayLike) -> Params:
        """Return the buffers at some coordinates; at a checkpoint exactly its own."""
        weights = self.hull.weights(coords)
        nearest = self._buffers[self.hull.nearest(weights)]
        if weights.max() == 1.0:
            return dict(nearest)
        means = {n: _mean([one[n] for one in self._buffers], weights) for n in self.moved if _is_number(nearest[n])}
        return nearest | means

    def shifted(self, by: ArrayLike) -> Anchors:
        """Return the same anchors in coordinates whose origin is at `by`."""
        return Anchors(self.places - np.asarray(by, np.float64).reshape(-1), self._buffers, self.metric, self.others)

    def fitted(self, objective: Objective) -> Anchors | None:
        """Return the anchors with all buffers of an objective, or None if all buffers equal the objective's.

        Buffers that a checkpoint lacks are those of the objective.

        Raises
        ------
        StructureMismatchError
            If the objective lacks a buffer, or its shape differs.
        """
        mine = {name: tensor for name, tensor in self._buffers[0].items() if name not in objective.anatomy.held}
        own = objective.buffers_at(objective.params, {})
        full = [objective.buffers_at({}, {name: one[name] for name in mine}) for one in self._buffers]
        made = Anchors(self.places, full, self.metric)
        made.others = [n for n, t in sorted(own.items()) if n not in made.moved and not algebra.same(full[0][n], t)]
        return made if made.moved or made.others else None

    def describe(self) -> dict[str, Any]:
        """Return which buffers vary, and coordinates and fingerprints of the checkpoints, as JSON values."""
        recorded = self.recorded
        return {
            "moved": self.moved,
            "others": self.others,
            "points": [
                {"at": place, "fingerprint": algebra.fingerprint(buffers)}
                for place, buffers in zip(self.places.tolist(), recorded, strict=True)
            ],
        }

    @property
    def matters(self) -> bool:
        """Whether any buffer varies, or differs from the objective's."""
        return bool(self.moved or self.others)

    @property
    def recorded(self) -> list[Params]:
        """The buffers at each place that vary or differ from the objective's."""
        return [{name: one[name] for name in (*self.moved, *self.others)} for one in self._buffers]


def arrange(
    points: Mapping[str, End | Network],
    directions: Sequence[Mapping[str, Tensor]],
    objective: Objective | None = None,
) -> tuple[dict[str, Network], tuple[Mapping[str, Tensor], ...]]:
    """Sort the tensors of a chart's control points and checkpoints into parameters and buffers.

    The objective decides, if it is given; else the first control point that is a model; else an end of the directions.
    If there are only files and dicts, all floating-point tensors count as parameters until there is an objective.

    Raises
    ------
    StructureMismatchError, CheckpointMismatchError
        If they do not fit.
    ChartError
        If the centre is a file, and nothing tells which of its tensors are parameters.
    """
    networks = {name: network_of(point) for name, point in points.items()}
    ends = [end for direction in directions for end in points_of(direction)]
    every = [*networks.values(), *ends]
    if len(every) == 1 and not every[0].anatomy and objective is None:
        ((name, network),) = networks.items()
        if network.in_file:
            raise ChartError(
                f"{network.source} does not tell which of its tensors are parameters. Pass objective.at(path)."
            )
        given = points[name]
        if isinstance(given, Mapping) and not isinstance(given, Checkpoint):  # all its tensors, whatever their dtypes
            network = Network(algebra.detach(given), {}, {}, network.source)
        return {name: network}, tuple(directions)
    anatomy = objective.anatomy if objective is not None else leading(every) or _fewest(every)
    if anatomy is None:
        first = next(iter(networks.values()))
        return {name: network.named_as(first) for name, network in networks.items()}, tuple(directions)
    if objective is None and (more := differing(anatomy, every)):
        anatomy = anatomy.letting_move(more)
    again_sorted = objective is not None or bool(anatomy.also) or len(networks) > 1
    for name, network in networks.items():
        network = _completed(network, anatomy, ends, objective)
        named_otherwise = network.anatomy is None and algebra.first_difference(network.params, anatomy.params)
        if named_otherwise or (again_sorted and not network.is_sorted_by(anatomy)):
            network = network.sorted_by(anatomy)
        networks[name] = network
    again: dict[int, Network] = {}
    for end in ends:
        if id(end) not in again:
            again[id(end)] = end if end.is_sorted_by(anatomy) else end.sorted_by(anatomy)
    return networks, _extended([_between_these(direction, again) for direction in directions], anatomy)


def _completed(network: Network, anatomy: Anatomy, points: Sequence[Network], objective: Objective | None) -> Network:
    """Add the parameters that a centre lacks and that move only because checkpoints differ in them.

    They are taken from the objective, or from the checkpoint that has the same other weights.
    """
    lacking = [name for name in anatomy.params if name in anatomy.also and name not in network.params | network.held]
    if not lacking:
        return network
    if objective is not None:
        return replace(network, params=network.params | {name: objective.params[name] for name in lacking})
    for point in points:
        rest = {name: tensor for name, tensor in point.params.items() if name not in lacking}
        if not algebra.first_difference(network.params, rest) and all(
            algebra.same(tensor, rest[name]) for name, tensor in network.params.items()
        ):
            return replace(network, params=network.params | {name: point.params[name] for name in lacking})
    return network


def _extended(directions: Sequence[Mapping[str, Tensor]], anatomy: Anatomy) -> tuple[Mapping[str, Tensor], ...]:
    """Add zeros to directions for the parameters that move only because checkpoints differ in them."""
    made: list[Mapping[str, Tensor]] = []
    families: dict[int, Family] = {}
    for direction in directions:
        known = lazily.structure(direction)
        lacking = {n: algebra.hollow(t) for n, t in anatomy.params.items() if n in anatomy.also and n not in known}
        if not lacking:
            made.append(direction)
        elif isinstance(direction, LazyDirection):
            made.append(direction.within(families.setdefault(id(direction.family), direction.family.beside(lacking))))
        else:
            recipe = getattr(direction, "recipe", {"kind": "given"})
            made.append(Direction({**direction, **lacking}, recipe, points_of(direction)))
    return tuple(made)


def _fewest(networks: Sequence[Network]) -> Anatomy | None:
    """Infer parameters and buffers from the network that has parameters only; None if all have the same tensors."""
    least = min(networks, key=lambda network: len(network.params))
    most = max(networks, key=lambda network: len(network.params))
    rest = {name: tensor for name, tensor in most.params.items() if name not in least.params}
    counted = {name: tensor for network in networks for name, tensor in network.buffers.items()}
    return Anatomy("the one beside it", least.params, {}, rest | counted) if rest else None


def _between_these(direction: Mapping[str, Tensor], again: Mapping[int, Network]) -> Mapping[str, Tensor]:
    """Return a direction with its networks replaced by their sorted versions."""
    points = points_of(direction)
    fresh = tuple(again.get(id(point), point) for point in points)
    if isinstance(direction, Direction) and not all(a.fits(b.params) for a, b in zip(fresh, points, strict=True)):
        return remade(direction, points, fresh)
    return with_points(direction, fresh)


def points_of(direction: Mapping[str, Tensor]) -> tuple[Network, ...]:
    """Return the checkpoints between which a direction leads; none for any other direction."""
    return getattr(direction, "points", ())


def find(
    center: Network, directions: Sequence[Mapping[str, Tensor]], metric: ArrayLike, straight: bool
) -> Anchors | None:
    """Find the coordinates of the checkpoints to which a chart's directions lead; None if no buffers are known.

    Raises
    ------
    ChartError
        If the centre has the weights of a checkpoint, but other buffers.
    """
    anchored = [(place, network) for place, network in locate(center, directions, metric, straight) if network.buffers]
    if not anchored:
        return None
    return Anchors([place for place, _ in anchored], [network.buffers for _, network in anchored], metric)


def locate(
    center: Network, directions: Sequence[Mapping[str, Tensor]], metric: ArrayLike, straight: bool
) -> list[tuple[Array, Network]]:
    """Find the checkpoints to which a chart's directions lead, with their coordinates; without any, the centre.

    A chart along b - a contains b if its centre is a, and a if its centre is b. From these, further checkpoints follow
    by the other directions.
    """
    origin = np.zeros(len(directions))
    steps = _steps(directions) if straight else []
    if not steps:
        return [(origin, center)]
    known = {center.fingerprint: (origin, _at_center(center, [network for step in steps for network in step[:2]]))}
    grown = bool(steps)
    while grown:
        grown = False
        for start, end, way in steps:
            for here, there, sign in ((start, end, 1.0), (end, start, -1.0)):
                if here.fingerprint in known and there.fingerprint not in known:
                    known[there.fingerprint] = known[here.fingerprint][0] + sign * way, there
                    grown = True
    if any(name not in known for step in steps for name in (step[0].fingerprint, step[1].fingerprint)):
        _add_those_that_lie_on(known, center, directions, metric, steps)
    return list(known.values())


def _add_those_that_lie_on(
    known: dict[str, tuple[Array, Network]],
    center: Network,
    directions: Sequence[Mapping[str, Tensor]],
    metric: ArrayLike,
    steps: Sequence[tuple[Network, Network, Array]],
) -> None:
    """Find the checkpoints that lie on the chart up to rounding, although no chain of directions leads to them.

    For example, both ends lie on a line whose centre is the mean of their weights.

    Raises
    ------
    ChartError
        If two of them have the same weights, but other buffers.
    """
    axes = np.flatnonzero(sum(np.abs(way) for *_, way in steps))  # random directions lead to no checkpoint
    gram = np.asarray(metric, np.float64)[np.ix_(axes, axes)]
    stored = [directions[int(axis)] for axis in axes]
    for end in (network for step in steps for network in step[:2]):
        if end.fingerprint in known or not end.fits(center.params):
            continue
        offset = {name: tensor.double() - center.params[name].double() for name, tensor in end.params.items()}
        coords = np.linalg.solve(gram, np.array([algebra.dot(direction, offset) for direction in stored]))
        left = algebra.norm(algebra.combine(offset, [-float(x) for x in coords], stored))
        rounding = max(torch.finfo(tensor.dtype).eps for tensor in end.params.values())
        rounding *= algebra.norm(end.params) + algebra.norm(center.params)
        # in half precision, rounding alone would allow almost any point
        if not left <= min(rounding, _NEAR * algebra.norm(stored[0])):
            continue
        place = np.zeros(len(directions))
        whole = coords.round(6)  # exactly 0.5 at the rounded mean of two
        place[axes] = np.where(np.abs(coords - whole) * np.sqrt(gram.diagonal()) <= rounding, whole, coords)
        there = next((other for at, other in known.values() if np.array_equal(at, place)), None)
        if there is None:
            known[end.fingerprint] = place, end
        else:
            _require_same_buffers(there, end)


def _at_center(center: Network, ends: Sequence[Network]) -> Network:
    """Return the checkpoint at the centre: the centre if its buffers are known, else the end with its weights."""
    same = next((end for end in ends if end.fingerprint == center.fingerprint), None)
    if same is None:
        return center
    if not center.buffers:
        return same
    _require_same_buffers(center, same)
    return center


def _require_same_buffers(center: Network, end: Network) -> None:
    if other := [n for n, t in center.buffers.items() if n in end.buffers and not algebra.same(t, end.buffers[n])]:
        raise ChartError(
            f"The centre has the weights of an end of its directions but another {named(other)}, so it is not clear "
            "which network lies at 0. Pass that end as the centre."
        )


def _steps(directions: Sequence[Mapping[str, Tensor]]) -> list[tuple[Network, Network, Array]]:
    """Return triples (start, end, difference of coordinates) of checkpoints that the directions connect."""
    unit = np.eye(len(directions))
    found = []
    families: dict[tuple[Any, ...], dict[int, int]] = {}
    for axis, direction in enumerate(directions):
        points, recipe = points_of(direction), getattr(direction, "recipe", {})
        if recipe.get("kind") == "between" and points:
            found.append((points[0], points[1], unit[axis] / recipe.get("times", 1.0)))
        elif recipe.get("kind") == "through" and points:
            families.setdefault((*recipe["points"], recipe["orthogonal"]), {})[recipe["index"]] = axis
            unit[axis] /= recipe.get("times", 1.0)
    for axes in families.values():
        direction = directions[next(iter(axes.values()))]
        points, places = points_of(direction), np.asarray(direction.recipe["places"])  # type: ignore[attr-defined]
        for point, place in zip(points[1:], places[1:], strict=True):
            used = np.flatnonzero(place)
            if all(int(i) in axes for i in used):
                found.append((points[0], point, sum(place[i] * unit[axes[int(i)]] for i in used)))
    return found


def _mean(tensors: Sequence[Tensor], weights: Array) -> Tensor:
    """Return the weighted mean; computed in float64, so that values equal in all tensors stay unchanged."""
    wide = torch.complex128 if tensors[0].is_complex() else torch.float64
    used = [(float(weight), tensor) for weight, tensor in zip(weights, tensors, strict=True) if weight]
    total = sum((weight * tensor.to(wide) for weight, tensor in used[1:]), used[0][0] * used[0][1].to(wide))
    return total.to(tensors[0].dtype)


def _is_number(tensor: Tensor) -> bool:
    """Whether tensors of this kind have a mean."""
    return (tensor.is_floating_point() or tensor.is_complex()) and tensor.layout == torch.strided


def with_points(direction: Mapping[str, Tensor], points: tuple[Network, ...]) -> Mapping[str, Tensor]:
    """Return the same direction with other checkpoints attached, or with none."""
    if points_of(direction) == points:
        return direction
    made = copy.copy(direction)
    made.points = points  # type: ignore[attr-defined]
    return made
