"""The error that a sampler estimates between its points, for any sampler. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_NEEDED = ("cells", "unresolved", "estimated_error")
_DEFAULTS = {"estimated_error_p99": math.nan, "non_finite": 0}
_COUNTS = ("cells", "unresolved", "untested", "non_finite", "places_twice", "noise_places", "noise_non_finite")


def estimate_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outcome of a surface's sampler if it is an estimate of errors like that of `Adaptive`; else empty.

    It has the names of `Adaptive` (at least ``cells``, ``unresolved`` and ``estimated_error``), with numbers.

    Examples
    --------
    >>> estimate_of({"sampler": {"kind": "Mine", "outcome": {"cells": 4, "unresolved": 0, "estimated_error": 0.01}}})
    {'estimated_error_p99': nan, 'non_finite': 0, 'cells': 4, 'unresolved': 0, 'estimated_error': 0.01}
    >>> estimate_of({"sampler": {"kind": "Mine", "outcome": {"cells": "many", "rounds": 3}}})
    {}
    """
    outcome = attributes.get("sampler", {}).get("outcome") or {}
    numbers = {name: value for name, value in outcome.items() if _is_sound(name, value)}
    return _DEFAULTS | numbers if all(name in numbers for name in _NEEDED) else {}


def _is_sound(name: str, value: Any) -> bool:
    if name in _COUNTS:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return is_number(value) or name == "noise_at"


def is_number(value: Any) -> bool:
    """Return whether a value is a number, or a string for a number that JSON lacks."""
    return isinstance(value, bool | int | float) or value in ("inf", "-inf", "nan")
