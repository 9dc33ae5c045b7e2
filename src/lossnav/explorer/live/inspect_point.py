"""Details at one point: accuracy by class, confusion matrix, and the gradient of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lossnav import curvature
from lossnav import params as algebra
from lossnav.acceleration import ChartFunction
from lossnav.charts import Chart
from lossnav.directions import lazy as lazily
from lossnav.objective.functional import StepValues
from lossnav.objective.loss import logits
from lossnav.objective.objective import Objective
from lossnav.storage.samples import SampleLosses
from lossnav.surface.difference import ratio

_MOST_CLASSES, _MOST_CONFUSED = 1000, 50  # classes that are listed, and classes of a confusion matrix


def classes(objective: Objective, point: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return accuracy by class and the confusion matrix of a classifier.

    Parameters
    ----------
    objective : Objective
    point : mapping of str to Tensor
        A point in weight space.

    Returns
    -------
    dict or None
        ``labels`` (one per output), ``counts`` (samples of each class), ``accuracy`` (of each class; nan without
        samples), and ``confusion``: row i, column j counts the samples of class i predicted as j; None for more than 50
        classes. None if the objective is not a classifier with one class number and one row of outputs per sample.
    """
    if objective.batches is None or objective.forward_pass.is_function:
        return None

    def step(model: Any, batch: Any) -> StepValues:
        outputs, targets = objective.forward_pass.outputs_and_targets(model, batch)
        outputs = logits(outputs)
        if not _are_classes(outputs, targets):
            raise _NoClassesError
        valid = targets >= 0
        shape = torch.tensor(outputs.shape[1])
        return len(targets), {"taken": outputs.argmax(1)[valid], "true": targets[valid], "shape": shape}

    try:
        found = objective.forward_pass(point, step=step)
    except _NoClassesError:
        return None
    n = int(found[0][1]["shape"])  # type: ignore[arg-type]
    taken, true = (torch.cat([values[name] for _, values in found]).cpu() for name in ("taken", "true"))  # type: ignore[misc]
    if n > _MOST_CLASSES or (len(true) and int(true.max()) >= n):
        return None
    confusion = torch.bincount(true.long() * n + taken.long(), minlength=n * n).reshape(n, n).numpy()
    counts = confusion.sum(1)
    with np.errstate(invalid="ignore"):
        accuracy = confusion.diagonal() / counts
    return {
        "labels": list(range(n)),
        "counts": counts.tolist(),
        "accuracy": accuracy.tolist(),
        "confusion": confusion.tolist() if n <= _MOST_CONFUSED else None,
    }


def slope(objective: Objective, chart: Chart, coords: ArrayLike) -> dict[str, Any]:
    """Return the gradient at a point of a chart, split into its parts in the chart and orthogonal to it.

    Returns
    -------
    dict
        ``norm`` of the gradient over all parameters that move; ``in_plane``, its derivatives by the coordinates
        (gradient . tangent); ``in_plane_norm`` and ``out_of_plane_norm``, the norms of its projection on the tangents
        and of the remainder; ``loss``.

    Examples
    --------
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.tensor([1.5, 2.0])})
    >>> from lossnav.charts import Line
    >>> found = slope(bowl, Line(bowl.params, {"x": torch.tensor([2.0, 0.0])}), [0.0])
    >>> found["norm"], found["in_plane"], found["in_plane_norm"], found["out_of_plane_norm"]
    (5.0, [6.0], 3.0, 4.0)
    """
    hessian = curvature.Hessian(objective, chart(coords))
    derived = hessian.derive()
    gradient = hessian.from_flat(derived.gradient)
    tangents = chart.tangents(coords)
    along = np.array([algebra.dot(tangent, gradient) for tangent in tangents])
    parts = np.linalg.pinv(lazily.gram(tangents), hermitian=True) @ along
    rest = algebra.combine(
        {name: tensor.double() for name, tensor in gradient.items()}, [-float(x) for x in parts], tangents
    )
    return {
        "loss": derived.loss,
        "norm": algebra.norm(gradient),
        "in_plane": along.tolist(),
        "in_plane_norm": float(np.sqrt(max(0.0, float(along @ parts)))),
        "out_of_plane_norm": algebra.norm(rest),
    }


def difference(function: ChartFunction, coords: ArrayLike, center: SampleLosses | None = None) -> Difference | None:
    """The loss at a place less that of the centre, with its paired standard error: both are over the same samples.

    Parameters
    ----------
    function : ChartFunction
    coords : array of shape (k,)
    center : SampleLosses, optional
        What an earlier call found at the centre.

    Returns
    -------
    Difference or None
        None where the losses of single samples cannot be had, or are not finite.

    Examples
    --------
    >>> x = torch.linspace(-1, 1, 100).reshape(-1, 1)
    >>> objective = Objective(torch.nn.Linear(1, 1), "mse", (x, x**2))
    >>> from lossnav.charts import Line
    >>> function = ChartFunction(objective, Line(objective.params, objective.params))
    >>> found = difference(function, [0.0])
    >>> found.value, found.error
    (0.0, 0.0)
    """
    kept = function.keeping_samples()
    if center is None:
        center = getattr(kept(np.zeros(len(function.chart.dims))), "samples", None)
    here = getattr(kept(np.asarray(coords, np.float64)), "samples", None)
    if here is None or center is None:
        return None
    d = here.losses.astype(np.float64) - center.losses
    if not np.isfinite(d).all():
        return None
    objective = function.objective
    part = (objective.samples or 0) / objective.population if objective.population else 0.0
    value, error = ratio(d, here.weights, part)
    return Difference(value, error, center)


class Difference(NamedTuple):
    """A difference of two losses over the same samples.

    Attributes
    ----------
    value, error : float
        In units of the loss.
    center : SampleLosses
        Of the second of the two.
    """

    value: float
    error: float
    center: SampleLosses


class _NoClassesError(Exception):
    """The outputs and targets of this model are not those of a classifier."""


def _are_classes(outputs: Any, targets: Any) -> bool:
    both = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if not both or targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        return False
    return bool(targets.dim() == 1 and outputs.dim() == 2 and outputs.shape[0] == len(targets) and outputs.shape[1] > 1)
