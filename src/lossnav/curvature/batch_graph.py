"""The autograd graph of one batch: its derivatives, checks that it is complete, and a cache between products."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lossnav._utils.memory import free_bytes

Leaves = Sequence[Tensor]

_SHARE = 1 / 4  # of the free memory, for cached graphs


class BatchGraph(NamedTuple):
    """The contribution of a batch to the derivatives; it keeps the graph in memory.

    Attributes
    ----------
    gradient : sequence of Tensor
        Gradient of the batch's part of the loss.
    multiply : callable
        From a vector, as tensors shaped like the parameters, to its product.
    ends : sequence of Tensor
        Tensors from which the whole graph is reachable.
    numerator, weight : float
        The batch's part of the loss.
    """

    gradient: Leaves
    multiply: Callable[[Leaves], Leaves]
    ends: Leaves
    numerator: float = 0.0
    weight: float = 0.0


class GraphCache:
    """Keeps the graphs of the last batches, as many as fit into a memory budget.

    For a cached batch, the next product at the same point needs no forward pass and no first backward pass. The last
    batches are kept, not the first, so that a model that draws random numbers draws them in the same order.

    Parameters
    ----------
    budget : int, optional
        Bytes; by default a quarter of the free memory.
    """

    def __init__(self, budget: float | None = None) -> None:
        self._budget = _SHARE * free_bytes(torch.device("cpu")) if budget is None else budget
        self._kept: dict[int, tuple[BatchGraph, int]] = {}

    def add(self, number: int, graph: BatchGraph) -> None:
        """Add the graph of the next batch, and drop the first ones if memory is short."""
        self._kept[number] = graph, held_bytes(graph.ends)
        while sum(size for _, size in self._kept.values()) > self._budget:
            del self._kept[next(iter(self._kept))]

    def get(self, number: int) -> BatchGraph | None:
        """Return the graph of a batch, if it was kept."""
        return self._kept[number][0] if number in self._kept else None


def require_whole(ends: Leaves) -> None:
    """Raise if a graph was cut by `once_differentiable`: torch would treat everything behind it as constant."""
    if any(node.name().endswith("::Error") for node in _nodes(ends)):  # of torch's DelayedError
        raise RuntimeError("a custom function has no second derivative (once_differentiable).")


def require_no_reentrant(ends: Leaves) -> None:
    """Raise for reentrant activation checkpointing, in which weights would seem to have no derivative."""
    if any(node.name() == "CheckpointFunctionBackward" for node in _nodes(ends)):
        raise RuntimeError("torch.utils.checkpoint with use_reentrant=True is not differentiable by single tensors.")


def held_bytes(ends: Leaves) -> int:
    """Return the bytes of the tensors that a graph keeps in memory, shared memory counted once."""
    sizes = {}
    for node in _nodes(ends):
        for tensor in _saved(node):
            try:
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
            except (RuntimeError, NotImplementedError):  # tensors of torch.func, which wrap others
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
    """Yield the tensors that a node saved: by name in torch's own nodes, in one list in a `torch.autograd.Function`."""
    values = [getattr(node, name) for name in dir(node) if name.startswith("_saved_") or name == "saved_tensors"]
    while values:
        value = values.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            values += value
