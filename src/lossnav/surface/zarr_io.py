"""Surfaces in Zarr: an `xarray.Dataset` with a documented schema (docs/schema.md), saved and opened.

No torch: a stored surface can be opened and drawn without it. Measured values are stored as they are, including NaN and
inf; `status` has the state of every point.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.lazy_import import lazily
from lossnav._utils.paths import (
    Location,
    as_path,
    is_local,
    is_there,
    name_of,
    replacing,
    require_writable,
)
from lossnav.errors import (
    DamagedStoreWarning,
    NotASurfaceError,
    SchemaTooNewError,
    StoreBusyError,
    StoreError,
)
from lossnav.samplers import Grid
from lossnav.storage import arrays, journal
from lossnav.storage import samples as kept
from lossnav.storage.journal import joined
from lossnav.storage.lease import require_free
from lossnav.storage.reading import (
    Documents,
    array_of,
    dataset_of,
    documents_of,
    group_of,
    read_arrays,
    require_coordinates,
    require_model,
    require_sound,
    write_dataset,
)
from lossnav.storage.schema import SURFACE
from lossnav.surface.assemble import assemble_table, attach_samples, on_axes, table_of
from lossnav.surface.variables import NOT_EVALUATED, OK, _validate_header, validate

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazily("xarray")

if TYPE_CHECKING:
    pass


TILE = kept.TILE  # points along each side of a chunk: one chunk is one tile


# ---------------------------------------------------------------------- files


def save_surface(dataset: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a surface to a Zarr v3 folder, whole or not at all.

    Parameters
    ----------
    dataset : xarray.Dataset
        A surface.
    path : path
        The folder to make, usually named ``*.zarr``.
    overwrite : bool
        Whether to replace existing output.

    Returns
    -------
    Path

    Raises
    ------
    NotASurfaceError, OutputExistsError, OutputNotWritableError
    StoreBusyError
        If a run is writing to it.
    StoreError
        If writing fails (a full disk); `.surface` of the error is the dataset.

    Examples
    --------
    >>> import tempfile, torch, lossnav as ln
    >>> bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(1)})
    >>> surface = ln.evaluate(bowl, ln.Line(bowl.params, {"x": torch.ones(1)}), ln.Grid(alpha=(-1, 1, 3)))
    >>> path = ln.save(surface, tempfile.mkdtemp() + "/bowl.zarr")
    >>> ln.open(path).identical(surface)
    True
    """
    require_model(validate(dataset).attrs, SURFACE)
    target = require_writable(path, overwrite, kind="surface")
    try:
        with replacing(target, folder=True) as new:
            write_dataset(dataset, new)
            require_free(target)
    except StoreBusyError:
        raise
    except StoreError as error:
        failure = StoreError(f"{error} The surface is in the .surface of this error: ln.save(error.surface, path).")
        failure.surface = dataset
        raise failure from error
    return target


def open_surface(path: Location) -> xr.Dataset:
    """Open a stored surface into memory; for a running or killed run, with all points measured so far.

    Losses of single samples stay on disk until they are used, and are read in parts.

    Parameters
    ----------
    path : path, fsspec URL or zarr store

    Returns
    -------
    xarray.Dataset
        With the schema of docs/schema.md. Points in damaged chunks get status 0 (not evaluated), with a
        `DamagedStoreWarning` that names them; then ``attrs["finished"]`` is False.

    Raises
    ------
    NotASurfaceError
        If the path does not exist or is not a surface.
    SchemaTooNewError
        If a newer lossnav wrote it.

    Examples
    --------
    >>> import tempfile, torch, lossnav as ln
    >>> bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(1)})
    >>> line, store = ln.Line(bowl.params, {"x": torch.ones(1)}), tempfile.mkdtemp() + "/bowl.zarr"
    >>> _ = ln.evaluate(bowl, line, ln.Grid(alpha=(-1, 1, 3)), store=store)
    >>> ln.open(store)["loss"].values.tolist()
    [1.0, 0.0, 1.0]
    """
    path = as_path(path)
    source = Path(path).expanduser() if is_local(path) else path
    if not (os.path.lexists(source) if isinstance(source, Path) else is_there(source)):
        raise NotASurfaceError(
            f"There is no {name_of(source)}. Check the path; surfaces are folders, often named *.zarr."
        )
    try:
        documents = documents_of(source)
        if documents is None:
            raise _not_a_surface(source)
        header = documents.attributes
        _validate_header(header)
        root = group_of(source)
        superseded = bool(documents.damaged) and journal.supersedes(root)
        if superseded:  # killed while its arrays were replaced
            whole = {name: said for name, said in documents.arrays.items() if name not in documents.damaged}
            documents = documents._replace(damaged=[], arrays=whole)
        require_sound(documents, SURFACE, source)
        dataset, damaged = _open(root, documents, superseded)
        dataset = attach_samples(_in_order(validate(dataset)), source, root)
    except StoreError as error:
        kind = type(error) if isinstance(error, NotASurfaceError | SchemaTooNewError) else NotASurfaceError
        raise kind(str(error) if str(error).startswith(name_of(source)) else f"{name_of(source)}: {error}") from None
    if damaged:
        dataset.attrs["finished"] = False  # lost points are to be evaluated again
        shown = "; ".join(damaged[:4]) + (f"; and {len(damaged) - 4} more" if len(damaged) > 4 else "")
        warnings.warn(
            f"{name_of(source)} is damaged: {shown}. The points there count as not evaluated; repeating the same "
            "call, or lossnav resume, evaluates them again.",
            DamagedStoreWarning,
            stacklevel=2,
        )
    return dataset


def _open(root: Any, documents: Documents, superseded: bool) -> tuple[xr.Dataset, list[str]]:
    """Return the points of a store, without the losses of single samples, and the names of damaged parts."""
    header, damaged = documents.attributes, list[str]()
    dims = [str(dim) for dim in header["chart"]["dims"]]
    journaled = any(map(len, journal.tables(root, len(dims), damaged)))
    if journaled and "ensemble" in header:
        raise StoreError(
            "It is of several seeds, and has rows of a run in its journal, which belong to none of them. It "
            "was damaged, "
            "or two stores were merged. Remove its folder journal."
        )
    try:
        dataset = None if superseded else arrays_of(root, documents, damaged)
    except StoreError:
        if not journaled:
            raise
        dataset = None  # killed while its arrays were replaced: everything is in the journal
    if dataset is None or journaled:
        axes = _axes_of(root, documents)
        mine = None if dataset is None else table_of(validate(dataset))
        tables = [on_axes(table, axes) for table in journal.known(root, mine, len(dims), damaged=[])]
        dataset = assemble_table(dims, axes, joined(tables, len(dims)), header)
        dataset.attrs = dict(header)
    return dataset, damaged


def arrays_of(root: Any, documents: Documents | None = None, damaged: list[str] | None = None) -> xr.Dataset | None:
    """Return the arrays of a store as a surface, without journal and losses of single samples; None if still empty.

    A point with an unreadable value counts as not evaluated; a point with unreadable coordinates is left out.

    Raises
    ------
    StoreError
        If they are not the arrays of a surface; also a ValueError if their lengths differ.
    """
    documents = documents_of(root.store_path) if documents is None else documents
    if documents is None or "status" not in documents.arrays:
        return None  # killed while it was made: it is still empty
    header = documents.attributes
    found = read_arrays(root, documents, without=kept.VARIABLES)
    for dim in set(found.damaged) & found.coordinates:
        if found.variables[dim][0] == (dim,):
            found.variables[dim] = (
                (dim,),
                _axis_again(header, dim, len(found.variables[dim][1])),
                found.variables[dim][2],
            )
    dataset = dataset_of(found, header)
    if "loss" not in dataset or "status" not in dataset:
        return validate(dataset)  # which reports it
    status = dataset["status"]
    lost = {name: np.zeros(status.shape, bool) for name in ("values", "places")}
    for name, parts in found.damaged.items():
        if found.variables[name][0][: status.ndim] == status.dims and not (
            name in found.coordinates and status.dims == (name,)
        ):
            for part in parts:
                lost["places" if name in found.coordinates else "values"][part[: status.ndim]] = True
        if damaged is not None:
            damaged += [arrays.named(name, part) for part in parts]
    if not documents.sealed and status.shape == dataset["loss"].shape:  # only this shows a missing chunk
        gone = (status.values == OK) & np.isnan(dataset["loss"].values) & ~lost["values"]
        if gone.any() and damaged is not None:
            damaged.append(f"{int(gone.sum())} points with status ok but without a loss")
        lost["values"] |= gone
    if lost["values"].any():
        for each, variable in dataset.data_vars.items():
            if each == "status":
                variable.values[lost["values"]] = NOT_EVALUATED
            elif variable.dtype.kind == "f" and variable.dims[: status.ndim] == status.dims:
                variable.values[lost["values"]] = np.nan
    if lost["places"].any():
        dataset = dataset.isel(point=~lost["places"])
    require_coordinates(dataset, list(map(str, header["chart"]["dims"] if "point" in dataset.dims else status.dims)))
    return dataset


def _axis_again(header: Mapping[str, Any], dim: str, n: int) -> NDArray[Any]:
    """Return the coordinates along an axis from the attributes, if the stored ones are damaged."""
    said = header.get("sampler", {})
    if dim == "seed":
        return np.array(header["ensemble"]["seeds"], np.int64)
    if (axis := said.get("coordinates", {}).get(dim)) is None and len(ends := said.get("axes", {}).get(dim, ())) == 3:
        axis = Grid.again({"axes": {dim: ends}}).axes[dim] if 0 < ends[2] == n else None
    if axis is None or len(axis) != n:
        raise NotASurfaceError(
            f"Its coordinate {dim!r} is damaged, and its attributes do not contain it. Evaluate it again."
        )
    return np.asarray(axis, np.float64)


def _in_order(dataset: xr.Dataset) -> xr.Dataset:
    """Order the variables: the loss, its error and skewness, metrics, the status.

    The order of a folder listing depends on the file system.
    """
    metrics = dataset.attrs.get("objective", {}).get("metrics") or ()
    first: list[str] = ["loss", "loss_se", "loss_skewness", *map(str, metrics)]
    names = sorted(str(name) for name in dataset.data_vars if name not in (*first, "status"))
    return dataset[[name for name in (*first, *names, "status") if name in dataset.data_vars]]


def _not_a_surface(source: Location) -> NotASurfaceError:
    return NotASurfaceError(
        f"{name_of(source)} is not a lossnav surface: it cannot be opened as Zarr. "
        "Pass a folder that lossnav evaluate wrote."
    )


def _axes_of(root: Any, documents: Documents) -> dict[str, NDArray[np.float64]] | None:
    """Return the stored axes of a grid; None for point shape."""
    header, axes = documents.attributes, {}
    dims = [str(dim) for dim in header["chart"]["dims"]]
    for dim in dims:
        if (said := documents.arrays.get(dim)) is not None:
            if said.get("dimension_names") != [dim]:
                return None
            values, lost = arrays.read(array_of(root, dim))
            known = not lost and np.isfinite(values).all()  # killed while it was made, before an axis was written
            axes[dim] = np.asarray(values, np.float64) if known else _axis_again(header, dim, len(values))
        elif len(ends := header.get("sampler", {}).get("axes", {}).get(dim, ())) == 3:  # it was being replaced
            axes[dim] = _axis_again(header, dim, int(ends[2]))
        else:
            return None
    require_coordinates(xr.Dataset(coords=axes), dims)
    return axes
