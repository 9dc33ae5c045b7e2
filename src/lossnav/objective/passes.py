"""Passes over all batches with weights that are not the model's own, put into its structure or into a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from lossnav._utils import turns
from lossnav.errors import ObjectiveError
from lossnav.objective import contents as contents_module
from lossnav.objective.batch_norm import _batch_norm_recording, _mode_of_batch_norm
from lossnav.objective.batch_tensors import Batch
from lossnav.objective.functional import (
    Borrowed,
    StepFunction,
    StepValues,
    _ModelHolder,
    call_with,
    users_parts,
)
from lossnav.objective.kept_state import Kept
from lossnav.objective.model_copies import (
    attributes_of_copy,
    computed_attributes,
    copied_step,
    copied_together,
    hollow,
    to_double_,
)
from lossnav.params import Params


class _WholePass(nn.Module):
    """All batches in one forward call, so that the weights are swapped once per point and not once per batch."""

    def __init__(self, model: nn.Module, step: StepFunction, borrowed: bool = False, training: bool = False) -> None:
        super().__init__()
        self.model, self.step, self.borrowed, self.in_training = model, step, borrowed, training
        self.seen: Callable[[dict[str, Tensor]], None] | None = None  # called with the buffers after a pass

    def forward(self, batches: Iterable[Batch]) -> list[StepValues]:
        with Borrowed(self.step, self.in_training) if self.borrowed else nullcontext():
            values = [self.step(self.model, batch) for batch in batches]
        if self.seen is not None:
            self.seen(dict(self.model.named_buffers()))
        return values


class _Beginnings:
    """Every pass starts from the same state; a copy or an unpickled object keeps its own."""

    def _begins(self) -> dict[str, Kept]:
        """What is restored before a pass, by attribute, as it is now."""
        raise NotImplementedError

    @turns.alone()
    def begin(self) -> None:
        """Restore the state that every pass starts from."""
        for value in vars(self).values():
            if isinstance(value, Kept):
                value.restore()

    def __getstate__(self) -> dict[str, Any]:
        self.begin()
        state = vars(self)
        return {name: value.compared if isinstance(value, Kept) else value for name, value in state.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for name, kept in self._begins().items():
            with suppress(ValueError):  # made of other objects: use the default
                kept.compare(state[name])
            setattr(self, name, kept)

    def __copy__(self) -> Self:
        made = type(self).__new__(type(self))
        vars(made).update(vars(self))
        return made


class FunctionPasses(_Beginnings):
    """Passes of a bare function of parameters."""

    _kept: Kept

    def __init__(self, step: StepFunction, borrowed: bool = False) -> None:
        self.step, self.borrowed = step, borrowed
        self._kept = self._begins()["_kept"]

    def _begins(self) -> dict[str, Kept]:
        return {"_kept": Kept(() if self.borrowed else users_parts(self.step))}

    def leaves(self, params: Params, buffers: Params, names: Collection[str]) -> tuple[Params, Params]:
        """Tensors to differentiate by, with these values, and buffers that may be written to."""
        self._kept.restore()
        return _leaves(params, names), {}

    def one(self, leaves: Params, buffers: Params, batch: Batch, training: bool) -> StepValues:
        """Pass one batch with the leaves themselves."""
        with Borrowed(self.step) if self.borrowed else nullcontext():
            return self.step(leaves, batch)

    def holding(self, leaves: Params, buffers: Params, function: Callable[[], Any]) -> Any:
        """Call a function; there is no module whose weights a backward pass could read."""
        return function()

    def training(self, training: bool) -> AbstractContextManager[None]:
        """Do nothing: there is no BatchNorm layer."""
        return nullcontext()

    @turns.alone()
    def measuring(self, step: StepFunction) -> FunctionPasses:
        """Return the same with another step."""
        self._kept.restore()
        return FunctionPasses(step, self.borrowed)

    @turns.alone()
    def apart(self, double: bool = False) -> FunctionPasses:
        """Return the same for another thread, in float64 if asked for."""
        self._kept.restore()
        step = copied_step(self.step, {})
        if double and step is not self.step:
            to_double_(None, step)
        return FunctionPasses(step, step is self.step)

    def __call__(self, params: Params, buffers: Params, batches: Iterable[Batch] | None) -> list[StepValues]:
        """Pass every batch through the function."""
        self._kept.restore()
        with Borrowed(self.step) if self.borrowed else nullcontext():
            return [self.step(params, batch) for batch in ([None] if batches is None else batches)]


class FunctionalPasses(_Beginnings):
    """Passes that put weights into a copy of the model's structure, which has none of its own.

    Attributes
    ----------
    in_training : bool
        Whether it is called in train mode, as after ``model.train()``; else in eval mode.
    remembers : bool
        Whether a pass leaves state in the structure (a cache, a counter) that a later pass reads. It is then restored
        before every pass.
    """

    _of_step: Kept
    _of_model: Kept

    def __init__(
        self, structure: nn.Module, step: StepFunction, bn: str, borrowed: bool = False, training: bool = False
    ) -> None:
        self.whole, self.step, self.bn = _WholePass(structure, step, borrowed, training), step, bn
        self.in_training = training
        self.remembers = False
        vars(self).update(self._begins())

    def _begins(self) -> dict[str, Kept]:
        model = self.whole.model
        return {"_of_step": _kept_of_step(self.whole), "_of_model": Kept(model, without=_tensors_put_in(model))}

    @turns.alone()
    def restore(self) -> None:
        """Restore the state that every pass starts from."""
        self._of_step.restore()
        if self.remembers:
            self._of_model.restore()

    @property
    @turns.alone()
    def bound(self) -> str:
        """Why the step cannot be called with another structure or other batches; empty if it can."""
        if self.whole.borrowed:
            return "the loss, a metric or forward= cannot be copied"
        inside = {id(module) for module in self.whole.model.modules()}
        if any(id(part) in inside for part in contents_module.reachable(users_parts(self.step))):
            return "the loss, a metric or forward= looks at the model itself"
        return "the loss, a metric or forward= has a state of its own" if self._of_step.changed() else ""

    @turns.alone()
    def state_changed(self) -> bool:
        """Whether passes have left anything in the structure."""
        return self._of_model.changed()

    @turns.alone()
    def learn(self) -> None:
        """Find the state that changed in the first pass without a new version of a tensor."""
        self._of_step.learn()
        self._of_model.learn()

    @turns.alone()
    def forget(self) -> None:
        """Restore the structure to its first state."""
        self._of_model.restore()

    def around(self, model: nn.Module) -> FunctionalPasses:
        """Return the same passes on the user's own model, which is as before after a call."""
        made = copy.copy(self)
        made.whole, made.remembers = _WholePass(model, self.step, self.whole.borrowed, self.in_training), False
        return made

    def __call__(self, params: Params, buffers: Params, batches: Iterable[Batch] | None) -> list[StepValues]:
        """Pass every batch through the structure, with these weights in it."""
        assert batches is not None
        self.restore()
        state = {f"model.{name}": tensor for name, tensor in params.items()}
        # BatchNorm in train mode writes its statistics: into copies, never into those of the centre
        state |= {f"model.{name}": tensor.clone() for name, tensor in buffers.items()}
        if self.bn == "recompute":
            with _batch_norm_recording(self.whole.model, state, "model."):
                call_with(self.whole, state, batches)
        with self.training(self.bn == "batch"):
            result: list[StepValues] = call_with(self.whole, state, batches)
        return result

    def leaves(self, params: Params, buffers: Params, names: Collection[str]) -> tuple[Params, Params]:
        """Tensors to differentiate by, with these values, and buffers that may be written to."""
        self.restore()
        return _leaves(params, names), {name: tensor.clone() for name, tensor in buffers.items()}

    def one(self, leaves: Params, buffers: Params, batch: Batch, training: bool) -> StepValues:
        """Pass one batch with the leaves and buffers themselves, with BatchNorm in train mode or not.

        The next batch finds what it leaves in the buffers, detached from its graph: derivatives treat buffers as
        constants.
        """
        state = {f"model.{name}": tensor for name, tensor in (leaves | buffers).items()}

        def carry(left: dict[str, Tensor]) -> None:
            buffers.update({n: t.detach() for n, t in left.items() if t.requires_grad or t is not buffers.get(n, t)})

        self.whole.seen = carry
        try:
            with self.training(training):
                (values,) = call_with(self.whole, state, [batch])
        finally:
            self.whole.seen = None
        return cast(StepValues, values)

    def holding(self, leaves: Params, buffers: Params, function: Callable[[], Any]) -> Any:
        """Call a function while these weights and buffers are in the structure.

        For backward passes: what they compute again (activation checkpointing) or read (a hook, a custom function) must
        use these weights, not the NaNs in their place.
        """
        state = {f"model.{name}": tensor for name, tensor in (leaves | buffers).items()}
        return call_with(_ModelHolder(self.whole.model), state, function)

    def training(self, training: bool) -> AbstractContextManager[None]:
        """BatchNorm layers in train mode or not, for the backward passes of `one` too."""
        return _mode_of_batch_norm(self.whole.model, training, self.in_training)

    @turns.alone()
    def measuring(self, step: StepFunction) -> FunctionalPasses:
        """Return the same with another step."""
        self.restore()
        made = copy.copy(self)
        made.whole, made.step = _WholePass(self.whole.model, step, self.whole.borrowed, self.in_training), step
        made._of_step = _kept_of_step(made.whole)
        return made

    @turns.alone()
    def apart(self, double: bool = False) -> FunctionalPasses:
        """Return the same with its own structure and step, for another thread: a call puts weights into the structure.

        In float64 if asked for.
        """
        self.restore()
        model = self.whole.model
        memo: dict[int, Any] = {
            id(weight): hollow(weight, torch.float64) if double else weight for weight in model.parameters()
        }
        structure, step = copied_together(model, self.step, memo, self.in_training)
        if double:
            to_double_(structure, step)
        made = FunctionalPasses(structure, step, self.bn, step is self.step, self.in_training)
        made.remembers = self.remembers
        return made


class CopyPasses(_Beginnings):
    """Passes that overwrite the weights of a private deep copy, for models that cannot be called with other weights.

    Before every pass the copy is restored to the state of the user's model; then it gets the weights and buffers of the
    point; then it goes into eval mode, or into train mode. So a layer that merges its weights at that step (older
    versions of LoRA) merges those of the point.
    """

    _of_step: Kept
    _of_model: Kept

    def __init__(
        self, model: nn.Module, step: StepFunction, bn: str, device: torch.device, training: bool = False
    ) -> None:
        self.in_training = training
        made, own_step = copied_together(model, step, attributes_of_copy(model), training)
        self._take(made.to(device), own_step, bn, own_step is step)

    def _take(self, model: nn.Module, step: StepFunction, bn: str, borrowed: bool) -> None:
        self.whole, self.step, self.bn = _WholePass(model, step, borrowed, self.in_training), step, bn
        vars(self).update(self._begins())

    def _begins(self) -> dict[str, Kept]:
        model = self.whole.model
        return {"_of_step": _kept_of_step(self.whole), "_of_model": Kept(model, without=_tensors_put_in(model))}

    def __call__(self, params: Params, buffers: Params, batches: Iterable[Batch] | None) -> list[StepValues]:
        """Write the weights into the copy and pass every batch through it."""
        assert batches is not None
        targets = self._load(params, buffers)
        model = self.whole.model
        if self.bn == "recompute":
            with _batch_norm_recording(model, targets, ""):
                self.whole(batches)
        with self.training(self.bn == "batch"):
            result: list[StepValues] = self.whole(batches)
        return result

    def leaves(self, params: Params, buffers: Params, names: Collection[str]) -> tuple[Params, Params]:
        """Parameters and buffers of the copy, with these values until the next call; differentiable."""
        self._load(params, buffers)
        parameters, own = dict(self.whole.model.named_parameters()), dict(self.whole.model.named_buffers())
        for name, parameter in parameters.items():
            parameter.detach_().requires_grad_(name in names)  # a copied ScriptModule has a graph
        return {name: parameters[name] for name in params}, own

    def one(self, leaves: Params, buffers: Params, batch: Batch, training: bool) -> StepValues:
        """Pass one batch through the copy as it is, with BatchNorm in train mode or not."""
        with self.training(training):
            (values,) = self.whole([batch])
        for buffer in self.whole.model.buffers():
            if buffer.requires_grad:
                buffer.detach_()
        return cast(StepValues, values)

    def holding(self, leaves: Params, buffers: Params, function: Callable[[], Any]) -> Any:
        """Call a function; the weights stay in the copy until other leaves are asked for."""
        return function()

    def training(self, training: bool) -> AbstractContextManager[None]:
        """BatchNorm layers in train mode or not, for the backward passes of `one` too."""
        return _mode_of_batch_norm(self.whole.model, training, self.in_training)

    @turns.alone()
    def learn(self) -> None:
        """Find the state that changed in the first pass without a new version of a tensor."""
        self._of_step.learn()
        self._of_model.learn()

    @turns.alone()
    def begin_here(self) -> None:
        """Make the present state of the copy the one that every pass starts from."""
        self._of_model = Kept(self.whole.model, without=_tensors_put_in(self.whole.model))

    def _load(self, params: Params, buffers: Params) -> Params:
        """Restore the state and mode of the user's model, with these weights and buffers; return all tensors."""
        model = self.whole.model
        self._of_step.restore()
        self._of_model.restore()
        targets = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name, tensor in (params | buffers).items():
            targets[name].data.copy_(tensor.detach())
        model.train(self.in_training)
        return targets

    @turns.alone()
    def measuring(self, step: StepFunction) -> CopyPasses:
        """Return the same with another step."""
        self._of_step.restore()
        made = copy.copy(self)
        made.whole, made.step = _WholePass(self.whole.model, step, self.whole.borrowed, self.in_training), step
        made._of_step = _kept_of_step(made.whole)
        return made

    @turns.alone()
    def apart(self, double: bool = False) -> CopyPasses:
        """Return the same with its own copy, for another thread; in float64 if asked for."""
        self._of_step.restore()
        self._of_model.restore()
        memo = attributes_of_copy(self.whole.model)
        model, step = copied_together(self.whole.model, self.step, memo, self.in_training)
        if double:
            to_double_(model, step)
        made = copy.copy(self)
        made._take(model, step, self.bn, step is self.step)
        return made


Passes = FunctionPasses | FunctionalPasses | CopyPasses


def _leaves(params: Params, names: Collection[str]) -> Params:
    return {name: tensor.detach().requires_grad_(name in names) for name, tensor in params.items()}


def _kept_of_step(whole: _WholePass) -> Kept:
    return Kept(() if whole.borrowed else users_parts(whole.step), without=_tensors_put_in(whole.model))


def _tensors_put_in(model: nn.Module) -> list[Tensor]:
    """Tensors of a model that every pass sets."""
    return [*model.parameters(), *model.buffers()]


def make_passes(model: nn.Module, step: StepFunction, bn: str, device: torch.device, training: bool = False) -> Passes:
    """Copy the structure of a model without its weights, which are replaced by NaNs of stride 0.

    The meta device is not used: some CPU kernels accept a meta tensor among others and read memory that does not exist.
    """
    floating = (parameter for parameter in model.parameters() if parameter.is_floating_point())
    memo: dict[int, Any] = {id(parameter): hollow(parameter, parameter.dtype, device) for parameter in floating}
    memo |= computed_attributes(model)
    try:
        if isinstance(model, torch.jit.ScriptModule):
            raise TypeError("a ScriptModule cannot be called with other weights")
        structure, own_step = copied_together(model, step, memo, training)
        structure.to(device)
        if training:
            structure.train()  # fails here if it does something with weights; it may leave layers in eval mode
        else:
            for module in structure.modules():
                module.training = False  # not .eval(): a layer may merge its weights there, and here it has none
        return FunctionalPasses(structure, own_step, bn, own_step is step, training)
    except Exception as first:
        try:
            return CopyPasses(model, step, bn, device, training)
        except Exception:
            raise ObjectiveError(
                f"The model cannot be copied: {first}. lossnav works on a copy so that your model never changes; "
                "remove attributes that cannot be copied (locks, open files, graphs), or pass a newly built model."
            ) from first
