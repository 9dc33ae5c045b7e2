"""Options that cannot be are said before anything is computed."""

from __future__ import annotations

import math
from typing import Any

from lossnav.directions.normalize import NORMALIZATIONS
from lossnav.errors import OptionError


def require_count(name: str, value: Any, least: int = 1) -> None:
    """Raise OptionError unless a value is a whole number from `least` upwards."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OptionError(f"{name}={value!r} cannot be used. Pass a whole number from {least} upwards.")


def require_positive(name: str, value: Any) -> None:
    """Raise OptionError unless a value is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise OptionError(f"{name}={value!r} cannot be used. Pass a finite number above 0.")


def require_normalization(normalize: Any) -> None:
    """Raise OptionError unless a value is a normalisation that directions know."""
    if normalize not in NORMALIZATIONS:
        raise OptionError(f"normalize={normalize!r} is unknown. Use 'weight', 'filter', 'layer' or None.")
