"""One batch through the model: from the batch to the inputs, from the outputs to loss and metrics."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lossnav._utils.validation import described
from lossnav.errors import (
    DataError,
    OptionError,
)
from lossnav.objective.batch_tensors import TARGET_KEYS, Batch, map_tensors
from lossnav.objective.counting import Counting
from lossnav.objective.diagnosis import no_pair
from lossnav.objective.functional import Measured, StepValues
from lossnav.objective.loss import Loss, with_gradients
from lossnav.objective.metrics import Metric, check_metric, measure_metrics
from lossnav.objective.readings import LossMisjudgedError
from lossnav.params import Params

Forward = Callable[[Any, Batch], tuple[Any, Any]]


def _part_with_parameters(module: nn.Module, params: Mapping[str, Tensor]) -> nn.Module | None:
    """The part of a module whose parameters have these names and dtypes; None if there is none.

    Wrappers add a prefix to the names of the module they wrap. A module with another dtype is copied.
    """
    for part in module.modules():
        own = dict(part.named_parameters(remove_duplicate=False))
        if all(name in own and own[name].shape == tensor.shape for name, tensor in params.items()):
            if all(own[name].dtype == tensor.dtype for name, tensor in params.items()):
                return part
            dtypes = {tensor.dtype for tensor in params.values()}
            return copy.deepcopy(part).to(dtypes.pop()) if len(dtypes) == 1 else None
    return None


def _measure(
    forward: Forward, loss: Loss, metrics: Mapping[str, Metric], count: Counting, model: Any, batch: Batch
) -> StepValues:
    """Pass one batch through the model; return its number of samples and, by name, means or values per sample.

    This is not a method, because the copied structure keeps a reference to it: a subset would keep all the data alive.
    """

    def measure() -> StepValues:
        watch = loss.watch()
        with watch if watch is not None and loss.function is None else nullcontext():
            outputs, targets = _pair(forward(model, batch))
        n = count(batch, targets)
        with watch if watch is not None and loss.function is not None else nullcontext():
            value = loss(outputs, targets, n)
        values: dict[str, Measured] = {"loss": loss.weigh(value, watch, outputs, targets)}
        values |= measure_metrics(metrics, loss, value, watch, outputs, targets, n)
        return n, values if torch.is_grad_enabled() else map_tensors(values, Tensor.detach)

    try:
        return with_gradients(loss, measure)
    except LossMisjudgedError as error:
        error.batch = batch
        raise


def _require_callable_with(function: Callable[..., Any], has_data: bool) -> None:
    """Raise OptionError if a function cannot be called with parameters, and with a batch if there is data."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*([None, None] if has_data else [None]))
    except TypeError:
        call = "function(params, batch)" if has_data else "function(params)"
        raise OptionError(
            f"The function takes ({', '.join(signature.parameters)}), but {'with' if has_data else 'without'} data it "
            f"is called as {call}. {'Take both' if has_data else 'Pass data=, or a function of parameters alone'}."
        ) from None


def _pair(made: Any) -> tuple[Any, Any]:
    """Check that `forward=` returned a pair; a tensor of two rows is not one."""
    if isinstance(made, tuple | list) and len(made) == 2:
        return made[0], made[1]
    raise OptionError(
        f"forward= returned {described(made)}. Return outputs and targets: "
        "forward=lambda model, batch: (model(batch[0]), batch[1])."
    )


def _measure_function(
    function: Callable[..., Any],
    loss: Loss,
    metrics: Mapping[str, Metric],
    count: Counting,
    has_data: bool,
    point: Params,
    batch: Batch,
) -> StepValues:
    """Call a bare function of parameters on one batch, in the same way."""
    arguments = (point, batch) if has_data else (point,)
    n = count(batch, None) if has_data else 1

    def measure() -> StepValues:
        watch = loss.watch()
        with watch if watch is not None else nullcontext():
            value = loss.check(function(*arguments), n)
        values: dict[str, Measured] = {"loss": loss.weigh(value, watch, None, None)}
        for name, metric in metrics.items():
            values[name] = check_metric(name, metric(*arguments), n)
        return n, values if torch.is_grad_enabled() else map_tensors(values, Tensor.detach)

    try:
        return with_gradients(loss, measure)
    except LossMisjudgedError as error:
        error.batch = batch
        raise


def _tensor_of(name: Any, value: Any) -> Tensor:
    """A parameter of a bare function as a tensor.

    Raises
    ------
    OptionError
        If the name is not a string, or the value cannot be converted to a tensor.
    """
    if not isinstance(name, str):
        raise OptionError(
            f"A parameter has the name {name!r}, which is {described(name)}. Use strings as names: {{{str(name)!r}: "
            "…}."
        )
    if isinstance(value, Mapping) and not value:
        raise OptionError(f'The parameter "{name}" is an empty dict, not a tensor. Leave it out.')
    if isinstance(value, Mapping):
        names = [f"{name}.{key}" for key in value]
        flat = ", ".join(f'"{each}": …' for each in names[:3])
        raise OptionError(
            f'The parameter "{name}" is a dict, not a tensor. Pass one flat dict, {{{flat}}}; the function then reads '
            f'params["{names[0]}"].'
        )
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise OptionError(
            f'The parameter "{name}" is {described(value)}, which torch cannot convert to a tensor ({error}). Pass a '
            'dict of name to tensor: {"x": torch.zeros(2)}; pass the tensors of a list one by one, as "x.0" and '
            '"x.1".'
        ) from error


def _default_forward(own_loss: bool, model: Any, batch: Batch) -> tuple[Any, Any]:
    """Outputs and targets of a batch that has one of the usual forms."""
    if isinstance(batch, Mapping):
        key = next((key for key in TARGET_KEYS if key in batch), None)
        targets = None if key is None else batch[key]
        if own_loss:
            return model(**batch), targets
        if key is not None:
            return model(**{name: part for name, part in batch.items() if name != key}), targets
        raise DataError(
            f"A batch is a dict with keys {', '.join(map(str, batch))}, none of them {', '.join(TARGET_KEYS)}. "
            "Pass forward=lambda model, batch: (outputs, targets)."
        )
    if own_loss and isinstance(batch, list | tuple | Tensor):
        return (model(batch) if isinstance(batch, Tensor) else model(*batch)), batch[-1]
    if isinstance(batch, list | tuple) and len(batch) >= 2:
        return model(*batch[:-1]), batch[-1]
    raise no_pair(batch)


def _no_model(model: Any, loss: Any) -> OptionError:
    """The error if something other than a model is passed as the model."""
    start = f"The model is {described(model)}, not an nn.Module. "
    if isinstance(loss, nn.Module) and callable(model):
        return OptionError(f"{start}The order is ln.Objective(model, loss, data).")
    if isinstance(model, type):
        return OptionError(f"{start}Pass an instance with trained weights: {model.__name__}(…).")
    if isinstance(model, Mapping | str | os.PathLike):
        load = "torch.load(path, weights_only=True)" if not isinstance(model, Mapping) else "state_dict"
        return OptionError(
            f"{start}Weights alone cannot be called: build the model they belong to, then call "
            f"model.load_state_dict({load})."
        )
    return OptionError(f"{start}For a function of parameters use ln.Objective.from_function(f, params).")
