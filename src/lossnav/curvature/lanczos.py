"""Extreme eigenvalues of a symmetric operator from few products with it: Lanczos with full reorthogonalisation.

A product is a pass over the data and costs all there is to cost, so the iteration looks after every one of them whether
it may stop. SciPy's `eigsh` (ARPACK) looks once in `ncv` products, so that a good vector to start from saves it nothing
(design/0014).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MEMORY = 2**30  # bytes for the basis, but no fewer vectors than
_LEAST_BASIS = 16
_SMALL = 1e-3  # of the spectral radius: eigenvalues below it are sought to within this part of the tolerance
_INVARIANT = 1e-12  # of the spectral radius: a residual below it is rounding, and the space holds its own images
_PLACES, _FARTHEST = 400, 1e3  # an end is sought beyond a value in steps of 9 %, so many spreads of the values far
MISSED = 0.05  # the probability, at most, that an end lies outside its error


@dataclass(frozen=True)
class Ritz:
    """What is known of the ends of a spectrum.

    Attributes
    ----------
    values : ndarray of shape (m,)
        Ritz values, increasing: the smallest that were asked for, then the largest. NaN where a product was not finite.
    errors : ndarray of shape (m,)
        The larger of two. The residual ||H x - value x||: an eigenvalue lies within this distance of the value (Parlett
        1998, theorem 4.5.1). And, with a probability of 95 % over the random start, how far beyond the value the end
        itself may lie (`_beyond`).
    vectors : Tensor of shape (m, d)
        Ritz vectors x of length 1, float64.
    products : int
        With the operator.
    converged : bool
        Whether all errors are within the tolerance.
    radius : float
        The largest Ritz value in size, of those too that were not asked for.
    """

    values: NDArray[np.float64]
    errors: NDArray[np.float64]
    vectors: Tensor
    products: int
    converged: bool
    radius: float = math.nan


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    smallest: int,
    largest: int,
    *,
    tolerance: float,
    limit: int,
    seed: int = 0,
    chance: float = 1.0,
    stop: Callable[[], bool] = lambda: False,
) -> Ritz:
    """Find the ends of the spectrum of a symmetric operator in the Krylov spaces of a vector.

    Thick-restart Lanczos: where the basis is full, the Ritz vectors of both ends are kept and the iteration goes on.

    A residual alone says that an eigenvalue is near, not that it is the last one: of two narrow clusters two steps show
    two values with small residuals, and the ends of the clusters lie beyond. So the iteration goes on until the random
    start makes it unlikely that an end lies beyond the tolerance.

    Parameters
    ----------
    product : callable
        From a Tensor of shape (d,), float64, to another.
    start : Tensor of shape (d,)
        float64, not zero.
    smallest, largest : int
        How many eigenvalues of each end.
    tolerance : float
        Each error is to be at most this part of its value (of a thousandth of the spectral radius, where that is more).
    limit : int
        Most products there may be.
    seed : int
        Of the vector to go on with where the space is invariant.
    chance : float
        The length of what was drawn of `start`, uniformly over all directions, as a part of the sum of its length and
        that of the rest: 1 for a random vector.
    stop : callable
        Asked after each product whether to end with what there is.

    References
    ----------
    Wu, Simon 2000, "Thick-restart Lanczos method for large symmetric eigenvalue problems". Parlett 1998, "The
    Symmetric Eigenvalue Problem". van Dorsselaer, Hochstenbach, van der Vorst 2000, "Computing probabilistic bounds for
    extreme eigenvalues of symmetric matrices with the Lanczos method", section 4.
    """
    d = len(start)
    wanted = min(d, smallest + largest)
    rows = min(d, limit, max(_LEAST_BASIS, 4 * wanted, _MEMORY // (8 * d)))
    basis = torch.empty((rows, d), dtype=torch.float64, device=start.device)
    projected = np.zeros((rows, rows))  # basis H basis^T
    fresh = torch.Generator().manual_seed(seed)
    # below it the start's part along any one eigenvector lies with a probability of MISSED / wanted at most
    least = math.log(MISSED / wanted * chance * math.sqrt(math.pi / 2 / d))
    vector, n, products = start, 0, 0
    dropped, growth = np.zeros(0), 0.0  # of the polynomial of all steps: roots that restarts left behind, leading term
    while True:
        basis[n] = vector / torch.linalg.vector_norm(vector)
        image = product(basis[n])
        n, products = n + 1, products + 1
        if not bool(torch.isfinite(image).all()):
            nothing, endless = (np.full(smallest + largest, number) for number in (math.nan, math.inf))
            return Ritz(nothing, endless, basis[:0], products, False)
        image, column = _orthogonal(image, basis[:n])
        projected[:n, n - 1] = projected[n - 1, :n] = column.cpu().numpy()
        residual = float(torch.linalg.vector_norm(image))
        values, vectors = np.linalg.eigh(projected[:n, :n])
        radius = float(np.abs(values).max())
        invariant = residual <= _INVARIANT * radius
        growth -= math.log(max(residual, _INVARIANT * radius, 1e-300))
        ends = [*range(min(smallest, n)), *range(max(0, n - largest), n)]
        errors = residual * np.abs(vectors[-1, ends])
        goals = tolerance * np.maximum(np.abs(values[ends]), _SMALL * radius)
        good = n >= wanted and bool((errors <= goals).all())
        last = products >= limit or stop()
        if n < d and (good or last) and not invariant:
            beyond = _beyond(values, ends, smallest, dropped, growth, least)
            errors = np.maximum(errors, beyond)
            good = good and bool((errors <= goals).all())
        if n == d or good or last:
            return Ritz(values[ends], errors, _combined(vectors[:, ends], basis[:n]), products, n == d or good, radius)
        if n == rows:
            kept = _kept(n, smallest, largest)
            basis[: len(kept)] = _combined(vectors[:, kept], basis)
            dropped = np.concatenate([dropped, np.delete(values, kept)])
            projected[:] = 0.0
            n = len(kept)
            projected[range(n), range(n)] = values[kept]
        if invariant:
            image = torch.randn(d, dtype=torch.float64, generator=fresh).to(start.device)
            image, _ = _orthogonal(image, basis[:n])
        vector = image


def _beyond(
    values: NDArray[np.float64],
    ends: list[int],
    smallest: int,
    dropped: NDArray[np.float64],
    growth: float,
    least: float,
) -> NDArray[np.float64]:
    """How far outwards of each end an eigenvalue may lie, unless the start had hardly any part along its eigenvector.

    The next vector of the basis is p(H) start, with p(t) = exp(growth) times the product of t - r over the roots r: the
    Ritz values, and those that restarts have dropped. Its length is 1, so of an eigenvector u with eigenvalue t
    |p(t)| |<u, start>| <= 1: where log |p(t)| > -least, there is no eigenvalue. From an end outwards |p| grows, up to
    its greatest value between two roots.

    Returns
    -------
    ndarray of shape (m,)
        The sought ends' distances, as `ends` orders them.
    """
    roots = np.concatenate([values, dropped])

    def excluded(places: NDArray[np.float64]) -> NDArray[np.bool_]:
        with np.errstate(divide="ignore"):
            return np.asarray(growth + np.log(np.abs(places[:, None] - roots)).sum(1) > -least)

    spread = max(float(np.ptp(roots)), float(np.abs(roots).max()), 1e-300)
    found = np.empty(len(ends))
    for place, i in enumerate(ends):
        low = place < smallest
        outwards = (values[i] - roots) if low else (roots - values[i])
        nearer = outwards[outwards > 0]
        reach = float(nearer.min()) if len(nearer) else _FARTHEST * spread
        steps = reach * np.geomspace(1e-12, 1.0 if not len(nearer) else 0.5, _PLACES)
        free = excluded(values[i] + (-steps if low else steps))
        # nothing excluded up to the next value: it may be the next one that lies there, or one beyond
        found[place] = steps[int(free.argmax())] if free.any() else math.inf
    for place in [*range(1, smallest), *range(len(ends) - 2, smallest - 1, -1)]:
        outer = place - 1 if place < smallest else place + 1
        if math.isinf(found[place]):
            found[place] = abs(values[ends[place]] - values[ends[outer]]) + found[outer]
    return found


def _orthogonal(vector: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """What of a vector is orthogonal to the rows of a basis, and its coefficients along them.

    Projected out twice: after once, orthogonality is lost by and by.
    """
    first = basis @ vector
    vector = vector - basis.T @ first
    second = basis @ vector
    return vector - basis.T @ second, first + second


def _combined(coefficients: NDArray[np.float64], basis: Tensor) -> Tensor:
    """Combinations of the rows of a basis, one a column of coefficients."""
    return torch.from_numpy(coefficients.T.copy()).to(basis.device) @ basis


def _kept(n: int, smallest: int, largest: int) -> list[int]:
    """Which of n Ritz vectors a restart keeps: half of them, of the ends that are wanted."""
    low = round(n / 2 * smallest / (smallest + largest))
    return [*range(low), *range(n - (n // 2 - low), n)]
