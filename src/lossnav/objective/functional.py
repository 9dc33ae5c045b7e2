"""Calling a model with other weights: the same structure, over all batches.

The user's module is never touched. A copy of its *structure* is called, in eval mode (or in train mode, if the user
asks for it). The parameters of the copy are NaN and take no memory, so a weight that the code reaches in another way
than through `functional_call` shows as NaN. The loss, the metrics and `forward=` are copied together with the
structure; if they refer to the model, the copies refer to the copy.

One thread at a time makes a pass or looks at what a pass changes (`lossnav._utils.turns`). A caller of `leaves` holds
the turn until the leaves are no longer needed.

Every pass starts from the same state: the weights and buffers of the point, and the loss, the metrics and `forward=` as
they were when the objective was built. Within a pass, what one batch leaves behind (a queue, a moving average) is there
for the next batch, as in plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from lossnav.objective import contents as contents_module
from lossnav.objective.batch_tensors import Batch
from lossnav.objective.kept_state import Kept
from lossnav.params import Params

Measured = Tensor | tuple[Tensor, Tensor]  # a mean (), single values (n,), or numerators and weights (n,)
StepValues = tuple[int, dict[str, Measured]]
StepFunction = Callable[[Any, Batch], StepValues]


class Borrowed:
    """The user's own step, put into eval or train mode inside a `with` block and restored afterwards."""

    def __init__(self, step: StepFunction, training: bool = False) -> None:
        self.parts, self.training = users_parts(step), training

    def __enter__(self) -> None:
        self.kept = Kept(self.parts, borrowed=True)
        _set_mode(self.parts, self.training)

    def __exit__(self, *exception: object) -> None:
        self.kept.restore()


class _ModelHolder(nn.Module):
    """A module whose forward pass calls a function, while other weights are in the model that it holds."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def call_with(module: nn.Module, state: Params, *arguments: Any) -> Any:
    """Call a module with other weights and buffers, as `torch.func.functional_call` does; tied weights need one name.

    `functional_call` changes a tied weight once per name. If one layer is registered under two names (the embedding of
    peft's prompt tuning), it takes the changed weight for the original and leaves it in the module, which is then no
    longer tied. Here each place is changed once. If the module replaces a tensor during the call, the new tensor is in
    `state` afterwards, as with torch.
    """
    places = _places(module, state)
    result = functional_call(module, places, arguments, tie_weights=False)
    state.update({name: places[name] for name in state if name in places})
    return result


def _places(module: nn.Module, state: Params) -> Params:
    """A value for every place in the module, by its first name; other names are kept as they are."""
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
    """The user's objects in a step: `forward=`, the loss and the metrics, or a bare function."""
    arguments = step.args if isinstance(step, partial) else (step,)
    return [part for argument in arguments for part in getattr(argument, "users_parts", (argument,))]


def _set_mode(value: Any, training: bool) -> None:
    for part in contents_module.reachable(value):
        if isinstance(part, nn.Module):
            part.training = training
