"""Requests about places: what there is, going back to one, and going to a new one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lossnav.errors import OptionError
from lossnav.explorer.requests import fields
from lossnav.explorer.requests.request import POINT, Request, declare
from lossnav.explorer.requests.window import WindowRequest

if TYPE_CHECKING:
    from lossnav.explorer.live.worker import LiveHandler, Task
    from lossnav.explorer.stored.handlers import Client, Handler

AXES = ("keep", "random", "gradient", "hessian", "checkpoint")
MOST_PLACES = 1000  # of a session


@declare("hello")
class HelloRequest(Request):
    """Ask for the session and the current place."""

    def stored(self, handler: Handler, client: Client) -> None:
        """Send the session and the place."""
        handler.show(client, client.place, self.id)


@declare("go")
class GoRequest(Request):
    """Go back to a place of the session."""

    place: int = fields.whole(0, 2**31)

    def stored(self, handler: Handler, client: Client) -> None:
        """Send the place."""
        handler.show(client, handler.session.place(self.place).number, self.id)

    def live(self, handler: LiveHandler, client: Client) -> None:
        """Stop the window of the place that is left, and send the other place."""
        handler.cancel(lambda task: task.client is client and isinstance(task.request, WindowRequest))
        self.stored(handler, client)


@dataclass(frozen=True)
class AxesChoice:
    """Which axes the new place has: `kind`, the seed of random ones, the path of a checkpoint."""

    kind: str = fields.word(AXES)
    seed: int = fields.whole(0, fields.LARGEST_SEED, 0)
    checkpoint: str | None = fields.text(where=lambda values: values.get("kind") == "checkpoint")


@declare("place")
class PlaceRequest(Request):
    """Go to a new place: a point of the chart as its centre (None: the same centre), with other axes."""

    rank: ClassVar[int | None] = POINT

    center: NDArray[np.float64] | None = fields.coordinates(optional=True)
    axes: AxesChoice = fields.part(AxesChoice)

    def live(self, handler: LiveHandler, client: Client) -> None:
        """Begin, unless the session is full."""
        if len(handler.session.places) >= MOST_PLACES:
            raise OptionError(
                f"This session has {MOST_PLACES:,} places, its maximum. Go to one of them, or start another session."
            )
        handler.begin(client, self)

    def work(self, task: Task) -> Iterator[None]:
        """Find the axes, make the place, and show it to the page that asked."""
        from lossnav.explorer.live import new_axes

        start, client, handler = task.live_place, task.client, task.handler
        client.send(task.progress())
        yield
        axes: dict[str, Any] = {"seed": self.axes.seed, "checkpoint": self.axes.checkpoint, "check": task.check}
        found = new_axes.depart(start.objective, start.chart, start.base, self.center, self.axes.kind, **axes)
        made = handler.live_places.settle(found, self.center)
        handler.session.places.append(made.place)
        if client in handler.clients:
            handler.show(client, made.place.number, self.id)
        handler.tell({"type": "places", "places": handler.session.breadcrumb()})
