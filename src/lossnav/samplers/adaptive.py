"""Points where the surface bends."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator
from typing import Any, Literal

import numpy as np

from lossnav.errors import SamplerError
from lossnav.samplers.base import Losses, PointArray, Sampler, require_names
from lossnav.samplers.range import RISE, AutoRange, find_ranges
from lossnav.samplers.refinement import Refinement
from lossnav.samplers.registry import register

Ends = dict[str, tuple[float, float]]

_STARTS = {1: (32, 16), 2: (8, 6)}  # cells along each axis to begin with, by the number of axes; 4 for more
_DEEPEST = 50  # halvings after which neighbouring places are one number
_FEWEST = 4  # where max_points allows no more


@register(estimates=True)
class Adaptive(Sampler):
    """Cells that are divided where the loss is not yet predicted well.

    Starts with a coarse grid. Each cell is tested: a point near its middle is predicted from all points so far, then
    measured; so are points of its sides that lie in the rim, and those that a divided neighbour asks for. Tests lie
    off the middles by random parts of a cell, so no ripple has its zeros at all of them. The largest difference gives
    the cell's estimated error (design/0009): half of it where differences fall quickly from one size of cells to the
    next, as they do on smooth ground; where they do not (kinks, ripples finer than the cells, noise), 1.8 times the
    largest of its own and 0.6 of its neighbours'; on a line once and twice it, and there
    no less than one size of cells before, nor than the rest of a series at cusps. Where the estimate is above the
    tolerance, the cell is divided into 2^k, and these are tested in turn; where it is above twice the tolerance, the
    cells around it are divided too. Once all hold, tips and folds are looked for that tests may have passed by: where
    the points around a cell are fitted better by a cone or a fold than by a paraboloid, one more is measured.

    Some places are evaluated twice: eight spread over the range by the seed, a few where the loss surprised most or is
    lowest, and one near cells that are to be divided although differences fell slowly. Where the two losses differ,
    the loss is noisy. A noise that is too small to surprise and lies between these places is not seen.

    Parameters
    ----------
    tolerance : float
        Relative error of the loss that is aimed at. Where losses are not all positive: a part of their range.
    max_points : int
        No more points than this; what then is not within the tolerance is reported as unresolved.
    start : int, optional
        Cells along each axis to begin with; by default 32 on a line, 8 on a plane, 4 in a volume, and fewer (16, 6)
        where `max_points` does not allow for so many. A shape narrower than such a cell may be missed.
    max_depth : int
        How often a cell may be halved, 50 times at most: an edge (a cliff, the rim of a region of NaN) is never smooth.
    seed : int
        Of the places of the tests.
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
    Deterministic: the same losses and seed lead to the same points. The outcome of a run (in the surface's attributes)
    says ``estimated_error`` (largest over all cells that are resolved), the 99th percentile over all cells, and how
    many cells are ``unresolved``, of these ``untested`` (no point was left, or one beside them is not finite), or touch
    a ``non_finite`` point. ``noise`` is the standard deviation of the loss at one place, relative as the tolerance is,
    over the ``noise_places`` of the ``places_twice`` where it differs: 0 where it differs nowhere, inf where it was
    finite once and once not. ``noise_largest`` is the largest difference, ``noise_of_range`` the same as a part of the
    range of losses, ``noise_at`` coordinates of places where it differs. A difference counts above 1e-5 of the loss,
    or above 0.001 of the range and the last digits of a float64. The second evaluation lies at the next floating-point
    number, since a surface has one value a place. The error is estimated from what was measured, and no bound:
    it says nothing of a well between the points. How often it is below half the true error was counted on functions
    drawn at random (`python -m benchmarks.honesty --only adaptive`).

    Examples
    --------
    >>> Adaptive(alpha=(-1, 1), beta=(-1, 1), tolerance=0.01)
    Adaptive(alpha=(-1, 1), beta=(-1, 1), tolerance=0.01, max_points=2000)
    """

    def __init__(
        self,
        *nameless: Any,
        tolerance: float = 0.01,
        max_points: int = 2000,
        start: int | None = None,
        max_depth: int = 6,
        seed: int = 0,
        rise: float = RISE,
        cap: float = AutoRange.cap,
        **ends: tuple[float, float] | Literal["auto"],
    ) -> None:
        require_names("Adaptive", nameless, "(-1, 1)")
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
        if not all(isinstance(n, int | np.integer) for n in (start or 0, max_depth, max_points, seed)):
            raise SamplerError(f"{start=}, {max_depth=}, {max_points=} and {seed=} are counts. Give whole numbers.")
        if start is None:
            start = _start(len(ends), max_points)
        if start < 1 or max_depth < 0:
            raise SamplerError(f"start={start} and max_depth={max_depth}: use 1 and 0, or more.")
        if max_depth > _DEEPEST or int(start) << max_depth > 2 ** (_DEEPEST + 8):
            raise SamplerError(
                f"max_depth={max_depth} with start={start}: such cells are finer than float64 coordinates. "
                f"Give {_DEEPEST} or less; the default is 6."
            )
        if seed < 0:
            raise SamplerError(f"seed={seed} is negative. Give 0 or more.")
        if max_points < (start + 1) ** len(ends):
            raise SamplerError(
                f"max_points={max_points} is fewer than the {(start + 1) ** len(ends)} points of the coarse grid. "
                "Allow more, or pass a smaller start."
            )
        self.dims = tuple(ends)
        self.ends: Ends = {name: (float(low), float(high)) for name, (low, high) in pairs.items()}
        self.tolerance, self.max_points, self.start, self.max_depth = tolerance, max_points, start, max_depth
        self.seed = seed

    def settle(self, losses: Callable[[PointArray], Losses]) -> Adaptive:
        """Find the automatic ranges, where there are any."""
        if not self._auto:
            return self
        settled = copy.copy(self)
        settled._auto, settled._found = {}, find_ranges(self.dims, self._auto, losses)
        settled.ends = self.ends | {name: (-said["reach"], said["reach"]) for name, said in settled._found.items()}
        return settled

    @property
    def box(self) -> PointArray:
        """Lowest and highest value of each coordinate, shape (k, 2)."""
        return np.array(list(self.ends.values()))

    def rounds(self) -> Generator[PointArray, Losses, dict[str, Any]]:
        """Ask for the coarse grid, then test cells and divide those that fail, until all hold or no points are left."""
        return Refinement(self.box, self.tolerance, self.max_points, self.start, self.max_depth, self.seed).rounds()

    def describe(self) -> dict[str, Any]:
        """Kind, ends and options."""
        return {
            "kind": "Adaptive",
            "axes": {name: list(pair) for name, pair in self.ends.items()},
            "tolerance": self.tolerance,
            "max_points": self.max_points,
            "start": self.start,
            "max_depth": self.max_depth,
            "seed": self.seed,
        } | ({"auto": self._found} if self._found else {})

    @classmethod
    def again(cls, description: dict[str, Any]) -> Adaptive:
        """Make the sampler that describes itself so."""
        names = ("tolerance", "max_points", "start", "max_depth", "seed")
        options: dict[str, Any] = {key: description[key] for key in names}
        made = cls(**(options | {name: tuple(pair) for name, pair in description["axes"].items()}))
        made._found = description.get("auto", {})
        return made

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}=({low:g}, {high:g})" for name, (low, high) in self.ends.items())
        return f"Adaptive({axes}, tolerance={self.tolerance:g}, max_points={self.max_points})"


def _start(k: int, max_points: int) -> int:
    """Cells along each axis: the most whose corners are allowed; tests may run short, and then these are unresolved."""
    return next((start for start in _STARTS.get(k, ()) if (start + 1) ** k <= max_points), _FEWEST)


def _is_interval(pair: Any) -> bool:
    numbers = isinstance(pair, tuple | list | np.ndarray) and len(pair) == 2
    if not numbers or not all(isinstance(end, int | float | np.number) for end in pair):
        return False
    return bool(all(map(math.isfinite, pair)) and pair[0] < pair[1])
