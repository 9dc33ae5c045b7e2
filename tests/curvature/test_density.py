"""Spectral densities against those of known spectra, and against their own stated errors."""

import os
import signal

import numpy as np
import pytest
import torch
from scipy.special import stdtrit

import lossnav as ln
from lossnav import errors
from lossnav.curvature import Hessian, spectral_density, top_eigenpairs
from lossnav.curvature import density as module
from networks import BATCH, Dense, conv_loss, conv_net, dense, images, network_like, quadratic, symmetric

SEEDS = range(100)
D, PROBES, STEPS = 200, 5, 25


def drawn(values, at, width):
    """The density of a spectrum that is known, each eigenvalue a Gaussian."""
    kernel = np.exp(-0.5 * ((at[:, None] - values) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    return kernel.mean(1)


@pytest.fixture(scope="module")
def spectrum():
    values = network_like(D)
    return quadratic(symmetric(values)), values


@pytest.mark.parametrize("deflated", [False, True])
def test_it_is_within_its_errors_as_often_as_it_says(spectrum, deflated):
    _, values = spectrum
    matrix = Dense(symmetric(values))
    pairs = top_eigenpairs(matrix, k=4, which="largest", tolerance=1e-6) if deflated else None
    width = 0.75 * (np.ptp(values[:-4]) if deflated else np.ptp(values)) / STEPS
    places = np.concatenate([np.linspace(-0.06, 0.06, 9), values[-4:], values[:1]])
    truth, reach = drawn(values, places, width), float(stdtrit(PROBES - 1, 0.975))
    hits, everywhere, means = [], [], 0
    for seed in SEEDS:
        found = spectral_density(matrix, probes=PROBES, steps=STEPS, width=width, pairs=pairs, seed=seed)
        whole = drawn(values, found.values, width)
        seen = whole > 1e-2 * drawn(values[-1:], values[-1:], width)[0] / D  # of the height of one eigenvalue
        everywhere.append((np.abs(found.density - whole) <= reach * found.error + 1e-9 * whole.max())[seen].mean())
        density, error = (np.interp(places, found.values, column) for column in (found.density, found.error))
        hits.append(np.abs(density - truth) <= reach * error + 0.02 * truth)  # the grid is linear between its points
        low, high = found.mean.interval()
        means += low <= values.mean() <= high
    assert np.mean(hits, axis=0).min() >= 0.93
    assert np.mean(everywhere) >= 0.93
    assert means >= 93


def test_by_default_it_is_as_narrow_as_the_steps_resolve(spectrum):
    objective, values = spectrum
    found = spectral_density(Hessian(objective), steps=30)
    assert found.width == pytest.approx(0.75 * np.ptp(values) / 30, rel=0.01)
    pairs = top_eigenpairs(Hessian(objective), k=4, tolerance=1e-5)
    narrow = spectral_density(Hessian(objective), steps=30, pairs=pairs)
    assert narrow.width < 0.1 * found.width
    at = np.flatnonzero(np.abs(narrow.values - values[-1]) < narrow.width / 4)
    assert narrow.density[at].max() == pytest.approx(drawn(values, values[-1:], narrow.width)[0], rel=0.02)
    assert narrow.error[at].max() < 1e-6 * narrow.density[at].max()  # nothing of a known eigenvalue is chance


@pytest.mark.parametrize("k", [0, 3])
def test_weights_and_integral_are_one_and_moments_exact(spectrum, k):
    objective, values = spectrum
    pairs = top_eigenpairs(Hessian(objective), k=k, tolerance=1e-8) if k else None
    found = spectral_density(Hessian(objective), probes=3, steps=12, pairs=pairs, seed=4)
    assert found.nodes.shape == found.weights.shape == (3, 12 + k)
    assert np.allclose(found.weights.sum(1), 1, atol=1e-12)
    assert np.trapezoid(found.density, found.values) == pytest.approx(1, abs=1e-6)
    assert (np.diff(found.values) > 0).all()
    assert found.products == 3 * 12
    assert found.passes == 12  # all probes in one
    if k:
        assert np.allclose(found.nodes[:, :k], values[: -k - 1 : -1], rtol=1e-6)
        assert np.allclose(found.weights[:, :k], 1 / D)
        return
    matrix, signs = symmetric(values), module.Signs(Hessian(objective), 4).draw(3).numpy()
    power = signs.copy()
    for exponent in range(1, 6):  # Gauss: exact for polynomials of degree 2 steps - 1
        power = power @ matrix.numpy()
        assert np.allclose((found.weights * found.nodes**exponent).sum(1), (power * signs).sum(1) / D, rtol=1e-9)


def test_few_dimensions_are_known_to_the_last():
    values = np.array([-2.0, 0.0, 1.0, 5.0])
    found = spectral_density(Hessian(quadratic(symmetric(values))), probes=3, steps=50)
    assert np.allclose(found.nodes, values, atol=1e-10)
    same = spectral_density(Hessian(quadratic(2 * torch.eye(6, dtype=torch.float64))), probes=2, steps=4)
    assert np.allclose(same.nodes, 2)
    assert np.allclose(same.weights.max(1), 1)
    assert same.error.max() < 1e-6 * same.density.max()
    everything = top_eigenpairs(Hessian(quadratic(symmetric(values))), k=4, tolerance=1e-8)
    known = spectral_density(Hessian(quadratic(symmetric(values))), pairs=everything, width=0.1)
    assert np.allclose(np.sort(known.nodes), values, atol=1e-8)
    assert known.error.max() <= 1e-12 * known.density.max()  # rounding alone


def test_orthogonality_is_kept_where_outliers_have_converged():
    values = np.concatenate([np.random.default_rng(0).normal(size=150) * 1e-4, [100.0, 50.0]])
    objective = quadratic(symmetric(values))
    found = spectral_density(Hessian(objective), probes=2, steps=60)
    for nodes in found.nodes:  # without reorthogonalisation they come again and again
        assert (nodes > 10).sum() == 2
    single = ln.Objective.from_function(
        lambda p: 0.5 * p["x"] @ symmetric(values).float() @ p["x"], {"x": torch.zeros(152)}
    )
    for nodes in spectral_density(Hessian(single), probes=2, steps=60).nodes:
        assert (nodes > 10).sum() == 2


def test_probes_that_do_not_fit_together_come_one_after_the_other(spectrum, monkeypatch):
    together = spectral_density(Hessian(spectrum[0]), probes=3, steps=8)
    monkeypatch.setattr(module, "_MEMORY", 0)
    apart = spectral_density(Hessian(spectrum[0]), probes=3, steps=8)
    assert np.allclose(apart.nodes, together.nodes)
    assert (apart.passes, together.passes) == (24, 8)


@pytest.mark.slow
def test_a_network_end_to_end():
    model, (x, y) = conv_net(), images()
    objective = ln.Objective(model, "cross_entropy", (x, y), batch_size=BATCH)
    values = np.linalg.eigvalsh(dense(conv_loss(model, x, y, "frozen"), objective.params)[2].numpy())
    pairs = top_eigenpairs(Hessian(objective), k=3, which="both")
    found = spectral_density(Hessian(objective), probes=5, steps=30, pairs=pairs)
    whole, reach = drawn(values, found.values, found.width), float(stdtrit(4, 0.975))
    seen = whole > 1e-2 * drawn(values[-1:], values[-1:], found.width)[0] / len(values)
    off = np.abs(found.density - whole)[seen]
    assert (off <= reach * found.error[seen] + 0.02 * whole[seen]).mean() >= 0.93
    low, high = found.mean.interval(0.99)
    assert low <= values.mean() <= high
    again = spectral_density(Hessian(objective), probes=5, steps=30, pairs=pairs)
    assert np.array_equal(found.density, again.density)


def test_ctrl_c_keeps_the_steps_so_far():
    calls, matrix = [0], symmetric(network_like(D))

    def half(p):
        calls[0] += 1
        if calls[0] == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return 0.5 * p["x"] @ matrix @ p["x"]

    objective = ln.Objective.from_function(half, {"x": torch.zeros(D, dtype=torch.float64)})
    calls[0] = -1000
    Hessian(objective) @ objective.params  # its derivatives are examined once
    calls[0] = 0
    with pytest.raises(ln.Interrupted, match="Stopped after 35 products") as stopped:
        spectral_density(Hessian(objective))
    found = stopped.value.partial
    assert found.nodes.shape == (5, 7)
    assert np.allclose(found.weights.sum(1), 1)


def test_derivatives_that_are_not_finite_are_said():
    pole = ln.Objective.from_function(lambda p: 1 / p["x"].abs().sum(), {"x": torch.zeros(9)})
    with pytest.warns(errors.LossnavWarning, match="the density is NaN"):
        found = spectral_density(Hessian(pole))
    assert np.isnan(found.nodes).all()
    assert len(found.values) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"probes": 1}, "probes=1 and steps=50 are too few"),
        ({"steps": 1}, "steps=1"),
        ({"width": 0}, "got width=0"),
        ({"seed": True}, "got seed=True"),
    ],
)
def test_what_cannot_be_asked(spectrum, options, words):
    with pytest.raises(errors.OptionError, match=words):
        spectral_density(Hessian(spectrum[0]), **options)
