"""Refinement of cells: which points are asked for next. NumPy and SciPy only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.interpolation import Interpolant
from lossnav.samplers.base import Losses, PointArray
from lossnav.samplers.cells import Cell, Key
from lossnav.samplers.edges import fit_edges
from lossnav.samplers.estimates import REACH, ROUNDING, SLOW, CellEstimates

Array = NDArray[np.float64]

_PAIRS, _FEWEST_PAIRS, _MORE_PAIRS = 8, 4, 12  # places evaluated twice; if max_points is small; if some differ
_SUSPECTS, _LOST = 4, 3  # further such places: with large surprises or the lowest loss; with a loss that is not finite
_BESIDE_NOISY = 6  # further such places around those that differ
_DROWNED = 8.0  # in standard deviations of the noise: cells with a smaller error are not divided
_LOOKS = {1: 4, 2: 8, 3: 16}  # points per round that test for edges, after all cells pass
_LOOKED_FOR = 0.25  # of the tolerance: smaller possible edges are ignored, however small the estimate is
_ALONE = 1 / 16  # of a cell's side: a test nearer to a point tells little, and a spline through both may oscillate
_STEPS = 6  # iterations to find the key nearest to a place


class Refinement(CellEstimates):
    """One run: asks for the coarse grid, tests cells, and divides those that fail.

    Parameters
    ----------
    box : array of shape (k, 2)
    tolerance, max_points, start, max_depth, seed
        As in `Adaptive`.
    """

    def rounds(self) -> Generator[PointArray, Losses, dict[str, Any]]:
        """Request the coarse grid, then test cells and divide those that fail, until all pass or no points are left."""
        axis = range(0, self.side + 1, self.unit)
        coarse = list(itertools.product(axis, repeat=self.k))
        yield from self._measure(self._coarsest(coarse))
        waiting = [Cell(corner, self.unit) for corner in itertools.product(axis[:-1], repeat=self.k)]
        spare = min(_FEWEST_PAIRS, self.max_points - len(coarse))
        while waiting:
            self.cells |= dict.fromkeys(waiting)
            tested = self._affordable(waiting, self._tests, coarse, spare)
            yield from self._measure(coarse, [place for cell in tested for place in self._tests(cell)])
            if coarse:
                yield from self._again([*self._spread(_PAIRS), *self._suspicious()])
                if self.noise > 0:
                    yield from self._again(self._spread(_MORE_PAIRS))
            coarse, spare = [], 0
            if len(tested) < len(waiting):
                break
            yield from self._again(self._rough())
            failed = self._failed()
            if not failed:
                yield from self._look()
                failed = self._failed()
            divided = self._affordable(failed, Cell.nodes)
            yield from self._measure([node for cell in divided for node in cell.nodes()])
            for cell in divided:
                del self.cells[cell]
            waiting = [part for cell in divided for part in cell.parts()]
        return self._outcome()

    def _failed(self) -> list[Cell]:
        """Return the cells to divide, the worst first."""
        risks, own = self._risks()
        floors = dict(zip(self.cells, self._floors(), strict=True))
        failed = [cell for cell, risk in risks.items() if risk > floors[cell] and cell.size > 2]
        return sorted(failed, key=lambda cell: (-own[cell], -risks[cell], cell.size, cell.corner))

    def _floors(self) -> Array:
        """Return the largest allowed error of each cell: the tolerance, or more where the loss is noisy."""
        return np.maximum(self.tolerance, _DROWNED * self._noise_near())

    def _coarsest(self, coarse: list[Key]) -> list[Key]:
        """Return every second point of the coarse grid, to predict the others from; all if that is not a grid."""
        even = [key for key in coarse if all(c % (2 * self.unit) == 0 for c in key)]
        return even if self.side % (2 * self.unit) == 0 else coarse

    def _spread(self, count: int) -> list[Key]:
        """Return the middles of `count` undivided cells, chosen by the seed, one in each part of each axis.

        They avoid round coordinates, where hand-made losses often have steps and kinks.
        """
        random, start = np.random.default_rng([self.seed, count]), self.side // self.unit
        parts = np.stack([random.permutation(count) for _ in range(self.k)], axis=1)  # (count, k)
        cells = np.floor((parts + random.uniform(size=parts.shape)) / count * start).astype(int)
        return [Cell(tuple(int(c) * self.unit for c in cell), self.unit).middle for cell in cells]

    def _suspicious(self) -> list[Key]:
        """Return the middles of cells with large surprises, apart from each other; the lowest; some not finite.

        Where the loss is smooth, surprises are due to noise; at the minimum noise is largest relative to the loss.
        """
        keys, _, off = self._surprises()
        middles = {cell.middle for cell in self.cells}
        finite = [tuple(map(int, key)) for key in keys]
        ranked = [finite[i] for i in np.argsort(-off, kind="stable") if finite[i] in middles and off[i] > ROUNDING]
        lowest = sorted((key for key in finite if key in middles), key=self.known.__getitem__)[:1]
        chosen: list[Key] = list(lowest)
        for key in ranked:
            if len(chosen) < _SUSPECTS and all(self._apart(key, other) > REACH for other in chosen):
                chosen.append(key)
        lost = [key for key, loss in self.known.items() if not math.isfinite(loss)]
        order = np.random.default_rng([self.seed, len(lost)]).permutation(len(lost))
        return chosen + ([lost[i] for i in order[:_LOST]] if finite else [])

    def _rough(self) -> list[Key]:
        """Return the middles of cells that fail and whose surprises fell slowly, away from places evaluated twice.

        There the loss is noisy or has edges; only a second evaluation tells which.
        """
        errors, _, rates = self._errors()
        chosen: list[Key] = []
        for cell, error, rate in zip(self.cells, errors, rates, strict=True):
            key = cell.middle
            if cell.size == self.unit or not error > self.tolerance or rate < SLOW or key not in self.known:
                continue
            if all(self._apart(key, other) > REACH for other in (*self.pairs, *chosen)):
                chosen.append(key)
        return chosen

    def _look(self) -> Generator[PointArray, Losses, None]:
        """Measure where a tip or a fold fits the points around a cell better than a smooth surface.

        The test of a cell may miss these, so that it passes wrongly. Each place is tested once for each cell size.
        """
        if self._spent >= self.max_points:
            return
        cells, least = self._believed()
        losses, spots = np.array(list(self.known.values())), np.array([self._spot(key) for key in self.known])
        interpolant, finite = Interpolant(self._at(spots), losses), np.isfinite(losses)
        heights, scale = losses[finite], 1.0 if interpolant.log else interpolant.range
        heights = np.log(heights) if interpolant.log else heights / scale
        corners = [self._spot(key) for cell in cells for key in cell.corners()]
        boxes = np.array(corners).reshape(len(cells), 2**self.k, self.k)
        edges = fit_edges(spots[finite], heights, boxes, least)
        spline = interpolant.heights(self._at(edges.places.reshape(-1, self.k))).reshape(edges.heights.shape) / scale
        off = np.abs(edges.heights - spline)
        most, left = off.max(1, initial=0.0), min(_LOOKS.get(self.k, _LOOKS[3]), self.max_points - self._spent)
        chosen: dict[Key, int] = {}
        for i in np.argsort(-most, kind="stable"):
            if most[i] > edges.doubt[i] and len(chosen) < left:
                cell = cells[edges.cells[i]]
                key = self._nearest(cell, edges.places[i, off[i].argmax()])
                gaps = np.abs(spots - self._spot(key)).max(1)
                chosen |= {key: cell.size // 2} if gaps.min() > _ALONE * cell.size else {}
        self.looked |= chosen
        yield from self._measure(list(chosen))

    def _believed(self) -> tuple[list[Cell], Array]:
        """Return cells that pass and were not tested for an edge yet, and the edge height that matters in each.

        That height is at least the largest estimate, because a higher hidden edge would make the estimate wrong.
        """
        errors, _, _ = self._errors()
        floors = self._floors()
        hold = [i for i, cell in enumerate(self.cells) if errors[i] <= floors[i] and not self._was_looked_at(cell)]
        cells, most = list(self.cells), errors[hold].max(initial=0.0)
        return [cells[i] for i in hold], np.clip(most, _LOOKED_FOR * floors[hold], floors[hold])

    def _was_looked_at(self, cell: Cell) -> bool:
        return any(
            half == cell.size // 2 and all(0 <= x - c <= cell.size for x, c in zip(key, cell.corner, strict=True))
            for key, half in self.looked.items()
        )

    def _nearest(self, cell: Cell, spot: Array) -> Key:
        """Return the middle of a smallest cell within this one that is near a place, in units of the keys."""
        low = np.array(cell.corner)
        at, found = spot, (math.inf, cell.middle)
        for _ in range(_STEPS):
            odd = np.clip(np.floor(at / 2).astype(int) * 2 + 1, low + 1, low + cell.size - 1)
            key = tuple(int(c) for c in odd)
            gap = spot - self._spot(key)
            found = min(found, (float(np.abs(gap).max()), key))
            at = odd + gap
        return found[1]

    def _tests(self, cell: Cell) -> list[Key]:
        """Return the cell's middle, and the middles of its sides on the boundary, beyond which there are no points."""
        half, corners = cell.size // 2, cell.corners()
        ways = [(c + half, *((c,) if c == 0 else ()), *self._last(c + cell.size)) for c in cell.corner]
        return [place for place in itertools.product(*ways) if place not in corners]

    def _last(self, end: int) -> tuple[int, ...]:
        return (end,) if end == self.side else ()

    def _affordable(
        self, cells: list[Cell], needs: Callable[[Cell], list[Key]], also: list[Key] | None = None, more: int = 0
    ) -> list[Cell]:
        """Return as many of the first cells as the points left allow, after those in `also` and `more` others."""
        asked = {key for key in also or () if key not in self.known}
        for i, cell in enumerate(cells):
            new = {key for key in needs(cell) if key not in self.known} - asked
            if self._spent + more + len(asked) + len(new) > self.max_points:
                return cells[:i]
            asked |= new
        return cells

    def _measure(self, *groups: list[Key]) -> Generator[PointArray, Losses, None]:
        """Request the points not measured yet, all groups at once, and predict each group from those before it."""
        new: dict[Key, int] = {}
        for number, keys in enumerate(groups):
            new |= {key: number for key in keys if key not in self.known and key not in new}
        if not new:
            return
        losses = dict(zip(new, map(float, (yield self._places(list(new)))), strict=True))
        for number in range(len(groups)):
            keys = [key for key, its in new.items() if its == number]
            if self.known and keys:
                interpolant = Interpolant(self._places(list(self.known)), list(self.known.values()))
                self.predicted |= dict(zip(keys, interpolant(self._places(keys)).tolist(), strict=True))
            self.known |= {key: losses[key] for key in keys}

    def _again(self, keys: list[Key]) -> Generator[PointArray, Losses, None]:
        """Evaluate places a second time, and if they differ some near them, to measure the noise."""
        before = len(self.pairs)
        yield from self._second(keys)
        _, differs = self._differences()
        noisy = [key for key, one in zip(list(self.pairs)[before:], differs[before:], strict=True) if one]
        if noisy:
            free = [key for key in self.known if key not in self.pairs]
            free.sort(key=lambda key: min(self._apart(key, other) for other in noisy))
            yield from self._second(free[:_BESIDE_NOISY])

    def _second(self, keys: list[Key]) -> Generator[PointArray, Losses, None]:
        """Evaluate places a second time, as many as points are left.

        A store has one value per place, so the second one is at the adjacent floating-point number, 1e-16 away: the
        weights are equal up to rounding. If that number was evaluated already, the place is skipped.
        """
        taken = set(map(tuple, self._places(list(self.known)).tolist()))
        twice: dict[Key, Array] = {}
        for key in dict.fromkeys(keys):
            if key in self.known and key not in self.pairs and len(twice) < self.max_points - self._spent:
                place = self._places([key])[0]
                second = np.nextafter(place, self.box.mean(1))
                if tuple(second.tolist()) not in taken:
                    twice[key] = second
        if twice:
            losses = yield np.array(list(twice.values()))
            self.pairs |= dict(zip(twice, map(float, losses), strict=True))
