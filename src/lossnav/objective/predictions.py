"""Named metrics: which predictions are right, at the positions that the loss counts.

The loss decides what a prediction is, never shapes alone: see `objective/readings.py`. Positions count equally: class
weights of the loss do not weight an accuracy, but positions with weight zero do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lossnav.errors import OptionError
from lossnav.objective.functional import Measured
from lossnav.objective.watching import YES_OR_NO, LossCall
from lossnav.storage.schema import RESERVED

TAKEN = ("loss", "loss_se", "loss_skewness", *RESERVED)  # names that a surface uses for other variables


@dataclass
class Prediction:
    """Scores of a batch, the targets they are compared with, and which of them count.

    scores : Tensor of shape (m, C, ...) for classes, (m, ...) for binary outputs
        Classes; or, in the shape of the scores, probabilities of the classes, or binary targets (positive above
        `half`).
    counted : bool Tensor of shape (m, ...)
    threshold : float or None
        Scores above it predict the positive class; None for scores of classes.
    half : float
        Targets above it are positive.
    rows_are_samples : bool
        Whether the first axis, split into equal parts, one per sample, holds the samples in their order.
    """

    scores: Tensor
    targets: Tensor
    counted: Tensor
    threshold: float | None = None
    half: float = 0.5
    rows_are_samples: bool = True

    def right(self) -> Tensor:
        """Which predictions are right: bool, shape (m, ...). If several targets are equally probable, each is right."""
        if self.threshold is not None:
            return (self.scores > self.threshold) == (self.targets > self.half)
        return self._hits(self.scores.argmax(1, keepdim=True))

    def among(self, k: int) -> Tensor:
        """Whether the target is among the k classes with the largest scores; always if there are at most k classes."""
        return self._hits(self.scores.topk(min(k, self.scores.shape[1]), dim=1).indices)

    def _hits(self, classes: Tensor) -> Tensor:
        if self.targets.is_floating_point():
            most = self.targets.amax(1, keepdim=True)
            return (self.targets.gather(1, classes) == most).any(1)
        return (classes == self.targets.unsqueeze(1)).any(1)


def of_call(call: LossCall, counted: Tensor) -> Prediction:
    """The predictions that one of torch's classification losses was called with."""
    scores, targets = call.input, call.target
    if call.name in YES_OR_NO:
        threshold = 0.5 if call.name == "binary_cross_entropy" else 0.0
        half = 0.0 if call.name == "soft_margin_loss" else 0.5  # its targets are -1 and 1
        if scores.dim() == 0:
            scores, targets, counted = scores[None], targets[None], counted[None]
        return Prediction(scores, targets, counted, threshold, half)
    if scores.dim() == 1:  # one sample without a batch axis
        scores, targets, counted = scores[None], targets[None], counted[None]
    return Prediction(scores, targets, counted)


class NamedMetric:
    """A metric that lossnav knows by name: a function of predictions and the number of samples."""

    of_prediction = True

    def __init__(self, name: str, function: Callable[[Prediction, int], Measured]) -> None:
        self.name, self.function = name, function

    def __call__(self, prediction: Prediction, n: int) -> Measured:
        """Measure a batch of n samples; return numerators and weights."""
        return self.function(prediction, n)


@dataclass(frozen=True)
class RegisteredMetric:
    """A metric that can be requested by name.

    Attributes
    ----------
    name : str
    words : str
        What the value is the mean of, over all the data, for docs and pictures.
    metric : callable
        What an objective calls: a `NamedMetric`, or a function of outputs and targets.
    """

    name: str
    words: str
    metric: Callable[..., Any]


METRICS: dict[str, RegisteredMetric] = {}


def words_of(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The `words` of those of an objective's metrics that are registered under the name they have there."""
    known = {name: METRICS[name] for name in metrics if name in METRICS}
    return {name: known[name].words for name in known if _function(metrics[name]) is _function(known[name].metric)}


def _function(metric: Any) -> Any:
    """The function that a metric calls: an objective holds copies of `NamedMetric`."""
    return metric.function if isinstance(metric, NamedMetric) else metric


def register_metric(
    name: str, words: str, *, of_prediction: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a named metric; for use as a decorator.

    Parameters
    ----------
    name : str
        The name for ``metrics=[name]``: letters, digits and underscores.
    words : str
        What the value is the mean of, over all the data: "fraction of correct predictions".
    of_prediction : bool
        True: the function takes a `Prediction` (what the loss takes for one) and the number of samples n, and returns
        numerators and weights, per sample (shape (n,)) or for the batch, which are summed over the data. False: it
        takes outputs and targets and returns the mean of the batch or one value per sample.

    Returns
    -------
    callable
        A decorator that returns the function unchanged.

    Raises
    ------
    OptionError
        If the name is taken, reserved or not a name.

    Examples
    --------
    >>> @register_metric("largest", "largest outputs")
    ... def largest(outputs, targets):
    ...     return outputs.amax(1)
    >>> METRICS["largest"].words
    'largest outputs'
    >>> del METRICS["largest"]
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        if name in METRICS:
            raise OptionError(f"The metric {name!r} is registered already: {METRICS[name].words}. Use another name.")
        if not isinstance(name, str) or not name.isidentifier() or name in TAKEN:
            raise OptionError(
                f"A metric cannot be called {name!r}, because this name is reserved or has characters other than "
                "letters, digits and underscores. Use another name."
            )
        METRICS[name] = RegisteredMetric(name, words, NamedMetric(name, function) if of_prediction else function)
        return function

    return add


def table() -> str:
    """The table of named metrics in docs/metrics.md, in Markdown."""
    rows = ["| name | definition |", "|---|---|"]
    return "\n".join([*rows, *(f"| `{metric.name}` | {metric.words} |" for metric in METRICS.values())])


def _share_of(hits: Tensor, prediction: Prediction, n: int) -> tuple[Tensor, Tensor]:
    """Numerators and weights, per sample if it is known which positions belong to which sample, else for the batch."""
    counted = prediction.counted.double()
    hits = (hits & prediction.counted).double()
    if n and len(hits) % n == 0 and prediction.rows_are_samples:
        return hits.reshape(n, -1).sum(1), counted.reshape(n, -1).sum(1)
    return hits.sum(), counted.sum()


def _require_one_reading(prediction: Prediction, name: str) -> None:
    """Raise OptionError if a sample has several binary labels: outputs of shape (N, K) or (N, K, H, W)."""
    shape = tuple(prediction.scores.shape)
    one = len(shape) == 1 or 1 in (shape[1], shape[-1]) or len(shape) == 3
    if prediction.threshold is not None and not one:
        raise OptionError(
            f"The metric {name!r} has two readings here, because each sample has {shape[1]} binary labels (outputs of "
            f"shape {shape}): the fraction of correct labels, or of samples with all labels correct. Pass "
            "metrics=['element_accuracy'] for the first, ['exact_match'] for the second, or a function of your own."
        )


@register_metric("accuracy", "fraction of correct predictions", of_prediction=True)
def _accuracy(prediction: Prediction, n: int) -> Measured:
    _require_one_reading(prediction, "accuracy")
    return _share_of(prediction.right(), prediction, n)


@register_metric("error", "fraction of wrong predictions", of_prediction=True)
def _error(prediction: Prediction, n: int) -> Measured:
    _require_one_reading(prediction, "error")
    return _share_of(~prediction.right(), prediction, n)


@register_metric("top5_accuracy", "fraction of targets among the five largest outputs", of_prediction=True)
def _top5(prediction: Prediction, n: int) -> Measured:
    _require_classes(prediction, "top5_accuracy")
    return _share_of(prediction.among(5), prediction, n)


@register_metric("token_accuracy", "fraction of correct class predictions over all positions", of_prediction=True)
def _token_accuracy(prediction: Prediction, n: int) -> Measured:
    _require_classes(prediction, "token_accuracy")
    return _share_of(prediction.right(), prediction, n)


@register_metric(
    "element_accuracy", "fraction of correct binary predictions, each counted separately", of_prediction=True
)
def _element_accuracy(prediction: Prediction, n: int) -> Measured:
    return _share_of(prediction.right(), prediction, n)


@register_metric("exact_match", "fraction of samples whose counted predictions are all correct", of_prediction=True)
def _exact_match(prediction: Prediction, n: int) -> Measured:
    right, counted = prediction.right(), prediction.counted
    if not n or len(right) % n or not prediction.rows_are_samples:
        raise OptionError(
            f"The metric 'exact_match' cannot tell which of {len(right)} predictions belong to which of {n} samples, "
            "because the loss gets them in another order. Pass a function of your own, or use 'element_accuracy'."
        )
    counted = counted.reshape(n, -1)
    some = counted.any(1)
    return ((right.reshape(n, -1) | ~counted).all(1) & some).double(), some.double()


def _require_classes(prediction: Prediction, name: str) -> None:
    if prediction.threshold is not None:
        raise OptionError(
            f"The metric {name!r} needs outputs with one score per class, but the loss takes each output as binary. "
            "Use 'accuracy' or 'element_accuracy'."
        )
