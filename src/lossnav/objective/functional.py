"""Calling a model by value: the same structure, with weights of ours, over all batches.

The user's module is never touched. What is called is a copy of its *structure*, in eval mode (or in train mode, where
that is asked for), whose own parameters are NaN and take no memory: a weight that is used behind `functional_call`'s
back cannot be used silently. The loss, the metrics and `forward=` are copied together with it, so that one that looks
at the model looks at ours.

One thread at a time passes, or looks at what a pass changes (`lossnav._utils.turns`): `leaves`, and what is done with
them until they are no longer needed, by whoever asks for them.

Every pass starts from the same state: the point's own weights and buffers, and loss, metrics and `forward=` as they
were when the objective was made. Within a pass what one batch leaves behind (a queue, a moving average) the next one
finds, as in plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from lossnav.objective import contents as contents_module
from lossnav.objective.batches import Batch
from lossnav.objective.kept_state import Kept
from lossnav.params import Params

Measured = Tensor | tuple[Tensor, Tensor]  # a mean (), single values (n,), or numerators and weights (n,)
StepValues = tuple[int, dict[str, Measured]]
StepFunction = Callable[[Any, Batch], StepValues]


class Borrowed:
    """A step of the user's own, in eval or train mode for a `with`; on leaving all of it is as it was."""

    def __init__(self, step: StepFunction, training: bool = False) -> None:
        self.parts, self.training = users_parts(step), training

    def __enter__(self) -> None:
        self.kept = Kept(self.parts, borrowed=True)
        _set_mode(self.parts, self.training)

    def __exit__(self, *exception: object) -> None:
        self.kept.restore()


class _ModelHolder(nn.Module):
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


def users_parts(step: StepFunction) -> list[Any]:
    """What of a step is the user's: `forward=`, the loss and the metrics, or a function of theirs."""
    arguments = step.args if isinstance(step, partial) else (step,)
    return [part for argument in arguments for part in getattr(argument, "users_parts", (argument,))]


def _set_mode(value: Any, training: bool) -> None:
    for part in contents_module.reachable(value):
        if isinstance(part, nn.Module):
            part.training = training
