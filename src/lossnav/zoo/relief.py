"""How rough a plane is: where the loss falls away from the centre, where it is not convex, how deep its pits are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossnav.errors import OptionError

Array = NDArray[np.float64]

_SURE = 2.0  # standard errors


@dataclass(frozen=True)
class Relief:
    """Numbers for the shape of a surface over a plane, as far as its grid shows it.

    "Surely" is by more than two standard errors over the samples, as if the errors of neighbouring points were
    independent. They are errors of the same samples and mostly cancel: it is the least that would be found again with
    other samples, while the number without "surely" is exact for these.

    Attributes
    ----------
    falling, falling_surely : float
        Part of the inner points, the centre left out, at which the loss falls on the straight way outwards: there the
        way downhill does not lead to the centre. By central differences.
    bent, bent_surely : float
        Part of the triples of neighbours, along rows and columns, whose middle lies above the chord: not convex.
    pits, pits_surely : int
        Local minima (among eight neighbours) inside the border, the lowest point of all left out.
    depth, depth_se : float
        Of the deepest pit: how far the loss has to rise on the easiest way from it to a lower place (its persistence),
        in the unit of the loss; 0 and nan where there is none.
    rise : float
        Median of the loss over the plane, above its lowest: how steep the ground is, whatever its shape.
    """

    falling: float
    falling_surely: float
    bent: float
    bent_surely: float
    pits: int
    pits_surely: int
    depth: float
    depth_se: float
    rise: float


def relief(surface: xr.Dataset, step: int = 1) -> Relief:
    """Measure the relief of a plane.

    Parameters
    ----------
    surface : xarray.Dataset
        A surface of grid shape over two coordinates.
    step : int
        Take every so many points of each axis only, the first among them.

    Returns
    -------
    Relief
        Places with a neighbour that is not finite are left out. Standard errors are 0 where the surface has none.

    Raises
    ------
    OptionError
        If it is no plane on a grid of at least 3x3.

    References
    ----------
    Li et al. 2018, section 6, call a surface chaotic where in large regions the gradient does not point towards the
    minimizer at the centre. They give no number; `falling` is the one that this sentence asks for. Persistence:
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
    falling, bent = _outwards(loss, se, x, y), _bends(loss, se, x, y)
    pits = sorted(_pits(loss, se), reverse=True)
    deepest = pits[0] if pits else (0.0, math.nan)
    surely = sum(depth > _SURE * error for depth, error in pits)
    rise = float(np.nanmedian(loss) - np.nanmin(loss)) if np.isfinite(loss).any() else math.nan
    return Relief(*_parts(*falling), *_parts(*bent), len(pits), surely, *deepest, rise)


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


def _pits(loss: Array, se: Array) -> list[tuple[float, float]]:
    """Depth of every local minimum inside the border but the lowest, with its standard error.

    The plane is flooded from its lowest point up. Where two lakes meet, the one with the higher bottom ends: from its
    bottom the way to lower ground leads over this place.
    """
    rows, columns = loss.shape
    lake: dict[tuple[int, int], tuple[int, int]] = {}  # of a flooded point: another of the same lake, nearer its bottom

    def bottom(place: tuple[int, int]) -> tuple[int, int]:
        while lake[place] != place:
            lake[place] = lake[lake[place]]
            place = lake[place]
        return place

    found = []
    for flat in np.argsort(loss, axis=None, kind="stable")[: int(np.isfinite(loss).sum())]:
        place = i, j = divmod(int(flat), columns)
        around = [(i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)]
        meeting = sorted({bottom(near) for near in around if near in lake}, key=lambda at: float(loss[at]))
        lake[place] = meeting[0] if meeting else place
        for at in meeting[1:]:
            lake[at] = meeting[0]
            inside = 0 < at[0] < rows - 1 and 0 < at[1] < columns - 1
            if inside and loss[place] > loss[at]:
                found.append((float(loss[place] - loss[at]), float(np.hypot(se[place], se[at]))))
    return found
