"""Commands of lossnav in processes that may be killed, stopped, starved, and are measured: how they ended, their peak.

Most are forked from one server that has all of lossnav imported and has done nothing else yet (no thread, no array of
a store): a command starts in hundredths of a second, and is the whole of ``lossnav ...`` but for its imports. The
others are ``python -m lossnav ...``, started by the same server so that the kernel counts their memory alike.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import chaos_events

ZERO = ("lost", "wrong", "executed", "tracebacks", "hangs", "above")
SECONDS, STARTING = 10.0, 50.0  # that a command may take; and more if Python and torch are loaded first
BYTES = 2**30  # that it may hold
_TRACEBACK = "Traceback (most recent call last)"
_LEFT_OUT = ("lossnav.__main__", "lossnav.engines.ray", "lossnav.engines.cluster", "lossnav.trajectory.callbacks")
_BESIDE = (
    "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "plotly.graph_objects", "plotly.io",
    "uvicorn", "websockets.sync.client", "numcodecs", "xarray.backends",
    "zarr.testing", "fsspec.implementations.local", "pandas", "typer.testing", "torch.func",
)  # fmt: skip


# ---------------------------------------------------------------------- what is counted


class Attempt:
    """One thing that was tried, and what was wrong with it."""

    def __init__(self, tally: Tally, name: str) -> None:
        self._tally, self.name, self.sound = tally, name, True

    def fault(self, kind: str, detail: str, number: int = 1) -> None:
        """Count something that should not be."""
        assert kind in ZERO
        self.sound = False
        self._tally.counts[kind] += number
        self._tally.faults.append(f"{kind}: {self.name}: {detail}")
        print(self._tally.faults[-1], file=sys.stderr, flush=True)  # a run of an hour that is ended early has said it

    def require(self, holds: bool, kind: str, detail: str) -> None:
        """Count something that should not be, where it is."""
        if not holds:
            self.fault(kind, detail)

    def ended(self, ended: Ended, codes: Sequence[int] | None = None) -> Ended:
        """Look at how a command ended: no traceback, no hang, no more memory than a gigabyte, an exit code of those."""
        self._tally.said["forked" if ended.forked else "of their own"] += 1
        shown = f"lossnav {' '.join(ended.argv)}"
        if ended.hang:
            self.fault("hangs", shown + "; so far: " + ended.err[-600:])
        elif _TRACEBACK in ended.err:
            self.fault("tracebacks", f"{shown}\n{ended.err[-3000:]}")
        elif codes is not None and ended.code not in codes:
            self.fault("wrong", f"{shown} ended with {ended.code}, not {list(codes)}: {ended.err[-600:]}")
        self.require(ended.peak <= BYTES, "above", f"{shown}: {ended.peak / 2**20:.0f} MB")
        self._tally.peak = max(self._tally.peak, ended.peak)
        return ended


class Tally:
    """Of a part: attempts, those that survived, what should be 0, and what else is said."""

    def __init__(self) -> None:
        self.attempts = self.survived = self.peak = 0
        self.counts: Counter[str] = Counter(dict.fromkeys(ZERO, 0))
        self.said: Counter[str] = Counter()
        self.faults: list[str] = []
        self.figures: dict[str, Any] = {}

    @contextmanager
    def attempt(self, name: str) -> Iterator[Attempt]:
        """One more that is tried; it survives where no fault was found."""
        one = Attempt(self, name)
        yield one
        self.attempts += 1
        self.survived += one.sound

    def row(self) -> dict[str, Any]:
        """All of it as one dict."""
        figures = {**self.figures, **({"peak MB": round(self.peak / 2**20)} if self.peak else {})}
        counts = {"attempts": self.attempts, "survived": self.survived, **self.counts}
        return {**counts, "said": {**self.said, **figures}, "faults": self.faults}


# ---------------------------------------------------------------------- commands


class Ended(NamedTuple):
    """How a command ended."""

    argv: tuple[str, ...]
    code: int  # below 0: the signal that ended it
    peak: int  # bytes, of all that the process held at once
    out: str
    err: str
    hang: bool
    forked: bool


class Commands:
    """The server, as the benchmark sees it. Close it, or use it in a ``with`` statement.

    Parameters
    ----------
    folder : path
        For what the commands print, and for FIFOs.
    """

    def __init__(self, folder: Path) -> None:
        import lossnav

        self.folder = folder / "commands"
        self.folder.mkdir(parents=True, exist_ok=True)
        root, source = Path(__file__).parent.parent, Path(lossnav.__file__).parent.parent
        paths = os.pathsep.join([str(source), str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        quiet = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "NO_COLOR": "1", "COLUMNS": "100"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.chaos_commands"], cwd=root, env=os.environ | quiet,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self._number, self._answers, self._left = 0, dict[int, list[dict[str, Any]]](), ""

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server, and whatever runs."""
        assert self._server.stdin is not None
        with contextlib.suppress(OSError):
            self._server.stdin.close()
        self._server.wait()

    def run(self, *argv: Any, seconds: float = SECONDS, **options: Any) -> Ended:
        """Start a command and wait for it."""
        return self.start(*argv, **options).wait(seconds)

    def start(
        self,
        *argv: Any,
        cwd: Path | None = None,
        plan: dict[str, Any] | list[dict[str, Any]] | None = None,
        own: bool = False,
        target: Callable[..., Any] | None = None,
        arguments: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        setup: Callable[..., Any] | None = None,
        limits: dict[str, int] | None = None,
    ) -> Command:
        """Start ``lossnav ...``, or a function of these benchmarks in such a process.

        Parameters
        ----------
        *argv
            What follows ``lossnav``.
        cwd : path, optional
            Where.
        plan : dict or list of dict, optional
            What befalls it; see `chaos_events.arm`.
        own : bool
            Whether it is ``python -m lossnav``, and no fork.
        target, arguments : function of a module here, dict; optional
            What is called instead.
        environment : dict, optional
            Variables that it sees besides.
        setup, arguments : function of a module here, dict; optional
            What is called in the forked process before the command.
        limits : dict, optional
            By the names of `resource`, such as ``RLIMIT_FSIZE``: bytes.
        """
        self._number += 1
        place = self.folder / f"{self._number:06d}"
        place.mkdir()
        for name in ("out", "err"):
            (place / name).touch()
        called, plans = target or setup, [plan] if isinstance(plan, dict) else plan
        request = {
            "id": self._number, "argv": [str(part) for part in argv], "cwd": str(cwd or self.folder), "plan": plans,
            "own": own, "place": str(place), "environment": environment or {}, "limits": limits or {},
            "call": None if called is None else f"{called.__module__}:{called.__qualname__}",
            "arguments": arguments or {}, "instead": target is not None,
        }  # fmt: skip
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._answer(self._number, None)
        assert answer is not None
        return Command(self, self._number, answer["pid"], tuple(request["argv"]) or (request["call"],), place, own)  # type: ignore[arg-type]

    def _answer(self, number: int, seconds: float | None, also: int | None = None) -> dict[str, Any] | None:
        """What the server says next of a command; None after so many seconds, or where there is something in `also`."""
        output = self._server.stdout
        assert output is not None
        end = None if seconds is None else time.monotonic() + seconds
        while not self._answers.get(number):
            left = None if end is None else max(0.0, end - time.monotonic())
            ready, _, _ = select.select([output.fileno(), *([] if also is None else [also])], [], [], left)
            if output.fileno() not in ready:
                return None
            read = os.read(output.fileno(), 2**16).decode()
            if not read:
                raise RuntimeError("the server of commands is gone")
            *lines, self._left = (self._left + read).split("\n")
            for line in lines:
                said = json.loads(line)
                self._answers.setdefault(said["id"], []).append(said)
        return self._answers[number].pop(0)


class Command:
    """One that runs."""

    def __init__(
        self, commands: Commands, number: int, pid: int, argv: tuple[str, ...], place: Path, own: bool
    ) -> None:
        self._commands, self._number, self.pid, self.argv, self.place = commands, number, pid, argv, place
        self._own = own
        self._ended: Ended | None = None

    def wait(self, seconds: float = SECONDS) -> Ended:
        """Wait until it has ended; what takes longer is killed and is a hang, but for want of a processor."""
        if self._ended is None:
            seconds += STARTING if self._own else 0.0
            began, left, hang = time.monotonic(), seconds, False
            while (answer := self._commands._answer(self._number, left)) is None and not hang:
                left = seconds - (time.monotonic() - began - waiting(self.pid))
                hang = left <= 0.1
            if answer is None:
                self.signal(signal.SIGKILL)
                answer = self._commands._answer(self._number, None)
            assert answer is not None
            out, err = ((self.place / name).read_text(errors="replace") for name in ("out", "err"))
            self._ended = Ended(self.argv, answer["code"], answer["peak"], out, err, hang, not self._own)
            shutil.rmtree(self.place, ignore_errors=True)
        return self._ended

    def came(self, told: int, seconds: float = SECONDS + STARTING) -> bool:
        """Wait until it says through a FIFO that it came to its event; False where it ended before."""
        answer = self._commands._answer(self._number, seconds, also=told)
        if answer is None:
            ready, _, _ = select.select([told], [], [], 0)
            if ready:
                os.read(told, 1)
            return bool(ready)
        self._commands._answers[self._number].insert(0, answer)
        return False

    def until_stopped(self) -> None:
        """Wait until SIGSTOP has come to it."""
        while "T (stopped)" not in Path(f"/proc/{self.pid}/status").read_text():
            pass

    def line(self, seconds: float = SECONDS + STARTING) -> str:
        """Wait for a first line on stdout; empty where it ended without, or said nothing for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and "\n" not in self.out():
            if (answer := self._commands._answer(self._number, 0.02)) is not None:
                self._commands._answers[self._number].insert(0, answer)
                break
        return self.out().partition("\n")[0]

    def err(self) -> str:
        """What it said on stderr so far."""
        return (self.place / "err").read_text(errors="replace")

    def out(self) -> str:
        """What it said on stdout so far."""
        return (self.place / "out").read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send a signal to its process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def waiting(pid: int) -> float:
    """Seconds that a process could have run and the machine had no processor for it: of its longest waiting thread."""
    waited = 0
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                waited = max(waited, int((thread / "schedstat").read_text().split()[1]))
    return waited / 1e9


class Gate:
    """Where a command pauses at an event until it is let through."""

    def __init__(self, folder: Path) -> None:
        self._names = [tempfile.mktemp(prefix="gate-", dir=folder) for _ in range(2)]
        for name in self._names:
            os.mkfifo(name)
        self.told, self._go = (os.open(name, os.O_RDWR) for name in self._names)

    def plan(self, under: Path, at: int) -> dict[str, Any]:
        """What `Commands.start` takes as ``plan=``."""
        return {"do": "pause", "under": str(under), "at": at, "told": self._names[0], "go": self._names[1]}

    def open(self) -> None:
        """Let it through."""
        os.write(self._go, b".")

    def close(self) -> None:
        """Remove it."""
        for number in (self.told, self._go):
            os.close(number)
        for name in self._names:
            os.unlink(name)


# ---------------------------------------------------------------------- the server


def serve() -> None:
    """Fork what is asked for on stdin, a line of JSON each; say on stdout when it has started, and how it ended."""
    _load()
    running: dict[int, tuple[int, int]] = {}  # by the file of the process: its number, that of the request
    left = ""
    while True:
        ready, _, _ = select.select([0, *running], [], [])
        for file in ready:
            if file == 0:
                read = os.read(0, 2**20).decode()
                if not read:
                    for pid, _ in running.values():
                        os.kill(pid, signal.SIGKILL)
                    return
                *lines, left = (left + read).split("\n")
                for line in lines:
                    request = json.loads(line)
                    pid = os.fork()
                    if pid == 0:
                        _child(request)
                    running[os.pidfd_open(pid)] = pid, request["id"]
                    _say({"id": request["id"], "pid": pid})
            else:
                pid, number = running.pop(file)
                os.close(file)
                _, status, usage = os.wait4(pid, 0)
                code = os.waitstatus_to_exitcode(status)
                _say({"id": number, "code": code, "peak": usage.ru_maxrss * 1024})


def _say(said: dict[str, Any]) -> None:
    os.write(1, (json.dumps(said) + "\n").encode())


def _load() -> None:
    """Import all that a command may import, and do nothing with it."""
    import lossnav

    names = [each.name for each in pkgutil.walk_packages(lossnav.__path__, "lossnav.")]
    for name in (*(name for name in names if name not in _LEFT_OUT), *_BESIDE):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _child(request: dict[str, Any]) -> None:
    """The process of a command, from its first moment to its last."""
    code = 1
    try:
        chaos_events.default_signals()
        for number, name, flags in (
            (0, "/dev/null", os.O_RDONLY),
            (1, f"{request['place']}/out", os.O_WRONLY | os.O_CREAT),
            (2, f"{request['place']}/err", os.O_WRONLY | os.O_CREAT),
        ):
            os.dup2(os.open(name, flags), number)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        os.chdir(request["cwd"])
        os.environ.update(request["environment"])
        for name, most in request["limits"].items():
            resource.setrlimit(getattr(resource, name), (most, most))
        if request["own"]:
            _exec(request)
        sys.path.insert(0, request["cwd"])
        sys.argv = ["lossnav", *request["argv"]]
        if request["call"] is not None:
            module, _, name = request["call"].partition(":")
            call = getattr(importlib.import_module(module), name)
            if request["instead"]:
                _arm(request["plan"])
                code = call(**request["arguments"]) or 0
                return
            call(**request["arguments"])
        _arm(request["plan"])
        from lossnav.cli import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            import atexit

            atexit._run_exitfuncs()
            sys.stdout.flush()
        os._exit(code)


def _arm(plans: list[dict[str, Any]] | None) -> None:
    for plan in plans or ():
        chaos_events.arm(plan)


def _exec(request: dict[str, Any]) -> None:
    """Become ``python -m lossnav``, with what is planned as its sitecustomize."""
    environment = dict(os.environ)
    if request["plan"] is not None:
        site = Path(request["place"]) / "site"
        site.mkdir()
        armed = f"\nimport json\nfor plan in json.loads({json.dumps(request['plan'])!r}):\n    arm(plan)\n"
        (site / "sitecustomize.py").write_text(Path(chaos_events.__file__).read_text() + armed)
        environment["PYTHONPATH"] = os.pathsep.join([str(site), environment["PYTHONPATH"]])
    os.execve(sys.executable, [sys.executable, "-m", "lossnav", *request["argv"]], environment)


if __name__ == "__main__":
    serve()
