"""The graph of one batch: what it gives, whether it is whole, and keeping it from one product to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossnav._utils.memory import free_bytes

Leaves = Sequence[Tensor]

_SHARE = 1 / 4  # of the memory that is free, for the graphs that are kept from one product to the next


class BatchGraph(NamedTuple):
    """What a batch adds to the derivatives, for as long as this is held.

    Attributes
    ----------
    gradient : sequence of Tensor
        Of the batch's part of the loss.
    multiply : callable
        From a vector in tensors like the parameters to its product.
    ends : sequence of Tensor
        On which all of the graph hangs.
    numerator, weight : float
        The batch's part of the loss.
    """

    gradient: Leaves
    multiply: Callable[[Leaves], Leaves]
    ends: Leaves
    numerator: float = 0.0
    weight: float = 0.0


class GraphCache:
    """Keeps the graphs of the last batches, as many as a budget of memory holds.

    What is kept needs no forward pass and no first backward pass for the next product at the same point. The last
    batches and not the first: a model that draws random numbers has drawn those of the others before them.

    Parameters
    ----------
    budget : int, optional
        Bytes; by default a quarter of what the processor's memory has free.
    """

    def __init__(self, budget: float | None = None) -> None:
        self._budget = _SHARE * free_bytes(torch.device("cpu")) if budget is None else budget
        self._kept: dict[int, tuple[BatchGraph, int]] = {}

    def add(self, number: int, graph: BatchGraph) -> None:
        """Take the graph of the next batch, and let go of the first ones where there is no room for it."""
        self._kept[number] = graph, held_bytes(graph.ends)
        while sum(size for _, size in self._kept.values()) > self._budget:
            del self._kept[next(iter(self._kept))]

    def get(self, number: int) -> BatchGraph | None:
        """The graph of a batch, if it was kept."""
        return self._kept[number][0] if number in self._kept else None


def require_whole(ends: Leaves) -> None:
    """Raise where a graph was cut by `once_differentiable`: torch would take what is behind it for a constant."""
    if any(node.name().endswith("::Error") for node in _nodes(ends)):  # of torch's DelayedError
        raise RuntimeError("a function of its own has no second derivative (once_differentiable).")


def require_no_reentrant(ends: Leaves) -> None:
    """Raise where a part is checkpointed by torch's older way: the weights within would seem to have no derivative."""
    if any(node.name() == "CheckpointFunctionBackward" for node in _nodes(ends)):
        raise RuntimeError("torch.utils.checkpoint with use_reentrant=True is not differentiable by chosen tensors.")


def held_bytes(ends: Leaves) -> int:
    """Bytes of the tensors that a graph holds on to, each memory once."""
    sizes = {}
    for node in _nodes(ends):
        for tensor in _saved(node):
            try:
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
            except (RuntimeError, NotImplementedError):  # of torch.func, whose tensors wrap others
                sizes[-id(tensor)] = tensor.numel() * tensor.element_size()
    return sum(sizes.values())


def _nodes(ends: Leaves) -> Iterator[Any]:
    ahead: list[Any] = [tensor.grad_fn for tensor in ends]
    seen = set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        ahead += [before for before, _ in node.next_functions]


def _saved(node: Any) -> Iterator[Tensor]:
    """What a node keeps for its backward pass: of torch's own by name, of a `torch.autograd.Function` in one list."""
    values = [getattr(node, name) for name in dir(node) if name.startswith("_saved_") or name == "saved_tensors"]
    while values:
        value = values.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            values += value
