"""A graph of the few operations that one fused kernel can do, and the merging of operations into layers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lossnav.acceleration.fold_batch_norm import Norm

NodeKind = Literal[
    "input", "convolution", "linear", "affine", "relu", "add", "max_pool", "average_pool", "mean", "select", "flatten"
]


class NotReadableError(Exception):
    """The model does something that the kernel cannot do; the message says what."""


@dataclass(eq=False)
class TraceNode:
    """One operation on the results of others, for one sample.

    Attributes
    ----------
    kind : str
    inputs : list of TraceNode
    shape : tuple of int
        (channels, height, width) or (features,), without the sample axis.
    weight, bias : str or None
        Names of parameters (convolution, linear).
    norm : Norm or None
        The BatchNorm applied to the result; an "affine" node consists of it only.
    added : TraceNode or None
        The node whose result is added, after the norm.
    relu : bool
        Whether a ReLU is applied last.
    kernel, stride, padding, dilation : pair of int
    offset : int
        The first channel that a "select" writes; channels before it are zero.
    """

    kind: NodeKind
    inputs: list[TraceNode]
    shape: tuple[int, ...]
    weight: str | None = None
    bias: str | None = None
    norm: Norm | None = None
    added: TraceNode | None = None
    relu: bool = False
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    offset: int = 0

    @property
    def spatial(self) -> bool:
        """Whether the result is an image and not a vector."""
        return len(self.shape) == 3


@dataclass
class TraceGraph:
    """Operations in the order of their execution; the first is the input, the last the output.

    Attributes
    ----------
    nodes : list of TraceNode
    given : tuple of int
        Shape of one sample of the data.
    tail : callable or None
        What torch applies to the output: a softmax or its logarithm.
    flops : float
        Multiplications and additions for one sample.
    """

    nodes: list[TraceNode]
    given: tuple[int, ...]
    tail: Callable[[Tensor], Tensor] | None
    flops: float


def in_order(last: TraceNode) -> list[TraceNode]:
    """Return a node and all nodes that it depends on, each after those that it depends on."""
    done: list[TraceNode] = []
    stack = [last]
    while stack:
        node = stack[-1]
        missing = [part for part in (*node.inputs, *([node.added] if node.added else [])) if part not in done]
        if missing:
            stack.append(missing[0])
        else:
            stack.pop()
            if node not in done:
                done.append(node)
    return done


def merge(nodes: list[TraceNode]) -> list[TraceNode]:
    """Merge a node with its only user: a layer with BatchNorm, then one addition, then ReLU."""
    layers = ("convolution", "linear")
    changed = True
    while changed:
        changed = False
        users = Counter(id(part) for node in nodes for part in (*node.inputs, *([node.added] if node.added else [])))
        place = {id(node): i for i, node in enumerate(nodes)}
        for node in nodes:
            if node.kind not in ("affine", "add", "relu"):
                continue
            before = node.inputs[0]
            if node.kind == "add" and node.added is not None and place[id(node.added)] > place[id(before)]:
                before, node.added = node.added, before  # merge into the later of the two
                node.inputs = [before]
            if (
                users[id(before)] != 1
                or before.relu
                or before.kind in ("max_pool", "average_pool", "select", "flatten")
            ):
                continue
            if before.kind == "input" and (node.kind != "relu" or before.spatial):
                continue
            if node.kind == "affine" and (before.kind not in layers or before.norm or before.added):
                continue
            if node.kind == "add" and (before.kind == "relu" or before.added or before is node.added):
                continue
            before.norm, before.added = node.norm or before.norm, node.added or before.added
            before.relu = before.relu or node.relu
            if node.added is not None:  # the added result must be computed before
                nodes.remove(before)
                nodes.insert(nodes.index(node), before)
            for other in nodes:
                other.inputs = [before if part is node else part for part in other.inputs]
                other.added = before if other.added is node else other.added
            nodes.remove(node)
            changed = True
            break
    return nodes


def is_reordered(node: TraceNode | None) -> bool:
    """Whether a node is a flattened image of several pixels, which the kernel stores in another order than torch."""
    return node is not None and node.kind == "flatten" and node.inputs[0].shape[1:] != (1, 1)


def flops_of(node: TraceNode) -> float:
    """Return the multiplications and additions of a node for one sample."""
    if not node.inputs:
        return 0.0
    if node.kind == "convolution":
        return 2.0 * math.prod(node.shape) * node.inputs[0].shape[0] * math.prod(node.kernel)
    return 2.0 * node.shape[0] * node.inputs[0].shape[0] if node.kind == "linear" else 0.0
