"""Leave the world's random number generators as they were found."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

from lossnav._utils import turns

_left_alone: ContextVar[bool] = ContextVar("left_alone", default=False)


@contextmanager
def preserved(seed: int | None = None, device: torch.device | None = None) -> Iterator[None]:
    """Restore the global state of Python's, NumPy's and torch's generators on leaving, also after an error.

    With a seed no other thread is inside at the same time (`turns.alone`): the generators are the process's.

    Parameters
    ----------
    seed : int, optional
        Inside, every generator starts from this seed; by default from where it stands.
    device : torch.device, optional
        An accelerator whose generator is kept and seeded too.
    """
    if _left_alone.get():
        yield
        return
    cuda = device if device is not None and device.type == "cuda" else None
    with turns.alone() if seed is not None else nullcontext():
        with turns.alone():  # between two passes of others
            before = _states(cuda)
        try:
            if seed is not None:
                random.seed(seed)
                np.random.seed(seed % 2**32)  # noqa: NPY002 - the legacy generator is the one user code shares
                torch.default_generator.manual_seed(seed)
                if cuda:
                    torch.cuda.manual_seed(seed)
            yield
        finally:
            with turns.alone():
                _set(before, cuda)


def _states(cuda: torch.device | None) -> tuple[Any, Any, torch.Tensor, torch.Tensor | None]:
    """Where Python's, NumPy's, torch's and an accelerator's generators stand."""
    on_device = torch.cuda.get_rng_state(cuda) if cuda else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), on_device  # noqa: NPY002


def _set(states: tuple[Any, Any, torch.Tensor, torch.Tensor | None], cuda: torch.device | None) -> None:
    python, numpy, cpu, on_device = states
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002
    torch.set_rng_state(cpu)
    if cuda and on_device is not None:
        torch.cuda.set_rng_state(on_device, cuda)


@contextmanager
def left_alone() -> Iterator[None]:
    """Inside, in this thread, `preserved` does nothing: the generators are another thread's, whose draws go on.

    For work beside a user's own, by functions that draw no random numbers (see `draws`).
    """
    token = _left_alone.set(True)
    try:
        yield
    finally:
        _left_alone.reset(token)


def draws(function: Callable[[], object], device: torch.device | None = None) -> bool:
    """Whether calling a function draws random numbers from a global generator; it is called once.

    >>> draws(lambda: torch.rand(2)), draws(lambda: torch.ones(2))
    (True, False)
    """
    cuda = device if device is not None and device.type == "cuda" else None

    def states() -> list[bytes]:
        found = [repr(random.getstate()).encode(), repr(np.random.get_state(legacy=False)["state"]).encode()]  # noqa: NPY002
        found += [torch.get_rng_state().numpy().tobytes()]
        return found + ([torch.cuda.get_rng_state(cuda).numpy().tobytes()] if cuda else [])

    with preserved(device=device), left_alone():
        before = states()
        function()
        return states() != before
