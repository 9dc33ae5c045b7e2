"""Whether products are computed by the cheaper second derivatives of `fast_double_backward`: tried once per objective.

The cheaper way is used only if its product with the first batch agrees with that of torch's own derivatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lossnav._utils import random_state
from lossnav.curvature.batch_graph import BatchGraph, Leaves
from lossnav.curvature.double_backward import Derivatives, joined
from lossnav.curvature.fast_double_backward import Cheaper
from lossnav.curvature.recomputed_statistics import StatisticsSweep

# relative: rounding may move the inputs of a ReLU across zero, which changes a product by up to 1e-3
_AGREE = 1e-2


class FasterSweep(StatisticsSweep):
    """A sweep that uses cheaper second derivatives where they agree with torch's own."""

    kind: str
    size: int

    def _soonest(self, slopes: Sequence[Leaves]) -> Derivatives:
        cheaper = self._cheaper() if slopes else None
        if cheaper is None:
            return self._derive(slopes)
        try:
            with cheaper:
                return self._derive(slopes)
        except Exception:  # a later batch differs from the first; an error of the user's model is raised again below
            self.objective.forward_pass.plans[self._plan] = None
            self._keeper = None
        return self._derive(slopes)

    def _cheaper(self) -> Cheaper | None:
        """Return the mode of the cheaper derivatives if it agrees with torch's own on the first batch, else None."""
        plans = self.objective.forward_pass.plans
        if self._plan not in plans:
            plans[self._plan] = self._found()
        last = plans[self._plan]
        return None if last is None else Cheaper(last)

    def _found(self) -> bool | None:
        """Whether images use the channels-last layout; None if neither layout can be used."""
        bare = self.objective.forward_pass.is_function
        for last in (True, False) if self.objective.device.type == "cpu" and not bare else ():
            cheaper = Cheaper(last)
            if self._agrees(cheaper):
                return last
            if not cheaper.count:
                break
        return None

    @property
    def _plan(self) -> tuple[str, str]:
        return "second derivatives", self.kind

    def _agrees(self, cheaper: Cheaper) -> bool:
        slope = self._cut(torch.randn(self.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        try:
            with cheaper:
                found = self._of_first_batch(slope)
        except Exception:  # if it is an error of the user's model, torch's own derivatives raise it again
            return False
        if not cheaper.count or not cheaper.is_laid_well:
            return False
        known = self._of_first_batch(slope)
        return bool(torch.linalg.vector_norm(found - known) <= _AGREE * torch.linalg.vector_norm(known))

    def _of_first_batch(self, slope: Leaves) -> Tensor:
        """Return a product for the first batch only, shape (d,)."""
        return joined(math.nan, [self._first_graph().multiply(slope)]).gradient

    def _first_graph(self) -> BatchGraph:
        with random_state.preserved(self.objective.seed, self.objective.device):
            given, buffers, leaves = self._begin()
            return self._graph(given, buffers, next(iter(self._batches())), leaves, twice=True, first=True)
