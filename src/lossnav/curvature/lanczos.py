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

Array = NDArray[np.float64]

_MEMORY = 2**30  # bytes for the basis, but no fewer vectors than
_LEAST_BASIS = 16
_SMALL = 1e-3  # of the spectral radius: eigenvalues below it are sought to within this part of the tolerance
_INVARIANT = 1e-12  # of the spectral radius: a residual below it is rounding, and the space holds its own images
_PLACES, _FARTHEST = 400, 1e3  # an end is sought beyond a value in steps of 9 %, so many spreads of the values far
_SPARE = 0.25  # of a goal: residuals of pairs that are joined to others of the same eigenvalue add up
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
        1998, theorem 4.5.1). And, with a probability of 95 % over the random starts, how far beyond the value the one
        of the same place may lie (`_beyond`, `_Side.bounded`), equal ones counted as often as they occur.
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

    In the Krylov spaces of one vector an eigenvalue that occurs more than once is there once. So where several values
    of an end are sought, what was found is locked and the iteration begins anew beside it, with another random vector,
    until nothing is left there that belongs among them (design/0015).

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
        Of the vectors to go on with where the space is invariant, and to look with for what is left.
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
    fresh = torch.Generator().manual_seed(seed)
    alone = max(smallest, largest) == 1

    def goal_of(values: Array, radius: float) -> Array:
        return np.asarray(tolerance * np.maximum(np.abs(values), _SMALL * radius))

    def sought(space: _Krylov) -> list[int]:
        return [*range(min(smallest, space.n)), *range(max(0, space.n - largest), space.n)]

    def sure(space: _Krylov, last: bool) -> bool:
        ends = sought(space)
        errors, goals = space.residuals[ends], goal_of(space.values[ends], space.radius)
        good = space.n >= wanted and bool((errors <= (goals if alone else _SPARE * goals)).all())
        if space.n < d and (good or last) and not space.invariant:
            errors = np.maximum(errors, _beyond(space, ends, smallest))
            good = good and bool((errors <= goals).all())
        space.errors = errors
        return space.n == d or good

    space = _Krylov(basis, fresh, _least(wanted, d, chance), smallest, largest)
    converged = space.grow(product, start, None, sure, limit, stop)
    if not space.finite:
        return _nothing(smallest + largest, basis, space.products)
    ends, products, radius = sought(space), space.products, space.radius
    values, errors = space.values[ends], space.errors
    if space.n == d or alone or space.n < smallest + largest:
        if space.n < d:
            errors = np.maximum(errors, _within(values, errors, min(smallest, space.n)))
        return Ritz(values, errors, space.combined(ends), products, converged, radius)

    sides = [_Side(sign, k) for sign, k in ((-1, smallest), (1, largest)) if k]
    for side in sides:
        outermost = 0 if side.sign < 0 else -1
        side.ceiling = side.sign * float(values[outermost]) + float(errors[outermost])
    known = _LockedPairs.of(space, [*range(space.n)]).trimmed(sides, goal_of, radius)
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
        space = _Krylov(basis[: min(rows, beside)], fresh, _least(len(looking), beside), low, high)
        settled = _all_settled(looking, known, goal_of, radius)
        begun = torch.randn(d, dtype=torch.float64, generator=fresh).to(start.device)
        space.grow(product, begun, known, settled, limit - products, stop)
        products += space.products
        if not space.finite:
            return _nothing(smallest + largest, basis, products)
        radius = max(radius, space.radius)
        for side in looking:
            side.bound = side.bounded(space, known, goal_of, radius)
        # with what belongs among the values comes what is nearly sure: it need not be found again
        new = sorted({i for side in looking for i in side.belonging(space, known, goal_of, radius)})
        if new:
            if space.n < beside:
                new = sorted({*new, *_cheap(space.values, space.residuals, known, sides, goal_of, radius)})
            known = known.joined(_LockedPairs.of(space, new)).trimmed(sides, goal_of, radius)
    order = [*range(smallest), *range(len(known.values) - largest, len(known.values))]
    values, errors = known.values[order], known.lengths()[order]
    for side in sides:
        part = slice(None, smallest) if side.sign < 0 else slice(smallest, None)
        gaps = min(side.ceiling, side.bound) - side.sign * values[part]
        errors[part] = np.maximum(errors[part], gaps)
    converged = bool((errors <= goal_of(values, radius)).all())
    return Ritz(values, errors, known.vectors[order], products, converged, radius)


def _nothing(count: int, basis: Tensor, products: int) -> Ritz:
    """Of an operator that is not finite."""
    return Ritz(np.full(count, math.nan), np.full(count, math.inf), basis[:0], products, False)


def _within(values: Array, errors: Array, smallest: int) -> Array:
    """How far outwards a value of its place may lie where it was not looked for equal ones: up to its end."""
    low = values[:smallest] - (values[0] - errors[0])
    high = (values[-1] + errors[-1]) - values[smallest:]
    return np.concatenate([low, high])


def _least(claims: int, d: int, chance: float = 1.0) -> float:
    """Log of a length: below it a random start's part along any one of so many vectors lies with probability MISSED."""
    return math.log(MISSED / claims * chance * math.sqrt(math.pi / 2 / d))


class _Krylov:
    """The Krylov space of a vector and a symmetric operator, with its Ritz values, increasing.

    Parameters
    ----------
    basis : Tensor of shape (rows, d)
        Memory for the basis.
    fresh : Generator
        Of the vector to go on with where the space is invariant.
    least : float
        Log of the length that the start's part along an eigenvector has at least.
    smallest, largest : int
        How a restart divides what it keeps between the ends.
    """

    def __init__(self, basis: Tensor, fresh: torch.Generator, least: float, smallest: int, largest: int) -> None:
        self.basis, self.fresh, self.least, self.ends = basis, fresh, least, (smallest, largest)
        self.values, self.vectors = np.zeros(0), np.zeros((0, 0))
        self.n = self.products = 0
        self.image, self.residual, self.radius = basis[:0].sum(0), math.inf, 0.0
        self.finite, self.invariant = True, False
        self.errors = np.zeros(0)
        # of the polynomial of all steps: roots that restarts left behind, leading term
        self.dropped, self.growth = np.zeros(0), 0.0

    @property
    def residuals(self) -> Array:
        """||H x - value x|| of each Ritz pair."""
        return np.asarray(self.residual * np.abs(self.vectors[-1]))

    @property
    def roots(self) -> Array:
        """Of the polynomial of all steps."""
        return np.concatenate([self.values, self.dropped])

    def combined(self, which: list[int]) -> Tensor:
        """Ritz vectors."""
        return _combined(self.vectors[:, which], self.basis[: self.n])

    def excluded(self, places: Array) -> NDArray[np.bool_]:
        """Where there is no eigenvalue; see `_beyond`."""
        with np.errstate(divide="ignore"):
            return np.asarray(self.growth + np.log(np.abs(places[:, None] - self.roots)).sum(1) > -self.least)

    def grow(
        self,
        product: Callable[[Tensor], Tensor],
        start: Tensor,
        beside: _LockedPairs | None,
        enough: Callable[[_Krylov, bool], bool],
        limit: int,
        stop: Callable[[], bool],
    ) -> bool:
        """Step until it is enough, or all there is beside what is known; whether one of them came before the limit."""
        rows, d = self.basis.shape
        locked = None if beside is None else beside.vectors
        whole = d if locked is None else d - len(locked)
        projected = np.zeros((rows, rows))  # basis H basis^T
        vector = start if locked is None else _orthogonal(start, locked)[0]
        while True:
            self.basis[self.n] = vector / torch.linalg.vector_norm(vector)
            image = product(self.basis[self.n])
            self.n, self.products = self.n + 1, self.products + 1
            n = self.n
            self.finite = bool(torch.isfinite(image).all())
            if not self.finite:
                return False
            image, column = _orthogonal(image, self.basis[:n], locked)
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
                self.basis[: len(kept)] = _combined(self.vectors[:, kept], self.basis)
                self.dropped = np.concatenate([self.dropped, np.delete(self.values, kept)])
                projected[:] = 0.0
                self.n = n = len(kept)
                projected[range(n), range(n)] = self.values[kept]
            if self.invariant:
                image = torch.randn(d, dtype=torch.float64, generator=self.fresh).to(start.device)
                image, _ = _orthogonal(image, self.basis[:n], locked)
            vector = image


@dataclass
class _LockedPairs:
    """Ritz pairs that are locked: H vectors = values * vectors + parts @ outside."""

    values: Array  # (m,), increasing
    vectors: Tensor  # (m, d), orthonormal
    parts: Array  # (m, spaces)
    outside: Tensor  # (spaces, d), orthogonal to the vectors

    @classmethod
    def of(cls, space: _Krylov, which: list[int]) -> _LockedPairs:
        """Of some of the pairs of a space."""
        parts = space.vectors[-1, which][:, None].copy()
        return cls(space.values[which], space.combined(which), parts, space.image[None].clone())

    def lengths(self) -> Array:
        """||H x - value x|| of each."""
        gram = (self.outside @ self.outside.T).cpu().numpy()
        return np.asarray(np.sqrt(np.maximum(((self.parts @ gram) * self.parts).sum(1), 0.0)))

    def joined(self, other: _LockedPairs) -> _LockedPairs:
        """Rayleigh-Ritz in the space of both; the other's vectors are orthogonal to these."""
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
        return _LockedPairs(values, _combined(turned, vectors), turned.T @ parts, outside)

    def trimmed(self, sides: list[_Side], goal_of: Goals, radius: float) -> _LockedPairs:
        """What is wanted of each side, and what else costs their errors little.

        The more is locked, the sooner it is clear that nothing is left.
        """
        wanted = {i for side in sides for i in side.wanted(self)}
        which = sorted(wanted | set(_cheap(self.values, self.lengths(), self, sides, goal_of, radius, wanted)))
        return _LockedPairs(self.values[which], self.vectors[which], self.parts[which], self.outside)


Goals = Callable[[Array, float], Array]


@dataclass
class _Side:
    """An end of the spectrum, the lower one with its sign turned, and what is known of it.

    Attributes
    ----------
    sign, count : int
    ceiling : float
        No eigenvalue is larger.
    bound : float
        None beside those that are locked is larger.
    open : bool
        Whether one that was not found may belong among them.
    """

    sign: int
    count: int
    ceiling: float = math.inf
    bound: float = math.inf
    open: bool = True

    def wanted(self, known: _LockedPairs) -> list[int]:
        """Places of the values that are sought, the outermost first."""
        order = range(len(known.values))
        return list(order)[: self.count] if self.sign < 0 else list(order)[::-1][: self.count]

    def goals(self, known: _LockedPairs, goal_of: Goals, radius: float) -> tuple[Array, Array]:
        """The values that are sought, the largest first, and how sure each is to be."""
        values = known.values[self.wanted(known)]
        return self.sign * values, goal_of(values, radius)

    def belonging(self, space: _Krylov, known: _LockedPairs, goal_of: Goals, radius: float) -> list[int]:
        """Ritz values that belong among those that are sought, by more than half a goal.

        The j-th displaces the j-th from the last.
        """
        values, goals = self.goals(known, goal_of, radius)
        order = np.argsort(-self.sign * space.values, kind="stable")[: self.count]
        displaced = (values + goals / 2)[::-1][: len(order)]
        more = np.logical_and.accumulate(self.sign * space.values[order] > displaced)
        return [int(i) for i in order[more]]

    def settled(self, space: _Krylov, known: _LockedPairs, goal_of: Goals, radius: float) -> bool:
        """Whether those that belong here are found, or there are none."""
        new = self.belonging(space, known, goal_of, radius)
        if new:
            return bool((space.residuals[new] <= _SPARE * goal_of(space.values[new], radius)).all())
        values, goals = self.goals(known, goal_of, radius)
        place = values[-1] + goals[-1] / 2  # the other half is for what is locked and not quite sure
        return bool(space.excluded(np.array([self.sign * place]))[0])

    def bounded(self, space: _Krylov, known: _LockedPairs, goal_of: Goals, radius: float) -> float:
        """What no eigenvalue beside those that are locked exceeds, as far as a space shows it."""
        values, goals = self.goals(known, goal_of, radius)
        loss = _losses(known.values, known.lengths(), known, self, goal_of, radius)
        loss[self.wanted(known)] = 0.0
        outermost = float((self.sign * space.values).max())
        if space.n == len(space.image) - len(known.values):
            return outermost + float(loss.sum())
        spread = max(float(np.ptp(space.roots)), float(np.abs(space.roots).max()), 1e-300)
        places = outermost + spread * np.concatenate([[0.0], np.geomspace(1e-12, _FARTHEST, _PLACES)])
        places = np.sort(np.append(places, values[-1] + goals[-1] / 2))
        free = space.excluded(self.sign * places) & (places > outermost)
        return float(places[free.argmax()]) + float(loss.sum()) if free.any() else math.inf


def _all_settled(
    sides: list[_Side], known: _LockedPairs, goal_of: Goals, radius: float
) -> Callable[[_Krylov, bool], bool]:
    """What `_Krylov.grow` asks beside what is locked."""
    return lambda space, last: all(side.settled(space, known, goal_of, radius) for side in sides)


def _losses(values: Array, lengths: Array, known: _LockedPairs, side: _Side, goal_of: Goals, radius: float) -> Array:
    """By how much each pair that is locked, and none of those sought, may raise what is left beside it.

    With H = [[D, C^T], [C, B]] there is no eigenvalue above t > D where B + C (t - D)^-1 C^T has none (Schur
    complement), which exceeds B's largest by the sum of |C_i|^2 / (t - D_i) at most. |C_i| is the residual.
    """
    last, goals = (part[-1] for part in side.goals(known, goal_of, radius))
    return np.asarray(lengths**2 / np.maximum(last + goals - side.sign * values, goals))


def _cheap(
    values: Array,
    lengths: Array,
    known: _LockedPairs,
    sides: list[_Side],
    goal_of: Goals,
    radius: float,
    wanted: set[int] | frozenset[int] = frozenset(),
) -> list[int]:
    """Pairs that raise what is left by half of each side's goal at most, all together; as many as are wanted."""
    costs = np.zeros(len(values))
    for side in sides:
        goal = side.goals(known, goal_of, radius)[1][-1]
        costs = np.maximum(costs, _losses(values, lengths, known, side, goal_of, radius) / max(goal, 1e-300))
    costs[list(wanted)] = math.inf
    order = np.argsort(costs, kind="stable")[: max(_LEAST_BASIS, 2 * sum(side.count for side in sides))]
    return [int(i) for i in order[np.cumsum(costs[order]) <= 0.5]]


def _beyond(space: _Krylov, ends: list[int], smallest: int) -> Array:
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
    values, roots = space.values, space.roots
    spread = max(float(np.ptp(roots)), float(np.abs(roots).max()), 1e-300)
    found = np.empty(len(ends))
    for place, i in enumerate(ends):
        low = place < smallest
        outwards = (values[i] - roots) if low else (roots - values[i])
        nearer = outwards[outwards > 0]
        reach = float(nearer.min()) if len(nearer) else _FARTHEST * spread
        steps = reach * np.geomspace(1e-12, 1.0 if not len(nearer) else 0.5, _PLACES)
        free = space.excluded(values[i] + (-steps if low else steps))
        # nothing excluded up to the next value: it may be the next one that lies there, or one beyond
        found[place] = steps[int(free.argmax())] if free.any() else math.inf
    for place in [*range(1, smallest), *range(len(ends) - 2, smallest - 1, -1)]:
        outer = place - 1 if place < smallest else place + 1
        if math.isinf(found[place]):
            found[place] = abs(values[ends[place]] - values[ends[outer]]) + found[outer]
    return found


def _orthogonal(vector: Tensor, basis: Tensor, beside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What of a vector is orthogonal to the rows of a basis (and to others), and its coefficients along the basis.

    Projected out twice: after once, orthogonality is lost by and by. In turns: of a short rest hardly anything but
    rounding of the one's projection would be left along the other.
    """
    found = vector.new_zeros(len(basis))
    for _ in range(2):
        if beside is not None:
            vector = vector - beside.T @ (beside @ vector)
        along = basis @ vector
        vector, found = vector - basis.T @ along, found + along
    return vector, found


def _combined(coefficients: NDArray[np.float64], basis: Tensor) -> Tensor:
    """Combinations of the rows of a basis, one a column of coefficients."""
    return torch.from_numpy(coefficients.T.copy()).to(basis.device) @ basis


def _kept(n: int, smallest: int, largest: int) -> list[int]:
    """Which of n Ritz vectors a restart keeps: half of them, of the ends that are wanted."""
    low = round(n / 2 * smallest / (smallest + largest))
    return [*range(low), *range(n - (n // 2 - low), n)]
