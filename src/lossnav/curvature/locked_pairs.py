"""Locked Ritz pairs (deflation), and bounds for the remaining eigenvalues at each end of the spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossnav.curvature.krylov import Krylov, combined

Array = NDArray[np.float64]

Goals = Callable[[Array, float], Array]

LEAST_BASIS = 16
PLACES, FARTHEST = 400, 1e3  # bounds are sought in steps of 9 %, up to so many spreads of the values
SPARE = 0.25  # of a goal: the residuals of pairs with the same eigenvalue add up when they are joined


@dataclass
class LockedPairs:
    """Locked Ritz pairs: H vectors = values * vectors + parts @ outside."""

    values: Array  # (m,), increasing
    vectors: Tensor  # (m, d), orthonormal
    parts: Array  # (m, spaces)
    outside: Tensor  # (spaces, d), orthogonal to the vectors

    @classmethod
    def of(cls, space: Krylov, which: list[int]) -> LockedPairs:
        """Lock some of the pairs of a space."""
        parts = space.vectors[-1, which][:, None].copy()
        return cls(space.values[which], space.combined(which), parts, space.image[None].clone())

    def lengths(self) -> Array:
        """Return the residual ||H x - value x|| of each pair."""
        gram = (self.outside @ self.outside.T).cpu().numpy()
        return np.asarray(np.sqrt(np.maximum(((self.parts @ gram) * self.parts).sum(1), 0.0)))

    def joined(self, other: LockedPairs) -> LockedPairs:
        """Return the Rayleigh-Ritz pairs in the span of both; the other's vectors are orthogonal to these."""
        k, m = len(self.values), len(other.values)
        matrix = np.diag(np.concatenate([self.values, other.values]))
        matrix[:k, k:] = self.parts @ (self.outside @ other.vectors.T).cpu().numpy()
        matrix[k:, :k] = matrix[:k, k:].T
        values, turned = np.linalg.eigh(matrix)
        vectors = torch.cat([self.vectors, other.vectors])
        parts = np.zeros((k + m, self.parts.shape[1] + other.parts.shape[1]))
        parts[:k, : self.parts.shape[1]], parts[k:, self.parts.shape[1] :] = self.parts, other.parts
        outside = torch.cat([self.outside, other.outside])
        outside = outside - (outside @ vectors.T) @ vectors
        return LockedPairs(values, combined(turned, vectors), turned.T @ parts, outside)

    def trimmed(self, sides: list[SpectrumEnd], goal_of: Goals, radius: float) -> LockedPairs:
        """Return the wanted pairs of each end, and others that hardly increase their errors.

        The more pairs are locked, the fewer products show that no wanted eigenvalue is missing.
        """
        wanted = {i for side in sides for i in side.wanted(self)}
        which = sorted(wanted | set(cheap_pairs(self.values, self.lengths(), self, sides, goal_of, radius, wanted)))
        return LockedPairs(self.values[which], self.vectors[which], self.parts[which], self.outside)


@dataclass
class SpectrumEnd:
    """An end of the spectrum and bounds of its eigenvalues; those of the lower end are negated.

    Attributes
    ----------
    sign, count : int
        1 for the upper end and -1 for the lower; the number of wanted eigenvalues.
    ceiling : float
        An upper bound of all eigenvalues.
    bound : float
        An upper bound of all eigenvalues that are not locked.
    open : bool
        Whether a wanted eigenvalue may still be missing.
    """

    sign: int
    count: int
    ceiling: float = math.inf
    bound: float = math.inf
    open: bool = True

    def wanted(self, known: LockedPairs) -> list[int]:
        """Return the indices of the wanted values, outermost first."""
        order = range(len(known.values))
        return list(order)[: self.count] if self.sign < 0 else list(order)[::-1][: self.count]

    def goals(self, known: LockedPairs, goal_of: Goals, radius: float) -> tuple[Array, Array]:
        """Return the wanted values, outermost first, and the error allowed for each."""
        values = known.values[self.wanted(known)]
        return self.sign * values, goal_of(values, radius)

    def belonging(self, space: Krylov, known: LockedPairs, goal_of: Goals, radius: float) -> list[int]:
        """Return the Ritz values that belong to the wanted ones, by a margin of half a goal.

        The j-th of them displaces the j-th from the last.
        """
        values, goals = self.goals(known, goal_of, radius)
        order = np.argsort(-self.sign * space.values, kind="stable")[: self.count]
        displaced = (values + goals / 2)[::-1][: len(order)]
        more = np.logical_and.accumulate(self.sign * space.values[order] > displaced)
        return [int(i) for i in order[more]]

    def settled(self, space: Krylov, known: LockedPairs, goal_of: Goals, radius: float) -> bool:
        """Whether the space has converged to all missing values, or shows that there are none."""
        new = self.belonging(space, known, goal_of, radius)
        if new:
            return bool((space.residuals[new] <= SPARE * goal_of(space.values[new], radius)).all())
        values, goals = self.goals(known, goal_of, radius)
        place = values[-1] + goals[-1] / 2  # the other half is for errors of the locked values
        return bool(space.excluded(np.array([self.sign * place]))[0])

    def bounded(self, space: Krylov, known: LockedPairs, goal_of: Goals, radius: float) -> float:
        """Return an upper bound of all eigenvalues that are not locked, as far as a space shows one."""
        values, goals = self.goals(known, goal_of, radius)
        loss = _raises(known.values, known.lengths(), known, self, goal_of, radius)
        loss[self.wanted(known)] = 0.0
        outermost = float((self.sign * space.values).max())
        if space.n == len(space.image) - len(known.values):
            return outermost + float(loss.sum())
        spread = max(float(np.ptp(space.roots)), float(np.abs(space.roots).max()), 1e-300)
        places = outermost + spread * np.concatenate([[0.0], np.geomspace(1e-12, FARTHEST, PLACES)])
        places = np.sort(np.append(places, values[-1] + goals[-1] / 2))
        free = space.excluded(self.sign * places) & (places > outermost)
        return float(places[free.argmax()]) + float(loss.sum()) if free.any() else math.inf


def all_settled(
    sides: list[SpectrumEnd], known: LockedPairs, goal_of: Goals, radius: float
) -> Callable[[Krylov, bool], bool]:
    """Return the condition that ends `Krylov.grow` for a space orthogonal to locked pairs."""
    return lambda space, last: all(side.settled(space, known, goal_of, radius) for side in sides)


def _raises(
    values: Array, lengths: Array, known: LockedPairs, side: SpectrumEnd, goal_of: Goals, radius: float
) -> Array:
    """Return by how much each locked pair that is not wanted may raise the bound of the remaining eigenvalues.

    H = [[D, C^T], [C, B]] has no eigenvalue above t > D if B + C (t - D)^-1 C^T has none (Schur complement). The latter
    exceeds the largest eigenvalue of B by at most the sum of |C_i|^2 / (t - D_i), where |C_i| is the residual.
    """
    last, goals = (part[-1] for part in side.goals(known, goal_of, radius))
    return np.asarray(lengths**2 / np.maximum(last + goals - side.sign * values, goals))


def cheap_pairs(
    values: Array,
    lengths: Array,
    known: LockedPairs,
    sides: list[SpectrumEnd],
    goal_of: Goals,
    radius: float,
    wanted: set[int] | frozenset[int] = frozenset(),
) -> list[int]:
    """Return pairs that together raise the bound of each end by at most half its goal; at most twice the wanted."""
    costs = np.zeros(len(values))
    for side in sides:
        goal = side.goals(known, goal_of, radius)[1][-1]
        costs = np.maximum(costs, _raises(values, lengths, known, side, goal_of, radius) / max(goal, 1e-300))
    costs[list(wanted)] = math.inf
    order = np.argsort(costs, kind="stable")[: max(LEAST_BASIS, 2 * sum(side.count for side in sides))]
    return [int(i) for i in order[np.cumsum(costs[order]) <= 0.5]]
