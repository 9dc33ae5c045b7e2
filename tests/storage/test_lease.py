"""One writer a store: the second is told, the dead are succeeded, who wakes up writes nothing, and nothing is lost."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest
import torch
import zarr
from zarr.storage import MemoryStore

import killing
import lossnav as ln
import two_writers
from lossnav import errors
from lossnav.storage import journal, keys, lease
from lossnav.surface import assemble
from lossnav.surface.run_record import RunRecord
from lossnav.surface.run_store import Store

SAMPLERS = {"grid": two_writers.GRID, "points": ln.Points(np.random.default_rng(0).uniform(-1, 1, (60, 2)))}


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["two_writers", "lossnav.evaluation.evaluate", "lossnav.surface.run_store"])
    return context


@pytest.fixture
def start(processes):
    """Start a process that speaks by a pipe; those that are left are killed."""
    started = []

    def starting(target, *arguments, **options):
        here, there = processes.Pipe()
        process = processes.Process(target=target, args=(arguments[0], there, *arguments[1:]), kwargs=options)
        process.start()
        there.close()
        started.append(process)
        return process, here

    yield starting
    for process in started:
        process.kill()
        process.join()


def measured(store):
    """Points of a store and their losses, each checked against numpy."""
    points, losses = ln.open(store).lossnav.points()
    np.testing.assert_allclose(losses, two_writers.truth(points), rtol=1e-12)
    return {tuple(point) for point in points.tolist()}


def digest(folder):
    """Of every file in a folder, but for the heartbeat."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "lease" not in path.parts]
    return hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in files)).hexdigest()


def stop(process):
    """Stop a process, as Ctrl-Z does."""
    os.kill(process.pid, signal.SIGSTOP)
    while lease._process(process.pid)[0] != "stopped":
        pass


def evaluate(store, sampler=two_writers.GRID, **options):
    return ln.evaluate(*two_writers.problem(), sampler, store=store, check=False, **options)


# ---------------------------------------------------------------------- the second is told


def test_a_second_run_is_told_and_the_first_is_not_disturbed(start, tmp_path):
    store = tmp_path / "run.zarr"
    process, pipe = start(two_writers.run, store, (100,))
    assert pipe.recv() == 100
    before = measured(store)
    with pytest.raises(errors.StoreBusyError, match=f"process {process.pid} on .*or choose another store") as told:
        evaluate(store)
    assert "started 20" in str(told.value)
    with pytest.raises(errors.StoreBusyError):
        evaluate(store, overwrite=True)
    with pytest.raises(errors.StoreBusyError):
        ln.save(ln.open(store), store, overwrite=True)
    assert measured(store) == before  # whoever reads is not in the way
    pipe.send("go on")
    assert pipe.recv() == ("done", 441)
    process.join()
    assert len(measured(store)) == 441
    assert int((evaluate(store)["status"] == 1).sum()) == 441


@pytest.mark.parametrize("place", ["run.zarr", "memory://two/run.zarr", MemoryStore()])
def test_also_within_one_process_and_in_every_kind_of_store(tmp_path, place):
    place = tmp_path / place if place == "run.zarr" else place
    told = []

    def look(surface):
        if not told:
            with pytest.raises(errors.StoreBusyError) as error:
                evaluate(place)
            told.append(error.value)

    made = evaluate(place, overwrite=True, on_update=look)
    assert told
    assert int((made["status"] == 1).sum()) == 441
    assert evaluate(place).equals(made)  # it was given back


def test_a_run_that_fails_gives_its_store_back(tmp_path):
    def worn(p):
        raise RuntimeError("worn out")

    objective = ln.Objective.from_function(worn, {"x": torch.zeros(2, dtype=torch.float64)})
    plane = ln.Plane(objective.params, {"x": torch.tensor([1.0, 0.0])}, {"x": torch.tensor([0.0, 1.0])})
    for _ in range(2):  # the error is held, and with it all that the first call made
        with pytest.raises(errors.EvaluationError) as held:
            ln.evaluate(objective, plane, two_writers.GRID, store=tmp_path / "run.zarr", check=False)
    assert held.value
    nothing = ln.Objective.from_function(lambda p: p["x"].sum() * float("nan"), {"x": torch.zeros(2)})
    plane = ln.Plane(nothing.params, {"x": torch.tensor([1.0, 0.0])}, {"x": torch.tensor([0.0, 1.0])})
    with pytest.raises(errors.NonFiniteCenterError):
        ln.evaluate(nothing, plane, two_writers.GRID, store=tmp_path / "none.zarr")
    assert not (tmp_path / "none.zarr").exists()  # nothing was written, and nothing is left


def test_of_many_that_try_at_once_one_writes(tmp_path):
    ready, held, told = threading.Barrier(8), [], []

    def attempt():
        ready.wait()
        try:
            held.append(lease.Lease(tmp_path / "run.zarr"))
        except errors.StoreBusyError as error:
            told.append(error)

    for _ in range(10):
        threads = [threading.Thread(target=attempt) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(held), len(told)) == (1, 7)
        held.pop().release()
        told.clear()


# ---------------------------------------------------------------------- the dead are succeeded


@pytest.mark.parametrize("kind", ["grid", "adaptive"])
def test_a_killed_run_is_succeeded_at_once_and_nothing_is_lost(start, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(lease, "_wait", lambda seconds: pytest.fail("nothing is to be waited for"))
    store = tmp_path / "run.zarr"
    process, pipe = start(two_writers.run, store, (150,), kind=kind)
    assert pipe.recv() == 150
    process.kill()
    process.join()
    before = measured(store)
    assert len(before) >= 150 - 8
    process, pipe = start(two_writers.run, store, (20,), kind=kind)  # of those that are left
    assert pipe.recv() == 20
    assert before <= measured(store)
    pipe.send("stop")
    pipe.send("go on")
    assert pipe.recv()[0] == "stopped"
    assert before < measured(store)
    process, pipe = start(two_writers.run, store, (), kind=kind)
    assert pipe.recv()[0] == "done"
    assert len(measured(store)) == (441 if kind == "grid" else 300)


def test_a_run_elsewhere_is_succeeded_where_its_heart_stands_still(start, tmp_path, monkeypatch):
    store, waits = tmp_path / "run.zarr", []
    process, pipe = start(two_writers.run, store, (100,), host="elsewhere")
    assert pipe.recv() == 100

    def beating(seconds):
        waits.append(seconds)
        pipe.send("beat")
        assert pipe.recv() == [True]

    monkeypatch.setattr(lease, "_wait", beating)
    with pytest.raises(errors.StoreBusyError, match="on elsewhere"):
        evaluate(store)
    assert waits == [lease.BEAT]
    monkeypatch.setattr(lease, "_wait", waits.append)
    before = measured(store)
    made = evaluate(store)
    assert waits == [lease.BEAT] * (1 + lease._LOOKS)
    assert int((made["status"] == 1).sum()) == 441
    after = digest(store)
    pipe.send("beat")  # it wakes up
    assert pipe.recv() == [False]
    pipe.send("go on")
    name, kept, message = pipe.recv()
    assert name == "StoreTakenOverError"
    assert "taken over" in message
    assert 101 <= kept < 441  # what it had computed is in the error
    process.join()
    assert digest(store) == after  # it wrote nothing
    assert before < measured(store)
    assert ln.open(store).equals(made)


def test_a_run_that_was_taken_over_while_it_was_stopped_writes_nothing(start, tmp_path, monkeypatch):
    store = tmp_path / "run.zarr"
    process, pipe = start(two_writers.run, store, (100,))
    assert pipe.recv() == 100
    stop(process)
    monkeypatch.setattr(lease, "_wait", lambda seconds: None)
    made = evaluate(store)
    after = digest(store)
    pipe.send("stop")  # and is asked to end in order, for which it would fold what it knows
    pipe.send("go on")
    os.kill(process.pid, signal.SIGCONT)
    assert pipe.recv()[0] == "StoreTakenOverError"
    process.join()
    assert digest(store) == after
    assert ln.open(store).equals(made)


def test_whose_lease_is_no_longer_held(tmp_path):
    place = tmp_path / "run.zarr"
    first = lease.Lease(place)
    file = place / "lease" / f"{first.number:08d}" / "zarr.json"
    said = json.loads(file.read_text())
    for change in (
        {"process_started": "1"},  # the number is that of another process by now
        {"process": 2**22 + 1},  # beyond what the system gives
        {"token": "another"},  # of this process, which holds no such lease
        None,  # damaged: no lease of ours
    ):
        record = {key: value for key, value in said["attributes"].items() if key != "digest"} | (change or {})
        file.write_bytes(keys.group_document(record) if change is not None else b"{")
        second = lease.Lease(place)
        assert second.number > first.number
        assert not first.holds
        with pytest.raises(errors.StoreTakenOverError), first.writing():
            pass
        second.release()
        third = lease.Lease(place)
        assert third.holds
        first, file = third, place / "lease" / f"{third.number:08d}" / "zarr.json"
    first.release()
    first.release()
    assert [path.name for path in (place / "lease").iterdir() if path.is_dir()] == [f"{first.number:08d}"]


# ---------------------------------------------------------------------- a fold takes nothing away


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_fold_keeps_what_lies_in_the_store(tmp_path, kind):
    """What a run folds that knows less than its store: 441 points fell to 171."""
    whole = evaluate(tmp_path / "run.zarr", SAMPLERS[kind])
    rows = list(assemble.rows_of(whole))[:17]
    header = whole.attrs | {"finished": False}
    axes = {dim: whole[dim].values for dim in ("alpha", "beta")} if kind == "grid" else None
    points = np.array([row.point for row in rows])
    few = assemble.assemble(["alpha", "beta"], axes, points, [row.values for row in rows], [1] * 17, header)
    with Store(tmp_path / "run.zarr") as store:
        store.begin(few)
        found = store.finish(few)
    again = ln.open(tmp_path / "run.zarr")
    assert again.equals(found)
    assert measured(tmp_path / "run.zarr") == {tuple(point) for point in whole.lossnav.points()[0].tolist()}


@pytest.mark.parametrize("sampler", [two_writers.GRID, ln.Adaptive(alpha=(-1, 1), beta=(-1, 1), max_points=200)])
def test_a_run_that_is_stopped_before_it_comes_to_what_is_known_loses_none_of_it(tmp_path, monkeypatch, sampler):
    store = tmp_path / "run.zarr"
    evaluate(store, sampler)
    before = measured(store)

    def stop(surface):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(ln.Interrupted):
        evaluate(store, sampler, on_update=stop)
    assert measured(store) == before

    def stopping(record, points):  # before the first of them, as a second Ctrl-C does
        raise KeyboardInterrupt

    monkeypatch.setattr(RunRecord, "take_known", stopping)
    with pytest.raises(ln.Interrupted):
        evaluate(store, sampler)
    assert measured(store) == before


# ---------------------------------------------------------------------- which came later


@pytest.mark.parametrize("clocks", [(2e18, 1e18), (1e18, 1e18), (1e18, 2e18)])
def test_what_was_measured_counts_whatever_the_clocks_say(tmp_path, monkeypatch, clocks):
    store, broken = tmp_path / "run.zarr", [True]

    def f(p):
        if broken[0] and float(p["x"][0]) > 0.5:
            raise RuntimeError("worn out")
        return p["x"].sum()

    line_of = lambda objective: ln.Line(objective.params, {"x": torch.ones(1)})  # noqa: E731
    objective = ln.Objective.from_function(f, {"x": torch.zeros(1)})
    monkeypatch.setattr(Store, "finish", lambda store, surface: surface)  # killed before the fold, both times
    for now, worn in zip(clocks, (True, False), strict=True):
        monkeypatch.setattr("time.time_ns", lambda now=now: int(now))
        monkeypatch.setattr("time.time", lambda now=now: now / 1e9)
        monkeypatch.setattr(journal, "_ROWS", 1)
        broken[0] = worn
        with pytest.warns(errors.PointsFailedWarning) if worn else pytest.MonkeyPatch.context():
            ln.evaluate(objective, line_of(objective), ln.Grid(alpha=(-1, 1, 9)), store=store, check=False)
    assert ln.open(store).lossnav.counts == {"not evaluated": 0, "ok": 9, "non-finite": 0, "failed": 0}
    np.testing.assert_array_equal(ln.open(store)["loss"], np.linspace(-1, 1, 9))


def test_a_failure_never_counts_more_than_a_measurement_and_the_later_of_two_counts(tmp_path):
    root = zarr.open_group(tmp_path / "j.zarr", mode="w")
    old = root.require_group("journal")
    for number, value in ((3, 30.0), (1, 10.0)):
        writer = journal.Journal(root, number)
        writer.append(journal.Row((0.0,), 1, {"loss": value}))
        writer.append(journal.Row((1.0,), 3 if number == 3 else 2, {"loss": value if number == 1 else float("nan")}))
        writer.flush()
    clock = old.create_array("01764290000000000000-7-0000", shape=(4, 3), chunks=(2, 3), dtype="float64")
    clock.attrs["columns"] = ["status", "coordinate 0", "loss"]  # as they were named by clocks
    clock[:2] = [[1, 0.0, 5.0], [1, 2.0, 7.0]]
    found = journal.joined(journal.tables(root), 1)
    assert dict(zip(found.points[:, 0].tolist(), found.values["loss"].tolist(), strict=True)) == {
        0.0: 30.0, 1.0: 10.0, 2.0: 7.0
    }  # fmt: skip
    assert sorted(found.status.tolist()) == [1, 1, 2]


# ---------------------------------------------------------------------- trajectories


def test_two_recorders_of_one_trajectory(start, tmp_path, monkeypatch):
    store = tmp_path / "run.trajectory"
    process, pipe = start(two_writers.record, store, 3)
    assert pipe.recv() == 1
    model = torch.nn.Linear(3, 1)
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(errors.StoreBusyError, match=f"process {process.pid}"):
            ln.Trajectory(model, store=store, **options)
    assert ln.Trajectory.open(store).steps.tolist() == [0, 1]
    stop(process)
    monkeypatch.setattr(lease, "_wait", lambda seconds: None)
    with ln.Trajectory(model, store=store, resume=True) as mine:
        mine.step()
    after = digest(store)
    os.kill(process.pid, signal.SIGCONT)
    pipe.send("go on")
    assert pipe.recv()[0] == "StoreTakenOverError"
    assert digest(store) == after
    assert ln.Trajectory.open(store).steps.tolist() == [0, 1, 2]


def test_in_one_process_the_later_recorder_goes_on(tmp_path):
    model = torch.nn.Linear(3, 1)
    first = ln.Trajectory(model, store=tmp_path / "run")
    first.step()
    second = ln.Trajectory(model, store=tmp_path / "run", resume=True)  # a cell of a notebook that is run again
    second.step()
    with pytest.raises(errors.StoreTakenOverError):
        first.step()
    second.close()
    assert ln.Trajectory.open(tmp_path / "run").steps.tolist() == [0, 1, 2]


def test_an_ensemble_is_made_by_one(tmp_path):
    objective, _ = killing.regression()
    lines = lambda seed: ln.Line(objective.params, *ln.directions.random(objective, n=1, seed=seed))  # noqa: E731
    told = []

    def look(surface):
        if not told:
            with pytest.raises(errors.StoreBusyError) as error:
                ln.ensemble(objective, lines, ln.Grid(alpha=(-1, 1, 5)), range(2), store=tmp_path / "e.zarr")
            told.append(error.value)

    made = ln.ensemble(objective, lines, ln.Grid(alpha=(-1, 1, 5)), range(2), store=tmp_path / "e.zarr", on_update=look)
    assert told
    assert ln.open(tmp_path / "e.zarr").equals(made)
