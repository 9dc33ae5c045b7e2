"""A progress bar on stderr for whatever takes more than two seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from lossnav.errors import OptionError

if TYPE_CHECKING:
    import rich.progress

T = TypeVar("T")

_PATIENCE = 1.0  # seconds before a bar appears: shorter work than this needs none
_LINE_EVERY = 10.0  # seconds between lines where stderr is a file
_WAIT_EVERY = 30.0  # the same, while nothing is done but to wait
_RECENT = 20.0  # seconds of work by which the rest is reckoned: later points may cost more than coarse ones
_RECENT_STEP = 0.1  # between two looks that are remembered


class Progress:
    """Count units of work; draw a bar with rate and ETA on a terminal, a line now and then in a log file.

    Parameters
    ----------
    description : str
        What is being done, such as ``"evaluate"``.
    total : int or None
        How many units there are; None where nobody knows, or not yet: it may be set later.
    unit : str
        What is counted, in the plural, such as ``"points"``.
    show : bool or None
        True: always (lines where stderr is no terminal). False: never. None: on a terminal only.
    clock : callable, optional
        Seconds, in place of `time.monotonic`.
    later : callable, optional
        ``later(seconds, function)`` with ``start()`` and ``cancel()``, in place of `threading.Timer`.

    Raises
    ------
    OptionError
        If `show` is neither of these.
    """

    def __init__(
        self,
        description: str,
        total: int | None,
        unit: str,
        show: bool | None = None,
        *,
        clock: Callable[[], float] | None = None,
        later: Callable[[float, Callable[[], None]], Any] | None = None,
    ) -> None:
        if show is not None and type(show).__name__ not in ("bool", "bool_"):
            raise OptionError(
                f"progress={show!r} is no choice. Pass True for a bar, False for none, or leave it out for one on a "
                "terminal."
            )
        self.description, self.total, self.unit = description, total, unit
        self.done = self._known = 0
        self._clock, self._later = clock or time.monotonic, later or threading.Timer
        self._terminal = sys.stderr.isatty()
        self._show = self._terminal if show is None else show
        self._bar: rich.progress.Progress | None = None
        self._lock = threading.Lock()  # a phase that lasts is shown by a timer
        self._begin()

    def _begin(self) -> None:
        self._started = self._last_line = self._last_wait = self._clock()
        self._beside = 0.0  # seconds of phases
        self._looks: deque[tuple[float, int]] = deque([(0.0, 0)])  # seconds of work, and units that took time

    @property
    def seconds(self) -> float:
        """Seconds of work on the units: since it began, without phases such as planning."""
        return self._clock() - self._started - self._beside

    @property
    def rate(self) -> float:
        """Units a second, over the whole work so far; what was known before it counts for nothing."""
        return (self.done - self._known) / max(self.seconds, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take, by the rate of late; None where that cannot be said yet."""
        own = self.done - self._known
        if self.total is None or own == 0:
            return None
        since, before = self._looks[0]
        if own == before:
            since, before = 0.0, 0
        return max(0, self.total - self.done) * (self.seconds - since) / (own - before)

    def __enter__(self) -> Progress:
        self._begin()
        return self

    def advance(self, units: int = 1, known: bool = False) -> None:
        """Say that some more units are done, or were ``known`` from an earlier run and took no time."""
        self.done += units
        self._known += units * known
        if not self._show:
            return
        now = self.seconds
        if now - self._looks[-1][0] >= _RECENT_STEP:
            self._looks.append((now, self.done - self._known))
        while len(self._looks) > 2 and self._looks[1][0] <= now - _RECENT:
            self._looks.popleft()
        if self._terminal:
            with self._lock:
                if self._bar is None and now > _PATIENCE:
                    self._bar = self._start_bar()
            self._draw()
        elif self._clock() - self._last_line > _LINE_EVERY:
            self._last_line = self._clock()
            self.say(self._line())

    @contextmanager
    def phase(self, words: str) -> Iterator[None]:
        """Name work that is none of the units, such as planning: it is shown where it lasts, and slows no rate."""
        started = self._last_wait = self._clock()
        timer = self._later(_PATIENCE, lambda: self._show_phase(words)) if self._show else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            self._beside += self._clock() - started
            self._draw()

    def _show_phase(self, words: str) -> None:
        if not self._terminal:
            self.say(f"{self.description}: {words} …")
            return
        with self._lock:
            self._bar = self._bar or self._start_bar()
            self._bar.update(self._bar.task_ids[0], description=f"{self.description}: {words} …")

    def wait(self, words: str) -> None:
        """Say what a phase waits for: in the bar, or in a log file by a line every half minute."""
        if self._terminal:
            with self._lock:
                if self._bar is not None:
                    self._bar.update(self._bar.task_ids[0], description=f"{self.description}: {words} …")
        elif self._clock() - self._last_wait >= _WAIT_EVERY:
            self._last_wait = self._clock()
            self.say(f"{self.description}: {words} …")

    def _draw(self) -> None:
        if self._bar is not None:
            rate = f"{self.rate:.3g} {self.unit}/s" if self.done > self._known else ""
            task = self._bar.task_ids[0]
            self._bar.update(task, description=self.description, total=self.total, completed=self.done)
            self._bar.update(task, rate=rate, eta=_in_words(self.left))

    def say(self, text: str) -> None:
        """Print a line on stderr, above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        elif self._show:
            print(text, file=sys.stderr, flush=True)  # noqa: T201

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _line(self) -> str:
        if self.total is None:
            return f"{self.description}: {self.done} {self.unit}, {self.rate:.3g} {self.unit}/s"
        counted = f"{self.description}: {self.done}/{self.total} {self.unit}"
        return f"{counted}, {self.rate:.3g} {self.unit}/s, ETA {_in_words(self.left)}"

    def _start_bar(self) -> rich.progress.Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("ETA {task.fields[eta]}"),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        bar.start()
        bar.add_task(self.description, total=self.total, completed=self.done, rate="", eta=_in_words(None))
        return bar


def _in_words(seconds: float | None) -> str:
    return "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))


def track(items: Iterable[T], description: str, unit: str, show: bool | None = None) -> Iterator[T]:
    """Iterate with a progress bar; the total is the length of the items where they have one."""
    total = len(items) if isinstance(items, Sized) else None
    with Progress(description, total, unit, show) as progress:
        for item in items:
            yield item
            progress.advance()
