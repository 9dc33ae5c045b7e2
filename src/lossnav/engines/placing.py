"""How long a run waits for the first worker, what it says meanwhile, and when it gives up."""

from __future__ import annotations

import time
from collections.abc import Callable

from lossnav.engines.cluster import Cluster
from lossnav.errors import ClusterError

_HELD_SECONDS = 60.0  # without room on a cluster, after which a run gives up
_STARTING_SECONDS = 1800.0  # with room on a shared cluster: Ray has tried 30 times by then
_LOOK_SECONDS = 3.0  # between questions to the cluster


class Placing:
    """The wait of a run of which no worker has a place.

    On a private cluster nobody else can hold the room, so a worker starts, however long that takes, or it dies. On a
    shared one a worker starts if there was room; if there was none, others have it.

    Parameters
    ----------
    cluster : Cluster
    cpus : int
        Of a worker.
    gpus : float
        Of a worker.
    clock : callable
        Seconds.
    """

    def __init__(self, cluster: Cluster, cpus: int, gpus: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster, self._cpus, self._gpus, self._clock = cluster, cpus, gpus, clock
        self._ever = False
        self._since = self._looked = clock()
        self._had_room = self._is_free()

    def placed(self) -> None:
        """Some worker has a place at the moment."""
        self._ever, self._had_room = True, False
        self._since = self._clock()

    def waiting(self) -> str:
        """No worker has a place: return what is waited for.

        Raises
        ------
        ClusterError
            If waiting helps no longer; it says what is true of the cluster.
        """
        now = self._clock()
        seconds = now - self._since
        if now - self._looked > _LOOK_SECONDS:
            self._looked = now
            self._ask(seconds)
        if self._had_room or self._cluster.private is not None:
            return f"a worker starts, {seconds:.0f} s"
        return f"others hold the cluster ({self._cluster.describe_free()} are free), {seconds:.0f} s"

    def _ask(self, seconds: float) -> None:
        """Ask the cluster whether there is anything to wait for."""
        private = self._cluster.private
        if private is not None:
            if (words := private.dead_starts()) is not None:
                raise ClusterError(
                    f"The workers died while they started, before they read the objective: {words}\nMend what Python "
                    "says there (a worker is started with the interpreter and the environment of this process), or "
                    "try engine=Local()."
                )
            return
        self._had_room = self._had_room or self._is_free()
        needed = f"A worker needs {self._cpus} CPUs and {self._gpus:g} GPUs"
        if not self._cluster.room(self._cpus, self._gpus) and (not self._ever or seconds > _HELD_SECONDS):
            raise ClusterError(
                f"{needed}, and no node of the cluster has that many: those that had are gone. Look with: ray status. "
                "Ask for less (cpus_per_worker=, gpus_per_worker=), or add nodes: ray start --address=…"
            )
        if self._had_room and seconds > _STARTING_SECONDS:
            raise ClusterError(
                f"There was room for a worker, and none has started within {seconds / 60:.0f} minutes. Why, is in the "
                "logs of its node (/tmp/ray/session_latest/logs/raylet.err). A node that is slow to start processes "
                "needs a longer RAY_worker_register_timeout_seconds, which is set where it is started."
            )
        if not self._had_room and seconds > _HELD_SECONDS:
            raise ClusterError(
                f"{needed}, and no node has had that many free for {seconds:.0f} s: {self._cluster.describe_free()} "
                "are free, others hold the rest. Look with: ray status. Ask for less (cpus_per_worker=, "
                "gpus_per_worker=), wait until the others have ended, or use this machine alone: address='local'."
            )

    def _is_free(self) -> bool:
        return self._cluster.private is None and self._cluster.free_room(self._cpus, self._gpus) > 0
