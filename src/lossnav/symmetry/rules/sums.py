"""Operators that sum products over an axis: matrix products, convolutions, attention."""

from __future__ import annotations

import math

from lossnav.symmetry.axes import ONE, AxisTree, divide, mark_sum, product
from lossnav.symmetry.rules.registry import Labels, OperatorCall, in_range, rule


def contract(call: OperatorCall, spec: str, a: Labels, b: Labels) -> Labels:
    """Join axes as in Einstein's sum, ``"ij,jk->ik"``."""
    inputs, output = spec.split("->")
    axes: dict[str, AxisTree] = {}
    for letters, labels in zip(inputs.split(","), (a, b), strict=True):
        for letter, axis in zip(letters, labels, strict=True):
            if letter in axes:
                if letter not in output:
                    mark_sum(axis, axes[letter])
                    mark_sum(axes[letter], axis)
                axis = call.merge(axes[letter], axis)
            axes[letter] = axis
    return [axes[letter] for letter in output]


@rule("mm", "bmm", "mv", "dot", "vdot", "linear", "matmul")
def matrix_product(call: OperatorCall) -> Labels:
    """A matrix product; `linear` with a bias."""
    a, b = (call.labels(tensor) for tensor in list(call.tensors())[:2])
    if call.name == "linear":
        made = contract(call, "i,oi->o", a[-1:], b)
        bias = call.get("bias")
        return a[:-1] + (made if bias is None else call.broadcast([made, call.labels(bias)], [made[0].size]))
    spec = {"mm": "ij,jk->ik", "bmm": "bij,bjk->bik", "mv": "ij,j->i", "dot": "i,i->", "vdot": "i,i->"}
    return contract(call, spec[call.name], a, b)


@rule("addmm", "baddbmm", "addmv", "_addmm_activation")
def added_product(call: OperatorCall) -> Labels:
    """A matrix product, and something added to it."""
    added, a, b = (call.labels(tensor) for tensor in list(call.tensors())[:3])
    spec = {"baddbmm": "bij,bjk->bik", "addmv": "ij,j->i"}.get(call.name, "ij,jk->ik")
    return call.broadcast([contract(call, spec, a, b), added], call.outputs[0].shape)


@rule("_cdist_forward")
def distances(call: OperatorCall) -> Labels:
    """Distances between rows: sums over an axis in any order."""
    a, b = call.labels("x1"), call.labels("x2")
    mark_sum(a[-1], b[-1])
    mark_sum(b[-1], a[-1])
    call.merge(a[-1], b[-1])
    batch = call.broadcast([a[:-2], b[:-2]], call.outputs[0].shape[:-2])
    return [*batch, a[-2], b[-2]]


@rule("_grouped_mm")
def grouped_product(call: OperatorCall) -> Labels:
    """Rows in groups, each group with a matrix of its own."""
    a, b = call.labels("self"), call.labels("mat2")
    call.fix(b[0])
    call.fix(a[0])
    return contract(call, "ij,jk->ik", a, b[1:])


@rule("_trilinear")
def trilinear(call: OperatorCall) -> Labels:
    """Products of three tensors, summed over some axes (`nn.Bilinear`)."""
    labels = []
    for i in (1, 2, 3):
        own = call.labels(f"i{i}")
        for dim in sorted(call[f"expand{i}"]):
            own.insert(dim, ONE)
        labels.append(own)
    sums = set(call["sumdim"])
    for dim in sums:
        for a in labels:
            for b in labels:
                if a is not b and a[dim].size == b[dim].size:
                    mark_sum(a[dim], b[dim])
    joined = call.broadcast(labels, [max(own[k].size for own in labels) for k in range(len(labels[0]))])
    return [axis for k, axis in enumerate(joined) if k not in sums]


@rule("convolution", "_convolution")
def convolution(call: OperatorCall) -> Labels:
    """A convolution of any kind: channels of a group are summed up, places are told apart unless the kernel is 1."""
    x, w, groups = call.labels("input"), call.labels("weight"), call["groups"]
    shape = call.outputs[0].shape
    outside, inside = divide(x[1], x[1].size // groups, call.reason)
    if call["transposed"]:  # weight of shape (in, out / groups, ...)
        groups_in, weight_in = divide(w[0], w[0].size // groups, call.reason)
        outputs, group = w[1], groups_in
    else:
        group, outputs = divide(w[0], w[0].size // groups, call.reason)
        weight_in = w[1]
    mark_sum(weight_in, inside)
    mark_sum(inside, weight_in)
    if weight_in.size == 1:  # depthwise: the groups are what is passed on
        mark_sum(group, outside)
    call.merge(inside, weight_in)
    made = product([call.merge(outside, group), outputs])
    if call.get("bias") is not None:
        made = call.merge(made, call.labels("bias")[0])
    for axis in w[2:]:
        call.fix(axis)
    pointwise = all(axis.size == 1 for axis in w[2:]) and shape[2:] == call["input"].shape[2:]
    places = [axis if pointwise else call.fixed(size) for axis, size in zip(x[2:], shape[2:], strict=True)]
    if not pointwise:
        for axis in x[2:]:
            call.fix(axis)
    return [x[0], made, *places]


@rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
def attention(call: OperatorCall) -> list[Labels]:
    """softmax(q kᵀ) v of each head; key and value may have fewer heads than the query."""
    q, k, v = (call.labels(name) for name in ("query", "key", "value"))
    heads, own = divide(q[1], q[1].size // k[1].size, call.reason)
    heads = call.merge(call.merge(heads, k[1]), v[1])
    batch = call.merge(call.merge(q[0], k[0]), v[0])
    keys = call.merge(k[2], v[2])
    for a, b in ((q[3], k[3]), (k[3], q[3])):
        mark_sum(a, b)
    call.merge(q[3], k[3])
    if call.get("is_causal", False):
        call.fix(q[2])
        call.fix(keys)
    mask = call.get("attn_mask", call.get("attn_bias"))
    scores: Labels = [batch, product([heads, own]), q[2], keys]
    if mask is not None:
        scores = call.broadcast([scores, call.labels(mask)], [axis.size for axis in scores])
    made = [[scores[0], scores[1], scores[2], v[3]]]
    return made + [[call.fixed(size) for size in other.shape] for other in call.outputs[1:]]


@rule("_weight_norm_interface")
def weight_norm(call: OperatorCall) -> list[Labels]:
    """A direction for each entry of an axis, and its length."""
    v, g = call.labels("v"), call.labels("g")
    i = in_range(call.get("dim", 0), len(v))
    length = next((axis for axis in g if axis.size == v[i].size), ONE)
    v[i] = call.merge(v[i], length) if length.size == v[i].size else call.fix(v[i])
    norms = call.outputs[1]
    return [v, [v[i] if size == v[i].size and math.prod(norms.shape) == size else ONE for size in norms.shape]]
