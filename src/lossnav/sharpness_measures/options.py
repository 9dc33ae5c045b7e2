"""Checks of options, before anything is computed."""

from __future__ import annotations

import math
from typing import Any

from lossnav.directions.normalize import NORMALIZATIONS
from lossnav.errors import OptionError


def require_count(name: str, value: Any, least: int = 1) -> None:
    """Raise OptionError unless a value is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name} must be a whole number of at least {least}, got {value!r}. Use a larger one.")


def require_positive(name: str, value: Any) -> None:
    """Raise OptionError unless a value is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise OptionError(f"{name} must be a positive finite number, got {value!r}. Use one above 0.")


def require_normalization(normalize: Any) -> None:
    """Raise OptionError unless a value is a normalisation of directions."""
    if normalize not in NORMALIZATIONS:
        raise OptionError(f"normalize={normalize!r} is unknown. Use 'weight', 'filter', 'layer' or None.")
