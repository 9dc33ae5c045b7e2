"""Fields of a request: each reads one value of a message, checks its type and bounds, and says what it must be.

A field is a default of a dataclass: ``points: int = whole(2, 201, default=41)``. The name in the message is that of the
attribute, or `key`. No torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lossnav.errors import OptionError
from lossnav.explorer.server.wire import is_view, short

FARTHEST = 1e6  # largest coordinate
LONGEST = 1000  # characters of a name or path
LARGEST_SEED = 2**53  # whole numbers up to here are exact in JavaScript

D = TypeVar("D")


class MessageBody(NamedTuple):
    """An object that a page sent, and the number of coordinates of the place it is about."""

    values: Mapping[str, Any]
    k: int


Reader = Callable[[MessageBody, str], Any]


def read_fields(declared: type[D], message: MessageBody, **others: Any) -> D:
    """Make a dataclass from the fields that it declares.

    Raises
    ------
    OptionError
        If a value is not what its field must be; it names the field, the value and what to send.
    """
    values = {}
    for field in dataclasses.fields(declared):  # type: ignore[arg-type]
        if "read" in field.metadata:
            values[field.name] = field.metadata["read"](message, field.metadata["key"] or field.name)
    return declared(**others, **values)


def number(low: float, high: float, default: float, key: str = "") -> Any:
    """A finite number between bounds."""

    def read(message: MessageBody, name: str) -> float:
        value = message.values.get(name, default)
        if not _is_number(value) or not low <= value <= high:
            raise OptionError(f"{name} must be a number from {low:g} to {high:g}, got {short(value)}.")
        return float(value)

    return _field(read, key)


def whole(low: int, high: int, default: int | None = None, key: str = "", *, optional: bool = False) -> Any:
    """A whole number between bounds; None, where it is optional, if the message has none."""

    def read(message: MessageBody, name: str) -> int | None:
        value = message.values.get(name, default)
        if optional and value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise OptionError(f"{name} must be a whole number from {low:,} to {high:,}, got {short(value)}.")
        return value

    return _field(read, key)


def coordinates(key: str = "", *, optional: bool = False) -> Any:
    """A point of the chart, an array of shape (k,); None, where it is optional, if the message has none."""

    def read(message: MessageBody, name: str) -> Any:
        value = message.values.get(name)
        if optional and value is None:
            return None
        if not isinstance(value, list) or len(value) != message.k or not all(map(_is_coordinate, value)):
            raise OptionError(
                f"{name} must be a list of {message.k} coordinate(s) within ±{FARTHEST:g}, got {short(value)}."
            )
        return np.array(value, np.float64)

    return _field(read, key)


def ranges(key: str = "") -> Any:
    """The ends of each axis, an array of shape (k, 2)."""

    def read(message: MessageBody, name: str) -> Any:
        value = message.values.get(name)
        if not isinstance(value, list) or len(value) != message.k or not all(map(_is_pair, value)):
            raise OptionError(
                f"{name} must be a list of {message.k} pair(s) [low, high] within ±{FARTHEST:g}, got {short(value)}."
            )
        return np.array(value, np.float64)

    return _field(read, key)


def word(choices: Sequence[str], default: str | None = None, key: str = "") -> Any:
    """One of some words."""

    def read(message: MessageBody, name: str) -> str:
        value = message.values.get(name, default)
        if not isinstance(value, str) or value not in choices:
            raise OptionError(f"{name} must be one of {', '.join(choices)}, got {short(value)}.")
        return value

    return _field(read, key)


def text(key: str = "", *, where: Callable[[Mapping[str, Any]], bool] = lambda values: True) -> Any:
    """A printable text; None where `where` says of the message that it is not needed."""

    def read(message: MessageBody, name: str) -> str | None:
        if not where(message.values):
            return None
        value = message.values.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= LONGEST or not value.isprintable():
            raise OptionError(f"{name} must be a text of 1 to {LONGEST:,} printable characters, got {short(value)}.")
        return value

    return _field(read, key)


def view(key: str = "", *, optional: bool = False) -> Any:
    """The state of a page; it is stored and sent to other pages, so its size is bounded."""

    def read(message: MessageBody, name: str) -> Mapping[str, Any] | None:
        value = message.values.get(name)
        if optional and value is None:
            return None
        if not isinstance(value, dict) or not is_view(value):
            raise OptionError(f"{name} must be the view of a page, a small object, got {short(value)}.")
        return dict(value)

    return _field(read, key)


def part(declared: type[Any], key: str = "") -> Any:
    """An object within the message, whose fields another dataclass declares."""

    def read(message: MessageBody, name: str) -> Any:
        value = message.values.get(name)
        if not isinstance(value, dict):
            raise OptionError(f"{name} must be an object, got {short(value)}.")
        return read_fields(declared, MessageBody(value, message.k))

    return _field(read, key)


def _field(read: Reader, key: str) -> Any:
    return dataclasses.field(metadata={"read": read, "key": key})


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**53


def _is_coordinate(value: Any) -> bool:
    return _is_number(value) and abs(value) <= FARTHEST


def _is_pair(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_coordinate, value)):
        return False
    low, high = map(float, value)
    return high - low > 1e-9 * max(1e-3, abs(low), abs(high))  # closer, there are no floats between the ends
