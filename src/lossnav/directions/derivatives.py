"""Directions from derivatives: the gradient, and eigenvectors of the Hessian."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from lossnav import curvature
from lossnav import params as algebra
from lossnav._utils.validation import require
from lossnav.directions.base import Direction, require_number
from lossnav.directions.registry import register
from lossnav.errors import DirectionError
from lossnav.objective.objective import Objective


@register("gradient", options=("exclude", "precision"), on_command_line=True)
def gradient(
    objective: Objective, *, exclude: Sequence[str] = (), precision: Literal["native", "float64"] = "native"
) -> Direction:
    """Return the gradient of the loss at the objective's centre: the direction of steepest ascent.

    Parameters
    ----------
    objective : Objective
    exclude : sequence of str
        As in `random`, but nothing by default.
    precision : "native" or "float64"
        The precision in which the model computes.

    Returns
    -------
    Direction
        With the length of the gradient; zero for excluded parameters.

    Raises
    ------
    DirectionError
        If the gradient is zero or not finite.
    ObjectiveError
        If the model cannot be differentiated.

    Examples
    --------
    >>> import torch
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.tensor([1.0, 2.0])})
    >>> gradient(bowl)
    Direction(kind='gradient', norm=4.472)
    """
    exclude = algebra.listed(exclude)
    made = curvature.gradient(objective, exclude=exclude, precision=precision)
    recipe = {"kind": "gradient", "exclude": exclude, "precision": precision} | _at(objective)
    direction = Direction(made, recipe)
    if not 0 < direction.recipe["norm"] < math.inf:
        raise DirectionError(
            f"The gradient at the centre has length {direction.recipe['norm']}, so it is not a direction. Check that "
            "the loss depends on the parameters and is finite there."
        )
    return direction


@register("hessian", options=("n", "which", "exclude", "seed", "tolerance", "limit", "precision"), on_command_line=True)
def hessian(
    objective: Objective,
    n: int = 2,
    *,
    which: Literal["largest", "smallest", "both"] = "both",
    exclude: Sequence[str] = (),
    seed: int = 0,
    tolerance: float = 1e-3,
    limit: int = 500,
    precision: Literal["native", "float64"] = "native",
    progress: bool | None = None,
) -> tuple[Direction, ...]:
    """Return eigenvectors of the Hessian at the objective's centre: the directions of extreme curvature.

    Random directions show approximately the mean curvature. These show its extremes, so a saddle is seen as a saddle
    (Böttcher and Wheeler 2022). They have length 1 and are not normalised, because scaled filter by filter they would
    not be eigenvectors.

    Parameters
    ----------
    objective : Objective
    n : int
        Number of directions.
    which : "largest", "smallest" or "both"
        Those of the largest eigenvalues, of the smallest (most negative), or alternately of the largest and smallest.
    exclude : sequence of str
        As in `random`, but nothing by default. The eigenvectors are those of the remaining block.
    seed, tolerance, limit, progress
        As for `curvature.top_eigenpairs`.
    precision : "native" or "float64"
        The precision in which the model computes.

    Returns
    -------
    tuple of n Direction
        The recipe of each holds its ``eigenvalue`` and the ``error`` of that.

    Raises
    ------
    OptionError
        If n or an option is invalid.
    DirectionError
        If the Hessian is not finite.

    Examples
    --------
    >>> import torch
    >>> saddle = Objective.from_function(lambda p: 3 * p["x"][0] ** 2 - p["x"][1] ** 2, {"x": torch.zeros(2)})
    >>> up, down = hessian(saddle)
    >>> up["x"].round(decimals=3), round(down.recipe["eigenvalue"], 3)
    (tensor([1., 0.]), -2.0)
    """
    require(objective, "objective")
    require_number(n)
    exclude = algebra.listed(exclude)
    k = (n + 1) // 2 if which == "both" else n
    matrix = curvature.Hessian(objective, exclude=exclude, precision=precision)
    options: dict[str, Any] = {"which": which, "seed": seed, "tolerance": tolerance, "limit": limit}
    pairs = curvature.top_eigenpairs(matrix, k, progress=progress, **options)
    options |= {"exclude": exclude, "precision": precision}
    if not pairs.vectors:
        raise DirectionError("The Hessian at the centre is not finite. Check that the loss is finite there.")
    order = [i for pair in zip(range(k, 2 * k), range(k), strict=True) for i in pair] if which == "both" else range(k)
    return tuple(
        Direction(
            pairs.vectors[which_one],
            {
                "kind": "hessian",
                **options,
                "n": n,
                "index": i,
                "eigenvalue": float(pairs.values[which_one]),
                "error": float(pairs.errors[which_one]),
            }
            | _at(objective),
        )
        for i, which_one in enumerate(list(order)[:n])
    )


def _at(objective: Objective) -> dict[str, Any]:
    """Return where derivatives were computed: fingerprints of the objective and of its centre."""
    return {"objective": objective.fingerprint, "center": algebra.fingerprint(objective.params)}
