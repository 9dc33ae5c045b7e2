"""Calling a model by value: the same structure, with weights of ours, over all batches.

The user's module is never touched. What is called is a copy of its *structure*, in eval mode, whose own parameters
are NaN and take no memory: a weight that is used behind `functional_call`'s back cannot be used silently.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

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


class _Whole(nn.Module):
    """All batches in one forward, so that the weights are swapped in once a point and not once a batch."""

    def __init__(self, model: nn.Module, step: Step) -> None:
        super().__init__()
        self.model, self.step = model, step

    def forward(self, batches: Iterable[Batch]) -> list[StepValues]:
        return [self.step(self.model, batch) for batch in batches]


class _Held(nn.Module):
    """A model, and something to call while other weights are in it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def call_with(module: nn.Module, state: Params, *arguments: Any) -> Any:
    """`functional_call`: call a module with other weights and buffers, those that are tied given by one name.

    Torch's own resolves ties by the names of a weight, and so changes the place that holds it once a name. Where one
    layer is registered under two names (the embedding of peft's prompt tuning), it thereby takes the weight of the
    first change for the original and leaves it in the module, which is then tied to nothing. Here every place is
    changed once. What the module puts into a place instead is found in `state` afterwards, as torch does.
    """
    places = _places(module, state)
    result = functional_call(module, places, arguments, tie_weights=False)
    state.update({name: places[name] for name in state if name in places})
    return result


def _places(module: nn.Module, state: Params) -> Params:
    """A value for every place, by its first name; names that are no place of the module as they are."""
    named = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    given = {id(named[name]): tensor for name, tensor in state.items() if name in named}
    places = {name: tensor for name, tensor in state.items() if name not in named}
    for prefix, part in module.named_modules():
        for leaf, tensor in (*part._parameters.items(), *part._buffers.items()):
            name = f"{prefix}.{leaf}" if prefix else leaf
            if id(tensor) in given:
                places[name] = state.get(name, given[id(tensor)])
    return places


class FunctionPasses:
    """A bare function of parameters, called with them."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def leaves(self, params: Params, buffers: Params, names: Collection[str]) -> tuple[Params, Params]:
        """Tensors to differentiate by, with these values, and buffers that may be written to."""
        return _leaves(params, names), {}

    def one(self, leaves: Params, buffers: Params, batch: Batch, training: bool) -> StepValues:
        """Pass one batch with the leaves themselves."""
        return self.step(leaves, batch)

    def holding(self, leaves: Params, buffers: Params, function: Callable[[], Any]) -> Any:
        """Call a function: there is no module whose weights a backward pass could read."""
        return function()

    def training(self, training: bool) -> AbstractContextManager[None]:
        """There is no BatchNorm layer that could be in a mode."""
        return nullcontext()

    def measuring(self, step: Step, double: bool = False) -> FunctionPasses:
        """Return the same with another step, and in float64 if that is asked for."""
        return FunctionPasses(step)

    def apart(self) -> FunctionPasses:
        """Return the same, to be called in another thread: the function is the user's."""
        return self

    def __call__(self, params: Params, buffers: Params, batches: Iterable[Batch] | None) -> list[StepValues]:
        """Pass every batch through the function."""
        return [self.step(params, batch) for batch in ([None] if batches is None else batches)]


class FunctionalPasses:
    """`call_with` on a copy of the module's structure, without its weights and always in eval mode."""

    def __init__(self, structure: nn.Module, step: Step, bn: str) -> None:
        self.whole, self.step, self.bn = _Whole(structure, step), step, bn

    def __call__(self, params: Params, buffers: Params, batches: Iterable[Batch] | None) -> list[StepValues]:
        """Pass every batch through the structure, with these weights in it."""
        assert batches is not None
        state = {f"model.{name}": tensor for name, tensor in params.items()}
        # BatchNorm in train mode writes its statistics: into copies, never into the centre's
        state |= {f"model.{name}": tensor.clone() for name, tensor in buffers.items()}
        if self.bn == "recompute":
            with _batch_norm_recording(self.whole.model, state, "model."):
                call_with(self.whole, state, batches)
        with _batch_norm_mode(self.whole.model, training=self.bn == "batch"):
            result: list[StepValues] = call_with(self.whole, state, batches)
        return result

    def leaves(self, params: Params, buffers: Params, names: Collection[str]) -> tuple[Params, Params]:
        """Tensors to differentiate by, with these values, and buffers that may be written to."""
        return _leaves(params, names), {name: tensor.clone() for name, tensor in buffers.items()}

    def one(self, leaves: Params, buffers: Params, batch: Batch, training: bool) -> StepValues:
        """Pass one batch with leaves and buffers themselves, BatchNorm in train mode or not."""
        state = {f"model.{name}": tensor for name, tensor in (leaves | buffers).items()}
        with _batch_norm_mode(self.whole.model, training):
            (values,) = call_with(self.whole, state, [batch])
        return cast(StepValues, values)

    def holding(self, leaves: Params, buffers: Params, function: Callable[[], Any]) -> Any:
        """Call a function with these weights and buffers in the structure.

        For backward passes: what they compute anew (activation checkpointing), or read (a hook, a function of the
        user's own), is to be of these weights and not of the NaNs in their place.
        """
        state = {f"model.{name}": tensor for name, tensor in (leaves | buffers).items()}
        return call_with(_Held(self.whole.model), state, function)

    def training(self, training: bool) -> AbstractContextManager[None]:
        """BatchNorm layers in train mode or not, for the backward passes of `one` too."""
        return _batch_norm_mode(self.whole.model, training)

    def measuring(self, step: Step, double: bool = False) -> FunctionalPasses:
        """Return the same with another step, and in float64 if that is asked for."""
        model = self.whole.model
        if double:
            memo: dict[int, Any] = {id(weight): _hollow(weight, torch.float64) for weight in model.parameters()}
            model = _doubled(copy.deepcopy(model, memo))
        return FunctionalPasses(model, step, self.bn)

    def apart(self) -> FunctionalPasses:
        """Return the same with a structure of its own: a call puts weights into it, so two threads need two."""
        model = self.whole.model
        memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
        return FunctionalPasses(copy.deepcopy(model, memo), self.step, self.bn)


class CopyPasses:
    """A private deep copy whose weights are overwritten: for models that cannot be called by value."""

    def __init__(self, model: nn.Module, step: Step, bn: str, device: torch.device) -> None:
        self.whole = _Whole(copy.deepcopy(model, _computed_attributes(model)).to(device).eval(), step)
        self.step, self.bn = step, bn

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

    def leaves(self, params: Params, buffers: Params, names: Collection[str]) -> tuple[Params, Params]:
        """Parameters of the copy, to differentiate by, and its buffers; both with these values, until the next call."""
        parameters, own = dict(self.whole.model.named_parameters()), dict(self.whole.model.named_buffers())
        for name, tensor in (params | buffers).items():
            (parameters | own)[name].data.copy_(tensor.detach())
        for name, parameter in parameters.items():
            parameter.detach_().requires_grad_(name in names)  # of a ScriptModule a copy hangs on what was copied
        return {name: parameters[name] for name in params}, own

    def one(self, leaves: Params, buffers: Params, batch: Batch, training: bool) -> StepValues:
        """Pass one batch through the copy as it is, BatchNorm in train mode or not."""
        with _batch_norm_mode(self.whole.model, training):
            (values,) = self.whole([batch])
        return cast(StepValues, values)

    def holding(self, leaves: Params, buffers: Params, function: Callable[[], Any]) -> Any:
        """Call a function: the weights are the copy's own, until other leaves are asked for."""
        return function()

    def training(self, training: bool) -> AbstractContextManager[None]:
        """BatchNorm layers in train mode or not, for the backward passes of `one` too."""
        return _batch_norm_mode(self.whole.model, training)

    def measuring(self, step: Step, double: bool = False) -> CopyPasses:
        """Return the same with another step, and in float64 if that is asked for."""
        made, model = copy.copy(self), self.whole.model
        made.whole, made.step = _Whole(_doubled(copy.deepcopy(model)) if double else model, step), step
        return made

    def apart(self) -> CopyPasses:
        """Return the same with a copy of its own, for another thread."""
        made = copy.copy(self)
        made.whole = _Whole(copy.deepcopy(self.whole.model), self.step)
        return made


Passes = FunctionPasses | FunctionalPasses | CopyPasses


def _leaves(params: Params, names: Collection[str]) -> Params:
    return {name: tensor.detach().requires_grad_(name in names) for name, tensor in params.items()}


def _doubled(model: nn.Module) -> nn.Module:
    """A model whose parameters, buffers and plain tensors are float64; itself, changed."""
    for module in model.double().modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(module, name, value.double())
    return model


def _hollow(parameter: Tensor, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """A parameter of NaNs that takes no memory; what is no floating-point number as it is."""
    if not parameter.is_floating_point():
        return parameter
    nan = torch.full((), math.nan, dtype=dtype, device=device or parameter.device)
    return nn.Parameter(nan.expand(parameter.shape), requires_grad=False)


def has_nan(steps: Iterable[StepValues]) -> bool:
    """Whether any loss among these is NaN."""
    losses = (values["loss"] for _, values in steps)
    return any(bool(torch.isnan(loss[0] if isinstance(loss, tuple) else loss).any()) for loss in losses)


def make_passes(model: nn.Module, step: Step, bn: str, device: torch.device) -> Passes:
    """Copy the structure of a model without its weights; in their place stand NaNs of stride 0.

    Not the meta device: some CPU kernels take a meta tensor among others and compute from memory that is not there.
    """
    floating = (parameter for parameter in model.parameters() if parameter.is_floating_point())
    memo: dict[int, Any] = {id(parameter): _hollow(parameter, parameter.dtype, device) for parameter in floating}
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


class _batch_norm_mode(AbstractContextManager[None]):  # noqa: N801 - reads as the context it is
    """BatchNorm layers in train or eval mode, all else as it is; undone on leaving."""

    def __init__(self, model: nn.Module, training: bool) -> None:
        self.layers = [m for m in model.modules() if isinstance(m, BATCH_NORMS)]
        self.training = training
        self._before: list[bool] = []

    def __enter__(self) -> None:
        self._before = [layer.training for layer in self.layers]
        for layer in self.layers:
            layer.training = self.training

    def __exit__(self, *exception: object) -> None:
        for layer, before in zip(self.layers, self._before, strict=True):
            layer.training = before


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
