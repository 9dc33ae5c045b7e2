"""Extreme eigenvalues of a symmetric operator from few products with it: Lanczos with full reorthogonalisation.

A product is a pass over the data and dominates the cost, so the iteration checks after each one whether it may stop.
SciPy's `eigsh` (ARPACK) checks only once in `ncv` products, so a good start vector saves it nothing (design/0014).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossnav.curvature.krylov import Krylov
from lossnav.curvature.locked_pairs import (
    FARTHEST,
    LEAST_BASIS,
    PLACES,
    SPARE,
    LockedPairs,
    SpectrumEnd,
    all_settled,
    cheap_pairs,
)

Array = NDArray[np.float64]

_MEMORY = 2**30  # bytes for the basis, which has LEAST_BASIS vectors at least
_SMALL = 1e-3  # of the spectral radius: the tolerance of smaller eigenvalues is relative to this
MISSED = 0.05  # the largest probability that an eigenvalue lies outside its error


@dataclass(frozen=True)
class Ritz:
    """Eigenvalues at the ends of a spectrum, with errors.

    Attributes
    ----------
    values : ndarray of shape (m,)
        Ritz values, increasing: the wanted smallest, then the wanted largest. NaN if a product was not finite.
    errors : ndarray of shape (m,)
        The larger of two numbers. First, the residual ||H x - value x||: an eigenvalue lies within this distance of the
        value (Parlett 1998, theorem 4.5.1). Second, with a probability of 95 % over the random starts, how far beyond
        the value the eigenvalue of the same rank may lie, multiple eigenvalues counted with their multiplicity.
    vectors : Tensor of shape (m, d)
        Ritz vectors x of length 1, float64.
    products : int
        Number of products with the operator.
    converged : bool
        Whether all errors are within the tolerance.
    radius : float
        The largest absolute Ritz value, including those that are not returned.
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
    """Compute eigenvalues at the ends of the spectrum of a symmetric operator, in Krylov spaces.

    Thick-restart Lanczos: when the basis is full, Ritz vectors of both ends are kept and the iteration continues.

    A small residual shows that an eigenvalue is near, not that it is the outermost. For two narrow clusters, two steps
    give two values with small residuals, and the ends of the clusters lie further out. So the iteration continues until
    the random start makes it unlikely that an eigenvalue lies outside the tolerance.

    The Krylov space of one vector contains each multiple eigenvalue only once. So if several values of an end are
    wanted, converged pairs are locked and the iteration starts again orthogonally to them, with another random vector,
    until no wanted eigenvalue is left (design/0015).

    Parameters
    ----------
    product : callable
        The operator: from a Tensor of shape (d,), float64, to another.
    start : Tensor of shape (d,)
        float64, not zero.
    smallest, largest : int
        The number of wanted eigenvalues at each end.
    tolerance : float
        The allowed error relative to the value (or to a thousandth of the spectral radius, if that is larger).
    limit : int
        Largest number of products.
    seed : int
        Of the further random vectors: after an invariant space, and for the search beside locked pairs.
    chance : float
        If `start` is the sum of a random vector (uniform over all directions) and another: the length of the random one
        divided by the sum of both lengths. 1 for a random vector.
    stop : callable
        Called after each product; if it returns True, the iteration ends with the present results.

    Returns
    -------
    Ritz

    References
    ----------
    Wu, Simon 2000, "Thick-restart Lanczos method for large symmetric eigenvalue problems". Parlett 1998, "The
    Symmetric Eigenvalue Problem". van Dorsselaer, Hochstenbach, van der Vorst 2000, "Computing probabilistic bounds for
    extreme eigenvalues of symmetric matrices with the Lanczos method", section 4.
    """
    d = len(start)
    wanted = min(d, smallest + largest)
    rows = min(d, limit, max(LEAST_BASIS, 4 * wanted, _MEMORY // (8 * d)))
    basis = torch.empty((rows, d), dtype=torch.float64, device=start.device)
    fresh = torch.Generator().manual_seed(seed)
    alone = max(smallest, largest) == 1

    def goal_of(values: Array, radius: float) -> Array:
        return np.asarray(tolerance * np.maximum(np.abs(values), _SMALL * radius))

    def sought(space: Krylov) -> list[int]:
        return [*range(min(smallest, space.n)), *range(max(0, space.n - largest), space.n)]

    def sure(space: Krylov, last: bool) -> bool:
        ends = sought(space)
        errors, goals = space.residuals[ends], goal_of(space.values[ends], space.radius)
        good = space.n >= wanted and bool((errors <= (goals if alone else SPARE * goals)).all())
        if space.n < d and (good or last) and not space.invariant:
            errors = np.maximum(errors, _beyond(space, ends, smallest))
            good = good and bool((errors <= goals).all())
        space.errors = errors
        return space.n == d or good

    space = Krylov(basis, fresh, _least(wanted, d, chance), smallest, largest)
    converged = space.grow(product, start, None, sure, limit, stop)
    if not space.finite:
        return _nothing(smallest + largest, basis, space.products)
    ends, products, radius = sought(space), space.products, space.radius
    values, errors = space.values[ends], space.errors
    if space.n == d or alone or space.n < smallest + largest:
        if space.n < d:
            errors = np.maximum(errors, _within(values, errors, min(smallest, space.n)))
        return Ritz(values, errors, space.combined(ends), products, converged, radius)

    sides = [SpectrumEnd(sign, k) for sign, k in ((-1, smallest), (1, largest)) if k]
    for side in sides:
        outermost = 0 if side.sign < 0 else -1
        side.ceiling = side.sign * float(values[outermost]) + float(errors[outermost])
    known = LockedPairs.of(space, [*range(space.n)]).trimmed(sides, goal_of, radius)
    while True:
        for side in sides:
            own = side.wanted(known)
            bound = min(side.ceiling, side.bound)
            gaps = bound - side.sign * known.values[own]
            side.open = bool((gaps > goal_of(known.values[own], radius)).any()) and len(known.values) < d
        if products >= limit or stop() or not any(side.open for side in sides):
            break
        looking = [side for side in sides if side.open]
        low, high = (max([side.count for side in looking if side.sign == sign], default=0) for sign in (-1, 1))
        beside = d - len(known.values)
        space = Krylov(basis[: min(rows, beside)], fresh, _least(len(looking), beside), low, high)
        settled = all_settled(looking, known, goal_of, radius)
        begun = torch.randn(d, dtype=torch.float64, generator=fresh).to(start.device)
        space.grow(product, begun, known, settled, limit - products, stop)
        products += space.products
        if not space.finite:
            return _nothing(smallest + largest, basis, products)
        radius = max(radius, space.radius)
        for side in looking:
            side.bound = side.bounded(space, known, goal_of, radius)
        # pairs that have nearly converged are locked too, so that they need not be found again
        new = sorted({i for side in looking for i in side.belonging(space, known, goal_of, radius)})
        if new:
            if space.n < beside:
                new = sorted({*new, *cheap_pairs(space.values, space.residuals, known, sides, goal_of, radius)})
            known = known.joined(LockedPairs.of(space, new)).trimmed(sides, goal_of, radius)
    order = [*range(smallest), *range(len(known.values) - largest, len(known.values))]
    values, errors = known.values[order], known.lengths()[order]
    for side in sides:
        part = slice(None, smallest) if side.sign < 0 else slice(smallest, None)
        gaps = min(side.ceiling, side.bound) - side.sign * values[part]
        errors[part] = np.maximum(errors[part], gaps)
    converged = bool((errors <= goal_of(values, radius)).all())
    return Ritz(values, errors, known.vectors[order], products, converged, radius)


def _nothing(count: int, basis: Tensor, products: int) -> Ritz:
    """Return the result for an operator with products that are not finite."""
    return Ritz(np.full(count, math.nan), np.full(count, math.inf), basis[:0], products, False)


def _within(values: Array, errors: Array, smallest: int) -> Array:
    """Return how far outwards the eigenvalue of each rank may lie if multiplicity is unknown: up to the outermost."""
    low = values[:smallest] - (values[0] - errors[0])
    high = (values[-1] + errors[-1]) - values[smallest:]
    return np.concatenate([low, high])


def _least(claims: int, d: int, chance: float = 1.0) -> float:
    """Return the log of a length that a random start's component along any of `claims` vectors exceeds.

    It is smaller for one of them with a probability of MISSED at most.
    """
    return math.log(MISSED / claims * chance * math.sqrt(math.pi / 2 / d))


def _beyond(space: Krylov, ends: list[int], smallest: int) -> Array:
    """Return how far outwards of each value an eigenvalue may lie, if the start has a component along its eigenvector.

    The next vector of the basis is p(H) start, where p(t) = exp(growth) times the product of t - r over the roots r:
    the Ritz values, and those dropped in restarts. Its length is 1, so |p(t)| |<u, start>| <= 1 for an eigenvector u
    with eigenvalue t. Hence there is no eigenvalue where log |p(t)| > -least. From an end outwards |p| grows, up to its
    maximum between two roots.

    Returns
    -------
    ndarray of shape (m,)
        A distance for each value, in the order of `ends`.
    """
    values, roots = space.values, space.roots
    spread = max(float(np.ptp(roots)), float(np.abs(roots).max()), 1e-300)
    found = np.empty(len(ends))
    for place, i in enumerate(ends):
        low = place < smallest
        outwards = (values[i] - roots) if low else (roots - values[i])
        nearer = outwards[outwards > 0]
        reach = float(nearer.min()) if len(nearer) else FARTHEST * spread
        steps = reach * np.geomspace(1e-12, 1.0 if not len(nearer) else 0.5, PLACES)
        free = space.excluded(values[i] + (-steps if low else steps))
        # if nothing is excluded up to the next value, that one may lie there, or one beyond it
        found[place] = steps[int(free.argmax())] if free.any() else math.inf
    for place in [*range(1, smallest), *range(len(ends) - 2, smallest - 1, -1)]:
        outer = place - 1 if place < smallest else place + 1
        if math.isinf(found[place]):
            found[place] = abs(values[ends[place]] - values[ends[outer]]) + found[outer]
    return found
