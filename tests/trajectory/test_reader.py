"""Reading a recorded run: snapshots are what the model was, files that are missing are named, memory is bounded."""

import json
import pickle

import numpy as np
import pytest
import torch

import lossnav as ln
from lossnav import errors
from lossnav.trajectory import reader
from recording import record, same, snapshot


@pytest.fixture
def recorded(tmp_path):
    return record(tmp_path / "run")


def test_reading_does_not_write(recorded):
    recorder, states, model = recorded
    last = recorder[-1]
    last["0.weight"].fill_(7)
    assert same(recorder.state(-1), states[-1])
    assert same(snapshot(model), states[-1])


def test_slices_are_trajectories_and_travel(recorded):
    recorder, states, _ = recorded
    part = pickle.loads(pickle.dumps(recorder[1::2]))
    assert part.steps.tolist() == [2, 6, 9]
    assert same(part.state(1), states[6])
    np.testing.assert_array_equal(part.epochs, [0, 1, 2])


def test_snapshots_that_are_not_there(recorded):
    recorder, states, _ = recorded
    with pytest.raises(errors.MissingSnapshotError, match="no snapshot 6.*has 6"):
        _ = recorder[6]
    (recorder.path / "step-0000000004.safetensors").unlink()
    (recorder.path / "step-0000000006.safetensors").write_bytes(b"12345")
    for i, step in ((2, 4), (3, 6)):
        with pytest.raises(errors.MissingSnapshotError, match=f"step {step} "):
            recorder.state(i)
        with pytest.raises(errors.MissingSnapshotError, match=f"step {step} "):
            list(recorder[i : i + 1].columns())
    opened = ln.Trajectory.open(recorder.path)
    assert opened.steps.tolist() == [0, 2, 6, 8, 9]
    assert same(opened.state(-1), states[9])
    with pytest.raises(errors.MissingSnapshotError, match="step 6 "):
        _ = opened.epochs


def test_folders_that_are_no_trajectory(tmp_path, recorded):
    with pytest.raises(errors.NotATrajectoryError, match="no recorded trajectory"):
        ln.Trajectory.open(tmp_path / "nothing")
    header = recorded[0].path / "trajectory.json"
    said = json.loads(header.read_text())
    header.write_text(json.dumps(said | {"schema_version": 2}))
    with pytest.raises(errors.SchemaTooNewError, match="version 2"):
        ln.Trajectory.open(recorded[0].path)


@pytest.mark.parametrize("budget", [1, 8 * 6 * 7, 8 * 6 * 40, 2**26])
def test_columns_are_all_numbers_once(everything, tmp_path, monkeypatch, budget):
    monkeypatch.setattr(reader, "_BLOCK", budget)
    recorder = ln.Trajectory(everything.requires_grad_(False), store=tmp_path / "run")
    for i in range(5):
        for parameter in everything.parameters():
            parameter.add_(0.1 * i * torch.randn_like(parameter))
        recorder.step()
    seen = {name: np.full((6, *tensor.shape), np.nan) for name, tensor in recorder[0].items()}
    widest_row = max(int(np.prod(tensor.shape[1:])) for tensor in recorder[0].values())
    count = 0
    for parts, block in recorder.columns():
        assert block.dtype == np.float64
        assert block.nbytes <= budget + 8 * 6 * widest_row  # memory is what was said
        for name, rows, columns in parts:
            target = seen[name][:, rows] if seen[name].ndim > 1 else seen[name]
            assert np.isnan(target).all()
            target[...] = block[:, columns].reshape(target.shape)
        count += 1
    for i, params in enumerate(recorder):
        for name, tensor in params.items():
            np.testing.assert_array_equal(seen[name][i], tensor.numpy())
    assert count == 1 if budget == 2**26 else count > 3
