"""How a computation ends: with its result, with a warning about it, or interrupted."""

from __future__ import annotations

import warnings
from typing import TypeVar

from lossnav.errors import Interrupted, LossnavWarning

R = TypeVar("R")


def conclude(result: R, signal: int | None, done: str, doubt: str = "", *, kept: str = "", above: int = 0) -> R:
    """Return a result; raise Interrupted with it after a signal, or give a warning about it.

    Parameters
    ----------
    result : object
        The result, or the part computed so far.
    signal : int or None
        The signal that stopped the computation, if any.
    done : str
        What was done so far: "12 products".
    doubt : str
        The warning; empty for none.
    kept : str
        A sentence on where else the partial result is. By default it is only in the exception.
    above : int
        Number of functions between the caller and the public one at which the warning is shown.

    Examples
    --------
    >>> conclude(3, None, "2 products")
    3
    """
    if signal is not None:
        kept = kept or "The result so far is in the .partial of this exception."
        raise Interrupted(f"Stopped after {done}. {kept}", result, signal)
    if doubt:
        warnings.warn(doubt, LossnavWarning, stacklevel=3 + above)
    return result
