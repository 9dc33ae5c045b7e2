"""Bounded parts of `python -m benchmarks.chaos`: the same functions with small counts, and proof that they can fail."""

import importlib

import pytest
from benchmarks import chaos, chaos_jobs
from benchmarks.chaos_commands import ZERO, Commands, Ended, Tally
from benchmarks.chaos_mutations import mark_of

SEED = 19
COUNTS = {  # of attempts; kills: of sessions that were killed
    "stores": 2, "kills": 4, "writers": 3, "threads": 1, "messages": 80, "signals": 3, "disks": 3, "clocks": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with Commands(tmp_path_factory.mktemp("commands")) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("part", chaos.PARTS)
def test_nothing_is_lost_and_nothing_let_in(part, commands, tmp_path):
    tally = importlib.import_module(f"benchmarks.chaos_{part}").run(SEED, COUNTS[part], tmp_path, commands)
    assert tally.attempts and tally.survived == tally.attempts, tally.faults
    assert not any(tally.counts[name] for name in ZERO)


def test_every_part_has_its_bounded_run():
    assert set(COUNTS) == set(chaos.PARTS)


def test_faults_are_counted():
    tally = Tally()
    for ended, kind in (
        (Ended(("info",), 1, 1, "", "Traceback (most recent call last):\nKeyError", False, True), "tracebacks"),
        (Ended(("info",), -9, 1, "", "", True, True), "hangs"),
        (Ended(("info",), 0, 2**31, "", "", False, True), "above"),
        (Ended(("info",), 7, 1, "", "", False, True), "wrong"),
    ):
        with tally.attempt("a") as attempt:
            attempt.ended(ended, [0, 1])
        assert tally.counts[kind] == 1
    with tally.attempt("sound") as attempt:
        attempt.ended(Ended(("info",), 0, 1, "", "", False, True), [0])
    assert (tally.attempts, tally.survived) == (5, 1)
    assert len(tally.faults) == 4


@pytest.mark.slow
def test_commands_are_killed_paused_starved_and_measured(commands, tmp_path):
    """What befalls a process does: at its event, by its signal, with its memory."""
    place = chaos_jobs.project(tmp_path / "project")
    call = ("evaluate", "job.py:valley", "--grid", "4", "--normalize", "none", "-o")
    counts = tmp_path / "counts"
    plan = {"do": "count", "under": str(place), "counts": str(counts)}
    whole = commands.run(*call, "whole.zarr", cwd=place, plan=plan)
    assert whole.code == 0, whole.err
    assert 50e6 < whole.peak < 2**30
    events = int(counts.read_text())
    assert events > 16  # the points are among them
    killed = commands.run(*call, "killed.zarr", cwd=place, plan={**plan, "do": "signal", "at": events - 1, "number": 9})
    assert killed.code == -9
    full = commands.run(*call, "full.zarr", cwd=place, plan={**plan, "do": "full", "at": 3})
    assert full.code == 1
    assert "No space left" in full.err
    with Tally().attempt("a") as attempt:
        chaos_jobs.require_same(attempt, place / "whole.zarr", place / "whole.zarr")
        assert attempt.sound
        chaos_jobs.require_same(attempt, place / "killed.zarr", place / "whole.zarr")
        assert not attempt.sound
    assert commands.run(target=hold, arguments={"size": 2**30}).peak > 2**30
    assert commands.run(target=spin, seconds=0.1).hang


def hold(size):
    assert len(bytearray(size)) == size


def spin():
    while True:
        pass


def test_code_that_runs_leaves_its_mark(tmp_path):
    """Or none that did would be counted."""
    import pickle

    from benchmarks import chaos_mutations

    pickle.loads(pickle.dumps(chaos_mutations._Running(tmp_path / "run.zarr")))
    assert mark_of(tmp_path / "run.zarr").exists()
