"""What a network does at a place: which classes it gets right, and which way the loss falls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from lossnav import curvature
from lossnav import params as algebra
from lossnav._utils import random_state
from lossnav.charts import Chart
from lossnav.directions import lazy as lazily
from lossnav.objective.functional import StepValues
from lossnav.objective.loss import logits
from lossnav.objective.objective import Objective
from lossnav.objective.passes import FunctionPasses

_MOST_CLASSES, _MOST_CONFUSED = 1000, 50  # that are listed, and of which every pair is


def classes(objective: Objective, point: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Say how a classifier does on each class.

    Parameters
    ----------
    objective : Objective
    point : mapping of str to Tensor
        Of weight space.

    Returns
    -------
    dict or None
        ``labels`` (those that occur as targets or could be outputs), ``counts`` (targets of each), ``accuracy`` (of
        each; nan where there is none), and ``confusion``: row i, column j counts samples of class i taken for j; None
        above 50 classes. None where the targets are no class numbers with one row of outputs a sample.
    """
    if objective.batches is None or isinstance(objective._pass, FunctionPasses):
        return None

    def step(model: Any, batch: Any) -> StepValues:
        outputs, targets = objective._forward(model, batch)
        outputs = logits(outputs)
        if not _are_classes(outputs, targets):
            raise _NoClassesError
        valid = targets >= 0
        shape = torch.tensor(outputs.shape[1])
        return len(targets), {"taken": outputs.argmax(1)[valid], "true": targets[valid], "shape": shape}

    passes = objective._pass.measuring(step)
    everything = {name: point[name].detach().to(c.device, c.dtype) for name, c in objective.params.items()}
    try:
        with random_state.preserved(objective.seed, objective.device), torch.no_grad():
            found = passes(everything | objective._held, objective.buffers_at(point), objective.batches)
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
    """The gradient at a place of a chart, and how much of it the chart shows.

    Returns
    -------
    dict
        ``norm`` of the gradient over all parameters that move; ``in_plane``, its derivatives by the coordinates
        (gradient . tangent); ``in_plane_norm`` and ``out_of_plane_norm``, of its projection on the tangents and of what
        that leaves; ``loss``.

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


class _NoClassesError(Exception):
    """The outputs and targets of this model are no classes."""


def _are_classes(outputs: Any, targets: Any) -> bool:
    both = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if not both or targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        return False
    return bool(targets.dim() == 1 and outputs.dim() == 2 and outputs.shape[0] == len(targets) and outputs.shape[1] > 1)
