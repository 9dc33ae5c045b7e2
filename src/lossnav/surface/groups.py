"""Datasets in groups beside a surface: trajectory, report, spectrum; a spectrum also in its own store. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lossnav._utils.lazy_import import lazily
from lossnav._utils.paths import (
    SURFACE_SCHEMA,
    TRAJECTORY_SCHEMA,
    Location,
    as_path,
    is_local,
    is_there,
    name_of,
    not_written,
    replacing,
    require_writable,
)
from lossnav._version import __version__
from lossnav.errors import NotASpectrumError, NotATrajectoryError, OutputExistsError, SchemaTooNewError, StoreError
from lossnav.storage.arrays import unsealed
from lossnav.storage.reading import read_group, write_dataset
from lossnav.storage.schema import REPORT, anything
from lossnav.storage.schema import SPECTRUM as SPECTRUM_MODEL
from lossnav.storage.schema import TRAJECTORY as TRAJECTORY_MODEL

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazily("xarray")

TRAJECTORY = "trajectory"
TRAJECTORY_VERSION = 1
SPECTRUM = "spectrum"
SPECTRUM_SCHEMA = "lossnav.spectrum"
SPECTRUM_VERSION = 1

_MODELS: dict[str, Any] = {TRAJECTORY: TRAJECTORY_MODEL, SPECTRUM: SPECTRUM_MODEL, "report": REPORT}
_WORDS = "<U8"  # of coordinates in memory; Zarr only has strings of any length


def save_group(dataset: xr.Dataset, place: Location, name: str | None) -> None:
    """Write a dataset into a group of a store, replacing the group; on a local disk in one step.

    Without a name it is the store itself.

    Raises
    ------
    StoreError
        If it cannot be written; `.surface` of the error is the dataset.
    """
    place = as_path(place)
    try:
        if not is_local(place):
            write_dataset(dataset, place, name, mode="w")
            return
        store = Path(place).expanduser()
        target = store / name if name else store
        with replacing(target, folder=True, within=store.parent) as new:
            write_dataset(dataset, new)
    except Exception as error:
        shown = f"{f'The group {name} of ' if name else ''}{name_of(place)}"
        if not isinstance(error, StoreError):  # from an object store
            system = error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}")
            error = not_written(shown, system)
        failure = StoreError(
            f"{error} The result so far is in the .surface of this error; the same call resumes the run."
        )
        failure.surface = dataset
        raise failure from error


def open_group(place: Location, name: str) -> xr.Dataset | None:
    """Open a group of a store into memory; None if there is no such group."""
    place = as_path(place)
    source = Path(place).expanduser() if is_local(place) else place
    if not is_there(source):
        return None
    try:
        return read_group(source, name, _MODELS.get(name, anything))
    except StoreError as error:
        raise type(error)(f"The group {name} of {name_of(place)}: {error}") from None


def open_trajectory(place: Location) -> xr.Dataset:
    """Open the path that `evaluate_trajectory` wrote to the store of a surface (docs/schema.md).

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
        If the store has no trajectory.
    SchemaTooNewError
        If a newer lossnav wrote it.

    Examples
    --------
    >>> import tempfile
    >>> try:
    ...     open_trajectory(tempfile.mkdtemp() + "/run.zarr")
    ... except NotATrajectoryError as error:
    ...     print(str(error)[:11])
    There is no
    """
    place = as_path(place)
    source = Path(place).expanduser() if is_local(place) else place
    if not is_there(source):
        raise NotATrajectoryError(f"There is no {name_of(source)}. Check the path.")
    try:
        path = read_group(source, TRAJECTORY, TRAJECTORY_MODEL)
    except StoreError as error:
        raise NotATrajectoryError(f"The trajectory in {name_of(source)}: {error}") from None
    if path is None:
        raise NotATrajectoryError(
            f"{name_of(source)} contains no trajectory. Make one with "
            "ln.evaluate_trajectory(objective, chart, trajectory, store=...)."
        )
    return require_path(path)


def require_path(path: xr.Dataset) -> xr.Dataset:
    """Return the dataset if it is a projected trajectory with a known schema."""
    if not isinstance(path, xr.Dataset) or path.attrs.get("schema") != TRAJECTORY_SCHEMA:
        raise NotATrajectoryError(
            "This dataset is not a projected trajectory. Pass the result of ln.project or ln.evaluate_trajectory."
        )
    if path.attrs["schema_version"] > TRAJECTORY_VERSION:
        raise SchemaTooNewError(
            f"This trajectory has schema version {path.attrs['schema_version']}, but this lossnav "
            f"({__version__}) reads "
            f"up to {TRAJECTORY_VERSION}. Upgrade with: pip install --upgrade lossnav"
        )
    return path


def open_spectrum(place: Location) -> xr.Dataset:
    """Open a spectrum that `spectrum` stored: alone, or beside a surface (docs/schema.md).

    Parameters
    ----------
    place : path, fsspec URL or zarr store
        Store of the spectrum, or of the surface beside which it is stored.

    Returns
    -------
    xarray.Dataset
        In memory.

    Raises
    ------
    NotASpectrumError
        If the store has no spectrum, or it is damaged.
    SchemaTooNewError
        If a newer lossnav wrote it.

    Examples
    --------
    >>> import tempfile, torch, lossnav as ln
    >>> saddle = ln.Objective.from_function(lambda p: p["x"][0] ** 2 - p["x"][1] ** 2, {"x": torch.zeros(2)})
    >>> store = tempfile.mkdtemp() + "/spectrum.zarr"
    >>> _ = ln.spectrum(saddle, top=1, store=store)
    >>> sorted(round(float(value), 3) for value in ln.open_spectrum(store)["eigenvalue"].values)
    [-2.0, 2.0]
    """
    place = as_path(place)
    source = Path(place).expanduser() if is_local(place) else place
    if not is_there(source):
        raise NotASpectrumError(f"There is no {name_of(source)}. Check the path.")
    group = None if _schema_of(source) == SPECTRUM_SCHEMA else SPECTRUM
    try:
        spectrum = read_group(source, group or "", SPECTRUM_MODEL)
    except StoreError as error:
        raise NotASpectrumError(f"The spectrum in {name_of(source)}: {error}") from None
    if spectrum is None:
        raise NotASpectrumError(
            f"{name_of(source)} contains no spectrum. Make one with ln.spectrum(objective, store=...) or "
            "lossnav curvature."
        )
    if "end" in spectrum.coords:
        words = np.array(spectrum["end"].values.tolist(), dtype=_WORDS)
        spectrum = spectrum.assign_coords(end=spectrum["end"].copy(data=words))
    return require_spectrum(spectrum)


def save_spectrum(spectrum: xr.Dataset, place: Location, group: str | None) -> None:
    """Write a spectrum to the place that `spectrum_place` returned.

    Raises
    ------
    StoreError
        If it cannot be written; `.surface` of the error is the spectrum.
    """
    words = spectrum["end"].astype(object)
    save_group(spectrum.assign_coords(end=words), place, group)


def spectrum_place(place: Location, overwrite: bool) -> tuple[str | None, dict[str, Any]]:
    """Return, before anything is computed, where a spectrum will be stored: a group, or None for the store itself.

    Returns
    -------
    group : str or None
    attributes : dict
        Attributes of the surface beside it; empty if there is none.

    Raises
    ------
    OutputExistsError
        If a finished spectrum exists and `overwrite` is False, or the path is something else.
    OutputNotWritableError
        If the folder cannot be written.
    """
    place = as_path(place)
    if not is_there(place):
        if is_local(place):
            require_writable(place, overwrite=True, kind="surface")
        return None, {}
    schema, attributes = _schema_of(place), _attributes_of(place)
    if schema not in (SURFACE_SCHEMA, SPECTRUM_SCHEMA):
        raise OutputExistsError(
            f"{name_of(place)} exists and is neither a surface nor a spectrum. Choose another name."
        )
    try:
        there = {} if overwrite else open_spectrum(place).attrs
    except NotASpectrumError:
        there = {"interrupted": True} if schema == SURFACE_SCHEMA else {}
    if not overwrite and not there.get("interrupted"):
        raise OutputExistsError(
            f"{name_of(place)} contains a spectrum. Choose another name, or pass overwrite=True (--overwrite)."
        )
    return (SPECTRUM, attributes) if schema == SURFACE_SCHEMA else (None, {})


def require_spectrum(spectrum: xr.Dataset) -> xr.Dataset:
    """Return the dataset if it is a spectrum with a known schema.

    Raises
    ------
    NotASpectrumError
        If the schema or the eigenvalues are missing, or shapes do not match.
    SchemaTooNewError
        If a newer lossnav wrote it.
    """
    if not isinstance(spectrum, xr.Dataset) or spectrum.attrs.get("schema") != SPECTRUM_SCHEMA:
        raise NotASpectrumError("This dataset is not a spectrum. Pass the result of ln.spectrum.")
    version = spectrum.attrs.get("schema_version")
    if not isinstance(version, int):
        raise NotASpectrumError("This spectrum lacks its schema version, so it is damaged. Compute it again.")
    if version > SPECTRUM_VERSION:
        raise SchemaTooNewError(
            f"This spectrum has schema version {version}, but this lossnav ({__version__}) reads up to "
            f"{SPECTRUM_VERSION}. Upgrade with: pip install --upgrade lossnav"
        )
    dims: dict[str, tuple[str, ...]] = dict.fromkeys(("eigenvalue", "eigenvalue_error", "end"), ("eigenpair",))
    if "density" in spectrum:
        dims |= dict.fromkeys(("density", "density_error", "value"), ("value",))
        dims |= dict.fromkeys(("node", "weight"), ("probe", "step"))
    for name, wanted in dims.items():
        if name not in spectrum.variables or spectrum[name].dims != wanted:
            raise NotASpectrumError(
                f'This spectrum lacks the variable "{name}" over {" and ".join(wanted)}, so it is damaged. '
                "Compute it again."
            )
    return spectrum


def _attributes_of(place: Location) -> dict[str, Any]:
    import zarr

    try:
        return unsealed(zarr.open_group(Path(place).expanduser() if is_local(place) else place, mode="r").attrs)
    except Exception:  # not Zarr; the caller reports it
        return {}


def _schema_of(place: Location) -> Any:
    return _attributes_of(place).get("schema")
