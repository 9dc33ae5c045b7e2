"""Trace and diagonal lie within what they say of their errors: held against matrices that are written down."""

import os
import signal

import numpy as np
import pytest
import torch
from scipy.special import stdtrit

import lossnav as ln
from lossnav import errors
from lossnav.curvature import Estimate, Hessian, diagonal, trace
from networks import BATCH, conv_loss, conv_net, dense, flat, images, network_like, quadratic, symmetric

SEEDS = range(100)


@pytest.fixture(scope="module")
def matrix():
    return symmetric(network_like(200))


@pytest.mark.parametrize(("method", "products"), [("hutch++", 30), ("hutchinson", 20)])
def test_the_trace_is_within_its_interval_as_often_as_it_says(matrix, method, products):
    objective, truth = quadratic(matrix), float(torch.trace(matrix))
    found = [trace(Hessian(objective), method=method, products=products, seed=seed) for seed in SEEDS]
    hits = sum(low <= truth <= high for low, high in (one.interval() for one in found))
    assert hits >= 93
    assert all(one.products == products for one in found)
    assert all(one.passes == {"hutch++": 3, "hutchinson": 2}[method] for one in found)
    off = np.array([one.value - truth for one in found])
    stated = np.sqrt(np.mean([one.error**2 for one in found]))
    assert np.sqrt(np.mean(off**2)) == pytest.approx(stated, rel=0.25)
    assert abs(off.mean()) < 3 * off.std() / 10  # no bias


def test_hutch_plus_plus_is_surer_than_hutchinson_for_the_same_products(matrix):
    sure, plain = (trace(Hessian(quadratic(matrix)), method=method) for method in ("hutch++", "hutchinson"))
    assert sure.error < plain.error / 10


def test_small_matrices_leave_nothing_to_chance():
    values = np.arange(1.0, 8.0)
    found = trace(Hessian(quadratic(symmetric(values))), products=30)
    assert found.value == pytest.approx(28, rel=1e-10)
    assert found.error <= 1e-12 * abs(found.value)  # rounding alone
    assert found.probes == 0
    nothing = trace(Hessian(quadratic(torch.zeros(40, 40, dtype=torch.float64))), products=15)
    assert (nothing.value, nothing.error) == (0, 0)


def test_a_tolerance_ends_it(matrix):
    loose = trace(Hessian(quadratic(matrix)), method="hutchinson", products=500, tolerance=0.5)
    strict = trace(Hessian(quadratic(matrix)), method="hutchinson", products=500, tolerance=0.1)
    assert 10 <= loose.products < strict.products < 500
    assert strict.error <= 0.1 * strict.value
    assert trace(Hessian(quadratic(matrix)), products=500, tolerance=0.1).products < 500


@pytest.mark.slow
def test_the_trace_of_a_network_and_of_its_blocks():
    model, (x, y) = conv_net(), images()
    objective = ln.Objective(model, "cross_entropy", (x, y), batch_size=BATCH)
    for options in ({}, {"params": "conv*"}, {"exclude": ("norm", "bias")}):
        names = Hessian(objective, **options).names
        truth = float(torch.trace(dense(conv_loss(model, x, y, "frozen"), objective.params, names)[2]))
        low, high = trace(Hessian(objective, **options), seed=1).interval(0.99)
        assert low <= truth <= high
    a, b, other = (trace(Hessian(objective), seed=seed) for seed in (0, 0, 1))
    assert a == b
    assert a.value != other.value


@pytest.mark.parametrize("last", [1, 5, 7])  # pass over the data: in the sketch, in the space, beside it
def test_ctrl_c_keeps_what_the_probes_so_far_show(matrix, last):
    calls = [-1000]

    def half(p):
        calls[0] += 1
        if calls[0] == last:
            os.kill(os.getpid(), signal.SIGINT)
        return 0.5 * p["x"] @ matrix @ p["x"]

    objective = ln.Objective.from_function(half, {"x": torch.zeros(200, dtype=torch.float64)})
    calls[0] = -1000
    Hessian(objective) @ objective.params  # its derivatives are examined once
    calls[0] = 0
    with pytest.raises(ln.Interrupted, match=r"Stopped after \d+ products.*\.partial") as stopped:
        trace(Hessian(objective), products=90)
    found = stopped.value.partial
    assert isinstance(found, Estimate)
    assert found.probes >= 2
    low, high = found.interval(0.99)
    assert low <= float(torch.trace(matrix)) <= high


def test_the_diagonal_is_within_its_errors_as_often_as_it_says(matrix):
    objective, truth = quadratic(matrix), matrix.diagonal()
    hits = []
    for seed in SEEDS:
        found = diagonal(Hessian(objective), products=12, seed=seed)
        reach = float(stdtrit(11, 0.975)) * found.error["x"].double()
        hits.append(((found.value["x"] - truth).abs() <= reach).double().mean())
        assert found.products == 12
        assert found.passes == 2
    assert np.mean(hits) >= 0.93


def test_the_diagonal_of_a_network_has_its_names_and_shapes():
    model, (x, y) = conv_net(), images()
    objective = ln.Objective(model, "cross_entropy", (x, y), batch_size=BATCH)
    truth = dense(conv_loss(model, x, y, "frozen"), objective.params)[2]
    found = diagonal(Hessian(objective), products=40)
    assert {name: t.shape for name, t in found.value.items()} == {n: t.shape for n, t in objective.params.items()}
    wide = flat(found.error) * float(stdtrit(39, 0.975)) + 1e-6
    assert float(((flat(found.value) - truth.diagonal()).abs() <= wide).double().mean()) >= 0.93
    spread = torch.sqrt(((truth**2).sum(1) - truth.diagonal() ** 2) / 40)
    assert float(flat(found.error).mean()) == pytest.approx(float(spread.mean()), rel=0.1)
    part = diagonal(Hessian(objective, params="out.*"), products=5)
    assert not part.value["conv1.weight"].any()
    exact = diagonal(Hessian(quadratic(torch.diag(torch.tensor([3.0, -1.0], dtype=torch.float64)))), products=5)
    assert exact.value["x"].tolist() == [3, -1]
    assert float(exact.error["x"].max()) < 1e-13  # its rounding alone


def test_ctrl_c_keeps_the_diagonal_so_far():
    calls = [-1000]

    def valley(p):
        calls[0] += 1
        if calls[0] == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return (p["x"] ** 2 * torch.arange(1.0, 21.0)).sum()

    objective = ln.Objective.from_function(valley, {"x": torch.ones(20)})
    calls[0] = -1000
    Hessian(objective) @ objective.params  # its derivatives are examined once
    calls[0] = 0
    with pytest.raises(ln.Interrupted, match="Stopped after 20 products") as stopped:
        diagonal(Hessian(objective))
    assert torch.equal(stopped.value.partial.value["x"], 2 * torch.arange(1.0, 21.0))


def test_derivatives_that_are_not_finite_are_said():
    pole = ln.Objective.from_function(lambda p: 1 / p["x"].abs().sum(), {"x": torch.zeros(30)})
    for method in ("hutch++", "hutchinson"):
        with pytest.warns(errors.LossnavWarning, match="the trace is NaN"):
            found = trace(Hessian(pole), method=method)
        assert np.isnan(found.value)
        assert np.isinf(found.error)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "exact"}, "method='exact' is unknown.*'hutchinson'"),
        ({"products": 14}, "products=14 leave too few.*Allow 15"),
        ({"products": 4, "method": "hutchinson"}, "Allow 5"),
        ({"tolerance": 0}, "got tolerance=0"),
        ({"seed": -1}, "got seed=-1"),
    ],
)
def test_what_cannot_be_asked(options, words):
    objective = quadratic(symmetric(np.ones(3)))
    with pytest.raises(errors.OptionError, match=words):
        trace(Hessian(objective), **options)
    with pytest.raises(errors.OptionError, match="products=4 are too few"):
        diagonal(Hessian(objective), products=4)
