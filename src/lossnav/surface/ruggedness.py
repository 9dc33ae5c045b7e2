"""Ruggedness of a plane: where the loss falls away from the centre, where it is not convex, its local minima."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lossnav.errors import OptionError

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]

_SURE = 2.0  # standard errors


@dataclass(frozen=True)
class Ruggedness:
    """Numbers for the shape of a surface over a plane, as far as its grid shows it.

    "Surely" is by more than two standard errors over the samples, as if the errors of neighbouring points were
    independent. They are errors of the same samples and mostly cancel: it is the least that would be found again with
    other samples, while the number without "surely" is exact for these.

    Attributes
    ----------
    descending_fraction, descending_fraction_certain : float
        Part of the inner points, the centre left out, at which the loss falls on the straight way outwards: there the
        way downhill does not lead to the centre. By central differences.
    nonconvex_fraction, nonconvex_fraction_certain : float
        Part of the triples of neighbours, along rows and columns, whose middle lies above the chord: not convex.
    local_minima, local_minima_certain : int
        Local minima (among eight neighbours) inside the border, the lowest point of all left out.
    depth, depth_se : float
        Of the deepest minimum: how far the loss has to rise on the easiest way from it to a lower place (its
        persistence), in the unit of the loss; 0 and nan where there is none.
    rise : float
        Median of the loss over the plane, above its lowest: how steep the ground is, whatever its shape.
    """

    descending_fraction: float
    descending_fraction_certain: float
    nonconvex_fraction: float
    nonconvex_fraction_certain: float
    local_minima: int
    local_minima_certain: int
    depth: float
    depth_se: float
    rise: float


class LocalMinimum(NamedTuple):
    """A local minimum that is not the lowest.

    Attributes
    ----------
    at, saddle : tuple of int
        Where its bottom is on the grid, and where the easiest way to lower ground leads over.
    depth : float
        How far the loss rises between the two: the persistence of the minimum.
    """

    at: tuple[int, ...]
    saddle: tuple[int, ...]
    depth: float


def ruggedness(surface: xr.Dataset, step: int = 1) -> Ruggedness:
    """Measure the relief of a plane.

    Parameters
    ----------
    surface : xarray.Dataset
        A surface of grid shape over two coordinates.
    step : int
        Take every so many points of each axis only, the first among them.

    Returns
    -------
    Ruggedness
        Places with a neighbour that is not finite are left out. Standard errors are 0 where the surface has none.

    Raises
    ------
    OptionError
        If it is no plane on a grid of at least 3x3.

    References
    ----------
    Li et al. 2018, section 6, call a surface chaotic where in large regions the gradient does not point towards the
    minimizer at the centre. They give no number; `descending_fraction` is the one that this sentence asks for.
    Persistence:
    Edelsbrunner, Letscher, Zomorodian 2002.
    """
    if surface["loss"].ndim != 2 or "point" in surface.dims or "seed" in surface.dims:
        raise OptionError("This is no plane on a grid. Use surface.lossnav.to_grid(), or one seed of several.")
    thinned = surface[{dim: slice(None, None, step) for dim in surface["loss"].dims}]
    x, y = (thinned[dim].values.astype(np.float64) for dim in thinned["loss"].dims)
    loss = np.where(np.isfinite(thinned["loss"].values), thinned["loss"].values, np.nan)
    se = thinned["loss_se"].values if "loss_se" in thinned else np.zeros_like(loss)
    if min(loss.shape) < 3:
        raise OptionError(f"A plane of {loss.shape[0]}x{loss.shape[1]} points has no inside. Use 3x3 or more.")
    descending_fraction, nonconvex_fraction = _outwards(loss, se, x, y), _bends(loss, se, x, y)
    depths = sorted(
        ((minimum.depth, float(np.hypot(se[minimum.saddle], se[minimum.at]))) for minimum in local_minima(loss)),
        reverse=True,
    )
    deepest = depths[0] if depths else (0.0, math.nan)
    surely = sum(depth > _SURE * error for depth, error in depths)
    rise = float(np.nanmedian(loss) - np.nanmin(loss)) if np.isfinite(loss).any() else math.nan
    return Ruggedness(*_parts(*descending_fraction), *_parts(*nonconvex_fraction), len(depths), surely, *deepest, rise)


def _parts(below_zero: Array, error: Array) -> tuple[float, float]:
    """Which part of the values is negative, and which part surely."""
    known = np.isfinite(below_zero)
    values, errors = below_zero[known], error[known]
    if not values.size:
        return math.nan, math.nan
    return float((values < 0).mean()), float((values < -_SURE * errors).mean())


def _outwards(loss: Array, se: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Slope of the loss on the way from the centre at the inner points, in the unit of the loss a unit of the plane."""
    a, b = x[1:-1, None], y[None, 1:-1]
    width, height = (x[2:] - x[:-2])[:, None], (y[2:] - y[:-2])[None, :]
    with np.errstate(invalid="ignore", divide="ignore"):  # the centre has no way outwards: nan
        away = a / np.hypot(a, b) / width, b / np.hypot(a, b) / height
    along_x, along_y = loss[2:, 1:-1] - loss[:-2, 1:-1], loss[1:-1, 2:] - loss[1:-1, :-2]
    errors = np.hypot(se[2:, 1:-1], se[:-2, 1:-1]), np.hypot(se[1:-1, 2:], se[1:-1, :-2])
    return away[0] * along_x + away[1] * along_y, np.hypot(away[0] * errors[0], away[1] * errors[1])


def _bends(loss: Array, se: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """How far the chord lies above the middle of three neighbours, along both axes; flat."""
    values, errors = [], []
    for z, e, at in ((loss, se, x), (loss.T, se.T, y)):
        w = ((at[1:-1] - at[:-2]) / (at[2:] - at[:-2]))[:, None]
        values.append(((1 - w) * z[:-2] + w * z[2:] - z[1:-1]).ravel())
        errors.append(np.sqrt(((1 - w) * e[:-2]) ** 2 + (w * e[2:]) ** 2 + e[1:-1] ** 2).ravel())
    return np.concatenate(values), np.concatenate(errors)


def local_minima(loss: Array) -> list[LocalMinimum]:
    """Find every local minimum inside the border but the lowest, and the easiest way from it to lower ground.

    The ground is flooded from its lowest point up. Where two lakes meet, the one with the higher bottom ends: from its
    bottom the way to lower ground leads over this place.

    Parameters
    ----------
    loss : ndarray of one dimension or more
        On a grid; places that are not finite are no ground.

    Returns
    -------
    list of LocalMinimum
        In the order in which the flood closes them, with places as indices into the array.

    Examples
    --------
    >>> local_minima(np.array([9.0, 0.0, 4.0, 1.0, 9.0]))
    [LocalMinimum(at=(3,), saddle=(2,), depth=3.0)]
    """
    k = loss.ndim
    near = [step for step in itertools.product((-1, 0, 1), repeat=k) if any(step)]
    lake: dict[tuple[int, ...], tuple[int, ...]] = {}  # of a flooded place: another of the same lake, nearer its bottom

    def bottom(place: tuple[int, ...]) -> tuple[int, ...]:
        while lake[place] != place:
            lake[place] = lake[lake[place]]
            place = lake[place]
        return place

    found = []
    order = np.argsort(loss, axis=None, kind="stable")[: int(np.isfinite(loss).sum())]
    for place in zip(*(axis.tolist() for axis in np.unravel_index(order, loss.shape)), strict=True):
        around = (tuple(i + d for i, d in zip(place, step, strict=True)) for step in near)
        meeting = sorted({bottom(beside) for beside in around if beside in lake}, key=lambda at: float(loss[at]))
        lake[place] = meeting[0] if meeting else place
        for at in meeting[1:]:
            lake[at] = meeting[0]
            inside = all(0 < i < n - 1 for i, n in zip(at, loss.shape, strict=True))
            if inside and loss[place] > loss[at]:
                found.append(LocalMinimum(at, place, float(loss[place] - loss[at])))
    return found
