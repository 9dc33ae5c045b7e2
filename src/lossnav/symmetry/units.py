"""The layers of any module, seen while it runs: what linear and convolution operators do with its weights.

A `TorchDispatchMode` sees every operator of ATen, whatever way the forward is written. An operator that takes a weight
(or some of its rows, as attention does with a fused projection) and data is a *layer*; its outputs before any
non-linearity are the *units*. A weight that anything else takes too, or that is taken twice in one pass, is no layer:
changing its rows would change more than these units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lossnav.symmetry.liveness import storage_of

LayerKey = tuple[str, int]  # a layer's weight and first unit, or a BatchNorm layer's running mean and -1

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "linear", "matmul", "convolution", "_grouped_mm")
_ADDITIONS = ("add", "add_")
_AT_ONCE = 2**22  # entries in float64 at once


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each unit over what was seen of it: float64, shape (units,)."""

    count: int
    mean: Tensor
    variance: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation, over the number of values (not less one)."""
        return self.variance.sqrt()

    def with_more(self, other: Moments) -> Moments:
        """The moments of both together (Chan, Golub & LeVeque 1983)."""
        n = self.count + other.count
        if not n:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / n)
        between = step.square() * (self.count * other.count / n)
        return Moments(n, mean, (self.variance * self.count + other.variance * other.count + between) / n)


def moments_of(values: Tensor, dim: int) -> Moments:
    """Moments of the units along one axis, over all other axes."""
    units = values.shape[dim]
    total: Moments | None = None
    step = max(1, len(values) * _AT_ONCE // max(values.numel(), 1)) if dim else len(values)
    for start in range(0, len(values), max(step, 1)):
        part = values[start : start + step].movedim(dim, 0).reshape(units, -1).double()
        if not part.shape[1]:
            continue
        variance, mean = torch.var_mean(part, dim=1, correction=0)
        here = Moments(part.shape[1], mean, variance)
        total = here if total is None else total.with_more(here)
    nothing = values.new_zeros(units, dtype=torch.float64)
    return Moments(0, nothing, nothing) if total is None else total


@dataclass
class Layer:
    """One use of a weight by a linear or convolution operator.

    Attributes
    ----------
    weight : str
    view : tuple of four int
        The weight's shape as (groups, before, units, after): unit u of group g is the slice [g, :, u].
    start, count : int
        Units that the operator takes, groups included.
    dim : int
        The axis of the units in the operator's output.
    bias : (str, int) or None
        The bias that is added, and where its entries for these units begin.
    inside : bool
        Whether the operator adds the bias itself.
    operator : str
    """

    weight: str
    view: tuple[int, int, int, int]
    start: int
    count: int
    dim: int
    operator: str
    bias: tuple[str, int] | None = None
    inside: bool = True

    @property
    def key(self) -> LayerKey:
        """What identifies it from pass to pass."""
        return self.weight, self.start

    def scale_(self, weight: Tensor, factors: Tensor) -> None:
        """Multiply the weights of each unit by its factor, in place."""
        groups, before, units, after = self.view
        whole = torch.ones(groups, before, units, after, dtype=torch.float64, device=weight.device)
        if groups == 1:
            whole[:, :, self.start : self.start + self.count] *= factors[None, None, :, None]
        else:
            whole *= factors.reshape(groups, 1, units, 1)
        weight.copy_((weight.double() * whole.reshape(weight.shape)).to(weight.dtype))


@dataclass
class NormLayer:
    """A BatchNorm layer with running statistics: the names of their buffers."""

    mean: str
    variance: str
    dim = 1  # of the channels

    @property
    def key(self) -> LayerKey:
        """What identifies it from pass to pass."""
        return self.mean, -1


Visit = Callable[[Layer | NormLayer, Tensor], bool]


@dataclass
class Trail:
    """What a pass showed of how weights are used."""

    layers: list[Layer | NormLayer] = field(default_factory=list)  # in the order of the calls
    uses: dict[str, list[tuple[str, Layer | None]]] = field(default_factory=dict)  # of each tensor
    consumers: dict[LayerKey, set[LayerKey | None]] = field(
        default_factory=dict
    )  # of a layer's units; None: no BatchNorm layer
    inner: set[LayerKey] = field(default_factory=set)  # layers whose outputs another weight is applied to


class UnitReader(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Finds the layers of one pass and shows each, with its units, to a visitor.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Parameters and buffers as they are in the module.
    data : iterable of Tensor
        The tensors of the batch.
    visit : callable
        ``visit(layer, values) -> changed``: called with the output of a layer, or the input of a BatchNorm layer. If it
        has written to the layer's weights, the operator is run again.
    """

    def __init__(self, tensors: Mapping[str, Tensor], data: Iterable[Tensor], visit: Visit) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._named: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in tensors.items():
            self._named.setdefault(storage_of(tensor), (name, tensor))
        self._visit, self.trail = visit, Trail()
        self._labels: dict[int, tuple[bool, frozenset[LayerKey]]] = {  # came of data; of which layers
            storage_of(tensor): (True, frozenset()) for tensor in data
        }
        self._fresh: dict[int, Layer] = {}  # units that nothing has been done to

    # ------------------------------------------------------------------ what operators do

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        name = func._schema.name.partition("::")[2]
        layer = self._layer(func, name, args, kwargs)
        if isinstance(layer, NormLayer):
            self._visit(layer, args[0])
        made = func(*args, **kwargs)
        if isinstance(layer, Layer) and self._visit(layer, made):
            made = func(*args, **kwargs)
        self._follow(func, name, args, kwargs, layer, given, made)
        return made

    def _follow(
        self, func: Any, name: str, args: Any, kwargs: Any, layer: Layer | NormLayer | None, given: Any, made: Any
    ) -> None:
        """Label what an operator gives, and remember who took which weight and which units."""
        outputs = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        places = {storage_of(tensor) for tensor in given}
        fresh = {storage_of(output) for output in outputs} - places
        is_view = bool(outputs) and not fresh and not func._schema.is_mutable
        here = [self._labels.get(place, (False, frozenset())) for place in places]
        came, of = any(data for data, _ in here), frozenset[LayerKey]().union(*(own for _, own in here))
        weights = [(place, *self._named[place]) for place in sorted(places) if place in self._named]
        added = None if is_view else self._bias_of(name, args, kwargs, outputs)
        if not is_view:
            if (came and any(tensor.dim() > 1 for *_, tensor in weights)) or (
                name in _PRODUCTS and came and not all(data for data, _ in here)
            ):
                self.trail.inner |= of
            for _, own, _ in weights:
                by = added if added is not None else layer if isinstance(layer, Layer) else None
                self.trail.uses.setdefault(own, []).append((name, by))
            for place in places & self._fresh.keys():
                if added is not self._fresh[place]:
                    by_norm = layer.key if isinstance(layer, NormLayer) else None
                    self.trail.consumers.setdefault(self._fresh[place].key, set()).add(by_norm)
        if isinstance(layer, Layer):
            of = of | {layer.key}
        for place in fresh:
            self._labels[place] = came, of
            self._fresh.pop(place, None)
            if added is not None:
                self._fresh[place] = added
        if not is_view:
            for place in places - self._named.keys() if func._schema.is_mutable else ():
                before = self._labels.get(place, (False, frozenset()))
                self._labels[place] = before[0] or came, before[1] | of
        if isinstance(layer, Layer):
            self._fresh[storage_of(made)] = layer
        if layer is not None:
            self.trail.layers.append(layer)

    # ------------------------------------------------------------------ what is a layer

    def _layer(self, func: Any, name: str, args: Any, kwargs: Any) -> Layer | NormLayer | None:
        if name not in _PRODUCTS and "batch_norm" not in name:
            return None
        bound = {a.name: args[i] if i < len(args) else kwargs.get(a.name) for i, a in enumerate(func._schema.arguments)}
        if "batch_norm" in name:
            return self._norm(bound)
        if name == "convolution":
            return self._convolution(bound)
        if name == "linear":
            return self._product(name, bound["input"], bound["weight"].t(), bound["bias"])
        if name == "mm":
            return self._product(name, bound["self"], bound["mat2"], None)
        if name == "addmm" and (bound.get("beta") or 1) == 1 and (bound.get("alpha") or 1) == 1:
            found = self._product(name, bound["mat1"], bound["mat2"], bound["self"])
            return None if found is None or found.bias is None else found
        if name == "bmm":
            x, w = bound["self"], bound["mat2"]
            if self._owner(w) is not None and (w.stride(0) == 0 or w.shape[0] == 1):
                return self._product(name, x, w[0], None)
        return None

    def _owner(self, tensor: Any) -> tuple[str, Tensor] | None:
        return self._named.get(storage_of(tensor)) if isinstance(tensor, Tensor) else None

    def _is_data(self, tensor: Tensor) -> bool:
        return self._labels.get(storage_of(tensor), (False, frozenset()))[0] and self._owner(tensor) is None

    def _product(self, name: str, one: Tensor, other: Tensor, bias: Tensor | None) -> Layer | None:
        """``one @ other``, in which one is data and the other a weight."""
        if self._owner(other) is not None and self._is_data(one):
            weight, data, dim = other, one, 1
        elif self._owner(one) is not None and self._is_data(other):
            weight, data, dim = one, other, 0
        else:
            return None
        owner, whole = self._named[storage_of(weight)]
        found = _units_of(weight, whole, dim)
        if found is None:
            return None
        view, start = found
        own = None if bias is None or dim == 0 else self._bias(bias, weight.shape[dim])
        axis = data.dim() - 1 if dim else 0
        return Layer(owner, view, start, weight.shape[dim], axis, name, own, own is not None)

    def _convolution(self, bound: Mapping[str, Any]) -> Layer | None:
        weight, owner = bound["weight"], self._owner(bound["weight"])
        if owner is None or not self._is_data(bound["input"]) or not _is_whole(weight, owner[1]):
            return None
        groups, after = bound["groups"], math.prod(weight.shape[2:])
        if bound["transposed"]:
            view = (groups, weight.shape[0] // groups, weight.shape[1], after)
        else:
            view = (1, 1, weight.shape[0], weight.shape[1] * after)
        count = view[0] * view[2]
        own = None if bound["bias"] is None else self._bias(bound["bias"], count)
        if own is None and bound["bias"] is not None:
            return None
        return Layer(owner[0], view, 0, count, 1, "convolution", own, own is not None)

    def _norm(self, bound: Mapping[str, Any]) -> NormLayer | None:
        mean, variance = (self._owner(bound.get(name)) for name in ("running_mean", "running_var"))
        if mean is None or variance is None or bound.get("training"):
            return None
        return NormLayer(mean[0], variance[0])

    def _bias(self, bias: Tensor, units: int) -> tuple[str, int] | None:
        """Name of a bias with an entry for each unit, and where these begin in it."""
        owner = self._owner(bias)
        if owner is None or bias.numel() != units or bias.shape[-1:] != (units,) or not owner[1].is_contiguous():
            return None
        if units > 1 and bias.stride(-1) != 1:
            return None
        return owner[0], int(bias.storage_offset() - owner[1].storage_offset())

    def _bias_of(self, name: str, args: Any, kwargs: Any, outputs: Sequence[Tensor]) -> Layer | None:
        """The layer to whose units an addition adds a bias, which is noted in it."""
        if name not in _ADDITIONS or len(args) < 2 or kwargs.get("alpha", 1) != 1:
            return None
        for units, bias in ((args[0], args[1]), (args[1], args[0])):
            if not isinstance(units, Tensor) or not isinstance(bias, Tensor):
                return None
            layer = self._fresh.get(storage_of(units))
            if layer is None or layer.bias is not None or layer.dim == 0 or layer.operator == "convolution":
                continue
            own = self._bias(bias, layer.count)
            lasts = units.shape[-1:] == (layer.count,) and units.stride(-1) == 1
            if own is not None and lasts and outputs and outputs[0].shape == units.shape:
                layer.bias, layer.inside = own, False
                return layer
        return None


def _is_whole(tensor: Tensor, whole: Tensor) -> bool:
    return (tensor.shape, tensor.stride(), tensor.storage_offset()) == (
        whole.shape,
        whole.stride(),
        whole.storage_offset(),
    )


def _units_of(matrix: Tensor, whole: Tensor, dim: int) -> tuple[tuple[int, int, int, int], int] | None:
    """Where the units of a matrix lie in the weight that it is a part of; None if it is no simple part."""
    if not whole.is_contiguous() or matrix.dim() != 2:
        return None
    offset = int(matrix.storage_offset() - whole.storage_offset())
    (units, inputs), (unit, step) = (
        (matrix.shape[dim], matrix.shape[1 - dim]),
        (matrix.stride(dim), matrix.stride(1 - dim)),
    )
    for j in range(1, whole.dim()):
        rows, columns = math.prod(whole.shape[:j]), math.prod(whole.shape[j:])
        along = (unit == columns or units == 1) and (step == 1 or inputs == 1)
        if along and inputs == columns and offset % columns == 0 and offset // columns + units <= rows:
            return (1, 1, rows, columns), offset // columns
        across = (unit == 1 or units == 1) and (step == columns or inputs == 1)
        if across and inputs == rows and offset + units <= columns:
            return (1, rows, columns, 1), offset
    return None
