"""The base class of requests, and the table from the type of a message to its request. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, dataclass_transform

from lossnav.errors import OptionError
from lossnav.explorer.requests.fields import MessageBody, read_fields
from lossnav.explorer.server.wire import number_of, short

if TYPE_CHECKING:
    from lossnav.explorer.live.worker import LiveHandler, Task
    from lossnav.explorer.stored.handlers import Client, Handler

R = TypeVar("R", bound="Request")

POINT, LINE, BALL, WINDOW, AHEAD = range(5)  # ranks of the work of one page, the most urgent first


@dataclass(frozen=True)
class Request:
    """A message of a page.

    A subclass declares its fields (`lossnav.explorer.requests.fields`) and how it is answered: `stored` on a stored
    surface, and in a live session `work` if something has to be evaluated, or `live`.

    Attributes
    ----------
    type : str
        Of its messages.
    rank : int or None
        How urgent its `work` is; None if it has none.
    replaces : bool
        Whether it ends the previous request of the same type and page.
    id : int or None
        The number that the page gave it.
    """

    type: ClassVar[str]
    rank: ClassVar[int | None] = None
    replaces: ClassVar[bool] = False

    id: int | None

    def stored(self, handler: Handler, client: Client) -> None:
        """Answer on a stored surface.

        Raises
        ------
        OptionError
            If it has to be evaluated.
        """
        raise OptionError(
            "This is a stored surface: nothing can be evaluated on it. Explore its objective: lossnav explore SPEC, or "
            "ln.explore(objective, chart)."
        )

    def live(self, handler: LiveHandler, client: Client) -> None:
        """Answer in a live session: begin its work, or answer as on a stored surface if there is none."""
        if self.rank is None:
            self.stored(handler, client)
        else:
            handler.begin(client, self)

    def work(self, task: Task) -> Iterator[None]:
        """Evaluate and send the answers; yield after each small step, so that other requests take their turns."""
        raise NotImplementedError


_DECLARED: dict[str, type[Request]] = {}


@dataclass_transform(frozen_default=True)
def declare(name: str) -> Callable[[type[R]], type[R]]:
    """Declare a request: the class, made a frozen dataclass, reads the messages of this type.

    Examples
    --------
    >>> from lossnav.explorer.requests import fields
    >>> @declare("distance")
    ... class DistanceRequest(Request):
    ...     at: Any = fields.coordinates()
    >>> parse({"type": "distance", "id": 1, "at": [0.5]}, k=1).at
    array([0.5])
    >>> del _DECLARED["distance"]
    """

    def record(request: type[R]) -> type[R]:
        request.type = name
        _DECLARED[name] = made = dataclass(frozen=True)(request)
        return made

    return record


def declared() -> dict[str, type[Request]]:
    """Return the declared requests by the type of their messages."""
    return dict(_DECLARED)


def parse(message: Mapping[str, Any], k: int) -> Request:
    """Check a message and make its request.

    Parameters
    ----------
    message : mapping
    k : int
        Number of coordinates of the chart.

    Raises
    ------
    OptionError
        If the type is unknown or a field is invalid. It says which, and what to send.

    Examples
    --------
    >>> from lossnav.explorer import requests
    >>> requests.parse({"type": "go", "id": 7, "place": 2}, k=2)
    GoRequest(id=7, place=2)
    """
    kind = message.get("type")
    request = _DECLARED.get(kind) if isinstance(kind, str) else None
    if request is None:
        raise OptionError(f"type must be one of {', '.join(_DECLARED)}, got {short(kind)}.")
    number = number_of(message)
    if number is None and message.get("id") is not None:
        raise OptionError(f"id must be a whole number, got {short(message['id'])}.")
    return read_fields(request, MessageBody(message, k), id=number)
