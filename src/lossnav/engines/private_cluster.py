"""A Ray cluster of this machine that belongs to one run: started, waited for, and ended whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lossnav.errors import ClusterError

_KEEPER = Path(__file__).with_name("keeper.py")
_TICK = 0.5  # seconds between looks at signals while it starts
_END_SECONDS = 15.0  # for the keeper to end everything: twice its own timeouts
_STARTS = 3  # attempts: Ray gives up after 30 s, and a loaded machine may need longer
_HOUR = 60 * 60
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray kills a worker that has not registered within a minute and starts another: on a loaded machine, for ever.
    "RAY_worker_register_timeout_seconds": str(_HOUR),
    "RAY_agent_register_timeout_ms": str(_HOUR * 1000),
    # `ray.init` would wait for the first workers, and cannot show a message or be interrupted meanwhile.
    "RAY_prestart_worker_first_driver": "0",
}
_STARTED = re.compile(r"Started worker process with pid (\d+)")  # in Ray's log
_SHOWN = 600  # characters of what a program wrote before it died

Wait = Callable[[str], None]


class PrivateCluster:
    """A cluster for one run, in processes below one of its own (`keeper`).

    It lives until `close`, or until this process has ended.

    Parameters
    ----------
    cpus : int
        The number of its CPUs.
    wait : callable
        Called about twice a second with a message; if it raises, the start ends.
    clock : callable
        Returns the time in seconds.
    keeper : path
        The program that starts and ends the cluster.

    Attributes
    ----------
    address : str
        Address of its head node.
    environment : dict of str to str
        Environment variables that a process needs to connect.

    Raises
    ------
    ClusterError
        If Ray cannot start.
    """

    address: str
    environment: dict[str, str]

    def __init__(
        self, cpus: int, wait: Wait, *, clock: Callable[[], float] = time.monotonic, keeper: Path = _KEEPER
    ) -> None:
        self._owner, self._logs = os.getpid(), Path()
        self._process: subprocess.Popen[bytes] | None = None
        started = clock()
        for trial in range(_STARTS):
            try:
                answer = self._start(
                    cpus, keeper, lambda: wait(f"a Ray cluster starts on this machine, {clock() - started:.0f} s")
                )
            except BaseException:
                self.close()
                raise
            if "error" not in answer:
                break
            self.close()
            if "timed out" not in answer["error"] or trial == _STARTS - 1:
                raise ClusterError(
                    f"Ray cannot start a cluster on this machine: {answer['error']}. Read its logs in "
                    "/tmp/ray/session_latest/logs, use engine=Local(), or use another cluster: address='auto'."
                )
        self.address, self.environment = answer["address"], answer["environment"]
        self._logs = Path(answer["logs"])

    def _start(self, cpus: int, keeper: Path, wait: Callable[[], None]) -> dict[str, Any]:
        """Run the keeper, and return its answer."""
        with tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(keeper), str(self._owner), str(cpus)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_ENVIRONMENT | os.environ,
                start_new_session=True,  # Ctrl-C in a terminal must reach this process only
            )
            text = b""
            while not text.endswith(b"\n"):
                wait()
                if self._speaks(_TICK):
                    read = os.read(self._stdout, 1 << 16)
                    if not read:
                        errors.seek(0)
                        last = errors.read()[-_SHOWN:].decode(errors="replace").strip()
                        return {"error": f"its process died while it started: {last or 'without a message'}"}
                    text += read
        answer: dict[str, Any] = json.loads(text)
        return answer

    @property
    def _stdout(self) -> int:
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.fileno()

    def _speaks(self, seconds: float) -> bool:
        """Whether there is something to read from the keeper; after its answer, that means that it has ended."""
        return bool(select.select([self._stdout], [], [], seconds)[0])

    def require_alive(self) -> None:
        """Raise ClusterError if the cluster has ended."""
        if self._process is None or self._speaks(0):
            raise ClusterError(
                f"The private Ray cluster of this run has died; its logs are in {self._logs}. Repeat the call to "
                "continue the run from its store."
            )

    def dead_starts(self) -> str | None:
        """Return the last output of workers that died before they registered with Ray; None while one may start.

        Ray itself notices such a death only after the timeout for registering, and then starts another worker.
        """
        with contextlib.suppress(OSError):
            started = _STARTED.findall((self._logs / "raylet.out").read_text(errors="replace"))
            unknown = [pid for pid in started if not any(self._logs.glob(f"python-core-worker-*_{pid}.log"))]
            if unknown and unknown[-1] == started[-1] and not any(_lives(int(pid)) for pid in unknown):
                lines = (self._logs / "raylet.err").read_text(errors="replace").splitlines()
                own = [line for line in lines if line.strip() and not line.startswith("[")]
                return "\n".join(own)[-_SHOWN:].strip() or "there was no output"
        return None

    def close(self) -> None:
        """End all its processes; does nothing in a process that was forked from the owner."""
        process, self._process = self._process, None
        if process is None or os.getpid() != self._owner:
            return
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.close()
            gone_by = time.monotonic() + _END_SECONDS
            while time.monotonic() < gone_by:
                if select.select([process.stdout], [], [], _TICK)[0] and not os.read(process.stdout.fileno(), 1 << 16):
                    break
        finally:  # kill before wait: until then, no other process can have this process id
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
