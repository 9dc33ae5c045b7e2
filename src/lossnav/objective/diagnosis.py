"""Say what was wrong where the model, the loss or a metric raised on a batch: one sentence, and one line to type.

What torch raises names an operation; what is wrong is most often a shape, a dtype or a container of the user's data.
Where an error came from, and with what, stands in the frames of its traceback.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossnav._utils.validation import described
from lossnav.errors import DataError, LossnavError, LossShapeError, ObjectiveError
from lossnav.objective import batches as data_batches

_HOME, _TORCH = Path(__file__).parents[1].as_posix(), Path(torch.__file__).parent.as_posix()
_OF_DTYPES = re.compile(r"dtype|scalar type|data type|Byte|Double|type .* should be the same|same type", re.I)
_OF_ARGUMENTS = re.compile(r"positional argument|keyword argument|required argument|argument\(s\)")
_CLASS_LOSSES = (F.cross_entropy, F.nll_loss, nn.CrossEntropyLoss, nn.NLLLoss)
_YES_OR_NO = (
    F.binary_cross_entropy, F.binary_cross_entropy_with_logits, nn.BCELoss, nn.BCEWithLogitsLoss,
)  # fmt: skip
_OF_PROBABILITIES = (F.binary_cross_entropy, nn.BCELoss)
_ELEMENTWISE = (
    F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss,
)  # fmt: skip
TARGET_KEYS = ("labels", "label", "targets", "target", "y")


@dataclass
class _Scene:
    """Where an error was raised, and what was there.

    Attributes
    ----------
    part : "model", "forward", "loss", "metric" or "count"
    name : str
        Of the metric.
    model, batch, loss, outputs, targets : object
        As far as they were there.
    """

    error: Exception
    part: str
    model: Any
    batch: Any
    loss: Any
    outputs: Any = None
    targets: Any = None
    name: str = ""

    @property
    def who(self) -> str:
        """The part in words."""
        return {
            "model": f"The model {type(self.model).__name__}",
            "forward": "forward=",
            "loss": f"The loss {self.loss.name}",
            "metric": f"The metric {self.name!r}",
            "count": "count=",
        }[self.part]

    def is_one_of(self, losses: tuple[Any, ...]) -> bool:
        """Whether the loss is one of torch's: the function itself, or a module of the class."""
        function = self.loss.function
        return function in losses or type(function) in losses


def explained(error: Exception, always: bool = False) -> Exception:
    """What is wrong, as an error of ours; the error itself where nothing is known about it.

    Parameters
    ----------
    error : Exception
        That was raised while a batch was measured.
    always : bool
        Whether an error that is not understood is put in words too: which part raised it, on what.
    """
    if isinstance(error, LossnavError | MemoryError | torch.OutOfMemoryError):
        return error
    scene = _scene(error)
    if scene is None:
        return error
    for diagnosis in _DIAGNOSES[scene.part]:
        try:
            message = diagnosis(scene)
        except Exception:  # what it looked at is of another kind
            continue
        if message:
            return DataError(message) if scene.part != "metric" else LossShapeError(message)
    if not always:
        return error
    return ObjectiveError(
        f"{scene.who} raised {type(error).__name__} on a batch of {_shapes(scene.batch)}: {_first_line(error)}"
        f"{_place(error)}. {_REMEDIES[scene.part]}"
    )


_REMEDIES = {
    "model": "Pass data that the model takes, or say how to call it: forward=lambda model, batch: (outputs, targets).",
    "forward": "It is called with the model and a batch, and returns (outputs, targets).",
    "loss": "It is called with the outputs of the model and the targets; forward=lambda model, batch: (outputs, "
    "targets) says what these are.",
    "metric": "It is called with outputs and targets: metrics={'name': lambda outputs, targets: …}.",
    "count": "It is called with a batch and returns its number of samples.",
}


def require_same_size(loss: Any, outputs: Any, targets: Any) -> None:
    """Raise where a loss of torch's that compares entry by entry would compare every sample with every other.

    Of outputs (n, 1) and targets (n,) torch makes (n, n), with a warning.

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
            f"The outputs have shape {tuple(outputs.shape)} and the targets {tuple(targets.shape)}, so that this loss "
            f"compares every sample with every other (torch makes {tuple(made)} of them). Pass targets of the shape "
            f"of the outputs: {_reshaped(outputs, targets)}; if you do want that, a function of your own: "
            "loss=lambda outputs, targets: …"
        )


def no_pair(batch: Any) -> DataError:
    """The error for a batch that does not unpack into inputs and targets."""
    if isinstance(batch, Tensor):
        return DataError(
            f"A batch is one tensor, {_shapes(batch)}: there are no targets. Pass data as a tuple (x, y) and not as a "
            "list, which is taken for batches; (x, x) for an autoencoder; loss=None if the model returns its own loss."
        )
    if isinstance(batch, list | tuple):
        return DataError(
            f"A batch is {_shapes(batch)}, which does not unpack into (x, y). Pass "
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


# ---------------------------------------------------------------------- the model


def _one_sample(scene: _Scene) -> str:
    """A list of samples is taken for batches, and so each of them for a batch."""
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
        f"A batch is {_shapes(batch)}, which looks like one sample: a list is taken for batches. Let torch make "
        "batches of your samples: data=torch.utils.data.DataLoader(samples, batch_size=32)."
    )


def _keywords(scene: _Scene) -> str:
    batch = scene.batch
    if not isinstance(batch, Mapping) or not isinstance(scene.error, TypeError):
        return ""
    if not _OF_ARGUMENTS.search(str(scene.error)):
        return ""
    target = next((key for key in TARGET_KEYS if key in batch), None)
    given = [key for key in batch if key != target or scene.loss.function is None]
    taken = ", ".join(_arguments(scene.model)) or "nothing"
    wanted = "" if target is None else f", batch[{target!r}]"
    return (
        f"A batch is a dict and its keys are the arguments of the model: it was given {', '.join(map(str, given))} and "
        f"takes {taken}. Pass forward=lambda model, batch: (model(batch[{given[0]!r}]){wanted or ', targets'})."
    )


def _positions(scene: _Scene) -> str:
    batch = scene.batch
    if not isinstance(batch, list | tuple) or not isinstance(scene.error, TypeError):
        return ""
    if not _OF_ARGUMENTS.search(str(scene.error)):
        return ""
    given = len(batch) if scene.loss.function is None else len(batch) - 1
    plain = all(isinstance(part, int | float | list) for part in batch)
    line = "(torch.tensor(x), torch.tensor(y))" if plain else ""
    if not plain and "missing" in str(scene.error):
        line = f"({', '.join(_arguments(scene.model))}{'' if scene.loss.function is None else ', y'})"
    line = f"Pass data={line}." if line else "Pass forward=lambda model, batch: (model(batch[0]), batch[-1])."
    return (
        f"A batch is {described(batch)} and all but the last are the arguments of the model: it was given {given} and "
        f"takes {', '.join(_arguments(scene.model)) or 'none'}. {line}"
    )


def _dtype_of_inputs(scene: _Scene) -> str:
    if not _OF_DTYPES.search(str(scene.error)):
        return ""
    weights = next((p for p in scene.model.parameters() if p.is_floating_point()), None)
    inputs = [tensor for tensor in _inputs(scene.batch) if tensor.dtype != getattr(weights, "dtype", tensor.dtype)]
    if weights is None or not inputs:
        return ""
    dtype = str(weights.dtype).removeprefix("torch.")
    other = str(inputs[0].dtype).removeprefix("torch.")
    scale = " / 255" if inputs[0].dtype == torch.uint8 else ""
    line = f"(x.to(torch.{dtype}){scale}, y)"
    return f"The inputs are {other} and the weights of the model {dtype}: {_first_line(scene.error)}. Pass data={line}."


def _other_device(scene: _Scene) -> str:
    if "same device" not in str(scene.error) and "meta" not in str(scene.error):
        return ""
    held = "" if scene.part == "model" else " (the class weights of a loss, say)"
    return (
        f"{scene.who} holds tensors on another device than the data{held}: {_first_line(scene.error)}. Move it to one: "
        f"{'model' if scene.part == 'model' else 'loss'}.to(device), and pass device=."
    )


# ---------------------------------------------------------------------- the loss


def _outputs_of_several(scene: _Scene) -> str:
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
        f"The model returns {_shapes(outputs)}, and the loss {scene.loss.name} needs one tensor. Pass "
        f"forward=lambda model, batch: ({taken}, {target})."
    )


def _labels(scene: _Scene) -> str:
    """Targets of cross-entropy and NLL: whole numbers, one a sample or a position, within the classes."""
    outputs, targets = scene.outputs, scene.targets
    if not scene.is_one_of(_CLASS_LOSSES) or not isinstance(targets, Tensor):
        return ""
    classes = outputs.shape[1] if outputs.dim() > 1 else outputs.shape[0]
    fitting = outputs.shape[:1] + outputs.shape[2:]
    given = f"{tuple(targets.shape)} {_dtype(targets)}"
    if not outputs.is_floating_point():
        return (
            f"The model returns {_inner(outputs)}, classes as it seems, and {scene.loss.name} needs a score of each "
            "class. Let the model return its scores, without argmax."
        )
    if outputs.dim() > 2 and targets.shape == outputs.shape[:-1] and targets.shape != fitting:
        return (
            f"The outputs have shape {tuple(outputs.shape)} and the targets {tuple(targets.shape)}; {scene.loss.name} "
            "takes the classes along axis 1. Pass forward=lambda model, batch: (model(batch[0]).movedim(-1, 1), "
            "batch[-1])."
        )
    if targets.shape == outputs.shape and not targets.is_floating_point():
        return (
            f"The targets are {given}, of the shape of the outputs: one yes or no a class. Classes are whole numbers, "
            "and probabilities floating-point: pass data=(x, y.argmax(1)), or (x, y.float())."
        )
    if targets.numel() == fitting.numel() and targets.shape != fitting:
        return (
            f"The targets have shape {tuple(targets.shape)}, and classes for outputs of shape {tuple(outputs.shape)} "
            f"have {tuple(fitting)}. Pass data=(x, {_reshape_to(fitting, targets)})."
        )
    if targets.shape == fitting and targets.dtype != torch.long:
        return (
            f"The targets are {_dtype(targets)}, and {scene.loss.name} takes classes as whole numbers (int64). Pass "
            "data=(x, y.long())."
        )
    if targets.shape != fitting and not targets.is_floating_point():
        return (
            f"The targets have shape {tuple(targets.shape)}, and classes for outputs of shape {tuple(outputs.shape)} "
            f"have {tuple(fitting)}. Pass such targets, or what belongs to them: forward=lambda model, batch: "
            "(outputs, targets)."
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
            f"The targets run from {low} to {high}, and the model has {classes} outputs, for the classes 0 to "
            f"{classes - 1}. {line}"
        )
    return ""


def _yes_or_no(scene: _Scene) -> str:
    outputs, targets = scene.outputs, scene.targets
    if not scene.is_one_of(_YES_OR_NO) or not isinstance(targets, Tensor):
        return ""
    if outputs.shape != targets.shape:
        return (
            f"The outputs have shape {tuple(outputs.shape)} and the targets {tuple(targets.shape)}; "
            f"{scene.loss.name} takes one target an output. Pass data=(x, {_reshaped(outputs, targets)})."
        )
    if not targets.is_floating_point():
        return (
            f"The targets are {_dtype(targets)}, and {scene.loss.name} takes them as floating-point numbers. Pass "
            "data=(x, y.float())."
        )
    if scene.is_one_of(_OF_PROBABILITIES) and not bool(((outputs >= 0) & (outputs <= 1)).all()):
        return (
            f"The outputs run from {float(outputs.min()):.3g} to {float(outputs.max()):.3g}, and {scene.loss.name} "
            'takes probabilities from 0 to 1. Pass loss="binary_cross_entropy_with_logits", or end the model with a '
            "sigmoid."
        )
    return ""


def _no_targets(scene: _Scene) -> str:
    if scene.targets is not None:
        return ""
    return (
        f"There are no targets, and the loss {scene.loss.name} takes outputs and targets. Pass data=(x, y), or "
        "forward=lambda model, batch: (outputs, targets); loss=None if the model returns its own loss."
    )


def _targets_of_python(scene: _Scene) -> str:
    if isinstance(scene.targets, Tensor) or not isinstance(scene.targets, list | tuple | int | float):
        return ""
    return (
        f"The targets of a batch are {described(scene.targets)}, and the loss {scene.loss.name} needs a tensor. Pass "
        "data=(x, torch.tensor(y))."
    )


def _arity(scene: _Scene) -> str:
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
            f"{scene.who} takes ({', '.join(taken)}), and is called {call}(outputs, targets). Pass a function of two "
            f"arguments: lambda outputs, targets: …"
        )
    return ""


def _dtypes_of_both(scene: _Scene) -> str:
    outputs, targets = scene.outputs, scene.targets
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)) or outputs.dtype == targets.dtype:
        return ""
    if not _OF_DTYPES.search(str(scene.error)):
        return ""
    return (
        f"The outputs are {_dtype(outputs)} and the targets {_dtype(targets)}: {_first_line(scene.error)}. Pass "
        f"data=(x, y.to({outputs.dtype}))."
    )


_Diagnosis = Callable[[_Scene], str]
_OF_MODEL: tuple[_Diagnosis, ...] = (_one_sample, _keywords, _positions, _dtype_of_inputs, _other_device)
_DIAGNOSES: dict[str, tuple[_Diagnosis, ...]] = {
    "model": _OF_MODEL,
    "forward": (_one_sample, _dtype_of_inputs, _other_device),
    "loss": (
        _arity, _outputs_of_several, _one_sample, _no_targets, _targets_of_python, _labels, _yes_or_no,
        _other_device, _dtypes_of_both,
    ),
    "metric": (_arity,),
    "count": (),
}  # fmt: skip


# ---------------------------------------------------------------------- where it was


def _frames(error: Exception) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _scene(error: Exception) -> _Scene | None:
    """What the frames of an error say; None where it was not raised while a batch was measured."""
    frames = [frame for frame in _frames(error) if Path(frame.f_code.co_filename).as_posix().startswith(_HOME)]
    at = next((i for i, frame in enumerate(frames) if frame.f_code.co_qualname == "_measure.<locals>.measure"), None)
    if at is None:
        return None
    here, inside = frames[at].f_locals, [frame.f_code for frame in frames[at + 1 :]]
    names = {code.co_name: frame for code, frame in zip(inside, frames[at + 1 :], strict=True)}
    scene = _Scene(error, "forward", here["model"], here["batch"], here["loss"])
    if "outputs" not in here:
        scene.part = "model" if any("_default_forward" in code.co_qualname for code in inside) else "forward"
        return scene
    scene.outputs, scene.targets = here["outputs"], here["targets"]
    if "measure_metrics" in names:
        local = names["measure_metrics"].f_locals
        scene.part, scene.name = "metric", str(local.get("name", ""))
        scene.outputs = local.get("metric")  # what is looked at of a metric is how it is called
    elif "n" not in here:
        scene.part = "count"
    else:
        scene.part = "loss"
        scene.outputs = _logits(scene.outputs)
    return scene


def _logits(outputs: Any) -> Any:
    if isinstance(outputs, Mapping) and "logits" in outputs:
        return outputs["logits"]
    return getattr(outputs, "logits", outputs)


def _place(error: Exception) -> str:
    """The line of the user's own code that raised."""
    own = [f for f in _frames(error) if not Path(f.f_code.co_filename).as_posix().startswith((_HOME, _TORCH))]
    if not own:
        return ""
    trace = error.__traceback__
    line = 0
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame is own[-1] else line
        trace = trace.tb_next
    return f" ({Path(own[-1].f_code.co_filename).name}:{line}, in {own[-1].f_code.co_name})"


def _arguments(model: nn.Module) -> list[str]:
    return list(inspect.signature(model.forward).parameters)


def _inputs(batch: Any) -> list[Tensor]:
    """The tensors of a batch but for what is taken for the targets."""
    if isinstance(batch, Mapping):
        batch = [part for key, part in batch.items() if key not in TARGET_KEYS]
    elif isinstance(batch, list | tuple) and len(batch) > 1:
        batch = list(batch[:-1])
    return list(data_batches.tensors(batch))


def _shapes(value: Any) -> str:
    """A value by shapes and dtypes.

    >>> _shapes((torch.zeros(2, 3), {"y": torch.zeros(2).long()}))
    'a tuple of ((2, 3) float32, {y: (2,) int64})'
    """
    inner = _inner(value)
    if isinstance(value, Mapping):
        return f"a dict {inner}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {inner}"
    return inner


def _inner(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {_dtype(value)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_inner(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        shown = [_inner(part) for part in value[:4]]
        return "(" + ", ".join([*shown, "…"] if len(value) > 4 else shown) + ")"
    return described(value)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _reshaped(outputs: Tensor, targets: Tensor) -> str:
    made = _reshape_to(outputs.shape, targets)
    return made if targets.is_floating_point() or not outputs.is_floating_point() else f"{made}.float()"


def _reshape_to(shape: torch.Size, targets: Tensor) -> str:
    """An expression that brings targets to a shape, as one would type it."""
    if targets.shape[:-1] == shape and targets.shape[-1] == 1:
        return "y.squeeze(-1)"
    if targets.shape == shape[:-1] and shape[-1] == 1:
        return "y.unsqueeze(-1)"
    rest = ", ".join(str(length) for length in shape[1:])
    return f"y.reshape(len(y){', ' + rest if rest else ''})"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".")
