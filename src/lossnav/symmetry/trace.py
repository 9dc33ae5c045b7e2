"""Reading which axes of a network's tensors are permuted together, while it runs once on an example.

A `TorchDispatchMode` sees every operator of ATen whatever way the forward is written, and no control flow is traced:
loops, branches and calls of other packages are what they are on the example. Each tensor carries a label, one
`AxisTree` for each axis; a rule for each operator joins the labels of what goes in and gives those of what comes out.
An operator without a rule fixes all axes it meets, and so does a rule that fails: fewer groups, never a wrong one.

A tensor that no labelled one went into is a constant. What its values are decides: an axis along which they are all
alike is blank, any other is fixed.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from lossnav.symmetry.axes import (
    ONE,
    Atom,
    AxisTree,
    Blank,
    Concatenation,
    Product,
    atoms,
    concatenation,
    fix,
    fixed,
    product,
    resolve,
)
from lossnav.symmetry.liveness import storage_of
from lossnav.symmetry.rules import RULES, Labels, OperatorCall
from lossnav.symmetry.rules.elementwise import CONSTANTS, elementwise

_LOW = (torch.float32, torch.float16, torch.bfloat16)
_NUMBERS = frozenset({"_local_scalar_dense", "is_nonzero"})  # of a tensor without axes
_UNKNOWN_OVERLOAD = (KeyError, IndexError, ValueError, TypeError, AttributeError, StopIteration, ZeroDivisionError)


class InDouble(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets a network compute in float64 where it asks for less: many take their norms and softmax "up" to float32."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not torch.ops.aten.view.dtype:
            args = tuple(torch.float64 if isinstance(a, torch.dtype) and a in _LOW else a for a in args)
            kwargs = {k: torch.float64 if isinstance(v, torch.dtype) and v in _LOW else v for k, v in kwargs.items()}
        made = _grouped(*args, **kwargs) if _is_grouped(func, args) else func(*args, **kwargs)
        fresh = not any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs)))
        if isinstance(made, Tensor) and made.dtype in _LOW and (fresh or func is torch.ops.aten.lift_fresh.default):
            return made.double()
        return made


def _is_grouped(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether it is a product of rows with one matrix a group of them, which torch has in float32 and less alone."""
    grouped = getattr(torch.ops.aten, "_grouped_mm", None)
    return grouped is not None and func is grouped.default and args[0].dtype == torch.float64 and args[1].dim() == 3


def _grouped(rows: Tensor, matrices: Tensor, offs: Tensor, *_: Any, **__: Any) -> Tensor:
    made = rows.new_zeros(rows.shape[0], matrices.shape[2])
    start = 0
    for matrix, stop in zip(matrices, offs.tolist(), strict=True):
        made[start:stop] = rows[start:stop] @ matrix
        start = stop
    return made


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Labels every tensor that an operator gives, from those that it takes.

    Parameters
    ----------
    live : sequence of bool, optional
        For each operator in turn whether its result matters; by default all do.

    Attributes
    ----------
    without_rule : Counter of str
        Operators that have no rule and met a labelled tensor, with the number of calls.
    """

    def __init__(self, live: Sequence[bool] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live, self.calls = live, 0
        self._labels: Any = WeakIdKeyDictionary()  # Tensor -> Labels; None for a constant
        self._aliases: dict[int, list[weakref.ref[Tensor]]] = {}  # of a storage
        self._met: set[int] = set()
        self._data: Any = WeakIdKeyDictionary()  # what came of the inputs
        self.without_rule: Counter[str] = Counter()

    # ------------------------------------------------------------------ what is labelled from outside

    def free(self, tensor: Tensor) -> Labels:
        """Label a weight: each axis is an atom of its own."""
        return self._set(tensor, [Atom(size) if size != 1 else ONE for size in tensor.shape])

    def hold(self, tensor: Tensor, reason: str) -> Labels:
        """Label a tensor whose axes are all fixed."""
        return self._set(tensor, [fixed(size, reason) for size in tensor.shape])

    def fix(self, tensor: Tensor, reason: str) -> None:
        """Fix all axes of a tensor as it is now."""
        for axis in self.labels(tensor):
            fix(axis, reason)

    def mark_data(self, tensor: Tensor) -> None:
        """An input, or what came of one."""
        self._data[tensor] = True

    def is_data(self, tensor: Tensor) -> bool:
        """Whether an input went into a tensor."""
        return tensor in self._data

    def before(self, number: int, name: str, given: list[Tensor]) -> None:
        """For who wants to see the tensors that an operator is given; its number is counted from one."""

    def was_met(self, tensor: Tensor) -> bool:
        """Whether any operator took this tensor."""
        return id(tensor) in self._met

    def labels(self, tensor: Tensor) -> Labels:
        """The axes of a tensor."""
        own = self._known(tensor)
        return _of_values(tensor) if own is None else own

    # ------------------------------------------------------------------ what operators do

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.calls += 1
        if self.calls <= len(self._live) and not self._live[self.calls - 1]:
            return self._unread(func(*args, **kwargs), given)
        self._met.update(map(id, given))
        namespace, _, name = func._schema.name.partition("::")
        self.before(self.calls, name, given)
        known = name not in CONSTANTS and any(self._known(tensor) is not None for tensor in given)
        written: list[Tensor] = []
        if known and func._schema.is_mutable:
            written = _written_to(func, args, kwargs)
            for tensor in written:  # a constant is what it is before
                if self._known(tensor) is None:
                    self._set(tensor, _of_values(tensor))
        before = [self.labels(tensor) for tensor in written]
        made = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        if any(tensor in self._data for tensor in given):
            for output in outputs:
                self.mark_data(output)
        if not known:
            for output in outputs:
                if all(output is not tensor for tensor in given):
                    self._labels[output] = None
                    self._remember(output)
        elif name not in _NUMBERS:
            arguments = {argument.name: value for argument, value in _bound(func, args, kwargs)}
            base = name[:-1] if name.endswith("_") and not name.endswith("__") else name
            pointwise = torch.Tag.pointwise in func.tags
            self._apply(f"{namespace}.{base}", pointwise, OperatorCall(base, arguments, outputs, self.labels), given)
            for tensor, own in zip(written, before, strict=True):
                self._written(tensor, own, f"aten.{base}")
        return made

    def _unread(self, made: Any, given: list[Tensor]) -> Any:
        """A result that nothing hangs on; who reads it all the same finds it fixed."""
        for output in tree_leaves(made):
            if isinstance(output, Tensor) and all(output is not tensor for tensor in given):
                self.hold(output, "an operator on which no output hangs")
        return made

    def _apply(self, name: str, pointwise: bool, call: OperatorCall, given: list[Tensor]) -> None:
        """Label the outputs of a call by the rule of its operator."""
        found = RULES.get(call.name) if name.startswith("aten.") else None
        found = elementwise if found is None and pointwise else found
        outputs = call.outputs
        made: Any = None
        if found is not None:
            with suppress(*_UNKNOWN_OVERLOAD):
                made = found(call)
        if made is not None and outputs and (not made or not isinstance(made[0], list)):
            made = [made]
        if made is None or [[axis.size for axis in own] for own in made] != [list(out.shape) for out in outputs]:
            self.without_rule[name] += 1
            for tensor in given:
                self.fix(tensor, f"{name} (no rule)")
            made = [[fixed(size, f"{name} (no rule)") for size in output.shape] for output in outputs]
        for output, own in zip(outputs, made, strict=True):
            self._set(output, own)

    def _written(self, tensor: Tensor, before: Labels, reason: str) -> None:
        """What was blank before and is not now is so in other views of the same memory too."""
        now = self.labels(tensor)
        if len(before) != len(now):  # `unsqueeze_` and others change the shape and no value
            return
        sharper = [b for a, b in zip(before, now, strict=True) if _has_blanks(a) and not _has_blanks(b)]
        free = any(atom.reason is None for axis in sharper for atom in atoms(axis))
        for other in [ref() for ref in self._aliases.get(storage_of(tensor), ())] if sharper else ():
            if other is None or other is tensor:
                continue
            if _geometry(other) == _geometry(tensor):
                self._set(other, now)
            elif free:  # nobody knows where in it
                self.fix(tensor, f"{reason} in a part of a tensor")
                self.hold(other, f"{reason} in a part of a tensor")
            else:
                self._set(other, [_without_blanks(axis, reason) for axis in self.labels(other)])

    def _known(self, tensor: Tensor) -> Labels | None:
        """The label of a tensor, or of another view that is the same (`weight.data`); None of a constant."""
        if tensor not in self._labels:
            same = [ref() for ref in self._aliases.get(storage_of(tensor), ())]
            self._labels[tensor] = next(
                (self._labels[o] for o in same if o is not None and _geometry(o) == _geometry(tensor)), None
            )
        own: Labels | None = self._labels[tensor]
        return own

    def _set(self, tensor: Tensor, own: Labels) -> Labels:
        self._labels[tensor] = own
        self._remember(tensor)
        return own

    def _remember(self, tensor: Tensor) -> None:
        alive = [ref for ref in self._aliases.get(storage_of(tensor), ()) if ref() is not None]
        if all(ref() is not tensor for ref in alive):
            alive.append(weakref.ref(tensor))
        self._aliases[storage_of(tensor)] = alive


def _geometry(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset()


def _of_values(tensor: Tensor) -> Labels:
    """Labels of a constant: blank where all values along an axis are alike."""
    made: Labels = []
    for dim, size in enumerate(tensor.shape):
        if size < 2 or tensor.numel() == 0 or bool((tensor == tensor.narrow(dim, 0, 1)).all()):
            made.append(Blank(size))
        else:
            made.append(fixed(size, "a constant"))
    return made


def _has_blanks(axis: AxisTree) -> bool:
    """Whether some entries of an axis are blank."""
    axis = resolve(axis)
    if isinstance(axis, Product | Concatenation):
        return any(_has_blanks(part) for part in axis.parts)
    return isinstance(axis, Blank) and axis.size > 1


def _without_blanks(axis: AxisTree, reason: str) -> AxisTree:
    """The same axis, fixed where it is blank."""
    axis = resolve(axis)
    if isinstance(axis, Product):
        return product([_without_blanks(part, reason) for part in axis.parts])
    if isinstance(axis, Concatenation):
        return concatenation([_without_blanks(part, reason) for part in axis.parts])
    return fixed(axis.size, reason) if isinstance(axis, Blank) else axis


def _bound(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Arguments of a schema with the values that were passed."""
    return [
        (argument, args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value))
        for i, argument in enumerate(func._schema.arguments)
    ]


def _written_to(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return [
        value
        for argument, value in _bound(func, args, kwargs)
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor)
    ]
