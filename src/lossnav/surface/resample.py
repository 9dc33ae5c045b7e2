"""Interpolation of scattered points on a regular grid, with an estimate of its error. No torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.geometry import mesh, nearest, packed
from lossnav._utils.jsonable import jsonable
from lossnav._utils.lazy_import import lazily
from lossnav.errors import (
    OptionError,
)
from lossnav.surface.assemble import points_of, without_samples
from lossnav.surface.seeds import of_one_seed
from lossnav.surface.variables import NOT_EVALUATED, OK, validate

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazily("xarray")

if TYPE_CHECKING:
    from lossnav._utils.interpolation import Interpolant


_ONE_PLACE = 1e-9  # of the range: a grid point closer than this to a measured point is that point
_LEFT_OUT = 1000  # maximum number of points that are predicted from the others to estimate the error


def resample(dataset: xr.Dataset, n: int | None = None) -> xr.Dataset:
    """Interpolate a surface on a regular grid over the range of its points.

    A polyharmonic spline of log-loss (of the loss, if not all are positive) through every finite point.

    Parameters
    ----------
    dataset : xarray.Dataset
        A surface of point shape, or of grid shape, which may be incomplete.
    n : int, optional
        Points along each axis; by default the surface's own grid, or 201 (in two dimensions 101, in three 41).

    Returns
    -------
    xarray.Dataset
        A surface of grid shape with a variable ``interpolated``: 0 where the value was measured, 1 where it was
        interpolated. A grid point whose nearest measured point is not finite (or failed) has no value and the status of
        that point, and so have all grid points around it: the surface does not bridge holes. A grid point outside all
        measured points is not evaluated. Other variables than the loss stay within the range of their measured values.
        ``attrs["interpolation"]`` has an estimate of the error: ``left_out_error`` (largest) and ``left_out_error_p99``
        (99th percentile), the relative difference of each loss from the prediction by the other points (without
        logarithms: as a fraction of their range). For more than 1,200 points they are estimated from 1,000 random ones,
        and the percentile is an upper limit (95 % confidence).

    Raises
    ------
    NotASurfaceError
        If the dataset is not a surface.
    OptionError
        If n is below 2, no point was evaluated, or all points have one value of a coordinate.
    """
    from lossnav._utils.interpolation import DIRECT

    made, loss, points, columns = _interpolated(dataset, n)
    errors = loss.left_out(_LEFT_OUT)
    errors = errors[np.isfinite(errors)]
    off = {
        "left_out_error": float(errors.max()) if len(errors) else math.nan,
        "left_out_error_p99": _largest_but_one_per_cent(errors, len(loss.points) > DIRECT),
        "left_out_points": len(errors),
    }
    there = {"measured": packed(points), "values": {name: packed(values) for name, values in columns.items()}}
    made.attrs["interpolation"] |= jsonable(off) | there
    return validate(made)


def between(dataset: xr.Dataset, n: int | None = None) -> xr.Dataset:
    """Return the result of `resample` without the estimate of its error and without the measured points."""
    return validate(_interpolated(dataset, n)[0])


def _interpolated(
    dataset: xr.Dataset, n: int | None
) -> tuple[xr.Dataset, Interpolant, NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Return the result of `between`, the interpolated loss, the points that have one, and their values."""
    from lossnav._utils.interpolation import interpolants, together

    dataset = without_samples(validate(dataset))
    if "seed" in dataset.dims:
        raise OptionError(
            f"This surface is of several seeds. Take one, surface.lossnav.seed({int(dataset['seed'][0])}), or their "
            "mean, over_seeds()."
        )
    dataset = of_one_seed(dataset)
    dims = [str(dim) for dim in (dataset.attrs["chart"]["dims"] if "point" in dataset.dims else dataset["loss"].dims)]
    status = dataset["status"].values.reshape(-1)
    done = status != NOT_EVALUATED
    points, status = points_of(dataset)[done], status[done]
    if not len(points) or (n is not None and n < 2):
        raise OptionError(
            f"A grid needs measured points and n of at least 2, got {len(points)} "
            f"points and n={n}. Evaluate some points."
        )
    if n is None and "point" not in dataset.dims:
        axes = [dataset[dim].values.astype(np.float64) for dim in dims]
    else:
        for dim, low, high in zip(dims, points.min(0), points.max(0), strict=True):
            if low == high:
                raise OptionError(
                    f"All {len(points)} points have {dim} = {low:g}, so there is no axis. Evaluate points with other "
                    f"values of {dim} too, or a chart without it."
                )
        count = n or {1: 201, 2: 101}.get(len(dims), 41)
        axes = [np.linspace(low, high, count) for low, high in zip(points.min(0), points.max(0), strict=True)]
    places = mesh(axes)
    shape = tuple(len(axis) for axis in axes)
    distance, beside = nearest(points, places)
    measured = distance < _ONE_PLACE
    columns = {
        str(name): dataset[name].values.reshape(-1)[done].astype(np.float64)
        for name in dataset.data_vars
        if name not in ("status", "interpolated") and dataset[name].dims == dataset["loss"].dims
    }
    fields = interpolants(points, columns)
    loss = fields["loss"]
    beyond = ~loss.reaches(places)
    asked = ~measured & ~beyond  # elsewhere nothing is interpolated
    between = np.full((len(fields), len(places)), np.nan)
    between[:, asked] = together(list(fields.values()), places[asked])
    variables: dict[str, Any] = {}
    for found, (name, values) in zip(between, columns.items(), strict=True):
        bad = status != OK if name == "loss" else (status != OK) | ~np.isfinite(values)
        hole = np.where(measured | bad[beside], beside, _beside_holes(axes, points, bad))
        if name != "loss" and not bad.all():  # an accuracy of 1.1 is impossible
            np.clip(found, values[~bad].min(), values[~bad].max(), out=found)
        none = np.where(np.isfinite(values), np.nan, values)  # inf stays inf
        found = np.where(measured, values[beside], np.where(hole >= 0, none[hole], found))
        variables[name] = (dims, found.reshape(shape), dataset[name].attrs)
        if name == "loss":
            became = np.where(hole >= 0, status[hole], np.where(beyond, NOT_EVALUATED, OK)).astype(np.uint8)
    variables["status"] = (dims, became.reshape(shape), dataset["status"].attrs)
    meaning = {"long_name": "whether the value was interpolated (1) or measured (0)", "units": "1"}
    variables["interpolated"] = (dims, (~measured).astype(np.uint8).reshape(shape), meaning)
    coords = {dim: (dim, axis, dataset[dim].attrs) for dim, axis in zip(dims, axes, strict=True)}
    others = {name: coord for name, coord in dataset.coords.items() if name not in dims and coord.ndim == 0}
    ok = status == OK
    said = {
        "method": f"polyharmonic spline of {'log-loss' if loss.log else 'the loss'}",
        "points": len(points),
        "holes": int((~ok).sum()),
        "dims": dims,
    }
    made = xr.Dataset(variables, coords=coords | others, attrs=dataset.attrs | {"interpolation": said})
    return made, loss, points[ok], {name: values[ok] for name, values in columns.items()}


def _largest_but_one_per_cent(errors: NDArray[np.float64], sampled: bool) -> float:
    """Return the 99th percentile of the errors of all points; for a sample of them an upper limit (95 % confidence).

    The number of points below it is binomial, for any distribution.
    """
    if not len(errors):
        return math.nan
    if not sampled or len(errors) < _LEFT_OUT:
        return float(np.quantile(errors, 0.99))
    n = len(errors)
    rank = math.ceil(0.99 * n + 1.645 * math.sqrt(0.0099 * n) + 1)
    return float(np.sort(errors)[min(rank, n) - 1])


def _beside_holes(
    axes: Sequence[NDArray[np.float64]], points: NDArray[np.float64], bad: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """Return for each grid point the number of a bad point in one of its cells, or -1.

    A point on a side of a cell affects the ends of that side, and a point on a grid point only that one.
    """
    found = np.full([len(axis) for axis in axes], -1, np.intp)
    numbers = np.flatnonzero(bad)
    ends: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []  # grid points on both sides
    for axis, x in zip(axes, points[numbers].T, strict=True):
        after = np.clip(np.searchsorted(axis, x), min(1, len(axis) - 1), len(axis) - 1)
        before = np.maximum(after - 1, 0)
        near = np.where(np.abs(axis[before] - x) <= np.abs(axis[after] - x), before, after)
        on_it = (np.abs(axis[near] - x) <= _ONE_PLACE * (axis[-1] - axis[0])) | (len(axis) == 1)
        ends.append((np.where(on_it, near, before), np.where(on_it, near, after)))
    for corner in itertools.product(*ends):  # of several points the last one counts
        np.maximum.at(found, corner, numbers)
    return found.reshape(-1)
