"""Cells, their tests, and estimates of their errors. NumPy and SciPy only."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.interpolation import Interpolant
from lossnav.samplers.base import Losses, PointArray
from lossnav.samplers.edges import fit_edges

Array = NDArray[np.float64]
Key = tuple[int, ...]  # a point: its coordinates in units of the smallest cell there can be, but for its shift

_SHIFT = 0.2  # of half a cell's side: how far a test may lie off the middle, either way
_SPREADS = 2.0  # an error this many times the tolerance makes the cells around it suspect
_FAST, _SLOW = 0.12, 0.3  # what surprises fall by when cells are halved: smooth ground, and kinks
_BESIDE = 0.6  # of the largest surprise among neighbours, off smooth ground: one test may be predicted by luck
_SURE, _UNSURE = (0.5, 1.8), (1.0, 2.0)  # estimated error / largest surprise on smooth ground and on other, and on
# lines, where few tests meet what is narrow: once a test is a point too, smooth ground is surer than it showed
_INHERITED = 1.0  # the same on lines off smooth ground: one size of cells may be predicted by luck
_CUSP, _SLOWEST, _TAIL = 0.55, 0.9, 2.0  # falls a halving that tell a cusp from a kink; the slowest there is; safety
_PAIRS, _FEWEST_PAIRS, _MORE_PAIRS = 8, 4, 12  # places evaluated twice; where max_points is small; where some differ
_SUSPECTS, _LOST = 4, 3  # so many more where tests surprised most or the loss is lowest; where it is not finite
_FADES = 2.0  # what noise is thought to fall by over so far
_BESIDE_NOISY = 6  # and around those that differ
_NAMED = 5  # noisy places that the outcome lists
_REACH = 1 / 8  # of the range: how far a place evaluated twice speaks for
_ROUNDING = 1e-5  # relative differences below this are no noise to speak of,
_SEEN, _LAST_DIGITS = 1e-3, 1e-11  # unless they are such a part of the picture's range and not of a float64's rounding
_DROWNED = 8.0  # estimates below so many standard deviations of the noise fall no further
_FALLS = 0.5  # where surprises fall by less than this over most of the range, they are noise or finer than the cells
_ENOUGH = 16  # cells from which that is said
_LOOKS = {1: 4, 2: 8, 3: 16}  # points at once where edges may hide, once all cells hold
_LOOKED_FOR = 0.25  # of the tolerance: what may hide and does not matter, however small the estimate is
_ALONE = 1 / 16  # of a cell's side: nearer to a point little hides, and a spline through both may swing
_STEPS = 6  # from a place to the nearest point of the finest cells


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
    """One run: measured points, their predictions, and the current cells.

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
        self.unit = 2 ** (max_depth + 1)  # of a first cell's side: its middles and those of its last parts
        self.side = start * self.unit  # of the whole range
        self.known: dict[Key, float] = {}
        self.predicted: dict[Key, float] = {}  # the loss expected, of every point but the first
        self.pairs: dict[Key, float] = {}  # what was measured a second time, at the next number there is
        self.looked: dict[Key, int] = {}  # points where an edge may have hidden: half the side of the cell they test
        self.cells: dict[_Cell, None] = {}  # those that are not divided, in order
        self._spots: dict[Key, Array] = {}

    def rounds(self) -> Generator[PointArray, Losses, dict[str, Any]]:
        """Ask for the coarse grid, then test cells and divide those that fail, until all hold or no points are left."""
        axis = range(0, self.side + 1, self.unit)
        coarse = list(itertools.product(axis, repeat=self.k))
        yield from self._measure(self._coarsest(coarse))
        waiting = [_Cell(corner, self.unit) for corner in itertools.product(axis[:-1], repeat=self.k)]
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
            divided = self._affordable(failed, _Cell.nodes)
            yield from self._measure([node for cell in divided for node in cell.nodes()])
            for cell in divided:
                del self.cells[cell]
            waiting = [part for cell in divided for part in cell.parts()]
        return self._outcome()

    def _failed(self) -> list[_Cell]:
        """Cells that are to be divided, the worst first."""
        risks, own = self._risks()
        floors = dict(zip(self.cells, self._floors(), strict=True))
        failed = [cell for cell, risk in risks.items() if risk > floors[cell] and cell.size > 2]
        return sorted(failed, key=lambda cell: (-own[cell], -risks[cell], cell.size, cell.corner))

    def _floors(self) -> Array:
        """What each cell's error is held against."""
        return np.maximum(self.tolerance, _DROWNED * self._noise_near())

    # ------------------------------------------------------------------ what is asked

    def _coarsest(self, coarse: list[Key]) -> list[Key]:
        """Every second point each way, from which the others are predicted; all, where there is no such half."""
        even = [key for key in coarse if all(c % (2 * self.unit) == 0 for c in key)]
        return even if self.side % (2 * self.unit) == 0 else coarse

    def _spread(self, count: int) -> list[Key]:
        """Middles of so many first cells, by the seed: one in each part of each axis, and none in the rim.

        These lie off all even places, where users put their steps and kinks.
        """
        random, start = np.random.default_rng([self.seed, count]), self.side // self.unit
        parts = np.stack([random.permutation(count) for _ in range(self.k)], axis=1)  # (count, k)
        cells = np.floor((parts + random.uniform(size=parts.shape)) / count * start).astype(int)
        return [_Cell(tuple(int(c) * self.unit for c in cell), self.unit).middle for cell in cells]

    def _suspicious(self) -> list[Key]:
        """Middles of first cells whose tests surprised most, no two near each other; of the lowest; some not finite.

        On smooth ground noise is what surprises; and at the bottom it is the largest part of the loss.
        """
        keys, _, off = self._surprises()
        middles = {cell.middle for cell in self.cells}
        finite = [tuple(map(int, key)) for key in keys]
        ranked = [finite[i] for i in np.argsort(-off, kind="stable") if finite[i] in middles and off[i] > _ROUNDING]
        lowest = sorted((key for key in finite if key in middles), key=self.known.__getitem__)[:1]
        chosen: list[Key] = list(lowest)
        for key in ranked:
            if len(chosen) < _SUSPECTS and all(self._apart(key, other) > _REACH for other in chosen):
                chosen.append(key)
        lost = [key for key, loss in self.known.items() if not math.isfinite(loss)]
        order = np.random.default_rng([self.seed, len(lost)]).permutation(len(lost))
        return chosen + ([lost[i] for i in order[:_LOST]] if finite else [])

    def _rough(self) -> list[Key]:
        """Middles of cells that are to be divided again although surprises fell slowly, and where no pair is near.

        Such ground is noisy or has edges: which of them, only a second evaluation tells.
        """
        errors, _, rates = self._errors()
        chosen: list[Key] = []
        for cell, error, rate in zip(self.cells, errors, rates, strict=True):
            key = cell.middle
            if cell.size == self.unit or not error > self.tolerance or rate < _SLOW or key not in self.known:
                continue
            if all(self._apart(key, other) > _REACH for other in (*self.pairs, *chosen)):
                chosen.append(key)
        return chosen

    def _look(self) -> Generator[PointArray, Losses, None]:
        """Measure where a tip or a fold fits the points around a cell better than smooth ground does.

        Tests may pass these by, and the cell is believed. Of each size of cells a place is looked at once.
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

    def _believed(self) -> tuple[list[_Cell], Array]:
        """Cells that hold and where none of their size was looked at, and the differences that matter in each.

        These are above the largest estimate: of what may hide half is seen, and that would make the estimate false.
        """
        errors, _, _ = self._errors()
        floors = self._floors()
        hold = [i for i, cell in enumerate(self.cells) if errors[i] <= floors[i] and not self._was_looked_at(cell)]
        cells, most = list(self.cells), errors[hold].max(initial=0.0)
        return [cells[i] for i in hold], np.clip(most, _LOOKED_FOR * floors[hold], floors[hold])

    def _was_looked_at(self, cell: _Cell) -> bool:
        return any(
            half == cell.size // 2 and all(0 <= x - c <= cell.size for x, c in zip(key, cell.corner, strict=True))
            for key, half in self.looked.items()
        )

    def _nearest(self, cell: _Cell, spot: Array) -> Key:
        """The middle of a finest cell in this one that lies near a place, which is given in units."""
        low = np.array(cell.corner)
        at, found = spot, (math.inf, cell.middle)
        for _ in range(_STEPS):
            odd = np.clip(np.floor(at / 2).astype(int) * 2 + 1, low + 1, low + cell.size - 1)
            key = tuple(int(c) for c in odd)
            gap = spot - self._spot(key)
            found = min(found, (float(np.abs(gap).max()), key))
            at = odd + gap
        return found[1]

    def _apart(self, one: Key, other: Key) -> float:
        return float(max(abs(a - b) for a, b in zip(one, other, strict=True)) / self.side)

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

    def _measure(self, *groups: list[Key]) -> Generator[PointArray, Losses, None]:
        """Ask for what is not known, all groups at once, and keep what was expected of each from those before it."""
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
        """Evaluate places a second time, and where they differ some beside them, to know the size of the noise."""
        before = len(self.pairs)
        yield from self._second(keys)
        _, differs = self._differences()
        noisy = [key for key, one in zip(list(self.pairs)[before:], differs[before:], strict=True) if one]
        if noisy:
            free = [key for key in self.known if key not in self.pairs]
            free.sort(key=lambda key: min(self._apart(key, other) for other in noisy))
            yield from self._second(free[:_BESIDE_NOISY])

    def _second(self, keys: list[Key]) -> Generator[PointArray, Losses, None]:
        """Evaluate places a second time, as many as points are left for.

        A store has one value a place, so the second lies at the next number there is, 1e-16 away: the same weights to
        rounding. It is no number that anything was evaluated at, in a range as narrow as rounding too.
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

    def _places(self, keys: list[Key]) -> PointArray:
        return self._at(np.array([self._spot(key) for key in keys], dtype=np.float64).reshape(-1, self.k))

    def _at(self, spots: Array) -> PointArray:
        """Coordinates of places that are given in units."""
        low, high = self.box.T
        places: PointArray = (low * (self.side - spots) + high * spots) / self.side
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

    # ------------------------------------------------------------------ what is believed

    @property
    def noise(self) -> float:
        """Standard deviation of the loss at one place, over those evaluated twice where it differs.

        inf where it was finite once and once not; nan where no place was evaluated twice.
        """
        off, differs = self._differences()
        if not len(off):
            return math.nan
        return float(np.sqrt(np.mean(off[differs] ** 2) / 2)) if differs.any() else 0.0

    def _differences(self) -> tuple[Array, NDArray[np.bool_]]:
        """Of each place evaluated twice: the relative difference, and whether it is more than rounding."""
        twice = np.array([(self.known[key], value) for key, value in self.pairs.items()]).reshape(-1, 2)
        relative, spread = self._measure_of_losses()
        finite = np.isfinite(twice)
        with np.errstate(invalid="ignore", over="ignore"):
            absolute = np.abs(np.diff(twice, axis=1)[:, 0])
            highest = np.abs(twice).max(1)
            off = absolute / (np.abs(twice).mean(1) if relative else spread)
            differs = (off > _ROUNDING) | ((absolute > _SEEN * spread) & (absolute > _LAST_DIGITS * highest))
        off[~finite.all(1)], differs[~finite.all(1)] = 0.0, False  # neither is, or both are the same infinity
        lost = finite.any(1) & ~finite.all(1)
        off[lost], differs[lost] = math.inf, True
        return off, differs

    def _noise_near(self) -> Array:
        """Noise of each cell: of all places that differ, or more where more was seen, and less away from them.

        A spline carries noise beyond the region that has it; and that ends somewhere between the places.
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
        return np.asarray((sizes * _FADES ** (-gaps / (_REACH * self.side))).max(1))

    def _measure_of_losses(self) -> tuple[bool, float]:
        """Whether differences are relative to the loss, and else to what: the range."""
        losses = np.array(list(self.known.values()))
        losses = losses[np.isfinite(losses)]
        return bool((losses > 0).all()), (float(np.ptp(losses)) if len(losses) else 0.0) or 1.0

    def _surprises(self) -> tuple[Array, Array, Array]:
        """Of all points that were predicted: keys (m, k), half the side of the cells they test, and by how much off.

        What is not finite surprises without end where it was looked at; else the cells around it know.
        """
        relative, spread = self._measure_of_losses()
        keys = [key for key in self.predicted if math.isfinite(self.known[key]) or key in self.looked]
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
        halves = np.array([self.looked.get(tuple(map(int, key)), 0) for key in keys], dtype=int)
        tests = halves == 0
        corners = np.array([cell.corner for cell in cells], np.float64).reshape(-1, self.k)
        sides = np.array([cell.size for cell in cells])
        own, around, earlier, seen, edges, tail = np.full((6, len(cells)), math.nan)
        rates = np.ones(len(cells))
        for side in np.unique(sides):
            which = np.flatnonzero(sides == side)
            same, before = tests & (sizes == side // 2), tests & (sizes == side)
            finer = (sizes <= side // 2) & (tests | (side == 2))  # the test of a finest cell may be a look at a larger

            def worst(chosen: NDArray[np.bool_], beyond: int, low: Array = corners[which], side: int = side) -> Array:
                """Return the largest surprise in each cell and so many sides beyond it; nan where there is none."""
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
        ground = np.where(edges > self.tolerance, np.fmax(rates, _SLOW), rates)
        if self.k > 1:
            ground = _roughest_beside(ground, corners, sides)
        slow = np.clip(np.log(np.maximum(ground, 1e-9) / _FAST) / math.log(_SLOW / _FAST), 0, 1)
        fast, plain = _UNSURE if self.k == 1 else _SURE
        smooth, rough = fast * own, np.fmax(plain * np.fmax(own, _BESIDE * around), tail)
        with np.errstate(invalid="ignore"):
            errors = np.where(slow > 0, np.where(slow < 1, smooth + slow * (rough - smooth), rough), smooth)
        errors, mine = np.fmax(errors, seen), np.fmax(own, seen)
        for i, cell in enumerate(cells):
            finite = [math.isfinite(self.known[key]) for key in cell.nodes() if key in self.known]
            if not all(finite) or cell.middle not in self.known:
                errors[i] = mine[i] = math.inf if any(finite) else math.nan  # where nothing is finite, nothing is wrong
        return errors, mine, rates

    def _coarser(self, side: int) -> list[int]:
        """Half the sides of all larger cells, from the next; the last are of the coarse grid's own points."""
        return [side << i for i in range((self.unit // side).bit_length())]

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
        """Coordinates of places that differ, the largest first."""
        keys = list(self.pairs)
        found = [keys[i] for i in np.argsort(-off, kind="stable") if differs[i]][:_NAMED]
        return [list(map(float, place)) for place in self._places(found)]

    def _part_of_range(self) -> float:
        """Return the largest difference at one place as a part of the range of losses."""
        _, spread = self._measure_of_losses()
        apart = [abs(self.known[key] - value) for key, value in self.pairs.items()]
        return max((one for one in apart if math.isfinite(one)), default=math.nan) / spread


def _roughest_beside(rates: Array, corners: Array, sides: Array) -> Array:
    """Rates of cells, or of smaller ones that touch them: where these show an edge, it may run on in the larger."""
    ends, found, rough = corners + sides[:, None], rates.copy(), rates > _FAST
    low, high, small, its = corners[rough], ends[rough], sides[rough], rates[rough]
    for i in np.flatnonzero(rates < _SLOW):
        beside = (small < sides[i]) & ((low <= ends[i]) & (corners[i] <= high)).all(1)
        found[i] = max(found[i], its[beside].max(initial=0.0))
    return found


def _tail(around: Array, earlier: Array, history: list[Array]) -> Array:
    """Error that slow ground keeps, from the largest surprises around cells now, and at each larger size of cells.

    Where the largest fall by r a halving, what a spline has not seen after the next is the rest of a geometric series:
    S r / (1 - r), S the largest that is to be expected now. A cusp |x|^p has r = 2^-p, at whatever size one looks. One
    size of cells may be predicted by luck, so a part of the larger size's surprise stays too.
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
