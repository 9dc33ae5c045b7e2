"""BatchNorm statistics as variables of differentiation, for objectives that recompute them at every point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lossnav.objective.batch_norm import BATCH_NORMS
from lossnav.params import Params


def layers_of(model: nn.Module) -> list[str]:
    """Return the names of the BatchNorm layers that have running statistics."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, BATCH_NORMS) and module.running_mean is not None
    ]


class _BatchNormMode(TorchFunctionMode):
    """Intercepts calls of `F.batch_norm` with known running statistics, by which torch has no gradient."""

    def __init__(self, layers: Sequence[str], buffers: Params, held: Params) -> None:
        super().__init__()
        self.names = [f"{layer}.running_mean" if layer else "running_mean" for layer in layers]
        # buffers of the pass, and those in the model, which a backward pass uses when it recomputes activations
        self._places = {id(those[name]): place for those in (buffers, held) for place, name in enumerate(self.names)}

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.batch_norm:
            given = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
            place = self._places.get(id(given["running_mean"]))
            if place is not None:
                return self.called(place, lambda: function(*args, **kwargs), **given)
        return function(*args, **kwargs)

    def called(self, place: int, plainly: Callable[[], Tensor], **given: Any) -> Tensor:
        raise NotImplementedError


_ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")


class Statistics(NamedTuple):
    """Statistics of one pass.

    Attributes
    ----------
    totals : list of Tensor of shape (2, channels)
        Mean and unbiased variance of each layer, summed over its calls.
    calls : list of int
        Number of calls of each layer.
    """

    totals: list[Tensor]
    calls: list[int]


class Recorded(_BatchNormMode):
    """Sums the statistics that each layer would average into its running statistics.

    Attributes
    ----------
    totals : list of Tensor of shape (2, channels)
        Mean and unbiased variance of each layer, summed over its calls.
    calls : list of int
        Number of calls of each layer.
    """

    def __init__(self, layers: Sequence[str], buffers: Params, held: Params) -> None:
        super().__init__(layers, buffers, held)
        running = [buffers[name] for name in self.names]
        self.totals = [tensor.new_zeros((2, len(tensor))) for tensor in running]
        self.calls = [0] * len(layers)

    def so_far(self) -> Statistics:
        """Return the present sums; later passes do not change them."""
        return Statistics(list(self.totals), list(self.calls))

    def called(self, place: int, plainly: Callable[[], Tensor], **given: Any) -> Tensor:
        """Record mean and variance over all axes but the channels."""
        if given.get("training"):
            x = given["input"].to(self.totals[place].dtype)
            over = [dim for dim in range(x.dim()) if dim != 1]
            found = torch.stack([x.mean(over), x.var(over, unbiased=True)])
            self.totals[place] = self.totals[place] + found
            self.calls[place] += 1
        return plainly()


class GivenStatistics(_BatchNormMode):
    """Replaces each layer's statistics by given ones, which may require a gradient."""

    def __init__(self, layers: Sequence[str], buffers: Params, held: Params, statistics: Sequence[Tensor]) -> None:
        super().__init__(layers, buffers, held)
        self.statistics = statistics

    def called(self, place: int, plainly: Callable[[], Tensor], **given: Any) -> Tensor:
        """Return (x - mean) / sqrt(variance + eps) * weight + bias."""
        if given.get("training"):
            return plainly()
        x, weight, bias = given["input"], given.get("weight"), given.get("bias")
        shape = [1, -1] + [1] * (x.dim() - 2)
        mean, variance = self.statistics[place]
        scale = torch.rsqrt(variance + given.get("eps", 1e-5))
        if weight is not None:
            scale = scale * weight
        made: Tensor = (x - mean.reshape(shape)) * scale.reshape(shape)
        made = made if bias is None else made + bias.reshape(shape)
        return made.to(x.dtype)
