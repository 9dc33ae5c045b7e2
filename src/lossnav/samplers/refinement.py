"""Cells, the tests that are made of them, and what is believed of their errors. NumPy and SciPy only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossnav.interpolation import Interpolant
from lossnav.samplers.base import Losses, Points

Array = NDArray[np.float64]
Key = tuple[int, ...]  # a point: its coordinates in units of the smallest cell there can be, but for its shift

_SHIFT = 0.2  # of half a cell's side: how far a test may lie off the middle, either way
_SPREADS = 2.0  # an error this many times the tolerance makes the cells around it suspect
_FAST, _SLOW = 0.12, 0.3  # what surprises fall by when cells are halved: smooth ground, and kinks
_BESIDE = 0.6  # of the largest surprise among neighbours, off smooth ground: one test may be predicted by luck
_SURE, _UNSURE = (0.5, 1.8), (1.0, 2.0)  # estimated error / largest surprise on smooth ground and on other, and on
# lines, where few tests meet what is narrow: once a test is a point too, smooth ground is surer than it showed
_PAIRS, _MORE_PAIRS = 4, 12  # places evaluated twice; where the two differ, so many more
_APART = 2.0**-33  # of the range: one place for an interpolant, two for a store
_ROUNDING = 1e-5  # relative differences below this are no noise to speak of
_DROWNED = 8.0  # estimates below so many standard deviations of the noise fall no further
_FALLS = 0.5  # where surprises fall by less than this over most of the range, they are noise or finer than the cells
_ENOUGH = 16  # cells from which that is said


@dataclass(frozen=True)
class _Cell:
    """A cube of side `size` whose lowest corner is `corner`."""

    corner: Key
    size: int

    @property
    def middle(self) -> Key:
        return tuple(c + self.size // 2 for c in self.corner)

    def nodes(self) -> list[Key]:
        """Corners, and the middles of all there is between them: the corners of its 2^k parts."""
        half = self.size // 2
        steps = itertools.product((0, half, self.size), repeat=len(self.corner))
        return [tuple(c + s for c, s in zip(self.corner, step, strict=True)) for step in steps]

    def corners(self) -> list[Key]:
        steps = itertools.product((0, self.size), repeat=len(self.corner))
        return [tuple(c + s for c, s in zip(self.corner, step, strict=True)) for step in steps]

    def parts(self) -> list[_Cell]:
        half = self.size // 2
        steps = itertools.product((0, half), repeat=len(self.corner))
        return [_Cell(tuple(c + s for c, s in zip(self.corner, step, strict=True)), half) for step in steps]


class Refinement:
    """One run: what is known, what was predicted of it, and the cells as they are.

    Parameters
    ----------
    box : array of shape (k, 2)
    tolerance, max_points, start, max_depth, seed
        As in `Adaptive`.
    """

    def __init__(self, box: Points, tolerance: float, max_points: int, start: int, max_depth: int, seed: int) -> None:
        self.box, self.tolerance, self.max_points, self.seed = box, tolerance, max_points, seed
        self.k = len(box)
        self.unit = 2 ** (max_depth + 1)  # of a first cell's side: its middles and those of its last parts
        self.side = start * self.unit  # of the whole range
        self.known: dict[Key, float] = {}
        self.predicted: dict[Key, float] = {}  # the loss expected, of every point but the first
        self.pairs: dict[Key, float] = {}  # what was measured a second time beside a point
        self.cells: dict[_Cell, None] = {}  # those that are not divided, in order
        self._spots: dict[Key, Array] = {}

    def rounds(self) -> Generator[Points, Losses, dict[str, Any]]:
        """Ask for the coarse grid, then test cells and divide those that fail, until all hold or no points are left."""
        axis = range(0, self.side + 1, self.unit)
        coarse = list(itertools.product(axis, repeat=self.k))
        yield from self._measure(self._coarsest(coarse))
        pairs = self._some(coarse, _PAIRS + _MORE_PAIRS)
        again = pairs[: min(_PAIRS, self.max_points - len(coarse))]
        waiting = [_Cell(corner, self.unit) for corner in itertools.product(axis[:-1], repeat=self.k)]
        while waiting:
            self.cells |= dict.fromkeys(waiting)
            tested = self._affordable(waiting, self._tests, coarse, len(again))
            yield from self._measure(coarse, [place for cell in tested for place in self._tests(cell)], again=again)
            if again and self.noise > 0:
                yield from self._measure(again=pairs[_PAIRS : _PAIRS + self.max_points - self._spent])
            coarse, again = [], []
            if len(tested) < len(waiting):
                break
            risks, own = self._risks()
            floor = self.tolerance if math.isnan(self.noise) else max(self.tolerance, _DROWNED * self.noise)
            failed = [cell for cell, risk in risks.items() if risk > floor and cell.size > 2]
            failed.sort(key=lambda cell: (-own[cell], -risks[cell], cell.size, cell.corner))
            divided = self._affordable(failed, _Cell.nodes)
            yield from self._measure([node for cell in divided for node in cell.nodes()])
            for cell in divided:
                del self.cells[cell]
            waiting = [part for cell in divided for part in cell.parts()]
        return self._outcome()

    # ------------------------------------------------------------------ what is asked

    def _coarsest(self, coarse: list[Key]) -> list[Key]:
        """Every second point each way, from which the others are predicted; all, where there is no such half."""
        even = [key for key in coarse if all(c % (2 * self.unit) == 0 for c in key)]
        return even if self.side % (2 * self.unit) == 0 else coarse

    def _some(self, keys: list[Key], count: int) -> list[Key]:
        """So many of the points, by the seed."""
        order = np.random.default_rng([self.seed, len(keys)]).permutation(len(keys))
        return [keys[i] for i in order[:count]]

    def _tests(self, cell: _Cell) -> list[Key]:
        """Return the cell's middle, and the middles of its sides in the rim, beyond which no point helps a spline."""
        half, corners = cell.size // 2, cell.corners()
        ways = [(c + half, *((c,) if c == 0 else ()), *self._last(c + cell.size)) for c in cell.corner]
        return [place for place in itertools.product(*ways) if place not in corners]

    def _last(self, end: int) -> tuple[int, ...]:
        return (end,) if end == self.side else ()

    def _affordable(
        self, cells: list[_Cell], needs: Callable[[_Cell], list[Key]], also: list[Key] | None = None, more: int = 0
    ) -> list[_Cell]:
        """As many cells, from the first, as there are points left for, once `also` and so many more are asked for."""
        asked = {key for key in also or () if key not in self.known}
        for i, cell in enumerate(cells):
            new = {key for key in needs(cell) if key not in self.known} - asked
            if self._spent + more + len(asked) + len(new) > self.max_points:
                return cells[:i]
            asked |= new
        return cells

    @property
    def _spent(self) -> int:
        return len(self.known) + len(self.pairs)

    def _measure(self, *groups: list[Key], again: list[Key] | None = None) -> Generator[Points, Losses, None]:
        """Ask for what is not known, all groups at once, and keep what was expected of each from those before it."""
        new: dict[Key, int] = {}
        for number, keys in enumerate(groups):
            new |= {key: number for key in keys if key not in self.known and key not in new}
        twice = [key for key in again or () if self._is_apart(key)]
        if not new and not twice:
            return
        places = self._places([*new, *twice])
        places[len(new) :] += self._aside(twice)
        losses = dict(zip([*new, *((key, "again") for key in twice)], map(float, (yield places)), strict=True))
        for number in range(len(groups)):
            keys = [key for key, its in new.items() if its == number]
            if self.known and keys:
                interpolant = Interpolant(self._places(list(self.known)), list(self.known.values()))
                self.predicted |= dict(zip(keys, interpolant(self._places(keys)).tolist(), strict=True))
            self.known |= {key: losses[key] for key in keys}
        self.pairs |= {key: losses[key, "again"] for key in twice}

    def _places(self, keys: list[Key]) -> Points:
        low, high = self.box.T
        steps = np.array([self._spot(key) for key in keys], dtype=np.float64).reshape(-1, self.k)
        places: Points = (low * (self.side - steps) + high * steps) / self.side
        return places

    def _spot(self, key: Key) -> Array:
        """Where a point lies, in units: amid the points that it was put between, and off by a part of their distance.

        The coarse grid is even. A point of the rim stays there.
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

    def _aside(self, keys: list[Key]) -> Points:
        """How far from a point its place is evaluated again, inwards: too near for anything but noise to differ."""
        ways = np.where(np.array(keys).reshape(-1, self.k) < self.side / 2, _APART, -_APART)
        return np.asarray(ways * np.ptp(self.box, axis=1))

    def _is_apart(self, key: Key) -> bool:
        """Whether that is another number: in a range as narrow as rounding it is not."""
        place = self._places([key])
        return bool((place + self._aside([key]) != place).any())

    # ------------------------------------------------------------------ what is believed

    @property
    def noise(self) -> float:
        """Standard deviation of the loss at one place, from those evaluated twice; nan where that is not known."""
        twice = np.array([(self.known[key], value) for key, value in self.pairs.items()]).reshape(-1, 2)
        twice = twice[np.isfinite(twice).all(1)]
        if not len(twice):
            return math.nan
        relative, spread = self._measure_of_losses()
        size = np.abs(twice).mean(1) if relative else spread
        found = float(np.sqrt(np.mean((np.diff(twice, axis=1)[:, 0] / size) ** 2) / 2))
        return found if found > _ROUNDING else 0.0

    def _measure_of_losses(self) -> tuple[bool, float]:
        """Whether differences are relative to the loss, and else to what: the range."""
        losses = np.array(list(self.known.values()))
        losses = losses[np.isfinite(losses)]
        return bool((losses > 0).all()), (float(np.ptp(losses)) if len(losses) else 0.0) or 1.0

    def _surprises(self) -> tuple[Array, Array, Array]:
        """Of all points that were predicted: keys (m, k), half the side of the cells they test, and by how much off."""
        relative, spread = self._measure_of_losses()
        keys = [key for key in self.predicted if math.isfinite(self.known[key])]
        predicted = np.array([self.predicted[key] for key in keys])
        measured = np.array([self.known[key] for key in keys])
        with np.errstate(over="ignore", invalid="ignore"):
            off = np.abs(predicted - measured) / (measured if relative else spread)
        off[np.isnan(off)] = math.inf  # losses near the largest number there is
        sizes = np.array([math.gcd(2 * self.unit, *key) for key in keys], dtype=int)
        return np.array(keys, np.float64).reshape(-1, self.k), sizes, off

    def _errors(self) -> tuple[Array, Array, Array]:
        """Estimated error of each cell, inf beside a hole and untested; its own surprise; what surprises fell by."""
        cells = list(self.cells)
        keys, sizes, off = self._surprises()
        corners = np.array([cell.corner for cell in cells], np.float64).reshape(-1, self.k)
        sides = np.array([cell.size for cell in cells])
        errors, mine, rates = np.zeros(len(cells)), np.zeros(len(cells)), np.ones(len(cells))
        for side in np.unique(sides):
            which = np.flatnonzero(sides == side)
            finer, same, before = sizes <= side // 2, sizes == side // 2, sizes == side

            def worst(tests: NDArray[np.bool_], beyond: int, low: Array = corners[which], side: int = side) -> Array:
                """Return the largest surprise in each cell and so many sides beyond it; nan where there is none."""
                if not tests.any():
                    return np.full(len(low), math.nan)
                x = keys[tests]
                near = ((x >= low[:, None] - beyond * side) & (x <= low[:, None] + (beyond + 1) * side)).all(-1)
                return np.asarray(np.where(near, off[tests], -1.0).max(1))

            own, around, earlier = worst(finer, 0), worst(same, 1), worst(before, 2)
            with np.errstate(divide="ignore", invalid="ignore"):
                rate = np.where(earlier >= 0, np.where(around > 0, around / earlier, 0.0), 1.0)
            rates[which] = np.where(np.isnan(rate), 1.0, rate)
            slow = np.clip(np.log(np.maximum(rates[which], 1e-9) / _FAST) / math.log(_SLOW / _FAST), 0, 1)
            mine[which] = own
            fast, plain = _UNSURE if self.k == 1 else _SURE
            smooth, rough = fast * own, plain * np.fmax(own, _BESIDE * around)
            errors[which] = np.where(slow > 0, np.where(slow < 1, smooth + slow * (rough - smooth), rough), smooth)
        for i, cell in enumerate(cells):
            finite = [math.isfinite(self.known[key]) for key in cell.nodes() if key in self.known]
            if not all(finite) or cell.middle not in self.known:
                errors[i] = mine[i] = math.inf if any(finite) else math.nan  # where nothing is finite, nothing is wrong
        return errors, mine, rates

    def _risks(self) -> tuple[dict[_Cell, float], dict[_Cell, float]]:
        """The error of each cell, or a part of that of a cell it touches; and the cell's own surprise alone."""
        errors, own, _ = self._errors()
        low = np.array([cell.corner for cell in self.cells])
        high = low + np.array([[cell.size] for cell in self.cells])
        risks = errors.copy()
        for i in np.flatnonzero(errors > self.tolerance * _SPREADS):
            touching = ((low <= high[i]) & (low[i] <= high)).all(1)
            risks[touching] = np.maximum(risks[touching], errors[i] / _SPREADS)
        return dict(zip(self.cells, risks.tolist(), strict=True)), dict(zip(self.cells, own.tolist(), strict=True))

    def _ripple(self, errors: Array, rates: Array) -> float:
        """What surprises are left nearly everywhere and do not fall: noise that repeats itself, or shapes too fine."""
        smooth = np.isfinite(errors)
        if smooth.sum() < _ENOUGH or np.median(rates[smooth]) < _FALLS:
            return 0.0
        keys, _, off = self._surprises()
        middles = {cell.middle for cell in self.cells}
        left = [float(one) for key, one in zip(keys.astype(int).tolist(), off, strict=True) if tuple(key) in middles]
        found = 1.4826 * float(np.median(left)) if left else 0.0
        return found if found > _ROUNDING else 0.0

    def _outcome(self) -> dict[str, Any]:
        errors, _, rates = self._errors()
        noise, ripple = self.noise, self._ripple(errors, rates)
        errors = errors[~np.isnan(errors)]
        resolved = errors[errors <= self.tolerance]
        smooth = errors[np.isfinite(errors)]
        holes = sum(not all(math.isfinite(self.known.get(key, 0.0)) for key in cell.nodes()) for cell in self.cells)
        return {
            "points": self._spent,
            "cells": len(self.cells),
            "unresolved": int((errors > self.tolerance).sum()),
            "non_finite": holes,
            "estimated_error": float(resolved.max()) if len(resolved) else math.nan,
            "estimated_error_p99": float(np.quantile(smooth, 0.99)) if len(smooth) else math.nan,
            "noise": noise if noise > 0 or not ripple > 0 else ripple,
            "noise_repeats": bool(not noise > 0 and ripple > 0),
        }
