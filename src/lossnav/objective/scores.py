"""Whether the scores that a loss compares with the targets depend on the targets themselves.

A margin (ArcFace, LDAM) lowers the score of the right class, so fewer predictions look right; a choice of the hardest
samples leaves the others out. An accuracy read from such scores would be wrong. Two classes are exchanged among the
targets once, to see whether the scores change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from lossnav._utils import random_state
from lossnav.errors import OptionError
from lossnav.objective import contents as contents_module
from lossnav.objective import kept_state
from lossnav.objective.batch_tensors import map_tensors
from lossnav.objective.loss import Loss
from lossnav.objective.watching import CLASSES, YES_OR_NO, LossCall, LossWatch


def require_independent(loss: Loss, calls: Sequence[LossCall], outputs: Any, targets: Any, metric: str) -> None:
    """Raise if the scores that the loss hands to one of torch's losses depend on the targets.

    Parameters
    ----------
    loss : Loss
        It remembers that it was checked.
    calls : sequence of LossCall
        Calls of torch's losses on this batch.
    outputs, targets : object
        What the loss was given.
    metric : str
        The name of the metric that would be read from the scores.

    Raises
    ------
    OptionError
        If they do; the message names the two readings.
    """
    useful = [call for call in calls if call.name in (*CLASSES, *YES_OR_NO)]
    if loss.scores_checked or loss.reading.settled or len(useful) != 1 or not isinstance(targets, Tensor):
        return
    (call,) = useful
    pair = _pair_of_classes(call)
    if pair is None:
        return
    kept, scores = kept_state.Kept(loss.users_parts, borrowed=True), []
    try:
        for labels in (targets, _exchanged(targets, *pair)):
            with random_state.preserved(0, targets.device), LossWatch() as watch:  # copies: a loss may write into them
                cast(Any, loss.function)(map_tensors(outputs, Tensor.clone), labels.clone())
            (again,) = [each for each in watch.calls if each.name == call.name]
            scores.append(again.input)
    except Exception:  # the loss may not take other targets
        return
    finally:
        kept.restore()
    several = _has_several_classes(call)
    loss.scores_checked = several
    if not _same_scores(scores, several):
        raise OptionError(
            f"The metric {metric!r} has two readings here: the loss {loss.name} changes or selects the scores by their "
            "targets (a margin, or only the hardest samples), so the scores that cross-entropy gets and the outputs of "
            "the model may differ. Pass a metric of the outputs: "
            f"metrics={{{metric!r}: lambda outputs, targets: (outputs.argmax(1) == targets).float()}}"
        )


def require_independent_of_model(measure: Callable[[Any], Any], batch: Any, n: int, metric: str) -> None:
    """Raise if a model is given the targets, one per sample, and its scores depend on them.

    Two classes are exchanged among the targets in the batch. With more targets than samples (tokens) nothing is
    checked: a decoder is given the targets to continue from.

    Parameters
    ----------
    measure : callable
        Passes a batch through the model and the loss.
    batch : Batch
    n : int
        Samples in it.
    metric : str
        The name of the metric that would be read from the scores.

    Raises
    ------
    OptionError
        If the scores depend on the targets.
    """

    def calls(given: Any) -> list[LossCall]:
        with LossWatch() as watch:
            measure(given)
        return [call for call in watch.calls if call.name in (*CLASSES, *YES_OR_NO)]

    try:
        (call,) = calls(batch)
        pair = _pair_of_classes(call)
        wanted = call.target.reshape(-1)
        if (
            pair is None
            or len(wanted) != n
            or not any(_holds(tensor, wanted) for tensor in contents_module.tensors(batch))
        ):
            return
        (again,) = calls(map_tensors(batch, lambda t: _exchanged(t, *pair) if _holds(t, wanted) else t))
    except Exception:  # the model may not take other targets, and a loss may call several of torch's
        return
    if not _same_scores([call.input, again.input], _has_several_classes(call)):
        raise OptionError(
            f"The metric {metric!r} has two readings here: the model is given the targets and changes its scores by "
            "them (a margin), so the scores that cross-entropy gets are not what the model would predict. Let "
            "forward() return its loss and its logits without the margin, {'loss': ..., 'logits': ...}, and pass "
            f"metrics={{{metric!r}: lambda outputs, targets: (outputs.argmax(1) == targets).float()}}"
        )


def _pair_of_classes(call: LossCall) -> tuple[Tensor, Tensor] | None:
    """Two classes to exchange among the targets of a call, at least one of which occurs; None if there is none."""
    known = call.target.shape == call.counted.shape and not (call.name in CLASSES and call.target.is_floating_point())
    classes = torch.unique(call.target[call.counted]) if known else call.target[:0]
    if not len(classes):
        return None
    a, b = classes[0], classes[-1]
    if len(classes) == 1:  # the other one may be a class that the loss ignores
        last = call.input.shape[1 if call.input.dim() > 1 else 0] - 1 if call.name in CLASSES else 0
        b = a + 1 if a < last else a - 1 if call.name in CLASSES else 1 - a
    return a, b


def _has_several_classes(call: LossCall) -> bool:
    return len(torch.unique(call.target[call.counted])) > 1


def _exchanged(targets: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Targets with two classes exchanged."""
    a, b = a.to(targets.dtype), b.to(targets.dtype)
    return torch.where(targets == a, b, torch.where(targets == b, a, targets))


def _holds(tensor: Tensor, targets: Tensor) -> bool:
    """Whether a tensor holds these targets, shape (n,), in any shape or type."""
    return tensor.numel() == len(targets) and not tensor.is_complex() and bool((tensor.reshape(-1) == targets).all())


def _same_scores(scores: Sequence[Tensor], several: bool) -> bool:
    first, second = scores
    return torch.allclose(first, second, equal_nan=True) if first.shape == second.shape else not several
