"""Ends of spectra that are known from a dense solver."""

import math

import numpy as np
import pytest
import torch

from lossnav.curvature import lanczos as module
from lossnav.curvature.lanczos import lanczos
from networks import network_like, symmetric


def start(d, seed=1):
    return torch.randn(d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ends", [(1, 1), (3, 2), (0, 4), (4, 0)])
@pytest.mark.parametrize("memory", [2**30, 0])  # none: the smallest basis there is, so that it is restarted
def test_both_ends_and_their_bounds(monkeypatch, ends, memory):
    monkeypatch.setattr(module, "_MEMORY", memory)
    smallest, largest = ends
    truth = network_like()
    matrix = symmetric(truth)
    found = lanczos(lambda v: matrix @ v, start(400), smallest, largest, tolerance=1e-4, limit=2000)
    wanted = np.concatenate([truth[:smallest], truth[400 - largest :]])
    assert found.converged
    assert np.allclose(found.values, wanted, rtol=1e-6)
    residuals = (matrix @ found.vectors.T).T - torch.from_numpy(found.values)[:, None] * found.vectors
    lengths = torch.linalg.vector_norm(residuals, dim=1).numpy()
    assert (found.errors >= lengths - 1e-10).all()  # an eigenvalue is as near as the residual's norm
    assert (np.abs(found.values - wanted) <= found.errors + 1e-12).all()
    assert (found.errors <= 1e-4 * np.maximum(np.abs(wanted), 1e-3 * 10)).all()
    assert torch.allclose(
        found.vectors @ found.vectors.T, torch.eye(smallest + largest, dtype=torch.float64), atol=1e-8
    )
    if not memory and smallest > 1:
        assert found.products > max(module.LEAST_BASIS, 4 * (smallest + largest))  # so it was


def test_a_bound_holds_even_where_the_limit_comes_first():
    truth = network_like()
    matrix = symmetric(truth)
    for limit in (3, 6, 12):
        found = lanczos(lambda v: matrix @ v, start(400), 1, 1, tolerance=1e-8, limit=limit)
        assert not found.converged
        assert found.products == limit
        for value, error in zip(found.values, found.errors, strict=True):
            assert np.abs(truth - value).min() <= error + 1e-12


def test_a_neighbours_vectors_save_products_and_hide_nothing():
    truth = network_like()
    matrix = symmetric(truth)
    cold = lanczos(lambda v: matrix @ v, start(400), 1, 1, tolerance=1e-3, limit=500)
    near = matrix + 0.01 * symmetric(np.random.default_rng(1).normal(size=400) * 0.1, seed=7)
    beside = cold.vectors.sum(0) / math.sqrt(2) + 0.1 * start(400) / torch.linalg.vector_norm(start(400))
    again, warm = (
        lanczos(lambda v: near @ v, first, 1, 1, tolerance=1e-3, limit=500) for first in (start(400), beside)
    )
    assert np.allclose(again.values, warm.values, rtol=1e-5)
    assert warm.products < again.products
    # an end of the spectrum that the neighbour knew nothing of
    hidden = start(400, seed=9)
    hidden -= cold.vectors.T @ (cold.vectors @ hidden)
    hidden /= torch.linalg.vector_norm(hidden)
    other = matrix + 20 * torch.outer(hidden, hidden)
    warm = lanczos(lambda v: other @ v, beside, 1, 1, tolerance=1e-3, limit=500)
    assert warm.values[-1] == pytest.approx(float(torch.linalg.eigvalsh(other)[-1]), rel=1e-6)


def test_spaces_that_end_early():
    identity = lanczos(lambda v: 2 * v, start(5), 2, 2, tolerance=1e-6, limit=50)
    assert np.allclose(identity.values, 2)
    assert identity.converged
    nothing = lanczos(lambda v: 0 * v, start(5), 1, 1, tolerance=1e-6, limit=50)
    assert np.array_equal(nothing.values, [0, 0])
    one = lanczos(lambda v: 3 * v, start(1), 1, 1, tolerance=1e-6, limit=50)
    assert np.allclose(one.values, [3, 3])
    exact = lanczos(
        lambda v: v * torch.tensor([1.0, -2.0, 5.0]), torch.eye(3)[0].double(), 1, 1, tolerance=1e-6, limit=50
    )
    assert np.allclose(exact.values, [-2, 5])  # though it began in an eigenvector of neither


def test_what_is_not_finite_is_said():
    found = lanczos(lambda v: v * math.nan, start(6), 1, 1, tolerance=1e-3, limit=50)
    assert np.isnan(found.values).all()
    assert np.isinf(found.errors).all()
    assert found.products == 1


def test_the_same_seed_gives_the_same_bits():
    matrix = symmetric(network_like())
    a, b = (lanczos(lambda v: matrix @ v, start(400), 1, 1, tolerance=1e-3, limit=500) for _ in range(2))
    assert np.array_equal(a.values, b.values)
    assert torch.equal(a.vectors, b.vectors)


def clusters(rng, d):
    return np.r_[np.full(d // 2, 1.0), np.full(d - d // 2, -1.0)] + 1e-4 * rng.normal(size=d)


SPECTRA = {
    "clusters at both ends": (clusters, 1e-3),
    "clusters, more sharply": (clusters, 1e-5),
    "one just above a bulk": (lambda rng, d: np.r_[rng.uniform(0, 1, d - 1), 1.02], 1e-2),
    "two close together": (lambda rng, d: np.r_[-10.0, -10.005, 10, 10.005, 0.5 * rng.normal(size=d - 4)], 1e-3),
    "a bulk": (lambda rng, d: rng.normal(size=d), 1e-2),
}


@pytest.mark.parametrize("memory", [2**30, 0])
@pytest.mark.parametrize(("spectrum", "tolerance"), SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("limit", [12, 300])
def test_the_ends_themselves_lie_within_the_errors(monkeypatch, memory, spectrum, tolerance, limit):
    monkeypatch.setattr(module, "_MEMORY", memory)
    rng, covered = np.random.default_rng(0), 0
    for seed in range(40):
        truth = np.sort(spectrum(rng, 200))
        values = torch.from_numpy(truth)
        found = lanczos(lambda v, by=values: by * v, start(200, seed), 1, 1, tolerance=tolerance, limit=limit)
        covered += bool((np.abs(found.values - truth[[0, -1]]) <= found.errors + 1e-12).all())
        assert found.converged or found.products == limit
    assert covered >= 36  # at 95 % fewer come in 1 of 80


def test_a_start_that_was_not_drawn_is_not_trusted():
    rng, covered = np.random.default_rng(0), 0
    for seed in range(40):
        truth = np.sort(np.r_[rng.normal(size=198) * 0.1, 1.0, 1.001])
        values, drawn = torch.from_numpy(truth), start(200, seed)
        warm = torch.eye(200, dtype=torch.float64)[198] + 0.1 * drawn / torch.linalg.vector_norm(drawn)  # of 1.0
        found = lanczos(lambda v, by=values: by * v, warm, 0, 1, tolerance=1e-3, limit=300, chance=0.1 / 1.1)
        covered += abs(found.values[0] - truth[-1]) <= found.errors[0] + 1e-12
    assert covered >= 36
