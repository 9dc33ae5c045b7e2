"""A progress bar on stderr for whatever takes more than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import rich.progress

T = TypeVar("T")

_PATIENCE = 1.0  # seconds before a bar appears: shorter work than this needs none
_LINE_EVERY = 10.0  # seconds between lines where stderr is a file


class Progress:
    """Count units of work; draw a bar with rate and ETA on a terminal, a line now and then in a log file.

    Parameters
    ----------
    description : str
        What is being done, such as ``"evaluate"``.
    total : int or None
        How many units there are; None where nobody knows.
    unit : str
        What is counted, in the plural, such as ``"points"``.
    show : bool or None
        True: always (lines where stderr is no terminal). False: never. None: on a terminal only.
    """

    def __init__(self, description: str, total: int | None, unit: str, show: bool | None = None) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self._known = 0
        self._terminal = sys.stderr.isatty()
        self._show = self._terminal if show is None else show
        self._bar: rich.progress.Progress | None = None
        self._started = self._last_line = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Units a second, over the whole work so far; what was known before it counts for nothing."""
        return (self.done - self._known) / max(self.seconds, 1e-9)

    def __enter__(self) -> Progress:
        self._started = self._last_line = time.monotonic()
        return self

    def advance(self, units: int = 1, known: bool = False) -> None:
        """Say that some more units are done, or were ``known`` from an earlier run and took no time."""
        self.done += units
        self._known += units * known
        if not self._show:
            return
        if self._terminal:
            if self._bar is None and self.seconds > _PATIENCE:
                self._bar = self._start_bar()
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=self.done, rate=f"{self.rate:.3g} {self.unit}/s")
        elif time.monotonic() - self._last_line > _LINE_EVERY:
            self._last_line = time.monotonic()
            self.say(self._line())

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
        left = timedelta(seconds=round((self.total - self.done) / max(self.rate, 1e-9)))
        return f"{self.description}: {self.done}/{self.total} {self.unit}, {self.rate:.3g} {self.unit}/s, ETA {left}"

    def _start_bar(self) -> rich.progress.Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        bar.start()
        bar.add_task(self.description, total=self.total, completed=self.done, rate="")
        return bar


def track(items: Iterable[T], description: str, unit: str, show: bool | None = None) -> Iterator[T]:
    """Iterate with a progress bar; the total is the length of the items where they have one."""
    total = len(items) if isinstance(items, Sized) else None
    with Progress(description, total, unit, show) as progress:
        for item in items:
            yield item
            progress.advance()
