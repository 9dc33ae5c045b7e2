"""Where an error was raised while a batch was measured, and with what, read from the frames of its traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

OF_DTYPES = re.compile(r"dtype|scalar type|data type|Byte|Double|type .* should be the same|same type", re.I)

OF_ARGUMENTS = re.compile(r"positional argument|keyword argument|required argument|argument\(s\)")

_HOME, _TORCH = Path(__file__).parents[1].as_posix(), Path(torch.__file__).parent.as_posix()


@dataclass
class Scene:
    """Where an error was raised, and the objects there.

    Attributes
    ----------
    part : "model", "forward", "loss", "metric" or "count"
    name : str
        Name of the metric.
    model, batch, loss, outputs, targets : object
        The objects, if they existed already.
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
        """The part, for messages."""
        return {
            "model": f"The model {type(self.model).__name__}",
            "forward": "forward=",
            "loss": f"The loss {self.loss.name}",
            "metric": f"The metric {self.name!r}",
            "count": "count=",
        }[self.part]

    def is_one_of(self, losses: tuple[Any, ...]) -> bool:
        """Whether the loss is one of these functions of torch, or a module of one of these classes."""
        function = self.loss.function
        return function in losses or type(function) in losses


def _frames(error: Exception) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def scene_of(error: Exception) -> Scene | None:
    """Read the frames of an error; None if it was not raised while a batch was measured."""
    frames = [frame for frame in _frames(error) if Path(frame.f_code.co_filename).as_posix().startswith(_HOME)]
    at = next((i for i, frame in enumerate(frames) if frame.f_code.co_qualname == "_measure.<locals>.measure"), None)
    if at is None:
        return None
    here, inside = frames[at].f_locals, [frame.f_code for frame in frames[at + 1 :]]
    names = {code.co_name: frame for code, frame in zip(inside, frames[at + 1 :], strict=True)}
    scene = Scene(error, "forward", here["model"], here["batch"], here["loss"])
    if "outputs" not in here:
        scene.part = "model" if any("_default_forward" in code.co_qualname for code in inside) else "forward"
        return scene
    scene.outputs, scene.targets = here["outputs"], here["targets"]
    if "measure_metrics" in names:
        local = names["measure_metrics"].f_locals
        scene.part, scene.name = "metric", str(local.get("name", ""))
        scene.outputs = local.get("metric")  # a diagnosis looks only at the signature of a metric
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


def place_of(error: Exception) -> str:
    """The line of the user's code that raised."""
    own = [f for f in _frames(error) if not Path(f.f_code.co_filename).as_posix().startswith((_HOME, _TORCH))]
    if not own:
        return ""
    trace = error.__traceback__
    line = 0
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame is own[-1] else line
        trace = trace.tb_next
    return f" ({Path(own[-1].f_code.co_filename).name}:{line}, in {own[-1].f_code.co_name})"
