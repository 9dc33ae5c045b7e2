"""Who answers the pages: here from what is stored; `lossnav.explorer.live.worker` also evaluates. No torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lossnav.explorer.stored.place import Place
from lossnav.explorer.stored.session import Session

if TYPE_CHECKING:
    from lossnav.explorer.requests import Request

Message = Mapping[str, Any] | bytes


class Client:
    """One connected page: the place that it shows, and how to send to it from any thread.

    Parameters
    ----------
    deliver : callable
        Takes a message or a frame.
    """

    def __init__(self, deliver: Callable[[Message], None]) -> None:
        self.send = deliver
        self.place = 0
        self.turn = 0  # number of its latest turn; the page with the smallest is served next


class Handler:
    """Answers requests from what is stored.

    Parameters
    ----------
    session : Session
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.clients: list[Client] = []

    def join(self, client: Client) -> None:
        """Add a page that connected."""
        self.clients.append(client)

    def leave(self, client: Client) -> None:
        """Remove a page that disconnected, and end its requests."""
        if client in self.clients:
            self.clients.remove(client)

    def end(self) -> None:
        """Start no more work."""

    def close(self, patience: float | None = None) -> bool:
        """End all work and store its results; return whether that took at most `patience` seconds."""
        return True

    def answer(self, client: Client, request: Request) -> None:
        """Answer a request, now or later.

        Raises
        ------
        LossnavError
            If it cannot be answered; it says why.
        """
        request.stored(self, client)

    def show(self, client: Client, number: int, request: int | None = None) -> None:
        """Send a place to a page, which shows it from now on; `request` is the number of what it answers."""
        place = self.session.place(number)
        client.place = number
        first = place.first_frames()
        frames = place.frames() if first is None else first
        client.send(self.session.message(number) | {"id": request, "frames": len(frames)})
        for frame in frames:
            client.send(frame)
        if first is not None:
            threading.Thread(target=self._draw, args=(client, place), name="lossnav draw", daemon=True).start()

    def _draw(self, client: Client, place: Place) -> None:
        """Send the fine grid between very many points once it is computed."""
        grid = place.frames()[0]
        if client in self.clients and client.place == place.number:
            client.send(grid)

    def tell(self, message: Message) -> None:
        """Send a message to every page."""
        for client in list(self.clients):
            client.send(message)
