"""What befalls a process at its n-th event: a signal, a pause, a full disk, a clock that jumps. No sleep, no timing.

An event is what the interpreter itself announces (`sys.audit`): a file that is opened to be written, renamed, linked or
removed under a folder, and ``chaos.point``, which the jobs of these benchmarks announce before each point. So nothing
here knows how lossnav writes. This file imports nothing but the standard library: a copy of it is the sitecustomize of
a command that is a process of its own.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from itertools import count
from typing import Any

POINT = "chaos.point"
_WRITES = {"os.rename": 2, "os.link": 2, "os.symlink": 2, "os.mkdir": 1, "os.remove": 1, "os.rmdir": 1}  # their paths
_MAKING = {"open", "os.link", "os.mkdir", "os.rename", "os.symlink"}  # for which a full disk has no room
_MODES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_ALL = ("open", "import", "exec", "os.", "shutil.", "tempfile.", "socket.")  # of a plan that counts all that happens
_SHIFT = [0.0]  # seconds by which the clock is wrong
_SHIFTED: list[bool] = []


def arm(plan: dict[str, Any]) -> None:
    """Let something happen at the n-th event from now on.

    Parameters
    ----------
    plan : dict
        ``do``: "count", "signal", "pause", "full" or "clock"; ``at``: n; ``under``: the folder; ``number``: of the
        signal, and ``again``: so many events later it comes once more; ``told`` and ``go``: two FIFOs, of which a
        paused process writes to the first and waits for a byte in the second; ``seconds``: that the clock jumps;
        ``counts``: a file that holds how many events there were; ``all``: whether all events count, not only writes
        under the folder, from the one on that imports ``after``.
    """
    under, at, do = os.path.realpath(plan.get("under", "/")), plan.get("at", 0), plan["do"]
    events, everything = count(1), bool(plan.get("all"))
    waiting_for = [plan.get("after")]
    counts = os.open(plan["counts"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if "counts" in plan else None
    pipes = [os.open(plan[name], os.O_RDWR) for name in ("told", "go") if name in plan]
    if do == "clock":
        _shift_clocks()

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if waiting_for[0] is not None:
            if name == "import" and arguments[0] == waiting_for[0]:
                waiting_for[0] = None
            return
        if not (name.startswith(_ALL) if everything else name == POINT or _writes(name, arguments, under)):
            return
        n = next(events)
        if counts is not None:
            os.pwrite(counts, b"%d\n" % n, 0)
        if do == "signal" and n in (at, at + plan.get("again", 0)):
            os.kill(os.getpid(), plan["number"])
        elif do == "pause" and n == at:
            os.write(pipes[0], b".")
            os.read(pipes[1], 1)
        elif do == "full" and n >= at and name in _MAKING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif do == "clock" and n == at:
            _SHIFT[0] += plan["seconds"]

    sys.addaudithook(hook)


def _writes(name: str, arguments: tuple[Any, ...], under: str) -> bool:
    """Whether an event changes something under a folder."""
    if name == "open":
        path, _, flags = arguments
        return isinstance(flags, int) and bool(flags & _MODES) and _is_under(path, under)
    if name not in _WRITES:
        return False
    if name in ("os.remove", "os.rmdir") and arguments[1] != -1:  # part of the removal of a folder
        return True
    return any(_is_under(path, under) for path in arguments[: _WRITES[name]])


def _is_under(path: Any, under: str) -> bool:
    if isinstance(path, int):
        return False
    path = str(os.path.abspath(os.fsdecode(path)))
    return bool(path == under or path.startswith(under + os.sep))


def _shift_clocks() -> None:
    """Let the clocks of the day be wrong by `_SHIFT`; that which only rises is right, as it is on a real machine."""
    if _SHIFTED:
        return
    _SHIFTED.append(True)
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + _SHIFT[0]
    time.time_ns = lambda: now_ns() + int(_SHIFT[0] * 1e9)
    import datetime

    class Shifted(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime.fromtimestamp(time.time(), tz)

    for name, module in list(sys.modules.items()):
        if name.startswith("lossnav.") and getattr(module, "datetime", None) is datetime.datetime:
            module.datetime = Shifted  # type: ignore[attr-defined]


def default_signals() -> None:
    """Give a process the signals of a shell's child, whatever its parent ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
