"""A regular grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossnav._utils.geometry import mesh
from lossnav.errors import SamplerError
from lossnav.samplers.base import Losses, PointArray, Sampler, require_names
from lossnav.samplers.range import RISE, AutoRange, find_ranges
from lossnav.samplers.registry import register

Axis = NDArray[np.float64]

_AUTO_POINTS = 51
_COARSEST = 5  # points along each axis of the first level


@register(word="grid", help="every point of a grid", options=("points", "rise", "cap"))
class Grid(Sampler):
    """Every combination of evenly spaced coordinates.

    Parameters
    ----------
    **axes : (low, high, n) or increasing sequence of numbers
        One per coordinate, named as in the chart (``alpha``, ``beta``, ``gamma``), in the chart's order. A tuple of
        three means n evenly spaced points, both ends included; a tuple of two is refused; a list or array contains
        the coordinates themselves. "auto", or ("auto", n), finds the range: [-r, r] with r doubled or halved until
        the loss at its ends is `rise` times the centre's. n is 51 by default.
    rise, cap : float
        For an automatic range: factor by which the loss rises at its ends, and the largest r.

    Raises
    ------
    SamplerError
        If an axis has fewer than two points, is not increasing, or is not finite.

    Examples
    --------
    >>> Grid(alpha=(-1, 1, 3), beta=(0, 1, 2)).points()
    array([[-1.,  0.], [-1.,  1.], [ 0.,  0.], [ 0.,  1.], [ 1.,  0.], [ 1.,  1.]])
    """

    def __init__(
        self,
        *nameless: Any,
        rise: float = RISE,
        cap: float = AutoRange.cap,
        **axes: tuple[float, float, int] | ArrayLike,
    ) -> None:
        require_names("Grid", nameless, "(-1, 1, 51)")
        if not axes:
            raise SamplerError("A grid needs at least one axis. Pass alpha=(-1, 1, 51), beta=(-1, 1, 51).")
        auto = {name: spec for name, spec in axes.items() if _is_auto(spec)}
        self._auto = dict.fromkeys(auto, AutoRange(rise, cap))
        ends = {name: (-1, 1, _auto_points(name, spec)) for name, spec in auto.items()}
        self._axes = {name: _axis(name, ends.get(name, spec)) for name, spec in axes.items()}
        self._found: dict[str, dict[str, Any]] = {}
        self.dims = tuple(axes)

    @classmethod
    def around(cls, points: Mapping[str, ArrayLike], n: int = 51, margin: float = 0.2) -> Grid:
        """Return a grid around given points, such as those of a projected trajectory.

        Parameters
        ----------
        points : mapping of str to array
            Values of each coordinate: ``{dim: path[dim] for dim in plane.dims}``.
        n : int
            Points along each axis.
        margin : float
            On each side, as a fraction of the range. All axes are as long as the longest, so that distances in the
            picture are in proportion.

        Raises
        ------
        SamplerError
            If a coordinate has no finite value, or all points are equal.

        Examples
        --------
        >>> Grid.around({"alpha": [0.0, 10.0], "beta": [0.0, 1.0]}, n=3, margin=0.1).box
        array([[-1. , 11. ], [-5.5,  6.5]])
        """
        known = {dim: np.asarray(values, np.float64) for dim, values in points.items()}
        known = {dim: values[np.isfinite(values)] for dim, values in known.items()}
        if not known or not all(values.size for values in known.values()):
            raise SamplerError("There are no points. Pass a mapping of coordinate to values.")
        half = float(max(np.ptp(values) for values in known.values())) * (0.5 + margin)
        if not half > 0:
            raise SamplerError("All points are equal, so a grid around them has no size. Pass the ends of each axis.")
        middles = {dim: float(values.min() + values.max()) / 2 for dim, values in known.items()}
        return cls(**{dim: (middle - half, middle + half, n) for dim, middle in middles.items()})  # type: ignore[arg-type]

    @classmethod
    def over(cls, ends: Mapping[str, Any], points: int = _AUTO_POINTS, **options: Any) -> Grid:
        """Return a grid from the ends of each axis, or "auto", and the number of points along each.

        Raises
        ------
        SamplerError
            As of the class.

        Examples
        --------
        >>> Grid.over({"alpha": (-1, 1), "beta": (0, 1)}, points=3).total
        9
        """
        axes: Any = {dim: (pair, points) if isinstance(pair, str) else (*pair, points) for dim, pair in ends.items()}
        return cls(**axes, **options)

    def settle(self, losses: Callable[[PointArray], Losses]) -> Grid:
        """Find the automatic ranges, where there are any."""
        if not self._auto:
            return self
        found = find_ranges(self.dims, self._auto, losses)
        ends = {name: (-said["reach"], said["reach"], len(self._axes[name])) for name, said in found.items()}
        settled = Grid(**(self._axes | ends))  # type: ignore[arg-type]
        settled._found = found
        return settled

    @property
    def axes(self) -> dict[str, Axis]:
        """Coordinates along each dim, increasing."""
        return self._axes

    @property
    def total(self) -> int:
        """Number of points."""
        return math.prod(len(axis) for axis in self._axes.values())

    def points(self) -> PointArray:
        """All points, shape (total, k), the last coordinate running fastest."""
        return mesh(self._axes.values())

    def rounds(self) -> Generator[PointArray, Losses, None]:
        """Request level by level, each halving the previous steps: a stopped run is a complete coarse grid."""
        seen = np.zeros([len(axis) for axis in self._axes.values()], bool)
        for indices in zip(*self._levels(), strict=True):
            level = np.zeros_like(seen)
            level[np.ix_(*indices)] = True
            new = np.argwhere(level & ~seen)
            seen |= level
            if len(new):
                yield np.stack([axis[new[:, i]] for i, axis in enumerate(self._axes.values())], axis=1)

    def _levels(self) -> list[list[list[int]]]:
        """For each axis the indices of each level, from coarse to all; axes with fewer levels repeat their last."""
        nested = [_halvings(len(axis)) for axis in self._axes.values()]
        depth = max(map(len, nested))
        return [levels + [levels[-1]] * (depth - len(levels)) for levels in nested]

    def describe(self) -> dict[str, Any]:
        """Kind, ends and number of points of each axis; the coordinates of an unevenly spaced one."""
        axes = {name: [float(axis[0]), float(axis[-1]), len(axis)] for name, axis in self._axes.items()}
        uneven = {name: axis.tolist() for name, axis in self._axes.items() if not _is_even(axis)}
        said = {"kind": "Grid", "axes": axes} | ({"coordinates": uneven} if uneven else {})
        return said | ({"auto": self._found} if self._found else {})

    @classmethod
    def again(cls, description: dict[str, Any]) -> Grid:
        """Make the grid from its description."""
        if short := [name for name, ends in description["axes"].items() if len(ends) != 3]:
            raise SamplerError(f"The stored grid has no number of points along {short[0]}. Call evaluate again.")
        axes = {name: (low, high, int(n)) for name, (low, high, n) in description["axes"].items()}
        made = cls(**(axes | description.get("coordinates", {})))
        made._found = description.get("auto", {})
        return made

    def __repr__(self) -> str:
        axes = (f"{name}=({axis[0]:g}, {axis[-1]:g}, {len(axis)})" for name, axis in self._axes.items())
        return f"Grid({', '.join(axes)})"


class Snake(Grid):
    """The points of a grid, each beside the previous one: every second row runs backwards.

    For functions that start from the result at the previous point.

    Parameters
    ----------
    grid : Grid
        That is settled.
    """

    def __init__(self, grid: Grid) -> None:
        self._axes, self._found, self._auto, self.dims = grid._axes, grid._found, {}, grid.dims

    def rounds(self) -> Generator[PointArray, Losses, None]:
        """Request all points at once, in this order."""
        path: list[tuple[int, ...]] = [()]
        for axis in self._axes.values():
            ways = (range(len(axis)), range(len(axis) - 1, -1, -1))
            path = [(*place, i) for row, place in enumerate(path) for i in ways[row % 2]]
        places = np.array(path).T
        yield np.stack([axis[i] for axis, i in zip(self._axes.values(), places, strict=True)], axis=1)


def _halvings(n: int) -> list[list[int]]:
    """Indices 0 to n - 1 in nested levels, each with the midpoints of the previous ones; the first has 5 or more."""
    level, levels = [0, n - 1], []
    while True:
        if len(level) >= min(_COARSEST, n):
            levels.append(level)
        if len(level) == n:
            return levels
        between = [(low + high) // 2 for low, high in itertools.pairwise(level)]
        level = sorted({*level, *between})


def _axis(name: str, spec: Any) -> Axis:
    if isinstance(spec, tuple) and len(spec) == 2:
        low, high = spec
        raise SamplerError(
            f"{name}={spec} does not say how many points there are. Pass ({low}, {high}, 51) for 51 points between "
            f"these ends, or the list [{low}, {high}] for these two."
        )
    if isinstance(spec, tuple) and len(spec) == 3:
        low, high, n = float(spec[0]), float(spec[1]), spec[2]
        if not isinstance(n, int | np.integer):
            raise SamplerError(
                f"{name}={spec} has {n!r} points, which is not a whole number. Pass (low, high, n), or a list of "
                "coordinates."
            )
        if n < 2:
            raise SamplerError(
                f"{name} needs at least 2 points, got {n} in {spec}. Pass (low, high, n) with n of 2 or more."
            )
        if not (math.isfinite(low) and math.isfinite(high)):
            raise SamplerError(f"{name} must have finite ends, got {spec}.")
        if low >= high:
            raise SamplerError(
                f"{name}={spec} runs from {low:g} down to {high:g}. Give the lower end first: ({high:g}, {low:g}, {n})."
            )
        axis = _even(low, high, int(n))
    else:
        try:
            axis = np.asarray(spec, dtype=np.float64)
        except (TypeError, ValueError):
            raise SamplerError(
                f"{name} must be (low, high, n), 'auto' or ('auto', n), such as (-1, 1, 51), got {spec!r}."
            ) from None
        if axis.ndim != 1 or len(axis) < 2:
            raise SamplerError(
                f"{name} must be one-dimensional with at least two points, got shape {axis.shape}. "
                f"Pass {name}=(low, high, n) with a whole number n."
            )
    if not np.isfinite(axis).all():
        raise SamplerError(f"The coordinates of {name} must all be finite. Remove the others.")
    if (np.diff(axis) <= 0).any():
        raise SamplerError(f"The coordinates of {name} must increase. Sort them, and remove duplicates.")
    return axis


def _even(low: float, high: float, n: int) -> Axis:
    steps = np.arange(n)
    axis: Axis = (low * (n - 1 - steps) + high * steps) / (n - 1)  # exactly symmetric, so 0 in the middle is 0
    axis[0], axis[-1] = low, high
    return axis


def _is_even(axis: Axis) -> bool:
    return bool((axis == _even(axis[0], axis[-1], len(axis))).all())


def _is_auto(spec: Any) -> bool:
    return isinstance(spec, str) or (isinstance(spec, tuple) and len(spec) > 0 and isinstance(spec[0], str))


def _auto_points(name: str, spec: Any) -> int:
    word, n = (spec, _AUTO_POINTS) if isinstance(spec, str) else (spec[0], spec[-1])
    if word != "auto" or not isinstance(n, int | np.integer) or (not isinstance(spec, str) and len(spec) != 2):
        raise SamplerError(f"{name} must be (low, high, n), 'auto' or ('auto', n), such as (-1, 1, 51), got {spec!r}.")
    return int(n)
