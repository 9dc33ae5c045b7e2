"""The distance at which a growing quantity has reached a given height."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize

from lossnav.errors import OptionError
from lossnav.samplers.range import AutoRange

_RISEN = 2.0  # for heights that are 1 at the start
_LEAST_LIMIT = 2.0**-9  # limits of an AutoRange


def crossing(height: Callable[[float], float], limit: float, tolerance: float) -> float | None:
    """Find the distance at which a height has doubled; None if it has not within a limit.

    First the smallest power of two at which it has (see `AutoRange`), then Brent's method between that and the previous
    distance. A height that is not finite counts as risen. No distance is evaluated twice.

    Parameters
    ----------
    height : callable
        Maps a distance above 0 to a height that is 1 at distance 0.
    limit : float
    tolerance : float
        Relative.

    Examples
    --------
    >>> round(crossing(lambda x: 1 + x**2 / 9, 16.0, 1e-6), 4)
    3.0
    """
    known = {0.0: 1.0}

    def at(x: float) -> float:
        if x not in known:
            known[x] = height(x)
        return known[x]

    def above(x: float) -> float:
        excess = at(x) - _RISEN
        return min(excess, 1.0) if math.isfinite(excess) else 1.0

    found = AutoRange(rise=_RISEN, cap=limit).find(0, 1, lambda points: np.array([at(abs(x)) for (x,) in points]))
    if found["capped"]:
        return None
    far = float(found["reach"])
    near = max(x for x in known if x < far)
    return float(scipy.optimize.brentq(above, near, far, xtol=tolerance * far / 4, rtol=tolerance / 4))


def target_rise(center: float, rise: float, rise_by: float | None) -> float:
    """Return the amount by which the loss is to rise: from a multiple of the centre's loss, or as given.

    Raises
    ------
    OptionError
        If it is not positive.
    """
    target = (rise - 1) * center if rise_by is None else rise_by
    if not 0 < target < math.inf:
        raise OptionError(
            f"rise={rise!r} and rise_by={rise_by!r} give no rise from a loss of {center:.4g}. Use a multiple above 1 "
            "of a positive loss, such as rise=2, or a positive amount, such as rise_by=0.1."
        )
    return target


def rise_words(rise: float, rise_by: float | None) -> str:
    """Return the same as text after "the loss is"."""
    return f"{rise:g} times that of the centre" if rise_by is None else f"{rise_by:g} above that of the centre"


def rise_settings(rise: float, rise_by: float | None, limit: float, tolerance: float) -> dict[str, Any]:
    """Return the options of a crossing; with an amount the multiple is None."""
    return {"rise": rise if rise_by is None else None, "rise_by": rise_by, "limit": limit, "tolerance": tolerance}


def require_crossing(limit: float, tolerance: float) -> None:
    """Raise OptionError if the limit or the tolerance is invalid."""
    if not _LEAST_LIMIT <= limit < math.inf:
        raise OptionError(
            f"limit must be a finite number of at least {_LEAST_LIMIT:g}, got {limit!r}. Use a larger one."
        )
    if not 1e-12 < tolerance < 1:
        raise OptionError(f"tolerance={tolerance!r} cannot be reached. Use a value such as 1e-2.")
