"""The estimated error of every cell, and the noise of the loss, from prediction errors. NumPy and SciPy only.

Before a point is measured, its loss is predicted from the points before it. The *surprise* at a point is the difference
between prediction and measurement: relative to the loss if all losses are positive, else relative to their range.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossnav.samplers.base import PointArray
from lossnav.samplers.cells import Cell, Key

Array = NDArray[np.float64]

_SHIFT = 0.2  # largest offset of a test from the middle of a cell, in half sides
_SPREADS = 2.0  # an error of this many tolerances makes the neighbouring cells suspect
FAST, SLOW = 0.12, 0.3  # factors by which surprises fall when cells are halved: where the loss is smooth; at kinks
_BESIDE = 0.6  # part of the neighbours' largest surprise that counts where the loss is not smooth
# estimated error / largest surprise: where the loss is smooth, and elsewhere. Larger on lines (the second pair), where
# few tests lie near a narrow feature
_SURE, _UNSURE = (0.5, 1.8), (1.0, 2.0)
_INHERITED = 1.0  # part of the larger cells' surprise that stays, on lines: one prediction may be right by chance
_CUSP, _SLOWEST, _TAIL = 0.55, 0.9, 2.0  # fall per halving above which it is a cusp; largest fall used; safety factor
_FADES = 2.0  # factor by which noise is assumed to fall over REACH
_NAMED = 5  # noisy places that the outcome lists
REACH = 1 / 8  # of the range: the distance for which a place evaluated twice is representative
# a relative difference below ROUNDING is not noise, unless it exceeds _SEEN of the range of losses and _LAST_DIGITS of
# the loss, which is more than rounding in float64
ROUNDING = 1e-5
_SEEN, _LAST_DIGITS = 1e-3, 1e-11
_FALLS = 0.5  # if surprises fall by less than this over most of the range, they are noise, or finer than the cells
_ENOUGH = 16  # cells that are needed to say so


class CellEstimates:
    """Measured points, their predictions, the current cells, and what follows about errors and noise.

    Parameters
    ----------
    box : array of shape (k, 2)
    tolerance, max_points, start, max_depth, seed
        As in `Adaptive`.
    """

    def __init__(
        self, box: PointArray, tolerance: float, max_points: int, start: int, max_depth: int, seed: int
    ) -> None:
        self.box, self.tolerance, self.max_points, self.seed = box, tolerance, max_points, seed
        self.k = len(box)
        self.unit = 2 ** (max_depth + 1)  # the side of an undivided cell, in half sides of the smallest
        self.side = start * self.unit  # of the whole range
        self.known: dict[Key, float] = {}  # measured losses
        self.predicted: dict[Key, float] = {}  # predicted losses, of all points but the first
        self.pairs: dict[Key, float] = {}  # second measurements, at the adjacent floating-point number
        self.looked: dict[Key, int] = {}  # points that tested for an edge: half the side of the cell they test
        self.cells: dict[Cell, None] = {}  # those that are not divided, in order
        self._spots: dict[Key, Array] = {}

    def _places(self, keys: list[Key]) -> PointArray:
        return self._at(np.array([self._spot(key) for key in keys], dtype=np.float64).reshape(-1, self.k))

    def _at(self, spots: Array) -> PointArray:
        """Return the coordinates of places that are given in units of the keys."""
        low, high = self.box.T
        places: PointArray = (low * (self.side - spots) + high * spots) / self.side
        return places

    def _spot(self, key: Key) -> Array:
        """Return the place of a point, in units of the keys: between its neighbours, with a random offset.

        Points of the coarse grid have no offset, and points on the boundary stay there.
        """
        if key not in self._spots:
            half = math.gcd(self.unit, *key)
            spot = np.array(key, np.float64)
            if half < self.unit:
                ways = [(-half, half) if c // half % 2 else (0,) for c in key]
                ends = [tuple(c + step for c, step in zip(key, way, strict=True)) for way in itertools.product(*ways)]
                shift = np.random.default_rng([self.seed, self.unit, *key]).uniform(-_SHIFT, _SHIFT, self.k)
                inner = [0 < c < self.side for c in key]
                spot = np.mean([self._spot(end) for end in ends], axis=0) + half * shift * inner
            self._spots[key] = spot
        return self._spots[key]

    @property
    def noise(self) -> float:
        """Standard deviation of the loss at a place, over the places evaluated twice where it differs.

        inf if a loss was finite once and once not; nan if no place was evaluated twice.
        """
        off, differs = self._differences()
        if not len(off):
            return math.nan
        return float(np.sqrt(np.mean(off[differs] ** 2) / 2)) if differs.any() else 0.0

    def _differences(self) -> tuple[Array, NDArray[np.bool_]]:
        """Return for each place evaluated twice the relative difference, and whether it is more than rounding."""
        twice = np.array([(self.known[key], value) for key, value in self.pairs.items()]).reshape(-1, 2)
        relative, spread = self._measure_of_losses()
        finite = np.isfinite(twice)
        with np.errstate(invalid="ignore", over="ignore"):
            absolute = np.abs(np.diff(twice, axis=1)[:, 0])
            highest = np.abs(twice).max(1)
            off = absolute / (np.abs(twice).mean(1) if relative else spread)
            differs = (off > ROUNDING) | ((absolute > _SEEN * spread) & (absolute > _LAST_DIGITS * highest))
        off[~finite.all(1)], differs[~finite.all(1)] = 0.0, False  # both not finite
        lost = finite.any(1) & ~finite.all(1)
        off[lost], differs[lost] = math.inf, True
        return off, differs

    def _noise_near(self) -> Array:
        """Return the noise of each cell: of the noisy places near it, smaller with the distance from them.

        It is not zero away from them: a spline carries noise beyond a noisy region, and the region's boundary lies
        somewhere between the places.
        """
        off, differs = self._differences()
        noisy = differs & np.isfinite(off)
        if not noisy.any():
            return np.zeros(len(self.cells))
        sizes = off[noisy] / math.sqrt(2)
        sizes = np.maximum(sizes, np.sqrt(np.mean(sizes**2)))
        spots = np.array(list(self.pairs), np.float64).reshape(-1, self.k)[noisy]
        corners = np.array([cell.corner for cell in self.cells], np.float64)[:, None]
        sides = np.array([cell.size for cell in self.cells], np.float64)[:, None, None]
        gaps = np.maximum(np.maximum(corners - spots, spots - corners - sides), 0).max(-1)  # (cells, places)
        return np.asarray((sizes * _FADES ** (-gaps / (REACH * self.side))).max(1))

    def _measure_of_losses(self) -> tuple[bool, float]:
        """Return whether differences are relative to the loss, and the range of the losses, which is used otherwise."""
        losses = np.array(list(self.known.values()))
        losses = losses[np.isfinite(losses)]
        return bool((losses > 0).all()), (float(np.ptp(losses)) if len(losses) else 0.0) or 1.0

    def _surprises(self) -> tuple[Array, Array, Array]:
        """Return for all predicted points: keys (m, k), half the side of the cell that each tests, and surprises.

        A loss that is not finite is an infinite surprise if it tested for an edge; elsewhere `_errors` treats it.
        """
        relative, spread = self._measure_of_losses()
        keys = [key for key in self.predicted if math.isfinite(self.known[key]) or key in self.looked]
        predicted = np.array([self.predicted[key] for key in keys])
        measured = np.array([self.known[key] for key in keys])
        with np.errstate(over="ignore", invalid="ignore"):
            off = np.abs(predicted - measured) / (measured if relative else spread)
        off[np.isnan(off)] = math.inf  # overflow, for losses near the largest float
        sizes = np.array([math.gcd(2 * self.unit, *key) for key in keys], dtype=int)
        return np.array(keys, np.float64).reshape(-1, self.k), sizes, off

    def _errors(self) -> tuple[Array, Array, Array]:
        """Return for each cell its estimated error, its own surprise, and the factor by which surprises fell.

        The error is inf if the cell is untested, or a loss beside it is not finite.
        """
        cells = list(self.cells)
        keys, sizes, off = self._surprises()
        halves = np.array([self.looked.get(tuple(map(int, key)), 0) for key in keys], dtype=int)
        tests = halves == 0
        corners = np.array([cell.corner for cell in cells], np.float64).reshape(-1, self.k)
        sides = np.array([cell.size for cell in cells])
        own, around, earlier, seen, edges, tail = np.full((6, len(cells)), math.nan)
        rates = np.ones(len(cells))
        for side in np.unique(sides):
            which = np.flatnonzero(sides == side)
            same, before = tests & (sizes == side // 2), tests & (sizes == side)
            # the test of a smallest cell may have tested a larger cell for an edge
            finer = (sizes <= side // 2) & (tests | (side == 2))

            def worst(chosen: NDArray[np.bool_], beyond: int, low: Array = corners[which], side: int = side) -> Array:
                """Return the largest surprise in each cell and `beyond` sides around it; nan if there is none."""
                if not chosen.any():
                    return np.full(len(low), math.nan)
                x = keys[chosen]
                near = ((x >= low[:, None] - beyond * side) & (x <= low[:, None] + (beyond + 1) * side)).all(-1)
                return np.asarray(np.where(near, off[chosen], -1.0).max(1))

            own[which], around[which], earlier[which] = worst(finer, 0), worst(same, 1), worst(before, 2)
            seen[which] = worst(~tests & (halves <= side // 2), 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                falls = around[which] / earlier[which]
            rate = np.where(earlier[which] >= 0, np.where(around[which] > 0, falls, 0.0), 1.0)
            rates[which] = np.where(np.isnan(rate), 1.0, rate)
            edges[which] = worst(~tests, 1)
            if self.k == 1:
                history = [worst(tests & (sizes == size), 2 * size // side) for size in self._coarser(int(side))]
                tail[which] = _tail(around[which], earlier[which], history)
        ground = np.where(edges > self.tolerance, np.fmax(rates, SLOW), rates)
        if self.k > 1:
            ground = _roughest_beside(ground, corners, sides)
        slow = np.clip(np.log(np.maximum(ground, 1e-9) / FAST) / math.log(SLOW / FAST), 0, 1)
        fast, plain = _UNSURE if self.k == 1 else _SURE
        smooth, rough = fast * own, np.fmax(plain * np.fmax(own, _BESIDE * around), tail)
        with np.errstate(invalid="ignore"):
            errors = np.where(slow > 0, np.where(slow < 1, smooth + slow * (rough - smooth), rough), smooth)
        errors, mine = np.fmax(errors, seen), np.fmax(own, seen)
        for i, cell in enumerate(cells):
            finite = [math.isfinite(self.known[key]) for key in cell.nodes() if key in self.known]
            if not all(finite) or cell.middle not in self.known:
                # nan: a cell without any finite loss needs no refinement
                errors[i] = mine[i] = math.inf if any(finite) else math.nan
        return errors, mine, rates

    def _coarser(self, side: int) -> list[int]:
        """Return half the sides of all larger cells, in increasing order; the last is that of the coarse grid."""
        return [side << i for i in range((self.unit // side).bit_length())]

    def _risks(self) -> tuple[dict[Cell, float], dict[Cell, float]]:
        """Return for each cell its error, or a part of a touching cell's if that is larger; and its own surprise."""
        errors, own, _ = self._errors()
        low = np.array([cell.corner for cell in self.cells])
        high = low + np.array([[cell.size] for cell in self.cells])
        risks = errors.copy()
        for i in np.flatnonzero(errors > self.tolerance * _SPREADS):
            touching = ((low <= high[i]) & (low[i] <= high)).all(1)
            risks[touching] = np.maximum(risks[touching], errors[i] / _SPREADS)
        return dict(zip(self.cells, risks.tolist(), strict=True)), dict(zip(self.cells, own.tolist(), strict=True))

    def _ripple(self, errors: Array, rates: Array) -> float:
        """Return the typical surprise if surprises do not fall: reproducible noise, or a shape finer than the cells."""
        smooth = np.isfinite(errors)
        if smooth.sum() < _ENOUGH or np.median(rates[smooth]) < _FALLS:
            return 0.0
        keys, _, off = self._surprises()
        middles = {cell.middle for cell in self.cells}
        left = [float(one) for key, one in zip(keys.astype(int).tolist(), off, strict=True) if tuple(key) in middles]
        found = 1.4826 * float(np.median(left)) if left else 0.0
        return found if found > ROUNDING else 0.0

    def _outcome(self) -> dict[str, Any]:
        errors, _, rates = self._errors()
        noise, ripple = self.noise, self._ripple(errors, rates)
        errors = errors[~np.isnan(errors)]
        resolved = errors[errors <= self.tolerance]
        holes = sum(not all(math.isfinite(self.known.get(key, 0.0)) for key in cell.nodes()) for cell in self.cells)
        off, differs = self._differences()
        seen = off[np.isfinite(off)]
        return {
            "points": self._spent,
            "cells": len(self.cells),
            "unresolved": int((errors > self.tolerance).sum()),
            "untested": int(np.isinf(errors).sum()),
            "non_finite": holes,
            "estimated_error": float(resolved.max()) if len(resolved) else math.nan,
            "estimated_error_p99": float(np.quantile(errors, 0.99, method="higher")) if len(errors) else math.nan,
            "noise": noise if noise > 0 or not ripple > 0 else ripple,
            "noise_repeats": bool(not noise > 0 and ripple > 0),
            "noise_largest": float(seen.max()) if len(seen) else math.nan,
            "noise_of_range": self._part_of_range(),
            "noise_places": int(differs.sum()),
            "noise_non_finite": int(np.isinf(off).sum()),
            "noise_at": self._noisiest(off, differs),
            "places_twice": len(off),
        }

    def _noisiest(self, off: Array, differs: NDArray[np.bool_]) -> list[list[float]]:
        """Return the coordinates of noisy places, largest difference first."""
        keys = list(self.pairs)
        found = [keys[i] for i in np.argsort(-off, kind="stable") if differs[i]][:_NAMED]
        return [list(map(float, place)) for place in self._places(found)]

    def _part_of_range(self) -> float:
        """Return the largest difference at one place, relative to the range of the losses."""
        _, spread = self._measure_of_losses()
        apart = [abs(self.known[key] - value) for key, value in self.pairs.items()]
        return max((one for one in apart if math.isfinite(one)), default=math.nan) / spread

    def _apart(self, one: Key, other: Key) -> float:
        return float(max(abs(a - b) for a, b in zip(one, other, strict=True)) / self.side)

    @property
    def _spent(self) -> int:
        return len(self.known) + len(self.pairs)


def _roughest_beside(rates: Array, corners: Array, sides: Array) -> Array:
    """Return the rate of each cell, or a higher one of a smaller cell it touches: an edge may continue into it."""
    ends, found, rough = corners + sides[:, None], rates.copy(), rates > FAST
    low, high, small, its = corners[rough], ends[rough], sides[rough], rates[rough]
    for i in np.flatnonzero(rates < SLOW):
        beside = (small < sides[i]) & ((low <= ends[i]) & (corners[i] <= high)).all(1)
        found[i] = max(found[i], its[beside].max(initial=0.0))
    return found


def _tail(around: Array, earlier: Array, history: list[Array]) -> Array:
    """Estimate the remaining error where surprises fall slowly, from the surprises at all sizes of cells.

    If the largest surprise falls by r per halving, the error after the next one is the rest of a geometric series,
    S r / (1 - r), where S is the largest surprise now. A cusp |x|^p has r = 2^-p at all sizes. A prediction at one size
    may be right by chance, so a part of the larger size's surprise is kept too.
    """
    kept = np.fmax(around, 0.0)
    tail = _INHERITED * np.fmax(earlier, 0.0)
    for steps, before in enumerate(history, 1):
        if steps < 2:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.where((before > 0) & (kept > 0), (kept / before) ** (1 / steps), 0.0)
        rate = np.clip(np.nan_to_num(rate, nan=0.0), 0.0, _SLOWEST)
        tail = np.fmax(tail, np.where(rate > _CUSP, _TAIL * kept * rate / (1 - rate), 0.0))
    return tail
