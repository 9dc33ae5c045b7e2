"""Eigenpairs of Hessians against a dense one."""

import copy
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lossnav as ln
from lossnav import errors
from lossnav import params as algebra
from networks import BATCH, attention, conv_loss, conv_net, dense, flat, images, module_loss


@pytest.fixture(scope="module")
def problem():
    model, (x, y) = conv_net(), images()
    objective = ln.Objective(model, "cross_entropy", (x, y), batch_size=BATCH)
    values, vectors = torch.linalg.eigh(dense(conv_loss(model, x, y, "frozen"), objective.params)[2])
    return objective, values.numpy(), vectors


@pytest.mark.slow
@pytest.mark.parametrize("bn", ["recompute", "batch"])
def test_batch_norm_in_the_other_policies(bn):
    model, (x, y) = conv_net(), images()
    objective = ln.Objective(model, "cross_entropy", (x, y), batch_size=BATCH, bn=bn)
    truth = np.linalg.eigvalsh(dense(conv_loss(model, x, y, bn), objective.params)[2].numpy())
    pairs = ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), k=2, which="both", tolerance=1e-4)
    assert np.allclose(pairs.values, truth[[0, 1, -1, -2]], rtol=1e-4, atol=1e-6 * truth[-1])
    assert pairs.passes == pairs.products * (3 if bn == "recompute" else 1)


def test_attention_layer_norm_and_tied_weights():
    model, ids = attention()
    objective = ln.Objective(model, "cross_entropy", (ids, ids), batch_size=2)
    loss = module_loss(copy.deepcopy(model), lambda out: F.cross_entropy(out, ids), ids)
    truth = np.linalg.eigvalsh(dense(loss, objective.params)[2].numpy())
    pairs = ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), k=2, which="both", tolerance=1e-4)
    assert np.allclose(pairs.values, truth[[0, 1, -1, -2]], rtol=1e-4, atol=1e-6 * truth[-1])


@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
def test_values_vectors_and_bounds(problem, which):
    objective, truth, vectors = problem
    pairs = ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), k=2, which=which, tolerance=1e-4)
    places = {"largest": [-1, -2], "smallest": [0, 1], "both": [0, 1, -1, -2]}[which]
    assert pairs.converged
    assert np.allclose(pairs.values, truth[places], rtol=1e-4, atol=1e-6 * truth[-1])
    assert (pairs.errors <= 1e-4 * np.maximum(np.abs(pairs.values), 1e-3 * truth[-1])).all()
    for vector, place in zip(pairs.vectors, places, strict=True):
        assert algebra.norm(vector) == pytest.approx(1, rel=1e-6)
        assert abs(float(flat(vector) @ vectors[:, place])) == pytest.approx(1, abs=1e-3)
        entries = flat(vector)
        assert entries[entries.abs().argmax()] > 0


def test_the_same_seed_gives_the_same_bits_and_another_the_same_numbers(problem):
    objective, truth, _ = problem
    a, b, other = (
        ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), which="both", seed=seed) for seed in (0, 0, 1)
    )
    assert np.array_equal(a.values, b.values)
    assert np.array_equal(a.errors, b.errors)
    assert all(torch.equal(x[name], y[name]) for x, y in zip(a.vectors, b.vectors, strict=True) for name in x)
    assert not np.array_equal(a.values, other.values)
    assert np.allclose(a.values, other.values, atol=1e-4 * truth[-1])


def test_float64_goes_where_float32_cannot(problem):
    objective, truth, _ = problem
    pairs = ln.curvature.top_eigenpairs(
        ln.curvature.Hessian(objective, precision="float64"), which="both", tolerance=1e-8
    )
    assert np.allclose(pairs.values, truth[[0, -1]], rtol=1e-10)


def test_a_limit_that_comes_first_is_said(problem):
    objective, truth, _ = problem
    with pytest.warns(errors.LossnavWarning, match="After 4 products.*error bound is in `errors`.*limit="):
        pairs = ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), which="both", limit=4)
    assert not pairs.converged
    assert pairs.products == 4
    assert np.abs(truth - pairs.values[0]).min() <= pairs.errors[0]


def test_a_hessian_that_is_not_finite_is_said():
    pole = ln.Objective.from_function(lambda p: 1 / p["x"].abs().sum(), {"x": torch.zeros(3)})
    with pytest.warns(errors.LossnavWarning, match="not finite at this point"):
        pairs = ln.curvature.top_eigenpairs(ln.curvature.Hessian(pole))
    assert np.isnan(pairs.values).all()
    assert pairs.vectors == ()


def test_ctrl_c_keeps_what_is_known():
    calls = [0]

    def valley(p):
        calls[0] += 1
        if calls[0] == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return (p["x"] ** 2 * torch.arange(1.0, 51.0)).sum()

    objective = ln.Objective.from_function(valley, {"x": torch.ones(50)})
    calls[0] = -1000
    ln.curvature.Hessian(objective) @ objective.params  # its derivatives are examined once
    calls[0] = 0
    with pytest.raises(ln.Interrupted, match="Stopped after 6 products") as stopped:
        ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), which="both", tolerance=1e-6)
    pairs = stopped.value.partial
    assert 2 <= pairs.values[0] < pairs.values[1] <= 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"which": "LM"}, "which='LM' is unknown.*'smallest'"),
        ({"k": 0}, "k=0 eigenvalues"),
        ({"k": 318}, "k=318 eigenvalues.*\\(317, 317\\)"),
        ({"k": 3, "limit": 2}, "in 2 products"),
        ({"tolerance": 0}, "tolerance=0"),
        ({"limit": 0}, "limit=0"),
    ],
)
def test_what_cannot_be_asked(problem, options, words):
    with pytest.raises(errors.OptionError, match=words):
        ln.curvature.top_eigenpairs(ln.curvature.Hessian(problem[0]), **options)
