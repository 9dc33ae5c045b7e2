"""Ctrl-C and SIGTERM at a drawn event of every other command: one line, its exit code, a whole result or none.

An event is any that the interpreter announces once lossnav's command line is being imported: an import, a file that is
opened, a rename. A quarter of the commands are processes of their own, where imports are most of them. *Lost*: what
was there before, a file or a point of a store, is not. *Wrong*: a half-written result, something left beside it,
another exit code.
"""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path
from typing import Any

from benchmarks import chaos_jobs
from benchmarks.chaos_commands import SECONDS, Commands, Tally

COUNT, QUICK = 80, 6
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SAME = (".csv", ".vti", ".glb")  # files of which two runs give the same bytes
RESULTS = {  # commands by the files that they write, "" for none
    "": (
        ("info", "run.zarr"), ("info", "run.zarr", "--verify"), ("report", "run.zarr"),
        ("resume", "run.zarr", "--spec", "job.py:valley"), ("interval", "job.py:network"),
        ("sharpness", "job.py:network", "--kind", "sam"),
    ),
    "out.svg": (("plot", "contour", "run.zarr", "-o", "out.svg"),),
    "out.html": (("plot", "surface", "run.zarr", "-o", "out.html"), ("explore", "run.zarr", "--export", "out.html")),
    "out.csv": (("export", "run.zarr", "-o", "out.csv"),),
    "out.vti": (("export", "run.zarr", "-o", "out.vti"),),
    "out.glb": (("export", "run.zarr", "-o", "out.glb"),),
}  # fmt: skip


def make(place: Path, commands: Commands) -> dict[str, bytes]:
    """A folder with a run in it, and what each command writes that is left alone, by its file."""
    chaos_jobs.project(place)
    call = ("evaluate", "job.py:valley", "--grid", "13", "--normalize", "none", "-o", "run.zarr")
    made = commands.run(*call, cwd=place, seconds=120)
    if made.code:
        raise RuntimeError(made.err)
    whole: dict[str, bytes] = {}
    for result, calls in RESULTS.items():
        for argv in calls if result else ():
            done = commands.run(*argv, cwd=place, seconds=120)
            if done.code:
                raise RuntimeError(done.err)
            whole[" ".join(argv)] = (place / result).read_bytes()
            (place / result).unlink()
    return whole


def run(seed: int, count: int, folder: Path, commands: Commands) -> Tally:
    """So many signals."""
    tally, place, counts = Tally(), folder / "project", folder / "counts"
    whole, events = make(place, commands), dict[tuple[Any, ...], int]()
    truth = chaos_jobs.measured(place / "run.zarr")
    there = sorted(path.name for path in place.iterdir())
    for number in range(count):
        dice = random.Random(f"{seed} signals {number}")
        result = dice.choice(["", *RESULTS])
        argv, own, kind = dice.choice(RESULTS[result]), dice.random() < 0.25, dice.choice([*CODES])
        plan = {"do": "count", "all": True, "counts": str(counts)} | ({"after": "lossnav.cli.command"} if own else {})
        if (own, argv) not in events:
            commands.run(*argv, cwd=place, plan=plan, own=own)
            events[own, argv] = int(counts.read_text())
            if result:
                (place / result).unlink()
        before = b"before" if result and dice.random() < 0.5 else None
        if before is not None:
            (place / result).write_bytes(before)
        again = ("--overwrite",) if before is not None else ()
        plan = {key: value for key, value in plan.items() if key != "counts"}
        plan |= {"do": "signal", "at": dice.randrange(1, events[own, argv] + 1), "number": int(kind)}
        with tally.attempt(f"{kind.name} {number} at event {plan['at']} of {' '.join(argv)}") as attempt:
            done = commands.run(*argv, *again, cwd=place, plan=plan, own=own, seconds=SECONDS)
            attempt.ended(done, [0, CODES[kind]])
            tally.said["stopped"] += done.code == CODES[kind]
            if result:
                now = (place / result).read_bytes() if (place / result).exists() else None
                is_whole = now == whole[" ".join(argv)] if result.endswith(SAME) else bool(now and now != before)
                attempt.require(is_whole or now == before, "wrong", f"{result} holds {len(now or b'')} bytes")
                attempt.require(is_whole or done.code != 0, "wrong", "ended well without its result")
                (place / result).unlink(missing_ok=True)
            left = sorted({path.name for path in place.iterdir()} - {*there})
            attempt.require(not left, "wrong", f"left in the folder: {left}")
            for name in left:
                shutil.rmtree(place / name, ignore_errors=True)
            attempt.require(chaos_jobs.measured(place / "run.zarr") == truth, "lost", "the store is another one")
    return tally
