"""The format of what passes between page and server: JSON both ways, and frames of numbers to the page. No torch.

A frame is a header in JSON and float64 values: four bytes with the length of the header (little-endian), the header in
UTF-8, padded with spaces so that the values begin at a multiple of eight, then the values of each array that
``header["arrays"]`` names, row-major. A browser reads them without copying. What a page may ask for is in
`lossnav.explorer.requests`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.jsonable import jsonable
from lossnav.errors import RequestError

LIMITS = {  # sent to the page
    "points": 4225,  # of the finest level of a window
    "side": 65,  # points along each axis of it
    "line": 201,  # points
    "ball": 10_000,  # steps
    "frame": 65_536,  # bytes of a message to the server
    "sockets": 16,  # pages
}

EVERY = 0.1  # seconds between two messages about the progress of one request

_VIEW, _DEEPEST = 8192, 8  # characters of a view as JSON, and levels of nesting


# ---------------------------------------------------------------------- out


def text(message: Mapping[str, Any]) -> str:
    """Return a message as JSON; numbers that JSON lacks become the strings ``"inf"``, ``"-inf"``, ``"nan"``."""
    return json.dumps(jsonable(message), allow_nan=False, separators=(",", ":"))


def frame(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a header and arrays as the bytes of a frame.

    Parameters
    ----------
    header : mapping
        Values that JSON can hold. ``arrays``, the names of the arrays in their order, is added.
    arrays : mapping of str to ndarray
        Of the shape that the header's ``axes`` or ``count`` gives.

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
    """Return the message that shows an error on the page."""
    return {"type": "error", "id": number, "error": type(error).__name__, "said": str(error)}


def idle(what: str, number: int | None = None, done: int = 0) -> dict[str, Any]:
    """Return the message that a request, by its type and number, has ended."""
    message = {"type": "progress", "id": number, "busy": False, "what": what, "done": done, "total": done}
    return message | {"points_per_second": 0.0, "kept": None}


# ---------------------------------------------------------------------- in


def read(message: str) -> dict[str, Any]:
    """Read a message, a JSON object.

    Raises
    ------
    RequestError
        If it is not one.
    """
    try:
        found = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"A message is not valid JSON ({type(error).__name__}). Send one JSON object.") from None
    if not isinstance(found, dict):
        raise RequestError(f"A message must be a JSON object, got {short(found)}. Send one JSON object.")
    return found


def number_of(message: Mapping[str, Any]) -> int | None:
    """Return the number that the page gave a message; None if it has no valid one."""
    given = message.get("id")
    return given if isinstance(given, int) and not isinstance(given, bool) and abs(given) < 2**53 else None


def is_view(value: Any) -> bool:
    """Return whether this may be a view: an object that is neither deeply nested nor long."""
    return isinstance(value, dict) and not _is_deeper(value, _DEEPEST) and len(json.dumps(value)) <= _VIEW


def _is_deeper(value: Any, depth: int) -> bool:
    """Return whether lists and objects are nested more than `depth` levels."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(parts) and (depth == 0 or any(_is_deeper(part, depth - 1) for part in parts))


def short(value: Any) -> str:
    """Return a value as text for a message of an error, cut off where it is long."""
    words = repr(value) if not _is_deeper(value, _DEEPEST) else "a deeply nested value"
    return words if len(words) <= 60 else f"{words[:50]} …"
