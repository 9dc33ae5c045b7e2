"""The engine that evaluates in many processes, on one machine or many; workers build the function once."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lossnav.engines.base import Engine, Outcome, PointFunction
from lossnav.engines.cluster import Cluster, ray_module
from lossnav.engines.local import Local
from lossnav.engines.placing import Placing
from lossnav.engines.plan import Plan, Precision
from lossnav.engines.sending import pickled
from lossnav.engines.tiles import DEATHS, Tile, Tiles
from lossnav.engines.worker import Worker
from lossnav.errors import ClusterError, LossnavWarning, OptionError

_TICK = 0.5  # seconds between checks for signals while no answer arrives
_LOOK_SECONDS = 3.0  # between checks whether the cluster has room for more workers
_FETCH_SECONDS = 30.0  # timeout for fetching a result that is ready
SHORT_TILE = 1.0  # seconds; a worker with longer tiles needs no second one in advance
_FAILED_STARTS = 3  # in a row; then no more workers are started
_EVENTS_KEPT = 20


class Ray(Engine):
    """Evaluate on a Ray cluster, or on all processors of this machine, with workers of one process each.

    A worker is an actor that lives as long as the run. It receives objective and chart once (they are sent to each node
    once), chooses and proves a plan by the same rules as `Local`, and then evaluates tiles of several points. So on the
    same kind of machine, with the same number of threads, values are those of `Local`, bit for bit. A worker that dies
    is replaced, and its tile is evaluated by another; a point whose worker died three times is recorded as failed.
    Nodes that are added during a run are used after a few seconds.

    A worker computes on the objective's device: one on "cuda" needs ``gpus_per_worker=1`` (or a fraction), and one on
    the CPU stays there, whatever the worker has. With ``build="spec"``, the SPEC chooses the device on the worker.

    Parameters
    ----------
    plan, precision
        As `Local` takes them.
    workers : int, optional
        Number of workers. Default: as many as fit into the cluster, also when it grows.
    address : str
        "local": a private cluster on this machine, for this run. The run waits until it has started, and all its
        processes end with this one, however this one ends. "auto": the cluster that this machine belongs to. Or
        host:port of the head of a cluster. If this process is connected already (``ray.init``), that connection is
        used, and left open.
    cpus_per_worker : int
        CPUs of a worker, and the number of torch's threads in it.
    gpus_per_worker : float
        GPUs of a worker: a fraction of one, or a whole number.
    tile : int, optional
        Points sent at once. Default: as many as take about half a second, or longer for more than 160 workers (3 ms
        for each). Values do not depend on it.
    in_flight : int
        Tiles that a worker has at a time, so that it need not wait for the next.
    build : "send" or "spec"
        Send the objective, pickled with its data; or only its SPEC (`load_objective`), which must give the same
        objective on every machine. In both cases, lossnav and the packages that the objective imports must be
        installed there.

    Raises
    ------
    MissingExtraError
        If ray is not installed.
    OptionError
        If an option has an invalid value.

    Examples
    --------
    >>> surface = ln.evaluate(objective, plane, grid, engine=ln.Ray(address="auto"))  # doctest: +SKIP
    """

    def __init__(
        self,
        plan: Literal["auto", "plain", "tuned"] | Plan = "auto",
        precision: Precision = "native",
        *,
        workers: int | None = None,
        address: str = "local",
        cpus_per_worker: int = 1,
        gpus_per_worker: float = 0,
        tile: int | None = None,
        in_flight: int = 2,
        build: Literal["send", "spec"] = "send",
    ) -> None:
        Local(plan, precision)  # raises for unknown options
        ray_module()
        for name, value in {"workers": workers, "tile": tile, "cpus_per_worker": cpus_per_worker}.items():
            if value is not None and (value != int(value) or value < 1):
                raise OptionError(f"{name} must be a positive integer, got {name}={value}. Pass 1 or more.")
        if in_flight < 1:
            raise OptionError(
                f"in_flight must be at least 1, got in_flight={in_flight}. Pass 2, so that workers need not wait."
            )
        if gpus_per_worker < 0 or (gpus_per_worker > 1 and gpus_per_worker != int(gpus_per_worker)):
            raise OptionError(
                f"gpus_per_worker must be a part of one GPU or a whole number, got {gpus_per_worker}. Pass 0.5 or 1."
            )
        if build not in ("send", "spec"):
            raise OptionError(f"build={build!r} is unknown. Use 'send' or 'spec'.")
        self.plan, self.precision, self.build = plan, precision, build
        self.workers, self.address, self.tile, self.in_flight = workers, address, tile, in_flight
        self.cpus_per_worker, self.gpus_per_worker = cpus_per_worker, gpus_per_worker
        self._cluster: Cluster | None = None
        self._placing: Placing | None = None
        self._function: PointFunction | None = None
        self._task: tuple[Any, ...] = ()  # arguments of `Worker.build`
        self._crew: list[_Hired] = []
        self._stopped = False
        self._forget()

    def _forget(self) -> None:
        """Reset what `describe` reports."""
        self._description: dict[str, Any] = {"plan": "plain"}
        self._nodes: set[str] = set()
        self._events: list[str] = []
        self._deaths = self._lost = self._failed_starts = self._halvings = self._most = self._largest = 0
        self._seconds = math.nan  # per point, in the last tiles
        self._looked = time.monotonic()

    # ------------------------------------------------------------------ the engine

    def prepare(self, function: PointFunction, probes: NDArray[np.float64], total: int | None) -> PointFunction:
        """Connect to the cluster, send the function, and wait until the first worker has built it and has a plan.

        Raises
        ------
        ClusterError
            If the cluster cannot be reached or is too small, or a worker cannot build the function or dies while it
            starts; on a shared cluster, also if others use all of it for a minute.
        OptionError
            If it is to be built from a SPEC and has none.
        """
        self.close()
        self._forget()
        nothing = Tiles(0)
        if self.build == "spec" and not hasattr(function, "by_spec"):
            raise OptionError("build='spec' is only for objectives on charts. Use build='send' for other functions.")
        sent = pickled(function.by_spec() if self.build == "spec" else function)  # type: ignore[attr-defined]
        try:
            cpus = self.workers and self.workers * self.cpus_per_worker
            self._cluster = Cluster(self.address, cpus, lambda words: self.on_wait(words))
            self._cluster.require(self.workers, self.cpus_per_worker, self.gpus_per_worker)
            payload = self._cluster.ray.put(sent)
            self._task = (payload, self.build == "spec", probes, total, self.plan, self.precision, self.cpus_per_worker)
            self._function = function
            self._placing = Placing(self._cluster, self.cpus_per_worker, self.gpus_per_worker)
            self._hire()
            while not any(hired.ready for hired in self._crew):
                for hired in self._answering():
                    self._hear(hired, nothing)
                self._look()
        except BaseException:
            self.close()
            raise
        return function

    def run(self, function: PointFunction, points: NDArray[np.float64]) -> Iterator[Outcome]:
        """Yield the outcome of every point as it arrives."""
        self._stopped = False
        if function is not self._function:
            self.prepare(function, points, len(points))
        unit = next((hired.report["points_at_once"] for hired in self._crew if hired.ready), 1)
        tiles = Tiles(len(points), unit, self.tile, self._seconds)
        called_back = False
        try:
            while True:
                if not self._stopped:
                    self._hand_out(tiles, points)
                elif not called_back:
                    called_back = True
                    self._call_back()
                if not any(hired.tiles for hired in self._crew) and (self._stopped or not tiles):
                    return
                for hired in self._answering():
                    yield from self._hear(hired, tiles)
                self._look()
        finally:
            self._seconds, self._largest = tiles.seconds, max(self._largest, tiles.largest)
            for hired in [hired for hired in self._crew if hired.tiles]:  # the run was abandoned
                self._dismiss(hired)

    @property
    def concurrency(self) -> int:
        """The number of workers that fit into the cluster, up to the requested number."""
        return max(1, self._fitting()) if self._cluster is not None else 1

    @property
    def threads(self) -> int:
        """Threads of a worker."""
        return self.cpus_per_worker

    def stop(self) -> None:
        """Send no further tile; tiles that workers have begun are finished."""
        self._stopped = True

    def close(self) -> None:
        """End the workers, and the cluster if it is private."""
        for hired in list(self._crew):
            self._dismiss(hired)
        self._function, self._task = None, ()
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def describe(self) -> dict[str, Any]:
        """Return the kind, the plan of one worker, and the events on the cluster."""
        return {
            "plan": "plain",
            "precision": self.precision,
            **self._description,
            "kind": "Ray",
            "address": self.address if self.address in ("local", "auto") else "given",
            "workers": self._most,
            "nodes": len(self._nodes),
            "cpus_per_worker": self.cpus_per_worker,
            "gpus_per_worker": self.gpus_per_worker,
            "tile": self.tile or self._largest,
            "build": self.build,
            "deaths": self._deaths,
            "lost_points": self._lost,
            "events": self._events[:_EVENTS_KEPT],
        }

    # ------------------------------------------------------------------ tiles out, outcomes in

    def _hand_out(self, tiles: Tiles, points: NDArray[np.float64]) -> None:
        """Send tiles to every worker that is ready; each gets a first one before any gets a second."""
        ready = [hired for hired in self._crew if hired.ready]
        for held in range(self.in_flight):
            for hired in ready:
                if tiles and len(hired.tiles) == held and (held == 0 or self._may_queue(hired, tiles)):
                    tile = tiles.take(len(ready))
                    hired.tiles.append((hired.actor.evaluate.remote(points[list(tile)]), tile))

    def _may_queue(self, hired: _Hired, tiles: Tiles) -> bool:
        """Whether a worker may get another tile in advance."""
        suspect = tiles.next_is_suspect or tiles.is_suspect(hired.tiles[0][1])
        return hired.seconds < SHORT_TILE and not suspect

    def _call_back(self) -> None:
        """Cancel the tiles that workers have not begun."""
        for hired in self._crew:
            for ref, _ in list(hired.tiles)[1:]:
                self._ray.cancel(ref)

    def _answering(self) -> list[_Hired]:
        """Wait a moment, and return the workers with an answer."""
        waiting = {hired.next_answer: hired for hired in self._crew if hired.next_answer is not None}
        if not waiting:
            time.sleep(_TICK)
            return []
        refs, _ = self._ray.wait(list(waiting), num_returns=1, timeout=_TICK)
        if refs:
            refs, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        return [waiting[ref] for ref in refs]

    def _hear(self, hired: _Hired, tiles: Tiles) -> list[Outcome]:
        """Receive the oldest answer of a worker: its node, what it has built, or the outcomes of a tile."""
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(hired.next_answer, timeout=_FETCH_SECONDS)
        except errors.TaskCancelledError:
            tiles.put_back([hired.tiles.popleft()[1]])
            return []
        except errors.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, Exception) else error
            if not hired.ready:
                self._refused(hired, cause)
                return []
            _, tile = hired.tiles.popleft()
            return [Outcome(number, {}, f"{type(cause).__name__}: {cause}") for number in tile]
        except errors.RayError as error:
            return self._bury(hired, error, tiles)
        if hired.place is not None:
            hired.place, hired.node = None, str(answer)
        elif hired.built is not None:
            self._welcome(hired, answer)
        else:
            _, tile = hired.tiles.popleft()
            made, hired.seconds, description = answer
            tiles.learn(tile, hired.seconds)
            self._description = description or self._description
            return [Outcome(number, values, error) for number, (values, error) in zip(tile, made, strict=True)]
        return []

    # ------------------------------------------------------------------ workers come and go

    @property
    def _ray(self) -> Any:
        assert self._cluster is not None
        return self._cluster.ray

    def _look(self) -> None:
        """Every few seconds, start workers that fit into the cluster; raise if waiting for the first is useless."""
        assert self._placing is not None and self._cluster is not None
        if self._cluster.private is not None:
            self._cluster.private.require_alive()  # Ray would kill this process a minute after the cluster's end
        if any(hired.place is None for hired in self._crew):
            self._placing.placed()
            if not any(hired.ready for hired in self._crew):
                self.on_wait("a worker loads the objective and chooses a plan")
        else:
            self.on_wait(self._placing.waiting())
        now = time.monotonic()
        if now - self._looked > _LOOK_SECONDS and not self._stopped:
            self._hire()

    def _hire(self) -> None:
        """Start workers until there are as many as requested, or as fit into the cluster."""
        assert self._cluster is not None
        self._looked = time.monotonic()
        if self._failed_starts >= _FAILED_STARTS:
            if not self._crew:
                raise ClusterError(
                    f"{self._failed_starts} workers died while they started: {self._events[-1]}. "
                    "Read Ray's logs (/tmp/ray/session_latest/logs), or use engine=Local()."
                )
            return
        kind = self._ray.remote(Worker).options(
            num_cpus=self.cpus_per_worker, num_gpus=self.gpus_per_worker, max_restarts=0, max_task_retries=0
        )
        for _ in range(self._fitting() - len(self._crew)):
            actor = kind.remote()
            self._crew.append(_Hired(actor, actor.place.remote(), actor.build.remote(*self._task, self._halvings)))

    def _fitting(self) -> int:
        """Return how many workers there should be: as many as requested, or as fit into the cluster."""
        assert self._cluster is not None
        room = self._cluster.room(self.cpus_per_worker, self.gpus_per_worker)
        return min(self.workers or room, room)

    def _welcome(self, hired: _Hired, report: dict[str, Any]) -> None:
        """Record that a worker is ready, and pass its warnings to the user."""
        hired.built, hired.report = None, report
        self._failed_starts = 0
        self._nodes.add(hired.node)
        first, self._most = not self._most, max(self._most, sum(hired.ready for hired in self._crew))
        if first:
            self._description = report["engine"]
            for text in report["warnings"]:
                warnings.warn(text, LossnavWarning, stacklevel=5)
        elif report["engine"].get("plan") != self._description.get("plan"):
            self._events.append(f"another worker uses another plan: {report['engine'].get('plan')}")
        if report["torch"] != torch.__version__:
            self._events.append(f"a worker has torch {report['torch']}, this process {torch.__version__}")

    def _refused(self, hired: _Hired, cause: Exception) -> None:
        """Dismiss a worker that could not build the function; raise if it is the first."""
        self._failed_starts += 1
        self._events.append(f"a worker could not build the function: {type(cause).__name__}: {cause}")
        self._dismiss(hired)
        if not self._most:
            raise ClusterError(
                f"A worker could not build the objective: {type(cause).__name__}: {cause}. Install what it imports on "
                "every machine, and make sure that workers have its device (for GPUs: gpus_per_worker=1)."
            ) from cause

    def _bury(self, hired: _Hired, error: Exception, tiles: Tiles) -> list[Outcome]:
        """Handle the death of a worker or its node: its first tile is charged, the others go back to the queue."""
        reason = next(iter(str(error).strip().splitlines()), "")
        if isinstance(error, self._ray.exceptions.OutOfMemoryError) or "low on memory" in str(error):
            self._halvings += 1  # its successors use smaller batches
        at = [tile for _, tile in hired.tiles]
        self._dismiss(hired)
        if hired.ready:
            self._deaths += 1
            self._looked = 0.0  # start another worker at once
        else:
            self._failed_starts += 1
        doing = f"at {len(at[0])} points" if at else "while idle" if hired.ready else "while it started"
        self._events.append(f"a worker died {doing}: {type(error).__name__}: {reason}")
        tiles.put_back(at[1:])
        lost = tiles.charge(at[0]) if at else []
        self._lost += len(lost)
        return [Outcome(number, {}, f"its worker died {DEATHS} times, the last time: {reason}") for number in lost]

    def _dismiss(self, hired: _Hired) -> None:
        """End a worker, whatever it is doing."""
        self._crew.remove(hired)
        with contextlib.suppress(Exception):  # the worker or the cluster may be dead
            self._ray.kill(hired.actor)


@dataclass(eq=False)
class _Hired:
    """A worker and its pending answers, which arrive in this order: `place`, `built`, then those of the tiles."""

    actor: Any
    place: Any  # None after the answer arrived
    built: Any  # None after the answer arrived
    tiles: deque[tuple[Any, Tile]] = field(default_factory=deque)
    node: str = ""
    report: dict[str, Any] = field(default_factory=dict)
    seconds: float = math.inf  # of its last tile

    @property
    def ready(self) -> bool:
        return self.place is None and self.built is None

    @property
    def next_answer(self) -> Any:
        return self.place or self.built or (self.tiles[0][0] if self.tiles else None)
