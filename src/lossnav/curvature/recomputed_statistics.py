"""Derivatives of a loss whose BatchNorm statistics are recomputed from the data at every point (bn="recompute")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lossnav._utils import random_state
from lossnav.curvature.batch_graph import Leaves
from lossnav.curvature.batch_norm import Recorded, Statistics, layers_of
from lossnav.curvature.double_backward import Derivatives, accumulate, dot, grad, joined
from lossnav.curvature.sweep import BatchSweep
from lossnav.errors import ObjectiveError
from lossnav.objective.passes import FunctionPasses


class StatisticsSweep(BatchSweep):
    """A sweep whose derivatives include those of recomputed BatchNorm statistics, where the objective has them."""

    def _layers(self) -> list[str]:
        passes = self.objective.forward_pass.passes
        if self.objective.bn != "recompute" or isinstance(passes, FunctionPasses):
            return []
        return layers_of(passes.whole.model)

    def _derive(self, slopes: Sequence[Leaves]) -> Derivatives:
        if layers := self._layers():
            return self._through_statistics(layers, slopes)
        with random_state.preserved(self.objective.seed, self.objective.device):
            loss, sums = self._sweep(slopes)
        return joined(loss, sums)

    def _through_statistics(self, layers: Sequence[str], slopes: Sequence[Leaves]) -> Derivatives:
        """Return the derivatives of f(theta, S(theta)), where S are the BatchNorm statistics of the data at theta.

        With J = dS/dtheta and c = df/dS, and partial derivatives of f as a function of two arguments::

            grad = f_theta + J^T c
            H v  = f_theta,theta v + f_theta,S u + J^T (f_S,theta v + f_S,S u) + d/dtheta (c . J v),   u = J v

        in three passes over the data: for S and u, for the derivatives of f, and for the remaining terms.
        """
        k = len(self.names)
        seed, device = self.objective.seed, self.objective.device
        with random_state.preserved(seed, device):  # the second pass continues the random numbers of the first
            statistics, tangents, calls = self._statistics(layers, slopes)
            joint = [[*slope, *tangent] for slope, tangent in zip(slopes, tangents, strict=True)]
            loss, sums = self._sweep(joint, layers, statistics)
        by_call = [
            [part.to(s.dtype) / n for part, s, n in zip(total[k:], statistics, calls, strict=True)] for total in sums
        ]
        (gradient, *products), (slope_s, *bends) = [total[:k] for total in sums], by_call
        with random_state.preserved(seed, device):
            for leaves, recorded in self._recorded(layers):
                through = grad(dot(recorded.totals, slope_s), leaves, create_graph=True)
                accumulate(gradient, through)
                for slope, bend, product in zip(slopes, bends, products, strict=True):
                    inner = self._bend(through, slope) + dot(recorded.totals, bend)
                    accumulate(product, grad(inner, leaves, retain_graph=True))
        return joined(loss, [gradient, *products])

    def _statistics(
        self, layers: Sequence[str], slopes: Sequence[Leaves]
    ) -> tuple[list[Tensor], list[list[Tensor]], list[int]]:
        """Return the statistics S of each layer, as leaves; J v for each vector; the number of calls averaged in S."""
        sums: list[list[Tensor]] = []
        calls = [0] * len(layers)
        for leaves, recorded in self._recorded(layers):
            # J v is the derivative of (weights . J) v by the weights; their values (zero) do not matter
            weights = [torch.zeros_like(total, requires_grad=True) for total in recorded.totals]
            pulled = grad(dot(recorded.totals, weights), leaves, create_graph=True) if slopes else []
            along = [grad(dot(pulled, slope), weights, retain_graph=True) for slope in slopes]
            sums = sums or [[torch.zeros_like(w, dtype=torch.float64) for w in weights] for _ in range(1 + len(slopes))]
            for total, part in zip(sums, [recorded.totals, *along], strict=True):
                accumulate(total, part)
            calls = [a + b for a, b in zip(calls, recorded.calls, strict=True)]
        if not any(calls):
            raise ObjectiveError(
                "The model's BatchNorm layers do not call torch.nn.functional.batch_norm, so bn='recompute' cannot be "
                "differentiated. Use bn='frozen' or bn='batch'."
            )
        calls = [count or 1 for count in calls]  # 0 for a layer that is never called
        means = [[(part / n).to(w.dtype) for part, n, w in zip(s, calls, weights, strict=True)] for s in sums]
        return [mean.requires_grad_() for mean in means[0]], means[1:], calls

    def _recorded(self, layers: Sequence[str]) -> Iterator[tuple[list[Tensor], Statistics]]:
        """Yield the leaves and, for each batch, the statistics that a pass in train mode computes."""
        given, buffers, leaves = self._begin()
        for batch in self._batches():
            with (
                self.objective.forward_pass.passes.training(True),
                Recorded(layers, buffers, self._in_place) as recorded,
            ):
                self._one(given, buffers, batch, training=True)
                yield leaves, recorded.so_far()  # within these modes, because a backward pass may recompute the batch
