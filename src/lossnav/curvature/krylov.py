"""The Krylov space of a vector and a symmetric operator: Lanczos steps, full reorthogonalisation, restarts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from lossnav.curvature.locked_pairs import LockedPairs

Array = NDArray[np.float64]

_INVARIANT = 1e-12  # of the spectral radius: a residual below it is rounding, and the space is invariant


class Krylov:
    """The Krylov space of a vector and a symmetric operator, with its Ritz values, increasing.

    Parameters
    ----------
    basis : Tensor of shape (rows, d)
        Memory for the basis.
    fresh : Generator
        Draws the next vector when the space is invariant.
    least : float
        Log of a lower bound of the start's component along an eigenvector.
    smallest, largest : int
        The numbers of wanted eigenvalues, by which a restart divides the kept vectors between the ends.
    """

    def __init__(self, basis: Tensor, fresh: torch.Generator, least: float, smallest: int, largest: int) -> None:
        self.basis, self.fresh, self.least, self.ends = basis, fresh, least, (smallest, largest)
        self.values, self.vectors = np.zeros(0), np.zeros((0, 0))
        self.n = self.products = 0
        self.image, self.residual, self.radius = basis[:0].sum(0), math.inf, 0.0
        self.finite, self.invariant = True, False
        self.errors = np.zeros(0)
        # the polynomial of all steps: roots that were dropped in restarts, log of the leading coefficient
        self.dropped, self.growth = np.zeros(0), 0.0

    @property
    def residuals(self) -> Array:
        """||H x - value x|| of each Ritz pair."""
        return np.asarray(self.residual * np.abs(self.vectors[-1]))

    @property
    def roots(self) -> Array:
        """Roots of the polynomial of all steps."""
        return np.concatenate([self.values, self.dropped])

    def combined(self, which: list[int]) -> Tensor:
        """Return some Ritz vectors."""
        return combined(self.vectors[:, which], self.basis[: self.n])

    def excluded(self, places: Array) -> NDArray[np.bool_]:
        """Return for each place whether no eigenvalue lies there; see `lanczos`."""
        with np.errstate(divide="ignore"):
            return np.asarray(self.growth + np.log(np.abs(places[:, None] - self.roots)).sum(1) > -self.least)

    def grow(
        self,
        product: Callable[[Tensor], Tensor],
        start: Tensor,
        beside: LockedPairs | None,
        enough: Callable[[Krylov, bool], bool],
        limit: int,
        stop: Callable[[], bool],
    ) -> bool:
        """Take steps until `enough`, or until the space is complete; return whether that came before the limit.

        Parameters
        ----------
        product : callable
            The operator.
        start : Tensor of shape (d,)
        beside : LockedPairs, optional
            Pairs to whose vectors the space is kept orthogonal.
        enough : callable
            From the space, and whether this is the last step, to whether to end.
        limit : int
            Largest number of products.
        stop : callable
            Whether to end now.
        """
        rows, d = self.basis.shape
        locked = None if beside is None else beside.vectors
        whole = d if locked is None else d - len(locked)
        projected = np.zeros((rows, rows))  # basis H basis^T
        vector = start if locked is None else orthogonalized(start, locked)[0]
        while True:
            self.basis[self.n] = vector / torch.linalg.vector_norm(vector)
            image = product(self.basis[self.n])
            self.n, self.products = self.n + 1, self.products + 1
            n = self.n
            self.finite = bool(torch.isfinite(image).all())
            if not self.finite:
                return False
            image, column = orthogonalized(image, self.basis[:n], locked)
            projected[:n, n - 1] = projected[n - 1, :n] = column.cpu().numpy()
            self.image, self.residual = image, float(torch.linalg.vector_norm(image))
            self.values, self.vectors = np.linalg.eigh(projected[:n, :n])
            self.radius = float(np.abs(self.values).max())
            reach = max(self.radius, 0.0 if beside is None else float(np.abs(beside.values).max()))
            self.invariant = self.residual <= _INVARIANT * reach
            self.growth -= math.log(max(self.residual, _INVARIANT * reach, 1e-300))
            last = self.products >= limit or stop()
            good = enough(self, last)
            if n == whole or good or last:
                return good or n == whole
            if n == rows:
                kept = _kept(n, *self.ends)
                self.basis[: len(kept)] = combined(self.vectors[:, kept], self.basis)
                self.dropped = np.concatenate([self.dropped, np.delete(self.values, kept)])
                projected[:] = 0.0
                self.n = n = len(kept)
                projected[range(n), range(n)] = self.values[kept]
            if self.invariant:
                image = torch.randn(d, dtype=torch.float64, generator=self.fresh).to(start.device)
                image, _ = orthogonalized(image, self.basis[:n], locked)
            vector = image


def orthogonalized(vector: Tensor, basis: Tensor, beside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the part of a vector orthogonal to the rows of a basis (and of another), and its coefficients.

    Each projection is done twice, because after one orthogonality is lost gradually. The two bases take turns, because
    if little of the vector is left, the rounding error of one projection is large along the other basis.
    """
    found = vector.new_zeros(len(basis))
    for _ in range(2):
        if beside is not None:
            vector = vector - beside.T @ (beside @ vector)
        along = basis @ vector
        vector, found = vector - basis.T @ along, found + along
    return vector, found


def combined(coefficients: NDArray[np.float64], basis: Tensor) -> Tensor:
    """Return combinations of the rows of a basis, one for each column of coefficients."""
    return torch.from_numpy(coefficients.T.copy()).to(basis.device) @ basis


def _kept(n: int, smallest: int, largest: int) -> list[int]:
    """Return which of n Ritz vectors a restart keeps: half of them, from the wanted ends."""
    low = round(n / 2 * smallest / (smallest + largest))
    return [*range(low), *range(n - (n // 2 - low), n)]
