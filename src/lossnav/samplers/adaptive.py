"""Points where the surface bends."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lossnav.errors import SamplerError
from lossnav.interpolation import Interpolant
from lossnav.samplers.base import Losses, Points, Sampler
from lossnav.samplers.range import RISE, AutoRange, find_ranges

Key = tuple[int, ...]  # a point: its coordinates in units of the smallest cell there can be
Ends = dict[str, tuple[float, float]]

_HALVES = 2.0  # once a test is known too, the spline errs less by at least this factor
_SPREADS = 2.0  # an error this many times the tolerance makes the cells around it suspect


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


class Adaptive(Sampler):
    """Cells that are divided where the loss is not yet predicted well.

    Starts with a coarse grid. Each cell is tested: its middle is predicted from all points so far, then measured; so
    are the middles of its sides that lie in the rim, and those that a divided neighbour asks for. Half the largest
    difference of the two is the cell's estimated error: now that these points are known, the farthest place is nearer
    to a point by a factor of 1.4 or more, and the error of an interpolant falls with the square of that or faster.
    Where it is above the tolerance, the cell is divided into 2^k, and these are tested in turn; where it is above
    twice the tolerance, the cells around it are divided too.

    Parameters
    ----------
    tolerance : float
        Largest relative error of the loss that is aimed at. Where losses are not all positive: a part of their range.
    max_points : int
        No more points than this; what then is not within the tolerance is reported as unresolved.
    start : int
        Cells along each axis to begin with.
    max_depth : int
        How often a cell may be halved: an edge (a cliff, the rim of a region of NaN) is never smooth.
    rise, cap : float
        Of automatic ranges, as in `Grid`.
    **ends : (low, high) or "auto"
        One a coordinate, in the chart's order.

    Raises
    ------
    SamplerError
        If an option is out of its range.

    Notes
    -----
    Deterministic: the same losses lead to the same points. The outcome of a run (in the surface's attributes) says
    ``estimated_error`` (largest over all cells that are resolved), its 99th percentile, and how many cells are
    ``unresolved`` or touch a ``non_finite`` point.

    Examples
    --------
    >>> Adaptive(alpha=(-1, 1), beta=(-1, 1), tolerance=0.01)
    Adaptive(alpha=(-1, 1), beta=(-1, 1), tolerance=0.01, max_points=2000)
    """

    def __init__(
        self,
        *,
        tolerance: float = 0.01,
        max_points: int = 2000,
        start: int = 4,
        max_depth: int = 6,
        rise: float = RISE,
        cap: float = AutoRange.cap,
        **ends: tuple[float, float] | Literal["auto"],
    ) -> None:
        if not ends:
            raise SamplerError("Adaptive needs at least one axis. Pass alpha=(-1, 1), beta=(-1, 1).")
        auto = [name for name, pair in ends.items() if isinstance(pair, str) and pair == "auto"]
        self._auto = dict.fromkeys(auto, AutoRange(rise, cap))
        self._found: dict[str, dict[str, Any]] = {}
        pairs: dict[str, Any] = ends | dict.fromkeys(auto, (-1.0, 1.0))
        for name, pair in pairs.items():
            if not _is_interval(pair):
                raise SamplerError(
                    f"{name}={pair!r} is not an interval. Give two finite numbers, the lower first, or 'auto'."
                )
        if not isinstance(tolerance, int | float) or not 0 < tolerance < math.inf:
            raise SamplerError(f"tolerance={tolerance!r} is not a positive number. 0.01 is one percent of the loss.")
        if not all(isinstance(n, int | np.integer) for n in (start, max_depth, max_points)):
            raise SamplerError(f"{start=}, {max_depth=} and {max_points=} are counts. Give whole numbers.")
        if start < 1 or max_depth < 0:
            raise SamplerError(f"start={start} and max_depth={max_depth}: use 1 and 0, or more.")
        if max_points < (start + 1) ** len(ends):
            raise SamplerError(
                f"max_points={max_points} is fewer than the {(start + 1) ** len(ends)} points of the coarse grid. "
                "Allow more, or pass a smaller start."
            )
        self.dims = tuple(ends)
        self.ends: Ends = {name: (float(low), float(high)) for name, (low, high) in pairs.items()}
        self.tolerance, self.max_points, self.start, self.max_depth = tolerance, max_points, start, max_depth

    def settle(self, losses: Callable[[Points], Losses]) -> Adaptive:
        """Find the automatic ranges, where there are any."""
        if not self._auto:
            return self
        settled = copy.copy(self)
        settled._auto, settled._found = {}, find_ranges(self.dims, self._auto, losses)
        settled.ends = self.ends | {name: (-said["reach"], said["reach"]) for name, said in settled._found.items()}
        return settled

    @property
    def box(self) -> Points:
        """Lowest and highest value of each coordinate, shape (k, 2)."""
        return np.array(list(self.ends.values()))

    def rounds(self) -> Generator[Points, Losses, dict[str, Any]]:
        """Ask for the coarse grid, then test cells and divide those that fail, until all hold or no points are left."""
        return _Refinement(self).rounds()

    def describe(self) -> dict[str, Any]:
        """Kind, ends and options."""
        return {
            "kind": "Adaptive",
            "axes": {name: list(pair) for name, pair in self.ends.items()},
            "tolerance": self.tolerance,
            "max_points": self.max_points,
            "start": self.start,
            "max_depth": self.max_depth,
        } | ({"auto": self._found} if self._found else {})

    @classmethod
    def again(cls, description: dict[str, Any]) -> Adaptive:
        """Make the sampler that describes itself so."""
        options: dict[str, Any] = {key: description[key] for key in ("tolerance", "max_points", "start", "max_depth")}
        made = cls(**(options | {name: tuple(pair) for name, pair in description["axes"].items()}))
        made._found = description.get("auto", {})
        return made

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}=({low:g}, {high:g})" for name, (low, high) in self.ends.items())
        return f"Adaptive({axes}, tolerance={self.tolerance:g}, max_points={self.max_points})"


def _is_interval(pair: Any) -> bool:
    numbers = isinstance(pair, tuple | list | np.ndarray) and len(pair) == 2
    if not numbers or not all(isinstance(end, int | float | np.number) for end in pair):
        return False
    return bool(all(map(math.isfinite, pair)) and pair[0] < pair[1])


class _Refinement:
    """One run: what is known, what was predicted of it, and the cells as they are."""

    def __init__(self, sampler: Adaptive) -> None:
        self.sampler = sampler
        self.k = len(sampler.dims)
        self.unit = 2 ** (sampler.max_depth + 1)  # of a first cell's side: its middles and those of its last parts
        self.side = sampler.start * self.unit  # of the whole range
        self.known: dict[Key, float] = {}
        self.predicted: dict[Key, float] = {}  # the loss expected, of every point after the coarse grid
        self.cells: dict[_Cell, None] = {}  # those that are not divided, in order

    def rounds(self) -> Generator[Points, Losses, dict[str, Any]]:
        axis = range(0, self.side + 1, self.unit)
        yield from self._measure(list(itertools.product(axis, repeat=self.k)))
        waiting = [_Cell(corner, self.unit) for corner in itertools.product(axis[:-1], repeat=self.k)]
        while waiting:
            self.cells |= dict.fromkeys(waiting)
            tested = self._affordable(waiting, self._tests)
            yield from self._measure([place for cell in tested for place in self._tests(cell)])
            if len(tested) < len(waiting):
                break
            risks = self._risks()
            failed = [cell for cell, risk in risks.items() if risk > self.sampler.tolerance and cell.size > 2]
            failed.sort(key=lambda cell: (-risks[cell], cell.size, cell.corner))
            divided = self._affordable(failed, _Cell.nodes)
            yield from self._measure([node for cell in divided for node in cell.nodes()])
            for cell in divided:
                del self.cells[cell]
            waiting = [part for cell in divided for part in cell.parts()]
        return self._outcome()

    def _tests(self, cell: _Cell) -> list[Key]:
        """Return the cell's middle, and the middles of its sides in the rim, beyond which no point helps a spline."""
        half, corners = cell.size // 2, cell.corners()
        ways = [(c + half, *((c,) if c == 0 else ()), *self._last(c + cell.size)) for c in cell.corner]
        return [place for place in itertools.product(*ways) if place not in corners]

    def _last(self, end: int) -> tuple[int, ...]:
        return (end,) if end == self.side else ()

    def _measure(self, keys: list[Key]) -> Generator[Points, Losses, None]:
        """Ask for what is not known, and keep what was expected of it."""
        new = [key for key in dict.fromkeys(keys) if key not in self.known]
        if not new:
            return
        if self.known:
            interpolant = Interpolant(self._places(list(self.known)), list(self.known.values()))
            self.predicted |= dict(zip(new, interpolant(self._places(new)).tolist(), strict=True))
        losses = yield self._places(new)
        self.known |= dict(zip(new, map(float, losses), strict=True))

    def _affordable(self, cells: list[_Cell], needs: Callable[[_Cell], list[Key]]) -> list[_Cell]:
        """As many cells, from the first, as there are points left for."""
        asked: set[Key] = set()
        for i, cell in enumerate(cells):
            more = {key for key in needs(cell) if key not in self.known} - asked
            if len(self.known) + len(asked) + len(more) > self.sampler.max_points:
                return cells[:i]
            asked |= more
        return cells

    def _places(self, keys: list[Key]) -> Points:
        low, high = self.sampler.box.T
        steps = np.array(keys, dtype=np.float64).reshape(-1, self.k)
        places: Points = (low * (self.side - steps) + high * steps) / self.side
        return places

    def _errors(self) -> dict[_Cell, float]:
        """Half of how far off the worst prediction of a point of each cell was; inf beside a hole and untested."""
        losses = np.array(list(self.known.values()))
        losses = losses[np.isfinite(losses)]
        relative, spread = bool((losses > 0).all()), float(np.ptp(losses)) if len(losses) else 0.0

        def error(cell: _Cell) -> float:
            nodes = [key for key in cell.nodes() if key in self.known]
            finite = [math.isfinite(self.known[key]) for key in nodes]
            if not all(finite) or cell.middle not in self.known:
                return math.inf if any(finite) else math.nan  # where nothing is finite, there is nothing to be wrong
            corners = cell.corners()  # these were predicted from farther away, for a larger cell
            return max(surprise(key) for key in nodes if key not in corners) / _HALVES

        def surprise(key: Key) -> float:
            measured = self.known[key]
            with np.errstate(over="ignore", invalid="ignore"):
                difference = abs(self.predicted[key] - measured) / (measured if relative else spread or 1.0)
            return math.inf if math.isnan(difference) else difference  # losses near the largest number there is

        return {cell: error(cell) for cell in self.cells}

    def _risks(self) -> dict[_Cell, float]:
        """The error of each cell, or a part of that of a cell it touches: a middle alone may be predicted by luck."""
        found = self._errors()
        errors = np.array(list(found.values()))
        low = np.array([cell.corner for cell in found])
        high = low + np.array([[cell.size] for cell in found])
        risks = errors.copy()
        for i in np.flatnonzero(errors > self.sampler.tolerance * _SPREADS):
            touching = ((low <= high[i]) & (low[i] <= high)).all(1)
            risks[touching] = np.maximum(risks[touching], errors[i] / _SPREADS)
        return dict(zip(found, map(float, risks), strict=True))

    def _outcome(self) -> dict[str, Any]:
        limit = self.sampler.tolerance
        errors = np.array(list(self._errors().values()))
        errors = errors[~np.isnan(errors)]
        resolved = errors[errors <= limit]
        smooth = errors[np.isfinite(errors)]
        holes = sum(not all(math.isfinite(self.known.get(key, 0.0)) for key in cell.nodes()) for cell in self.cells)
        return {
            "points": len(self.known),
            "cells": len(self.cells),
            "unresolved": int((errors > limit).sum()),
            "non_finite": holes,
            "estimated_error": float(resolved.max()) if len(resolved) else math.nan,
            "estimated_error_p99": float(np.quantile(smooth, 0.99)) if len(smooth) else math.nan,
        }
