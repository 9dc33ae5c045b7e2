"""Device and mode of an objective, and the consequences of train mode."""

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
    """Inside, an objective that is built without `device` uses this one, wherever its model is."""
    token = _DEVICE.set(device)
    try:
        yield
    finally:
        _DEVICE.reset(token)


def resolve_device(device: str | torch.device | None, model: nn.Module) -> torch.device:
    """Return a device that exists; by default that of `by_default_on`, or the one the model is on.

    Raises
    ------
    DeviceError
        If it does not exist.
    """
    device = _DEVICE.get() if device is None else device
    if device is None:
        first = next(iter(model.parameters()), next(iter(model.buffers()), None))
        return torch.device("cpu") if first is None else first.device
    try:
        resolved = torch.device(device)
        if resolved.type == "meta":
            raise DeviceError("Tensors on the meta device have no values. Leave out device=, or pass device='cpu'.")
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"The device {str(device)!r} does not exist: {reason}. Leave out device=, or pass device='cpu'."
        ) from None
    return resolved


_default_mode: ContextVar[Mode | None] = ContextVar("default_mode", default=None)


@contextmanager
def default_mode(mode: Mode | None) -> Iterator[None]:
    """Inside, an objective that is built without `mode` has this one, as a command line asks for."""
    token = _default_mode.set(mode)
    try:
        yield
    finally:
        _default_mode.reset(token)


def _mode(mode: Mode | None, bn: str | None) -> tuple[Mode, str]:
    """Return the mode and the BatchNorm policy; raise OptionError if the two contradict each other."""
    mode = mode or _default_mode.get() or "eval"
    if mode not in ("eval", "train"):
        raise OptionError(f"mode={mode!r} is unknown. Use 'eval' or 'train'.")
    if bn not in (None, "frozen", "recompute", "batch"):
        raise OptionError(f"bn={bn!r} is unknown. Use 'frozen', 'recompute' or 'batch'.")
    if mode == "train" and bn == "recompute":
        raise OptionError(
            "bn='recompute' recomputes running statistics, which BatchNorm does not use in train mode "
            "(mode='train'). Leave out bn= to use the statistics of each batch, or pass bn='frozen' to use those of "
            "the centre."
        )
    return mode, bn or ("batch" if mode == "train" else "frozen")


def _recomputed_statistics(model: nn.Module, bn: str) -> frozenset[str]:
    """Buffers that are not used, because BatchNorm takes its statistics from the data."""
    layers = [] if bn == "frozen" else [(name, m) for name, m in model.named_modules() if isinstance(m, BATCH_NORMS)]
    return frozenset(f"{n}.{leaf}" if n else leaf for n, _ in layers for leaf in ("running_mean", "running_var"))


def _counters(statistics: Collection[str]) -> set[str]:
    """Names of the counters that belong to running statistics."""
    return {f"{name.rpartition('.')[0]}.{weights.COUNTER}".lstrip(".") for name in statistics}


def _require_seed(seed: Any) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise OptionError(f"seed={seed!r} is not a whole number. Pass one, such as seed=0.")


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
        "recompute": "BatchNorm statistics are recomputed from the data at every point",
        "batch": "BatchNorm uses each batch's own statistics",
    }[bn]
    warnings.warn(
        f"The model is in train mode with {layers}. It is evaluated as a copy in eval mode: dropout is off and "
        f"{statistics} (bn={bn!r}). Call model.eval() first if this is what you want, or pass mode='train'.",
        TrainModeWarning,
        stacklevel=3,
    )
