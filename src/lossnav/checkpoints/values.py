"""Checks whether a tensor of a model can take over the values of a tensor from a file."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


def has_shape(tensor: Tensor) -> bool:
    """Return whether a tensor has a shape."""
    return not (tensor.is_nested or is_lazy(tensor))


def peculiarity(tensor: Tensor, like: Tensor | None = None) -> tuple[str, str]:
    """Return why a dense tensor, or another tensor, cannot take over the values of a tensor, and what to do.

    Returns
    -------
    words, way_on : str
        Both empty if it can.

    Examples
    --------
    >>> peculiarity(torch.ones(2)), peculiarity(torch.ones(2).to_sparse())[0]
    (('', ''), 'is sparse (sparse_coo)')
    """
    if is_lazy(tensor):
        return "has no values yet (its layer is lazy)", "Save the model after its first pass."
    if tensor.is_nested:
        return "is a nested tensor", "Save it as a dense one: tensor.to_padded_tensor(0.0)."
    if tensor.device.type == "meta":
        return "has no values (it was saved on the meta device)", "Save the model after its weights are loaded."
    if tensor.is_quantized:
        return (
            "is quantised",
            "Save the weights before quantisation, or tensor.dequantize() if you want that.",
        )
    if tensor.layout != (torch.strided if like is None else like.layout):
        words = str(tensor.layout).removeprefix("torch.").removeprefix("_")
        sparse = "dense" if tensor.layout == torch.strided else f"sparse ({words})" if "sparse" in words else words
        return (
            f"is {sparse}",
            "Save it dense: tensor.to_dense()." if sparse != "dense" else "Save it in the layout of the model.",
        )
    if tensor.dtype.is_floating_point and str(tensor.dtype).endswith("_x2"):
        return f"is packed ({str(tensor.dtype).removeprefix('torch.')})", "Save the weights before they were packed."
    return "", ""


def resolved(tensor: Tensor) -> Tensor:
    """Return the values with lazy negation and conjugation resolved, which a view of their bytes would ignore."""
    return tensor if tensor.layout != torch.strided or tensor.is_nested else tensor.resolve_conj().resolve_neg()
