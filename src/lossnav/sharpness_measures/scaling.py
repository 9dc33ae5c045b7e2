"""Steps measured by the weights they change: T_theta, which makes a measure blind to how the weights are scaled.

Multiply a layer of a ReLU network by 10 and divide the next by 10: the function is the same, its derivatives by the
weights are not, and any sharpness of a step's plain length can be made anything (Dinh et al. 2017, section 5). With
the step T_theta u and a bound on u instead, u does not see the scale.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav.directions.normalize import Normalization
from lossnav.sharpness_measures.neighborhood import Neighborhood
from lossnav.sharpness_measures.result import Invariance

INVARIANCES: dict[Normalization, Invariance] = {
    None: Invariance(False, "multiply a layer and divide the next, and it changes (Dinh et al. 2017)"),
    "weight": Invariance(True, "any rescaling of layers, units or filters that leaves the function as it is"),
    "filter": Invariance(
        True, "rescaling of layers that leaves the function as it is, and of filters before a normalisation layer"
    ),
    "layer": Invariance(True, "rescaling of layers that leaves the function as it is"),
}

WORDS: dict[Normalization, str] = {
    None: "1",
    "weight": "|theta|, entry by entry",
    "filter": "the norm of each filter (of a vector: |theta|, entry by entry)",
    "layer": "the norm of each tensor",
}


def scales(ground: Neighborhood, normalize: Normalization, *, shared: bool = False) -> Tensor:
    """Diagonal of T_theta at the centre, shape (d,), float64.

    Parameters
    ----------
    ground : Neighborhood
    normalize : "weight", "filter", "layer" or None
        |theta|; the norm of the filter an entry belongs to, where a vector's entries (of biases, normalisation layers)
        are filters of one; the norm of its tensor; 1.
    shared : bool
        Whether a norm is shared out among the n entries it belongs to, 1/sqrt(n) for each: then independent noise of
        variance 1 has the length of the filter, not of each entry, in the mean of squares.

    References
    ----------
    Kwon et al. 2021, "ASAM: Adaptive Sharpness-Aware Minimization", section 3.1.
    """
    made = []
    for name in ground.names:
        theta = ground.objective.params[name].detach().double()
        groups = ground.objective.transposed.get(name)
        if normalize is None:
            scale = torch.ones_like(theta)
        elif normalize == "weight" or (normalize == "filter" and theta.dim() < 2):
            scale = theta.abs()
        elif normalize == "filter":
            rows = algebra.to_filters(theta, groups)
            norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            norms = norms / math.sqrt(rows.shape[1]) if shared else norms
            scale = algebra.from_filters(norms.expand_as(rows), theta.shape, groups)
        else:
            norm = torch.linalg.vector_norm(theta)
            scale = torch.full_like(theta, float(norm / math.sqrt(theta.numel()) if shared else norm))
        made.append(scale.reshape(-1))
    return torch.cat(made)
