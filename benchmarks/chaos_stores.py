"""Stores that are damaged or hostile, through every command: refused in a sentence or drawn, and never believed.

A third are damaged as a disk does it, the others changed by one who knows the format (`chaos_mutations`). Every command
is called for each, and the public calls of Python, a few stores to a process that has a bound on its memory; for a
third of them one command more, drawn, is a process to itself, now and then ``python -m lossnav``. *Wrong*:
after a disk's damage a point has other values than it had. *Lost*: `resume` takes away what could still be read.
*Executed*: what a store names, or holds as a pickle, left its mark.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import chaos_mutations
from benchmarks.chaos_commands import BYTES, SECONDS, Commands, Tally, waiting

COUNT, QUICK = 300, 2
_TOGETHER = 15  # stores that a process visits one after the other
_FAULTS = {"hang": "hangs", "memory": "above", "traceback": "tracebacks"}


class Visit(NamedTuple):
    """What came of a command: "fine", "refused", or what is a fault."""

    command: str
    outcome: str
    detail: str = ""


def run(seed: int, count: int, folder: Path, commands: Commands) -> Tally:
    """So many mutated stores."""
    tally, base = Tally(), folder / "project"
    base.mkdir()
    (base / "pyproject.toml").write_text("")  # a project, to which all that lies in the stores would belong
    made = commands.run(target=make, arguments={"folder": str(base / "sound")}, seconds=120)
    if made.code:
        raise RuntimeError(made.err)
    sound = sorted(path.name for path in (base / "sound").glob("*.zarr"))
    for first in range(0, count, _TOGETHER):
        stores = [Mutated(seed, number, base, sound) for number in range(first, min(count, first + _TOGETHER))]
        visits = _visits(stores, base, tally, commands)
        for store in stores:
            with tally.attempt(f"store {store.number} ({store.chosen}: {store.said})") as attempt:
                for visit in visits[store.number]:
                    tally.said[visit.outcome] += 1
                    if visit.outcome not in ("fine", "refused"):
                        attempt.fault(_FAULTS.get(visit.outcome, visit.outcome), f"{visit.command}\n{visit.detail}")
                if store.dice.random() < 0.3:
                    calls = typed(store.alone, store.place / "out")
                    own, argv = store.dice.random() < 0.15, calls[store.dice.choice(sorted(calls))]
                    attempt.ended(commands.run(*argv, cwd=store.place, own=own), [0, 1, 2, 3])
                mark = chaos_mutations.mark_of(store.path)
                attempt.require(not mark.exists(), "executed", "code of the store was run")
            shutil.rmtree(store.place)
    return tally


class Mutated:
    """A store that is mutated as its number says, in a folder of its own; and the same once more."""

    def __init__(self, seed: int, number: int, base: Path, sound: list[str]) -> None:
        self.number, self.place = number, base / f"{number}"
        self.path, self.alone = self.place / "mutated.zarr", self.place / "alone.zarr"
        self.dice = random.Random(f"{seed} stores {number}")
        self.chosen, self.of_a_disk = self.dice.choice(sound), self.dice.random() < 1 / 3
        shutil.copytree(base / "sound" / self.chosen, self.path, symlinks=True)
        kept = base / "sound" / self.chosen.replace(".zarr", ".directions.safetensors")
        if kept.exists():
            shutil.copy(kept, self.place / "mutated.directions.safetensors")
        self.said = (chaos_mutations.damage if self.of_a_disk else chaos_mutations.mutate)(self.path, self.dice)
        shutil.copytree(self.path, self.alone, symlinks=True)


def _visits(stores: list[Mutated], base: Path, tally: Tally, commands: Commands) -> dict[int, list[Visit]]:
    """What came of every command for these stores, by their numbers; one that ends the process has that as a visit."""
    found: dict[int, list[Visit]] = {store.number: [] for store in stores}
    left = [(store.number, store.chosen, store.of_a_disk) for store in stores]
    while left:
        arguments = {"base": str(base), "stores": left}
        ended = commands.run(cwd=base, target=visit_all, arguments=arguments, seconds=20 * SECONDS * len(left))
        tally.said["forked"] += 1
        tally.peak = max(tally.peak, ended.peak)
        done: set[int] = set()
        for line in ended.out.splitlines():
            number, *visit = json.loads(line)
            if visit:
                found[number].append(Visit(*visit))
            else:
                done.add(number)
        left = [store for store in left if store[0] not in done]
        if ended.code or ended.hang:
            kind = "hang" if ended.hang else "memory" if ended.peak > BYTES else "traceback"
            found[left.pop(0)[0] if left else stores[-1].number].append(Visit("all", kind, ended.err[-2000:]))
    return found


def make(folder: str) -> None:
    """Make the sound ones, in a process of its own."""
    chaos_mutations.make_stores(Path(folder))


def typed(store: Path, out: Path) -> dict[str, list[str]]:
    """What a user may type."""
    surface = str(store)
    return {
        "info": ["info", surface],
        "info --json": ["info", surface, "--json"],
        "info --verify": ["info", surface, "--verify"],
        "report": ["report", surface],
        "report --measure": ["report", surface, "--measure"],
        "contour": ["plot", "contour", surface, "-o", str(out / "contour.png")],
        "heatmap": ["plot", "heatmap", surface, "-o", str(out / "heatmap.svg")],
        "line": ["plot", "line", surface, "-o", str(out / "line.html")],
        "surface": ["plot", "surface", surface, "-o", str(out / "surface.html")],
        "trajectory": ["plot", "contour", surface, "-o", str(out / "path.svg"), "--trajectory"],
        "spectrum": ["plot", "spectrum", surface, "-o", str(out / "spectrum.svg")],
        "csv": ["export", surface, "-o", str(out / "surface.csv")],
        "vti": ["export", surface, "-o", str(out / "surface.vti")],
        "glb": ["export", surface, "-o", str(out / "surface.glb")],
        "resume": ["resume", surface],
        "resume --trust": ["resume", surface, "--trust"],
    }


# ---------------------------------------------------------------------- in the forked process


def visit_all(base: str, stores: list[tuple[int, str, bool]]) -> None:
    """Bring mutated stores through every command, and say on stdout what came of each, and which of them are done."""
    bound_memory()
    for number, chosen, of_a_disk in stores:
        place = Path(base) / f"{number}"
        os.chdir(place)
        finished = Path(base) / "sound" / ("line.zarr" if chosen == "killed.zarr" else chosen)
        for visit in _visit(place, finished, of_a_disk):
            print(json.dumps([number, *visit]), flush=True)
        print(json.dumps([number]), flush=True)


def _visit(place: Path, sound: Path, of_a_disk: bool) -> Iterator[Visit]:
    store, out = place / "mutated.zarr", place / "out"
    out.mkdir()
    whole, before = (rows_in(sound), rows_in(store)) if of_a_disk else ({}, {})
    if not before.items() <= whole.items():
        yield Visit("open", "wrong", f"{len(before)} points")
    yield from visit_each(store, out)
    if of_a_disk:
        after = rows_in(store)
        if not before.items() <= after.items():
            yield Visit("go on", "lost", f"{len(before)} points fell to {len(after)}")
        if not after.items() <= whole.items():
            yield Visit("go on", "wrong", f"{len(after)} points")


def rows_in(store: Path) -> dict[tuple[float, ...], Any]:
    """Points that a store says were measured, with their values; none where it is refused."""
    import warnings

    import numpy as np

    import lossnav as ln
    from lossnav.surface.assemble import rows_of

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = list(rows_of(ln.open(store)))
    except ln.errors.LossnavError:
        return {}
    return {
        row.point: (row.status, {name: np.float64(value).tobytes() for name, value in row.values.items()})
        for row in rows  # by their bits: a NaN is the same as itself
    }


def bound_memory() -> None:
    """Give this process a gigabyte beyond what it has."""
    import resource

    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        has = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (has + BYTES, has + BYTES))


def visit_each(store: Path, out: Path, only: Collection[str] = ()) -> Iterator[Visit]:
    """Bring a store through every command of the command line and the calls of Python, or through some."""
    from typer import testing

    from lossnav.cli import app

    runner_of: Any = testing
    if not hasattr(runner_of._get_command, "cache_info"):  # it makes the command for each call anew: most of the time
        runner_of._get_command = cache(runner_of._get_command)
    runner = testing.CliRunner()

    def opening(name: str) -> Callable[[], None]:
        def run() -> None:
            import lossnav as ln
            from lossnav.explorer.stored.session import open_session

            ln.open(store) if name == "open" else open_session(store)

        return run

    def go_on() -> None:
        import lossnav as ln

        chaos_mutations.count_calls(True)
        with contextlib.suppress(KeyboardInterrupt):
            ln.resume(store, chaos_mutations.make_objective()[0], progress=False)
        chaos_mutations.count_calls(False)

    runs: dict[str, Callable[[], Any]] = {"open": opening("open"), "explore": opening("explore")}
    for name, arguments in typed(store, out).items():
        runs[name] = lambda arguments=arguments: runner.invoke(app, arguments)  # type: ignore[misc]
    runs["go on"] = go_on
    for name, run in runs.items():
        if not only or name in only:
            yield Visit(name, *_outcome(run))


class _TooLong(BaseException):
    pass


_BEGAN = [0.0, 0.0]  # when a command began, and how long the process had waited for a processor by then


def _ring(number: int, frame: Any) -> None:
    left = SECONDS - (time.monotonic() - _BEGAN[0]) + waiting(os.getpid()) - _BEGAN[1]
    if left < 0.1:
        raise _TooLong
    signal.setitimer(signal.ITIMER_REAL, left)


def _outcome(run: Callable[[], Any]) -> tuple[str, str]:
    import warnings

    from lossnav.errors import LossnavError

    signal.signal(signal.SIGALRM, _ring)
    _BEGAN[:] = [time.monotonic(), waiting(os.getpid())]
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = run()
        error = None if result is None else result.exception
        if error is None or (isinstance(error, SystemExit) and result.exit_code in (0, 1, 2, 3)):
            said = "" if result is None else (result.stderr or "")
            if "Traceback" in said:
                return "traceback", said[-2000:]
            return ("fine", "") if error is None or not result.exit_code else ("refused", said.strip()[:300])
    except LossnavError as refused:
        return "refused", str(refused)[:300]
    except BaseException as raised:
        error = raised
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    kind = {_TooLong: "hang", MemoryError: "memory"}.get(type(error), "traceback")
    return kind, "".join(traceback.format_exception(error))[-2500:]
