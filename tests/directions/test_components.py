"""Principal components of a path: against a dense SVD, and against chance."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.directions import gram_pca
from lossnav.surface import variables
from lossnav.trajectory import reader


def dense(run, names=None):
    """All snapshots as rows of one matrix."""
    return np.stack([
        np.concatenate([params[name].double().reshape(-1).numpy() for name in (names or params)]) for params in run
    ])  # fmt: skip


def flat(direction, names=None):
    return np.concatenate([direction[name].double().reshape(-1).numpy() for name in (names or direction)])


@pytest.fixture
def run(everything, tmp_path, monkeypatch):
    """Twelve snapshots of a model of every kind of layer; small blocks."""
    monkeypatch.setattr(reader, "_BLOCK", 8 * 12 * 20)
    everything.requires_grad_(False)
    generator = torch.Generator().manual_seed(4)
    pull = [torch.randn(p.shape, generator=generator) for p in everything.parameters()]
    with ln.Trajectory(everything, store=tmp_path / "run") as recorder:
        for i in range(11):
            for parameter, direction in zip(everything.parameters(), pull, strict=True):
                parameter.add_(0.3 * math.cos(0.4 * i) * direction)
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            recorder.step(epoch=i // 3)
    return recorder


# ---------------------------------------------------------------------- against a dense SVD


@pytest.mark.parametrize("center", ["final", "mean"])
@pytest.mark.parametrize("exclude", [(), ("bias", "norm"), ("first.*",)])
def test_coordinates_equal_a_dense_svd(run, center, exclude):
    found = ln.directions.pca(run, n=3, center=center, exclude=exclude)
    roles = run.roles
    names = [
        name for name in run.structure if roles[name] not in exclude and not ("first.*" in exclude and "first" in name)
    ]
    X = dense(run, names)
    c = X[-1] if center == "final" else X.mean(0)
    _, s, Vt = np.linalg.svd(X - c, full_matrices=False)
    np.testing.assert_allclose(found.explained, s[:3] ** 2 / (s**2).sum(), rtol=1e-9)
    for k, direction in enumerate(found):
        assert all(not direction[name].any() for name in set(run.structure) - set(names))
        v = flat(direction, names)
        assert abs(v @ Vt[k]) == pytest.approx(1, abs=1e-6)
        assert direction.recipe["norm"] == pytest.approx(1, abs=1e-6)
    path = ln.project(run, ln.Volume(found.center, *found))
    here = np.stack([path[dim] for dim in ("alpha", "beta", "gamma")], 1)
    assert (here[0] >= 0).all()  # the sign
    np.testing.assert_allclose(np.abs(here), np.abs((X - c) @ Vt[:3].T), atol=2e-6 * s[0])
    np.testing.assert_allclose(flat(found.center, names), c, atol=1e-6)
    everything = dense(run)
    offsets = everything - flat(found.center)
    np.testing.assert_allclose(path["distance"], np.linalg.norm(offsets, axis=1), rtol=1e-6)
    np.testing.assert_allclose(path["residual"], np.sqrt((offsets**2).sum(1) - (here**2).sum(1)), rtol=1e-5, atol=1e-5)


def test_no_plane_through_the_final_weights_leaves_less_out(run, objective):
    found = ln.directions.pca(run, n=2)
    assert all(torch.equal(tensor, run[-1][name]) for name, tensor in found.center.items())
    best = (ln.project(run, ln.Plane(found.center, *found))["residual"] ** 2).sum()
    for seed in range(5):
        tilt = ln.directions.random(objective, n=2, seed=seed, normalize="layer", exclude=())
        other = [
            {name: d[name] + 0.02 * t[name] for name in d} for d, t in zip(found, tilt, strict=True)
        ]  # fmt: skip
        assert (ln.project(run, ln.Plane(found.center, *other))["residual"] ** 2).sum() > best


def test_filter_scaling_gives_filters_the_norms_of_the_centre(run):
    found = ln.directions.pca(run, n=2, scale="filter")
    for direction in found:
        for name, tensor in direction.items():
            theirs = ln.params.to_filters(found.center[name], run.transposed.get(name)).norm(dim=1)
            mine = ln.params.to_filters(tensor, run.transposed.get(name)).norm(dim=1)
            torch.testing.assert_close(mine, theirs)
        assert direction.recipe["scale"] == "filter"


def test_what_is_said_of_components(run):
    found = ln.directions.pca(run, n=2)
    d1, d2 = found
    assert len(found) == 2
    assert found[0] is d1
    recipe = d2.recipe
    assert {key: recipe[key] for key in ("kind", "index", "n", "center", "snapshots", "steps")} == {
        "kind": "pca", "index": 1, "n": 2, "center": "final", "snapshots": 12, "steps": [0, 11],
    }  # fmt: skip
    assert "a random walk" in str(found)
    assert f"{found.explained[0]:.1%}" in str(found)
    assert variables.direction_words(d1.recipe).startswith("component 1: ")


def test_half_precision_recordings_give_nearly_the_same(everything, tmp_path):
    runs = {}
    for dtype in ("float16", None):
        torch.manual_seed(0)
        model = nn.Linear(40, 40).requires_grad_(False)
        with ln.Trajectory(model, store=tmp_path / str(dtype), dtype=dtype) as recorder:
            for _ in range(20):
                model.weight.add_(0.01 * torch.randn(40, 40))
                recorder.step()
        runs[dtype] = ln.directions.pca(recorder, n=1)
    cosine = ln.params.cosine(runs["float16"][0], runs[None][0])
    assert cosine == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n": 12}, errors.OptionError, "at most 11"),
        ({"n": 0}, errors.OptionError, "Ask for 1 or more"),
        ({"center": "first"}, errors.OptionError, "center='first'"),
        ({"scale": "layer"}, errors.OptionError, "scale='layer'"),
        ({"exclude": "nothing.*"}, errors.OptionError, "matches no parameter"),
        ({"exclude": "*"}, errors.OptionError, "leaves no parameter"),
    ],
)
def test_options_that_cannot_be(run, options, error, words):
    with pytest.raises(error, match=words):
        ln.directions.pca(run, **options)


def test_paths_without_directions(tmp_path):
    model = nn.Linear(3, 3).requires_grad_(False)
    with ln.Trajectory(model, store=tmp_path / "run") as recorder:
        for _ in range(3):
            recorder.step()
    with pytest.raises(errors.DirectionError, match="0 dimensions"):
        ln.directions.pca(recorder, n=1)
    with ln.Trajectory(model, store=tmp_path / "run", overwrite=True) as recorder:
        for _ in range(3):
            model.weight.add_(1.0)
            recorder.step()
        model.weight[0, 0] = math.nan
        recorder.step()
    with pytest.raises(errors.DirectionError, match="1 dimensions, but n=2"):
        ln.directions.pca(recorder[:4], n=2)
    with pytest.raises(errors.DirectionError, match=r"after step 4.*trajectory\[:4\]"):
        ln.directions.pca(recorder, n=1)


# ---------------------------------------------------------------------- chance


def test_the_limit_of_equal_steps():
    k = np.arange(1, 6)
    about_mean = gram_pca.random_walk(np.full(1000, 0.7), "mean")
    np.testing.assert_allclose(about_mean[:5], 6 / (np.pi**2 * k**2), rtol=3e-3)
    about_end = gram_pca.random_walk(np.full(1000, 0.7), "final")
    np.testing.assert_allclose(about_end[:5], 8 / (np.pi**2 * (2 * k - 1) ** 2), rtol=5e-3)
    assert about_mean.sum() == pytest.approx(1)
    assert about_end.sum() == pytest.approx(1)


@pytest.mark.parametrize("center", ["final", "mean"])
def test_a_simulated_walk_with_uneven_steps_matches(tmp_path, center):
    """40,000 dimensions: what a walk explains scatters by about 1 %."""
    rng = np.random.default_rng(0)
    lengths = 0.5 * 0.9 ** np.arange(40)  # steps get shorter, as in training
    model = nn.Linear(200, 200, bias=False).requires_grad_(False)
    with ln.Trajectory(model, store=tmp_path / "run") as recorder:
        for length in lengths:
            step = rng.standard_normal((200, 200))
            model.weight.add_(torch.from_numpy(length * step / np.linalg.norm(step)).float())
            recorder.step()
    found = ln.directions.pca(recorder, n=3, center=center)
    np.testing.assert_allclose(found.random_walk, gram_pca.random_walk(lengths, center)[:3], rtol=1e-4)
    np.testing.assert_allclose(found.explained, found.random_walk, rtol=0.03)
    assert found.norm_drift < 0.05


def test_a_straight_path_explains_more_than_chance(tmp_path):
    model = nn.Linear(50, 50, bias=False).requires_grad_(False)
    pull = torch.randn(50, 50)
    with ln.Trajectory(model, store=tmp_path / "run") as recorder:
        for _ in range(20):
            model.weight.add_(0.1 * pull)
            recorder.step()
    found = ln.directions.pca(recorder, n=1)
    assert found.explained[0] == pytest.approx(1)
    assert found.random_walk[0] < 0.85


@pytest.mark.parametrize("center", ["final", "mean"])
def test_norm_drift_is_all_of_a_rescaling_and_nothing_of_a_rotation(tmp_path, center):
    model = nn.Linear(2, 1, bias=False).requires_grad_(False)
    for name, points in {
        "scale": [(r * 0.6, r * 0.8) for r in (5.0, 4.0, 2.0, 1.0)],
        "turn": [(math.cos(t), math.sin(t)) for t in (0.0, 0.5, 1.0, 2.0)],
    }.items():
        with ln.Trajectory(model, store=tmp_path / name) as recorder:
            for point in points:
                model.weight.copy_(torch.tensor([point]))
                recorder.step()
        drift = ln.directions.pca(recorder[1:], n=1, center=center).norm_drift
        assert drift == pytest.approx({"scale": 1.0, "turn": 0.0}[name], abs=1e-6)
