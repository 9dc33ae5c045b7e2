"""Checks of the parameters that the user passes: whether they can move, and what `params=` matches."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

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
    """Count the trainable numbers that belong to the loss and not to the model; warn that they do not move."""
    inside = [tensor for tensor in contents_module.tensors(loss.users_parts) if isinstance(tensor, nn.Parameter)]
    own = {id(parameter) for parameter in model.parameters()}
    trainable = [parameter for parameter in inside if parameter.requires_grad and id(parameter) not in own]
    count = sum(parameter.numel() for parameter in trainable)
    if count:
        warnings.warn(
            f"The loss {loss.name} has {count:,} trainable numbers of its own (in {len(trainable)} tensors). They are "
            "fixed at their values; only the parameters of the model move. To let them move, make the loss a part of "
            "the model and pass loss=None.",
            LossnavWarning,
            stacklevel=4,
        )
    return count


def require_weights(params: Any, what: str) -> None:
    """Raise StructureMismatchError unless the parameters are a dict."""
    if not isinstance(params, Mapping):
        raise StructureMismatchError(
            f"{what} is {described(params)}, not a dict of parameter name to tensor. Pass objective.params, a point "
            "of a chart (chart(coords)), or the parameters of another model, objective.at(model).params."
        )


def require_initialised(model: nn.Module) -> None:
    """Raise ObjectiveError if a lazy layer has no weights yet, or a weight has no values."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ObjectiveError(
                f'The parameter "{name}" of the model is not initialised yet. Pass one batch through the model first.'
            )
        if parameter.is_meta:
            raise ObjectiveError(
                f'The parameter "{name}" of the model is on the meta device, where tensors have no values. Load the '
                "weights: model.to_empty(device='cpu'), then model.load_state_dict(state_dict)."
            )


def _require_floating(model: nn.Module) -> None:
    """Raise OptionError if no parameter can move; warn if some cannot, because they are whole numbers."""
    parameters = dict(model.named_parameters())
    if not any(parameter.is_floating_point() or parameter.is_complex() for parameter in parameters.values()):
        packed = [name for name, module in model.named_modules() if hasattr(module, "_packed_params")]
        what = f"its weights are quantised (packed in {packed[0]!r})" if packed else "all of them are whole numbers"
        raise OptionError(
            f"The model {type(model).__name__} has no parameter that can move: {what}. Pass the model "
            "before quantisation, with floating-point weights." if packed or parameters else
            f"The model {type(model).__name__} has no parameters, so nothing can move. Pass a model with weights."
        )  # fmt: skip
    whole = {n: p for n, p in parameters.items() if not (p.is_floating_point() or p.is_complex())}
    if whole:
        name, first = next(iter(whole.items()))
        count = sum(parameter.numel() for parameter in whole.values())
        warnings.warn(
            f'{count:,} numbers in {len(whole)} tensors of dtype {first.dtype} (such as "{name}") do not move, '
            "because whole numbers cannot change by small steps. To let them move, pass the model before "
            "quantisation.",
            LossnavWarning,
            stacklevel=4,
        )


def _patterns(words: Any, model: nn.Module) -> str | list[str]:
    """Return the patterns of `params=`, with the first name of each tied weight that they match by another name.

    Raises
    ------
    OptionError
        If `params` holds tensors; the message gives their names.
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
            f"params= contains {described(wrong[0])}; it takes names of parameters or glob patterns. Pass {line}."
        )
    firsts = {first for name, first in weights.aliases_of(model).items() if first and algebra.select([name], listed)}
    return listed + sorted(firsts) if firsts else words


def _drops(module: nn.Module) -> bool:
    """Whether a layer drops values in train mode: Dropout, or an LSTM, GRU or MultiheadAttention with dropout."""
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return module.dropout > 0
    return isinstance(module, nn.modules.dropout._DropoutNd)
