"""Metrics beside the loss: their names, and what they may return."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lossnav._utils.validation import described
from lossnav.errors import LossShapeError, OptionError
from lossnav.objective import scores
from lossnav.objective.functional import Measured
from lossnav.objective.loss import Loss, _means, length_of, logits, name_of
from lossnav.objective.predictions import METRICS, TAKEN
from lossnav.objective.predictions import register_metric as register_metric
from lossnav.objective.readings import LossMisjudgedError as LossMisjudgedError
from lossnav.objective.watching import LossWatch

Metric = Callable[[Any, Any], Any]


def resolve_metrics(metrics: Sequence[str | Metric] | Mapping[str, Metric] | None) -> dict[str, Metric]:
    """Turn names and callables into one dict of callables, in the same order."""
    if metrics is None:
        return {}
    if isinstance(metrics, Mapping):
        named: list[tuple[str, str | Metric]] = [(str(name), metric) for name, metric in metrics.items()]
    else:
        listed = [metrics] if isinstance(metrics, str) else list(metrics)
        named = [(metric if isinstance(metric, str) else name_of(metric), metric) for metric in listed]
    found: dict[str, Metric] = {}
    for name, metric in named:
        if isinstance(metric, str):
            if metric not in METRICS:
                raise OptionError(f"The metric {metric!r} is unknown. Use {', '.join(METRICS)}, or pass a callable.")
            metric = METRICS[metric].metric
        if isinstance(metric, type) or not callable(metric):
            hint = f"an instance of it: {{{name!r}: {name}(…)}}" if isinstance(metric, type) else "a callable"
            raise OptionError(f"The metric {name!r} is {described(metric)}. Pass {hint}, or a name such as 'accuracy'.")
        if name in TAKEN or not _NAME.fullmatch(name):
            raise OptionError(
                f"A metric cannot be called {name!r}, because this name is reserved or has characters other than "
                "letters, digits and underscores. Pass a dict with another name."
            )
        if name in found:
            raise OptionError(f"Two metrics are called {name!r}. Pass a dict with two names.")
        found[name] = metric
    return found


_NAME = re.compile(r"[A-Za-z_][\w-]*|<lambda>")


def measure_metrics(
    metrics: Mapping[str, Metric],
    loss: Loss,
    value: Measured,
    watch: LossWatch | None,
    outputs: Any,
    targets: Any,
    n: int,
) -> dict[str, Measured]:
    """Measure the metrics of a batch; named metrics use what the loss takes for a prediction."""
    outputs = logits(outputs)
    values: dict[str, Measured] = {}
    for name, metric in metrics.items():
        if getattr(metric, "of_prediction", False):
            calls = loss.reading.calls(watch, outputs, targets)
            of_loss = value[0] if isinstance(value, tuple) else value
            known_as = getattr(metric, "name", name)
            scores.require_independent(loss, calls, outputs, targets, known_as)
            values[name] = metric(loss.reading.prediction(calls, of_loss, outputs, targets, n, known_as), n)
        else:
            values[name] = check_metric(name, metric(outputs, targets), n, targets)
    return values


def check_metric(name: str, value: Any, n: int, targets: Any = None) -> Measured:
    """Check that a metric returned the mean of the batch (a scalar) or one value per sample."""
    try:
        if isinstance(value, tuple):  # with two tensors it is not known which one is meant
            raise TypeError
        values: Tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise LossShapeError(
            f"The metric {name!r} returned a {type(value).__name__}. Return a number, or a tensor with one value per "
            "sample; for several values pass several metrics: metrics={'first': ..., 'second': ...}."
        ) from None
    if values.dim() == 0:
        return values
    if values.shape[0] not in (n, length_of(targets)):
        raise LossShapeError(
            f"The metric {name!r} returned shape {tuple(values.shape)} for {n} samples. Return shape (n,) or (n, "
            "...), or a scalar."
        )
    return _means(values, n)
