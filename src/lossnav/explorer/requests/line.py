"""The request "line": the loss along a straight line between two points of the chart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lossnav.explorer.requests import fields
from lossnav.explorer.requests.request import LINE, Request, declare
from lossnav.explorer.server.wire import EVERY, LIMITS

if TYPE_CHECKING:
    from lossnav.explorer.live.worker import Task


@declare("line")
class LineRequest(Request):
    """Ask for evenly spaced points from `start` to `end`, both of shape (k,)."""

    rank: ClassVar[int | None] = LINE

    start: NDArray[np.float64] = fields.coordinates("from")
    end: NDArray[np.float64] = fields.coordinates("to")
    points: int = fields.whole(2, LIMITS["line"], 41)

    def work(self, task: Task) -> Iterator[None]:
        """Evaluate from coarse to fine; every message has all points so far."""
        live_place = task.live_place
        parts = np.linspace(0.0, 1.0, self.points)
        points = self.start + parts[:, None] * (self.end - self.start)
        points[-1] = self.end
        rows: dict[int, Any] = {}
        task.total, told = self.points, 0.0
        for i in coarse_first(self.points):
            (rows[i],) = live_place.measure([points[i]])
            task.done += 1
            if time.monotonic() - told > EVERY or len(rows) == self.points:
                live_place.flush()
                told = time.monotonic()
                task.client.send(self._message(parts, points, rows))
            yield

    def _message(self, parts: Any, points: Any, rows: dict[int, Any]) -> dict[str, Any]:
        order, nan = sorted(rows), float("nan")
        return {
            "type": "line",
            "id": self.id,
            "t": [float(parts[i]) for i in order],
            "at": [points[i].tolist() for i in order],
            "loss": [rows[i].values.get("loss", nan) for i in order],
            "loss_se": [rows[i].values.get("loss_se", nan) for i in order],
            "finished": len(rows) == self.points,
        }


def coarse_first(n: int) -> Iterator[int]:
    """Yield 0 to n - 1: the ends first, then midpoints of what there is.

    >>> list(coarse_first(5))
    [0, 4, 2, 1, 3]
    """
    seen = set()
    step = 1
    while step < n:
        step *= 2
    while step:
        for i in [*range(0, n, step), n - 1]:
            if i not in seen:
                seen.add(i)
                yield i
        step //= 2
