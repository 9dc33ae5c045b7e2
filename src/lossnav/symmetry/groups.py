"""Groups of permutations, where in a network's tensors they act, and acting with them.

A permutation p of a group of n units is a tensor of n whole numbers: unit i of the result is unit p[i] of what it was
made from. A group that lies *within* another (the widths within attention heads) has a permutation for each of the
outer's units, of shape (outer, n): row i is for the unit that comes to place i.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lossnav.params import Params

Permutations = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How an axis is made of units of groups.

    Attributes
    ----------
    kind : "unit", "product" or "concatenation"
    size : int
    group : str or None
        Of a unit: which group permutes it; None where it is fixed.
    parts : tuple of Layout
    within : str or None
        Of a unit: the group in whose every unit it is permuted separately.
    """

    kind: Literal["unit", "product", "concatenation"]
    size: int
    group: str | None = None
    parts: tuple[Layout, ...] = ()
    within: str | None = None

    def groups(self) -> Iterator[str]:
        """Names of the groups that act on it; one that acts in two places is named twice."""
        if self.group is not None:
            yield self.group
        for part in self.parts:
            yield from part.groups()

    def without(self, dropped: frozenset[str] | set[str]) -> Layout:
        """Return the same with some groups fixed."""
        group = None if self.group in dropped else self.group
        within = None if group is None else self.within
        return Layout(self.kind, self.size, group, tuple(part.without(dropped) for part in self.parts), within)

    def inside(self, outers: Mapping[str, str | None]) -> Layout:
        """Return the same with the outer groups of some groups, by name."""
        within = self.within if self.group is None else outers.get(self.group, self.within)
        return Layout(self.kind, self.size, self.group, tuple(part.inside(outers) for part in self.parts), within)

    def units_within(self, outer: str | None) -> Iterator[str]:
        """Names of the groups that act on it and lie within another."""
        if self.group is not None and self.within is not None and self.within == outer:
            yield self.group
        for part in self.parts:
            yield from part.units_within(outer)


@dataclass(frozen=True)
class Action:
    """How groups act on a tensor.

    Attributes
    ----------
    names : tuple of str
        One name; several are tensors of one shape that are permuted among each other, as along a first axis.
    axes : tuple of Layout
        With that first axis, where there are several.
    """

    names: tuple[str, ...]
    axes: tuple[Layout, ...]

    def groups(self) -> list[str]:
        """Names of the groups that act on it, each once."""
        return list(dict.fromkeys(name for axis in self.axes for name in axis.groups()))

    def take(self, state: Mapping[str, Tensor]) -> Tensor:
        """The tensor, several of them stacked."""
        return torch.stack([state[name] for name in self.names]) if len(self.names) > 1 else state[self.names[0]]

    def put(self, tensor: Tensor) -> Params:
        """What `take` took, by the names of the tensors."""
        return dict(zip(self.names, tensor, strict=True)) if len(self.names) > 1 else {self.names[0]: tensor}


@dataclass(frozen=True)
class PermutationGroup:
    """All permutations of some units of a network that leave its function as it is.

    Attributes
    ----------
    name : str
        The first place where it acts: tensor and axis.
    size : int
        Units.
    within : str or None
        The group in whose every unit it permutes separately, as the width within attention heads.
    tensors : tuple of str
        Weights and buffers that it acts on.
    error : float
        The proof: largest difference of the outputs in float64 after a random permutation, as a fraction of their
        largest entry, at weights in general position.
    """

    name: str
    size: int
    within: str | None = None
    tensors: tuple[str, ...] = field(default=(), compare=False)
    error: float = field(default=float("nan"), compare=False)


def settled(actions: Sequence[Action], groups: Sequence[PermutationGroup]) -> list[Action]:
    """Return actions that know which groups lie within which."""
    outers = {group.name: group.within for group in groups}
    return [Action(action.names, tuple(axis.inside(outers) for axis in action.axes)) for action in actions]


def permute(state: Mapping[str, Tensor], actions: Sequence[Action], permutations: Permutations) -> Params:
    """Permute tensors; a group without a permutation stays, and so does a tensor without a group.

    Returns
    -------
    dict of str to Tensor
        All tensors of `state`; those that no permutation acts on are the same objects.
    """
    made = dict(state)
    for action in actions:
        if any(name in permutations for name in action.groups()):
            made |= action.put(permuted(action.take(state), action.axes, permutations))
    return made


def permuted(tensor: Tensor, axes: Sequence[Layout], permutations: Permutations) -> Tensor:
    """Permute one tensor.

    A permutation within a group of another axis is done slice by slice, the others axis by axis.
    """
    for outer, axis in enumerate(axes):
        inner = [
            name
            for i, other in enumerate(axes)
            for name in other.units_within(axis.group)
            if i != outer and name in permutations and permutations[name].dim() == 2
        ]
        inner = [name for name in inner if not any(_holds(other, axis.group, name) for other in axes)]
        if inner:
            order = permutations.get(str(axis.group), torch.arange(axis.size))
            others = [other for i, other in enumerate(axes) if i != outer]
            slices = [
                permuted(
                    tensor.select(outer, int(source)),
                    others,
                    permutations | {name: permutations[name][i] for name in inner},
                )
                for i, source in enumerate(order)
            ]
            return torch.stack(slices, outer)
    for i, axis in enumerate(axes):
        if any(name in permutations for name in axis.groups()):
            tensor = tensor.index_select(i, order_of(axis, permutations).to(tensor.device))
    return tensor


def order_of(axis: Layout, permutations: Permutations) -> Tensor:
    """Where each entry of a permuted axis comes from, shape (size,)."""
    if axis.kind == "unit":
        if axis.group in permutations:
            return permutations[axis.group]
        return torch.arange(axis.size)
    if axis.kind == "concatenation":
        starts = [0]
        for part in axis.parts:
            starts.append(starts[-1] + part.size)
        return torch.cat(
            [order_of(part, permutations) + start for part, start in zip(axis.parts, starts, strict=False)]
        )
    first, rest = axis.parts[0], axis.parts[1:]
    inside = rest[0] if len(rest) == 1 else Layout("product", axis.size // first.size, None, rest)
    outer = order_of(first, permutations)  # (first,)
    own = set(inside.units_within(first.group))
    rows = [name for name in own if name in permutations and permutations[name].dim() == 2]
    if rows:
        each = [
            order_of(inside, permutations | {name: permutations[name][i] for name in rows}) for i in range(len(outer))
        ]
        inner = torch.stack(each)  # (first, inside)
    else:
        inner = order_of(inside, permutations)[None]
    return (outer[:, None] * inside.size + inner).reshape(-1)


def _holds(axis: Layout, outer: str | None, inner: str) -> bool:
    """Whether a product of an axis has the one group outside of the other."""
    if axis.kind == "product":
        for i, part in enumerate(axis.parts):
            if part.group == outer and any(inner in set(later.groups()) for later in axis.parts[i + 1 :]):
                return True
    return any(_holds(part, outer, inner) for part in axis.parts)


def compose(first: Permutations, second: Permutations, groups: Sequence[PermutationGroup]) -> Permutations:
    """The permutations that do `first`, and then `second`."""
    made: Permutations = {}
    for group in groups:
        p, q = first[group.name], second[group.name]
        if group.within is None:
            made[group.name] = p[q]
        else:  # the unit that comes to place i came from place r[i] of the first
            r = second[group.within]
            made[group.name] = torch.stack([p[r[i]][q[i]] for i in range(len(q))])
    return made


def identity(groups: Sequence[PermutationGroup]) -> Permutations:
    """The permutations that change nothing."""
    sizes = {group.name: group.size for group in groups}
    return {
        g.name: torch.arange(g.size).repeat(sizes[g.within], 1) if g.within else torch.arange(g.size) for g in groups
    }


def draw(groups: Sequence[PermutationGroup], generator: torch.Generator) -> Permutations:
    """Random permutations, uniform over all but the identity; a group within one that is not drawn has its size too.

    Parameters
    ----------
    groups : sequence of PermutationGroup
        A group within another comes with it.
    generator : torch.Generator
    """
    sizes = {group.name: group.size for group in groups}
    return {
        g.name: torch.stack([_draw(g.size, generator) for _ in range(sizes[g.within])])
        if g.within is not None
        else _draw(g.size, generator)
        for g in groups
    }


def _draw(size: int, generator: torch.Generator) -> Tensor:
    while True:
        made = torch.randperm(size, generator=generator)
        if size < 2 or not torch.equal(made, torch.arange(size)):
            return made
