"""Diagnoses of errors that the loss or a metric raised: each returns a message, or nothing if it does not apply."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossnav._utils.validation import described
from lossnav.objective.batch_tensors import TARGET_KEYS
from lossnav.objective.batch_words import dtype_of, first_line, inner, reshape_to, reshaped, shapes
from lossnav.objective.model_errors import _one_sample, _other_device
from lossnav.objective.scene import OF_DTYPES, Scene

_CLASS_LOSSES = (F.cross_entropy, F.nll_loss, nn.CrossEntropyLoss, nn.NLLLoss)

_YES_OR_NO = (
    F.binary_cross_entropy, F.binary_cross_entropy_with_logits, nn.BCELoss, nn.BCEWithLogitsLoss,
)  # fmt: skip

_OF_PROBABILITIES = (F.binary_cross_entropy, nn.BCELoss)


def _outputs_of_several(scene: Scene) -> str:
    outputs = scene.outputs
    if isinstance(outputs, Tensor) or outputs is None:
        return ""
    call = "model(batch[0])"
    if isinstance(scene.batch, Mapping):
        key = next((key for key in scene.batch if key not in TARGET_KEYS), "x")
        call = f"model(batch[{key!r}])"
    target = "batch[-1]"
    if isinstance(scene.batch, Mapping):
        target = f"batch[{next((key for key in TARGET_KEYS if key in scene.batch), 'y')!r}]"
    if isinstance(outputs, Mapping):
        name = next((key for key, part in outputs.items() if isinstance(part, Tensor)), next(iter(outputs), "out"))
        taken = f"{call}[{name!r}]"
    elif isinstance(outputs, list | tuple):
        taken = f"{call}[0]"
    else:
        names = [name for name, part in vars(outputs).items() if isinstance(part, Tensor)]
        taken = f"{call}.{names[0] if names else 'out'}"
    return (
        f"The model returns {shapes(outputs)}, and the loss {scene.loss.name} needs one tensor. Pass "
        f"forward=lambda model, batch: ({taken}, {target})."
    )


def _labels(scene: Scene) -> str:
    """Targets of cross-entropy and NLL: whole numbers, one per sample or position, in the range of the classes."""
    outputs, targets = scene.outputs, scene.targets
    if not scene.is_one_of(_CLASS_LOSSES) or not isinstance(targets, Tensor):
        return ""
    classes = outputs.shape[1] if outputs.dim() > 1 else outputs.shape[0]
    fitting = outputs.shape[:1] + outputs.shape[2:]
    given = f"{tuple(targets.shape)} {dtype_of(targets)}"
    if not outputs.is_floating_point():
        return (
            f"The model returns {inner(outputs)}, which look like classes, but {scene.loss.name} needs one score per "
            "class. Let the model return its scores, without argmax."
        )
    if outputs.dim() > 2 and targets.shape == outputs.shape[:-1] and targets.shape != fitting:
        return (
            f"The outputs have shape {tuple(outputs.shape)} and the targets {tuple(targets.shape)}, but "
            f"{scene.loss.name} needs the classes along axis 1. Pass forward=lambda model, batch: "
            "(model(batch[0]).movedim(-1, 1), batch[-1])."
        )
    if targets.shape == outputs.shape and not targets.is_floating_point():
        return (
            f"The targets are {given}, the shape of the outputs: one binary target per class. Classes are whole "
            "numbers and probabilities are floating-point numbers: pass data=(x, y.argmax(1)), or data=(x, "
            "y.float())."
        )
    if targets.numel() == fitting.numel() and targets.shape != fitting:
        return (
            f"The targets have shape {tuple(targets.shape)}, but classes for outputs of shape {tuple(outputs.shape)} "
            f"have shape {tuple(fitting)}. Pass data=(x, {reshape_to(fitting, targets)})."
        )
    if targets.shape == fitting and targets.dtype != torch.long:
        return (
            f"The targets are {dtype_of(targets)}, but {scene.loss.name} needs classes as whole numbers (int64). Pass "
            "data=(x, y.long())."
        )
    if targets.shape != fitting and not targets.is_floating_point():
        return (
            f"The targets have shape {tuple(targets.shape)}, but classes for outputs of shape {tuple(outputs.shape)} "
            f"have shape {tuple(fitting)}. Pass targets of that shape, or the outputs that belong to them: "
            "forward=lambda model, batch: (outputs, targets)."
        )
    ignored = getattr(scene.loss.function, "ignore_index", -100)
    counted = targets[targets != ignored]
    if not targets.is_floating_point() and len(counted) and not 0 <= int(counted.min()) <= int(counted.max()) < classes:
        low, high = int(counted.min()), int(counted.max())
        line = (
            f"Leave such targets out: loss=nn.CrossEntropyLoss(ignore_index={low})." if low < 0
            else "Count classes from 0: data=(x, y - 1)." if high == classes
            else f"Give the model {high + 1} outputs, or pass loss=nn.CrossEntropyLoss(ignore_index={high})."
        )  # fmt: skip
        return (
            f"The targets range from {low} to {high}, but the model has {classes} outputs, for the classes 0 to "
            f"{classes - 1}. {line}"
        )
    return ""


def _yes_or_no(scene: Scene) -> str:
    outputs, targets = scene.outputs, scene.targets
    if not scene.is_one_of(_YES_OR_NO) or not isinstance(targets, Tensor):
        return ""
    if outputs.shape != targets.shape:
        return (
            f"The outputs have shape {tuple(outputs.shape)} and the targets {tuple(targets.shape)}, but "
            f"{scene.loss.name} needs one target per output. Pass data=(x, {reshaped(outputs, targets)})."
        )
    if not targets.is_floating_point():
        return (
            f"The targets are {dtype_of(targets)}, but {scene.loss.name} needs floating-point numbers. Pass data=(x, "
            "y.float())."
        )
    if scene.is_one_of(_OF_PROBABILITIES) and not bool(((outputs >= 0) & (outputs <= 1)).all()):
        return (
            f"The outputs range from {float(outputs.min()):.3g} to {float(outputs.max()):.3g}, but {scene.loss.name} "
            'needs probabilities from 0 to 1. Pass loss="binary_cross_entropy_with_logits", or end the model with a '
            "sigmoid."
        )
    return ""


def _no_targets(scene: Scene) -> str:
    if scene.targets is not None:
        return ""
    return (
        f"There are no targets, but the loss {scene.loss.name} needs outputs and targets. Pass data=(x, y), or "
        "forward=lambda model, batch: (outputs, targets); pass loss=None if the model returns its own loss."
    )


def _targets_of_python(scene: Scene) -> str:
    if isinstance(scene.targets, Tensor) or not isinstance(scene.targets, list | tuple | int | float):
        return ""
    return (
        f"The targets of a batch are {described(scene.targets)}, but the loss {scene.loss.name} needs a tensor. Pass "
        "data=(x, torch.tensor(y))."
    )


def _arity(scene: Scene) -> str:
    """A function that cannot be called with outputs and targets."""
    function = scene.loss.function if scene.part == "loss" else scene.loss
    if scene.part == "metric":
        function = scene.outputs
    if not isinstance(scene.error, TypeError) or isinstance(function, nn.Module):
        return ""
    taken = list(inspect.signature(function).parameters)
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        call = "loss" if scene.part == "loss" else "metric"
        return (
            f"{scene.who} takes ({', '.join(taken)}), but is called as {call}(outputs, targets). Pass a function of "
            "two arguments: lambda outputs, targets: …"
        )
    return ""


def _dtypes_of_both(scene: Scene) -> str:
    outputs, targets = scene.outputs, scene.targets
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)) or outputs.dtype == targets.dtype:
        return ""
    if not OF_DTYPES.search(str(scene.error)):
        return ""
    return (
        f"The outputs are {dtype_of(outputs)} and the targets {dtype_of(targets)}: {first_line(scene.error)}. Pass "
        f"data=(x, y.to({outputs.dtype}))."
    )


OF_LOSS = (
    _arity, _outputs_of_several, _one_sample, _no_targets, _targets_of_python, _labels, _yes_or_no, _other_device,
    _dtypes_of_both,
)  # fmt: skip
OF_METRIC = (_arity,)
