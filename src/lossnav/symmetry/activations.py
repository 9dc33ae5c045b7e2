"""What units do on data, as something to match by.

Wherever data is summed over (the inputs of matrix products and convolutions) the units of a group have values, for each
sample and each place. Both networks see the same data; a unit's values are centred and divided by their standard
deviation, so that the sum that matching maximises is that of the correlations of matched units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lossnav.params import Params
from lossnav.symmetry.axes import Atom, AxisTree, Concatenation, Product, resolve
from lossnav.symmetry.finding import Symmetries
from lossnav.symmetry.groups import Layout
from lossnav.symmetry.network import CalledNetwork
from lossnav.symmetry.trace import Tracer

_SUMS = frozenset(["mm", "bmm", "addmm", "baddbmm", "convolution", "mv", "addmv", "_grouped_mm"])
_ATTENTION = "_scaled_dot_product"
_EPSILON = 1e-4  # beside a standard deviation, of units that never change
_MOST_ROWS = 4096  # of one place: samples times positions


@dataclass(frozen=True)
class Site:
    """An operand of an operator: which one of which call, of what name, and its axes."""

    call: int
    name: str
    operand: int
    axes: tuple[Layout, ...]


def activations(
    symmetries: Symmetries, subject: CalledNetwork, states: Sequence[Params], batches: Sequence[Any], seed: int
) -> list[tuple[tuple[Layout, ...], list[Tensor]]]:
    """Standardised values of units at every place where they are summed over.

    Parameters
    ----------
    symmetries : Symmetries
    subject : CalledNetwork
        The network that the symmetries are of.
    states : sequence of dict of str to Tensor
        Weights and buffers of each network, float64.
    batches : sequence
        What the network is called with.
    seed : int
        Of the rows that are kept, where there are more than 4,096 at a place.

    Returns
    -------
    list of (axes, tensors)
        A tensor for each network, of shape (rows, units ...).
    """
    made: list[tuple[tuple[Layout, ...], list[Tensor]]] = []
    generator = torch.Generator().manual_seed(seed)
    for batch in batches:
        sites = sites_of(symmetries, subject, batch)
        values = [_collect(subject, state, batch, sites) for state in states]
        for k, site in enumerate(sites):
            if not all(k in own and own[k].shape == values[0][k].shape for own in values) or not values[0][k].numel():
                continue  # one of the networks takes another way there, as to other experts
            layouts, tensors = _by_rows(site.axes, [own[k] for own in values])
            count = tensors[0].shape[0]
            if count > _MOST_ROWS:
                kept = torch.randperm(count, generator=generator)[:_MOST_ROWS]
                tensors = [tensor[kept] for tensor in tensors]
            if count > 1:
                made.append((layouts, [_standardised(tensor) for tensor in tensors]))
    return made


def sites_of(symmetries: Symmetries, subject: CalledNetwork, batch: Any) -> list[Site]:
    """Where data with units of known groups is summed over."""
    watch = _Watch()
    found = subject.label(watch, batch)
    names: dict[Atom, str] = {}
    for action in symmetries.actions:
        if len(action.names) == 1 and action.names[0] in found:
            for layout, axis in zip(action.axes, watch.labels(found[action.names[0]]), strict=True):
                _name(layout, axis, names)
    outers = {group.name: group.within for group in symmetries.groups}
    sites = []
    for call, name, operand, labels in watch.operands:
        axes = tuple(_layout(axis, names).inside(outers) for axis in labels)
        if any(next(axis.groups(), None) for axis in axes):
            sites.append(Site(call, name, operand, axes))
    return sites


class _Watch(Tracer):  # type: ignore[no-untyped-call]
    """A tracer that remembers what is summed over."""

    def __init__(self) -> None:
        super().__init__()
        self.operands: list[tuple[int, str, int, list[AxisTree]]] = []

    def before(self, number: int, name: str, given: list[Tensor]) -> None:
        """Keep the labels of operands that data went into."""
        if name in _SUMS or name.startswith(_ATTENTION):
            for k, tensor in enumerate(given[:3]):
                if self.is_data(tensor) and tensor.dim():
                    self.operands.append((number, name, k, self.labels(tensor)))


class _Collector(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps the operands of some calls, as long as the operators are those that are expected."""

    def __init__(self, sites: Sequence[Site]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._wanted: dict[int, list[int]] = {}
        for k, site in enumerate(sites):
            self._wanted.setdefault(site.call, []).append(k)
        self._sites, self._calls, self._lost = sites, 0, False
        self.values: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._calls += 1
        given = [a for a in (*args, *(kwargs or {}).values()) if isinstance(a, Tensor)]
        for k in self._wanted.get(self._calls, ()):
            site = self._sites[k]
            self._lost = self._lost or func._schema.name.partition("::")[2] != site.name
            if not self._lost:
                self.values[k] = given[site.operand].detach().clone()
        return func(*args, **(kwargs or {}))


def _collect(
    subject: CalledNetwork, state: Mapping[str, Tensor], batch: Any, sites: Sequence[Site]
) -> dict[int, Tensor]:
    collector = _Collector(sites)
    subject.watched(collector, dict(state), batch)
    return collector.values


def _by_rows(axes: tuple[Layout, ...], tensors: list[Tensor]) -> tuple[tuple[Layout, ...], list[Tensor]]:
    """Axes without a group, and factors without one before the units, become rows: shape (rows, units ...)."""
    split: list[Layout] = []
    for axis in axes:
        parts = list(axis.parts) if axis.kind == "product" else [axis]
        while len(parts) > 1 and next(parts[0].groups(), None) is None:
            split.append(parts.pop(0))
        size = 1
        for part in parts:
            size *= part.size
        split.append(parts[0] if len(parts) == 1 else Layout("product", size, None, tuple(parts)))
    units = [i for i, axis in enumerate(split) if next(axis.groups(), None) is not None]
    others = [i for i in range(len(split)) if i not in units]
    made = []
    for tensor in tensors:
        turned = tensor.reshape([axis.size for axis in split]).permute(*others, *units)
        made.append(turned.reshape(-1, *(split[i].size for i in units)))
    return (Layout("unit", made[0].shape[0]), *(split[i] for i in units)), made


def _standardised(tensor: Tensor) -> Tensor:
    """Values less their mean over the rows, over their standard deviation, over the root of the number of rows."""
    centred = tensor - tensor.mean(0)
    made: Tensor = centred / ((centred.square().mean(0).sqrt() + _EPSILON) * math.sqrt(len(tensor)))
    return made


def _name(layout: Layout, axis: AxisTree, names: dict[Atom, str]) -> None:
    """Give atoms the names of the groups that stand in their place."""
    axis = resolve(axis)
    if layout.kind == "unit":
        if layout.group is not None and isinstance(axis, Atom):
            names[axis] = layout.group
    elif isinstance(axis, Product | Concatenation) and len(axis.parts) == len(layout.parts):
        for part, own in zip(layout.parts, axis.parts, strict=True):
            _name(part, own, names)


def _layout(axis: AxisTree, names: dict[Atom, str]) -> Layout:
    axis = resolve(axis)
    if isinstance(axis, Product | Concatenation):
        kind = "product" if isinstance(axis, Product) else "concatenation"
        return Layout(kind, axis.size, None, tuple(_layout(part, names) for part in axis.parts))  # type: ignore[arg-type]
    return Layout("unit", axis.size, names.get(axis) if isinstance(axis, Atom) else None)
