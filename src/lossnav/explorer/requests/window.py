"""The request "window": the values in the region that is on the screen, from coarse to fine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.geometry import mesh
from lossnav.explorer.requests import fields
from lossnav.explorer.requests.request import WINDOW, Request, declare
from lossnav.explorer.server.wire import idle
from lossnav.explorer.stored.place import sides

if TYPE_CHECKING:
    from lossnav.explorer.live.worker import Task
    from lossnav.explorer.stored.handlers import Client, Handler

_TURN = 0.02  # seconds of points in one step, before other requests take their turns
_PARTIAL = 0.5  # seconds after which an unfinished level is shown


@declare("window")
class WindowRequest(Request):
    """Ask for the values in a region, `ranges` of shape (k, 2)."""

    rank: ClassVar[int | None] = WINDOW
    replaces: ClassVar[bool] = True

    ranges: NDArray[np.float64] = fields.ranges()

    def stored(self, handler: Handler, client: Client) -> None:
        """Send the levels whose points are all stored, coarse first; a surface of another sampler was sent whole."""
        place = handler.session.place(client.place)
        levels = list(place.known_levels(self.ranges)) if place.explored else []
        for i, axes in enumerate(levels):
            client.send(place.block(axes, self.id, i, final=i == len(levels) - 1))
        client.send(idle("window", self.id, len(levels)))

    def work(self, task: Task) -> Iterator[None]:
        """Evaluate level by level; a level that is complete is shown without the coarser ones."""
        live_place, place = task.live_place, task.live_place.place
        levels = list(place.lattice.levels(self.ranges, **sides(len(place.dims))))
        missing = [[point for point in mesh(axes) if live_place.find(point) is None] for axes in levels]
        task.total = len({point.tobytes() for level in missing for point in level})
        for i, axes in enumerate(levels):
            final = i == len(levels) - 1
            if not missing[i] and not final and not missing[i + 1]:
                continue
            new = [point for point in missing[i] if live_place.find(point) is None]
            shown = time.monotonic()
            while new:
                until = time.monotonic() + _TURN
                while new and time.monotonic() < until and not task.cancelled:
                    now, new = new[: live_place.at_once], new[live_place.at_once :]
                    live_place.measure(now)
                    task.done += len(now)
                if new and time.monotonic() - shown > _PARTIAL:
                    live_place.flush()
                    task.client.send(place.block(axes, self.id, i, final=False))
                    shown = time.monotonic()
                yield
            live_place.flush()
            task.client.send(place.block(axes, self.id, i, final=final))
            yield
            if missing[i]:
                live_place.speed_up()
                yield
