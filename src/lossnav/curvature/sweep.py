"""One sweep over an objective's data: loss, gradient and products with vectors, summed batch by batch.

Batches are summed in float64 and in their order, so only the graph of one batch is held in memory, and the same call
gives the same bits. Where several products at one point are likely, graphs are kept as far as memory allows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from lossnav._utils import random_state
from lossnav.curvature.batch_graph import BatchGraph, GraphCache, Leaves, require_no_reentrant
from lossnav.curvature.batch_norm import GivenStatistics
from lossnav.curvature.double_backward import accumulate, is_connected, twice_differentiable
from lossnav.objective.objective import Objective
from lossnav.objective.passes import CopyPasses
from lossnav.objective.reduction import share
from lossnav.params import Params


class BatchSweep:
    """Loss, gradient and products of an objective at one point. Subclasses define what one batch contributes.

    Attributes
    ----------
    objective : Objective
        In the numbers in which the model computes.
    names : tuple of str
        The parameters that are differentiated by.
    count : int
        Products computed so far.
    """

    objective: Objective
    names: tuple[str, ...]
    count: int
    _point: Params
    _at_point: Params  # the buffers at the point
    _sizes: list[int]
    _keeper: GraphCache | None = None
    _leaves: Params | None = None
    _in_place: Params  # buffers that are in the model during a sweep

    def _holding(self, function: Callable[[], Any]) -> Any:
        """Call a function while the model holds this point's weights, so that its backward passes find them there."""
        given, self._in_place, _ = self._begin()
        return self.objective.forward_pass.passes.holding(given, self._in_place, function)

    def _cut(self, flat: Tensor) -> list[Tensor]:
        """Split a vector of shape (d,) into tensors shaped like the parameters."""
        like = [self._point[name] for name in self.names]
        return [part.view(t.shape).to(t.dtype) for part, t in zip(torch.split(flat, self._sizes), like, strict=True)]

    def _begin(self) -> tuple[Params, Params, list[Tensor]]:
        """Return parameters and buffers for one pass over the data, and the leaves that are differentiated by."""
        forward = self.objective.forward_pass
        given, buffers = forward.passes.leaves(self._point | forward.held, self._at_point, self.names)
        if not isinstance(forward.passes, CopyPasses):
            given = self._leaves = self._leaves or given  # the same each time, because cached graphs end in them
        return given, buffers, [given[name] for name in self.names]

    def _one(self, given: Params, buffers: Params, batch: Any, training: bool) -> tuple[Tensor, float]:
        """Return what a batch adds to the numerator of the loss, as a function of the leaves, and its weight."""
        objective = self.objective
        if objective.forward_pass.writes_weights:  # the model writes into these copies, which depend on the leaves
            given = {name: tensor.clone() for name, tensor in given.items()}
        n, values = objective.forward_pass.passes.one(given, buffers, batch, training)
        return share(values["loss"], n)

    def _sweep(
        self, slopes: Sequence[Leaves], layers: Sequence[str] = (), statistics: Leaves = ()
    ) -> tuple[float, list[list[Tensor]]]:
        """Return the loss, and gradient and products over all batches: by the leaves, and by statistics if given."""
        given, buffers, leaves = self._begin()
        by = [*leaves, *statistics]
        sums = [[torch.zeros_like(leaf, dtype=torch.float64) for leaf in by] for _ in range(1 + len(slopes))]
        numerator = weight = 0.0
        kept = self._keeper if slopes else None
        keeper = GraphCache() if kept is None and self._is_worth_keeping(slopes) else None
        training = self.objective.forward_pass.passes.training(self.objective.bn == "batch")
        with training, GivenStatistics(layers, buffers, self._in_place, statistics) if layers else nullcontext():
            for number, batch in enumerate(self._batches()):
                graph = None if kept is None else kept.get(number)
                if graph is None:
                    graph = self._graph(given, buffers, batch, by, bool(slopes), number == 0)
                if keeper is not None:
                    keeper.add(number, graph)
                accumulate(sums[0], graph.gradient)
                for total, slope in zip(sums[1:], slopes, strict=True):
                    accumulate(total, graph.multiply(slope))
                numerator, weight = numerator + graph.numerator, weight + graph.weight
        self._keeper = keeper or self._keeper
        for tensor in (tensor for total in sums for tensor in total):
            tensor /= weight
        return (numerator / weight if weight else math.nan), sums

    def _is_worth_keeping(self, slopes: Sequence[Leaves]) -> bool:
        """Whether more products at this point are likely, and nothing changes the tensors in the graphs until then."""
        objective = self.objective
        lasting = objective.bn == "frozen" and objective.forward_pass.by_value
        lasting = lasting and not objective.forward_pass.unplanned  # the next batch may write to a buffer in the graph
        return lasting and objective.device.type == "cpu" and 0 < len(slopes) < self.count

    def _graph(self, given: Params, buffers: Params, batch: Any, by: Leaves, twice: bool, first: bool) -> BatchGraph:
        part, weight = self._one(given, buffers, batch, self.objective.bn == "batch")
        if first:
            require_no_reentrant([part])
        graph = self._differentiate(part, by, twice, first)
        return graph._replace(numerator=part.item(), weight=weight)

    def _differentiate(self, part: Tensor, by: Leaves, twice: bool, first: bool) -> BatchGraph:
        """Return the gradient of a batch's part of the loss, and with `twice` a function that computes products."""
        raise NotImplementedError

    def _bend(self, through: Leaves, slope: Leaves) -> Tensor:
        """Return the number whose gradient is the statistics' own contribution to a product; zero by default."""
        return torch.zeros(())

    def _batches(self) -> Iterator[Any]:
        yield from [None] if self.objective.batches is None else self.objective.batches

    def is_reached(self) -> bool:
        """Whether the graph of any batch's loss contains the parameters that are differentiated by."""

        def reached() -> bool:
            with random_state.preserved(self.objective.seed, self.objective.device):
                given, buffers, leaves = self._begin()
                training = self.objective.bn == "batch"
                parts = (self._one(given, buffers, batch, training)[0] for batch in self._batches())
                return any(self._leads(part, leaves) for part in parts)

        with twice_differentiable(self.objective):
            return bool(self._holding(reached))

    def _leads(self, part: Tensor, by: Leaves) -> bool:
        """Whether the graph of a batch's part of the loss contains any of some tensors."""
        return is_connected(part, by)
