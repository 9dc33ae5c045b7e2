"""Surfaces from measured rows, tables and samples, and back. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.geometry import mesh
from lossnav._utils.jsonable import jsonable
from lossnav._utils.lazy_import import lazily
from lossnav._utils.paths import (
    SURFACE_SCHEMA,
)
from lossnav._version import __version__
from lossnav.errors import OptionError, StoreError
from lossnav.storage import journal
from lossnav.storage import samples as kept
from lossnav.storage.journal import Row, Rows, is_same, joined
from lossnav.storage.reading import (
    array_of,
    documents_of,
    group_of,
)
from lossnav.surface.variables import _MATRIX, FAILED, NOT_EVALUATED, SCHEMA_VERSION, describe_variables, validate

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazily("xarray")

if TYPE_CHECKING:
    pass


def assemble(
    dims: Sequence[str],
    axes: Mapping[str, NDArray[np.float64]] | None,
    points: NDArray[np.float64],
    rows: Sequence[Mapping[str, float]],
    statuses: Sequence[int],
    attributes: Mapping[str, Any],
) -> xr.Dataset:
    """Make a surface from measured rows.

    Parameters
    ----------
    dims : sequence of str
        Names of the k coordinates.
    axes : mapping of str to ndarray, or None
        With axes the surface has their grid shape; points not given are "not evaluated". Without, one dim ``point``.
    points : ndarray of shape (m, k)
    rows : m mappings of name to value
        Empty for failed points.
    statuses : m status codes
    attributes : mapping
        Provenance: ``objective``, ``chart``, ``sampler``, ``engine``, ``center``, ``seconds``, ...

    Returns
    -------
    xarray.Dataset
        A surface that `validate` accepts.
    """
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["loss"]
    values = {name: np.array([row.get(name, math.nan) for row in rows], np.float64) for name in names}
    return assemble_table(dims, axes, Rows(points, np.asarray(statuses, np.uint8), values), attributes)


def assemble_table(
    dims: Sequence[str], axes: Mapping[str, NDArray[np.float64]] | None, rows: Rows, attributes: Mapping[str, Any]
) -> xr.Dataset:
    """Make a surface from a table of rows."""
    dataset = arrays_of(dims, axes, rows)
    header = {"schema": SURFACE_SCHEMA, "schema_version": SCHEMA_VERSION, "lossnav_version": __version__}
    dataset.attrs = header | {"created": datetime.now(UTC).isoformat(timespec="seconds")} | jsonable(attributes)
    describe_variables(dataset)
    return validate(dataset)


def arrays_of(dims: Sequence[str], axes: Mapping[str, NDArray[np.float64]] | None, rows: Rows) -> xr.Dataset:
    """Return the values of a table and their status as variables, without descriptions."""
    points = rows.points
    if axes is not None:
        shape: tuple[int, ...] = tuple(len(axes[dim]) for dim in dims)
        where = tuple(np.searchsorted(axes[dim], points[:, i]) for i, dim in enumerate(dims))
        value_dims: tuple[str, ...] = tuple(dims)
        coords: dict[str, Any] = {dim: (dim, axes[dim]) for dim in dims}
    else:
        shape, where, value_dims = (len(points),), (np.arange(len(points)),), ("point",)
        coords = {dim: ("point", points[:, i].copy()) for i, dim in enumerate(dims)}
    variables: dict[str, Any] = {}
    for name, column in (rows.values or {"loss": np.full(len(rows), np.nan)}).items():
        values = np.full(shape, np.nan)
        values[where] = column
        variables[name] = (value_dims, values)
    variables = _joined_entries(variables)
    status = np.zeros(shape, np.uint8)
    status[where] = rows.status
    variables["status"] = (value_dims, status)
    return xr.Dataset(variables, coords=coords)


def require_axes(dims: Sequence[str], axes: Mapping[str, NDArray[np.float64]] | None) -> None:
    """Raise OptionError unless a grid has increasing coordinates along each dim."""
    if axes is None:
        return
    if set(axes) != set(dims) or not all(np.ndim(axis) == 1 and (np.diff(axis) > 0).all() for axis in axes.values()):
        raise OptionError(
            f"The axes must be increasing coordinates for each of {', '.join(dims)}, got {dict(axes)}. Pass those of "
            "the grid: axes=grid.axes."
        )


def require_place(
    point: NDArray[np.float64], dims: Sequence[str], axes: Mapping[str, NDArray[np.float64]] | None
) -> None:
    """Raise OptionError for a point that is not finite or not on the grid."""
    if point.shape != (len(dims),) or not np.isfinite(point).all():
        raise OptionError(
            f"The point {point.tolist()} has no finite value for each of {', '.join(dims)}. Pass an array of shape "
            f"({len(dims)},)."
        )
    for dim, x in zip(dims, point.tolist(), strict=True) if axes is not None else ():
        axis = axes[dim]  # type: ignore[index]
        i = int(np.searchsorted(axis, x))
        if i == len(axis) or axis[i] != x:
            raise OptionError(
                f"{dim} = {x!r} is not a coordinate of the grid. Take the points from its axes, or leave out axes= for "
                "points outside a grid."
            )


def table_of(dataset: xr.Dataset) -> Rows:
    """Return the measured (or failed) points as columns; each entry of a matrix is a column."""
    status = dataset["status"].values.reshape(-1)
    done = status != NOT_EVALUATED
    columns: dict[str, NDArray[np.float64]] = {}
    for name in map(str, without_samples(dataset).data_vars):
        entries = dataset[name].values.reshape(status.size, *dataset[name].shape[dataset["status"].ndim :])
        if name != "status":
            columns |= {f"{name}{list(at) or ''}": entries[:, *at][done] for at in np.ndindex(entries.shape[1:])}
    return Rows(points_of(dataset)[done] + 0.0, status[done], columns)


def with_rows(dataset: xr.Dataset, tables: Sequence[Rows]) -> xr.Dataset:
    """Return the surface with further rows; of two values of a point the later one is kept."""
    mine = table_of(dataset)
    k = mine.points.shape[1]
    axes = None if "point" in dataset.dims else {str(dim): dataset[dim].values for dim in dataset["loss"].dims}
    rows = joined([mine, *(on_axes(table, axes) for table in tables)], k)
    if is_same(rows, mine):
        return dataset
    made = assemble_table(list(dataset.attrs["chart"]["dims"]), axes, rows, dataset.attrs)
    made.attrs = dict(dataset.attrs)
    return made


def on_axes(rows: Rows, axes: Mapping[str, NDArray[np.float64]] | None) -> Rows:
    """Return the rows that lie on a grid: all of them, unless they belong to another run."""
    if axes is None:
        return rows
    there = np.ones(len(rows), bool)
    for axis, column in zip(axes.values(), rows.points.T, strict=True):
        at = np.clip(np.searchsorted(axis, column), 0, len(axis) - 1)
        there &= axis[at] == column
    return rows if there.all() else rows.take(there)


def rows_of(dataset: xr.Dataset) -> Iterator[Row]:
    """Yield the measured (or failed) points with their values."""
    for row in journal.rows_of(table_of(dataset)):
        yield row if row.status != FAILED else row._replace(values={})


def _joined_entries(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Merge variables called ``name[0, 0]``, ``name[0, 1]`` and so on into one with dims ``row`` and ``column``."""
    made: dict[str, Any] = {}
    for name, (dims, values) in variables.items():
        whole, _, place = name.partition("[")
        if not place:
            made[name] = (dims, values)
            continue
        at = tuple(int(part) for part in place.rstrip("]").split(","))
        k = max(int(other.rpartition(", ")[2].rstrip("]")) for other in variables if other.startswith(f"{whole}[")) + 1
        made.setdefault(whole, ((*dims, *_MATRIX), np.full((*values.shape, k, k), np.nan)))
        made[whole][1][..., *at] = values
    return made


def without_samples(dataset: xr.Dataset) -> xr.Dataset:
    """Return the surface without the losses of single samples."""
    return dataset.drop_vars(kept.VARIABLES, errors="ignore")


def with_samples(
    dataset: xr.Dataset, losses: NDArray[np.float32] | xr.Variable, weights: NDArray[np.float64] | xr.Variable
) -> xr.Dataset:
    """Return the surface with losses of single samples, shape (*points, n), and their weights, shape (n,)."""
    dims = dataset["loss"].dims
    values = {kept.LOSS: ((*dims, kept.DIM), losses), kept.WEIGHT: ((kept.DIM,), weights)}
    made = dataset.assign({name: xr.Variable(d, getattr(v, "_data", v)) for name, (d, v) in values.items()})
    describe_variables(made)
    return validate(made)


def points_of(dataset: xr.Dataset) -> NDArray[np.float64]:
    """Return the coordinates of every point, shape (m, k), in the order of the flattened variables."""
    dims = [str(dim) for dim in dataset.attrs["chart"]["dims"] if str(dim) in dataset.coords]
    if "point" in dataset.dims:
        return np.stack([dataset[dim].values for dim in dims], axis=1).astype(np.float64)
    return mesh(dataset[dim].values.astype(np.float64) for dim in dataset["loss"].dims)


def attach_samples(dataset: xr.Dataset, source: Any, root: Any = None) -> xr.Dataset:
    """Return the surface of a store with its losses of single samples, which are read when used."""
    documents = documents_of(source)
    if documents is None or not set(kept.VARIABLES) <= set(documents.arrays):
        return dataset
    from lossnav.storage.lazy_array import LazyArray  # which imports xarray

    root = group_of(source) if root is None else root
    made = {}
    for name in kept.VARIABLES:
        array, dims = array_of(root, name), documents.arrays[name].get("dimension_names") or ()
        if len(dims) != array.ndim:
            raise StoreError(f"{name} has {array.ndim} dims and {len(dims)} names of them. It was damaged.")
        made[name] = LazyArray.variable(array, name, dims)
    losses, weights = made[kept.LOSS], made[kept.WEIGHT]
    rows = dataset["loss"].shape
    if "point" in dataset.dims and losses.ndim == 2:
        losses = losses[: dataset.sizes["point"]]  # while a run goes on there is room for more
    if losses.shape != (*rows, *weights.shape):
        raise StoreError(f"{kept.LOSS} has shape {losses.shape}, where that of the points is {rows}. It was damaged.")
    return with_samples(dataset, losses, weights)
