"""Rescaled twins: one layer multiplied, a later one divided, the same function, but another sharpness.

In a ReLU network the two factors cancel, while the Hessian's eigenvalues change by their squares (Dinh et al. 2017): a
sharpness that differs between twins is not a property of the function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from lossnav import curvature
from lossnav._utils import turns
from lossnav._utils.geometry import Array
from lossnav.errors import LossnavWarning
from lossnav.objective.objective import Objective
from lossnav.params import Params
from lossnav.reports import thresholds

FACTOR = 2.0

_TRIED = 12  # maximum number of pairs of layers, two passes each
_DIGITS = 8  # assumed error of a loss in units in the last place
_TOLERANCE, _LIMIT = 0.05, 100  # of the twin's largest eigenvalue


def rescaled_twin(
    objective: Objective,
    traces: Mapping[str, float],
    curvature_of: Callable[[Objective], Array | None],
    seed: int = 0,
    progress: bool | None = None,
) -> tuple[dict[str, Any], int]:
    """Find two layers whose rescaling does not change the loss, and its effect on λmax, trace and picture.

    A layer is a set of tensors with the same prefix. All of the first layer is multiplied (weight and bias), and the
    weight of the later one is divided. That the function is the same is tested, at the centre and at weights a tenth
    smaller.

    Parameters
    ----------
    objective : Objective
        At the centre.
    traces : mapping of str to float
        Trace of the Hessian's block of each tensor; that of the twin follows from the squares of the factors.
    curvature_of : callable
        Maps an objective to the curvature along the picture's directions, drawn for its weights.

    Returns
    -------
    dict, int
        ``factor``, ``multiplied`` and ``divided`` (prefixes), ``loss`` and ``loss_rescaled``, ``lambda_max_rescaled``,
        ``trace_rescaled``, ``picture_changes`` (largest relative change of the curvature; None if the directions cannot
        be drawn again); if no pair was found, the number ``tried``. And the number of passes over the data.

    References
    ----------
    Dinh, Pascanu, S. Bengio, Y. Bengio 2017, "Sharp Minima Can Generalize For Deep Nets", theorem 2.
    """
    center = objective.evaluate(objective.params)
    tried, passes, loss = 0, 2, center["loss"]
    shrunk = {name: tensor * 0.9 for name, tensor in objective.params.items()}
    loss_shrunk = objective.evaluate(shrunk)["loss"]
    allowed = _allowed(objective, center, loss_shrunk)
    for (first, scales), (second, divided) in _pairs(objective):
        factors = dict.fromkeys(scales, FACTOR) | dict.fromkeys(divided, 1 / FACTOR)
        moved = _scaled(objective.params, factors)
        passes, tried = passes + 1, tried + 1
        rescaled = objective.evaluate(moved)["loss"]
        if not abs(rescaled - loss) <= allowed:
            continue
        passes += 1
        if not abs(objective.evaluate(_scaled(shrunk, factors))["loss"] - loss_shrunk) <= allowed:
            continue  # equal by chance
        twin = objective.around(moved)
        with turns.hiding(LossnavWarning):
            hessian = curvature.Hessian(twin)
            pairs = curvature.top_eigenpairs(hessian, seed=seed, tolerance=_TOLERANCE, limit=_LIMIT, progress=progress)
        before, after = curvature_of(objective), curvature_of(twin)
        change = None
        if before is not None and after is not None:
            change = float(np.abs(after - before).max() / max(np.abs(before).max(), 1e-300))
        return {
            "tried": tried,
            "factor": FACTOR,
            "multiplied": first,
            "divided": second,
            "loss": loss,
            "loss_rescaled": rescaled,
            "lambda_max_rescaled": float(pairs.values[0]),
            "trace_rescaled": sum(trace / factors.get(name, 1.0) ** 2 for name, trace in traces.items()),
            "picture_changes": change,
        }, passes + pairs.products
    return {"tried": tried}, passes


def _allowed(objective: Objective, center: Mapping[str, float], shrunk: float) -> float:
    """Return the tolerance for losses of networks that compute the same function, relative to typical differences.

    These are the larger of the change when all weights shrink and the standard deviation of single samples, neither of
    which depends on a constant; plus rounding.
    """
    loss, error = center["loss"], center.get("loss_se", 0.0)
    spread = error * math.sqrt(objective.samples or 1)
    if objective.population and objective.samples:
        spread /= math.sqrt(max(1 - objective.samples / objective.population, 1 / objective.samples))
    changes = [abs(loss - shrunk), spread]
    scale = max([change for change in changes if math.isfinite(change)], default=0.0)
    eps = max(torch.finfo(tensor.dtype).eps for tensor in objective.params.values())
    return thresholds.SAME_LOSS * scale + _DIGITS * eps * abs(loss)


def _pairs(objective: Objective) -> Iterator[tuple[tuple[str, list[str]], tuple[str, list[str]]]]:
    """Yield consecutive layers in the order of the parameters: tensors to multiply, and weights to divide."""
    layers: dict[str, list[str]] = {}
    for name in objective.params:
        layers.setdefault(name.rpartition(".")[0] or name, []).append(name)
    weights = {
        prefix: [name for name in names if objective.roles[name] == "weight" and objective.params[name].dim() > 1]
        for prefix, names in layers.items()
    }
    order = list(layers)
    for i, first in enumerate(order[:_TRIED]):
        later = next((prefix for prefix in order[i + 1 :] if weights[prefix]), None)
        if later is None:
            return
        yield (first, layers[first]), (later, weights[later])


def _scaled(params: Params, factors: Mapping[str, float]) -> Params:
    return {name: tensor * factors[name] if name in factors else tensor for name, tensor in params.items()}
