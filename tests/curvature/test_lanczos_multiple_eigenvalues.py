"""Eigenvalues that occur more than once, or nearly so, against dense eigendecompositions."""

import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

import lossnav as ln
from lossnav import errors
from lossnav.curvature import lanczos as module
from lossnav.curvature.lanczos import lanczos
from networks import dense, flat, module_loss, symmetric


def start(d, seed):
    return torch.randn(d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def near(value, n, spread, rng):
    return value * (1 + spread * rng.uniform(-1, 1, size=n))


SPECTRA = {
    "repeated": lambda rng: np.r_[[5.0] * 4, [2.0] * 3, rng.uniform(-0.5, 1, 120), [-3.0] * 3],
    "few values": lambda rng: np.r_[[5.0] * 4, [2.0] * 3, [1.0] * 20, [-3.0] * 3],
    "within 1e-6": lambda rng: np.r_[near(5, 4, 1e-6, rng), rng.uniform(-0.5, 1, 120), near(-3, 4, 1e-6, rng)],
    "within 1e-4": lambda rng: np.r_[near(5, 4, 1e-4, rng), rng.uniform(-0.5, 1, 120), near(-3, 4, 1e-4, rng)],
    "many zeros": lambda rng: np.r_[np.zeros(80), rng.uniform(0.1, 1, 20), 3, 3, 4],
    "all positive": lambda rng: np.r_[near(1, 3, 1e-6, rng), rng.uniform(1.5, 3, 90), [4.0] * 2, [6.0] * 2],
    "simple": lambda rng: rng.normal(size=120),
    "like a network's": lambda rng: np.r_[0.2 * rng.normal(size=120), 10, 7, 7, 5, 3, 2, -1.5, -1.5, -1],
}


@pytest.mark.parametrize("memory", [2**30, 0])  # none: the smallest basis there is, so that it is restarted
@pytest.mark.parametrize("ends", [(3, 3), (0, 5), (4, 0), (1, 4)])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_values_are_counted_as_often_as_they_occur(monkeypatch, memory, ends, spectrum):
    monkeypatch.setattr(module, "_MEMORY", memory)
    rng, covered = np.random.default_rng(sum(ends)), 0
    smallest, largest = ends
    for seed in range(6):
        matrix = symmetric(spectrum(rng), seed)
        truth = np.linalg.eigvalsh(matrix.numpy())
        wanted = np.concatenate([truth[:smallest], truth[len(truth) - largest :]])
        found = lanczos(
            lambda v, by=matrix: by @ v, start(len(truth), seed), *ends, tolerance=1e-3, limit=2000, seed=seed + 1
        )
        assert found.converged
        assert (found.errors <= 1.001e-3 * np.maximum(np.abs(found.values), 1e-3 * np.abs(truth).max())).all()
        covered += bool((np.abs(found.values - wanted) <= found.errors + 1e-10).all())
        assert torch.allclose(found.vectors @ found.vectors.T, torch.eye(len(wanted), dtype=torch.float64), atol=1e-8)
        residuals = (matrix @ found.vectors.T).T - torch.from_numpy(found.values)[:, None] * found.vectors
        assert (torch.linalg.vector_norm(residuals, dim=1).numpy() <= found.errors + 1e-10).all()
    assert covered >= 5  # at 95 % each, fewer come in 1 of 30


@pytest.mark.parametrize("limit", [4, 8, 12, 20, 40])
@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA)
def test_where_the_limit_comes_first_the_errors_say_so(spectrum, limit):
    rng, covered = np.random.default_rng(limit), 0
    for seed in range(20):
        truth = np.sort(spectrum(rng))
        values = torch.from_numpy(truth)
        found = lanczos(
            lambda v, by=values: by * v, start(len(truth), seed), 2, 2, tolerance=1e-3, limit=limit, seed=seed + 1
        )
        wanted = np.r_[truth[:2], truth[-2:]]
        right = np.abs(found.values - wanted) <= found.errors + 1e-10
        covered += bool(right.all())
        assert found.products <= limit
    assert covered >= 17


def test_the_one_value_of_an_end_takes_no_product_more():
    values = torch.from_numpy(SPECTRA["repeated"](np.random.default_rng(0)))
    one = lanczos(lambda v: values * v, start(len(values), 0), 1, 1, tolerance=1e-3, limit=500, seed=1)
    more = lanczos(lambda v: values * v, start(len(values), 0), 0, 2, tolerance=1e-3, limit=500, seed=1)
    assert one.products <= 10 < more.products
    assert np.allclose(one.values, [-3, 5])


def test_no_parameters_but_those_that_are_sought():
    values = torch.tensor([1.0, 1, 1, 2], dtype=torch.float64)
    for k in (1, 2, 3, 4):
        found = lanczos(lambda v: values * v, start(4, 0), k, k, tolerance=1e-3, limit=500)
        assert found.converged
        assert np.allclose(found.values, [1, 1, 1, 2][:k] + [1, 1, 1, 2][4 - k :])


def test_the_same_seed_gives_the_same_bits():
    values = torch.from_numpy(SPECTRA["repeated"](np.random.default_rng(0)))
    a, b = (lanczos(lambda v: values * v, start(len(values), 3), 4, 4, tolerance=1e-3, limit=500) for _ in range(2))
    assert np.array_equal(a.values, b.values)
    assert np.array_equal(a.errors, b.errors)
    assert torch.equal(a.vectors, b.vectors)


@pytest.fixture(scope="module")
def linear():
    """A linear layer under the mean squared error: each eigenvalue six times."""
    torch.manual_seed(0)
    x, y = torch.randn(200, 4) * torch.tensor([3.0, 2.0, 1.0, 0.5]), torch.randn(200, 6)
    layer = nn.Linear(4, 6, bias=False)
    objective = ln.Objective(layer, "mse", (x, y))
    matrix = dense(module_loss(layer, lambda out: ((out - y.double()) ** 2).mean(), x.double()), objective.params)[2]
    return objective, matrix


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_a_linear_layer_has_each_eigenvalue_as_often_as_it_has_outputs(linear, seed):
    objective, matrix = linear
    truth = torch.linalg.eigvalsh(matrix).numpy()
    found = ln.spectrum(objective, top=7, seed=seed, trace=True, density=True)
    wanted = np.r_[truth[:7], truth[::-1][:7]]
    assert found.attrs["converged"]
    assert (np.abs(found["eigenvalue"].values - wanted) <= found["eigenvalue_error"].values).all()
    assert np.allclose(found["eigenvalue"].values, wanted, rtol=1e-3)
    trace = found.attrs["trace"]
    assert abs(trace["value"] - truth.sum()) <= max(trace["error"], 1e-5 * truth.sum())
    gauss_newton = ln.curvature.top_eigenpairs(ln.curvature.GaussNewton(objective), k=7, seed=seed)
    assert np.allclose(gauss_newton.values, truth[::-1][:7], rtol=1e-3)


def test_directions_lie_in_the_right_eigenspace(linear):
    objective, matrix = linear
    _, vectors = torch.linalg.eigh(matrix)
    found = torch.stack([flat(d) for d in ln.directions.hessian(objective, n=6, which="largest")]).double()
    assert torch.allclose(found @ found.T, torch.eye(6, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(torch.linalg.vector_norm(found @ vectors[:, -6:], dim=1), torch.ones(6).double(), atol=1e-4)


def test_a_spent_limit_is_said_of_a_function():
    d = torch.tensor([5.0] * 4 + [2.0] * 3 + [1.0] * 20 + [-3.0] * 3)
    bowl = ln.Objective.from_function(lambda p: 0.5 * (d * p["x"] ** 2).sum(), {"x": torch.ones(30)})
    pairs = ln.curvature.top_eigenpairs(ln.curvature.Hessian(bowl), k=3, which="both")
    assert np.allclose(pairs.values, [-3, -3, -3, 5, 5, 5], rtol=1e-5)
    with pytest.warns(errors.LossnavWarning, match="After 6 products"):
        short = ln.curvature.top_eigenpairs(ln.curvature.Hessian(bowl), k=3, which="both", limit=6)
    assert not short.converged
    assert (np.abs(short.values - [-3, -3, -3, 5, 5, 5]) <= short.errors).all()


def test_ctrl_c_while_looking_for_more_keeps_what_is_known():
    d, calls = torch.tensor([5.0] * 4 + [2.0] * 3 + [1.0] * 20 + [-3.0] * 3), [0]

    def bowl(p):
        calls[0] += 1
        if calls[0] == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return 0.5 * (d * p["x"] ** 2).sum()

    objective = ln.Objective.from_function(bowl, {"x": torch.ones(30)})
    calls[0] = -1000
    ln.curvature.Hessian(objective) @ objective.params  # its derivatives are examined once
    calls[0] = 0
    with pytest.raises(ln.Interrupted) as stopped:
        ln.curvature.top_eigenpairs(ln.curvature.Hessian(objective), k=2, which="both")
    pairs = stopped.value.partial
    assert pairs.products == 6
    assert not pairs.converged
    assert (np.abs(pairs.values - [-3, -3, 5, 5]) <= pairs.errors).all()


@pytest.mark.parametrize("k", [1, 3])
def test_products_are_counted_across_restarts_up_to_one_that_is_not_finite(monkeypatch, k):
    monkeypatch.setattr(module, "_MEMORY", 0)
    values, calls = torch.linspace(1.0, 2.0, 400, dtype=torch.float64), []

    def product(vector):
        calls.append(1)
        return values * vector if len(calls) < 40 else vector / 0

    start = torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = lanczos(product, start, smallest=k, largest=k, tolerance=1e-14, limit=300)
    assert found.products == len(calls) == 40 and np.isnan(found.values).all()
