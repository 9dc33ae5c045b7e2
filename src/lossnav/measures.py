"""What is measured on a batch: the loss, for each sample where it can be had, and metrics beside it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossnav.calling import StepValues
from lossnav.errors import LossShapeError, OptionError

Values = dict[str, float]
Metric = Callable[[Any, Any], Any]

_LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "nll": F.nll_loss,
    "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
}


class Loss:
    """A loss that gives one value a sample where it can, else the mean of the batch."""

    def __init__(self, loss: Callable[..., Any] | str | None, reduction: str) -> None:
        if isinstance(loss, str):
            if loss not in _LOSSES:
                raise OptionError(f"loss={loss!r} is unknown. Use one of {', '.join(_LOSSES)}, or pass a callable.")
            loss = _LOSSES[loss]
        if reduction not in ("auto", "mean", "none"):
            raise OptionError(f"reduction={reduction!r} is unknown. Use 'auto', 'mean' or 'none'.")
        if loss is not None and not callable(loss):
            raise OptionError(f"The loss is a {type(loss).__name__}. Pass a callable loss(outputs, targets).")
        self.function, self.reduction = loss, reduction
        self.name = "the model's own" if loss is None else name_of(loss)
        self._single: Callable[..., Any] | None = _per_sample(loss) if reduction == "auto" and loss else None
        self._proven = self._single is None
        if reduction != "none" and _declared_reduction(loss) == "sum":
            raise LossShapeError(
                f"{self.name} sums over the batch, so its value depends on the batch size. "
                "Use reduction='mean' in the loss."
            )
        if reduction == "auto" and _declared_reduction(loss) == "none" and self._single is None:
            self.reduction = "none"

    def __call__(self, outputs: Any, targets: Any, n: int) -> Tensor:
        """Return the loss of a batch of n samples: shape (n,) where single losses can be had, else ()."""
        if self.function is None:
            return self.check(_own_loss(outputs), n)
        outputs = logits(outputs)
        if not self._proven:
            self._prove(outputs, targets, n)
        if self._single is not None:
            return _sample_means(self._single(outputs, targets), n)
        return self.check(self.function(outputs, targets), n)

    def check(self, value: Any, n: int) -> Tensor:
        """Hold a value against what the reduction promises: a scalar, or (n, ...) averaged to (n,)."""
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value, dtype=torch.float64)
        if self.reduction == "none":
            if value.dim() == 0 or value.shape[0] != n:
                raise LossShapeError(
                    f"The loss {self.name} returned shape {tuple(value.shape)} for {n} samples, though "
                    "reduction='none' promises one value a sample. Use reduction='mean', or return shape (n,)."
                )
            return _sample_means(value, n)
        if value.numel() != 1:
            raise LossShapeError(
                f"The loss {self.name} returned a vector of shape {tuple(value.shape)} where one number was "
                "expected. Pass reduction='none' if it holds one value a sample, or return its mean."
            )
        scalar: Tensor = value.reshape(())
        return scalar

    def _prove(self, outputs: Any, targets: Any, n: int) -> None:
        """Keep single losses only where their mean is the loss: class weights and ignored targets break that."""
        assert self._single is not None and self.function is not None
        self._proven = True
        if _declared_reduction(self.function) == "none":
            return
        try:
            mean = self.function(outputs, targets)
            singles = _sample_means(self._single(outputs, targets), n)
        except LossShapeError:
            self._single = None
            return
        if not torch.allclose(singles.mean(), mean.to(singles.dtype), rtol=1e-4, equal_nan=True):
            self._single = None


def _per_sample(loss: Callable[..., Any]) -> Callable[..., Any] | None:
    """The same loss with reduction="none"; None where it has no such knob."""
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
    return (lambda outputs, targets: loss(outputs, targets, reduction="none")) if has_knob else None


def _declared_reduction(loss: Callable[..., Any] | None) -> str | None:
    """What a loss says of itself: the `reduction` of a module, or the default of the argument of that name."""
    if isinstance(loss, nn.Module):
        return getattr(loss, "reduction", None)
    try:
        default = inspect.signature(loss).parameters["reduction"].default if loss else None
    except (TypeError, ValueError, KeyError):
        return None
    return default if isinstance(default, str) else None


def _sample_means(values: Tensor, n: int) -> Tensor:
    """Average (n, ...) to (n,)."""
    if values.dim() == 0 or values.shape[0] != n:
        raise LossShapeError(f"{n} samples gave values of shape {tuple(values.shape)}. Return shape (n,) or (n, ...).")
    return values if values.dim() == 1 else values.flatten(1).double().mean(1)


def _own_loss(outputs: Any) -> Any:
    if isinstance(outputs, Mapping) and "loss" in outputs:
        return outputs["loss"]
    return getattr(outputs, "loss", outputs)


def logits(outputs: Any) -> Any:
    """What loss and metrics look at: ``outputs.logits`` where there are some (Hugging Face), else the outputs."""
    return getattr(outputs, "logits", outputs)


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the prediction is right; the prediction is the largest output, or the sign of a single one."""
    if outputs.dim() == targets.dim() and outputs.shape == targets.shape:
        if outputs.dim() > 1 and outputs.shape[1] > 1:  # one-hot or soft labels
            return (outputs.argmax(1) == targets.argmax(1)).double()
        return ((outputs > 0) == (targets > 0.5)).double()
    if outputs.shape[1:] == (1,) and targets.dim() == 1:
        return ((outputs[:, 0] > 0) == (targets > 0.5)).double()
    axis = -1 if outputs.shape[:-1] == targets.shape else 1
    return (outputs.argmax(axis) == targets).double()


def _top5(outputs: Tensor, targets: Tensor) -> Tensor:
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
    return (best == targets.unsqueeze(1)).any(1).double()


_METRICS: dict[str, Metric] = {
    "accuracy": _accuracy,
    "error": lambda outputs, targets: 1 - _accuracy(outputs, targets),
    "top5_accuracy": _top5,
}


def resolve_metrics(metrics: Sequence[str | Metric] | Mapping[str, Metric]) -> dict[str, Metric]:
    """Turn names and callables into one dict of callables; the order is kept."""
    if isinstance(metrics, Mapping):
        found: dict[str, Metric] = dict(metrics)
    else:
        found = {}
        for metric in [metrics] if isinstance(metrics, str) else metrics:
            if isinstance(metric, str) and metric not in _METRICS:
                raise OptionError(f"metric {metric!r} is unknown. Use {', '.join(_METRICS)}, or pass a callable.")
            found[metric if isinstance(metric, str) else name_of(metric)] = (
                _METRICS[metric] if isinstance(metric, str) else metric
            )
    if taken := {"loss", "loss_se", "status"} & set(found):
        raise OptionError(f"A metric cannot be called {taken.pop()!r}. Pass a dict with another name.")
    return found


def check_metric(name: str, value: Any, n: int) -> Tensor:
    """Hold a metric against its promise: the mean of the batch (a scalar), or one value a sample."""
    values: Tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    if values.dim() == 0:
        return values
    try:
        return _sample_means(values, n)
    except LossShapeError as error:
        raise LossShapeError(f"The metric {name!r}: {error}") from None


def reduce_steps(steps: list[StepValues], has_samples: bool) -> tuple[Values, int | None]:
    """Join batches: means weighted by their lengths, single values all alike."""
    counts = [n for n, _ in steps]
    values: Values = {}
    for name in steps[0][1]:
        parts = [step_values[name] for _, step_values in steps]
        if all(part.dim() == 1 for part in parts):
            singles = torch.cat(parts).double()  # float32 drifts by 1e-4 over 50k samples, more than the ripples
            values[name] = float(singles.mean())
            if name == "loss":
                values["loss_se"] = float(singles.std() / len(singles) ** 0.5) if len(singles) > 1 else float("nan")
        else:
            weights = torch.tensor(counts, dtype=torch.float64)
            means = torch.stack([part.double().mean() for part in parts]).cpu()
            values[name] = float((means * weights).sum() / weights.sum())
    return values, sum(counts) if has_samples else None


def name_of(function: Any) -> str:
    """The name of a function, a partial or a callable object."""
    while hasattr(function, "func"):  # functools.partial
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))
