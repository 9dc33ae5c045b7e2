"""Batches, outputs and targets in words, for messages: shapes, dtypes, and expressions that one can type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lossnav._utils.validation import described


def shapes(value: Any) -> str:
    """A value by shapes and dtypes.

    >>> shapes((torch.zeros(2, 3), {"y": torch.zeros(2).long()}))
    'a tuple of ((2, 3) float32, {y: (2,) int64})'
    """
    entries = inner(value)
    if isinstance(value, Mapping):
        return f"a dict {entries}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {entries}"
    return entries


def inner(value: Any) -> str:
    """The shapes and dtypes of a value, without the type of its outermost container."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {dtype_of(value)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {inner(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        shown = [inner(part) for part in value[:4]]
        return "(" + ", ".join([*shown, "…"] if len(value) > 4 else shown) + ")"
    return described(value)


def dtype_of(tensor: Tensor) -> str:
    """A dtype without the prefix ``torch.``."""
    return str(tensor.dtype).removeprefix("torch.")


def reshaped(outputs: Tensor, targets: Tensor) -> str:
    """An expression that gives the targets ``y`` the shape of the outputs, and floating-point numbers if needed."""
    made = reshape_to(outputs.shape, targets)
    return made if targets.is_floating_point() or not outputs.is_floating_point() else f"{made}.float()"


def reshape_to(shape: torch.Size, targets: Tensor) -> str:
    """An expression that gives the targets ``y`` a shape."""
    if targets.shape[:-1] == shape and targets.shape[-1] == 1:
        return "y.squeeze(-1)"
    if targets.shape == shape[:-1] and shape[-1] == 1:
        return "y.unsqueeze(-1)"
    rest = ", ".join(str(length) for length in shape[1:])
    return f"y.reshape(len(y){', ' + rest if rest else ''})"


def first_line(error: Exception) -> str:
    """The first line of a message, without its full stop."""
    return (str(error).splitlines() or [""])[0].rstrip(".")
