"""Faster second derivatives of convolutions and frozen BatchNorm, which dominate the cost of a product on a CPU.

Both are bilinear, y = B(x, w) + b. Their backward pass (g, x, w) -> (B_x^T(g, w), B_w^T(g, x)) is linear in each of its
three arguments. So its own derivative along (dx, dw) needs only operations that exist already: B(dx, w) + B(x, dw) by
g, and by x and w the backward pass at (g, dx, dw). torch computes the same sums more slowly: for a convolution's
weights by a convolution with a kernel as large as the image, for BatchNorm in ten passes over memory; and it leaves
images in a layout that its convolutions must copy (design/0014 has the measurements).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

Wanted = Sequence[bool]  # which of the derivatives by x, w and b are needed
aten = torch.ops.aten

_MOST_COPIES = 0.25  # copies per call: if each gradient needs a copy, a layout costs more than it saves


class Operation(Protocol):
    """An operation B(x, w) + b, and its derivatives by all three along g."""

    def __call__(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        """Return the operation's value."""

    def backward(self, g: Tensor, x: Tensor, w: Tensor, wanted: Wanted) -> Sequence[Tensor | None]:
        """Return B_x^T(g, w), B_w^T(g, x) and g summed over all but the channels; None for those not wanted."""


class ImageLayout:
    """The memory layout of images.

    Parameters
    ----------
    last : bool
        Channels last, which oneDNN's convolutions accept without a copy; else torch's default.

    Attributes
    ----------
    copies : int
        Number of gradients that came in another layout, because operations other than convolutions may change it.
    """

    def __init__(self, last: bool) -> None:
        self.last, self.copies = last, 0

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the tensor in this layout."""
        last = self.last and tensor.dim() == 4 and tensor.dtype != torch.float64  # oneDNN has no float64 convolution
        return tensor.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)

    def of_gradient(self, tensor: Tensor) -> Tensor:
        """Return a gradient in this layout, and count it if it had to be copied."""
        laid = self(tensor)
        self.copies += laid is not tensor
        return laid


@dataclass(frozen=True)
class Convolution:
    """A convolution of any number of dimensions."""

    layout: ImageLayout
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    def __call__(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        """Return the operation's value."""
        made: Tensor = aten.convolution(self.layout(x), self.layout(w), b, *self._sizes)
        return made

    def backward(self, g: Tensor, x: Tensor, w: Tensor, wanted: Wanted) -> Sequence[Tensor | None]:
        """Return the derivatives that are wanted."""
        made: Sequence[Tensor | None] = aten.convolution_backward(
            self.layout.of_gradient(g), self.layout(x), self.layout(w), [w.shape[0]], *self._sizes, list(wanted)
        )
        return made

    @property
    def _sizes(self) -> tuple[Any, ...]:
        """Arguments of torch's kernels: not transposed, without output padding."""
        return self.stride, self.padding, self.dilation, False, [0] * len(self.stride), self.groups


class Scaling:
    """x times w plus b, one number per channel, by BatchNorm's kernels with mean 0 and variance 1, in one pass."""

    def __call__(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        """Return the operation's value."""
        made: Tensor = aten.native_batch_norm(x, w, b, torch.zeros_like(w), torch.ones_like(w), False, 0.0, 0.0)[0]
        return made

    def backward(self, g: Tensor, x: Tensor, w: Tensor, wanted: Wanted) -> Sequence[Tensor | None]:
        """Return the derivatives that are wanted."""
        made: Sequence[Tensor | None] = aten.native_batch_norm_backward(
            g, x, w, torch.zeros_like(w), torch.ones_like(w), None, None, False, 0.0, list(wanted)
        )
        return made


class _Bilinear(torch.autograd.Function):
    """An operation for autograd; its value may be computed in another way."""

    @staticmethod
    def forward(
        ctx: Any, operation: Operation, x: Tensor, w: Tensor, b: Tensor | None, value: Callable[[], Tensor] | None
    ) -> Tensor:
        ctx.operation, ctx.wanted = operation, ctx.needs_input_grad[1:4]
        ctx.save_for_backward(x, w, b)
        ctx.set_materialize_grads(False)
        return operation(x, w, b) if value is None else value()

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return (None,) * 5
        x, w, _ = ctx.saved_tensors
        return None, *_backward(ctx.operation, ctx.wanted, g, x, w), None


class _Backward(torch.autograd.Function):
    """Its backward pass, with a derivative of its own."""

    @staticmethod
    def forward(ctx: Any, operation: Operation, wanted: Wanted, g: Tensor, x: Tensor, w: Tensor) -> Any:
        ctx.operation, ctx.needs = operation, ctx.needs_input_grad[2:]
        ctx.save_for_backward(g, x, w)
        ctx.set_materialize_grads(False)
        return tuple(operation.backward(g, x, w, wanted))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor | None, dw: Tensor | None, db: Tensor | None) -> Any:
        operation, (g, x, w), (by_g, by_x, by_w) = ctx.operation, ctx.saved_tensors, ctx.needs
        made = None
        if by_g:
            along = [pair for pair in ((dx, w), (x, dw)) if pair[0] is not None and pair[1] is not None]
            if along:
                made = operation(*along[0], db)
                made = made if len(along) == 1 else made.add_(operation(*along[1]))
            elif db is not None:
                made = db.reshape(1, -1, *[1] * (g.dim() - 2)).expand_as(g)
        wanted = [by_x and dw is not None, by_w and dx is not None, False]
        twice: Sequence[Tensor | None] = (None, None)
        if any(wanted):
            twice = operation.backward(g, x if dx is None else dx, w if dw is None else dw, wanted)
        return None, None, made, twice[0], twice[1]


_bilinear: Any = _Bilinear.apply
_backward: Any = _Backward.apply


class Cheaper(TorchFunctionMode):
    """Within this mode, convolutions and frozen BatchNorm are differentiated as bilinear operations.

    Parameters
    ----------
    last : bool
        As for `ImageLayout`.

    Attributes
    ----------
    layout : ImageLayout
    count : int
        Number of calls.
    """

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.layout, self.count = ImageLayout(last), 0

    @property
    def is_laid_well(self) -> bool:
        """Whether few gradients had to be copied into the layout."""
        return not self.layout.last or self.layout.copies <= _MOST_COPIES * self.count

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _CONVOLUTIONS:
            given = _DEFAULTS | dict(zip(_CONVOLUTION, args, strict=False)) | kwargs
            if _plain(given["input"], given["weight"], given["bias"]) and not isinstance(given["padding"], str):
                return self._convolution(_CONVOLUTIONS[function], **given)
        elif function is F.batch_norm:
            given = _BATCH_NORM_DEFAULTS | dict(zip(_BATCH_NORM, args, strict=False)) | kwargs
            tensors = [given[name] for name in _BATCH_NORM[:5]]
            if not given["training"] and given["running_mean"] is not None and _plain(*tensors):
                return self._batch_norm(given["eps"], *tensors)
        elif function is Tensor.view:
            return _view(*args, **kwargs)
        return function(*args, **kwargs)

    def _convolution(
        self, dims: int, input: Tensor, weight: Tensor, bias: Tensor | None, groups: int, **sizes: Any
    ) -> Tensor:
        self.count += 1
        x = input if input.dim() == dims + 2 else input[None]
        spread = {name: [size] * dims if isinstance(size, int) else list(size) for name, size in sizes.items()}
        spread = {name: size * dims if len(size) == 1 else size for name, size in spread.items()}
        made: Tensor = _bilinear(Convolution(self.layout, **spread, groups=groups), x, weight, bias, None)
        return made if x is input else made[0]

    def _batch_norm(
        self, eps: float, x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """Return (x - mean) / sqrt(variance + eps) * weight + bias as x * scale + shift, as torch's own kernel does."""
        self.count += 1
        scale = torch.rsqrt(variance + eps)
        scale = scale if weight is None else scale * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        before, value = getattr(x.grad_fn, "operation", None), None
        if isinstance(before, Convolution):
            # x comes from a convolution: together they are one with scaled weights, whose derivatives are cheaper
            value = partial(Scaling(), x.detach(), scale.detach(), shift.detach())
            x, w, b = x.grad_fn.saved_tensors  # type: ignore[union-attr]
            shift = shift if b is None else shift + b * scale
            scale = w * scale.reshape(-1, *[1] * (w.dim() - 1))
        made: Tensor = _bilinear(before or Scaling(), x, scale, shift, value)
        return made


_CONVOLUTIONS = {F.conv1d: 1, F.conv2d: 2, F.conv3d: 3}
_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_BATCH_NORM_DEFAULTS = {"weight": None, "bias": None, "training": False, "eps": 1e-5}


def _plain(*tensors: Tensor | None) -> bool:
    """Whether all tensors are dense, have the same floating-point dtype, and autocast is off."""
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in given)
        and len({tensor.dtype for tensor in given}) == 1
        and given[0].is_floating_point()
        and not torch.is_autocast_enabled(given[0].device.type)
    )


def _view(tensor: Tensor, *shape: Any, **options: Any) -> Tensor:
    """Return a view, or a view of a copy if channels-last memory does not allow the view."""
    try:
        return tensor.view(*shape, **options)
    except RuntimeError:
        if tensor.dim() != 4 or not tensor.is_contiguous(memory_format=torch.channels_last):
            raise
        return tensor.contiguous().view(*shape, **options)
