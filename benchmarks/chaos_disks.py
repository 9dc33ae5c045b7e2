"""Full disks: nothing half-written, nothing lost, and with room the same call ends as if nothing had been.

Three ways, drawn: a small tmpfs of a drawn size where the system lets us mount one; a limit on the size of a file
(RLIMIT_FSIZE); and, at a drawn event, no room for anything new from there on. Runs into a store are gone on with
afterwards; results of the other commands are whole, or what was there before. *Wrong*: another exit code than 1, a
half-written result, an end that is not that of an uninterrupted run. *Lost*: what could be read before cannot be.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import chaos_jobs
from benchmarks.chaos_commands import Attempt, Commands, Tally
from benchmarks.chaos_kills import Whole, tile_of
from benchmarks.chaos_signals import RESULTS, SAME, make

COUNT, QUICK = 60, 5
_ROOM = 16 * 2**20


def run(seed: int, count: int, folder: Path, commands: Commands) -> Tally:
    """So many full disks."""
    tally, place = Tally(), folder / "project"
    results = make(place, commands)
    whole: dict[str, Whole] = {}
    mounts = can_mount(folder)
    tally.figures["disks of their own"] = "yes" if mounts else "cannot be mounted here"
    for number in range(count):
        dice = random.Random(f"{seed} disks {number}")
        way = dice.choice(["tmpfs" if mounts else "no room", "limit", "no room"])
        tally.said[way] += 1
        into = dice.choice(["store", "result"])
        with (
            tally.attempt(f"disk {number} ({way}, {into})") as attempt,
            disk(folder / "disk", way == "tmpfs") as target,
        ):
            if into == "store":
                kind = dice.choice(["grid", "adaptive", "samples"])
                whole[kind] = whole.get(kind) or Whole(kind, place, commands)
                _store(attempt, dice, whole[kind], place, target, way, tally, commands)
            else:
                _result(attempt, dice, place, results, target, way, tally, commands)
    return tally


@contextmanager
def disk(place: Path, mounted: bool) -> Iterator[Path]:
    """An empty folder, a disk of its own where that is asked for."""
    place.mkdir()
    try:
        if mounted:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "tmpfs", place], check=True)
        yield place
    finally:
        if mounted:
            subprocess.run(["umount", "-l", place], check=False)
        shutil.rmtree(place, ignore_errors=True)


def can_mount(folder: Path) -> bool:
    """Whether the system lets us mount a small disk."""
    if shutil.which("mount") is None or os.name != "posix" or os.geteuid() != 0:
        return False
    with contextlib.suppress(subprocess.CalledProcessError, OSError), disk(folder / "tried", True) as tried:
        return tried.is_mount()
    return False


def _resized(place: Path, room: int) -> None:
    """Leave so much room on a disk of its own, beside what it holds."""
    now = os.statvfs(place)
    size = room + now.f_bsize * (now.f_blocks - now.f_bfree)
    subprocess.run(["mount", "-o", f"remount,size={size}", place], check=True)


def _starved(dice: random.Random, way: str, target: Path, events: int, most: int) -> dict[str, Any]:
    """What `Commands.run` takes so that there is too little room; of a disk of its own the size is set."""
    if way == "limit":
        return {"limits": {"RLIMIT_FSIZE": dice.randrange(1, most)}}
    if way == "tmpfs":
        _resized(target, 4096 * dice.randrange(1, 2 + most // 1024))
        return {}
    return {"plan": {"do": "full", "under": str(target), "at": dice.randrange(1, events)}}


def _store(
    attempt: Attempt, dice: random.Random, whole: Whole, place: Path, target: Path, way: str, tally: Tally,
    commands: Commands,
) -> None:  # fmt: skip

    store, rows = target / "run.zarr", dice.choice([1, 8, 40])
    call = ["evaluate", *whole.argv, "-o", store]
    options: dict[str, Any] = {"cwd": place, "setup": tile_of, "arguments": {"rows": rows}}
    before: chaos_jobs.Measured = {}
    for _ in range(dice.choice([1, 2])):
        starved = _starved(dice, way, target, whole.events(rows), 3000)
        done = attempt.ended(commands.run(*call, **options, **starved), [0, 1])
        tally.said["refused"] += done.code == 1
        if done.code == 1:
            attempt.require("Error: " in done.err, "wrong", f"no error of ours: {done.err[-300:]}")
        before = chaos_jobs.none_lost(attempt, store, before)
    if way == "tmpfs":
        _resized(target, _ROOM)
    attempt.ended(commands.run(*call, cwd=place), [0])
    gone = before.items() - chaos_jobs.measured(store).items()
    attempt.require(not gone, "lost", f"{len(gone)} of {len(before)} points at the end")
    chaos_jobs.require_same(attempt, store, whole.store)


def _result(
    attempt: Attempt, dice: random.Random, place: Path, results: dict[str, bytes], target: Path, way: str,
    tally: Tally, commands: Commands,
) -> None:  # fmt: skip
    name = dice.choice([name for name in RESULTS if name])
    argv = dice.choice(RESULTS[name])
    whole, out = results[" ".join(argv)], target / name
    before = b"before" if dice.random() < 0.5 else None
    if before is not None:
        out.write_bytes(before)
    call = [*(out if part == name else part for part in argv), *(("--overwrite",) if before is not None else ())]
    starved = _starved(dice, way, target, 8, int(1.2 * len(whole)))
    done = attempt.ended(commands.run(*call, cwd=place, **starved), [0, 1])
    tally.said["refused"] += done.code == 1
    now = out.read_bytes() if out.exists() else None
    is_whole = now == whole if name.endswith(SAME) else bool(now and now != before)
    attempt.require(now == before if done.code else is_whole, "wrong", f"{name} holds {len(now or b'')} bytes")
    left = sorted(path.name for path in target.iterdir() if path.name != name)
    attempt.require(not left, "wrong", f"left in the folder: {left}")
    if way == "tmpfs":
        _resized(target, _ROOM)
    call = [*(out if part == name else part for part in argv), "--overwrite"]
    attempt.ended(commands.run(*call, cwd=place), [0])
    now = out.read_bytes()
    attempt.require(now == whole if name.endswith(SAME) else len(now) > 100, "wrong", f"{name} with room again")
