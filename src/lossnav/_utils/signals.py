"""The first Ctrl-C or SIGTERM asks a run to stop in order, the second stops it at once, as does one outside a run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """While entered, the first signal only sets `signal`; the second raises KeyboardInterrupt.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Attributes
    ----------
    signal : int or None
        The signal that came.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise _interrupt(number)
        self.signal = number

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class EndAtOnce:
    """While entered, Ctrl-C or SIGTERM ends a command in one line and with its exit code, 130 or 143, whatever it does.

    A KeyboardInterrupt is raised, with the number of the signal as its ``signal``, except in the middle of an import:
    there the process ends on the spot, as C code that imports turns it into an ImportError, and Python prints and drops
    it in the callbacks of the import's locks. Nothing is lost by it: an import writes nothing. A file of the user's
    that a SPEC names is code under way, and no import.

    Signals that are ignored, as under ``nohup``, stay ignored. Processes that are forked meanwhile take signals as if
    it were not there. When it is left, the process is about to end, and a signal ends it on the spot.
    """

    def __init__(self) -> None:
        self._signal, self._process, self._over = 0, os.getpid(), False

    def __enter__(self) -> EndAtOnce:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    signal.signal(number, self._on_signal)
            before = sys.unraisablehook
            sys.unraisablehook = lambda lost: self._end() if _is_interrupt(lost.exc_value) else before(lost)
        return self

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._signal = number
        if self._over or _imports(frame):
            self._end()
        raise _interrupt(number)

    def _end(self) -> None:
        if not self._over:
            os.write(2, b"Stopped.\n")
        os._exit(128 + (self._signal or signal.SIGINT))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if self._signal and not (isinstance(error, SystemExit) and error.code in (0, 128 + self._signal)):
            raise SystemExit(128 + self._signal) from None  # what became of the interrupt on its way here


def signal_of(error: KeyboardInterrupt) -> int:
    """Return the number of the signal that an interrupt stands for; that of Ctrl-C where it does not say.

    Examples
    --------
    >>> signal_of(KeyboardInterrupt()), signal_of(_interrupt(signal.SIGTERM))
    (2, 15)
    """
    return int(getattr(error, "signal", signal.SIGINT))


def _interrupt(number: int) -> KeyboardInterrupt:
    """What a signal raises; it says which, for the exit code."""
    interrupt = KeyboardInterrupt()
    interrupt.signal = number  # type: ignore[attr-defined]
    return interrupt


def _is_interrupt(error: BaseException | None) -> bool:
    return isinstance(error, KeyboardInterrupt)


def _imports(frame: FrameType | None) -> bool:
    """Whether an import is under way where a signal came, other than that of a file that a SPEC names."""
    within = False
    while frame is not None:
        name = frame.f_globals.get("__name__") or ""
        if name.startswith(("importlib.", "_frozen_importlib")) or name == "importlib":
            within = True
        elif within:
            return name != "lossnav.specs.objective_of"
        frame = frame.f_back
    return within
