"""Device and mode of an objective, and what follows from train mode."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from lossnav.checkpoints import weights
from lossnav.errors import (
    DeviceError,
    OptionError,
    TrainModeWarning,
)
from lossnav.objective.batch_norm import BATCH_NORMS
from lossnav.objective.parameters import _drops

Mode = Literal["eval", "train"]

_DEVICE: ContextVar[str | torch.device | None] = ContextVar("device", default=None)


@contextmanager
def by_default_on(device: str | torch.device | None) -> Iterator[None]:
    """Let objectives that are made inside and name no device be on this one, wherever their model is."""
    token = _DEVICE.set(device)
    try:
        yield
    finally:
        _DEVICE.reset(token)


def resolve_device(device: str | torch.device | None, model: nn.Module) -> torch.device:
    """Return a device that is there; by default that of `by_default_on`, or the one the model is on.

    Raises
    ------
    DeviceError
        If it is not there.
    """
    device = _DEVICE.get() if device is None else device
    if device is None:
        first = next(iter(model.parameters()), next(iter(model.buffers()), None))
        return torch.device("cpu") if first is None else first.device
    try:
        resolved = torch.device(device)
        if resolved.type == "meta":
            raise DeviceError("On the meta device tensors have no values. Leave device= out, or use 'cpu'.")
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"The device {str(device)!r} is not there: {reason}. Leave device= out, or use 'cpu'."
        ) from None
    return resolved


_default_mode: ContextVar[Mode | None] = ContextVar("default_mode", default=None)


@contextmanager
def default_mode(mode: Mode | None) -> Iterator[None]:
    """Inside, an objective that is made without `mode` has this one: what a command line says of code it runs."""
    token = _default_mode.set(mode)
    try:
        yield
    finally:
        _default_mode.reset(token)


def _mode(mode: Mode | None, bn: str | None) -> tuple[Mode, str]:
    """The mode, and what BatchNorm does in it; OptionError where the two contradict each other."""
    mode = mode or _default_mode.get() or "eval"
    if mode not in ("eval", "train"):
        raise OptionError(f"mode={mode!r} is unknown. Use 'eval' or 'train'.")
    if bn not in (None, "frozen", "recompute", "batch"):
        raise OptionError(f"bn={bn!r} is unknown. Use 'frozen', 'recompute' or 'batch'.")
    if mode == "train" and bn == "recompute":
        raise OptionError(
            "bn='recompute' makes running statistics anew, which BatchNorm does not use in train mode (mode='train'). "
            "Leave bn= out for each batch's own statistics, or pass bn='frozen' for those of the centre."
        )
    return mode, bn or ("batch" if mode == "train" else "frozen")


def _made_anew(model: nn.Module, bn: str) -> frozenset[str]:
    """Buffers that are not looked at because BatchNorm takes its statistics from the data."""
    layers = [] if bn == "frozen" else [(name, m) for name, m in model.named_modules() if isinstance(m, BATCH_NORMS)]
    return frozenset(f"{n}.{leaf}" if n else leaf for n, _ in layers for leaf in ("running_mean", "running_var"))


def _counters(statistics: Collection[str]) -> set[str]:
    """Names of the counters beside running statistics."""
    return {f"{name.rpartition('.')[0]}.{weights.COUNTER}".lstrip(".") for name in statistics}


def _require_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise OptionError(f"seed={seed!r} cannot be used. Pass a whole number.")


def _warn_in_train_mode(model: nn.Module, bn: str) -> None:
    kinds = Counter(
        type(module).__name__
        for module in model.modules()
        if module.training and (isinstance(module, BATCH_NORMS) or _drops(module))
    )
    if not kinds:
        return
    layers = " and ".join(f"{count} {kind}" for kind, count in kinds.items())
    statistics = {
        "frozen": "BatchNorm uses its running statistics",
        "recompute": "BatchNorm statistics are made anew from the data at every point",
        "batch": "BatchNorm uses each batch's own statistics",
    }[bn]
    warnings.warn(
        f"The model is in train mode with {layers}. It is evaluated on a copy in eval mode: dropout is off and "
        f"{statistics} (bn={bn!r}). Call model.eval() first to say that this is what you want, or pass mode='train'.",
        TrainModeWarning,
        stacklevel=3,
    )
