"""How a computation ends: with its result, with a warning of what is doubtful in it, or stopped."""

from __future__ import annotations

import warnings
from typing import TypeVar

from lossnav.errors import Interrupted, LossnavWarning

R = TypeVar("R")


def conclude(result: R, signal: int | None, done: str, doubt: str = "", *, kept: str = "", above: int = 0) -> R:
    """Return a result; raise Interrupted with it where a stop was asked for, else warn of what is doubtful in it.

    Parameters
    ----------
    result : object
        As far as it is computed.
    signal : int or None
        The signal that asked to stop, if one did.
    done : str
        How far it got: "12 products".
    doubt : str
        The warning; empty for none.
    kept : str
        Where the partial result is besides, as a sentence. By default only in the exception.
    above : int
        How many functions lie between the caller and the public one that the warning is shown at.

    Examples
    --------
    >>> conclude(3, None, "2 products")
    3
    """
    if signal is not None:
        kept = kept or "What they show is in the .partial of this exception."
        raise Interrupted(f"Stopped after {done}. {kept}", result, signal)
    if doubt:
        warnings.warn(doubt, LossnavWarning, stacklevel=3 + above)
    return result
