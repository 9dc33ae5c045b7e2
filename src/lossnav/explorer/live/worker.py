"""A live session: one thread that computes, what everybody wants of it in turns, and nothing of it lost.

Each request is a task that computes a little at a time: a point, a step of a ball. After each the worker looks whose
turn it is: pages take turns, so that none waits for more than one step of each other page, however much that one asks
for. Of one page a point that was clicked comes before a line, a line before a ball, a ball before the windows; among
equals the one that has waited longest. So a click is answered in the middle of a window, and a window that is no longer
looked at ends after the point under way. How much may wait is bounded: of points and windows the last alone, of all
else `_MOST_TASKS` for each page; what is beyond that is refused.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np

from lossnav._utils import random_state
from lossnav._utils.geometry import mesh
from lossnav.errors import LossnavError, OptionError
from lossnav.explorer.live import inspect_point, new_axes, optimizer_path
from lossnav.explorer.live.place import LivePlace
from lossnav.explorer.live.places import LivePlaces
from lossnav.explorer.server import wire
from lossnav.explorer.stored.handlers import Client, Desk, idle
from lossnav.explorer.stored.session import Session, sides

_POINT, _LINE, _BALL, _WINDOW, _AHEAD = range(5)  # what comes first, of one page
_EVERY = 0.1  # seconds between two messages of one kind
_PARTIAL = 0.5  # after so many a level is shown as far as it is
_AT_ONCE = 0.02  # of windows points go on for so long before anybody else is looked at


class Cancelled(BaseException):
    """Nobody wants this any more. No Exception: an engine takes those for a point that failed."""


class Task:
    """Work for a client, a little at a time.

    Parameters
    ----------
    rank : int
        The lower the sooner.
    client : Client
    request : Request
    ground : LivePlace
    """

    def __init__(self, rank: int, client: Client, request: wire.Request, ground: LivePlace) -> None:
        self.rank, self.client, self.request, self.ground = rank, client, request, ground
        self.steps: Iterator[None]
        self.cancelled = self.begun = False
        self.done, self.total = 0, 0
        self.began = self.told = time.monotonic()

    def check(self) -> None:
        """Raise where nobody wants it any more."""
        if self.cancelled:
            raise Cancelled

    def progress(self) -> dict[str, Any]:
        """How far it is."""
        said = idle(self.request.type, self.request.id, self.done) | {"busy": True, "total": self.total}
        rate = self.done / max(time.monotonic() - self.began, 1e-9)
        return said | {"points_per_second": rate, "kept": len(self.ground.place.known)}


class LiveDesk(Desk):
    """Answers what is known at once, and all else by and by.

    Parameters
    ----------
    session : Session
    grounds : LivePlaces
        The places, and how further ones are made.
    draws : bool
        Whether the objective draws random numbers. Then the global generators are seeded for every point and set back
        after it; else they are not touched, so that whoever draws from them meanwhile gets what they would have got.
    """

    def __init__(self, session: Session, grounds: LivePlaces, draws: bool = True) -> None:
        super().__init__(session)
        self._draws = draws
        self.grounds = grounds
        self._tasks: list[Task] = []
        self._changed = threading.Condition()
        self._closing = False
        self._turns = 0  # that were taken by all pages
        self._nobody = Client(lambda message: None)  # by the time a browser is there, the first picture may be too
        self._begin(_AHEAD, self._nobody, wire.WindowRequest(None, grounds[0].place.base), self._window)
        self._thread = threading.Thread(target=self._work, name="lossnav explorer worker", daemon=True)
        self._thread.start()

    def leave(self, client: Client) -> None:
        """A socket closed: what it asked for ends."""
        super().leave(client)
        self._cancel(lambda task: task.client is client)

    def end(self) -> None:
        """Begin nothing more: after the point under way all that is known is folded into the stores."""
        with self._changed:
            self._closing = True
            for task in self._tasks:
                task.cancelled = True
            self._changed.notify()

    def close(self, patience: float | None = None) -> bool:
        """Finish the point under way, and fold all that is known into the stores.

        Where that takes longer than `patience` (in seconds), it is not waited for: the journals hold all that was
        shown, as after a kill.
        """
        self.end()
        self._thread.join(patience)
        return not self._thread.is_alive()

    # ------------------------------------------------------------------ one a request

    def on_window(self, client: Client, request: wire.WindowRequest) -> None:
        """Evaluate what is seen; the window before ends."""
        mine = (client, self._nobody)
        self._cancel(lambda task: task.client in mine and isinstance(task.request, wire.WindowRequest))
        self._begin(_WINDOW, client, request, self._window)

    def on_point(self, client: Client, request: wire.PointRequest) -> None:
        """Say what is at a point; the point before is of no interest any more."""
        self._cancel(lambda task: task.client is client and isinstance(task.request, wire.PointRequest))
        self._begin(_POINT, client, request, self._point)

    def on_line(self, client: Client, request: wire.LineRequest) -> None:
        """Evaluate between two points."""
        self._begin(_LINE, client, request, self._line)

    def on_ball(self, client: Client, request: wire.OptimizerRequest) -> None:
        """Let an optimiser roll."""
        self._begin(_BALL, client, request, self._ball)

    def on_place(self, client: Client, request: wire.PlaceRequest) -> None:
        """Go somewhere else."""
        if len(self.session.places) >= _MOST_PLACES:
            raise OptionError(f"This session has {_MOST_PLACES:,} places. Go to one of them, or begin another session.")
        self._begin(_POINT, client, request, self._travel)

    def on_go(self, client: Client, request: wire.GoRequest) -> None:
        """Go back; what was looked at ends."""
        self._cancel(lambda task: task.client is client and isinstance(task.request, wire.WindowRequest))
        super().on_go(client, request)

    def on_stop(self, client: Client, request: wire.StopRequest) -> None:
        """End one thing, or all."""
        self._cancel(lambda task: task.client is client and request.id in (None, task.request.id))
        super().on_stop(client, request)

    # ------------------------------------------------------------------ the worker

    def _begin(self, rank: int, client: Client, request: Any, work: Any) -> None:
        task = Task(rank, client, request, self.grounds[client.place])
        task.steps = work(task, request)
        with self._changed:
            if self._closing:
                raise OptionError("The explorer is ending.")
            if not isinstance(request, _REPLACED) and self._waiting_of(client) >= _MOST_TASKS:
                raise OptionError(
                    f"{_MOST_TASKS} requests of this page are under way or wait, and this {request.type} is refused. "
                    "Wait for an answer, or send stop, and ask again."
                )
            self._tasks.append(task)
            self._changed.notify()

    def _waiting_of(self, client: Client) -> int:
        """How many requests of a page are counted against its bound."""
        mine = (task for task in self._tasks if task.client is client and not task.cancelled)
        return sum(not isinstance(task.request, _REPLACED) for task in mine)

    def _cancel(self, which: Any) -> None:
        """End tasks; what has not begun leaves nothing to clean up, and does not wait for the worker."""
        with self._changed:
            for task in self._tasks:
                task.cancelled = task.cancelled or bool(which(task))
            gone = [task for task in self._tasks if task.cancelled and not task.begun]
            self._tasks = [task for task in self._tasks if task.begun or not task.cancelled]
            self._changed.notify()
        for task in gone:
            task.client.send(self._ended(task))

    @staticmethod
    def _ended(task: Task) -> dict[str, Any]:
        return idle(task.request.type, task.request.id, task.done) | {"kept": len(task.ground.place.known)}

    def _work(self) -> None:
        """Until the end: take whose turn it is one step further."""
        with nullcontext() if self._draws else random_state.left_alone():
            self._take_turns()
        try:
            self.grounds.close()
        except LossnavError as error:
            self.tell(wire.problem(error))

    def _take_turns(self) -> None:
        while True:
            with self._changed:
                while not self._tasks and not self._closing:
                    self._changed.wait()
                if self._closing and not self._tasks:
                    return
                task = min(self._tasks, key=_turn)  # the first of equals
                task.begun = True
                self._turns += not task.cancelled
                task.client.turn = task.client.turn if task.cancelled else self._turns
            more = self._advance(task)
            with self._changed:
                self._tasks.remove(task)
                if more:
                    self._tasks.append(task)  # behind its equals

    def _advance(self, task: Task) -> bool:
        """Take one step; return whether there are more."""
        client, request = task.client, task.request
        try:
            if task.cancelled:
                task.steps.close()  # type: ignore[attr-defined]
            else:
                next(task.steps)
                now = time.monotonic()
                if now - task.told > _EVERY:
                    task.told = now
                    client.send(task.progress())
                return True
        except StopIteration:
            pass
        except Cancelled:
            pass
        except LossnavError as error:
            client.send(wire.problem(error, request.id))
        except Exception as error:  # of the user's model, or a bug of ours: it is said, and the others go on
            traceback.print_exc()
            client.send(wire.problem(error, request.id))
        client.send(self._ended(task))
        return False

    # ------------------------------------------------------------------ what is done, a step a yield

    def _window(self, task: Task, request: wire.WindowRequest) -> Iterator[None]:
        """Level by level; one that is known as a whole is shown without those before it."""
        ground, place = task.ground, task.ground.place
        levels = list(place.lattice.levels(request.ranges, **sides(len(place.dims))))
        missing = [[point for point in mesh(axes) if ground.find(point) is None] for axes in levels]
        task.total = len({point.tobytes() for level in missing for point in level})
        for i, axes in enumerate(levels):
            final = i == len(levels) - 1
            if not missing[i] and not final and not missing[i + 1]:
                continue
            new = [point for point in missing[i] if ground.find(point) is None]
            shown = time.monotonic()
            while new:
                until = time.monotonic() + _AT_ONCE
                while new and time.monotonic() < until and not task.cancelled:
                    now, new = new[: ground.at_once], new[ground.at_once :]
                    ground.measure(now)
                    task.done += len(now)
                if new and time.monotonic() - shown > _PARTIAL:
                    ground.flush()
                    task.client.send(place.block(axes, request.id, i, final=False))
                    shown = time.monotonic()
                yield
            ground.flush()
            task.client.send(place.block(axes, request.id, i, final=final))
            yield
            if missing[i]:
                ground.speed_up()
                yield

    def _point(self, task: Task, request: wire.PointRequest) -> Iterator[None]:
        """First the values, then what takes longer."""
        ground = task.ground
        task.total = 1
        (row,) = ground.measure([request.at])
        ground.flush()
        task.done = 1
        said = {"type": "point", "id": request.id, "at": list(row.point), "values": dict(row.values)}
        said |= {"status": row.status, "classes": None, "gradient": None, "measured": True, "finished": False}
        said |= {"difference": None}
        task.client.send(said)
        yield
        found: dict[str, Any] = {"classes": inspect_point.classes(ground.objective, ground.chart(request.at))}
        yield
        found["gradient"] = inspect_point.slope(ground.objective, ground.chart, request.at)
        yield
        if (paired := inspect_point.difference(ground.plain, request.at, ground.center_samples)) is not None:
            ground.center_samples = paired.center
            found["difference"] = {"value": paired.value, "error": paired.error}
        task.client.send(said | found | {"finished": True})

    def _line(self, task: Task, request: wire.LineRequest) -> Iterator[None]:
        """From coarse to fine; every message holds all there is."""
        ground = task.ground
        parts = np.linspace(0.0, 1.0, request.points)
        points = request.start + parts[:, None] * (request.end - request.start)
        points[-1] = request.end
        rows: dict[int, Any] = {}
        task.total, told = request.points, 0.0
        for i in _coarse_first(request.points):
            (rows[i],) = ground.measure([points[i]])
            task.done += 1
            if time.monotonic() - told > _EVERY or len(rows) == request.points:
                ground.flush()
                told = time.monotonic()
                task.client.send(_line_message(request, parts, points, rows))
            yield

    def _ball(self, task: Task, request: wire.OptimizerRequest) -> Iterator[None]:
        """Step by step, told in small batches; the shadow's loss is kept as any point's."""
        ground, why = task.ground, "stopped"
        task.total = request.steps
        waiting: list[tuple[optimizer_path.OptimizerStep, float]] = []
        told = 0.0
        try:
            for step in optimizer_path.roll(
                ground.objective,
                ground.chart,
                request.at,
                request.optimizer,
                request.lr,
                request.steps,
                request.batch,
                request.seed,
            ):
                shadow = float("nan")
                if np.isfinite(step.at).all():
                    shadow = ground.measure([step.at])[0].values.get("loss", shadow)
                waiting.append((step, shadow))
                task.done = step.number
                why = "stopped" if np.isfinite(step.loss) else "diverged"
                if step.number == request.steps:
                    why = "steps"
                if time.monotonic() - told > _EVERY:
                    ground.flush()
                    told = time.monotonic()
                    if step.number < request.steps:
                        task.client.send(_ball_message(request, waiting, None))
                        waiting = []
                yield
        except Exception:
            why = "failed"  # the error itself follows
            raise
        finally:
            ground.flush()
            task.client.send(_ball_message(request, waiting, why))

    def _travel(self, task: Task, request: wire.PlaceRequest) -> Iterator[None]:
        """Find the axes, make the place and go there."""
        ground, client = task.ground, task.client
        client.send(task.progress())
        yield
        found = new_axes.depart(
            ground.objective,
            ground.chart,
            ground.base,
            request.center,
            request.axes,
            seed=request.seed,
            checkpoint=request.checkpoint,
            check=task.check,
        )
        made = self.grounds.settle(found, request.center)
        self.session.places.append(made.place)
        if client in self.clients:
            self.show(client, made.place.number, request.id)
        self.tell({"type": "places", "places": self.session.breadcrumb()})


_MOST_TASKS = 16  # of one page that are under way or wait
_MOST_PLACES = 1000  # of a session
_REPLACED = (wire.PointRequest, wire.WindowRequest)  # the next takes the place of the one before


def _turn(task: Task) -> tuple[bool, bool, int, int]:
    """Whose turn it is, the least first: what is to end, then the page that has waited longest and its most urgent."""
    return not task.cancelled, task.rank == _AHEAD, task.client.turn, task.rank


def _coarse_first(n: int) -> Iterator[int]:
    """0 to n - 1: the ends, then middles."""
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


def _line_message(request: wire.LineRequest, parts: Any, points: Any, rows: dict[int, Any]) -> dict[str, Any]:
    order = sorted(rows)
    nan = float("nan")
    return {
        "type": "line",
        "id": request.id,
        "t": [float(parts[i]) for i in order],
        "at": [points[i].tolist() for i in order],
        "loss": [rows[i].values.get("loss", nan) for i in order],
        "loss_se": [rows[i].values.get("loss_se", nan) for i in order],
        "finished": len(rows) == request.points,
    }


def _ball_message(
    request: wire.OptimizerRequest, steps: list[tuple[optimizer_path.OptimizerStep, float]], why: str | None
) -> dict[str, Any]:
    return {
        "type": "ball",
        "id": request.id,
        "steps": [step.number for step, _ in steps],
        "at": [step.at.tolist() for step, _ in steps],
        "loss": [step.loss for step, _ in steps],
        "projected_loss": [shadow for _, shadow in steps],
        "off_plane": [step.off for step, _ in steps],
        "finished": why is not None,
        "why": why,
    }
