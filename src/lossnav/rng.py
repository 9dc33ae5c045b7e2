"""Leave the world's random number generators as they were found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def preserved(seed: int | None = None, device: torch.device | None = None) -> Iterator[None]:
    """Restore the global state of Python's, NumPy's and torch's generators on leaving, also after an error.

    Parameters
    ----------
    seed : int, optional
        Inside, every generator starts from this seed; by default from where it stands.
    device : torch.device, optional
        An accelerator whose generator is kept and seeded too.
    """
    cuda = device if device is not None and device.type == "cuda" else None
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda_state = torch.cuda.get_rng_state(cuda) if cuda else None
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - the legacy generator is the one user code shares
            torch.default_generator.manual_seed(seed)
            if cuda:
                torch.cuda.manual_seed(seed)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if cuda and cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, cuda)
