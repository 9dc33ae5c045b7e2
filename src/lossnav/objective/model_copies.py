"""Copies of a model, and of what is measured with it, for passes with other weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from lossnav.objective import contents as contents_module
from lossnav.objective.functional import StepFunction, _set_mode, users_parts


def copied_together(
    model: nn.Module, step: StepFunction, memo: dict[int, Any], training: bool = False
) -> tuple[nn.Module, StepFunction]:
    """Copy a model, then the step; if the step refers to the model, its copy refers to the copy."""
    made = contents_module.copied(model, memo)
    if contents_module.is_shared(list(model.modules()), list(made.modules())):
        raise TypeError("its copy is the model itself, by its own __deepcopy__")
    return made, copied_step(step, memo, training)


def copied_step(step: StepFunction, memo: dict[int, Any], training: bool = False) -> StepFunction:
    """Copy a step, in eval or train mode; return the step itself if it cannot be copied."""
    try:
        made = contents_module.copied(step, dict(memo))
    except Exception:
        return step
    if contents_module.is_shared(users_parts(step), users_parts(made)):
        return step
    _set_mode(users_parts(made), training)
    return made


def to_double_(model: nn.Module | None, step: StepFunction) -> None:
    """Convert the parameters, buffers and plain tensors of a model and a step to float64, in place."""
    modules = [part for part in contents_module.reachable(users_parts(step)) if isinstance(part, nn.Module)]
    for module in [*(model.double().modules() if model is not None else ()), *modules]:
        module.double()
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(module, name, value.double())


def hollow(parameter: Tensor, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """A parameter of NaNs that takes no memory; other dtypes than floating point are returned unchanged."""
    if not parameter.is_floating_point():
        return parameter
    nan = torch.full((), math.nan, dtype=dtype, device=device or parameter.device)
    return nn.Parameter(nan.expand(parameter.shape), requires_grad=False)


def computed_attributes(model: nn.Module) -> dict[int, Tensor]:
    """Copies of tensors with a graph (`weight` of old weight_norm or pruning), for the memo of a deepcopy."""
    held = (value for module in model.modules() for value in vars(module).values())
    return {id(value): value.detach().clone() for value in held if isinstance(value, Tensor) and not value.is_leaf}


def attributes_of_copy(model: nn.Module) -> dict[int, Any]:
    """The same for a full copy; views of a weight become views of its copy."""
    memo: dict[int, Any] = dict(computed_attributes(model))
    owners = {p.untyped_storage().data_ptr(): p for p in model.parameters() if p.layout == torch.strided and p.numel()}
    for tensor in contents_module.tensors([value for m in model.modules() for value in vars(m).values()]):
        if isinstance(tensor, nn.Parameter) or id(tensor) in memo or tensor.layout != torch.strided:
            continue
        owner = owners.get(tensor.untyped_storage().data_ptr())
        if owner is not None and owner.untyped_storage().nbytes() == owner.numel() * owner.element_size():
            whole = copy.deepcopy(owner, memo).detach()
            memo[id(tensor)] = whole.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
    return memo
