"""Operators that take each entry by itself, and those that take an axis as a whole, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lossnav.symmetry.axes import ONE, cut, fix
from lossnav.symmetry.rules.registry import Labels, OperatorCall, in_range, rule

CONSTANTS = frozenset(
    [
        "zeros_like",
        "ones_like",
        "full_like",
        "empty_like",
        "rand_like",
        "randn_like",
        "randint_like",
        "new_zeros",
        "new_ones",
        "new_full",
        "new_empty",
        "new_empty_strided",
    ]
)  # take a tensor for its shape or dtype alone


@rule("copy", "_prelu_kernel", "detach", "alias", "_to_copy", "lift_fresh", "lift", "clone", "dropout", "view_as")
def elementwise(call: OperatorCall) -> list[Labels] | Labels:
    """Entry by entry, with broadcasting; the axes of all tensors are one. So is any operator tagged "pointwise"."""
    labels = [call.labels(tensor) for tensor in call.tensors()]
    return [call.broadcast(labels, output.shape) for output in call.outputs]


@rule("equal")
def compared(call: OperatorCall) -> list[Labels]:
    """A number is read off that is the same in any common order."""
    call.broadcast([call.labels(tensor) for tensor in call.tensors()], next(call.tensors()).shape)
    return []


@rule("_softmax", "_log_softmax", "_safe_softmax")
def softmax(call: OperatorCall) -> Labels:
    """Permuting the inputs permutes the outputs."""
    return call.labels("self")


@rule(
    *[
        "sum",
        "mean",
        "amax",
        "amin",
        "prod",
        "var",
        "std",
        "var_mean",
        "std_mean",
        "any",
        "all",
        "logsumexp",
        "linalg_vector_norm",
        "norm",
        "nansum",
        "aminmax",
        "count_nonzero",
        "max",
        "min",
    ]
)
def reduction(call: OperatorCall) -> list[Labels] | Labels:
    """What is made of all entries of an axis does not depend on their order.

    With a single `dim`, max and min return places too, which do.
    """
    own = call.labels(next(call.tensors()))
    if call.name in ("max", "min"):
        if call.get("other") is not None:
            return elementwise(call)
        if call.get("dim") is not None:
            return by_place(call)
    dims = _dims(call.get("dim"), len(own))
    keep = bool(call.get("keepdim", False))
    kept = [ONE if i in dims else axis for i, axis in enumerate(own) if keep or i not in dims]
    return [list(kept) for _ in call.outputs]


@rule(*["argmax", "argmin", "median", "mode", "kthvalue", "topk", "sort", "argsort", "msort"])
def by_place(call: OperatorCall) -> list[Labels]:
    """Places along an axis are returned, or the order of the values."""
    own = call.labels(next(call.tensors()))
    dim = call.get("dim", -1 if call.name in ("topk", "sort", "argsort") else None)
    dims = _dims(dim, len(own))
    for i in dims:
        call.fix(own[i])
    made = []
    for output in call.outputs:
        kept = own if output.dim() == len(own) else [axis for i, axis in enumerate(own) if i not in dims]
        made.append(
            [axis if axis.size == size else call.fixed(size) for axis, size in zip(kept, output.shape, strict=True)]
        )
    return made


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin")
def cumulative(call: OperatorCall) -> list[Labels]:
    """The order along the axis matters; the others are as they were."""
    own = call.labels("self")
    if own:
        call.fix(own[in_range(call["dim"], len(own))])
    return [list(own) for _ in call.outputs]


@rule("flip", "roll", "tril", "triu", "_fft_r2c", "_fft_c2c", "_fft_c2r")
def of_some_axes(call: OperatorCall) -> Labels:
    """The order along some axes matters."""
    own = call.labels("self")
    if call.name in ("tril", "triu"):
        dims = {len(own) - 2, len(own) - 1}
    else:
        dims = _dims(call.get("dims", call.get("dim")), len(own))
    made = [call.fix(axis) if i in dims else axis for i, axis in enumerate(own)]
    shape = call.outputs[0].shape
    return [axis if axis.size == size else call.fixed(size) for axis, size in zip(made, shape, strict=True)]


@rule("glu")
def glu(call: OperatorCall) -> Labels:
    """The first half of an axis times the sigmoid of the second."""
    own = call.labels("self")
    i = in_range(call.get("dim", -1), len(own))
    half = own[i].size // 2
    first, second = cut(own[i], [half, half], call.reason)
    return [*own[:i], call.merge(first, second), *own[i + 1 :]]


@rule("nonzero", "masked_select", "nonzero_static", "unique_consecutive", "_unique2", "bincount", "histc")
def read_off(call: OperatorCall) -> list[Labels]:
    """Places are read off the values."""
    for tensor in call.tensors():
        for axis in call.labels(tensor):
            fix(axis, call.reason)
    return [[call.fixed(size) for size in output.shape] for output in call.outputs]


def _dims(dim: Any, ndim: int) -> set[int]:
    if dim is None or (isinstance(dim, Sequence) and not dim):
        return set(range(ndim))
    return {in_range(d, ndim) for d in (dim if isinstance(dim, Sequence) else [dim])}
