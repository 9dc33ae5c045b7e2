"""Normalisation, pooling, and operators that take entries by their index."""

from __future__ import annotations

import torch
from torch import Tensor

from lossnav.symmetry.axes import ONE, divide, product
from lossnav.symmetry.rules.registry import Labels, OperatorCall, in_range, rule

# ---------------------------------------------------------------------- normalisation


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm", "layer_norm")
def layer_norm(call: OperatorCall) -> list[Labels]:
    """Mean and variance of some axes do not depend on their order; scale and shift have the same."""
    own = call.labels("input")
    last = len(own) - len(call["normalized_shape"])
    for name in ("weight", "bias"):
        if call.get(name) is not None:
            own[last:] = [call.merge(a, b) for a, b in zip(own[last:], call.labels(name), strict=True)]
    statistics = own[:last] + [ONE] * (len(own) - last)
    return [own, *([*statistics] for _ in call.outputs[1:])]


@rule(
    *[
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "_batch_norm_with_update",
        "_batch_norm_no_update",
        "cudnn_batch_norm",
        "miopen_batch_norm",
        "batch_norm",
    ]
)
def batch_norm(call: OperatorCall) -> list[Labels]:
    """Each channel by itself, with its scale, shift and statistics."""
    own = call.labels("input")
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call.get(name) is not None:
            own[1] = call.merge(own[1], call.labels(name)[0])
    return [own, *(_channels_or_fixed(call, own, t) for t in call.outputs[1:])]


def _channels_or_fixed(call: OperatorCall, own: Labels, tensor: Tensor) -> Labels:
    return [own[1]] if tensor.shape == (own[1].size,) else [call.fixed(size) for size in tensor.shape]


@rule("native_group_norm")
def group_norm(call: OperatorCall) -> list[Labels]:
    """Channels of one group have their statistics in common: groups are permuted as wholes."""
    own, groups = call.labels("input"), call["group"]
    outside, inside = divide(own[1], own[1].size // groups, call.reason)
    own[1] = product([outside, inside])
    for name in ("weight", "bias"):
        if call.get(name) is not None:
            own[1] = call.merge(own[1], call.labels(name)[0])
    return [own, *([own[0], outside] for _ in call.outputs[1:])]


# ---------------------------------------------------------------------- places


@rule(
    *[
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "adaptive_avg_pool1d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "fractional_max_pool2d",
        "fractional_max_pool3d",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "_upsample_nearest_exact1d",
        "_upsample_nearest_exact2d",
        "_upsample_nearest_exact3d",
        "upsample_linear1d",
        "upsample_bilinear2d",
        "upsample_bicubic2d",
        "upsample_trilinear3d",
        "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa",
        "reflection_pad1d",
        "reflection_pad2d",
        "reflection_pad3d",
        "replication_pad1d",
        "replication_pad2d",
        "replication_pad3d",
        "grid_sampler_2d",
        "grid_sampler_3d",
    ]
)
def of_places(call: OperatorCall) -> list[Labels]:
    """Each channel by itself; places are told apart."""
    spatial = int(next(letter for letter in reversed(call.name) if letter.isdigit()))
    own = call.labels(next(call.tensors()))
    for tensor in call.tensors():
        for axis in call.labels(tensor)[-spatial:] if tensor.dim() == len(own) else ():
            call.fix(axis)
    if "grid" in call.name:
        for axis in call.labels("grid")[1:]:
            call.fix(axis)
    kept = own[: len(own) - spatial]
    return [kept + [call.fixed(size) for size in output.shape[-spatial:]] for output in call.outputs]


# ---------------------------------------------------------------------- by index


@rule("embedding")
def embedding(call: OperatorCall) -> Labels:
    """Rows by their number."""
    weight = call.labels("weight")
    call.fix(weight[0])
    return call.labels("indices") + weight[1:]


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(call: OperatorCall) -> list[Labels]:
    """Sums or means of rows by their number."""
    weight = call.labels("weight")
    call.fix(weight[0])
    if call.get("per_sample_weights") is not None:
        call.fix(call.labels("per_sample_weights")[0])
    first = [call.fixed(call.outputs[0].shape[0]), weight[1]]
    return [first, *([call.fixed(size) for size in other.shape] for other in call.outputs[1:])]


@rule("index_select")
def index_select(call: OperatorCall) -> Labels:
    """Entries of one axis by their number."""
    own = call.labels("self")
    i = in_range(call["dim"], len(own))
    call.fix(own[i])
    index = call.labels("index")
    return [*own[:i], index[0] if index else ONE, *own[i + 1 :]]


@rule("gather")
def gather(call: OperatorCall) -> Labels:
    """Along one axis by number, along the others at the same place."""
    own, index = call.labels("self"), call.labels("index")
    dim = in_range(call["dim"], len(own))
    for i, axis in enumerate(own):
        if i == dim or axis.size != index[i].size:
            call.fix(axis)
        else:
            index[i] = call.merge(axis, index[i])
        if axis.size != index[i].size and i != dim:
            call.fix(index[i])
    return index


@rule("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy")
def scatter(call: OperatorCall) -> Labels:
    """Into one axis by number, into the others at the same place."""
    own = call.labels("self")
    dim = in_range(call["dim"], len(own))
    call.fix(own[dim])
    others = [call.labels(t) for t in list(call.tensors())[1:] if t.dim() == len(own)]
    for other in others:
        for i in range(len(own)):
            if i == dim:
                call.fix(other[i])
            elif own[i].size == other[i].size:
                own[i] = call.merge(own[i], other[i])
            elif other[i].size != 1 or call.name.startswith("scatter"):
                call.fix(own[i])
                call.fix(other[i])
    return own


@rule("index", "_unsafe_index")
def index(call: OperatorCall) -> Labels:
    """Some axes by number or mask, the others as they were."""
    return _indexed(call)[0]


@rule("index_put", "_unsafe_index_put", "_index_put_impl")
def index_put(call: OperatorCall) -> Labels:
    """Values into such places."""
    own = call.labels("self")
    made, kept = _indexed(call)
    values = call.labels("values")
    joined = call.broadcast([made, values], [axis.size for axis in made])
    for place, i in kept.items():
        own[i] = joined[place]
    for place, axis in enumerate(joined):
        if place not in kept:
            call.fix(axis)
    return own


def _indexed(call: OperatorCall) -> tuple[Labels, dict[int, int]]:
    """Axes of what an index takes out, and which of them are which of the tensor's own."""
    own, by = call.labels("self"), []
    taken: list[int] = []
    i = 0
    for given in call["indices"]:
        if given is not None:
            mask = given.dtype in (torch.bool, torch.uint8)
            by.append(call.labels(given) if not mask else None)
            for axis in call.labels(given) if mask else ():
                call.fix(axis)
            taken += range(i, i + (given.dim() if mask else 1))
        i = taken[-1] + 1 if given is not None else i + 1
    for k in taken:
        call.fix(own[k])
    at = taken[0] if taken == list(range(taken[0], taken[-1] + 1)) else 0  # torch puts them first where they are apart
    kept = [k for k in range(len(own)) if k not in taken]
    before = [k for k in kept if k < at]
    after = kept[len(before) :]
    if None in by:
        count = next((int(t.sum()) for t in call["indices"] if t is not None and t.dtype == torch.bool), 1)
        front: Labels = [call.fixed(count)]
    else:
        sizes = [[axis.size for axis in labels] for labels in by if labels is not None]
        shape = torch.broadcast_shapes(*sizes)  # type: ignore[no-untyped-call]
        front = call.broadcast([labels for labels in by if labels is not None], shape)
    made = [own[k] for k in before] + front + [own[k] for k in after]
    first = len(before) + len(front)
    return made, dict(enumerate(before)) | {first + p: k for p, k in enumerate(after)}
