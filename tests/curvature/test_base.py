"""Operators as somebody else writes them: their numbers against numpy's, and what is said where they are wrong."""

import os
import signal

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

import lossnav as ln
from lossnav import errors
from lossnav.curvature import Operator, diagonal, spectral_density, top_eigenpairs, trace
from networks import symmetric

D = 90


class Written(Operator):
    """A matrix that is written down."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.dtype = matrix, tuple(matrix.shape), matrix.dtype

    def __matmul__(self, vectors):
        assert vectors.dtype == self.dtype
        return self.matrix @ vectors


class DiagonalAndLowRank(Operator):
    """diag(d) + U diag(s) U^T, of which only d, U and s are kept."""

    def __init__(self, d, u, s):
        self.d, self.u, self.s = d, u, s
        self.shape, self.dtype = (len(d), len(d)), d.dtype

    def __matmul__(self, vectors):
        return self.d[:, None] * vectors + self.u @ (self.s[:, None] * (self.u.T @ vectors))


def written(dtype):
    values = np.concatenate([np.random.default_rng(0).normal(size=D - 4) * 0.1, [9.0, 5.0, 3.0, -2.0]])
    matrix = symmetric(values).to(dtype)
    return Written(matrix), matrix.double().numpy()


def low_rank(dtype):
    rng = np.random.default_rng(1)
    drawn = rng.normal(size=D), rng.normal(size=(D, 3)), np.array([1.0, 0.5, -0.2])
    d, u, s = (torch.from_numpy(part).to(dtype) for part in drawn)
    dense = np.diag(d.double()) + u.double().numpy() @ np.diag(s.double()) @ u.double().numpy().T
    return DiagonalAndLowRank(d, u, s), dense


@pytest.fixture(params=[written, low_rank])
def make(request):
    return request.param


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_ends_of_its_spectrum_lie_within_their_errors(make, dtype):
    operator, dense = make(dtype)
    pairs = top_eigenpairs(operator, 3, "both", tolerance=1e-5)
    truth = np.linalg.eigvalsh(dense)
    assert (np.abs(pairs.values - truth[[0, 1, 2, -1, -2, -3]]) <= pairs.errors).all()
    assert (pairs.errors <= 1e-3 * np.abs(truth).max()).all()
    for value, vector, error in zip(pairs.values, pairs.vectors, pairs.errors, strict=True):
        assert (vector.shape, vector.dtype) == ((D,), torch.float64)
        assert np.linalg.norm(dense @ vector.numpy() - value * vector.numpy()) <= error
    assert pairs.converged
    assert pairs.passes == 0  # it goes over no data


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("method", ["hutch++", "hutchinson"])
def test_its_trace_lies_within_its_interval_as_often_as_it_says(make, dtype, method):
    operator, dense = make(dtype)
    intervals = [trace(operator, products=30, method=method, seed=seed).interval() for seed in range(40)]
    assert sum(low <= np.trace(dense) <= high for low, high in intervals) >= 36
    exact = trace(operator, products=D)  # a product for each entry leaves nothing to chance
    assert exact.products == D
    assert abs(exact.value - np.trace(dense)) <= exact.error <= 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_its_diagonal_lies_within_its_errors(make, dtype):
    operator, dense = make(dtype)
    exact = diagonal(operator, products=D)
    assert (np.abs(exact.value.numpy() - dense.diagonal()) <= exact.error.numpy()).all()
    assert float(exact.error.max()) <= 1e-4
    found = diagonal(operator, products=20)
    within = np.abs(found.value.numpy() - dense.diagonal()) <= 2.09 * found.error.numpy()  # Student's t, 19 degrees
    assert within.mean() >= 0.9
    row = np.sqrt((dense**2).sum(1) - dense.diagonal() ** 2) / np.sqrt(20)
    assert found.error.mean() == pytest.approx(row.mean(), rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_its_density_lies_within_its_errors(make, dtype):
    operator, dense = make(dtype)
    values = np.linalg.eigvalsh(dense)
    for pairs in (None, top_eigenpairs(operator, 2, tolerance=1e-5)):
        found = spectral_density(operator, probes=8, steps=40, pairs=pairs)
        kernel = np.exp(-0.5 * ((found.values[:, None] - values) / found.width) ** 2) / found.width / np.sqrt(2 * np.pi)
        truth = kernel.mean(1)
        assert (np.abs(found.density - truth) <= 2.4 * found.error + 1e-2 * truth.max()).mean() >= 0.93
        assert np.trapezoid(found.density, found.values) == pytest.approx(1, abs=1e-3)
        low, high = found.mean.interval()
        assert low <= values.mean() <= high


def test_the_same_seed_gives_the_same_bits_and_an_operator_may_be_used_again(make):
    operator, _ = make(torch.float32)
    first, again, other = (trace(operator, products=30, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.value != other.value
    assert first.products == 30


@pytest.mark.parametrize(
    "form", [lambda m: torch.from_numpy(m), np.asarray, scipy.sparse.linalg.aslinearoperator, scipy.sparse.csr_array]
)
def test_what_has_shape_and_dtype_and_products_need_not_be_a_subclass(form):
    _, dense = written(torch.float64)
    for given, rel in ((dense, 1e-9), (dense.astype(np.float32), 1e-4)):
        matrix = form(given)
        assert trace(matrix, products=D).value == pytest.approx(np.trace(dense), rel=rel)
        assert top_eigenpairs(matrix, tolerance=1e-6).values[0] == pytest.approx(9, rel=1e-4)
        assert diagonal(matrix, products=D).value.numpy() == pytest.approx(dense.diagonal(), abs=1e-5)
        assert spectral_density(matrix).mean.error < 0.1


def test_a_hessian_multiplies_tensors_as_any_operator_does():
    matrix = symmetric([3.0, 1.0, -1.0, 0.5])
    objective = ln.Objective.from_function(
        lambda p: p["x"] @ matrix @ p["x"] / 2, {"x": torch.zeros(4, dtype=torch.float64)}
    )
    hessian = ln.curvature.Hessian(objective)
    assert isinstance(hessian, Operator)
    assert (hessian.shape, hessian.dtype) == ((4, 4), torch.float64)
    assert torch.allclose(hessian @ torch.eye(4, dtype=torch.float64), matrix)
    assert torch.allclose(hessian @ torch.ones(4), matrix.sum(1))
    assert torch.allclose((hessian @ {"x": torch.ones(4)})["x"].double(), matrix.sum(1))
    with pytest.raises(errors.OptionError, match=r"cannot be multiplied by a Tensor of shape \(3,\).*\(4, k\)"):
        _ = hessian @ torch.ones(3)


# ---------------------------------------------------------------------- in the middle


def holds_the_trace(found, dense):
    low, high = found.interval(0.99)
    return low <= np.trace(dense) <= high


def is_below_the_largest(found, dense):
    return 0 < found.values[0] <= np.linalg.eigvalsh(dense)[-1]


@pytest.mark.parametrize(
    ("number", "partial"),
    [
        (lambda o: trace(o, products=60), holds_the_trace),
        (lambda o: diagonal(o, products=40), lambda found, dense: (found.value.shape, found.products) == ((D,), 30)),
        (lambda o: top_eigenpairs(o, tolerance=1e-9), is_below_the_largest),
        (lambda o: spectral_density(o, probes=4), lambda found, dense: np.allclose(found.weights.sum(1), 1)),
    ],
)
def test_ctrl_c_keeps_what_was_computed(make, number, partial):
    operator, dense = make(torch.float64)

    class Interrupting(Operator):
        calls, shape = 0, operator.shape

        def __matmul__(self, vectors):
            self.calls += 1
            if self.calls == 3:
                os.kill(os.getpid(), signal.SIGINT)
            return operator @ vectors

    interrupting = Interrupting()
    with pytest.raises(ln.Interrupted, match=r"Stopped after \d+ products.*in the \.partial") as stopped:
        number(interrupting)
    assert interrupting.calls == 3
    assert stopped.value.signal == signal.SIGINT
    assert partial(stopped.value.partial, dense)


def test_what_is_not_sure_is_said():
    operator, dense = written(torch.float64)
    with pytest.warns(errors.LossnavWarning, match=r"After 3 products the relative error .*limit="):
        pairs = top_eigenpairs(operator, limit=3, tolerance=1e-6)
    assert abs(pairs.values[0] - np.linalg.eigvalsh(dense)[-1]) <= pairs.errors[0]
    nowhere = Written(torch.full((40, 40), torch.nan))
    for number, words in ((trace, "the trace is NaN"), (spectral_density, "density is NaN"), (top_eigenpairs, "NaN")):
        with pytest.warns(errors.LossnavWarning, match=words):
            number(nowhere)


# ---------------------------------------------------------------------- what is wrong with it


class Wrong(Operator):
    """An operator with members that cannot be."""

    def __init__(self, product=lambda v: v, **members):
        self.product, self.shape = product, (6, 6)
        vars(self).update(members)

    def __matmul__(self, vectors):
        return self.product(vectors)


@pytest.mark.parametrize("number", [trace, diagonal, top_eigenpairs, spectral_density])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            lambda: ln.Objective.from_function(lambda p: p["x"].sum(), {"x": torch.ones(2)}),
            r"objective.*Hessian\(obj",
        ),
        (lambda: ln.curvature.Hessian, "the class Hessian. Pass an instance of it"),
        (lambda: 5, "got 5, an int, which lacks shape, dtype, __matmul__.*Hessian"),
        (lambda: torch.eye(3)[:2], r"square matrix.*shape \(2, 3\)"),
        (lambda: torch.ones(3), r"square matrix.*shape \(3,\)"),
        (lambda: torch.zeros(0, 0), r"shape \(0, 0\)"),
        (lambda: torch.eye(3, dtype=torch.int64), r"real numbers.*int64.*matrix.double\(\)"),
        (lambda: torch.eye(3, dtype=torch.complex128), "real numbers.*complex128"),
        (lambda: np.eye(3, dtype=complex), "real numbers.*complex128"),
        (lambda: Wrong(lambda v: v[:2]), r"Wrong @ vectors of shape \(6, \d\) returned \(2, \d\)"),
        (lambda: Wrong(lambda v: None), r"returned NoneType. Return a Tensor"),
        (lambda: Wrong(lambda v: torch.triu(torch.ones(6, 6).double()) @ v), "Wrong is not symmetric: .*A.T"),
    ],
)
def test_what_is_no_operator_is_said(number, wrong, words):
    with pytest.raises(errors.OptionError, match=words):
        number(wrong())


def test_pairs_of_another_operator_are_refused():
    pairs = top_eigenpairs(written(torch.float64)[0])
    with pytest.raises(errors.OptionError, match=r"shape \(90,\) does not fit Wrong, which has shape \(6, 6\)"):
        spectral_density(Wrong(), pairs=pairs)


def test_an_operator_that_writes_into_its_vectors_or_returns_them_harms_nothing():
    matrix = symmetric(np.arange(1.0, 31.0))

    def writing(vectors):
        made = matrix @ vectors
        vectors.zero_()
        return made

    for number in (trace, lambda o: diagonal(o).value.sum(), lambda o: top_eigenpairs(o).values[0]):
        assert number(Written(matrix)) == number(Wrong(writing, shape=(30, 30)))
    assert trace(Wrong(lambda v: v, shape=(30, 30))).value == 30
    assert top_eigenpairs(Wrong(lambda v: v, shape=(30, 30))).values[0] == pytest.approx(1)
