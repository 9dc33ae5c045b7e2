"""Warnings about values that depend on how the data is split into batches, measured on a few samples.

A loss or metric of a batch that is not a mean over its samples (F1, R2, a loss with a penalty per batch) changes when
the data is split in another way. A few samples are evaluated as one batch and as two; both values are in the warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from lossnav import params as algebra
from lossnav._utils import random_state
from lossnav.errors import BatchDependenceWarning
from lossnav.objective import batch_tensors
from lossnav.objective.batch_tensors import Batch
from lossnav.objective.cuts import Cut, Probe, probes, uneven
from lossnav.objective.functional import StepValues
from lossnav.objective.predictions import NamedMetric
from lossnav.objective.readings import LossMisjudgedError
from lossnav.objective.reduction import reduce_steps

if TYPE_CHECKING:
    from lossnav.objective.objective import Objective

_ATTEMPTS = 6  # a batch may show that the loss was misjudged, each time in another way


def rounding(objective: Objective) -> float:
    """Relative difference of two losses that rounding explains, in the dtype of the parameters."""
    tensors = (tensor for tensor in (*objective.params.values(), *objective._held.values()))
    wide = all(tensor.dtype in (torch.float32, torch.float64) for tensor in tensors if tensor.is_floating_point())
    return 1e-4 if wide else 5e-2


def check_loss(objective: Objective, misjudged: Batch | None = None) -> None:
    """Warn if the loss depends on the split into batches.

    Nothing is checked where the user says that it does (BatchNorm with the statistics of each batch,
    ``reduction="batch"``) or says what a batch weighs (`count=`).

    Parameters
    ----------
    objective : Objective
    misjudged : Batch, optional
        The batch that showed that the loss was misjudged; by default the first and the last batch are used.
    """
    loss = objective._loss
    if objective.batches is None or objective._of_batch or loss.reduction == "batch" or not objective._counts:
        return
    with random_state.preserved(objective.seed, objective.device):  # starting a loader draws random numbers
        batches = [objective.batches.peek(), *objective.batches.last] if misjudged is None else [misjudged]
    cuts, tolerance = _cuts(objective, batches), rounding(objective)
    objective._cut_samples = sum(cut.samples for cut in cuts)
    reading = loss.reading
    if reading.loose and not reading.weighs:  # a mean plus something that may not depend on the batch
        reading.take(True)
        if (again := _cuts(objective, batches)) and all(cut.agrees(tolerance) for cut in again):
            return
        reading.take(False)
    differing = [cut for cut in cuts if not cut.agrees(tolerance)]
    if differing and reading.weighs:  # a mean over one sample may still count as much as any other
        reading.take(False)
        if all(cut.agrees(tolerance) for cut in _cuts(objective, batches)):
            return
    if differing:
        cut = differing[0]
        objective._cut = {"samples": cut.samples, "whole": cut.whole, "parts": cut.parts}
        warnings.warn(
            f"The loss of {objective.name} depends on how the data is split into batches: {cut.samples} samples gave "
            f"{cut.whole:.6g} as one batch and {cut.parts:.6g} as two batches, weighted by their numbers of samples. "
            "The reported values are for the batches as they are. Return one loss per sample (reduction='none'), pass "
            "count= with the number of terms in the mean of a batch, or pass reduction='batch' if the loss belongs to "
            "its batch, as a contrastive loss does.",
            BatchDependenceWarning,
            stacklevel=3,
        )


def check_metrics(objective: Objective) -> None:
    """Warn if one of the user's own metrics depends on the split into batches, as F1 and R2 do.

    With all the data in one batch there is nothing to warn about.
    """
    batches = objective.batches
    if batches is None or len(batches) < 2 or objective._of_batch or objective._loss.reduction == "batch":
        return
    own = {name: metric for name, metric in objective.metrics.items() if not isinstance(metric, NamedMetric)}
    if not own or not objective._counts:
        return
    with random_state.preserved(objective.seed, objective.device):
        ends = [batches.peek(), *batches.last]
    tolerance = rounding(objective)
    for name, metric in own.items():
        cuts = _cuts(objective._measuring(objective._loss, {name: metric}), ends, name)
        if differing := [cut for cut in cuts if not cut.agrees(tolerance)]:
            cut = differing[0]
            objective._metrics_cut[name] = {"samples": cut.samples, "whole": cut.whole, "parts": cut.parts}
            warnings.warn(
                f"The metric {name!r} depends on how the data is split into batches: {cut.samples} samples gave "
                f"{cut.whole:.6g} as one batch and {cut.parts:.6g} as two batches. The reported value is the mean over "
                f"{len(batches)} batches, weighted by their numbers of samples. Return one value per sample, or pass "
                "all the data as one batch (batch_size=).",
                BatchDependenceWarning,
                stacklevel=3,
            )


def _cuts(objective: Objective, batches: Sequence[Batch], name: str = "loss") -> list[Cut]:
    """The loss (or a metric) of a few samples of some batches, as one batch and as two; empty where it fails."""
    passes = objective.without_metrics()._pass if name == "loss" else objective._pass
    tolerance = rounding(objective)

    def measure(part: Batch, seed: int = objective.seed) -> StepValues:
        params = objective.params | objective._held
        with random_state.preserved(seed, objective.device), torch.no_grad():
            given = algebra.copy(params) if objective._writes_weights else params
            leaves = passes.leaves(given, objective._buffers, ())
            return passes.one(*leaves, batch_tensors.move(part, objective.device), False)

    def is_random(probe: Probe) -> bool:
        """Whether the model draws random numbers: another batch draws others."""
        once, again = (reduce_steps([measure(probe.whole, objective.seed + i)], True)[0][name] for i in (0, 1))
        return once != again

    for _ in range(_ATTEMPTS):
        try:
            chosen = probes(batches, lambda batch: measure(batch)[0])
            measured = [(probe, cut) for probe in chosen if (cut := probe.measure(measure, name)) is not None]
            if all(cut.agrees(tolerance) for _, cut in measured):
                more = ((probe, probe.measure(measure, name)) for probe in _uneven(objective, measure, name))
                measured += [(probe, cut) for probe, cut in more if cut is not None and not cut.agrees(tolerance)]
            return [cut for probe, cut in measured if cut.agrees(tolerance) or not is_random(probe)]
        except LossMisjudgedError:
            continue
        except Exception:  # the model may take batches of one size only
            return []
    return []


def _uneven(objective: Objective, measure: Callable[[Batch], StepValues], name: str) -> list[Probe]:
    """Samples whose weights may differ most, where a batch gives a mean and it is not known over what."""
    kept = objective.batches
    if kept is None or len(kept) < 2 or not kept.resident:
        return []
    value = measure(kept.peek())[1][name]
    if isinstance(value, tuple) or value.dim():
        return []
    with random_state.preserved(objective.seed, objective.device):
        return uneven(kept, lambda batch: objective._count(batch, None))
