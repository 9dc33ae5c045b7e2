"""Groups of experts: a choice among them is made by their number, which no rule of axes can follow.

A router gives a score for each expert, and `topk` fixes that axis. Whether experts may be permuted after all, with the
router's rows, is a hypothesis: the tensors around the router that have one entry, or one module, for each expert are
taken together, and the proof decides. Units inside of experts are then permuted in each expert by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lossnav.symmetry.groups import Action, Layout, PermutationGroup, draw
from lossnav.symmetry.prove import TOLERANCE, Proof

_CHOOSES = ("aten.topk", "aten.argmax", "aten.max", "aten.sort")


@dataclass
class _ExpertTensors:
    """Tensors of one shape, one for each expert."""

    names: tuple[str, ...]
    axes: tuple[Layout, ...]


def with_experts(
    proof: Proof,
    groups: Sequence[PermutationGroup],
    actions: Sequence[Action],
    shapes: Mapping[str, tuple[int, ...]],
    held: Mapping[tuple[str, int], str],
) -> tuple[list[PermutationGroup], list[Action]]:
    """Groups and actions with those of experts, where the proof lets them be permuted.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of all tensors that may move.
    held : mapping of (str, int) to str
        Why axes are fixed.
    """
    made, there = list(groups), list(actions)
    done: set[str] = set()
    for (router, axis), reason in held.items():
        if axis == 0 and reason in _CHOOSES and router not in done and len(shapes[router]) > 1:
            claim = _claim(router, made, there, shapes, held)
            if claim is None:
                continue
            more, new, routers = claim
            done |= routers
            one = [group for group in more if group.name == f"{router}[0]"]
            permutations = draw(one, proof.generator)
            if proof.error(new, permutations) <= TOLERANCE and proof.shows(new, permutations):
                made, there = more, new
    return made, there


def _claim(
    router: str,
    groups: list[PermutationGroup],
    actions: list[Action],
    shapes: Mapping[str, tuple[int, ...]],
    held: Mapping[tuple[str, int], str],
) -> tuple[list[PermutationGroup], list[Action], set[str]] | None:
    """What groups and actions were if the experts of a router were permuted; None where it has none."""
    count, name = shapes[router][0], f"{router}[0]"
    layouts = {p.names[0]: p.axes for p in actions if len(p.names) == 1}
    axes = {n: layouts.get(n, tuple(Layout("unit", size) for size in shape)) for n, shape in shapes.items()}
    parts = router.split(".")
    for depth in range(len(parts) - 1, max(len(parts) - 4, -1), -1):
        prefix = "".join(f"{part}." for part in parts[:depth])
        inside = {n: own for n, own in axes.items() if n.startswith(prefix)}
        families = _families(inside, count, len(prefix))
        stacked = {n for family in families for n in family.names}
        single = {n for n in inside if n not in stacked and (n, 0) in held and axes[n][0] == Layout("unit", count)}
        if not families and all(len(shapes[n]) < 3 for n in single):
            continue
        outer = Layout("unit", count, name)
        merged: dict[str, str] = {}
        for family in families:
            for other in family.names:
                for mine, theirs in zip(family.axes, axes[other], strict=True):
                    merged |= dict(zip(theirs.groups(), mine.groups(), strict=True))
        inner = {new for old, new in merged.items() if old != new}  # what all experts share is a group of its own
        merged = {old: new for old, new in merged.items() if new in inner}
        new = [p for p in actions if not (set(p.names) & (stacked | single))]
        new += [Action((n,), (outer, *axes[n][1:])) for n in sorted(single)]
        new += [Action(family.names, (outer, *family.axes)) for family in families]
        if any(set(p.groups()) & merged.keys() for p in new if not set(p.names) <= stacked):
            return None  # units of one expert are met elsewhere
        order = {n: i for i, n in enumerate(shapes)}
        new.sort(key=lambda p: order[p.names[0]])
        more = [
            replace(g, within=name) if g.name in inner else g for g in groups if merged.get(g.name, g.name) == g.name
        ]
        return [*more, PermutationGroup(name, count)], new, single
    return None


def _families(inside: Mapping[str, tuple[Layout, ...]], count: int, start: int) -> list[_ExpertTensors]:
    """Tensors whose names differ in one number alone, from 0 to one less than the count."""
    found: dict[tuple[str, str], dict[int, str]] = {}
    for name in inside:
        parts = name[start:].split(".")
        for i, part in enumerate(parts):
            if part.isdigit():
                key = name[:start] + ".".join(parts[:i]), ".".join(parts[i + 1 :])
                found.setdefault(key, {})[int(part)] = name
    made = []
    for numbered in found.values():
        if sorted(numbered) == list(range(count)):
            names = tuple(numbered[i] for i in range(count))
            if len({_form(inside[name]) for name in names}) == 1:
                made.append(_ExpertTensors(names, inside[names[0]]))
    return made


def _form(axes: tuple[Layout, ...]) -> tuple[object, ...]:
    """What two layouts have in common that differ in the names of groups."""

    def of(layout: Layout) -> object:
        return layout.kind, layout.size, layout.group is None, tuple(of(part) for part in layout.parts)

    return tuple(of(axis) for axis in axes)
