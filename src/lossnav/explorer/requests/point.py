"""The request "point": the values at one point, and in a live session accuracy by class and the gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lossnav.errors import OptionError
from lossnav.explorer.requests import fields
from lossnav.explorer.requests.request import POINT, Request, declare

if TYPE_CHECKING:
    from lossnav.explorer.live.worker import Task
    from lossnav.explorer.stored.handlers import Client, Handler
    from lossnav.storage.journal import Row


@declare("point")
class PointRequest(Request):
    """Ask for the values at a point, `at` of shape (k,)."""

    rank: ClassVar[int | None] = POINT
    replaces: ClassVar[bool] = True

    at: NDArray[np.float64] = fields.coordinates()

    def stored(self, handler: Handler, client: Client) -> None:
        """Send the nearest measured point, the curvature there, and its difference to the centre if it is stored."""
        place = handler.session.place(client.place)
        row = place.nearest(self.at)
        if row is None:
            raise OptionError("No point has been measured here yet. Open a surface that has points.")
        beside = {} if place.curvature is None else {"curvature": place.curvature.at(row.point)}
        client.send(self._message(row, finished=True) | beside | {"difference": place.difference(row.point)})

    def work(self, task: Task) -> Iterator[None]:
        """Send the values first, then what takes longer."""
        from lossnav.explorer.live import inspect_point

        live_place = task.live_place
        task.total = 1
        (row,) = live_place.measure([self.at])
        live_place.flush()
        task.done = 1
        task.client.send(self._message(row))
        yield
        found: dict[str, Any] = {"classes": inspect_point.classes(live_place.objective, live_place.chart(self.at))}
        yield
        found["gradient"] = inspect_point.slope(live_place.objective, live_place.chart, self.at)
        yield
        if (paired := inspect_point.difference(live_place.plain, self.at, live_place.center_samples)) is not None:
            live_place.center_samples = paired.center
            found["difference"] = {"value": paired.value, "error": paired.error}
        task.client.send(self._message(row, finished=True) | found)

    def _message(self, row: Row, finished: bool = False) -> dict[str, Any]:
        values = {"at": list(row.point), "values": dict(row.values), "status": row.status, "measured": True}
        later = {"classes": None, "gradient": None, "difference": None}
        return {"type": "point", "id": self.id, "finished": finished} | later | values
