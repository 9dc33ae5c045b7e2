"""Which operators a network's outputs hang on.

Recurrent layers stack states that nobody reads, and models fill caches: what becomes of these must not count. So the
network runs once before it is traced, and each operator is listed with the memory that it reads and writes; going back
from the outputs says which of them matter. An operator that gives no floating-point tensor is always taken to: the
forward may look at its values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storage_of(tensor: Tensor) -> int:
    """A number for the memory of a tensor, the same for all its views; of freed memory it may come again."""
    return int(tensor.untyped_storage()._cdata)


class Liveness(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lists operators while a network runs.

    Memory that is allocated anew gets a new number, also where it lies where something was freed. What changes hands
    outside of torch's operators is taken for what lay there before, so that more counts and not less.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[tuple[set[int], set[int], bool]] = []  # reads, writes, always counts
        self._numbers: dict[int, int] = {}
        self._count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        read, places = {self._number(tensor) for tensor in given}, {storage_of(tensor) for tensor in given}
        made = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor)]
        written: set[int] = set(read) if func._schema.is_mutable else set()
        fresh: set[int] = set()
        for output in outputs:
            place = storage_of(output)
            if place not in places and place not in fresh:
                self._numbers[place] = self._next()
                fresh.add(place)
            written.add(self._number(output))
        always = not any(output.is_floating_point() or output.is_complex() for output in outputs)
        self._calls.append((read, written, always))
        return made

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _number(self, tensor: Tensor) -> int:
        place = storage_of(tensor)
        if place not in self._numbers:
            self._numbers[place] = self._next()
        return self._numbers[place]

    def of(self, outputs: Iterable[Tensor]) -> list[bool]:
        """For each operator in turn whether it matters to these outputs."""
        wanted = {self._number(tensor) for tensor in outputs}
        live = []
        for read, written, always in reversed(self._calls):
            matters = always or not written.isdisjoint(wanted)
            if matters:
                wanted |= read
            live.append(matters)
        return live[::-1]
