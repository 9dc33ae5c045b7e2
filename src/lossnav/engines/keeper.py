"""A program that starts a private Ray cluster, and ends it when the process that started this program ends.

Ray ends the processes that `ray.init` starts when their parent ends, but not the processes that these start: after a
SIGKILL of the parent, the agents of the cluster live on for a minute or more. And `ray.init` cannot be interrupted
while it waits for its server. So this program is the parent of the whole cluster. It notices when the process that
started it has ended, however it ended, and then ends every process below itself, and no other.

It is run by its path (``python -P keeper.py PARENT CPUS``), imports nothing of lossnav, and answers with one line of
JSON on stdout. The process that starts it holds its stdin open: when stdin ends, the cluster ends.
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
_GRACE_SECONDS = 3.0  # for Ray to end its processes by itself; on an idle machine it takes 1.5
_KILL_SECONDS = 5.0  # for processes to end after SIGKILL: one that waits for a disk needs some time
_LOOK_SECONDS = 1.0  # between checks of the parent, where the system cannot report its end


class Keeper:
    """A cluster, and the thread that ends it.

    Parameters
    ----------
    parent : int
        Process id of the process that started this program.
    cpus : int
        The number of CPUs of the cluster.
    """

    def __init__(self, parent: int, cpus: int) -> None:
        self.parent, self.cpus = parent, cpus
        self._started = False
        self._ending = threading.Lock()

    def run(self) -> None:
        """Start the cluster, print its address, and stay until the parent has ended."""
        _adopt_orphans()
        answers = os.dup(1)  # stays open: when it closes, the parent knows that this program has ended
        os.dup2(2, 1)  # what Ray prints must not mix with the answer
        threading.Thread(target=self._watch, daemon=True).start()
        try:
            answer = self._start()
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        with contextlib.suppress(BrokenPipeError):  # the parent no longer waits for it
            os.write(answers, json.dumps(answer).encode() + b"\n")
        while True:  # this thread must stay: Ray's processes end with the thread that started them
            signal.pause()

    def _start(self) -> dict[str, Any]:
        import ray

        nodes: Any = ray.nodes
        ray.init("local", num_cpus=self.cpus, include_dashboard=False, log_to_driver=False, configure_logging=False)
        self._started = True
        signal.signal(signal.SIGTERM, lambda *_: self.end())  # Ray has replaced the handler
        return {
            "address": ray.get_runtime_context().gcs_address,
            "logs": str(Path(nodes()[0]["RayletSocketName"]).parent.parent / "logs"),
            "environment": {name: os.environ[name] for name in ("RAY_AUTH_MODE",) if name in os.environ},
        }

    def _watch(self) -> None:
        """Wait for the end of stdin or of the parent, because a process forked by the parent may keep stdin open."""
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
        """End the cluster, all processes below this program, and this program."""
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
        if os.getpgid(0) == os.getpid():  # without /proc, the process group tells which processes are below
            os.killpg(0, signal.SIGKILL)
        os._exit(0)


def _shut_down() -> None:
    import ray

    ray.shutdown()


def _adopt_orphans() -> None:
    with contextlib.suppress(OSError, AttributeError):  # only Linux has this call
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(ancestor: int) -> set[int]:
    """Return the living processes below another one; none if there is no /proc."""
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
