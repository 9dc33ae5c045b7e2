"""Folding a BatchNorm with frozen statistics into the layer before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lossnav.params import Params


@dataclass
class Norm:
    """The names of a BatchNorm's tensors (None if it lacks one) and its epsilon."""

    weight: str | None
    bias: str | None
    mean: str
    var: str
    eps: float


def fold_batch_norm(weight: Tensor, bias: Tensor | None, norm: Norm, state: Params) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a layer with a BatchNorm folded in.

    w <- w * s and b <- (b - mean) * s + beta, with s = gamma / sqrt(var + eps), in the parameters' own precision.

    Parameters
    ----------
    weight : Tensor of shape (channels, ...)
    bias : Tensor of shape (channels,) or None
    norm : Norm
    state : dict of str to Tensor
        Contains the BatchNorm's tensors under their names.
    """
    scale = torch.rsqrt(state[norm.var] + norm.eps)
    if norm.weight is not None:
        scale = scale * state[norm.weight]
    shift = -state[norm.mean] if bias is None else bias - state[norm.mean]
    shift = shift * scale
    if norm.bias is not None:
        shift = shift + state[norm.bias]
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)), shift
