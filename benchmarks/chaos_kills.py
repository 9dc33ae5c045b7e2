"""Runs that are killed at an event, again and again, and gone on with: nothing that was finished is lost, or redone.

A run is of a kind (a grid, an adaptive plane, kept samples of a network, several seeds, a recorded trajectory) and ends
each of its first sessions by a signal at a drawn event: a write into the store, or a point. SIGKILL ends it on the
spot. SIGINT and SIGTERM end it in order; now and then a second one comes soon after. After each session the store is
opened: what it held before is there (*lost*), and all that was computed but the tile under way. What a later session
computes again although it was there is lost too. At last the same call, or ``lossnav resume``, finishes it: the surface
is that of an uninterrupted run, bit for bit (*wrong*).
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import chaos_jobs
from benchmarks.chaos_commands import Attempt, Commands, Ended, Tally

COUNT, QUICK = 120, 5
_STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
KINDS: dict[str, Sequence[str]] = {  # what follows `lossnav evaluate`
    "grid": ("job.py:valley", "--grid", "13", "--normalize", "none"),
    "adaptive": (
        "job.py:valley", "--sampler", "adaptive", "--tolerance", "0.003", "--max-points", "140", "--normalize", "none",
    ),
    "samples": ("job.py:network", "--grid", "7", "--keep-samples", "--plan", "plain"),
    "seeds": ("job.py:network", "--chart", "line", "--grid", "9", "--seeds", "3", "--plan", "plain"),
}  # fmt: skip
_TILES = (1, 3, 8, 40)  # rows of a tile of the journal, in forked processes; else lossnav's own


def run(seed: int, count: int, folder: Path, commands: Commands) -> Tally:
    """At least so many kills."""
    tally, place = Tally(), chaos_jobs.project(folder / "project")
    whole: dict[str, Whole] = {}
    number = 0
    while tally.said["kills"] < count:
        dice = random.Random(f"{seed} kills {number}")
        kind = dice.choice([*KINDS, "grid", "adaptive", "trajectory"])
        with tally.attempt(f"run {number} ({kind})") as attempt:
            if kind == "trajectory":
                _trajectory(attempt, dice, place, tally, commands)
            else:
                whole[kind] = whole.get(kind) or Whole(kind, place, commands)
                _surface(attempt, dice, whole[kind], place, tally, commands)
        number += 1
    return tally


class Whole:
    """An uninterrupted run of a kind: its store, and how many events it has by the rows of a tile and by its start."""

    def __init__(self, kind: str, place: Path, commands: Commands) -> None:
        self.kind, self.argv, self.store = kind, KINDS[kind], place / f"whole-{kind}.zarr"
        self.known_events: dict[int, int] = {}
        self._place, self._commands = place, commands
        self.events(_TILES[-1], self.store)
        self.plane = _plane() if "valley" in self.argv[0] else None

    def events(self, rows: int, store: Path | None = None) -> int:
        """How many events such a run has from its start to its end."""
        if rows not in self.known_events:
            store = store or self._place / "counted.zarr"
            counts = self._place / "counts"
            plan = {"do": "count", "under": str(self._place), "counts": str(counts)}
            done = self._commands.run("evaluate", *self.argv, "-o", store, cwd=self._place, plan=plan,
                                      setup=tile_of, arguments={"rows": rows}, seconds=120)  # fmt: skip
            if done.code:
                raise RuntimeError(done.err)
            self.known_events[rows] = int(counts.read_text())
            if store != self.store:
                shutil.rmtree(store)
        return self.known_events[rows]

    def weights(self, points: chaos_jobs.Measured) -> set[tuple[float, ...]]:
        """Where points lie, as the job writes it down; nowhere for a job that does not."""
        return set() if self.plane is None else {tuple(self.plane(point)["x"].tolist()) for point in points}


def _plane() -> Any:
    """The plane of `chaos_jobs.valley`, as ``lossnav evaluate`` makes it."""
    import lossnav as ln

    objective = chaos_jobs.valley()
    return ln.Plane(objective.params, *ln.directions.random(objective, n=2, normalize=None, seed=0))


def tile_of(rows: int | None) -> None:
    """Let the journal have so many rows to a tile, in this process."""
    from lossnav.storage import journal

    if rows is not None:
        journal._ROWS = rows


def _surface(
    attempt: Attempt, dice: random.Random, whole: Whole, place: Path, tally: Tally, commands: Commands
) -> None:
    store, log = place / "run.zarr", place / "log"
    for left in (store, store.with_suffix(".parts")):
        shutil.rmtree(left, ignore_errors=True)
    call = ["evaluate", *whole.argv, "-o", store]
    before: chaos_jobs.Measured = {}
    for _ in range(dice.choice([1, 1, 2, 2, 3])):
        own, rows = dice.random() < 0.1, dice.choice(_TILES)
        number = dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        plan = {"do": "signal", "under": str(place), "at": dice.randrange(1, whole.events(rows)), "number": int(number)}
        if number != signal.SIGKILL and dice.random() < 0.3:
            plan["again"] = dice.randrange(1, 20)
        log.unlink(missing_ok=True)
        options: dict[str, Any] = {} if own else {"setup": tile_of, "arguments": {"rows": rows}}
        done = commands.run(*call, cwd=place, plan=plan, own=own, environment={chaos_jobs.LOG: str(log)}, **options)
        if _is_whole(whole, done):
            break
        attempt.ended(done, [0, _STOPPED[number]])
        tally.said["kills"] += done.code != 0
        tally.said[number.name] += done.code != 0
        before = _look(attempt, whole, store, before, log, 1 if number != signal.SIGKILL else 1024 if own else rows)
    log.unlink(missing_ok=True)
    if dice.random() < 0.5 and (store / "zarr.json").exists() and whole.kind != "seeds":
        call = ["resume", store, "--spec", whole.argv[0]]
    done = commands.run(*call, cwd=place, environment={chaos_jobs.LOG: str(log)})
    attempt.ended(done, [1] if _is_whole(whole, done) else [0])
    _look(attempt, whole, store, before, log, 0)
    chaos_jobs.require_same(attempt, store, whole.store)


def _is_whole(whole: Whole, done: Ended) -> bool:
    """Whether a result of several seeds was refused because it is there: the last session died after it was whole."""
    return whole.kind == "seeds" and done.code == 1 and "exists. Choose another name" in done.err


def _look(
    attempt: Attempt, whole: Whole, store: Path, before: chaos_jobs.Measured, log: Path, under_way: int
) -> chaos_jobs.Measured:
    """See what is there after a session: all of before, none of it computed anew, and what the session computed."""
    import lossnav as ln

    try:
        now = chaos_jobs.measured(store)
    except ln.errors.StoreError as error:
        attempt.fault("lost", f"the store does not open: {error}")
        return before
    gone = before.items() - now.items()
    attempt.require(not gone, "lost", f"{len(gone)} of {len(before)} points that were there")
    computed = {*chaos_jobs.points_in(log)} - {(0.0, 0.0)}  # where the centre is checked
    again = computed & whole.weights(before)
    attempt.require(not again, "lost", f"{len(again)} of {len(before)} points were computed again")
    missing = computed - whole.weights(now) if whole.plane is not None else set()
    attempt.require(
        len(missing) <= under_way, "lost", f"{len(missing)} of {len(computed)} points computed are not there"
    )
    return now


# ---------------------------------------------------------------------- trajectories


def record(store: str, steps: int) -> None:
    """Record a model whose weights are the number of the step, from where the last session ended."""
    import torch

    import lossnav as ln

    model = torch.nn.Linear(30, 3).requires_grad_(False)
    for parameter in model.parameters():
        parameter.fill_(0)
    with ln.Trajectory(model, store=store, resume=True) as recorder:
        while (step := len(recorder)) < steps:
            for parameter in model.parameters():
                parameter.fill_(step)
            recorder.step(loss=float(step))


def _trajectory(attempt: Attempt, dice: random.Random, place: Path, tally: Tally, commands: Commands) -> None:
    import lossnav as ln

    store, steps, there = place / "run.trajectory", 12, 0
    shutil.rmtree(store, ignore_errors=True)
    for _ in range(dice.choice([2, 2, 3])):
        number = dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        plan = {"do": "signal", "under": str(place), "at": dice.randrange(1, 60), "number": int(number)}
        done = commands.run(target=record, arguments={"store": str(store), "steps": steps}, cwd=place, plan=plan)
        attempt.ended(done, [0, -number])
        tally.said["kills"] += done.code != 0
        tally.said[number.name] += done.code != 0
        there = _snapshots(attempt, ln, store, there)
    attempt.ended(commands.run(target=record, arguments={"store": str(store), "steps": steps}, cwd=place), [0])
    there = _snapshots(attempt, ln, store, there)
    attempt.require(there == steps, "wrong", f"{there} snapshots of {steps}")


def _snapshots(attempt: Attempt, ln: Any, store: Path, before: int) -> int:
    """How many there are, each with the weights of its step; none where nothing was begun."""
    if not (store / "trajectory.json").exists():
        attempt.require(before == 0, "lost", "the trajectory is gone")
        return before
    try:
        recorded = ln.Trajectory.open(store)
    except ln.errors.NotATrajectoryError as error:
        attempt.require(before == 0, "lost", f"the trajectory does not open: {error}")
        return before
    attempt.require(len(recorded) >= before, "lost", f"{before} snapshots fell to {len(recorded)}")
    for i in range(len(recorded)):
        values = {float(value) for part in recorded[i].values() for value in part.flatten()}
        attempt.require(values == {float(recorded.steps[i])}, "wrong", f"snapshot {i} holds {sorted(values)[:4]}")
    return len(recorded)
