"""Reading a model as a `TraceGraph`.

The model is run once on three samples while torch records the operations underneath (`make_fx`), so the way in which
its forward is written does not matter. If a model does anything else, `NotReadableError` names the operation.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from lossnav.acceleration.fold_batch_norm import Norm
from lossnav.acceleration.trace_graph import (
    NotReadableError,
    TraceGraph,
    TraceNode,
    flops_of,
    in_order,
    is_reordered,
    merge,
)
from lossnav.params import Params

ATEN = torch.ops.aten
TRACED_SAMPLES = 3


def read(call: Callable[[Params, Tensor], Tensor], state: Params, sample: Tensor) -> TraceGraph:
    """Read a function of weights and data as a graph of known operations.

    Parameters
    ----------
    call : callable
        ``call(state, x)``, x of shape (3, ...).
    state : dict of str to Tensor
        Parameters and buffers.
    sample : Tensor of shape (3, ...), float32

    Raises
    ------
    NotReadableError
        If it does anything that the kernel cannot do; the message names the operation.
    """
    if any(t.dtype != torch.float32 for t in (sample, *state.values()) if t.is_floating_point()):
        raise NotReadableError("not all of its tensors are float32")
    if sample.shape[0] != TRACED_SAMPLES or sample.device.type != "cpu":
        raise NotReadableError("not a batch of samples on the CPU")
    try:
        with torch.no_grad():
            traced = make_fx(functionalize(_to_one_tensor(call), remove="mutations"))(state, sample)
    except Exception as error:  # usually because the model needs the value of a tensor during tracing
        raise NotReadableError(f"it cannot be traced: {str(error).splitlines()[0][:80]}") from None
    traced.graph.eliminate_dead_code()
    return _TraceReader(traced.graph, list(state), tuple(sample.shape[1:])).graph()


def _to_one_tensor(call: Callable[[Params, Tensor], Tensor]) -> Callable[[Params, Tensor], Tensor]:
    def checked(state: Params, sample: Tensor) -> Tensor:
        made = call(state, sample)
        if not isinstance(made, Tensor):
            raise TypeError(f"its output is a {type(made).__name__} and not one tensor")
        return made

    return checked


class _TraceReader:
    def __init__(self, graph: fx.Graph, names: Sequence[str], shape: tuple[int, ...]) -> None:
        self.fx, self.shape = graph, shape
        holders = [node for node in graph.nodes if node.op == "placeholder"]
        self.names = dict(zip(holders, names, strict=False))
        self.made: dict[fx.Node, TraceNode] = {holders[-1]: TraceNode("input", [], shape)}

    def graph(self) -> TraceGraph:
        tail = None
        for node in self.fx.nodes:
            if node.op == "placeholder":
                continue
            if node.op == "output":
                out = node.args[0]
                out = out[0] if isinstance(out, list | tuple) and len(out) == 1 else out  # tracing may wrap one tensor
                if not isinstance(out, fx.Node) or out not in self.made:
                    raise NotReadableError("its output is not one tensor")
                return self._finish(self.made[out], tail)
            if tail is not None:
                raise NotReadableError(f"{node.target} after a softmax")
            if node.target in (ATEN._softmax.default, ATEN._log_softmax.default):
                tail = _tail(node)
                self.made[node] = self._of(node, 0)
            elif node.op == "call_function":
                self._take(node)
            else:
                raise NotReadableError(f"a constant, {node.target}")
        raise NotReadableError("it has no output")

    # ------------------------------------------------------------------ operation by operation

    def _take(self, node: fx.Node) -> None:
        known = _KNOWN.get(node.target)
        if known is not None:
            self.made[node] = known(self, node, *node.args)
            kinds = _shape_of(node)
            if kinds is not None and kinds != (TRACED_SAMPLES, *self.made[node].shape):
                raise NotReadableError(f"{node.target} to the shape {kinds}")
        elif node.target is operator.getitem and node.args[0] in self.made and node.args[1] == 0:
            self.made[node] = self.made[node.args[0]]  # type: ignore[index]
        elif node.target is operator.getitem and node.args[0] in self.made and not node.users:
            pass
        elif node.target is ATEN.t.default and node.args[0] in self.names:
            name = self.names[node.args[0]]
            self.names[node] = name.removesuffix("|t") if name.endswith("|t") else f"{name}|t"
        elif node.target is ATEN.empty.memory_format and not node.users:
            pass
        else:
            raise NotReadableError(str(node.target))

    def _of(self, node: fx.Node, i: int) -> TraceNode:
        given: Any = node.args[i]
        if given not in self.made:
            raise NotReadableError(f"{node.target} of something that does not depend on the data")
        return self.made[given]

    def _name(self, given: Any, transposed: bool = False) -> str | None:
        if given is None:
            return None
        name = self.names.get(given)
        if name is None or name.endswith("|t") != transposed:
            raise NotReadableError("a weight that is computed from others")
        return str(name).removesuffix("|t")

    def _convolution(
        self, node: fx.Node, x: Any, w: Any, b: Any, stride: Any, pad: Any, dil: Any, turned: bool, _: Any, groups: int
    ) -> TraceNode:
        before, shape = self._of(node, 0), _shape_of(node)
        if turned or groups != 1 or len(before.shape) != 3 or shape is None:
            raise NotReadableError("a grouped, transposed or not two-dimensional convolution")
        kernel = tuple(w.meta["tensor_meta"].shape[2:])
        return TraceNode(
            "convolution",
            [before],
            shape[1:],
            weight=self._name(w),
            bias=self._name(b),
            kernel=kernel,
            stride=_pair(stride),
            padding=_pair(pad),
            dilation=_pair(dil),
        )

    def _batch_norm(self, node: fx.Node, x: Any, w: Any, b: Any, mean: Any, var: Any, *rest: Any) -> TraceNode:
        training = node.target is ATEN.native_batch_norm.default and rest[0]
        before = self._of(node, 0)
        if training or mean is None:
            raise NotReadableError("BatchNorm with the batch's own statistics")
        names = [self._name(part) for part in (w, b, mean, var)]
        norm = Norm(names[0], names[1], str(names[2]), str(names[3]), float(rest[-1]))
        return TraceNode("affine", [before], before.shape, norm=norm)

    def _relu(self, node: fx.Node, x: Any) -> TraceNode:
        before = self._of(node, 0)
        return TraceNode("relu", [before], before.shape, relu=True)

    def _add(self, node: fx.Node, x: Any, y: Any) -> TraceNode:
        if node.kwargs:
            raise NotReadableError("a scaled addition")
        first, second = self._of(node, 0), self._of(node, 1)
        if first.shape != second.shape:
            raise NotReadableError("an addition of two shapes")
        return TraceNode("add", [first], first.shape, added=second)

    def _max_pool(self, node: fx.Node, x: Any, kernel: Any, stride: Any = (), pad: Any = 0, *rest: Any) -> TraceNode:
        before = self._of(node, 0)
        dilation, ceil = rest[0] if rest else 1, len(rest) > 1 and rest[1]
        if len(before.shape) != 3 or _pair(dilation) != (1, 1) or ceil:
            raise NotReadableError("max-pooling that is dilated or not two-dimensional")
        k, s, p = _pair(kernel), _pair(stride or kernel), _pair(pad)
        shape = (before.shape[0], *(_pooled(before.shape[i + 1], k[i], s[i], p[i]) for i in (0, 1)))
        return TraceNode("max_pool", [before], shape, kernel=k, stride=s, padding=p)

    def _average_pool(
        self, node: fx.Node, x: Any, kernel: Any, stride: Any = (), pad: Any = 0, ceil: bool = False, *rest: Any
    ) -> TraceNode:
        before = self._of(node, 0)
        if len(before.shape) != 3 or any(_pair(pad)) or ceil or any(part is not None for part in rest[1:]):
            raise NotReadableError("average pooling with padding")
        k, s = _pair(kernel), _pair(stride or kernel)
        shape = (before.shape[0], *(_pooled(before.shape[i + 1], k[i], s[i], 0) for i in (0, 1)))
        return TraceNode("average_pool", [before], shape, kernel=k, stride=s)

    def _adaptive_pool(self, node: fx.Node, x: Any, size: Any) -> TraceNode:
        before, (height, width) = self._of(node, 0), _pair(size)
        if len(before.shape) != 3 or before.shape[1] % height or before.shape[2] % width:
            raise NotReadableError("adaptive pooling into uneven parts")
        kernel = (before.shape[1] // height, before.shape[2] // width)
        return TraceNode("average_pool", [before], (before.shape[0], height, width), kernel=kernel, stride=kernel)

    def _mean(self, node: fx.Node, x: Any, dims: Any, keep: bool = False, **_: Any) -> TraceNode:
        before = self._of(node, 0)
        if len(before.shape) != 3 or {d % 4 for d in dims} != {2, 3} or node.kwargs:
            raise NotReadableError("a mean over other axes than height and width")
        kernel = before.shape[1:]
        pooled = TraceNode("average_pool", [before], (before.shape[0], 1, 1), kernel=kernel, stride=kernel)
        return pooled if keep else TraceNode("flatten", [pooled], before.shape[:1])

    def _view(self, node: fx.Node, x: Any, _: Any) -> TraceNode:
        before, shape = self._of(node, 0), _shape_of(node)
        if shape is None or shape[0] != TRACED_SAMPLES:
            raise NotReadableError("a view that mixes samples")
        if shape[1:] == before.shape:
            return before
        if before.kind == "input":
            names = [name for name, made in self.made.items() if made is before]
            if any(user is not node and self.made.get(user) is not before for name in names for user in name.users):
                raise NotReadableError("data that is used in two shapes")
            before.shape = shape[1:]  # the data is read in the order it lies in
            return before
        if len(before.shape) == 3 and shape[1:] == (math.prod(before.shape),):
            return TraceNode("flatten", [before], shape[1:])
        raise NotReadableError(f"a view from {before.shape} to {shape[1:]}")

    def _linear(self, node: fx.Node, x: TraceNode, w: Any, b: Any) -> TraceNode:
        shape = _shape_of(node)
        if x.spatial or shape is None or len(shape) != 2:
            raise NotReadableError("a linear layer on images")
        if b is not None and _shape_of(b) != shape[1:]:
            raise NotReadableError("a bias that is spread over outputs")
        return TraceNode("linear", [x], shape[1:], weight=self._name(w, transposed=True), bias=self._name(b))

    def _addmm(self, node: fx.Node, b: Any, x: Any, w: Any) -> TraceNode:
        if node.kwargs:
            raise NotReadableError("a scaled product")
        return self._linear(node, self._of(node, 1), w, b)

    def _mm(self, node: fx.Node, x: Any, w: Any) -> TraceNode:
        return self._linear(node, self._of(node, 0), w, None)

    def _slice(
        self, node: fx.Node, x: Any, dim: int = 0, start: Any = None, stop: Any = None, step: int = 1
    ) -> TraceNode:
        before, shape = self._of(node, 0), _shape_of(node)
        if shape is None or len(before.shape) != 3 or start not in (None, 0):
            raise NotReadableError("a part of an image")
        if dim % 4 == 0 and shape[0] == TRACED_SAMPLES and step == 1:
            return before
        if dim % 4 not in (2, 3) or shape[dim % 4] != math.ceil(before.shape[dim % 4 - 1] / step):
            raise NotReadableError("a part of an image")
        stride = (step, 1) if dim % 4 == 2 else (1, step)
        if before.kind == "select" and before.shape[0] == before.inputs[0].shape[0]:  # both axes in one go
            stride, before = (before.stride[0] * stride[0], before.stride[1] * stride[1]), before.inputs[0]
        return TraceNode("select", [before], shape[1:], stride=stride)

    def _pad(self, node: fx.Node, x: Any, pad: Any, value: float = 0.0) -> TraceNode:
        before, shape = self._of(node, 0), _shape_of(node)
        if (
            shape is None
            or len(before.shape) != 3
            or value
            or len(pad) not in (2, 4, 6)
            or any(pad[:4])
            or min(pad) < 0
        ):
            raise NotReadableError("padding of height or width")
        stride = (1, 1)
        if before.kind == "select" and before.shape[0] == before.inputs[0].shape[0]:
            stride, before = before.stride, before.inputs[0]
        return TraceNode("select", [before], shape[1:], stride=stride, offset=pad[4] if len(pad) == 6 else 0)

    def _same(self, node: fx.Node, x: Any, *_: Any) -> TraceNode:
        return self._of(node, 0)

    # ------------------------------------------------------------------ all of it

    def _finish(self, last: TraceNode, tail: Callable[[Tensor], Tensor] | None) -> TraceGraph:
        """Return the nodes that the output depends on, in order, with norm, addition and ReLU merged into layers."""
        nodes = merge(in_order(last))
        if nodes[-1].spatial:
            raise NotReadableError("an output that is not a vector")
        for (
            node
        ) in nodes:  # a flattened image is stored in another order, which only a linear layer's weights can match
            parts = [node.added] if node.kind == "linear" else [*node.inputs, node.added]
            if any(is_reordered(part) for part in parts) or is_reordered(nodes[-1]):
                raise NotReadableError("a flattened image that is not given to a linear layer")
        if nodes[0].kind != "input" or len(nodes) < 2:
            raise NotReadableError("an output that does not depend on the data")
        if len(nodes[0].shape) not in (1, 3):
            raise NotReadableError(f"data of shape {nodes[0].shape}")
        return TraceGraph(nodes, self.shape, tail, sum(flops_of(node) for node in nodes))


_KNOWN: dict[Any, Any] = {
    ATEN.convolution.default: _TraceReader._convolution,
    ATEN.native_batch_norm.default: _TraceReader._batch_norm,
    ATEN._native_batch_norm_legit_no_training.default: _TraceReader._batch_norm,
    ATEN.relu.default: _TraceReader._relu,
    ATEN.add.Tensor: _TraceReader._add,
    ATEN.max_pool2d_with_indices.default: _TraceReader._max_pool,
    ATEN.avg_pool2d.default: _TraceReader._average_pool,
    ATEN._adaptive_avg_pool2d.default: _TraceReader._adaptive_pool,
    ATEN.mean.dim: _TraceReader._mean,
    ATEN.view.default: _TraceReader._view,
    ATEN._unsafe_view.default: _TraceReader._view,
    ATEN.squeeze.dims: _TraceReader._view,
    ATEN.addmm.default: _TraceReader._addmm,
    ATEN.mm.default: _TraceReader._mm,
    ATEN.slice.Tensor: _TraceReader._slice,
    ATEN.constant_pad_nd.default: _TraceReader._pad,
    ATEN.clone.default: _TraceReader._same,
    ATEN.detach.default: _TraceReader._same,
    ATEN.alias.default: _TraceReader._same,
}


def _tail(node: fx.Node) -> Callable[[Tensor], Tensor]:
    function = torch.softmax if node.target is ATEN._softmax.default else torch.log_softmax
    if node.args[1] not in (1, -1) or node.args[2]:
        raise NotReadableError("a softmax over samples")
    return lambda output: function(output, 1)


def _shape_of(node: fx.Node) -> tuple[int, ...] | None:
    meta: Any = node.meta.get("tensor_meta")
    if isinstance(meta, tuple | list) and not hasattr(meta, "shape"):  # of several results the first is read
        meta = meta[0]
    return tuple(meta.shape) if hasattr(meta, "shape") else None


def _pair(value: Any) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (int(values[0]), int(values[-1]))


def _pooled(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1
