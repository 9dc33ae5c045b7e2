"""Normalising directions: by filter (Li et al. 2018), by layer, or by weight."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor

from lossnav import params as algebra
from lossnav.errors import LossnavWarning, OptionError, StructureMismatchError
from lossnav.objective.networks import moved, named
from lossnav.params import Params

Normalization = Literal["filter", "layer", "weight"] | None

NORMALIZATIONS = ("filter", "layer", "weight", None)


def filter_normalize(
    direction: Mapping[str, Tensor], reference: Mapping[str, Tensor], transposed: Mapping[str, int] | None = None
) -> Params:
    """Give every filter of a direction the norm of the matching filter of a reference.

    d_ij <- d_ij * ||theta_ij|| / ||d_ij||, filter j of layer i. A filter of zeros stays zero.

    Parameters
    ----------
    direction, reference : mapping of str to Tensor
        With the same names and shapes.
    transposed : mapping of str to int, optional
        Weights whose filters lie along the second axis, with their number of groups (`Objective.transposed`).

    Raises
    ------
    StructureMismatchError
        If names or shapes differ; the message names the first difference.

    References
    ----------
    Li et al. 2018, section 4. Departure: they zero biases and norm layers, we leave that choice to `exclude=`.

    Examples
    --------
    >>> filter_normalize({"w": torch.tensor([[1., 0.], [0., 2.]])}, {"w": torch.tensor([[3., 0.], [0., 4.]])})
    {'w': tensor([[3., 0.], [0., 4.]])}
    """
    return _normalize(direction, reference, "filter", transposed or {})


def layer_normalize(direction: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Params:
    """Give every tensor of a direction the Frobenius norm of the matching tensor of a reference.

    d_i <- d_i * ||theta_i|| / ||d_i||, tensor i. A tensor of zeros stays zero.

    Raises
    ------
    StructureMismatchError
        If names or shapes differ.

    References
    ----------
    Li et al. 2018, section 4 (their "layer normalization").

    Examples
    --------
    >>> layer_normalize({"w": torch.tensor([[1., 0.], [0., 0.]])}, {"w": torch.tensor([[3., 0.], [0., 4.]])})
    {'w': tensor([[5., 0.], [0., 0.]])}
    """
    return _normalize(direction, reference, "layer", {})


def weight_normalize(direction: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Params:
    """Scale every entry of a direction by the absolute value of the matching weight.

    d <- d * |theta|, entry by entry.

    Raises
    ------
    StructureMismatchError
        If names or shapes differ.

    Examples
    --------
    >>> weight_normalize({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([-3.0, 0.0])})
    {'w': tensor([3., 0.])}
    """
    require_same(direction, reference)
    _say_what_is_lost(direction)
    return _weight_scaled(direction, reference)


_WHOLE_TENSOR = -1


def _blocks(normalize: str, name: str, transposed: Mapping[str, int]) -> int | None:
    """Return how a tensor is cut into blocks: None or a number of groups as in `to_filters`, or the whole tensor."""
    return _WHOLE_TENSOR if normalize == "layer" else transposed.get(name)


def _to_blocks(tensor: Tensor, groups: int | None) -> Tensor:
    return tensor.reshape(1, -1) if groups == _WHOLE_TENSOR else algebra.to_filters(tensor, groups)


def _from_blocks(blocks: Tensor, shape: torch.Size, groups: int | None) -> Tensor:
    return blocks.reshape(shape) if groups == _WHOLE_TENSOR else algebra.from_filters(blocks, shape, groups)


def _scale(blocks: Tensor, wanted: Tensor) -> Tensor:
    """Give every row the norm of the matching row; rows of zeros stay zero."""
    norms = torch.linalg.vector_norm(blocks, dim=1, keepdim=True)
    factors = torch.linalg.vector_norm(wanted, dim=1, keepdim=True) / torch.where(norms > 0, norms, 1.0)
    scaled: Tensor = blocks * factors
    return scaled


def _weight_scaled(direction: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Params:
    return {name: tensor * reference[name].detach().abs().to(tensor) for name, tensor in direction.items()}


def _normalize(
    direction: Mapping[str, Tensor], reference: Mapping[str, Tensor], how: str, transposed: Mapping[str, int]
) -> Params:
    require_same(direction, reference)
    _say_what_is_lost(direction)
    scaled: Params = {}
    for name, tensor in direction.items():
        groups = _blocks(how, name, transposed)
        blocks = _scale(
            _to_blocks(tensor.detach().double(), groups), _to_blocks(reference[name].detach().double(), groups)
        )
        scaled[name] = _from_blocks(blocks, tensor.shape, groups).to(tensor.dtype)
    return scaled


def _say_what_is_lost(direction: Mapping[str, Tensor]) -> None:
    """Warn if a direction leads to checkpoints with different buffers: after normalising, it no longer does."""
    names = sorted({name for pair in combinations(getattr(direction, "points", ()), 2) for name in moved(*pair)})
    if names:
        warnings.warn(
            "After normalising, the direction no longer leads to its checkpoints: a chart along it does not use their "
            f"buffers ({named(names)}), but those of its centre. To use the buffers of the checkpoints, do not "
            "normalise the direction.",
            LossnavWarning,
            stacklevel=4,
        )


def require_normalization(normalize: Any) -> None:
    """Raise OptionError for an unknown normalisation."""
    if normalize not in NORMALIZATIONS:
        raise OptionError(f"normalize={normalize!r} is unknown. Use 'filter', 'layer', 'weight' or None.")


def require_same(direction: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
    """Raise StructureMismatchError if names or shapes of a direction and a reference differ."""
    if difference := algebra.first_difference(direction, reference):
        raise StructureMismatchError(
            f"direction and reference differ at {difference}. Make both from the moving parameters of one objective: "
            "objective.params (objective.at(model).params for other weights) and ln.directions.random(objective)."
        )
