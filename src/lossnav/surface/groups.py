"""What lies beside a surface in its store: datasets in groups of their own; a spectrum also alone. No torch."""

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
_WORDS = "<U8"  # of a coordinate in memory; Zarr has a type for strings of any length only


def save_group(dataset: xr.Dataset, place: Location, name: str | None) -> None:
    """Write a dataset into a group of a store, in place of what the group held; locally whole or not at all.

    Without a name it is the store itself.

    Raises
    ------
    StoreError
        If it cannot be written; `.surface` of the error holds the dataset.
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
        failure = StoreError(f"{error} The same call goes on; what was computed is in the .surface of this error.")
        failure.surface = dataset
        raise failure from error


def open_group(place: Location, name: str) -> xr.Dataset | None:
    """Open what lies in a group of a store, in memory; None where there is no such group."""
    place = as_path(place)
    source = Path(place).expanduser() if is_local(place) else place
    if not is_there(source):
        return None
    try:
        return read_group(source, name, _MODELS.get(name, anything))
    except StoreError as error:
        raise type(error)(f"The group {name} of {name_of(place)}: {error}") from None


def open_trajectory(place: Location) -> xr.Dataset:
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
            f"{name_of(source)} holds no trajectory. Make one with "
            "ln.evaluate_trajectory(objective, chart, trajectory, store=...)."
        )
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


def open_spectrum(place: Location) -> xr.Dataset:
    """Open a spectrum that `spectrum` stored: alone, or beside a surface (docs/schema.md).

    Parameters
    ----------
    place : path, fsspec URL or zarr store
        Of the spectrum, or of the surface that it lies beside.

    Returns
    -------
    xarray.Dataset
        In memory.

    Raises
    ------
    NotASpectrumError
        If there is none, or it is damaged.
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
            f"{name_of(source)} holds no spectrum. Make one with ln.spectrum(objective, store=...) or "
            "lossnav curvature."
        )
    if "end" in spectrum.coords:
        words = np.array(spectrum["end"].values.tolist(), dtype=_WORDS)
        spectrum = spectrum.assign_coords(end=spectrum["end"].copy(data=words))
    return require_spectrum(spectrum)


def save_spectrum(spectrum: xr.Dataset, place: Location, group: str | None) -> None:
    """Write a spectrum where `spectrum_place` said.

    Raises
    ------
    StoreError
        If it cannot be written; `.surface` of the error holds it.
    """
    words = spectrum["end"].astype(object)
    save_group(spectrum.assign_coords(end=words), place, group)


def spectrum_place(place: Location, overwrite: bool) -> tuple[str | None, dict[str, Any]]:
    """Say, before anything is computed, where in a store a spectrum goes: a group, or None for the store itself.

    Returns
    -------
    group : str or None
    attributes : dict
        Of the surface that it will lie beside; empty where it lies alone.

    Raises
    ------
    OutputExistsError
        If there is a spectrum that was not interrupted and `overwrite` is False, or something that is none of ours.
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
            f"{name_of(place)} is there, and neither a surface nor a spectrum of ours. Choose another name."
        )
    try:
        there = {} if overwrite else open_spectrum(place).attrs
    except NotASpectrumError:
        there = {"interrupted": True} if schema == SURFACE_SCHEMA else {}
    if not overwrite and not there.get("interrupted"):
        raise OutputExistsError(
            f"{name_of(place)} holds a spectrum. Choose another name, or pass overwrite=True (--overwrite)."
        )
    return (SPECTRUM, attributes) if schema == SURFACE_SCHEMA else (None, {})


def require_spectrum(spectrum: xr.Dataset) -> xr.Dataset:
    """Return the dataset if it is a spectrum of a schema we know.

    Raises
    ------
    NotASpectrumError
        If the header or the eigenvalues are missing, or parts that belong together are not of one shape.
    SchemaTooNewError
        If a newer lossnav wrote it.
    """
    if not isinstance(spectrum, xr.Dataset) or spectrum.attrs.get("schema") != SPECTRUM_SCHEMA:
        raise NotASpectrumError("This is no spectrum. Pass what ln.curvature.spectrum made.")
    version = spectrum.attrs.get("schema_version")
    if not isinstance(version, int):
        raise NotASpectrumError("This spectrum does not say its schema version. It was damaged; compute it anew.")
    if version > SPECTRUM_VERSION:
        raise SchemaTooNewError(
            f"This spectrum has schema version {version} and this lossnav ({__version__}) reads up to "
            f"{SPECTRUM_VERSION}. Upgrade with: pip install --upgrade lossnav"
        )
    dims: dict[str, tuple[str, ...]] = dict.fromkeys(("eigenvalue", "eigenvalue_error", "end"), ("eigenpair",))
    if "density" in spectrum:
        dims |= dict.fromkeys(("density", "density_error", "value"), ("value",))
        dims |= dict.fromkeys(("node", "weight"), ("probe", "step"))
    for name, wanted in dims.items():
        if name not in spectrum.variables or spectrum[name].dims != wanted:
            raise NotASpectrumError(
                f'This spectrum has no variable "{name}" over {" and ".join(wanted)}. It was damaged; compute it anew.'
            )
    return spectrum


def _attributes_of(place: Location) -> dict[str, Any]:
    import zarr

    try:
        return unsealed(zarr.open_group(Path(place).expanduser() if is_local(place) else place, mode="r").attrs)
    except Exception:  # no Zarr at all; whoever asked says so
        return {}


def _schema_of(place: Location) -> Any:
    return _attributes_of(place).get("schema")
