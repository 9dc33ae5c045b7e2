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


@dataclass(frozen=True)
class Ritz:
    """What is known of the ends of a spectrum.

    Attributes
    ----------
    values : ndarray of shape (m,)
        Ritz values, increasing: the smallest that were asked for, then the largest. NaN where a product was not finite.
    errors : ndarray of shape (m,)
        ||H x - value x||: an eigenvalue lies within this distance of the value (Parlett 1998, theorem 4.5.1).
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
    stop: Callable[[], bool] = lambda: False,
) -> Ritz:
    """Find the ends of the spectrum of a symmetric operator in the Krylov spaces of a vector.

    Thick-restart Lanczos: where the basis is full, the Ritz vectors of both ends are kept and the iteration goes on.

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
    stop : callable
        Asked after each product whether to end with what there is.

    References
    ----------
    Wu, Simon 2000, "Thick-restart Lanczos method for large symmetric eigenvalue problems". Parlett 1998, "The
    Symmetric Eigenvalue Problem".
    """
    d = len(start)
    wanted = min(d, smallest + largest)
    rows = min(d, limit, max(_LEAST_BASIS, 4 * wanted, _MEMORY // (8 * d)))
    basis = torch.empty((rows, d), dtype=torch.float64, device=start.device)
    projected = np.zeros((rows, rows))  # basis H basis^T
    fresh = torch.Generator().manual_seed(seed)
    vector, n, products, good = start, 0, 0, False
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
        errors = residual * np.abs(vectors[-1])
        radius = float(np.abs(values).max())
        ends = [*range(min(smallest, n)), *range(max(0, n - largest), n)]
        before, goals = good, tolerance * np.maximum(np.abs(values), _SMALL * radius)
        good = n >= wanted and bool((errors <= goals)[ends].all())
        invariant = residual <= _INVARIANT * radius
        # twice in a row: where a better end only just comes in, the old one looks good for one step more
        converged = n == d or (good and (before or invariant))
        if converged or products >= limit or stop():
            return Ritz(values[ends], errors[ends], _combined(vectors[:, ends], basis[:n]), products, converged, radius)
        if n == rows:
            kept = _kept(n, smallest, largest)
            basis[: len(kept)] = _combined(vectors[:, kept], basis)
            projected[:] = 0.0
            n = len(kept)
            projected[range(n), range(n)] = values[kept]
        if invariant:
            image = torch.randn(d, dtype=torch.float64, generator=fresh).to(start.device)
            image, _ = _orthogonal(image, basis[:n])
        vector = image


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
