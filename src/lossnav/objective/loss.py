"""The loss of a batch: one value per sample where possible, else the mean of the batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lossnav._utils.validation import described
from lossnav.errors import LossShapeError, OptionError
from lossnav.objective.batch_tensors import map_tensors
from lossnav.objective.diagnosis import require_same_size
from lossnav.objective.functional import Measured, StepValues
from lossnav.objective.loss_variants import ClassWeights, declared_reduction, in_double, per_sample
from lossnav.objective.readings import LossMisjudgedError as LossMisjudgedError
from lossnav.objective.readings import Reading
from lossnav.objective.watching import LossWatch, unwatched

_OF_TORCH = tuple(value for name, value in vars(F).items() if name.endswith("_loss") or "cross_entropy" in name)
_LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "nll": F.nll_loss,
    "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
}


class Loss:
    """A loss that gives one value per sample where possible, else the mean of the batch.

    Cross-entropy and NLL with class weights or ignored targets are sums over samples divided by a sum of weights. For
    them every sample has a numerator and a weight, so the value does not depend on how the data is split into batches.
    For any other loss with a ``reduction`` argument, the mean of the values per sample is compared with the loss itself
    on every batch of the first pass over the data.
    """

    def __init__(self, loss: Callable[..., Any] | str | None, reduction: str) -> None:
        if isinstance(loss, str):
            if loss not in _LOSSES:
                raise OptionError(f"loss={loss!r} is unknown. Use one of {', '.join(_LOSSES)}, or pass a callable.")
            loss = _LOSSES[loss]
        if reduction not in ("auto", "mean", "none", "batch"):
            raise OptionError(f"reduction={reduction!r} is unknown. Use 'auto', 'mean', 'none' or 'batch'.")
        if isinstance(loss, type):
            raise OptionError(f"The loss is {described(loss)}. Pass an instance of it: loss={loss.__name__}().")
        if loss is not None and not callable(loss):
            raise OptionError(f"The loss is {described(loss)}. Pass a callable loss(outputs, targets).")
        self.function, self.reduction = loss, reduction
        self.scores_checked = loss is None  # `scores` has checked that they do not depend on the targets
        self.by_inputs = False  # whether it differentiates the network with respect to its inputs, as a PINN does
        self.name = "the model's own" if loss is None else name_of(loss)
        self._single: Callable[..., Any] | None = per_sample(loss) if reduction == "auto" and loss else None
        self._weights = ClassWeights.of(loss) if self._single is not None else None
        declared = declared_reduction(loss)
        self._proven = self._single is None or self._weights is not None or declared == "none"
        if reduction != "none" and declared == "sum":
            raise LossShapeError(
                f"The loss {self.name} sums over the batch, so its value depends on the batch size. Use "
                "reduction='mean' in the loss."
            )
        if reduction == "auto" and declared == "none" and self._single is None:
            self.reduction = "none"
        self.reading = Reading(self.name, weighs=False, predicts=False, follows=False)

    def read(self, weighs: bool, predicts: bool) -> None:
        """Set what has to be found out: what a mean is a mean over, and what a prediction is."""
        weighs = weighs and self.reduction in ("auto", "mean")
        own = getattr(type(self.function), "__module__", "") == nn.modules.loss.__name__ or self.function in _OF_TORCH
        self.reading = Reading(self.name, weighs, predicts, follows=not own)
        self.scores_checked = own or self.function is None

    def watch(self) -> LossWatch | None:
        """The context in which the loss is to be computed, if something has to be found out."""
        hidden = self._single is None and self.reduction != "none"
        if hidden and self.reading.active:
            return self.reading.watch()
        return self.reading.watch() if self.reading.predicts and not self.reading.known else None

    def weigh(self, value: Measured, watch: LossWatch | None, outputs: Any, targets: Any) -> Measured:
        """Turn the mean of a batch into numerator and weight, if it is known what it is a mean over."""
        if isinstance(value, tuple) or value.dim():
            return value
        weight = self.reading.weight(watch.calls if watch is not None else (), value, logits(outputs), targets)
        if weight is None:
            return value
        return torch.where(weight > 0, value.double(), torch.zeros_like(value.double())) * weight, weight

    def __call__(self, outputs: Any, targets: Any, n: int) -> Measured:
        """Return the loss of a batch of n samples: shape (n,), or numerators and weights, or a mean of shape ()."""
        if self.function is None:
            return self.check(_own_loss(outputs), n, targets)
        outputs = logits(outputs)
        if not self.reading.settled or not self._proven:
            require_same_size(self.function, outputs, targets)
        if self._single is None:
            return self.check(self.function(outputs, targets), n, targets)
        single = self._single(outputs, targets)
        if self._weights is not None and self._weights.apply_to(targets):
            return by_sample(single, self._weights(targets), n)
        if not self._proven:
            self._prove(outputs, targets, single, n)
        return _means(single, n)

    def unseen_weight(self, labels: NDArray[np.int64]) -> float | None:
        """The part of the sum of weights that a class without samples would have at 3/n of n samples.

        The largest over all classes; None without class weights.
        """
        weights = None if self._weights is None else self._weights.weight
        if weights is None or not self._weights:
            return None
        table = weights.detach().cpu().double().numpy()
        seen = labels[(labels != self._weights.ignore_index) & (labels >= 0) & (labels < len(table))]
        unseen = np.setdiff1d(np.arange(len(table)), seen)
        if not len(unseen) or not len(seen):
            return 0.0
        largest, total = 3.0 * float(table[unseen].max()), float(table[seen].sum())  # 3/n of n samples
        return largest / (total + largest) if largest > 0 else 0.0

    @property
    def users_parts(self) -> tuple[Any, ...]:
        """The user's objects in it, which may have a state."""
        return (self.function, self._single)

    @property
    def settled(self) -> bool:
        """Whether nothing is left to be found out."""
        return self._proven and (self.reading.settled or self.watch() is None)

    def double(self) -> Loss:
        """Return the same loss for outputs in float64, with class weights in float64."""
        other = copy.copy(self)
        other.function = in_double(self.function)
        if self._single is not None and other.function is not None:
            other._single = per_sample(other.function)
        return other

    def settle(self) -> None:
        """Record that a whole pass over the data agreed: nothing is left to be found out."""
        self._proven = self.reading.settled = True

    def check(self, value: Any, n: int, targets: Any = None) -> Measured:
        """Check a value against the reduction: a scalar, or shape (n, ...), which is averaged to (n,)."""
        targets_n = length_of(targets)
        if not isinstance(value, Tensor):
            value = self._number(value)
        if self.reduction == "none":
            if value.dim() == 0 or value.shape[0] not in (n, targets_n):
                raise LossShapeError(
                    f"The loss {self.name} returned shape {tuple(value.shape)} for {n} samples, but reduction='none' "
                    "needs one value per sample. Use reduction='mean', or return shape (n,)."
                )
            return _means(value, n)
        if value.numel() != 1:
            raise LossShapeError(
                f"The loss {self.name} returned shape {tuple(value.shape)} instead of one number. Pass "
                "reduction='none' if it holds one value per sample, or return its mean."
            )
        scalar: Tensor = value.reshape(())
        return scalar

    def _number(self, value: Any) -> Tensor:
        """Convert a number or an array to a tensor."""
        try:
            return torch.as_tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            pass
        if isinstance(value, Mapping) and self.function is None:
            terms = ", ".join(map(str, value))
            raise LossShapeError(
                f"The model returned a dict with {terms}, none of them 'loss'. Return the loss: forward=lambda model, "
                "batch: (sum(model(*batch).values()), None)."
            )
        raise LossShapeError(
            f"The loss {self.name} returned {described(value)} instead of one number. Return the mean of the batch, "
            "or with reduction='none' one value per sample."
        )

    def _prove(self, outputs: Any, targets: Any, single: Any, n: int) -> None:
        """Keep the values per sample only while their mean equals the loss."""
        assert self.function is not None
        with unwatched():
            mean = cast(Tensor, self.check(self.function(outputs, targets), n))
        fits = isinstance(single, Tensor) and single.dim() > 0 and single.shape[0] in (n, length_of(targets))
        if fits:  # relative to the terms, not to a mean that may be small; one ignored sample in 10,000 has to show
            tolerance = 1e-5 if mean.dtype in (torch.float32, torch.float64) else 2e-2
            allowed = tolerance * float(single.detach().double().abs().mean().nan_to_num(posinf=0.0))
            fits = torch.allclose(single.double().mean(), mean.double(), rtol=0, atol=allowed, equal_nan=True)
        if not fits:
            self._single, self._proven = None, True
            raise LossMisjudgedError


def length_of(targets: Any) -> int | None:
    """The number of targets, which may differ from the number of samples."""
    return int(targets.shape[0]) if isinstance(targets, Tensor) and targets.dim() else None


def _means(values: Tensor, n: int) -> Measured:
    """Average (m, ...) to (m,); if m is not the number of samples, return numerators and weights."""
    means = values if values.dim() == 1 else values.flatten(1).double().mean(1)
    return means if len(means) == n else by_sample(means, torch.ones_like(means), n)


def by_sample(numerators: Tensor, weights: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Sum terms (m, ...) per sample, (n,), or over the batch, (), if it is not known which belong to which sample."""
    if n and len(numerators) % n == 0:
        return numerators.reshape(n, -1).double().sum(1), weights.reshape(n, -1).double().sum(1)
    return numerators.double().sum(), weights.double().sum()


def _own_loss(outputs: Any) -> Any:
    if isinstance(outputs, Mapping) and "loss" in outputs:
        return outputs["loss"]
    return getattr(outputs, "loss", outputs)


def logits(outputs: Any) -> Any:
    """What loss and metrics get of the outputs: ``outputs.logits`` or ``outputs["logits"]``, else the outputs."""
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    return getattr(outputs, "logits", outputs)


def with_gradients(loss: Loss, measure: Callable[[], StepValues]) -> StepValues:
    """Measure a batch; enable gradients if the loss differentiates the network with respect to its inputs.

    Such a loss (of a differential equation, for example) raises if gradients are disabled. From then on it is measured
    with gradients enabled from the start of a pass, so that random numbers are drawn only once.

    Raises
    ------
    LossMisjudgedError
        The first time.
    """
    if torch.is_grad_enabled():
        return measure()
    if not loss.by_inputs:
        try:
            return measure()
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            loss.by_inputs = True
            raise LossMisjudgedError from None
    with torch.inference_mode(False), torch.enable_grad():
        n, values = measure()
    return n, {name: map_tensors(value, torch.Tensor.detach) for name, value in values.items()}


def name_of(function: Any) -> str:
    """The name of a function, a partial or a callable object."""
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))
