"""The worst case in a box: the sharpness of Keskar et al."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np
import scipy.optimize
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossnav.flatness.ball import largest
from lossnav.flatness.ground import Ground, Stopped
from lossnav.flatness.options import require_count, require_positive
from lossnav.flatness.result import Finding, Invariance

Array = NDArray[np.float64]

_INVARIANCE = Invariance(False, "of the sides epsilon (|theta_i| + 1) of the box, the 1 is not scaled as weights are")


class _Wall(Exception):  # noqa: N818
    """Loss or gradient is not finite somewhere in the box: there is no way further up."""


def epsilon(
    ground: Ground,
    seed: int,
    *,
    epsilon: float = 1e-3,
    dimension: int | None = None,
    steps: int = 10,
    starts: int = 3,
) -> Finding:
    """Find the largest loss in a small box around the weights, relative to the loss itself, in per cent.

    100 (max f(x + A y) - f(x)) / (1 + f(x)) over |y_i| <= epsilon (|(A^+ x)_i| + 1), by L-BFGS-B from the centre and
    from random points of the box.

    Parameters
    ----------
    epsilon : float
        Half the side of the box for a weight of zero.
    dimension : int, optional
        Of a random subspace, the columns of A being normal numbers of length about 1, at 8 bytes a parameter each. By
        default A is the identity: the full space.
    steps : int
        Iterations of L-BFGS-B from each start, each a gradient or a few.
    starts : int

    References
    ----------
    Keskar et al. 2017, "On Large-Batch Training for Deep Learning: Generalization Gap and Sharp Minima", Metric 2.1;
    they take 10 iterations, epsilon 1e-3 and 5e-4, the full space and dimension 100. Departure: more starts.
    """
    require_positive("epsilon", epsilon)
    require_count("steps", steps)
    require_count("starts", starts)
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([ground.objective.params[name].detach().double().reshape(-1) for name in ground.names])
    lift: Tensor | None = None
    if dimension is not None:
        require_count("dimension", dimension)
        columns = [ground.normal(generator) for _ in range(min(dimension, ground.size))]
        lift = torch.stack(columns, 1) / math.sqrt(ground.size)  # (d, p)
        x = torch.linalg.solve(lift.T @ lift, lift.T @ x)
    width = epsilon * (x.abs() + 1)  # (p,)
    found: list[float] = []
    with suppress(Stopped):
        for number in range(starts):
            drawn = (2 * torch.rand(len(width), dtype=torch.float64, generator=generator) - 1).numpy()
            highest = _highest(ground, width, lift, np.zeros(len(width)) if number == 0 else drawn, drawn, steps)
            found.append(100 * (highest - ground.center) / (1 + ground.center))
    space = "all" if lift is None else "a random subspace of"
    return Finding(
        *largest(found),
        f"100 (max L(theta + e) - L(theta)) / (1 + L(theta)), e in the box |e_i| <= {epsilon:g} (|theta_i| + 1) of "
        f"{space} {len(width):,} dimensions; {steps} iterations of L-BFGS-B from "
        + ("the centre" if starts == 1 else f"each of {starts} starts, the centre and random ones"),
        "Keskar et al. 2017, Metric 2.1" + ("" if starts == 1 else "; more starts than the centre"),
        _INVARIANCE,
        tuple(found),
        {"epsilon": epsilon, "dimension": dimension, "steps": steps, "starts": starts},
    )


def _highest(ground: Ground, width: Tensor, lift: Tensor | None, start: Array, elsewhere: Array, steps: int) -> float:
    """The highest loss that one ascent meets; coordinates are parts of the box's sides, within [-1, 1]."""
    highest = -math.inf

    def downwards(u: Array) -> tuple[float, Array]:
        nonlocal highest
        y = width * torch.from_numpy(u).to(width.device)
        height, slope = ground.slope(y if lift is None else lift @ y)
        if math.isfinite(height) and not bool(torch.isfinite(slope).all()):
            height = math.nan
        if not height <= highest:
            highest = height
        if not math.isfinite(height):
            raise _Wall
        uphill: Tensor = width * (slope if lift is None else lift.T @ slope)
        return -height, -uphill.cpu().numpy()

    options = {"maxiter": steps, "ftol": 0.0, "gtol": 0.0}
    bounds = scipy.optimize.Bounds(-np.ones(len(start)), np.ones(len(start)))
    with suppress(_Wall, Stopped):
        for begin in (start, elsewhere):
            ended = scipy.optimize.minimize(
                downwards, begin, jac=True, method="L-BFGS-B", bounds=bounds, options=options
            )
            if ended.jac.any():  # else it began at an exact stationary point, and nothing leads away from it
                break
    if highest == -math.inf:
        raise Stopped
    return highest
