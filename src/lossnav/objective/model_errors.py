"""Diagnoses of errors that the model or `forward=` raised: each returns a message, or nothing if it does not apply."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lossnav._utils.validation import described
from lossnav.objective import batch_tensors
from lossnav.objective.batch_tensors import TARGET_KEYS
from lossnav.objective.batch_words import first_line, shapes
from lossnav.objective.scene import OF_ARGUMENTS, OF_DTYPES, Scene


def _one_sample(scene: Scene) -> str:
    """The data is a list of samples: lossnav takes each of them for a batch."""
    batch = scene.batch
    if isinstance(batch, Mapping):
        key = next((key for key in TARGET_KEYS if key in batch), None)
        target = None if key is None else batch[key]
    else:
        target = batch[-1] if isinstance(batch, list | tuple) and len(batch) > 1 else None
    is_single = isinstance(target, int | float) or (isinstance(target, Tensor) and target.dim() == 0)
    if not is_single or isinstance(target, bool):
        return ""
    return (
        f"A batch is {shapes(batch)}, which looks like one sample: lossnav takes a list for a list of batches. Let "
        "torch make batches of your samples: data=torch.utils.data.DataLoader(samples, batch_size=32)."
    )


def _keywords(scene: Scene) -> str:
    batch = scene.batch
    if not isinstance(batch, Mapping) or not isinstance(scene.error, TypeError):
        return ""
    if not OF_ARGUMENTS.search(str(scene.error)):
        return ""
    target = next((key for key in TARGET_KEYS if key in batch), None)
    given = [key for key in batch if key != target or scene.loss.function is None]
    taken = ", ".join(_arguments(scene.model)) or "nothing"
    wanted = "" if target is None else f", batch[{target!r}]"
    return (
        "A batch is a dict and its keys are the arguments of the model: the model was given "
        f"{', '.join(map(str, given))} but takes {taken}. Pass forward=lambda model, batch: "
        f"(model(batch[{given[0]!r}]){wanted or ', targets'})."
    )


def _positions(scene: Scene) -> str:
    batch = scene.batch
    if not isinstance(batch, list | tuple) or not isinstance(scene.error, TypeError):
        return ""
    if not OF_ARGUMENTS.search(str(scene.error)):
        return ""
    given = len(batch) if scene.loss.function is None else len(batch) - 1
    plain = all(isinstance(part, int | float | list) for part in batch)
    line = "(torch.tensor(x), torch.tensor(y))" if plain else ""
    if not plain and "missing" in str(scene.error):
        line = f"({', '.join(_arguments(scene.model))}{'' if scene.loss.function is None else ', y'})"
    line = f"Pass data={line}." if line else "Pass forward=lambda model, batch: (model(batch[0]), batch[-1])."
    return (
        f"A batch is {described(batch)}, and all entries but the last are the arguments of the model: the model was "
        f"given {given} but takes {', '.join(_arguments(scene.model)) or 'none'}. {line}"
    )


def _dtype_of_inputs(scene: Scene) -> str:
    if not OF_DTYPES.search(str(scene.error)):
        return ""
    weights = next((p for p in scene.model.parameters() if p.is_floating_point()), None)
    inputs = [tensor for tensor in _inputs(scene.batch) if tensor.dtype != getattr(weights, "dtype", tensor.dtype)]
    if weights is None or not inputs:
        return ""
    dtype = str(weights.dtype).removeprefix("torch.")
    other = str(inputs[0].dtype).removeprefix("torch.")
    scale = " / 255" if inputs[0].dtype == torch.uint8 else ""
    line = f"(x.to(torch.{dtype}){scale}, y)"
    return f"The inputs are {other} and the weights of the model {dtype}: {first_line(scene.error)}. Pass data={line}."


def _other_device(scene: Scene) -> str:
    if "same device" not in str(scene.error) and "meta" not in str(scene.error):
        return ""
    held = "" if scene.part == "model" else " (such as the class weights of a loss)"
    return (
        f"{scene.who} holds tensors on another device than the data{held}: {first_line(scene.error)}. Move it to the "
        f"device of the data with {'model' if scene.part == 'model' else 'loss'}.to(device), and pass device=."
    )


def _arguments(model: nn.Module) -> list[str]:
    return list(inspect.signature(model.forward).parameters)


def _inputs(batch: Any) -> list[Tensor]:
    """The tensors of a batch except the targets."""
    if isinstance(batch, Mapping):
        batch = [part for key, part in batch.items() if key not in TARGET_KEYS]
    elif isinstance(batch, list | tuple) and len(batch) > 1:
        batch = list(batch[:-1])
    return list(batch_tensors.tensors(batch))


OF_MODEL = (_one_sample, _keywords, _positions, _dtype_of_inputs, _other_device)
OF_FORWARD = (_one_sample, _dtype_of_inputs, _other_device)
