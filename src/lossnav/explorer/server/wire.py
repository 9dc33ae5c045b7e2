"""What passes between page and server: messages in, checked word by word, and frames of numbers out. No torch.

A frame is a header in JSON and float64 values: four bytes of length (little-endian), the header in UTF-8, padded with
spaces so that the values begin at a multiple of eight, then the values of each array that ``header["arrays"]`` names,
row-major. A browser reads them without copying.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.jsonable import jsonable
from lossnav.errors import OptionError, RequestError

LIMITS = {  # of one request; the page is told
    "points": 4225,  # of a window's finest level
    "side": 65,  # along each axis of it
    "line": 201,
    "ball": 10_000,  # steps
    "frame": 65_536,  # bytes of a message
    "sockets": 16,
}

AXES = ("keep", "random", "gradient", "hessian", "checkpoint")
OPTIMIZERS = ("sgd", "momentum", "adam")

_FARTHEST = 1e6  # of a coordinate from the centre
_LONGEST = 1000  # characters of a name or path
_VIEW, _DEEPEST = 8192, 8  # characters of a view as JSON, and how far it is nested


# ---------------------------------------------------------------------- out


def text(message: Mapping[str, Any]) -> str:
    """A message as JSON; numbers that JSON lacks become the words ``"inf"``, ``"-inf"``, ``"nan"``."""
    return json.dumps(jsonable(message), allow_nan=False, separators=(",", ":"))


def frame(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Numbers as bytes.

    Parameters
    ----------
    header : mapping
        Values that JSON can hold; ``arrays`` is added: their names in order.
    arrays : mapping of str to ndarray
        Of any shape; the header's axes say which.

    Examples
    --------
    >>> made = frame({"type": "grid"}, {"loss": np.array([1.0])})
    >>> len(made) % 8, np.frombuffer(made[-8:])
    (0, array([1.]))
    """
    words = text({**header, "arrays": list(arrays)}).encode()
    words += b" " * (-(len(words) + 4) % 8)
    parts = [np.ascontiguousarray(values, "<f8").tobytes() for values in arrays.values()]
    return b"".join([struct.pack("<I", len(words)), words, *parts])


def problem(error: Exception, number: Any = None) -> dict[str, Any]:
    """The message that says of an error what it is and what to do."""
    return {"type": "error", "id": number, "error": type(error).__name__, "said": str(error)}


# ---------------------------------------------------------------------- in


@dataclass(frozen=True)
class Request:
    """A message of the page. `type` is its word, `id` what the page calls it."""

    type: ClassVar[str]
    id: int | None


@dataclass(frozen=True)
class HelloRequest(Request):
    """Wants to know what there is."""

    type = "hello"


@dataclass(frozen=True)
class WindowRequest(Request):
    """What is seen now: ``ranges`` of shape (k, 2)."""

    type = "window"
    ranges: NDArray[np.float64]


@dataclass(frozen=True)
class PointRequest(Request):
    """Asks what is at a place, of shape (k,)."""

    type = "point"
    at: NDArray[np.float64]


@dataclass(frozen=True)
class LineRequest(Request):
    """Asks what lies between two places."""

    type = "line"
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    points: int


@dataclass(frozen=True)
class OptimizerRequest(Request):
    """Drop an optimiser here. ``batch`` samples a step, or all; ``seed`` is of their choice."""

    type = "ball"
    at: NDArray[np.float64]
    optimizer: str
    lr: float
    steps: int
    batch: int | None
    seed: int


@dataclass(frozen=True)
class PlaceRequest(Request):
    """Go to this point of the chart (None: stay), and look along these axes."""

    type = "place"
    center: NDArray[np.float64] | None
    axes: str
    seed: int
    checkpoint: str | None


@dataclass(frozen=True)
class GoRequest(Request):
    """Back to a place where one was."""

    type = "go"
    place: int


@dataclass(frozen=True)
class StopRequest(Request):
    """End what goes by the number ``id``; None: everything."""

    type = "stop"


@dataclass(frozen=True)
class CodeRequest(Request):
    """Asks how a view is made in Python."""

    type = "code"
    view: Mapping[str, Any]


@dataclass(frozen=True)
class BookmarkRequest(Request):
    """Keep this view by a name; a view of None takes the name away."""

    type = "bookmark"
    name: str
    view: Mapping[str, Any] | None


def read(message: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    RequestError
        If it is none.
    """
    try:
        found = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"A message is no JSON ({type(error).__name__}). Send one object a message.") from None
    if not isinstance(found, dict):
        raise RequestError("A message is no JSON object. Send one object a message.")
    return found


def number_of(message: Mapping[str, Any]) -> int | None:
    """What the page calls a message; None where that is no number."""
    given = message.get("id")
    return given if isinstance(given, int) and not isinstance(given, bool) and abs(given) < 2**53 else None


def parse(message: Mapping[str, Any], k: int) -> Request:
    """Check a message, word by word.

    Parameters
    ----------
    message : mapping
    k : int
        Coordinates of the chart.

    Raises
    ------
    OptionError
        That says which word is wrong, and what it may be.

    Examples
    --------
    >>> parse({"type": "go", "id": 7, "place": 2}, k=2)
    GoRequest(id=7, place=2)
    """
    kind = message.get("type")
    maker = _PARSERS.get(kind) if isinstance(kind, str) else None
    if maker is None:
        raise OptionError(f"A message has the type {_short(kind)}. Use {', '.join(_PARSERS)}.")
    given = number_of(message)
    if given is None and message.get("id") is not None:
        raise OptionError(f"id is {_short(message['id'])}. Send a whole number.")
    made: Request = maker(_Words(message, k), given)
    return made


class _Words:
    """The words of a message, each taken out by what it must be."""

    def __init__(self, message: Mapping[str, Any], k: int) -> None:
        self.message, self.k = message, k

    def number(self, name: str, low: float, high: float, default: Any = None) -> float:
        value = self.message.get(name, default)
        if not _is_number(value) or not low <= value <= high:
            raise OptionError(f"{name} is {_short(value)}. Send a number from {low:g} to {high:g}.")
        return float(value)

    def whole(self, name: str, low: int, high: int, default: Any = None) -> int:
        value = self.message.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise OptionError(f"{name} is {_short(value)}. Send a whole number from {low:,} to {high:,}.")
        return value

    def place(self, name: str) -> NDArray[np.float64]:
        value = self.message.get(name)
        if not isinstance(value, list) or len(value) != self.k or not all(_is_coordinate(x) for x in value):
            raise OptionError(f"{name} is {_short(value)}. Send {self.k} coordinate(s) within ±{_FARTHEST:g}.")
        return np.array(value, dtype=np.float64)

    def ranges(self, name: str) -> NDArray[np.float64]:
        value = self.message.get(name)
        pairs = isinstance(value, list) and len(value) == self.k and all(_is_pair(pair) for pair in value)
        if not pairs:
            raise OptionError(f"{name} is {_short(value)}. Send {self.k} pair(s) [low, high] within ±{_FARTHEST:g}.")
        return np.array(value, dtype=np.float64)

    def word(self, name: str, words: Sequence[str], default: Any = None) -> str:
        value = self.message.get(name, default)
        if not isinstance(value, str) or value not in words:
            raise OptionError(f"{name} is {_short(value)}. Use {', '.join(words)}.")
        return value

    def text(self, name: str) -> str:
        value = self.message.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or not value.isprintable():
            raise OptionError(f"{name} is {_short(value)}. Send a text of up to {_LONGEST:,} characters.")
        return value

    def object(self, name: str) -> Mapping[str, Any]:
        value = self.message.get(name)
        if not isinstance(value, dict):
            raise OptionError(f"{name} is {_short(value)}. Send an object.")
        return value

    def view(self, name: str) -> Mapping[str, Any]:
        """An object that is kept and told to others, so that it must not be more than a view is."""
        value = self.object(name)
        if not is_view(value):
            raise OptionError(
                f"{name} is no view. Send an object of up to {_VIEW:,} characters, no deeper than a view."
            )
        return value


def _ball(words: _Words, number: int | None) -> OptimizerRequest:
    batch = words.message.get("batch")
    return OptimizerRequest(
        number,
        words.place("at"),
        words.word("optimizer", OPTIMIZERS, "sgd"),
        words.number("lr", 1e-12, 1e6, 0.1),
        words.whole("steps", 1, LIMITS["ball"], 200),
        None if batch is None else words.whole("batch", 1, 2**31),
        words.whole("seed", 0, 2**53, 0),
    )


def _new_place(words: _Words, number: int | None) -> PlaceRequest:
    center = None if words.message.get("center") is None else words.place("center")
    axes = _Words(words.object("axes"), words.k)
    kind = axes.word("kind", AXES)
    path = axes.text("checkpoint") if kind == "checkpoint" else None
    return PlaceRequest(number, center, kind, axes.whole("seed", 0, 2**53, 0), path)


def _bookmark(words: _Words, number: int | None) -> BookmarkRequest:
    view = None if words.message.get("view") is None else words.view("view")
    return BookmarkRequest(number, words.text("name"), view)


_PARSERS: dict[str, Any] = {
    "hello": lambda words, number: HelloRequest(number),
    "window": lambda words, number: WindowRequest(number, words.ranges("ranges")),
    "point": lambda words, number: PointRequest(number, words.place("at")),
    "line": lambda words, number: LineRequest(
        number, words.place("from"), words.place("to"), words.whole("points", 2, LIMITS["line"], 41)
    ),
    "ball": _ball,
    "place": _new_place,
    "go": lambda words, number: GoRequest(number, words.whole("place", 0, 2**31)),
    "stop": lambda words, number: StopRequest(number),
    "code": lambda words, number: CodeRequest(number, words.view("view")),
    "bookmark": _bookmark,
}


def is_view(value: Any) -> bool:
    """Whether this may be a view: an object that is neither nested deeply nor long."""
    return isinstance(value, dict) and not _is_deeper(value, _DEEPEST) and len(json.dumps(value)) <= _VIEW


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**53


def _is_coordinate(value: Any) -> bool:
    return _is_number(value) and abs(value) <= _FARTHEST


def _is_pair(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not all(_is_coordinate(x) for x in value):
        return False
    low, high = map(float, value)
    return high - low > 1e-9 * max(1e-3, abs(low), abs(high))  # closer, floats have no places between


def _is_deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects are nested further than so."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(parts) and (depth == 0 or any(_is_deeper(part, depth - 1) for part in parts))


def _short(value: Any) -> str:
    words = repr(value) if not _is_deeper(value, _DEEPEST) else "nested deeply"
    return words if len(words) <= 60 else f"{words[:50]} …"
