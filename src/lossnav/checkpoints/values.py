"""Whether the values of a tensor from a file are numbers that a tensor of a model can take over."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


def has_shape(tensor: Tensor) -> bool:
    """Whether a tensor has one shape that can be asked for."""
    return not (tensor.is_nested or is_lazy(tensor))


def peculiarity(tensor: Tensor, like: Tensor | None = None) -> tuple[str, str]:
    """Say why the values of a tensor cannot be taken over by a dense one, or by another tensor; and what to do.

    Returns
    -------
    words, way_on : str
        Both empty where they can.

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
        return "has no values (it was saved on the meta device)", "Save the model when its weights are there."
    if tensor.is_quantized:
        return (
            "is quantised",
            "Save the weights before they were quantised, or tensor.dequantize() where that is meant.",
        )
    if tensor.layout != (torch.strided if like is None else like.layout):
        words = str(tensor.layout).removeprefix("torch.").removeprefix("_")
        sparse = "dense" if tensor.layout == torch.strided else f"sparse ({words})" if "sparse" in words else words
        return (
            f"is {sparse}",
            "Save it dense: tensor.to_dense()." if sparse != "dense" else "Save it as the model has it.",
        )
    if tensor.dtype.is_floating_point and str(tensor.dtype).endswith("_x2"):
        return f"is packed ({str(tensor.dtype).removeprefix('torch.')})", "Save the weights before they were packed."
    return "", ""


def resolved(tensor: Tensor) -> Tensor:
    """The same values without a note to negate or conjugate them, which no view of their bytes would follow."""
    return tensor if tensor.layout != torch.strided or tensor.is_nested else tensor.resolve_conj().resolve_neg()
