"""A program that starts a private Ray cluster, and ends it with the process that asked for it, however that ends.

Ray binds the processes that `ray.init` starts to the life of their parent, but not those that these start: after a
SIGKILL of the parent the agents of the cluster live on for a minute or more, and `ray.init` cannot be interrupted while
it waits for its server. So the cluster belongs to this program: it is the parent of all of it, notices when the process
that asked for it is gone, and then ends every process below itself, and no other.

It is run by its path (``python -P keeper.py PARENT CPUS``), imports nothing of lossnav, and answers with one line of
JSON on stdout. Its stdin is held open by the process that asked: the end of it is the end of the cluster.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

_SET_CHILD_SUBREAPER = 36  # of prctl(2): orphans below this process become its children
_GRACE_SECONDS = 3.0  # for Ray to end its processes by itself; without load it takes 1.5
_KILL_SECONDS = 5.0  # for processes to be gone after SIGKILL: one that waits for a disk takes its time
_LOOK_SECONDS = 1.0  # between looks at the parent where the system cannot tell of its end


class Keeper:
    """A cluster and everything that watches over it.

    Parameters
    ----------
    parent : int
        The process that asked for it.
    cpus : int
        That the cluster is to hold.
    """

    def __init__(self, parent: int, cpus: int) -> None:
        self.parent, self.cpus = parent, cpus
        self._started = False
        self._ending = threading.Lock()

    def run(self) -> None:
        """Start the cluster, say where it is, and stay until the parent is gone."""
        _adopt_orphans()
        answers = os.dup(1)  # stays open: its end tells the parent that this program is gone
        os.dup2(2, 1)  # what Ray prints is no answer
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            answer = self._start()
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
            os.write(answers, json.dumps(answer).encode() + b"\n")
        while True:  # Ray's processes end with the thread that started them
            signal.pause()

    def _start(self) -> dict[str, Any]:
        import ray

        nodes: Any = ray.nodes
        ray.init("local", num_cpus=self.cpus, include_dashboard=False, log_to_driver=False, configure_logging=False)
        self._started = True
        signal.signal(signal.SIGTERM, lambda *_: self.end())  # Ray took it
        return {
            "address": ray.get_runtime_context().gcs_address,
            "logs": str(Path(nodes()[0]["RayletSocketName"]).parent.parent / "logs"),
            "environment": {name: os.environ[name] for name in ("RAY_AUTH_MODE",) if name in os.environ},
        }

    def _watch(self) -> None:
        """Wait for the end of stdin or of the parent: whatever it forked may hold the other end of stdin."""
        looks, timeout = select.poll(), None
        looks.register(0, select.POLLIN | select.POLLHUP)
        try:
            looks.register(os.pidfd_open(self.parent), select.POLLIN)  # type: ignore[attr-defined, unused-ignore]
        except (AttributeError, OSError):
            timeout = _LOOK_SECONDS * 1000
        while os.getppid() == self.parent and not looks.poll(timeout):
            pass
        self.end()

    def end(self) -> None:
        """End the cluster and this program; nothing below it stays."""
        if not self._ending.acquire(blocking=False):
            return
        if self._started:
            ending = threading.Thread(target=_shut_down, daemon=True)
            ending.start()
            ending.join(_GRACE_SECONDS)
        gone_by = time.monotonic() + _KILL_SECONDS
        while (below := descendants(os.getpid())) and time.monotonic() < gone_by:
            for process in below:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)
        if os.getpgid(0) == os.getpid():  # where /proc does not tell who is below, the group does
            os.killpg(0, signal.SIGKILL)
        os._exit(0)


def _shut_down() -> None:
    import ray

    ray.shutdown()


def _adopt_orphans() -> None:
    with contextlib.suppress(OSError, AttributeError):  # no such call but on Linux
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(ancestor: int) -> set[int]:
    """Return the living processes below another one; none where there is no /proc."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in "ZX":
                parents[int(path.parent.name)] = int(parent)
    found, below = set[int](), {ancestor}
    while below:
        below = {process for process, parent in parents.items() if parent in below} - found
        found |= below
    return found


if __name__ == "__main__":
    Keeper(int(sys.argv[1]), int(sys.argv[2])).run()
