"""Recording a run: what is kept is what the model was, and training notices nothing."""

import errno
import gc
import multiprocessing
import random
import signal
import time

import numpy as np
import pytest
import torch
from torch import nn

import killing
import lossnav as ln
from lossnav import checkpoints, errors
from lossnav.checkpoints import weights
from recording import network, record, same, snapshot, training


@pytest.fixture
def recorded(tmp_path):
    return record(tmp_path / "run")


# ---------------------------------------------------------------------- what is kept


def test_every_kept_state_is_the_models_own_bit_for_bit(recorded):
    recorder, states, _ = recorded
    opened = ln.Trajectory.open(recorder.path)
    for run in (recorder, opened):
        assert run.steps.tolist() == [0, 2, 4, 6, 8, 9]  # the first, every second, and the last
        assert len(run) == len(list(run)) == 6
        for i, step in enumerate(run.steps):
            assert same(run.state(i), states[step])
            assert same(run[i], {name: states[step][name] for name in run[i]})
    assert set(opened[0]) == {name for name, _ in network().named_parameters()}
    assert "6 snapshots, steps 0 to 9" in repr(opened)
    np.testing.assert_array_equal(opened.epochs, [np.nan, 0, 0, 1, 1, 2])
    assert np.isfinite(opened.losses[1:]).all()


def test_a_snapshot_is_a_checkpoint(recorded):
    recorder, states, _ = recorded
    fresh = checkpoints.load_into(network(5), recorder.path / "step-0000000004.safetensors")
    assert same(snapshot(fresh), states[4])


def test_training_goes_as_if_nobody_looked_on(tmp_path):
    alone, watched = network().train(), network().train()
    training(alone, 12)
    after, python, array = torch.get_rng_state(), random.getstate(), np.random.get_state()
    flags = [p.requires_grad for p in watched.parameters()]
    with ln.Trajectory(watched, store=tmp_path / "run", dtype="float16") as recorder:
        training(watched, 12, recorder)
    assert same(snapshot(alone), snapshot(watched))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(alone.parameters(), watched.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), after)
    assert random.getstate() == python
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), array, strict=True))
    assert watched.training
    assert [p.requires_grad for p in watched.parameters()] == flags


def test_memory_does_not_grow_with_snapshots(tmp_path):
    """Count the tensors that are alive while many snapshots are written, read and taken apart."""
    model = network()

    def alive():
        return sum(type(thing) is torch.Tensor and thing.shape == (8, 6) for thing in gc.get_objects())

    gc.collect()
    before = alive()
    recorder = ln.Trajectory(model, store=tmp_path / "run")
    for _ in range(30):
        recorder.step()
    most = alive()
    recorder.close()
    for i, params in enumerate(recorder):
        assert params["0.weight"].shape == (8, 6)
        most = max(most, alive()) if i % 10 == 0 else most
    assert most <= before + 4


# ---------------------------------------------------------------------- options


@pytest.mark.parametrize(("dtype", "digits"), [("float16", 11), ("bfloat16", 8), ("float64", 24), (None, 24)])
def test_stored_dtypes_round_as_they_say(tmp_path, dtype, digits):
    model = network()
    recorder = ln.Trajectory(model, store=tmp_path / "run", dtype=dtype)
    for name, tensor in recorder[0].items():
        assert tensor.dtype == torch.float32  # in the model's own
        own = dict(model.named_parameters())[name].detach()
        assert ((tensor - own).abs() <= 2.0**-digits * own.abs()).all()
    stored = checkpoints.load(recorder.path / "step-0000000000.safetensors")
    assert stored["0.weight"].dtype == getattr(torch, dtype or "float32")
    assert stored["1.running_mean"].dtype == torch.float32  # buffers as they are


def test_what_a_dtype_cannot_hold_is_refused(tmp_path):
    model = network()
    with torch.no_grad():
        model[0].weight[0, 0] = 1e6
    with pytest.raises(errors.StoreError, match=r"0.weight.*1e\+06.*bfloat16"):
        ln.Trajectory(model, store=tmp_path / "run", dtype="float16")
    with torch.no_grad():
        model[0].weight[0, 0] = float("inf")  # a measurement, not an overflow of ours
    assert torch.isinf(ln.Trajectory(model, store=tmp_path / "inf", dtype="float16")[0]["0.weight"][0, 0])


def test_patterns_choose_parameters_as_in_an_objective(tmp_path):
    recorder = ln.Trajectory(network(), store=tmp_path / "run", params="4.*")
    assert list(recorder[0]) == ["4.weight", "4.bias"]
    assert "1.running_var" in recorder.state(0)


def test_wrappers_tied_weights_and_constants(tmp_path, everything):
    everything.register_buffer("mask", torch.ones(1000), persistent=False)
    wrapped = ln.Trajectory(torch.nn.DataParallel(everything), store=tmp_path / "run")
    assert list(wrapped[0]) == [name for name, _ in everything.named_parameters()]
    assert "mask" not in wrapped.state(0)  # whoever builds the model has it
    assert wrapped.roles["bn.weight"] == "norm"
    assert wrapped.transposed == {"up.weight": 2}
    compiled = ln.Trajectory(torch.compile(everything), store=tmp_path / "compiled")
    assert list(compiled[0]) == list(wrapped[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "every=0"),
        ({"every": True}, "every=True"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"params": "nothing.*"}, "No parameter matches"),
        ({"resume": -1}, "resume=-1"),
        ({"resume": "last"}, "resume='last'"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, words):
    with pytest.raises(errors.OptionError, match=words):
        ln.Trajectory(network(), store=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    with pytest.raises(errors.OptionError, match="not an nn.Module"):
        ln.Trajectory({"w": torch.ones(1)}, store=tmp_path / "run")
    with pytest.raises(errors.ObjectiveError, match="not initialised"):
        ln.Trajectory(nn.LazyLinear(3), store=tmp_path / "run")
    recorder = ln.Trajectory(network(), store=tmp_path / "run")
    with pytest.raises(errors.OptionError, match=r"shape \(16,\)"):
        recorder.step(loss=torch.ones(16))


# ---------------------------------------------------------------------- what is there already


def test_what_is_there_is_not_replaced_unasked(recorded, tmp_path):
    recorder, states, model = recorded
    with pytest.raises(errors.OutputExistsError, match="exists"):
        ln.Trajectory(model, store=recorder.path)
    assert same(recorder.state(2), states[4])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("words")
    for option in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(errors.OutputExistsError, match="no trajectory of ours"):
            ln.Trajectory(model, store=tmp_path / "other", **option)
    assert ln.Trajectory(model, store=recorder.path, overwrite=True).steps.tolist() == [0]
    assert len(list(recorder.path.glob("step-*"))) == 1


def test_going_on(recorded):
    recorder, states, model = recorded
    again = ln.Trajectory(model, store=recorder.path, every=3, resume=True)
    again.step()
    again.step(loss=0.5)
    assert again.steps.tolist() == [0, 2, 4, 6, 8, 9]
    again.step()
    assert ln.Trajectory.open(recorder.path).steps.tolist() == [0, 2, 4, 6, 8, 9, 12]
    assert same(again.state(4), states[8])


def test_going_on_from_an_earlier_checkpoint_removes_what_came_after(recorded):
    recorder, states, model = recorded
    again = ln.Trajectory(model, store=recorder.path, every=2, resume=5)
    assert again.steps.tolist() == [0, 2, 4, 5]  # the state it goes on from is kept too
    again.step()
    assert ln.Trajectory.open(recorder.path).steps.tolist() == [0, 2, 4, 5, 6]
    assert same(again.state(1), states[2])


def test_another_model_does_not_go_on(recorded):
    recorder, _, _ = recorded
    wider = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Dropout(0.3), nn.ReLU(), nn.Linear(9, 3))
    with pytest.raises(errors.StructureMismatchError, match=r"0.weight.*\(9, 6\) vs \(8, 6\)"):
        ln.Trajectory(wider, store=recorder.path, resume=True)
    assert len(ln.Trajectory.open(recorder.path)) == 6


def test_a_model_that_is_rebuilt_half_way_is_told(tmp_path):
    model = network()
    recorder = ln.Trajectory(model, store=tmp_path / "run")
    model[4] = nn.Linear(8, 5)
    with pytest.raises(errors.StructureMismatchError, match=r"4.weight.*\(5, 8\) vs \(3, 8\)"):
        recorder.step()


# ---------------------------------------------------------------------- what goes wrong


def test_a_closed_trajectory_records_no_more(recorded):
    recorder, _, _ = recorded
    recorder.close()
    for run in (recorder, ln.Trajectory.open(recorder.path), recorder[::2]):
        with pytest.raises(errors.StoreError, match="resume=True"):
            run.step()


def test_an_error_in_the_loop_keeps_no_half_step(tmp_path):
    recorder = ln.Trajectory(network(), store=tmp_path / "run", every=4)

    def loop():
        with recorder:
            for _ in range(5):
                recorder.step()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert recorder.steps.tolist() == [0, 4]


def test_a_full_disk(tmp_path, monkeypatch):
    model = network()
    recorder = ln.Trajectory(model, store=tmp_path / "run")
    recorder.step()
    write, before = weights.save_file, snapshot(model)

    def full(tensors, path, **options):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(errors.StoreError, match=r"step 2 could not be written.*No space left.*resume=True"):
        recorder.step()
    monkeypatch.setattr(weights, "save_file", write)
    assert same(snapshot(model), before)
    assert sorted(path.name for path in recorder.path.iterdir() if path.name != "lease") == [
        "step-0000000000.safetensors", "step-0000000001.safetensors", "trajectory.json",
    ]  # fmt: skip
    recorder.step()
    assert ln.Trajectory.open(recorder.path).steps.tolist() == [0, 1, 3]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.OutputNotWritableError):
        ln.Trajectory(network(), store=tmp_path / "file" / "run")
    with pytest.raises(errors.OutputNotWritableError, match="URL"):
        ln.Trajectory(network(), store="s3://bucket/run")


# ---------------------------------------------------------------------- killed


def test_killed_at_any_moment_every_snapshot_is_whole(tmp_path):
    dice, before = random.Random(3), []
    context = multiprocessing.get_context("forkserver")  # fork alone hangs where torch has threads
    context.set_forkserver_preload(["killing", "lossnav.evaluation.evaluate", "lossnav.surface.run_store"])
    for _ in range(6):
        process = context.Process(target=killing.record_for_ever, args=(tmp_path / "run",))
        process.start()
        deadline = time.monotonic() + 20
        while len(list((tmp_path / "run").glob("step-*"))) <= len(before) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(dice.uniform(0.0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        run = ln.Trajectory.open(tmp_path / "run")
        steps = run.steps.tolist()
        assert steps == list(range(len(steps)))
        assert len(steps) > len(before)  # it goes on, and what was there is there
        before = steps
        for i in steps[1:]:
            assert (run[i]["weight"] == i).all()
    assert len(list(ln.Trajectory(nn.Linear(300, 300), store=tmp_path / "run", resume=True).path.glob(".step*"))) == 0
