"""How a loss is interpreted: what a prediction is, and what its mean over a batch is a mean over.

Both follow from what the loss does. If it calls one of torch's losses, that call shows scores, targets and which of
them count. A loss with its own arithmetic is compared with cross-entropy taken in each possible way; the one that gives
its value is its interpretation. What is decided on the first batch must hold on every batch of the first pass over the
data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lossnav.errors import OptionError
from lossnav.objective.predictions import Prediction, of_call
from lossnav.objective.watching import CLASSES, YES_OR_NO, LossCall, LossWatch, slopes

_IGNORED = (0, 255, -1, -100)  # target values that are commonly ignored


class LossMisjudgedError(Exception):
    """A loss is not what it was taken for: the pass is repeated with fewer assumptions, or with gradients enabled.

    Attributes
    ----------
    batch : Batch
        The batch that showed it.
    """

    batch: Any = None


@dataclass(frozen=True)
class Candidate:
    """A way to interpret the outputs for a loss with its own arithmetic.

    Attributes
    ----------
    axis : int or None
        The axis of the classes; None: each output is binary, positive above `threshold`.
    shift : int
        How many positions ahead an output predicts.
    ignored : int or None
        A target that does not count.
    threshold : float
        Outputs above it predict the positive class.
    """

    axis: int | None
    shift: int = 0
    ignored: int | None = None
    threshold: float = 0.0

    def prediction(self, outputs: Tensor, targets: Tensor) -> Prediction:
        """Scores, targets, and which of them count."""
        if self.axis is None:
            targets = targets.reshape(outputs.shape)
            return Prediction(outputs, targets, torch.ones_like(targets, dtype=torch.bool), self.threshold)
        scores = outputs.movedim(self.axis, 1)
        if targets.is_floating_point():
            targets = targets.movedim(self.axis, 1)
            return Prediction(scores, targets, torch.ones_like(targets.select(1, 0), dtype=torch.bool))
        if self.shift:  # the last axis counts positions
            scores, targets = scores[..., : -self.shift], targets[..., self.shift :]
        every = torch.ones_like(targets, dtype=torch.bool)
        return Prediction(scores, targets, every if self.ignored is None else targets != self.ignored)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in this interpretation."""
        read = self.prediction(outputs, targets)
        if self.axis is None:
            function = F.binary_cross_entropy_with_logits if self.threshold == 0 else F.binary_cross_entropy
            return function(read.scores, read.targets.to(read.scores.dtype))
        if read.targets.is_floating_point():
            return F.cross_entropy(read.scores, read.targets)
        return F.cross_entropy(
            read.scores, read.targets, ignore_index=-(2**31) if self.ignored is None else self.ignored
        )


class Reading:
    """What is known about a loss.

    Parameters
    ----------
    name : str
        Name of the loss, for messages.
    weighs : bool
        Whether to find out what a mean over a batch is a mean over.
    predicts : bool
        Whether predictions are needed.
    follows : bool
        Whether the loss may weight its terms itself, which then has to be found out.

    Attributes
    ----------
    settled : bool
        Whether this reading held for a whole pass over the data.
    loose : bool
        Whether the loss is a mean from torch's loss plus something else.
    """

    def __init__(self, name: str, weighs: bool, predicts: bool, follows: bool) -> None:
        self.name, self.weighs, self.predicts = name, weighs, predicts
        self._may_follow, self._follows = follows, False
        self._candidate: Candidate | None = None
        self._decided = False
        self.loose = False  # a mean from torch's loss plus something else
        self._taken_for: bool | None = None
        self._factor: Tensor | None = None  # factors of the means, and their relative denominators
        self._is_sum = False  # whether the loss is a sum of several means
        self._counts: list[tuple[int, int]] | None = None  # (shift, ignored): counts of labels that are the weight
        self._first: LossCall | None = None  # the first call; others differ in their tensors
        self._at_once = not follows  # whether every call got the outputs and targets themselves
        self.settled = not (weighs or predicts)

    @property
    def active(self) -> bool:
        """Whether there is anything to watch."""
        return self.predicts or (self.weighs and not self._counts_labels)

    @property
    def _counts_labels(self) -> bool:
        """Whether weights follow from the labels alone, so that nothing has to be watched."""
        return self.settled and bool(self._counts)

    @property
    def known(self) -> bool:
        """Whether the call is known beforehand: torch's own loss of the outputs and targets themselves."""
        return self.settled and self._at_once and self._first is not None

    def calls(self, watch: LossWatch | None, outputs: Any, targets: Any) -> Sequence[LossCall]:
        """The calls that were seen, or without a watch the one that is known."""
        if watch is not None:
            return watch.calls
        return [self._first.of(outputs, targets)] if self.known and self._first is not None else ()

    def watch(self) -> LossWatch:
        """Context in which the loss is to be computed."""
        return LossWatch(self._follows and (self.predicts or not (self.settled and self._is_sum)))

    def take(self, weighs: bool) -> None:
        """Decide whether batches are weighted by the denominators of their means, or by their numbers of samples."""
        self.weighs = self._taken_for = weighs

    # ------------------------------------------------------------------ the weight of a batch

    def weight(self, calls: Sequence[LossCall], value: Tensor, outputs: Any, targets: Any) -> Tensor | None:
        """The denominator of the mean over a batch, shape (): the count of its targets, say; None if not known."""
        if not self.weighs:
            return None
        if self._counts_labels and self._counts:
            return _count_labels(targets, *self._counts[0])
        found = self._weight_of_call(calls, value) if calls else self._weight_of_candidate(value, outputs, targets)
        if found is None:
            self.weighs = False
            raise LossMisjudgedError
        if not self.settled:
            self._hold_counts(calls, found, targets)
        return found

    def _hold_counts(self, calls: Sequence[LossCall], weight: Tensor, targets: Any) -> None:
        """Keep the ways of counting labels that give the weight of every batch."""
        if self._counts is None:
            ignored = calls[0].arguments.get("ignore_index") if calls else None
            self._counts = [] if ignored is None else [(shift, ignored) for shift in (0, 1)]
        labels = isinstance(targets, Tensor) and not targets.is_floating_point() and targets.dim() > 0
        self._counts = [way for way in self._counts if labels and bool(_count_labels(targets, *way) == weight)]

    def _weight_of_call(self, calls: Sequence[LossCall], value: Tensor) -> Tensor | None:
        if len(calls) > 1:
            return self._weight_of_sum(calls, value)
        (call,) = calls
        if self._follows:
            return self._weight_by_slope(call, value)
        found = call.denominator
        if self.settled or (found is not None and _agree(call.result, value, found)):
            return found
        if self._may_follow:
            self._follows = True
            raise LossMisjudgedError
        return None

    def _weight_of_sum(self, calls: Sequence[LossCall], value: Tensor) -> Tensor | None:
        """The weight of several means whose denominators are in the same ratio in every batch."""
        self._is_sum = True
        over = [call.denominator for call in calls]
        if any(number is None for number in over) or not self._may_follow:
            return None
        first, known = cast(Tensor, over[0]), torch.stack(cast(list[Tensor], over))
        if self.settled or bool((known == 0).all()):
            return first
        if not self._follows:
            self._follows = True
            raise LossMisjudgedError
        found = [slopes(value, call.result) for call in calls]
        if any(slope is None for slope in found) or float(first) == 0:
            return None
        factors = torch.stack([cast(Tensor, slope).detach().double() for slope in found])
        factor = torch.stack([factors, known / first])
        self._factor = factor if self._factor is None else self._factor
        if self._factor.shape != factor.shape or not _agree(factor, self._factor):
            return None
        total = (factors * torch.stack([call.result.detach().double() for call in calls])).sum()
        if not self._taken_for and not _agree(total.to(value.dtype), value):
            self.loose = True
            return None
        return first

    def _weight_by_slope(self, call: LossCall, value: Tensor) -> Tensor | None:
        """The weight of a loss that averages the terms of a call: their number, or the denominator of the call."""
        slope = slopes(value, call.result)
        if slope is None:
            return None
        found = call.denominator
        if found is not None:  # of a mean, which may be scaled
            terms, factor = found, slope
        elif call.reduction == "sum":
            terms = call.counted.double().sum()
            factor = slope * terms
        else:
            terms = (slope.isfinite() & (slope != 0)).double().sum()
            factor = slope.double().abs().max() * terms
        if self.settled or float(terms) == 0:
            return terms
        used = slope[slope != 0].double()
        if found is None and not bool(((used - used.max()).abs() <= 1e-5 * used.max()).all()):
            return None
        self._factor = factor.detach().double() if self._factor is None else self._factor
        if not _agree(factor.double(), self._factor):  # a sum: its terms are not divided by their number
            return None
        if not self._taken_for and not _agree((slope * call.result).sum(), value):
            self.loose = True
            return None
        return terms

    def _weight_of_candidate(self, value: Tensor, outputs: Any, targets: Any) -> Tensor | None:
        candidate = self._find(value, outputs, targets)
        return None if candidate is None else candidate.prediction(outputs, targets).counted.double().sum()

    def _find(self, value: Tensor, outputs: Any, targets: Any) -> Candidate | None:
        """The one interpretation of the outputs that gives the value of the loss, on this batch too."""
        if self.settled:
            return self._candidate
        if not self._decided:
            self._candidate, self._decided = fitting(outputs, targets, value), True
            return self._candidate
        if self._candidate is None or _agree(self._candidate.loss(outputs, targets), value):
            return self._candidate
        again = fitting(outputs, targets, value)  # an ignored value may appear only in a later batch
        known = self._candidate
        if again is not None and known.ignored is None and replace(again, ignored=None) == known:
            self._candidate = again
            raise LossMisjudgedError
        return None

    # ------------------------------------------------------------------ predictions

    def prediction(
        self, calls: Sequence[LossCall], value: Any, outputs: Any, targets: Any, n: int, metric: str
    ) -> Prediction:
        """What the loss takes for a prediction.

        Raises
        ------
        OptionError
            If the loss does not show it.
        """
        useful = [call for call in calls if call.name in (*CLASSES, *YES_OR_NO)]
        if not self.settled:
            self._at_once &= len(calls) == len(useful) == 1 and calls[0].is_of(outputs, targets)
            self._first = calls[0].of(None, None) if self._at_once else None  # do not keep a batch alive
        if len(useful) == 1:
            return self._of_call(useful[0], value, targets, n, metric)
        if len(useful) > 1:
            raise _undefined(
                metric,
                f"the loss {self.name} consists of {len(useful)} classification losses, each with its own predictions",
            )
        if calls:
            raise _undefined(
                metric, f"the loss {self.name} ({calls[0].name}) does not define what a correct prediction is", outputs
            )
        plain = value if isinstance(value, Tensor) and value.dim() == 0 else None
        candidate = None if plain is None else self._find(plain, outputs, targets)
        if candidate is not None:
            return candidate.prediction(outputs, targets)
        if self._candidate is not None:
            raise _undefined(metric, f"the loss {self.name} is cross-entropy on one batch but not on another")
        if self._by_shapes(outputs, targets):
            return Candidate(1).prediction(outputs, targets)
        raise _undefined(metric, f"the loss {self.name} {_of_shapes(outputs, targets)}", outputs)

    def _of_call(self, call: LossCall, value: Any, targets: Any, n: int, metric: str) -> Prediction:
        counted = call.counted
        if call.reduction == "none" and self._may_follow:
            if not self._follows:
                if call.result is not value:
                    self._follows = True
                    raise LossMisjudgedError
            else:
                slope = slopes(value, call.result)
                if slope is None:
                    raise _undefined(
                        metric, f"the loss {self.name} weights its terms in a way that lossnav cannot follow"
                    )
                counted = counted & (slope != 0)
        found = of_call(call, counted)
        if len(found.scores) != n:
            found.rows_are_samples = self.settled or _in_rows(call.target, targets, n)
        return found

    def _by_shapes(self, outputs: Any, targets: Any) -> bool:
        """Whether outputs (N, C) and targets (N,) are clearly scores and classes."""
        if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
            return False
        fits = outputs.is_floating_point() and outputs.dim() == 2 and outputs.shape[:1] == targets.shape
        if not fits or targets.is_floating_point() or targets.dtype == torch.bool or outputs.shape[1] < 2:
            return False
        return self.settled or bool(((targets >= 0) & (targets < outputs.shape[1])).all())


def _count_labels(labels: Tensor, shift: int, ignored: int) -> Tensor:
    return (labels[..., shift:] != ignored).double().sum()


def fitting(outputs: Any, targets: Any, value: Tensor) -> Candidate | None:
    """The one candidate that gives this value, among those that differ on this batch; None if none or several do."""
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor) and outputs.is_floating_point()):
        return None
    found: list[Candidate] = []
    masks: list[tuple[Any, ...]] = []
    for candidate in _candidates(outputs, targets):
        try:
            fits = _agree(candidate.loss(outputs, targets), value)
        except (RuntimeError, ValueError, IndexError):  # not for these shapes, or the targets are not classes
            continue
        key = (candidate.axis, candidate.shift, candidate.threshold)
        if fits and key not in masks:  # the first one ignores the fewest targets
            found.append(candidate)
            masks.append(key)
    return found[0] if len(found) == 1 else None


def _candidates(outputs: Tensor, targets: Tensor) -> list[Candidate]:
    if outputs.shape == targets.shape or outputs.numel() == targets.numel():
        yes = [Candidate(None, threshold=0.0), Candidate(None, threshold=0.5)]
        return yes + ([Candidate(1)] if outputs.shape == targets.shape and outputs.dim() > 1 else [])
    if targets.is_floating_point() or targets.dim() != outputs.dim() - 1:
        return []
    present: list[int | None] = [None, *(i for i in _IGNORED if bool((targets == i).any()))]
    axes = {1, outputs.dim() - 1}
    shifts = (0, 1) if targets.dim() > 1 and targets.shape[-1] > 1 else (0,)
    return [Candidate(axis, shift, ignored) for axis in sorted(axes) for shift in shifts for ignored in present]


def _agree(one: Tensor, other: Tensor, denominator: Tensor | None = None) -> bool:
    """Whether two values of a loss agree up to rounding; always if nothing counts."""
    if denominator is not None and float(denominator) == 0:
        return True
    a, b = one.detach().double(), other.detach().double()
    wide = all(tensor.dtype in (torch.float32, torch.float64) for tensor in (one, other))
    return bool(torch.isclose(a, b, rtol=1e-5 if wide else 2e-2, atol=1e-12, equal_nan=True).all())


def _in_rows(seen: Tensor, targets: Any, n: int) -> bool:
    """Whether flattened targets are in the order of the samples: as given, or shifted."""
    if not isinstance(targets, Tensor) or not n or len(targets) != n or seen.dim() != 1 or len(seen) % n:
        return False
    rows, given = seen.reshape(n, -1), targets.reshape(n, -1)
    for shift in (0, 1):
        length = min(rows.shape[1], given.shape[1] - shift)
        if length and torch.equal(rows[:, :length], given[:, shift : shift + length].to(rows.dtype)):
            return True
    return False


def _of_shapes(outputs: Any, targets: Any) -> str:
    if not isinstance(outputs, Tensor):
        return f"has its own arithmetic, and its outputs are of type {type(outputs).__name__}"
    if not isinstance(targets, Tensor):
        return "has its own arithmetic, and there are no targets to compare with"
    return (
        f"has its own arithmetic, and cross-entropy of outputs of shape {tuple(outputs.shape)} and targets of shape "
        f"{tuple(targets.shape)} gives another value along every axis"
    )


def _undefined(metric: str, reason: str, outputs: Any = None) -> OptionError:
    one = isinstance(outputs, Tensor) and (outputs.dim() < 2 or outputs.shape[1] == 1)
    hits = "((outputs > 0).flatten() == (targets > 0).flatten())" if one else "(outputs.argmax(1) == targets)"
    return OptionError(
        f"The metric {metric!r} is not defined here: {reason}. Pass a function that defines it, for example: "
        f"metrics={{{metric!r}: lambda outputs, targets: {hits}.float()}}"
    )
