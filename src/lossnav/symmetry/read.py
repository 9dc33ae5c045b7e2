"""From the labels of a traced network to groups of permutations, not yet proved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from lossnav.symmetry.axes import Atom, AxisTree, Concatenation, Product, atoms, resolve
from lossnav.symmetry.groups import Action, Layout, PermutationGroup
from lossnav.symmetry.network import CalledNetwork
from lossnav.symmetry.trace import Tracer

NOT_USED = "not used on the example"
CONSTANTS_ALONE = "only summed with constants on the example"


def read(
    subject: CalledNetwork, tracer: Tracer, found: dict[str, Tensor]
) -> tuple[list[PermutationGroup], list[Action], dict[tuple[str, int], str]]:
    """Groups, where they act, and why axes of weights are fixed, by tensor and axis."""
    movable = {
        name: tensor
        for name, tensor in found.items()
        if name in subject.params or (name in subject.buffers and name not in subject.unsaved)
    }
    labels = {name: [resolve(axis) for axis in tracer.labels(tensor)] for name, tensor in movable.items()}
    for name, axes in labels.items():
        every = [atom for axis in axes for atom in atoms(axis)]
        reason = NOT_USED if not tracer.was_met(movable[name]) else None
        if any(atom.idle and not atom.used for atom in every):
            reason = CONSTANTS_ALONE  # as a hidden state of zeros: with another one the weight would say more
        for atom in every:
            atom.reason = atom.reason or reason
    names: dict[Atom, str] = {}
    layouts = {
        name: tuple(_layout(axis, f"{name}[{i}]", names) for i, axis in enumerate(labels[name])) for name in labels
    }
    actions = [Action((name,), axes) for name, axes in layouts.items() if any(_any(axis) for axis in axes)]
    refused: dict[tuple[str, int], str] = {}
    for name, axes in labels.items():
        for i, axis in enumerate(axes):
            reasons = [atom.reason for atom in atoms(axis) if atom.reason is not None]
            if reasons and not _any(layouts[name][i]):
                refused[name, i] = reasons[0]
    groups = [PermutationGroup(name, atom.size) for atom, name in names.items()]
    return groups, actions, refused


def described(group: PermutationGroup, actions: Sequence[Action]) -> PermutationGroup:
    """Return a group that knows the tensors it acts on."""
    tensors = [name for action in actions if group.name in action.groups() for name in action.names]
    return replace(group, tensors=tuple(tensors))


def possible_outers(group: PermutationGroup, actions: Sequence[Action]) -> list[str]:
    """Groups in whose every unit a group may permute separately.

    In each place they stand before it in one product, or they are all of the first axis, as experts are.
    """
    common: list[str] | None = None
    for action in actions:
        first = action.axes[0].group
        for i, axis in enumerate(action.axes):
            above = (first,) if first is not None and i and len(action.axes) > 2 else ()
            for outers in _outers(axis, group.name, above):
                common = list(outers) if common is None else [name for name in common if name in outers]
    return common or []


def _outers(axis: Layout, name: str, above: tuple[str, ...]) -> list[tuple[str, ...]]:
    if axis.group == name:
        return [above]
    made, before = [], above
    for part in axis.parts:
        made += _outers(part, name, before)
        if axis.kind == "product" and part.group is not None:
            before = (*before, part.group)
    return made


def _any(axis: Layout) -> bool:
    return next(axis.groups(), None) is not None


def _layout(axis: AxisTree, place: str, names: dict[Atom, str]) -> Layout:
    """The layout of an axis; what has no name yet is called by its first place."""
    free = [atom for atom in atoms(axis) if atom.reason is None]
    taken = set(names.values())
    for i, atom in enumerate(dict.fromkeys(free)):
        if atom not in names:
            names[atom] = place if len(set(free)) == 1 and place not in taken else f"{place}.{i}"
    return _translated(axis, names)


def _translated(axis: AxisTree, names: dict[Atom, str]) -> Layout:
    if isinstance(axis, Product | Concatenation):
        parts = tuple(_translated(resolve(part), names) for part in axis.parts)
        return Layout("product" if isinstance(axis, Product) else "concatenation", axis.size, None, parts)
    return Layout("unit", axis.size, names.get(axis) if isinstance(axis, Atom) and axis.reason is None else None)
