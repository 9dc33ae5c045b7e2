"""Losses of single samples at a point: errors of differences of losses, and dependence on the batch."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lossnav.errors import DataError, LossnavError
from lossnav.objective.batches import Batches
from lossnav.objective.objective import Objective
from lossnav.objective.reduction import single_terms
from lossnav.surface.difference import ratio

_DIGITS = 8  # assumed error of a sample's loss in units in the last place


def single_losses(
    objective: Objective, params: Mapping[str, Tensor], batches: Batches | None = None
) -> tuple[Tensor, Tensor] | None:
    """Return numerators and weights of every sample's loss, shape (n,) each, float64; None if not available.

    The loss of `Objective.evaluate` is the sum of the numerators over the sum of the weights.
    """
    if objective.batches is None:
        return None
    objective.forward_pass.settle(params)
    objective = objective.without_metrics()
    return single_terms(objective.forward_pass(params, batches=batches))


def difference(
    objective: Objective, start: Mapping[str, Tensor], end: Mapping[str, Tensor]
) -> tuple[float, float | None]:
    """Return the loss at the start minus that at the end, and its standard error over the samples.

    The samples are the same at both points, so the error is that of the mean of their differences d_i: s(d) / sqrt(n),
    for a ratio with the residuals d_i - D w_i (Cochran 1977, eq. 6.13), and for a subset of N times sqrt(1 - n / N).
    None if the losses of single samples are not available.
    """
    losses = [single_losses(objective, point) for point in (start, end)]
    if losses[0] is None or losses[1] is None:
        return objective.evaluate(start)["loss"] - objective.evaluate(end)["loss"], None
    (a, weights), (b, _) = losses[0], losses[1]
    part = len(weights) / objective.population if objective.population else 0.0
    return ratio((a - b).cpu().numpy(), weights.cpu().numpy(), part)


def batch_dependence(objective: Objective) -> float | None:
    """Return how much a sample's loss depends on its batch: the mean change relative to the spread of the losses.

    Every second sample is evaluated without the others. The spread is the mean distance of the losses from their mean,
    which does not depend on a constant; a change within rounding counts as zero. None if this cannot be measured: the
    losses of single samples are not available, there are few, random numbers are drawn (which depend on the batches),
    or BatchNorm statistics are computed from all the data.
    """
    skipped = objective.bn == "recompute" or objective.draws
    found = None if skipped else single_losses(objective, objective.params)
    if found is None or objective.batches is None or len(found[0]) < 4:
        return None
    whole, weights = found
    rows = range(0, len(whole), 2)
    try:
        other = copy.copy(objective)
        part = single_losses(other, objective.params, objective.batches.take(list(rows)))
    except (DataError, LossnavError):
        return None
    if part is None:
        return None
    total = weights.sum()
    change = float((part[0] - whole[::2]).abs().sum() / weights[::2].sum())
    mean = whole.sum() / total
    spread = float((whole - mean * weights).abs().sum() / total)
    digits = _DIGITS * torch.finfo(next(iter(objective.params.values())).dtype).eps
    if change <= digits * float(whole.abs().sum() / total):
        return 0.0
    return change / spread if spread > 0 else math.inf
