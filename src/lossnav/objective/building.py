"""From what the user passes to the fields of an objective: validate it, copy it, and load the data.

One builder for a model and one for a bare function; both return `ObjectiveFields`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lossnav import params as algebra
from lossnav._utils import random_state
from lossnav._utils.moving import ALL, select_moving, trainable
from lossnav._utils.validation import described
from lossnav.checkpoints import weights
from lossnav.errors import OptionError
from lossnav.objective.batch_norm import BATCH_NORMS
from lossnav.objective.batches import Batches
from lossnav.objective.counting import resolve_count
from lossnav.objective.fields import ObjectiveFields
from lossnav.objective.forward import (
    Forward,
    _default_forward,
    _measure,
    _measure_function,
    _no_model,
    _require_callable_with,
    _tensor_of,
)
from lossnav.objective.functional import StepFunction
from lossnav.objective.layers import describe_layers
from lossnav.objective.loss import Loss, name_of
from lossnav.objective.metrics import Metric, resolve_metrics
from lossnav.objective.modes import (
    Mode,
    _counters,
    _mode,
    _recomputed_statistics,
    _require_seed,
    _warn_in_train_mode,
    resolve_device,
)
from lossnav.objective.parameters import (
    _parameters_of_loss,
    _patterns,
    _require_floating,
    require_initialised,
)
from lossnav.objective.passes import FunctionPasses, make_passes
from lossnav.objective.predictions import NamedMetric
from lossnav.objective.roles import describe_parameters, role_by_name
from lossnav.objective.selection import split


def of_model(
    model: nn.Module,
    loss: Callable[..., Any] | str | None,
    data: Any,
    *,
    metrics: Sequence[str | Metric] | Mapping[str, Metric],
    params: str | Sequence[str],
    reduction: str,
    forward: Forward | None,
    mode: Mode | None,
    bn: str | None,
    device: str | torch.device | None,
    batch_size: int | None,
    data_budget: int,
    seed: int,
    progress: bool | None,
    copy: bool,
    count: Any,
) -> tuple[ObjectiveFields, StepFunction]:
    """Build the fields of an objective of a model; the parameters are those of `Objective`.

    Returns
    -------
    fields : ObjectiveFields
    step : StepFunction
        With the user's own `forward=`, loss and metrics, of which the passes in the fields hold copies.
    """
    if not isinstance(model, nn.Module):
        raise _no_model(model, loss)
    mode, bn = _mode(mode, bn)
    _require_seed(seed)
    require_initialised(model)
    _require_floating(model)
    if mode == "eval":
        _warn_in_train_mode(model, bn)
    where = resolve_device(device, model)
    named_metrics = resolve_metrics(metrics)
    measured = Loss(loss, reduction)
    measured.read(count is None, any(isinstance(metric, NamedMetric) for metric in named_metrics.values()))
    counting = resolve_count(count)

    everything = dict(model.named_parameters())
    trained = trainable(everything)
    patterns = _patterns(params, model)
    names = select_moving(everything, patterns, trained)
    taken = algebra.copy(everything, where) if copy else algebra.detach(everything, where)
    roles, transposed = describe_parameters(model, everything)
    moving = split(names, taken, roles, transposed)
    recomputed = _recomputed_statistics(model, bn)
    buffers = algebra.copy(dict(model.named_buffers()), where)

    call = forward or partial(_default_forward, loss is None)
    step: StepFunction = partial(_measure, call, measured, named_metrics, counting)
    loss_parameters = _parameters_of_loss(measured, model)
    passes = make_passes(model, step, bn, where, mode == "train")
    with random_state.preserved(seed, where):
        batches = Batches(
            data,
            device=where,
            batch_size=batch_size,
            budget=data_budget,
            float_dtype=next(tensor.dtype for tensor in taken.values() if tensor.is_floating_point()),
            progress=progress,
            seed=seed,
        )
    fields = ObjectiveFields(
        name=type(model).__name__,
        mode=mode,
        bn=bn,
        seed=seed,
        device=where,
        params=moving.params,
        moves=patterns if isinstance(patterns, str) else list(patterns),
        roles=moving.roles,
        transposed=moving.transposed,
        batches=batches,
        _held=moving.held,
        _everything=tuple(taken),
        _trained=trained,
        _roles=roles,
        _transposed=transposed,
        _buffers=buffers,
        _aliases=weights.aliases_of(model),
        _optional=weights.optional_buffers(model) | recomputed,
        _extra=weights.extra_of(model.state_dict()),
        _adapters=weights.adapters_of(model),
        _layers=describe_layers(model, moving.roles),
        _unread=[name for name in buffers if name in recomputed | _counters(recomputed)],
        _pass=passes,
        _loss_parameters=loss_parameters,
        _counts=count is None,
        _of_batch=bn == "batch" and any(isinstance(module, BATCH_NORMS) for module in model.modules()),
        _writes_weights=False,
        _unplanned="",
    )
    return fields, step


def of_function(
    function: Callable[..., Any],
    params: Mapping[str, Tensor],
    data: Any,
    *,
    metrics: Mapping[str, Callable[..., Any]] | None,
    reduction: str,
    name: str | None,
    batch_size: int | None,
    data_budget: int,
    seed: int,
    count: Any,
) -> tuple[ObjectiveFields, StepFunction]:
    """Build the fields of an objective of a bare function; the parameters are those of `Objective.from_function`.

    Returns
    -------
    fields : ObjectiveFields
    step : StepFunction
        With the user's own function and metrics.
    """
    if isinstance(function, nn.Module):
        raise OptionError(
            f"The function is {described(function)}. Pass ln.Objective(model, loss, data), or a function of "
            "parameters: lambda params, batch: loss(torch.func.functional_call(model, params, batch[0]), batch[1])."
        )
    if not isinstance(params, Mapping):
        raise OptionError(
            f"The parameters are {described(params)}, not a dict of name to tensor. Pass "
            'dict(model.named_parameters()), or {"x": torch.zeros(2)}.'
        )
    if not params:
        raise OptionError("There are no parameters. Pass a dict of name to tensor.")
    has_data = data is not None
    _require_callable_with(function, has_data)
    tensors = {param_name: _tensor_of(param_name, value) for param_name, value in params.items()}
    for param_name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise OptionError(
                f'"{param_name}" is {tensor.dtype}, which cannot move by small steps. Pass floating-point tensors.'
            )
    title = name or name_of(function)
    roles = {param_name: role_by_name(param_name) for param_name in tensors}
    moving = split(tensors, algebra.copy(tensors), roles, {})
    device = next(iter(moving.params.values())).device
    named_metrics = resolve_metrics(metrics or {})
    measured = Loss(None, reduction)
    measured.name = title
    measured.read(has_data and count is None, predicts=False)
    if predicting := [key for key, metric in named_metrics.items() if isinstance(metric, NamedMetric)]:
        raise OptionError(
            f"metric {predicting[0]!r} needs outputs and targets, which a bare function does not give. Pass a function "
            "with the arguments of yours."
        )
    counting = resolve_count(count)
    batches = None
    if has_data:
        with random_state.preserved(seed, device):
            batches = Batches(data, device=device, batch_size=batch_size, budget=data_budget, seed=seed)
        batches.written_to = True  # it is not known whether the function writes into them
    step: StepFunction = partial(_measure_function, function, measured, named_metrics, counting, has_data)
    fields = ObjectiveFields(
        name=title,
        mode="eval",
        bn="frozen",
        seed=seed,
        device=device,
        params=moving.params,
        moves=ALL,
        roles=moving.roles,
        transposed=moving.transposed,
        batches=batches,
        _held=moving.held,
        _everything=tuple(tensors),
        _trained=frozenset(tensors),
        _roles=roles,
        _transposed={},
        _buffers={},
        _layers=None,
        _unread=[],
        _pass=FunctionPasses(step).apart(),
        _loss_parameters=0,
        _counts=count is None,
        _of_batch=False,
        _writes_weights=True,  # it is not known whether the function writes into them
        _unplanned="a bare function",
    )
    return fields, step
