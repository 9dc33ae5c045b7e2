"""Clocks that jump, while a run computes and between two sessions: what was measured counts, whatever they say.

In each session the clock jumps at a drawn event by up to ten years, back or forth, from one that is wrong from the
start; the first sessions compute where half of the points raise, and are killed; the times of all files are set anew.
*Lost*: a measured point is gone, or gives way to a failure. *Wrong*: the end is not that of an uninterrupted run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

from benchmarks import chaos_jobs
from benchmarks.chaos_commands import Commands, Tally
from benchmarks.chaos_kills import Whole, tile_of

COUNT, QUICK = 30, 2
_YEARS = 10 * 365 * 86400.0


def run(seed: int, count: int, folder: Path, commands: Commands) -> Tally:
    """So many runs whose clocks jump."""
    tally, place = Tally(), chaos_jobs.project(folder / "project")
    whole, store = Whole("grid", place, commands), place / "run.zarr"
    call = ["evaluate", *whole.argv, "-o", store]
    for number in range(count):
        dice = random.Random(f"{seed} clocks {number}")
        shutil.rmtree(store, ignore_errors=True)
        before: chaos_jobs.Measured = {}
        with tally.attempt(f"run {number}") as attempt:
            for session in range(dice.choice([2, 3])):
                rows, own = dice.choice([1, 3, 8, 40]), dice.random() < 0.1
                at = [dice.randrange(1, whole.events(rows)) for _ in range(2)]
                jumps = [
                    {"do": "clock", "under": str(place), "at": n, "seconds": dice.uniform(-_YEARS, _YEARS)}
                    for n in (1, at[0])
                ]
                dies = {"do": "signal", "under": str(place), "at": at[1], "number": int(signal.SIGKILL)}
                worn = dice.random() < (0.7 if session == 0 else 0.4)
                options: dict[str, Any] = {"own": True} if own else {"setup": tile_of, "arguments": {"rows": rows}}
                environment = {chaos_jobs.WORN: "1"} if worn else {}
                plan = [*jumps, *([dies] if dice.random() < 0.6 else [])]
                done = commands.run(*call, cwd=place, plan=plan, environment=environment, **options)
                attempt.ended(done, [0, -9, *([3] if worn else [])])
                tally.said["jumps"] += 2
                tally.said["killed"] += done.code == -9
                before = chaos_jobs.none_lost(attempt, store, before)
                for path in store.rglob("*"):
                    os.utime(path, (then := dice.uniform(0, 3e9), then))
            attempt.ended(commands.run(*call, cwd=place), [0])
            chaos_jobs.require_same(attempt, store, whole.store)
    return tally
