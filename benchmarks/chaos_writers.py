"""Two that write into one store, met at a drawn event: one writes, the other is told, nothing of either is lost.

The first run pauses at an event, is stopped there as by Ctrl-Z, or is killed; then the second comes: the same call,
``resume``, or ``--overwrite``. Who waits for a heart that stands still need not wait in real time (`impatient`).
*Lost*: what could be read when the second came is not there at the end. *Wrong*: the end is not an uninterrupted run,
both went away, one ended in another way than told, or what a reader saw meanwhile is no part of the whole.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import chaos_jobs
from benchmarks.chaos_commands import STARTING, Attempt, Command, Commands, Ended, Gate, Tally
from benchmarks.chaos_kills import Whole, tile_of

COUNT, QUICK = 60, 4
_TOLD = ("StoreBusyError", "StoreTakenOverError")
_LONG = STARTING  # seconds for two that run at once


def run(seed: int, count: int, folder: Path, commands: Commands) -> Tally:
    """So many rounds."""
    tally, place = Tally(), chaos_jobs.project(folder / "project")
    whole: dict[str, Whole] = {}
    for number in range(count):
        dice = random.Random(f"{seed} writers {number}")
        kind, meet = dice.choice(["grid", "grid", "adaptive"]), dice.choice(_MEETINGS)
        whole[kind] = whole.get(kind) or Whole(kind, place, commands)
        tally.said[meet.__name__.strip("_")] += 1
        with tally.attempt(f"round {number} ({kind}, {meet.__name__.strip('_')})") as attempt:
            shutil.rmtree(place / "run.zarr", ignore_errors=True)
            _Round(attempt, dice, whole[kind], place, commands).go(meet)
    return tally


def impatient(rows: int) -> None:
    """Tiles of so many rows, and no time passes while another's heart is watched, in this process."""
    from lossnav.storage import lease

    tile_of(rows)
    lease._wait = lambda seconds: None


class _Round:
    def __init__(self, attempt: Attempt, dice: random.Random, whole: Whole, place: Path, commands: Commands) -> None:
        self.attempt, self.dice, self.whole, self.place, self.commands = attempt, dice, whole, place, commands
        self.store, self.rows = place / "run.zarr", dice.choice([1, 3, 8, 40])
        self.call = ["evaluate", *whole.argv, "-o", self.store]
        self.at = dice.randrange(1, whole.events(self.rows))
        self.truth = chaos_jobs.measured(whole.store)
        self.seen: chaos_jobs.Measured = {}

    def go(self, meet: Callable[[_Round], list[Ended]]) -> None:
        """Let two meet, and see what is there in the end."""
        ended = meet(self)
        for one in ended:
            told = one.code == 1 and any(word in one.err for word in _TOLD)
            self.attempt.require(one.code in (0, -9) or told, "wrong", f"ended with {one.code}: {one.err[-400:]}")
        self.attempt.require(any(one.code == 0 for one in ended), "wrong", "none of the two came to its end")
        self.read()
        self.attempt.ended(self.commands.run(*self.call, cwd=self.place, seconds=_LONG), [0])
        self.read()
        chaos_jobs.require_same(self.attempt, self.store, self.whole.store)

    def read(self) -> None:
        """Look, as whoever is not in the way: all that was seen before, and nothing but what is true."""
        import lossnav as ln

        try:
            now = chaos_jobs.measured(self.store)
        except ln.errors.StoreError as error:
            self.attempt.fault("wrong", f"a reader was refused: {error}")
            return
        gone = self.seen.items() - now.items()
        self.attempt.require(not gone, "lost", f"{len(gone)} of {len(self.seen)} points")
        self.attempt.require(now.items() <= self.truth.items(), "wrong", "a reader saw other values")
        self.seen = now

    def first(self, plan: dict[str, Any]) -> Command:
        """Start the first."""
        return self.commands.start(*self.call, cwd=self.place, plan=plan, setup=tile_of, arguments={"rows": self.rows})

    def second(self, *more: str) -> Ended:
        """Let the second come, in the way that is drawn, and wait for its end."""
        call: list[Any] = [*self.call, *more]
        if not more and self.dice.random() < 0.4 and (self.store / "zarr.json").exists():
            call = ["resume", self.store, "--spec", self.whole.argv[0]]
        options: dict[str, Any] = {"setup": impatient, "arguments": {"rows": self.rows}}
        ended = self.commands.run(*call, cwd=self.place, seconds=_LONG, **options)
        return self.attempt.ended(ended)

    def paused(self, then: Callable[[Command], Ended]) -> list[Ended]:
        """The first, paused at its event; what is done then; and both to their ends."""
        gate = Gate(self.place)
        try:
            first = self.first(gate.plan(self.place, self.at))
            if not first.came(gate.told):
                return [self.attempt.ended(first.wait(_LONG))]
            self.read()
            second = then(first)
            self.read()
            gate.open()
            first.signal(signal.SIGCONT)
            return [second, self.attempt.ended(first.wait(_LONG))]
        finally:
            gate.close()


def _beside_one_that_lives(round_: _Round) -> list[Ended]:
    return round_.paused(lambda first: round_.second())


def _over_one_that_lives(round_: _Round) -> list[Ended]:
    def overwrite(first: Command) -> Ended:
        ended = round_.second("--overwrite")
        if ended.code == 0:  # the first had not begun
            round_.seen = {}
        return ended

    return round_.paused(overwrite)


def _after_one_that_was_stopped(round_: _Round) -> list[Ended]:
    def stopped(first: Command) -> Ended:
        first.signal(signal.SIGSTOP)
        first.until_stopped()
        return round_.second()

    return round_.paused(stopped)


def _after_one_that_was_killed(round_: _Round) -> list[Ended]:
    first = round_.first({"do": "signal", "under": str(round_.place), "at": round_.at, "number": int(signal.SIGKILL)})
    ended = round_.attempt.ended(first.wait(_LONG))
    round_.read()
    return [ended, round_.second()]


def _at_once(round_: _Round) -> list[Ended]:
    gates = [Gate(round_.place) for _ in range(2)]
    try:
        both = [round_.first(gate.plan(round_.place, round_.dice.randrange(1, 12))) for gate in gates]
        came = [one.came(gate.told) for one, gate in zip(both, gates, strict=True)]
        for gate, is_there in zip(gates, came, strict=True):
            if is_there:
                gate.open()
        return [round_.attempt.ended(one.wait(_LONG)) for one in both]
    finally:
        for gate in gates:
            gate.close()


_MEETINGS = (
    _beside_one_that_lives, _over_one_that_lives, _after_one_that_was_stopped, _after_one_that_was_killed, _at_once,
)  # fmt: skip
