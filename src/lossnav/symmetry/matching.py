"""Weight matching: permute one network's units so that its tensors come closest to another's.

max over permutations of Σ_t ⟨a_t, b_t permuted⟩, the sum over tensors; for tensors of fixed norm that is the least
distance. Coordinate ascent: for one group at a time, all others as they are, the sum is linear in the permutation but
where a tensor carries the group twice, and a linear assignment solves it. A group and those within it (heads, and
the width in each) are solved together: the gain of a pair of heads is that of its best inner assignment. A step is
taken only if the sum grows. What is found is a local maximum, so there are several starts.

References
----------
Ainsworth et al. 2023, "Git Re-Basin: Merging Models modulo Permutation Symmetries", algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lossnav.symmetry.groups import Layout, PermutationGroup, Permutations, compose, identity, permuted

_MOST_SWEEPS = 100
_GAIN = 1e-12  # of the product of the norms: below it is rounding


@dataclass(frozen=True)
class TensorPair:
    """A tensor of each of two networks, float64, and how groups act on it."""

    target: Tensor
    moving: Tensor
    axes: tuple[Layout, ...]


@dataclass(frozen=True)
class AscentResult:
    """Where an ascent ended.

    Attributes
    ----------
    permutations : dict of str to Tensor
    value : float
        Σ ⟨a, b permuted⟩ over all tensors that groups act on.
    """

    permutations: Permutations
    value: float


def match(
    groups: Sequence[PermutationGroup], pairs: Sequence[TensorPair], start: Permutations, generator: torch.Generator
) -> AscentResult:
    """Ascend from a start, in sweeps over the groups in random order, until no group gains."""
    found = {group.name: start[group.name] for group in groups}
    moving = [permuted(pair.moving, pair.axes, found) for pair in pairs]
    users = {g.name: [i for i, pair in enumerate(pairs) if _acts(pair.axes, g.name)] for g in groups}
    inner = {g.name: [other for other in groups if other.within == g.name] for g in groups}
    leading = [g for g in groups if g.within is None]
    scale = sum(float(pair.target.norm() * pair.moving.norm()) for pair in pairs)
    for _ in range(_MOST_SWEEPS):
        gained = False
        for k in torch.randperm(len(leading), generator=generator).tolist():
            group = leading[k]
            own = users[group.name]
            parts = [TensorPair(pairs[i].target, moving[i], pairs[i].axes) for i in own]
            step = _step(group, inner[group.name], parts)
            after = [permuted(part.moving, part.axes, step) for part in parts]
            gain = sum(float((p.target * (new - p.moving)).sum()) for p, new in zip(parts, after, strict=True))
            if gain > _GAIN * scale:
                gained = True
                for i, new in zip(own, after, strict=True):
                    moving[i] = new
                acting = [group, *inner[group.name]]
                found |= compose({g.name: found[g.name] for g in acting}, step, acting)
        if not gained:
            break
    value = sum(float((pair.target * now).sum()) for pair, now in zip(pairs, moving, strict=True))
    return AscentResult(found, value)


def by_sorted_rows(groups: Sequence[PermutationGroup], pairs: Sequence[TensorPair]) -> Permutations:
    """A start: units are compared by their sorted entries, which no permutation of other units changes."""
    found = identity(groups)
    for group in (g for g in groups if g.within is None):
        scores = torch.zeros(group.size, group.size, dtype=torch.float64)
        for pair in pairs:
            for a, b in zip(
                rows(pair.target, pair.axes, group.name), rows(pair.moving, pair.axes, group.name), strict=True
            ):
                scores += a.sort(-1).values @ b.sort(-1).values.T
        found[group.name] = assign(scores)
        for other in (g for g in groups if g.within == group.name):
            blocks_of = [_blocks(pair, group.name, other.name) for pair in pairs]
            each = []
            for i, j in enumerate(found[group.name].tolist()):
                scores = torch.zeros(other.size, other.size, dtype=torch.float64)
                for found_blocks in blocks_of:
                    for a, b in found_blocks:
                        scores += a[i].sort(-1).values @ b[j].sort(-1).values.T
                each.append(assign(scores))
            found[other.name] = torch.stack(each)
    return found


def assign(scores: Tensor) -> Tensor:
    """The permutation q that maximises Σ_i scores[i, q[i]]."""
    from scipy.optimize import linear_sum_assignment  # loaded when it is used

    return torch.from_numpy(linear_sum_assignment(scores.cpu().numpy(), maximize=True)[1]).to(torch.int64)


# ---------------------------------------------------------------------- one step


def _step(group: PermutationGroup, inner: Sequence[PermutationGroup], parts: Sequence[TensorPair]) -> Permutations:
    """The best permutation of a group, and of those within it, from where the moving tensors are."""
    scores = torch.zeros(group.size, group.size, dtype=torch.float64)
    names = [g.name for g in inner]
    for part in parts:
        for a, b in zip(
            rows(part.target, part.axes, group.name, names),
            rows(part.moving, part.axes, group.name, names),
            strict=True,
        ):
            scores += a @ b.T
    choices: dict[str, list[list[Tensor]]] = {}
    for other in inner:
        found = [pair for part in parts for pair in _blocks(part, group.name, other.name)]
        choices[other.name] = []
        every = torch.arange(other.size)
        for i in range(group.size):
            gains = torch.zeros(group.size, other.size, other.size, dtype=torch.float64)
            for a, b in found:
                gains += torch.einsum("xr,jyr->jxy", a[i], b)
            best = [assign(gain) for gain in gains]
            choices[other.name].append(best)
            scores[i] += torch.stack([gain[every, q].sum() for gain, q in zip(gains, best, strict=True)])
    order = assign(scores)
    step = {group.name: order}
    for name, of_pairs in choices.items():
        step[name] = torch.stack([of_pairs[i][j] for i, j in enumerate(order.tolist())])
    return step


def rows(tensor: Tensor, axes: Sequence[Layout], name: str, without: Sequence[str] = ()) -> list[Tensor]:
    """A tensor as matrices with one unit of a group a row, one for each axis that the group acts on.

    Entries that some other groups act on are left out.
    """
    made = []
    for k, axis in enumerate(axes):
        place = coordinates(axis, name)
        others = [coordinates(other, inner) for inner in without for i, other in enumerate(axes) if i == k]
        if any(_acts([other], inner) for inner in without for i, other in enumerate(axes) if i != k):
            continue  # in another axis: all of it is theirs
        for other in others:
            place = torch.where(other >= 0, -1, place)
        if bool((place >= 0).any()):
            made.append(_taken(tensor.movedim(k, 0), place, int(place.max()) + 1))
    return made


def _blocks(pair: TensorPair, outer: str, inner: str) -> list[tuple[Tensor, Tensor]]:
    """Both tensors as (outer units, inner units, rest), where an inner group acts within an outer one."""
    made = []
    for k, axis in enumerate(pair.axes):
        within = coordinates(axis, inner)
        if not bool((within >= 0).any()):
            continue
        width = int(within.max()) + 1
        around = coordinates(axis, outer)
        if bool((around >= 0).any()):
            both = torch.where((around >= 0) & (within >= 0), around * width + within, -1)
            count = int(around.max()) + 1
            a, b = (
                _taken(t.movedim(k, 0), both, count * width).reshape(count, width, -1)
                for t in (pair.target, pair.moving)
            )
            made.append((a, b))
            continue
        for m, other in enumerate(pair.axes):
            if other.group == outer:
                a, b = (t.movedim((m, k), (0, 1)) for t in (pair.target, pair.moving))
                made.append(
                    (
                        torch.stack([_taken(part, within, width) for part in a]),
                        torch.stack([_taken(part, within, width) for part in b]),
                    )
                )
    return made


def _taken(tensor: Tensor, place: Tensor, count: int) -> Tensor:
    """Rows of a tensor by the unit they belong to, shape (count, entries of a unit); -1 belongs to none."""
    there = (place >= 0).nonzero().squeeze(1)
    order = there[torch.argsort(place[there], stable=True)]
    return tensor[order.to(tensor.device)].reshape(count, -1)


def coordinates(axis: Layout, name: str) -> Tensor:
    """For each entry of an axis which unit of a group it belongs to, -1 where none; shape (size,)."""
    if axis.kind == "unit":
        return torch.arange(axis.size) if axis.group == name else torch.full((axis.size,), -1)
    if axis.kind == "concatenation":
        return torch.cat([coordinates(part, name) for part in axis.parts])
    made, inside = torch.full((axis.size,), -1), axis.size
    for part in axis.parts:
        inside //= part.size
        own = coordinates(part, name)
        spread = own.repeat_interleave(inside).repeat(axis.size // (part.size * inside))
        made = torch.where(made >= 0, made, spread)
    return made


def _acts(axes: Sequence[Layout], name: str) -> bool:
    return any(name in set(axis.groups()) for axis in axes)
