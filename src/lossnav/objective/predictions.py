"""Metrics with a name: which predictions are right, at the positions that the loss counts.

What a prediction is follows from the loss, never from shapes alone: see `objective/readings.py`. Plain counts: class
weights of the loss do not weight an accuracy, except that what has a weight of zero does not count.
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

TAKEN = ("loss", "loss_se", "loss_skewness", *RESERVED)  # names of other variables


@dataclass
class Prediction:
    """Scores of a batch, what they should have said, and which of them count.

    Attributes
    ----------
    scores : Tensor of shape (m, C, ...) for classes, (m, ...) for yes or no
    targets : Tensor of shape (m, ...)
        Of classes, or of the shape of the scores: probabilities of the classes, or yes (above `half`) or no.
    counted : bool Tensor of shape (m, ...)
    threshold : float or None
        Scores above it say yes; None where they are scores of classes.
    half : float
        Targets above it are yes.
    rows_are_samples : bool
        Whether the first axis, split into as many parts as there are samples, is one sample a part.
    """

    scores: Tensor
    targets: Tensor
    counted: Tensor
    threshold: float | None = None
    half: float = 0.5
    rows_are_samples: bool = True

    def right(self) -> Tensor:
        """Which predictions are right: bool, shape (m, ...). Of equally probable targets either is."""
        if self.threshold is not None:
            return (self.scores > self.threshold) == (self.targets > self.half)
        return self._hits(self.scores.argmax(1, keepdim=True))

    def among(self, k: int) -> Tensor:
        """Whether the target is among the k best classes; always where there are no more than k."""
        return self._hits(self.scores.topk(min(k, self.scores.shape[1]), dim=1).indices)

    def _hits(self, classes: Tensor) -> Tensor:
        if self.targets.is_floating_point():
            most = self.targets.amax(1, keepdim=True)
            return (self.targets.gather(1, classes) == most).any(1)
        return (classes == self.targets.unsqueeze(1)).any(1)


def of_call(call: LossCall, counted: Tensor) -> Prediction:
    """The predictions that a call of one of torch's losses for classes, or for yes or no, looked at."""
    scores, targets = call.input, call.target
    if call.name in YES_OR_NO:
        threshold = 0.5 if call.name == "binary_cross_entropy" else 0.0
        half = 0.0 if call.name == "soft_margin_loss" else 0.5  # whose targets are -1 and 1
        if scores.dim() == 0:
            scores, targets, counted = scores[None], targets[None], counted[None]
        return Prediction(scores, targets, counted, threshold, half)
    if scores.dim() == 1:  # one sample without an axis of its own
        scores, targets, counted = scores[None], targets[None], counted[None]
    return Prediction(scores, targets, counted)


class NamedMetric:
    """A metric that lossnav knows by its name: a function of predictions and the number of samples."""

    of_prediction = True

    def __init__(self, name: str, function: Callable[[Prediction, int], Measured]) -> None:
        self.name, self.function = name, function

    def __call__(self, prediction: Prediction, n: int) -> Measured:
        """Measure a batch of n samples: numerators and weights."""
        return self.function(prediction, n)


@dataclass(frozen=True)
class RegisteredMetric:
    """What belongs to the name of a metric.

    Attributes
    ----------
    name : str
    words : str
        What it is the mean of over all the data, for docs and pictures.
    metric : callable
        What an objective measures: a `NamedMetric`, or a function of outputs and targets.
    """

    name: str
    words: str
    metric: Callable[..., Any]


METRICS: dict[str, RegisteredMetric] = {}


def words_of(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The words of those of an objective's metrics that are registered by the name they have there."""
    known = {name: METRICS[name] for name in metrics if name in METRICS}
    return {name: known[name].words for name in known if _function(metrics[name]) is _function(known[name].metric)}


def _function(metric: Any) -> Any:
    """What a metric calls: an objective holds copies of `NamedMetric`."""
    return metric.function if isinstance(metric, NamedMetric) else metric


def register_metric(
    name: str, words: str, *, of_prediction: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function a metric that has a name; for use as a decorator.

    Parameters
    ----------
    name : str
        What ``metrics=[name]`` is to be: letters, digits and underscores.
    words : str
        What it is the mean of over all the data: "fraction of correct predictions".
    of_prediction : bool
        True: from a `Prediction` (what the loss takes for one) and the number of samples n to numerators and weights,
        of each sample (shape (n,)) or of the batch, which are summed up over the data. False: from outputs and targets
        to the mean of the batch or one value a sample.

    Returns
    -------
    callable
        From the function to itself.

    Raises
    ------
    OptionError
        If the name is taken, or none.

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
            raise OptionError(f"There is a metric {name!r} already: {METRICS[name].words}. Use another name.")
        if not isinstance(name, str) or not name.isidentifier() or name in TAKEN:
            raise OptionError(f"A metric cannot be called {name!r}. Use letters, digits and underscores.")
        METRICS[name] = RegisteredMetric(name, words, NamedMetric(name, function) if of_prediction else function)
        return function

    return add


def table() -> str:
    """All metrics that have a name as the table of docs/metrics.md, in Markdown."""
    rows = ["| name | definition |", "|---|---|"]
    return "\n".join([*rows, *(f"| `{metric.name}` | {metric.words} |" for metric in METRICS.values())])


def _share_of(hits: Tensor, prediction: Prediction, n: int) -> tuple[Tensor, Tensor]:
    """Numerators and weights: of each sample where they can be told apart, else of the batch."""
    counted = prediction.counted.double()
    hits = (hits & prediction.counted).double()
    if n and len(hits) % n == 0 and prediction.rows_are_samples:
        return hits.reshape(n, -1).sum(1), counted.reshape(n, -1).sum(1)
    return hits.sum(), counted.sum()


def _require_one_reading(prediction: Prediction, name: str) -> None:
    """Raise where a sample holds several labels: (N, K) and (N, K, H, W) of yes or no."""
    shape = tuple(prediction.scores.shape)
    one = len(shape) == 1 or 1 in (shape[1], shape[-1]) or len(shape) == 3
    if prediction.threshold is not None and not one:
        raise OptionError(
            f"metric {name!r} has two readings where each sample has {shape[1]} labels of yes or no (outputs of shape "
            f"{shape}): the share of labels that are right, or of samples of which every label is. Pass "
            f"metrics=['element_accuracy'] for the one, ['exact_match'] for the other, or a function of your own."
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
            f"metric 'exact_match' needs to know which of {len(right)} predictions belong to which of {n} samples, and "
            "the loss is given them in another order. Pass a function of your own, or use 'element_accuracy'."
        )
    counted = counted.reshape(n, -1)
    some = counted.any(1)
    return ((right.reshape(n, -1) | ~counted).all(1) & some).double(), some.double()


def _require_classes(prediction: Prediction, name: str) -> None:
    if prediction.threshold is not None:
        raise OptionError(
            f"metric {name!r} needs classes to choose from, and the loss takes each output for yes or no. "
            "Use 'accuracy' or 'element_accuracy'."
        )
