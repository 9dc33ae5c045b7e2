"""A live session: one thread evaluates what all pages ask for, in turns.

The work of each request is a task that takes small steps: one point, one step of an optimiser. After each step the
worker chooses the next task. Pages take turns, so that a page waits for at most one step of each other page, however
many requests that page has. Within a page the rank of the request decides (`lossnav.explorer.requests.request`): a
clicked point comes before a line, a line before an optimiser, an optimiser before a window; of equal ranks, the task
that has waited longest. So a click is answered in the middle of a window, and a cancelled window ends after the point
being evaluated. A new point or window replaces the previous one of its page. Of all other requests at most `MOST_TASKS`
of each page may wait; more are refused.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from lossnav._utils import random_state
from lossnav.errors import LossnavError, OptionError
from lossnav.explorer.live.place import LivePlace
from lossnav.explorer.live.places import LivePlaces
from lossnav.explorer.requests.request import AHEAD, Request
from lossnav.explorer.requests.window import WindowRequest
from lossnav.explorer.server import wire
from lossnav.explorer.stored.handlers import Client, Handler
from lossnav.explorer.stored.session import Session

MOST_TASKS = 16  # requests of one page that run or wait


class Cancelled(BaseException):
    """The task was cancelled. Not an Exception, which an engine would record as a failed point."""


class Task:
    """The work of a request, done in small steps.

    Parameters
    ----------
    rank : int
        Tasks of a lower rank come first.
    client : Client
    request : Request
    live_place : LivePlace
        Where it evaluates.
    handler : LiveHandler

    Attributes
    ----------
    done, total : int
        Steps, for the progress bar; set by the work.
    cancelled : bool
    """

    def __init__(
        self, rank: int, client: Client, request: Request, live_place: LivePlace, handler: LiveHandler
    ) -> None:
        self.rank, self.client, self.request, self.live_place = rank, client, request, live_place
        self.handler = handler
        self.cancelled = self.begun = False
        self.done, self.total = 0, 0
        self.began = self.told = time.monotonic()
        self.steps: Iterator[None] = request.work(self)

    def check(self) -> None:
        """Raise if the task was cancelled."""
        if self.cancelled:
            raise Cancelled

    def progress(self) -> dict[str, Any]:
        """Return the message of its progress."""
        message = wire.idle(self.request.type, self.request.id, self.done) | {"busy": True, "total": self.total}
        rate = self.done / max(time.monotonic() - self.began, 1e-9)
        return message | {"points_per_second": rate, "kept": len(self.live_place.place.known)}


class LiveHandler(Handler):
    """Answers from what is stored at once; whatever has to be evaluated becomes a task of one worker thread.

    Parameters
    ----------
    session : Session
    live_places : LivePlaces
        The places, which also makes new ones.
    draws : bool
        Whether the objective draws random numbers. If so, the global generators are seeded for every point and
        restored after it. If not, they are left alone, so that other threads draw the same numbers as without us.
    """

    def __init__(self, session: Session, live_places: LivePlaces, draws: bool = True) -> None:
        super().__init__(session)
        self._draws = draws
        self.live_places = live_places
        self._tasks: list[Task] = []
        self._changed = threading.Condition()
        self._closing = False
        self._turns = 0  # taken by all pages
        self._nobody = Client(lambda message: None)  # its window is evaluated before a browser asks for it
        self.begin(self._nobody, WindowRequest(None, live_places[0].place.base), AHEAD)
        self._thread = threading.Thread(target=self._work, name="lossnav explorer worker", daemon=True)
        self._thread.start()

    def leave(self, client: Client) -> None:
        """Remove a page that disconnected, and end its requests."""
        super().leave(client)
        self.cancel(lambda task: task.client is client)

    def end(self) -> None:
        """Start no more work: after the current point, all points are written to the arrays of the stores."""
        with self._changed:
            self._closing = True
            for task in self._tasks:
                task.cancelled = True
            self._changed.notify()

    def close(self, patience: float | None = None) -> bool:
        """Finish the current point, and write all points to the arrays of the stores.

        If that takes longer than `patience` (in seconds), return False: the journals of the stores contain every point
        that was shown, as after a kill.
        """
        self.end()
        self._thread.join(patience)
        return not self._thread.is_alive()

    def answer(self, client: Client, request: Request) -> None:
        """Answer a request, now or later."""
        request.live(self, client)

    def begin(self, client: Client, request: Request, rank: int | None = None) -> None:
        """Add the work of a request to the tasks.

        Raises
        ------
        OptionError
            If the explorer is ending, or too many requests of the page wait.
        """
        if request.replaces:
            mine = (client, self._nobody)
            self.cancel(lambda task: task.client in mine and task.request.type == request.type)
        rank = request.rank if rank is None else rank
        assert rank is not None
        task = Task(rank, client, request, self.live_places[client.place], self)
        with self._changed:
            if self._closing:
                raise OptionError("The explorer is ending. Start it again.")
            if not request.replaces and self._waiting_of(client) >= MOST_TASKS:
                raise OptionError(
                    f"{MOST_TASKS} requests of this page are waiting, the maximum, so this {request.type} is refused. "
                    "Wait for an answer, or stop a request, and ask again."
                )
            self._tasks.append(task)
            self._changed.notify()

    def _waiting_of(self, client: Client) -> int:
        """Return the number of requests of a page that count against its maximum."""
        mine = (task for task in self._tasks if task.client is client and not task.cancelled)
        return sum(not task.request.replaces for task in mine)

    def cancel(self, which: Callable[[Task], bool]) -> None:
        """End the tasks for which `which` is true; one that has not begun ends at once, without the worker."""
        with self._changed:
            for task in self._tasks:
                task.cancelled = task.cancelled or which(task)
            gone = [task for task in self._tasks if task.cancelled and not task.begun]
            self._tasks = [task for task in self._tasks if task.begun or not task.cancelled]
            self._changed.notify()
        for task in gone:
            task.client.send(self._ended(task))

    @staticmethod
    def _ended(task: Task) -> dict[str, Any]:
        return wire.idle(task.request.type, task.request.id, task.done) | {"kept": len(task.live_place.place.known)}

    # ------------------------------------------------------------------ the worker thread

    def _work(self) -> None:
        """Take steps of tasks until the end."""
        with nullcontext() if self._draws else random_state.left_alone():
            self._take_turns()
        try:
            self.live_places.close()
        except LossnavError as error:
            self.tell(wire.problem(error))

    def _take_turns(self) -> None:
        while True:
            with self._changed:
                while not self._tasks and not self._closing:
                    self._changed.wait()
                if self._closing and not self._tasks:
                    return
                task = min(self._tasks, key=_order)  # of equals, the first
                task.begun = True
                self._turns += not task.cancelled
                task.client.turn = task.client.turn if task.cancelled else self._turns
            more = self._advance(task)
            with self._changed:
                self._tasks.remove(task)
                if more:
                    self._tasks.append(task)  # after its equals

    def _advance(self, task: Task) -> bool:
        """Take one step of a task; return whether there are more."""
        client, request = task.client, task.request
        try:
            if task.cancelled:
                task.steps.close()  # type: ignore[attr-defined]
            else:
                next(task.steps)
                now = time.monotonic()
                if now - task.told > wire.EVERY:
                    task.told = now
                    client.send(task.progress())
                return True
        except StopIteration:
            pass
        except Cancelled:
            pass
        except LossnavError as error:
            client.send(wire.problem(error, request.id))
        except Exception as error:  # of the user's model, or a bug of ours: it is shown, and other tasks continue
            traceback.print_exc()
            client.send(wire.problem(error, request.id))
        client.send(self._ended(task))
        return False


def _order(task: Task) -> tuple[bool, bool, int, int]:
    """Return the order of tasks: cancelled ones first, then by the page's latest turn, then by rank."""
    return not task.cancelled, task.rank == AHEAD, task.client.turn, task.rank
