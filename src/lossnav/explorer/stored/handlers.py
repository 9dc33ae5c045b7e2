"""Who answers: from what is known, here; a live session's desk evaluates too (`lossnav.explorer.live`). No torch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from lossnav.errors import OptionError
from lossnav.explorer.server import wire
from lossnav.explorer.stored.copy_as_code import code_of
from lossnav.explorer.stored.session import Place, Session

Message = Mapping[str, Any] | bytes


class Client:
    """One socket: where it is, and how it is reached from any thread.

    Parameters
    ----------
    deliver : callable
        Takes a message or a frame.
    """

    def __init__(self, deliver: Callable[[Message], None]) -> None:
        self.send = deliver
        self.place = 0
        self.turn = 0  # when it last had one; the least is the next


class Desk:
    """Answers requests from what is stored.

    Parameters
    ----------
    session : Session
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.clients: list[Client] = []

    def join(self, client: Client) -> None:
        """A socket opened."""
        self.clients.append(client)

    def leave(self, client: Client) -> None:
        """A socket closed: what it asked for ends."""
        if client in self.clients:
            self.clients.remove(client)

    def end(self) -> None:
        """Begin nothing more."""

    def close(self, patience: float | None = None) -> bool:
        """End all work, and keep what it found; return whether that was done within `patience` seconds."""
        return True

    def answer(self, client: Client, request: wire.Request) -> None:
        """Answer a request, now or by and by.

        Raises
        ------
        LossnavError
            That says why it cannot be.
        """
        answer = getattr(self, f"on_{request.type}")
        answer(client, request)

    # ------------------------------------------------------------------ one a request

    def on_hello(self, client: Client, request: wire.HelloRequest) -> None:
        """Say all there is."""
        self.show(client, client.place, request.id)

    def on_go(self, client: Client, request: wire.GoRequest) -> None:
        """Go back to a place."""
        self.show(client, self.session.place(request.place).number, request.id)

    def show(self, client: Client, number: int, given: int | None = None) -> None:
        """Send a place to a client, which is there from now on."""
        place = self.session.place(number)
        client.place = number
        first = place.first_frames()
        frames = place.frames() if first is None else first
        client.send(self.session.message(number) | {"id": given, "frames": len(frames)})
        for frame in frames:
            client.send(frame)
        if first is not None:
            threading.Thread(target=self._draw, args=(client, place), name="lossnav draw", daemon=True).start()

    def _draw(self, client: Client, place: Place) -> None:
        """Send what lies between very many points as finely as it is drawn, once that is there."""
        grid = place.frames()[0]
        if client in self.clients and client.place == place.number:
            client.send(grid)

    def on_window(self, client: Client, request: wire.WindowRequest) -> None:
        """Send what is known of a window, coarse first; of a surface of its own all was sent."""
        place = self.session.place(client.place)
        levels = list(place.known_levels(request.ranges)) if place.explored else []
        for i, axes in enumerate(levels):
            client.send(place.block(axes, request.id, i, final=i == len(levels) - 1))
        client.send(idle("window", request.id, len(levels)))

    def on_point(self, client: Client, request: wire.PointRequest) -> None:
        """Send the nearest point that was measured."""
        row = self.session.place(client.place).nearest(request.at)
        if row is None:
            raise OptionError("No point was measured here yet.")
        said = {"type": "point", "id": request.id, "at": list(row.point), "values": dict(row.values)}
        said |= {"status": row.status, "classes": None, "gradient": None, "measured": True, "finished": True}
        client.send(said)

    def on_line(self, client: Client, request: wire.LineRequest) -> None:
        """Only a live session can."""
        raise OptionError(_NOT_LIVE)

    def on_ball(self, client: Client, request: wire.OptimizerRequest) -> None:
        """Only a live session can."""
        raise OptionError(_NOT_LIVE)

    def on_place(self, client: Client, request: wire.PlaceRequest) -> None:
        """Only a live session can."""
        raise OptionError(_NOT_LIVE)

    def on_stop(self, client: Client, request: wire.StopRequest) -> None:
        """There is nothing to stop."""
        client.send(idle("stop", request.id))

    def on_code(self, client: Client, request: wire.CodeRequest) -> None:
        """Say the Python of a view."""
        client.send({"type": "code", "id": request.id, "text": code_of(self.session, client.place, request.view)})

    def on_bookmark(self, client: Client, request: wire.BookmarkRequest) -> None:
        """Keep a view, and tell everybody."""
        self.session.bookmark(request.name, request.view)
        self.tell({"type": "bookmarks", "bookmarks": self.session.bookmarks})

    def tell(self, message: Message) -> None:
        """Send to everybody."""
        for client in list(self.clients):
            client.send(message)


def idle(what: str, given: int | None = None, done: int = 0) -> dict[str, Any]:
    """The message that nothing is going on any more."""
    said = {"type": "progress", "id": given, "busy": False, "what": what, "done": done, "total": done}
    return said | {"points_per_second": 0.0, "kept": None}


_NOT_LIVE = (
    "This is a stored surface, and nothing can be evaluated on it. Open its objective: lossnav explore SPEC, or "
    "ln.explore(objective, chart)."
)
