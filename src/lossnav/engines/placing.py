"""Waiting for the first worker of a run: what is shown meanwhile, and when to give up."""

from __future__ import annotations

import time
from collections.abc import Callable

from lossnav.engines.cluster import Cluster
from lossnav.errors import ClusterError

_HELD_SECONDS = 60.0  # a run gives up after so long without free resources
_STARTING_SECONDS = 1800.0  # or after so long with free resources on a shared cluster: Ray has tried 30 times by then
_LOOK_SECONDS = 3.0  # between requests to the cluster


class Placing:
    """The wait of a run that has no worker yet.

    On a private cluster, nobody else can use the resources, so a worker starts, however long that takes, or it dies. On
    a shared cluster, a worker starts if resources were free; if none were, others use them.

    Parameters
    ----------
    cluster : Cluster
    cpus : int
        CPUs of a worker.
    gpus : float
        GPUs of a worker.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, cluster: Cluster, cpus: int, gpus: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster, self._cpus, self._gpus, self._clock = cluster, cpus, gpus, clock
        self._ever = False
        self._since = self._looked = clock()
        self._had_room = self._is_free()

    def placed(self) -> None:
        """Note that a worker is running now."""
        self._ever, self._had_room = True, False
        self._since = self._clock()

    def waiting(self) -> str:
        """Return a message about the wait, while no worker is running.

        Raises
        ------
        ClusterError
            If waiting no longer helps; the message describes the state of the cluster.
        """
        now = self._clock()
        seconds = now - self._since
        if now - self._looked > _LOOK_SECONDS:
            self._looked = now
            self._ask(seconds)
        if self._had_room or self._cluster.private is not None:
            return f"a worker starts, {seconds:.0f} s"
        return f"others use the cluster ({self._cluster.describe_free()} are free), {seconds:.0f} s"

    def _ask(self, seconds: float) -> None:
        """Raise ClusterError if the state of the cluster shows that waiting is useless."""
        private = self._cluster.private
        if private is not None:
            if (words := private.dead_starts()) is not None:
                raise ClusterError(
                    f"The workers died while they started, before they read the objective: {words}\nFix this error of "
                    "Python (a worker starts with the interpreter and the environment of this process), or use "
                    "engine=Local()."
                )
            return
        self._had_room = self._had_room or self._is_free()
        needed = f"A worker needs {self._cpus} CPUs and {self._gpus:g} GPUs"
        if not self._cluster.room(self._cpus, self._gpus) and (not self._ever or seconds > _HELD_SECONDS):
            raise ClusterError(
                f"{needed}, and no node of the cluster has that many: nodes have left the cluster. See: ray status. "
                "Request less (cpus_per_worker=, gpus_per_worker=), or add nodes: ray start --address=…"
            )
        if self._had_room and seconds > _STARTING_SECONDS:
            raise ClusterError(
                f"There were free resources for a worker, but none has started within {seconds / 60:.0f} minutes. Read "
                "the logs of its node (/tmp/ray/session_latest/logs/raylet.err); if the node starts processes slowly, "
                "set a larger RAY_worker_register_timeout_seconds where the node is started."
            )
        if not self._had_room and seconds > _HELD_SECONDS:
            raise ClusterError(
                f"{needed}, and no node has had that many free for {seconds:.0f} s: {self._cluster.describe_free()} "
                "are free, others use the rest. See: ray status. Request less (cpus_per_worker=, gpus_per_worker=), "
                "wait until the others have ended, or use only this machine: address='local'."
            )

    def _is_free(self) -> bool:
        return self._cluster.private is None and self._cluster.free_room(self._cpus, self._gpus) > 0
