"""An adaptive sampler: more points where the surface bends."""

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
_DEEPEST = 50  # halvings; after more, neighbouring places would be the same number
_FEWEST = 4  # cells along each axis, if max_points does not allow more


@register(
    estimates=True,
    word="adaptive",
    help="more points where the surface bends",
    options=("tolerance", "max_points", "start", "max_depth", "seed", "rise", "cap"),
)
class Adaptive(Sampler):
    """Divide cells until the loss is predicted to a tolerance.

    The sampler starts with a coarse grid and tests each cell: it predicts the loss at a point near the cell's middle
    from all points so far, then measures it. Points on sides in the rim are tested too, and those that a divided
    neighbour needs. Tests are displaced from the middles by random fractions of a cell, so that no ripple vanishes at
    all of them. The largest difference gives the cell's estimated error (design/0009): half of it if differences
    decrease quickly with the size of cells, as on a smooth surface; otherwise (kinks, ripples finer than the cells,
    noise) 1.8 times the largest of its own and 0.6 times that of its neighbours. On a line the factors are 1 and
    2, and the estimate is no less than that of one size of cells before, nor than the rest of a series at cusps. A
    cell with an estimate above the tolerance is divided into 2^k cells, which are tested in turn; above twice the
    tolerance, the cells around it are divided too. When all cells hold, the sampler searches for tips and folds that
    the tests may have missed: if a cone or a fold fits the points around a cell better than a paraboloid, it measures
    one more point.

    Some places are evaluated twice: eight spread over the range by the seed, a few where the prediction error is
    largest or the loss lowest, and one near cells that are divided although differences decreased slowly. If the two
    losses differ, the loss is noisy. Noise that is smaller than prediction errors and between these places is missed.

    Parameters
    ----------
    tolerance : float
        Target for the relative error of the loss; if not all losses are positive, a fraction of their range.
    max_points : int
        Maximum number of points; cells still above the tolerance are then reported as unresolved.
    start : int, optional
        Initial cells along each axis; by default 32 on a line, 8 on a plane, 4 in a volume, and fewer (16, 6)
        if `max_points` is too small. A shape narrower than such a cell may be missed.
    max_depth : int
        Maximum number of halvings of a cell, at most 50: an edge (a cliff, the rim of a region of NaN) is never smooth.
    seed : int
        Seed of the test points.
    rise, cap : float
        For automatic ranges, as in `Grid`.
    **ends : (low, high) or "auto"
            One per coordinate, in the chart's order.

    Raises
    ------
    SamplerError
        If an option is out of its range.

    Notes
    -----
    Deterministic: the same losses and seed lead to the same points. The outcome of a run (in the surface's attributes)
    has ``estimated_error`` (largest over all resolved cells), its 99th percentile over all cells, and the numbers of
    cells that are ``unresolved``, among these ``untested`` (no point was left, or one beside them is not finite), or
    touch a ``non_finite`` point. ``noise`` is the standard deviation of the loss at one place, relative like the
    tolerance, over the ``noise_places`` of the ``places_twice`` where it differs: 0 if it differs nowhere, inf if it
    was finite only once at some place. ``noise_largest`` is the largest difference, ``noise_of_range`` the same as a
    fraction of the range of losses, ``noise_at`` coordinates of places where it differs. A difference counts if it is
    above 1e-5 of the loss, or above 0.001 of the range and the last digits of a float64. The second evaluation is at
    the next floating-point number, since a surface has one value per place. The error is an estimate from measured
    points, not a bound: a well between the points is missed. `python -m benchmarks.honesty --only adaptive` counts on
    random functions how often it is below half the true error.

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
            raise SamplerError(f"{start=}, {max_depth=}, {max_points=} and {seed=} must be whole numbers.")
        if start is None:
            start = _start(len(ends), max_points)
        if start < 1 or max_depth < 0:
            raise SamplerError(f"start={start} and max_depth={max_depth} must be at least 1 and 0.")
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
        """Find the automatic ranges, if any."""
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
        """Request the coarse grid, then test cells and divide those that fail, until all hold or no points are left."""
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
        """Make the sampler from its description."""
        names = ("tolerance", "max_points", "start", "max_depth", "seed")
        options: dict[str, Any] = {key: description[key] for key in names}
        made = cls(**(options | {name: tuple(pair) for name, pair in description["axes"].items()}))
        made._found = description.get("auto", {})
        return made

    def __repr__(self) -> str:
        axes = ", ".join(f"{name}=({low:g}, {high:g})" for name, (low, high) in self.ends.items())
        return f"Adaptive({axes}, tolerance={self.tolerance:g}, max_points={self.max_points})"


def _start(k: int, max_points: int) -> int:
    """Return the cells along each axis: the most whose corners `max_points` allows, even if not all can be tested."""
    return next((start for start in _STARTS.get(k, ()) if (start + 1) ** k <= max_points), _FEWEST)


def _is_interval(pair: Any) -> bool:
    numbers = isinstance(pair, tuple | list | np.ndarray) and len(pair) == 2
    if not numbers or not all(isinstance(end, int | float | np.number) for end in pair):
        return False
    return bool(all(map(math.isfinite, pair)) and pair[0] < pair[1])
