"""Explain an error of the model, the loss or a metric on a batch: one sentence, and one line to type.

An error of torch names an operation, but the cause is usually a shape, a dtype or a container of the user's data. The
frames of the traceback show where the error was raised, and with what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossnav._utils.validation import described
from lossnav.errors import DataError, LossnavError, LossShapeError, ObjectiveError
from lossnav.objective.batch_tensors import TARGET_KEYS
from lossnav.objective.batch_words import first_line, reshaped, shapes
from lossnav.objective.loss_errors import OF_LOSS, OF_METRIC
from lossnav.objective.model_errors import OF_FORWARD, OF_MODEL
from lossnav.objective.scene import Scene, place_of, scene_of

_ELEMENTWISE = (
    F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss,
)  # fmt: skip


def explained(error: Exception, always: bool = False) -> Exception:
    """Return an error that explains another one; the same error if nothing is known about it.

    Parameters
    ----------
    error : Exception
        An error that was raised while a batch was measured.
    always : bool
        Whether to describe an error without a diagnosis too: which part raised it, on what.
    """
    if isinstance(error, LossnavError | MemoryError | torch.OutOfMemoryError):
        return error
    scene = scene_of(error)
    if scene is None:
        return error
    for diagnosis in _DIAGNOSES[scene.part]:
        try:
            message = diagnosis(scene)
        except Exception:  # the diagnosis does not fit these objects
            continue
        if message:
            return DataError(message) if scene.part != "metric" else LossShapeError(message)
    if not always:
        return error
    return ObjectiveError(
        f"{scene.who} raised {type(error).__name__} on a batch of {shapes(scene.batch)}: {first_line(error)}"
        f"{place_of(error)}. {_REMEDIES[scene.part]}"
    )


_DIAGNOSES: dict[str, tuple[Callable[[Scene], str], ...]] = {
    "model": OF_MODEL,
    "forward": OF_FORWARD,
    "loss": OF_LOSS,
    "metric": OF_METRIC,
    "count": (),
}
_REMEDIES = {
    "model": "Pass data that the model takes, or a function that calls it: forward=lambda model, batch: (outputs, "
    "targets).",
    "forward": "It is called with the model and a batch, and must return (outputs, targets).",
    "loss": "It is called with the outputs of the model and the targets; forward=lambda model, batch: (outputs, "
    "targets) chooses them.",
    "metric": "It is called with outputs and targets: metrics={'name': lambda outputs, targets: …}.",
    "count": "It is called with a batch and must return its number of samples.",
}


def require_same_size(loss: Any, outputs: Any, targets: Any) -> None:
    """Raise if an elementwise loss of torch would compare every sample with every other.

    torch broadcasts outputs (n, 1) and targets (n,) to (n, n), with a warning.

    Raises
    ------
    DataError
        With the shapes.
    """
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)) or outputs.shape == targets.shape:
        return
    if not (loss in _ELEMENTWISE or type(loss) in _ELEMENTWISE):
        return
    try:
        made = torch.broadcast_shapes(outputs.shape, targets.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:  # then torch raises too
        return
    if made.numel() > max(outputs.numel(), targets.numel()):
        raise DataError(
            f"The outputs have shape {tuple(outputs.shape)} and the targets {tuple(targets.shape)}, so this loss "
            f"would compare every sample with every other (torch broadcasts them to {tuple(made)}). Pass targets with "
            f"the shape of the outputs: {reshaped(outputs, targets)}; if the comparison is intended, pass a function "
            "of your own: loss=lambda outputs, targets: …"
        )


def no_pair(batch: Any) -> DataError:
    """The error for a batch that does not unpack into inputs and targets."""
    if isinstance(batch, Tensor):
        return DataError(
            f"A batch is one tensor, {shapes(batch)}, so there are no targets. Pass data as a tuple (x, y); a list is "
            "taken for a list of batches. Pass (x, x) for an autoencoder, and loss=None if the model returns its own "
            "loss."
        )
    if isinstance(batch, list | tuple):
        return DataError(
            f"A batch is {shapes(batch)}, which does not unpack into (x, y). Pass "
            "forward=lambda model, batch: (outputs, targets)."
        )
    names = (
        [name for name, part in vars(batch).items() if isinstance(part, Tensor)] if hasattr(batch, "__dict__") else []
    )
    held = next((name for name in TARGET_KEYS if hasattr(batch, name)), names[-1] if names else "y")
    what = f" with {', '.join(names[:6])}" if names else ""
    return DataError(
        f"A batch is {described(batch)}{what}, which does not unpack into (x, y). "
        f"Pass forward=lambda model, batch: (model(batch), batch.{held})."
    )
