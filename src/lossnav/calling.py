"""Calling a model by value: the same structure, with weights of ours, over all batches.

The user's module is never touched. What is called is a copy of its *structure*, in eval mode, whose own parameters
are NaN and take no memory: a weight that is used behind `functional_call`'s back cannot be used silently.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lossnav.batches import Batch
from lossnav.errors import ObjectiveError
from lossnav.params import Params

BATCH_NORMS = nn.modules.batchnorm._BatchNorm

Measured = Tensor | tuple[Tensor, Tensor]  # a mean (), single values (n,), or numerators and weights (n,)
StepValues = tuple[int, dict[str, Measured]]
Step = Callable[[Any, Batch], StepValues]
Passes = Callable[[Params, Params, "Iterable[Batch] | None"], list[StepValues]]  # (parameters, buffers, batches)


class _Whole(nn.Module):
    """All batches in one forward, so that the weights are swapped in once a point and not once a batch."""

    def __init__(self, model: nn.Module, step: Step) -> None:
        super().__init__()
        self.model, self.step = model, step

    def forward(self, batches: Iterable[Batch]) -> list[StepValues]:
        return [self.step(self.model, batch) for batch in batches]


class FunctionPasses:
    """A bare function of parameters, called with them."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def __call__(self, params: Params, buffers: Params, batches: Iterable[Batch] | None) -> list[StepValues]:
        """Pass every batch through the function."""
        return [self.step(params, batch) for batch in ([None] if batches is None else batches)]


class FunctionalPasses:
    """`functional_call` on a copy of the module's structure, without its weights and always in eval mode."""

    def __init__(self, structure: nn.Module, step: Step, bn: str) -> None:
        self.whole, self.bn = _Whole(structure, step), bn

    def __call__(self, params: Params, buffers: Params, batches: Iterable[Batch] | None) -> list[StepValues]:
        """Pass every batch through the structure, with these weights in it."""
        assert batches is not None
        state = {f"model.{name}": tensor for name, tensor in params.items()}
        # BatchNorm in train mode writes its statistics: into copies, never into the centre's
        state |= {f"model.{name}": tensor.clone() for name, tensor in buffers.items()}
        if self.bn == "recompute":
            with _batch_norm_recording(self.whole.model, state, "model."):
                functional_call(self.whole, state, (batches,))
        with _batch_norm_mode(self.whole.model, training=self.bn == "batch"):
            result: list[StepValues] = functional_call(self.whole, state, (batches,))
        return result


class CopyPasses:
    """A private deep copy whose weights are overwritten: for models that cannot be called by value."""

    def __init__(self, model: nn.Module, step: Step, bn: str, device: torch.device) -> None:
        self.whole, self.bn = _Whole(copy.deepcopy(model, _computed_attributes(model)).to(device).eval(), step), bn

    def __call__(self, params: Params, buffers: Params, batches: Iterable[Batch] | None) -> list[StepValues]:
        """Write the weights into the copy and pass every batch through it."""
        assert batches is not None
        model = self.whole.model
        targets = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, tensor in (params | buffers).items():
            targets[name].data.copy_(tensor)
        if self.bn == "recompute":
            with _batch_norm_recording(model, targets, ""):
                self.whole(batches)
        with _batch_norm_mode(model, training=self.bn == "batch"):
            result: list[StepValues] = self.whole(batches)
        return result


def has_nan(steps: Iterable[StepValues]) -> bool:
    """Whether any loss among these is NaN."""
    losses = (values["loss"] for _, values in steps)
    return any(bool(torch.isnan(loss[0] if isinstance(loss, tuple) else loss).any()) for loss in losses)


def make_passes(model: nn.Module, step: Step, bn: str, device: torch.device) -> Passes:
    """Copy the structure of a model without its weights; in their place stand NaNs of stride 0.

    Not the meta device: some CPU kernels take a meta tensor among others and compute from memory that is not there.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            hollow = torch.full((), math.nan, dtype=parameter.dtype, device=device)
            memo[id(parameter)] = nn.Parameter(hollow.expand(parameter.shape), requires_grad=False)
    memo |= _computed_attributes(model)
    try:
        if isinstance(model, torch.jit.ScriptModule):
            raise TypeError("a ScriptModule cannot be called with other weights")
        return FunctionalPasses(copy.deepcopy(model, memo).to(device).eval(), step, bn)
    except Exception as first:
        try:
            return CopyPasses(model, step, bn, device)
        except Exception:
            raise ObjectiveError(
                f"The model cannot be copied: {first}. lossnav works on a copy so that yours is never changed; "
                "remove attributes that cannot be copied (locks, open files, graphs), or pass a freshly built model."
            ) from first


def _computed_attributes(model: nn.Module) -> dict[int, Tensor]:
    """Copies of tensors that hang on a graph (the `weight` of old weight_norm or pruning), for a deepcopy's memo."""
    held = (value for module in model.modules() for value in vars(module).values())
    return {id(value): value.detach().clone() for value in held if isinstance(value, Tensor) and not value.is_leaf}


class _batch_norm_mode:  # noqa: N801 - reads as the context it is
    """BatchNorm layers in train or eval mode, all else as it is; undone on leaving."""

    def __init__(self, model: nn.Module, training: bool) -> None:
        self.layers = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
        self.training = training

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.training = self.training

    def __exit__(self, *exception: object) -> None:
        for layer in self.layers:
            layer.training = False


class _batch_norm_recording(_batch_norm_mode):  # noqa: N801
    """One pass in which BatchNorm statistics start from nothing and average over the batches."""

    def __init__(self, model: nn.Module, state: Params, prefix: str) -> None:
        super().__init__(model, training=True)
        self.momenta = [layer.momentum for layer in self.layers]
        names = {id(module): name for name, module in model.named_modules()}
        for layer in self.layers:
            for statistic, start in (("running_mean", 0.0), ("running_var", 1.0), ("num_batches_tracked", 0)):
                name = names[id(layer)]
                key = f"{prefix}{name}.{statistic}" if name else f"{prefix}{statistic}"
                if key in state:  # a layer without running statistics has none
                    state[key].fill_(start)

    def __enter__(self) -> None:
        super().__enter__()
        for layer in self.layers:
            layer.momentum = None  # a cumulative average, as torch.optim.swa_utils.update_bn does

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        for layer, momentum in zip(self.layers, self.momenta, strict=True):
            layer.momentum = momentum
