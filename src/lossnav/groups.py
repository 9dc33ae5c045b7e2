"""What lies beside a surface in its store: datasets in groups of their own. No torch."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import xarray as xr

from lossnav import __version__
from lossnav.errors import NotATrajectoryError, SchemaTooNewError, StoreError
from lossnav.files import TRAJECTORY_SCHEMA, Place, as_path, is_local, is_there, name_of, swap_in

TRAJECTORY = "trajectory"
TRAJECTORY_VERSION = 1


def save_group(dataset: xr.Dataset, place: Place, name: str) -> None:
    """Write a dataset into a group of a store, in place of what the group held; locally whole or not at all.

    Raises
    ------
    StoreError
        If it cannot be written; `.surface` of the error holds the dataset.
    """
    place = as_path(place)
    clean = dataset.copy()
    for variable in clean.variables.values():
        variable.encoding = {}
    options: dict[str, Any] = {"zarr_format": 3, "consolidated": False}
    scratch: Path | None = None
    try:
        if not is_local(place):
            clean.to_zarr(place, group=name, mode="w", **options)
            return
        target = Path(place).expanduser() / name
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=target.parent.parent))
        clean.to_zarr(scratch / "new", mode="w-", **options)
        swap_in(scratch / "new", target, scratch / "old")
    except Exception as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        failure = StoreError(
            f"The group {name} of {name_of(place)} could not be written: {reason}. Make room and make the same call "
            "again; what was computed is in the .surface of this error."
        )
        failure.surface = dataset
        raise failure from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def open_group(place: Place, name: str) -> xr.Dataset | None:
    """Open what lies in a group of a store, in memory; None where there is no such group."""
    place = as_path(place)
    source = Path(place).expanduser() if is_local(place) else place
    if not is_there(source):
        return None
    try:
        with xr.open_zarr(source, group=name, consolidated=False) as stored:
            found: xr.Dataset = stored.load()
    except (FileNotFoundError, KeyError, ValueError):
        return None
    return found


def open_trajectory(place: Place) -> xr.Dataset:
    """Open the path that `evaluate_trajectory` wrote into a surface's store (docs/schema.md).

    Parameters
    ----------
    place : path, fsspec URL or zarr store

    Returns
    -------
    xarray.Dataset
        With the dim ``snapshot``, in memory.

    Raises
    ------
    NotATrajectoryError
        If there is none.
    SchemaTooNewError
        If a newer lossnav wrote it.
    """
    place = as_path(place)
    source = Path(place).expanduser() if is_local(place) else place
    if not is_there(source):
        raise NotATrajectoryError(f"There is no {name_of(source)}. Check the path.")
    try:
        with xr.open_zarr(source, group=TRAJECTORY, consolidated=False) as stored:
            path = stored.load()
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise NotATrajectoryError(
            f"{name_of(source)} holds no trajectory. Make one with "
            "ln.evaluate_trajectory(objective, chart, trajectory, store=...)."
        ) from error
    return require_path(path)


def require_path(path: xr.Dataset) -> xr.Dataset:
    """Return the dataset if it is a projected trajectory of a schema we know."""
    if not isinstance(path, xr.Dataset) or path.attrs.get("schema") != TRAJECTORY_SCHEMA:
        raise NotATrajectoryError(
            "This is no projected trajectory. Pass what ln.project or ln.evaluate_trajectory made."
        )
    if path.attrs["schema_version"] > TRAJECTORY_VERSION:
        raise SchemaTooNewError(
            f"This trajectory has schema version {path.attrs['schema_version']} and this lossnav ({__version__}) reads "
            f"up to {TRAJECTORY_VERSION}. Upgrade with: pip install --upgrade lossnav"
        )
    return path
