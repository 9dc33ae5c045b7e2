"""What a rule is: a function of one operator's call that says how the axes of its tensors are permuted together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from lossnav.symmetry.axes import ONE, AxisTree, Blank, fix, fixed, merge

Labels: TypeAlias = list[AxisTree]
Rule: TypeAlias = "Callable[[OperatorCall], list[Labels] | Labels]"

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Make a function the rule of some operators of ATen, by their names without overloads."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


class OperatorCall:
    """One call of an operator of ATen.

    Attributes
    ----------
    name : str
        As ``view`` or ``addmm``; an operator in place has the name of the one that is not.
    outputs : list of Tensor
        What it returned.
    reason : str
        What to say of an axis that this operator fixes.
    """

    def __init__(
        self, name: str, arguments: dict[str, Any], outputs: list[Tensor], labels_of: Callable[[Tensor], Labels]
    ) -> None:
        self.name, self.outputs, self.reason = name, outputs, f"aten.{name}"
        self._arguments, self._labels_of = arguments, labels_of

    def __getitem__(self, argument: str) -> Any:
        return self._arguments[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        """The value of an argument, if the overload has it."""
        value = self._arguments.get(argument)
        return default if value is None else value

    def first(self) -> Any:
        """The first argument, whatever its name is."""
        return next(iter(self._arguments.values()))

    def labels(self, argument: str | Tensor) -> Labels:
        """The axes of a tensor, or of the argument of a name."""
        return list(self._labels_of(self._arguments[argument] if isinstance(argument, str) else argument))

    def tensors(self) -> Iterator[Tensor]:
        """All tensors among the arguments, those in lists too."""
        for value in self._arguments.values():
            for part in value if isinstance(value, list | tuple) else (value,):
                if isinstance(part, Tensor):
                    yield part

    def merge(self, a: AxisTree, b: AxisTree) -> AxisTree:
        """Two axes are permuted alike by this operator."""
        return merge(a, b, self.reason)

    def fix(self, axis: AxisTree) -> AxisTree:
        """The order of an axis matters to this operator."""
        return fix(axis, self.reason)

    def fixed(self, size: int) -> AxisTree:
        """Return a new axis of which the order matters."""
        return fixed(size, self.reason)

    def broadcast(self, labels: Sequence[Labels], shape: Sequence[int]) -> Labels:
        """Join the axes of tensors that are broadcast to a shape."""
        made: Labels = [Blank(size) for size in shape]
        for own in labels:
            for i, axis in enumerate(reversed(own), 1):
                if axis.size == made[-i].size:
                    made[-i] = self.merge(made[-i], axis)
        return [ONE if axis.size == 1 else axis for axis in made]


def in_range(dim: int, ndim: int) -> int:
    """An axis counted from the front."""
    return dim % ndim if ndim else 0
