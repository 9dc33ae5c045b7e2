"""Bounded parts of `python -m benchmarks.chaos`: the same functions with small counts, and proof that they can fail."""

import importlib
from pathlib import Path

import pytest
from benchmarks import chaos, chaos_jobs
from benchmarks.chaos_commands import ZERO, Commands, Ended, Tally
from benchmarks.chaos_mutations import mark_of

SEED = 19
COUNTS = {  # of attempts; kills: of sessions that were killed
    "stores": 2, "kills": 3, "writers": 2, "threads": 1, "messages": 80, "signals": 2, "disks": 2, "clocks": 1,
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
    dies = {**plan, "do": "signal", "at": events // 2, "number": 9}
    killed = commands.run(*call, "killed.zarr", cwd=place, plan=dies)
    assert killed.code == -9
    full = commands.run(*call, "full.zarr", cwd=place, plan={**plan, "do": "full", "at": 3})
    assert full.code == 1
    assert "No space left" in full.err
    with Tally().attempt("a") as attempt:
        chaos_jobs.require_same(attempt, place / "whole.zarr", place / "whole.zarr")
        assert attempt.sound
        chaos_jobs.require_same(attempt, place / "killed.zarr", place / "whole.zarr")
        assert not attempt.sound
    here = Path(__file__).parent
    assert commands.run(target=hold, arguments={"size": 2**30}, cwd=here).peak > 2**30
    assert commands.run(target=spin, seconds=0.1, cwd=here).hang


def hold(size):
    assert len(b"x" * size) == size


def spin():
    while True:
        pass


def test_code_that_runs_leaves_its_mark(tmp_path):
    """Or none that did would be counted."""
    import pickle

    from benchmarks import chaos_mutations

    pickle.loads(pickle.dumps(chaos_mutations._Running(tmp_path / "run.zarr")))
    assert mark_of(tmp_path / "run.zarr").exists()


def test_a_whole_ensemble_is_not_replaced_by_one_that_was_stopped(tmp_path, monkeypatch):
    """Killed once it was whole, with some of its parts removed; then made again, and stopped."""

    import killing
    import lossnav as ln
    from lossnav.surface import parts

    objective, _ = killing.regression()
    lines = lambda seed: ln.Line(objective.params, *ln.directions.random(objective, n=1, seed=seed))  # noqa: E731
    call = (objective, lines, ln.Grid(alpha=(-1, 1, 5)), range(3))
    store, removed = tmp_path / "e.zarr", []

    class Killed(BaseException):
        pass

    def dying(self, name):
        if removed:
            raise Killed
        removed.append(name)
        kept(self, name)

    kept = parts.Parts.remove
    with monkeypatch.context() as patch:
        patch.setattr(parts.Parts, "remove", dying)
        with pytest.raises(Killed):
            ln.ensemble(*call, store=store, progress=False)
    whole = ln.open(store)
    assert removed == ["seed-0"]
    assert whole.sizes["seed"] == 3

    again = ln.ensemble(*call, store=store, progress=False)  # it is whole: nothing is computed
    assert again.equals(whole)
    assert ln.open(store).equals(whole)
    assert not store.with_suffix(".parts").exists()


def test_a_run_that_dies_after_its_last_point_knows_its_plan(tmp_path, monkeypatch):
    import killing
    import lossnav as ln
    from lossnav.surface.run_store import Store

    objective, plane = killing.regression()
    grid, store = ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 5)), tmp_path / "run.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "finish", lambda self, surface: (self.flush(), surface)[1])  # killed before the fold
        made = ln.evaluate(objective, plane, grid, store=store, progress=False)
    assert "plan_probes" in made.attrs["engine"]
    again = ln.evaluate(objective, plane, grid, store=store, progress=False)  # computes nothing
    assert again.attrs["engine"] == made.attrs["engine"]


@pytest.mark.parametrize("number", [2, 15])
def test_the_second_signal_says_which_it_was(number):
    import signal

    from lossnav._utils.signals import StopRequests

    with StopRequests() as stop:
        signal.raise_signal(number)
        assert stop.signal == number
        with pytest.raises(KeyboardInterrupt) as raised:
            signal.raise_signal(number)
        assert raised.value.signal == number


@pytest.mark.parametrize("earlier", [False, True])
def test_a_run_that_is_stopped_while_its_store_is_begun(earlier, tmp_path, monkeypatch):
    """By a second Ctrl-C: it ends as one that was stopped, and the same call goes on."""
    import killing
    import lossnav as ln
    from lossnav.surface import run_store as stores

    objective, plane = killing.regression()
    grid, place = ln.Grid(alpha=(-1, 1, 5), beta=(-1, 1, 5)), tmp_path / "run.zarr"
    whole = ln.evaluate(objective, plane, grid, progress=False)
    if earlier:
        ln.evaluate(objective, plane, grid, store=place, progress=False)

    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stores, "Journal", stopped)
        with pytest.raises(ln.Interrupted) as told:
            ln.evaluate(objective, plane, grid, store=place, progress=False)
    assert int((told.value.partial["status"] == 1).sum()) == (25 if earlier else 0)
    assert ln.evaluate(objective, plane, grid, store=place, progress=False)["loss"].equals(whole["loss"])


def test_what_a_first_write_left_that_was_cut_short_is_no_result(tmp_path):
    """A run, or a recording, that was killed before its first document was written is begun again."""
    import torch

    import killing
    import lossnav as ln

    objective, plane = killing.regression()
    for left in (".lossnav-0123.partial", ".x0y1z2.partial", "zarr.json.0123.partial"):
        folders = [tmp_path / f"{left}-{kind}" for kind in ("surface", "trajectory")]
        for folder in folders:
            folder.mkdir()
            (folder / left).mkdir() if left.startswith(".lossnav") else (folder / left).touch()
        made = ln.evaluate(objective, plane, ln.Grid(alpha=(-1, 1, 3), beta=(-1, 1, 3)), store=folders[0])
        assert ln.open(folders[0]).equals(made)
        with ln.Trajectory(torch.nn.Linear(2, 1), store=folders[1], resume=True) as recorder:
            recorder.step()
        assert len(ln.Trajectory.open(folders[1])) == 2
        (folders[0] / "zarr.json").unlink()
        (folders[1] / "trajectory.json").write_text("{}")
        for folder in folders:  # but whatever else lies there is the user's
            with pytest.raises(ln.errors.OutputExistsError):
                ln.Trajectory(torch.nn.Linear(2, 1), store=folder, resume=True)
