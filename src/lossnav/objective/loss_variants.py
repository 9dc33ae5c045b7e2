"""What a loss declares about itself (reduction, class weights), and variants of it: per sample, in float64."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossnav.objective.batch_tensors import map_tensors, to_double


class ClassWeights:
    """The denominator of cross-entropy and NLL: the weight of each target's class, 0 if the target is ignored."""

    def __init__(self, weight: Tensor | None, ignore_index: int) -> None:
        self.weight, self.ignore_index = weight, ignore_index

    @classmethod
    def of(cls, loss: Callable[..., Any] | None) -> ClassWeights | None:
        """Read class weights and ignored index from torch's own losses; None for any other."""
        if type(loss) in (nn.CrossEntropyLoss, nn.NLLLoss):
            return cls(loss.weight, loss.ignore_index)  # type: ignore[union-attr]
        if loss in (F.cross_entropy, F.nll_loss):
            return cls(None, -100)
        if isinstance(loss, partial) and loss.func in (F.cross_entropy, F.nll_loss) and not loss.args:
            return cls(loss.keywords.get("weight"), loss.keywords.get("ignore_index", -100))
        return None

    def apply_to(self, targets: Any) -> bool:
        """Whether the targets are classes (for probabilities torch takes the plain mean)."""
        return isinstance(targets, Tensor) and not targets.is_floating_point() and targets.dim() > 0

    def __call__(self, targets: Tensor) -> Tensor:
        """Weight of each target, in the shape of the targets."""
        valid = targets != self.ignore_index
        weights = valid.double()
        if self.weight is not None:
            weights = weights * self.weight.to(targets.device, torch.float64)[torch.where(valid, targets, 0)]
        return weights


def per_sample(loss: Callable[..., Any]) -> Callable[..., Any] | None:
    """The same loss with reduction="none"; None if it has no such argument."""
    if isinstance(loss, nn.Module):
        if not hasattr(loss, "reduction"):
            return None
        single: Any = copy.copy(loss)
        single.reduction = "none"
        return cast(Callable[..., Any], single)
    try:
        has_knob = "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):
        return None
    return partial(loss, reduction="none") if has_knob else None


def in_double(loss: Any) -> Any:
    """The same loss with the tensors of a module or of a partial in float64; any other loss unchanged."""
    if isinstance(loss, nn.Module):
        return copy.deepcopy(loss).double()
    if isinstance(loss, partial):
        args, keywords = map_tensors((list(loss.args), loss.keywords), to_double)
        return partial(loss.func, *args, **keywords)
    return loss


def declared_reduction(loss: Callable[..., Any] | None) -> str | None:
    """The reduction that a loss declares: the attribute of a module, or the default of the argument."""
    if isinstance(loss, nn.Module):
        return getattr(loss, "reduction", None)
    try:
        default = inspect.signature(loss).parameters["reduction"].default if loss else None
    except (TypeError, ValueError, KeyError):
        return None
    return default if isinstance(default, str) else None
