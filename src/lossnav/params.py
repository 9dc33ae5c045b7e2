"""A point of weight space is a plain ``dict[str, Tensor]``; this module holds its algebra.

Dot products and norms are accumulated in float64: in float32 the norm of ten million entries is wrong in the fourth
digit, and in float16 it overflows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

Params = dict[str, Tensor]


class Checkpoint(Params):
    """Weights together with the buffers that belong to them: a network at one point, without its code.

    A dict of parameters like any other. An evaluation at this point uses these buffers instead of those of the
    objective's centre. A new dict made from it (``{name: point[name] * 2 ...}``) does not carry the buffers.

    Attributes
    ----------
    buffers : dict of str to Tensor
        Buffers that may differ from those of the objective.

    Examples
    --------
    >>> here = Checkpoint({"w": torch.tensor([1.0])}, {"mean": torch.tensor([2.0])})
    >>> here, here.buffers
    ({'w': tensor([1.])}, {'mean': tensor([2.])})
    """

    def __init__(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        super().__init__(params)
        self.buffers: Params = dict(buffers)

    def __reduce__(self) -> tuple[type[Checkpoint], tuple[Params, Params]]:
        return Checkpoint, (dict(self), self.buffers)


_AT_ONCE = 2**22  # entries that are summed at once


def copy(params: Mapping[str, Tensor], device: torch.device | str | None = None) -> Params:
    """Copy every tensor, detached from its graph; strides (channels-last) are kept.

    Parameters
    ----------
    params : mapping of str to Tensor
    device : optional
        Device of the copies; by default that of each tensor.
    """
    return {name: tensor.detach().to(device=device, copy=True) for name, tensor in params.items()}


def detach(params: Mapping[str, Tensor], device: torch.device | str | None = None) -> Params:
    """Detach every tensor, sharing its memory; a tensor on another device is copied."""
    return {name: tensor.detach().to(device=device) for name, tensor in params.items()}


def hollow(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return zeros of a tensor's shape that take no memory (stride 0), in float32 or a wider dtype by default."""
    dtype = dtype or torch.promote_types(tensor.dtype, torch.float32)
    return torch.zeros((), dtype=dtype, device=tensor.device).expand(tensor.shape)


def first_difference(params: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> str | None:
    """Describe the first name or shape in which two points differ; None if they agree."""
    for name, tensor in reference.items():
        if name not in params:
            return f'"{name}" {tuple(tensor.shape)} is missing'
        if params[name].shape != tensor.shape:
            return f'"{name}": {tuple(params[name].shape)} vs {tuple(tensor.shape)}'
    for name in params:
        if name not in reference:
            return f'"{name}" {tuple(params[name].shape)} is not in the reference'
    return None


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal in every bit; NaN equals NaN."""
    if a is b:
        return True
    if (a.shape, a.dtype, a.layout) != (b.shape, b.dtype, b.layout):
        return False
    if a.layout == torch.strided and a.device == b.device and torch.equal(a, b):
        return True
    plain = a.layout == torch.strided and not (a.is_floating_point() or a.is_complex())
    return not plain and fingerprint({"": a}) == fingerprint({"": b})


def tensor_dot(a: Tensor, b: Tensor) -> float:
    """Inner product of two tensors of one shape, accumulated in float64."""
    a, b = a.detach(), b.detach()
    if a.numel() > _AT_ONCE:  # in halves: a float64 copy of a large weight may need more memory than all other tensors
        half = len(a) // 2
        if not half:
            return tensor_dot(a[0], b[0])
        return tensor_dot(a[:half], b[:half]) + tensor_dot(a[half:], b[half:])
    return float(torch.sum(a.double() * b.double()))


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Inner product of two points, summed over all tensors in float64.

    >>> dot({"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 4.0])})
    11.0
    """
    return sum(tensor_dot(tensor, b[name]) for name, tensor in a.items())


def norm(a: Mapping[str, Tensor]) -> float:
    """Euclidean norm over all tensors, accumulated in float64.

    >>> norm({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])})
    5.0
    """
    return math.sqrt(dot(a, a))


def norms(a: Mapping[str, Tensor]) -> dict[str, float]:
    """Frobenius norm of each tensor, accumulated in float64."""
    return {name: math.sqrt(tensor_dot(tensor, tensor)) for name, tensor in a.items()}


def cosine(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Cosine of the angle between two points, as vectors from the origin; nan if one of them is zero."""
    length = norm(a) * norm(b)
    return dot(a, b) / length if length else float("nan")


def subtract(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Params:
    """Return a - b, tensor by tensor."""
    return {name: tensor.detach() - b[name].detach() for name, tensor in a.items()}


def combine(
    center: Mapping[str, Tensor], coefficients: Sequence[float], directions: Sequence[Mapping[str, Tensor]]
) -> Params:
    """Return center + sum of coefficient * direction, in the dtype of the centre.

    If every coefficient is zero, the result *is* the centre, bit for bit.

    >>> combine({"w": torch.tensor([1.0])}, [2.0], [{"w": torch.tensor([3.0])}])
    {'w': tensor([7.])}
    """
    moved: Params = {}
    for name, tensor in center.items():
        total = tensor
        for coefficient, direction in zip(coefficients, directions, strict=True):
            if coefficient:
                step = direction[name]
                # in the memory layout of the centre: a weight that loses channels-last makes the next layer 3x slower
                out = torch.empty_like(tensor, dtype=torch.promote_types(total.dtype, step.dtype))
                total = torch.add(total, step, alpha=coefficient, out=out)
        moved[name] = total.to(tensor.dtype)  # half-precision models are moved in float32 and rounded once
    return moved


def select(names: Iterable[str], patterns: str | Iterable[str]) -> list[str]:
    """Return the names that match one of the glob patterns, in their order.

    >>> select(["conv.weight", "conv.bias", "fc.weight"], "*.weight")
    ['conv.weight', 'fc.weight']
    """
    wanted = listed(patterns)
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in wanted)]


def listed(words: str | Iterable[str]) -> list[str]:
    """Return one string or several as a list.

    >>> listed("bias"), listed(("bias", "norm"))
    (['bias'], ['bias', 'norm'])
    """
    return [words] if isinstance(words, str) else list(words)


def to_filters(tensor: Tensor, transposed_groups: int | None = None) -> Tensor:
    """View a weight as a matrix with one filter per row.

    A filter is the part of a weight that feeds one output: ``weight[j]`` of a convolution, row j of a linear layer (Li
    et al. 2018, section 4), row j of an embedding. A vector or a scalar is one filter. Transposed convolutions (and the
    ``Conv1D`` of GPT-2) store their outputs along the second axis, once per group.

    Parameters
    ----------
    tensor : Tensor of any shape
    transposed_groups : int or None
        The number of groups of a transposed weight; None for all others.

    Returns
    -------
    Tensor of shape (filters, entries of a filter)
    """
    if tensor.dim() < 2:
        return tensor.reshape(1, -1)
    if transposed_groups is None:
        return tensor.reshape(tensor.shape[0], -1)
    inputs, outputs = tensor.shape[:2]
    grouped = tensor.reshape(transposed_groups, inputs // transposed_groups, outputs, -1)
    return grouped.transpose(1, 2).reshape(transposed_groups * outputs, -1)


def from_filters(matrix: Tensor, shape: torch.Size, transposed_groups: int | None = None) -> Tensor:
    """Undo `to_filters`: convert a matrix of filters back to the shape of its weight."""
    if len(shape) < 2 or transposed_groups is None:
        return matrix.reshape(shape)
    inputs, outputs = shape[:2]
    grouped = matrix.reshape(transposed_groups, outputs, inputs // transposed_groups, -1)
    return grouped.transpose(1, 2).reshape(shape)


def update_hash(digest: hashlib._Hash, params: Mapping[str, Tensor]) -> None:
    """Feed the names, shapes, dtypes and exact bytes of all tensors into a hash."""
    for name, tensor in params.items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype};".encode())
        dense = tensor.detach().cpu() if tensor.layout == torch.strided else tensor.detach().cpu().to_dense()
        flat = dense.contiguous().reshape(-1)
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)


def fingerprint(params: Mapping[str, Tensor]) -> str:
    """Sixteen hex digits that change when any bit of any tensor changes."""
    digest = hashlib.sha256()
    update_hash(digest, params)
    return digest.hexdigest()[:16]
