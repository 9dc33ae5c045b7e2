"""Parameters of a model: which of them move, and whether their values can be used."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lossnav import params as algebra
from lossnav._utils.validation import described
from lossnav.checkpoints import weights
from lossnav.errors import (
    LossnavWarning,
    ObjectiveError,
    OptionError,
    StructureMismatchError,
)
from lossnav.objective import contents as contents_module
from lossnav.objective.loss import Loss


def _parameters_of_loss(loss: Loss, model: nn.Module) -> int:
    """How many trainable numbers a loss has beside the model's; they hold still, and a warning says so."""
    inside = [tensor for tensor in contents_module.tensors(loss.users_parts) if isinstance(tensor, nn.Parameter)]
    own = {id(parameter) for parameter in model.parameters()}
    trainable = [parameter for parameter in inside if parameter.requires_grad and id(parameter) not in own]
    count = sum(parameter.numel() for parameter in trainable)
    if count:
        warnings.warn(
            f"The loss {loss.name} has {count:,} trainable numbers of its own (in {len(trainable)} tensors). They hold "
            "still at their values; only the model's parameters move. To let them move, put the loss into the model "
            "and pass loss=None.",
            LossnavWarning,
            stacklevel=4,
        )
    return count


def _some(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """How many tensors and numbers, and the first names."""
    return {"tensors": len(tensors), "numbers": sum(t.numel() for t in tensors.values()), "names": [*tensors][:3]}


def require_weights(params: Any, what: str) -> None:
    """Raise StructureMismatchError unless it is a dict."""
    if not isinstance(params, Mapping):
        raise StructureMismatchError(
            f"{what} is {described(params)}, not a dict of parameter name to tensor. Pass objective.params, a point of "
            "a chart (chart(coords)), or of another model objective.at(model).params."
        )


def require_initialised(model: nn.Module) -> None:
    """Raise where a lazy layer has no weights yet."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ObjectiveError(
                f'"{name}" of the model is not initialised yet. Pass one batch through the model first.'
            )
        if parameter.is_meta:
            raise ObjectiveError(
                f'"{name}" of the model is on the meta device, where weights have no numbers. Load them: '
                "model.to_empty(device='cpu'), then model.load_state_dict(state_dict)."
            )


def _require_floating(model: nn.Module) -> None:
    """Raise where no parameter of a model can move, and say so where some cannot: whole numbers have no small steps."""
    parameters = dict(model.named_parameters())
    if not any(parameter.is_floating_point() or parameter.is_complex() for parameter in parameters.values()):
        packed = [name for name, module in model.named_modules() if hasattr(module, "_packed_params")]
        what = f"its weights are quantised (packed in {packed[0]!r})" if packed else "it has none of floating point"
        raise OptionError(
            f"The model {type(model).__name__} has no parameter that can move: {what}. Pass the model before it was "
            "quantised, in floating point." if packed or parameters else
            f"The model {type(model).__name__} has no parameters, so there is nothing to move. Pass one with weights."
        )  # fmt: skip
    whole = {n: p for n, p in parameters.items() if not (p.is_floating_point() or p.is_complex())}
    if whole:
        name, first = next(iter(whole.items()))
        count = sum(parameter.numel() for parameter in whole.values())
        warnings.warn(
            f'{count:,} numbers in {len(whole)} tensors of dtype {first.dtype} (such as "{name}") are held still: '
            "whole numbers have no small steps. Pass the model before it was quantised to let them move.",
            LossnavWarning,
            stacklevel=4,
        )


def _patterns(words: Any, model: nn.Module) -> str | list[str]:
    """The patterns of `params=`, with the first names of tied weights that they match by another.

    Raises
    ------
    OptionError
        If it holds tensors; it says their names.
    """
    if isinstance(words, str):
        listed: list[Any] = [words]
    else:
        listed = list(words) if isinstance(words, Iterable) else [words]
    if wrong := [word for word in listed if not isinstance(word, str)]:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        known = [names[id(word)] for word in listed if id(word) in names]
        line = f"params={known!r}" if known else "params='layer1.*'"
        raise OptionError(
            f"params= holds {described(wrong[0])}; it takes names of parameters, or patterns over them. Pass {line}."
        )
    firsts = {first for name, first in weights.aliases_of(model).items() if first and algebra.select([name], listed)}
    return listed + sorted(firsts) if firsts else words


def _drops(module: nn.Module) -> bool:
    """Whether a layer drops values in train mode: Dropout, or LSTM, GRU and MultiheadAttention with a rate."""
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return module.dropout > 0
    return isinstance(module, nn.modules.dropout._DropoutNd)
