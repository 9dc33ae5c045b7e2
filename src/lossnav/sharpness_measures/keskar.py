"""The worst case in a box: the sharpness of Keskar et al."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lossnav.sharpness_measures.ascent import ascent_words, ascents, largest
from lossnav.sharpness_measures.neighborhood import Neighborhood
from lossnav.sharpness_measures.options import require_count, require_positive
from lossnav.sharpness_measures.registry import register
from lossnav.sharpness_measures.result import Invariance, KindResult

_INVARIANCE = Invariance(False, "of the sides epsilon (|theta_i| + 1) of the box, the 1 is not scaled as weights are")


@register(
    "epsilon",
    formula="100 (max L(θ+e) − L(θ)) / (1 + L(θ)), |e_i| ≤ ε (|θ_i| + 1); all dimensions, or a random "
    "subspace of `dimension`",
    source="Keskar et al. 2017, Metric 2.1 (by another ascent, which reaches higher values than their L-BFGS-B)",
    invariant_under="nothing",
    uncertainty="a lower bound of the maximum; spread over starts",
)
def epsilon(
    ground: Neighborhood,
    seed: int,
    *,
    epsilon: float = 1e-3,
    dimension: int | None = None,
    steps: int = 10,
    starts: int = 3,
) -> KindResult:
    """Find the largest loss in a small box around the weights, relative to the loss itself, in per cent.

    100 (max f(x + A y) - f(x)) / (1 + f(x)) over |y_i| <= epsilon (|(A^+ x)_i| + 1). An ascent goes to the corner that
    the gradient points to, again and again, or half as far where that led down (Frank and Wolfe 1956).

    Parameters
    ----------
    epsilon : float
        Half the side of the box for a weight of zero.
    dimension : int, optional
        Of a random subspace, the columns of A being normal numbers of length about 1, at 8 bytes a parameter each. By
        default A is the identity: the full space.
    steps : int
        Of each ascent; a step takes a gradient.
    starts : int
        Ascents: one from the centre, the others from random points of the box.

    References
    ----------
    Keskar et al. 2017, "On Large-Batch Training for Deep Learning: Generalization Gap and Sharp Minima", Metric 2.1;
    epsilon is 1e-3 or 5e-4 there, dimension 100 or all. Departure: they take 10 iterations of L-BFGS-B, which stops far
    below the maximum (design/0016), so that their numbers are smaller than these.
    """
    require_positive("epsilon", epsilon)
    require_count("steps", steps)
    require_count("starts", starts)
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat([ground.objective.params[name].detach().double().reshape(-1) for name in ground.names])
    columns: Tensor | None = None
    if dimension is not None:
        require_count("dimension", dimension)
        drawn = [ground.normal(generator) for _ in range(min(dimension, ground.size))]
        columns = torch.stack(drawn, 1) / math.sqrt(ground.size)  # (d, p)
        x = torch.linalg.solve(columns.T @ columns, columns.T @ x)
    width = epsilon * (x.abs() + 1)  # (p,)

    def lift(u: Tensor) -> Tensor:
        return width * u if columns is None else columns @ (width * u)

    def pull(slope: Tensor) -> Tensor:
        return width * (slope if columns is None else columns.T @ slope)

    def ahead(at: Tensor, uphill: Tensor, stride: float) -> Tensor:
        return at + stride * (torch.sign(uphill) - at)

    def in_the_box() -> Tensor:
        return (2 * torch.rand(len(width), dtype=torch.float64, generator=generator) - 1).to(width.device)

    elsewhere, *others = (in_the_box() for _ in range(starts))
    rises = ascents(ground, lift, pull, ahead, [torch.zeros_like(width), *others], elsewhere, steps)
    found = [100 * rise / (1 + ground.center) for rise in rises]
    space = "all" if columns is None else "a random subspace of"
    return KindResult(
        *largest(found),
        f"100 (max L(theta + e) - L(theta)) / (1 + L(theta)), e in the box |e_i| <= {epsilon:g} (|theta_i| + 1) of "
        f"{space} {len(width):,} dimensions; {ascent_words(steps, starts)}",
        "Keskar et al. 2017, Metric 2.1; another ascent than their L-BFGS-B",
        _INVARIANCE,
        tuple(found),
        {"epsilon": epsilon, "dimension": dimension, "steps": steps, "starts": starts},
    )
