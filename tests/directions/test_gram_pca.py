"""Principal components of paths of so many snapshots that no matrix of snapshots by snapshots is made."""

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav.directions import gram_pca


@pytest.fixture
def run(tmp_path):
    """60 snapshots of 17 parameters; one tensor thaws half-way, so that its first values are those kept before."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1, bias=False))
    model[0].bias.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    with ln.Trajectory(model, store=tmp_path / "run") as recorder, torch.no_grad():
        for i in range(59):
            if i == 30:
                model[0].bias.requires_grad_(True)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1 + 0.01 * i)
            recorder.step()
    return recorder


def dense(run, names):
    return np.stack([np.concatenate([p[name].double().reshape(-1).numpy() for name in names]) for p in run])


def test_rows_are_the_snapshots_in_blocks(run, monkeypatch):
    names = list(run.structure)
    monkeypatch.setattr("lossnav.trajectory.reader._BLOCK", 8 * 20 * 7)
    blocks = list(run.rows(names))
    assert len(blocks) > 3
    np.testing.assert_array_equal(np.concatenate(blocks), dense(run, names))
    assert next(iter(run[3:4].rows(names[:1]))).shape == (1, 12)


@pytest.mark.parametrize("dense_up_to", [3, 40])  # by products; by the matrix of coordinates
@pytest.mark.parametrize("center", ["final", "mean"])
@pytest.mark.parametrize("exclude", [(), ("bias",)])
def test_components_by_rows_are_those_of_a_dense_svd(run, monkeypatch, dense_up_to, center, exclude):
    monkeypatch.setattr(gram_pca, "DENSE", dense_up_to)
    found = ln.directions.pca(run, n=2, center=center, exclude=exclude)
    names = [name for name in run.structure if not (exclude and run.roles[name] == "bias")]
    X = dense(run, names)
    about = X[-1] if center == "final" else X.mean(0)
    _, s, Vt = np.linalg.svd(X - about, full_matrices=False)
    np.testing.assert_allclose(found.explained, s[:2] ** 2 / (s**2).sum(), rtol=1e-9)
    for k, direction in enumerate(found):
        v = np.concatenate([direction[name].double().reshape(-1).numpy() for name in names])
        assert abs(v @ Vt[k]) == pytest.approx(1, abs=1e-6)
        assert v @ (X[0] - about) >= 0
    everything = dense(run, run.structure)
    middle = np.concatenate([found.center[name].reshape(-1).numpy() for name in run.structure])
    np.testing.assert_allclose(middle, everything[-1] if center == "final" else everything.mean(0), rtol=1e-6)
    norms = np.linalg.norm(X, axis=1)
    drift = ((norms - (norms[-1] if center == "final" else norms.mean())) ** 2).sum() / (s**2).sum()
    assert found.norm_drift == pytest.approx(drift, rel=1e-9)
    steps = np.linalg.norm(np.diff(X, axis=0), axis=1)
    monkeypatch.undo()
    np.testing.assert_allclose(found.random_walk, gram_pca.random_walk(steps, center)[:2], rtol=1e-9)


@pytest.mark.parametrize("center", ["final", "mean"])
def test_a_long_random_walk_has_the_shares_of_its_matrix(monkeypatch, center):
    steps = np.random.default_rng(0).exponential(size=300)
    steps[40:50] = 0  # snapshots between which nothing moved
    expected = gram_pca.random_walk(steps, center)[:4]
    monkeypatch.setattr(gram_pca, "DENSE", 10)
    np.testing.assert_allclose(gram_pca.random_walk(steps, center, 4), expected, rtol=1e-10)


@pytest.mark.parametrize("dense_up_to", [3, 40])
def test_what_cannot_be_found_by_rows_is_said_as_ever(run, tmp_path, monkeypatch, dense_up_to):
    monkeypatch.setattr(gram_pca, "DENSE", dense_up_to)
    model = nn.Linear(12, 1, bias=False)
    with ln.Trajectory(model, store=tmp_path / "straight") as straight, torch.no_grad():
        for _ in range(50):
            model.weight.add_(1.0)
            straight.step()
    with pytest.raises(ln.errors.DirectionError, match="has 1 dimensions, but n=3"):
        ln.directions.pca(straight, n=3)
    with ln.Trajectory(model, store=tmp_path / "broken") as broken, torch.no_grad():
        for i in range(50):
            model.weight.add_(torch.randn(1, 12))
            if i == 20:
                model.weight[0, 0] = torch.nan
            broken.step()
    with pytest.raises(ln.errors.DirectionError, match=r"30 snapshots contain NaN .* first after step 21.*\[:21\]"):
        ln.directions.pca(broken, n=2)


def test_a_model_smaller_than_the_directions_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(gram_pca, "DENSE", 5)
    model = nn.Linear(2, 1, bias=False)
    with ln.Trajectory(model, store=tmp_path / "small") as small, torch.no_grad():
        for _ in range(10):
            model.weight.add_(torch.randn(1, 2))
            small.step()
    assert len(ln.directions.pca(small, n=2)) == 2
    with pytest.raises(ln.errors.DirectionError, match="has 2 dimensions, but n=3"):
        ln.directions.pca(small, n=3)


def test_a_snapshot_is_read_without_a_look_at_the_others(run, monkeypatch):
    """To list 20,000 snapshots for each of them took ten minutes."""
    opened = ln.Trajectory.open(run.path)
    expected = dense(run, run.structure)

    def refuse(*_, **__):
        raise AssertionError("the folder was listed")

    monkeypatch.setattr("os.listdir", refuse)
    monkeypatch.setattr("os.scandir", refuse)
    found = torch.cat([opened.state(7)[name].double().reshape(-1) for name in opened.structure])
    np.testing.assert_array_equal(found.numpy(), expected[7])
    assert set(opened[3]) == set(opened.structure)
