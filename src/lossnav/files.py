"""Where results go: a path, a URL, or a Zarr store."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from lossnav.errors import MissingExtraError, OptionError, OutputExistsError, OutputNotWritableError, StoreError
from lossnav.nouns import require_place

SURFACE_SCHEMA = "lossnav.surface"
TRAJECTORY_SCHEMA = "lossnav.trajectory"
LEASE = "lease"  # the group in a store that says who writes there
TRAJECTORY_HEADER = "trajectory.json"  # in the folder of a recorded trajectory

Place = str | os.PathLike[str] | Any  # a path, an fsspec URL, or a zarr.abc.store.Store


def require_writable(
    path: str | os.PathLike[str], overwrite: bool = False, kind: Literal["file", "surface", "trajectory"] = "file"
) -> Path:
    """Check, before anything is computed, that a result can be written here.

    Parameters
    ----------
    path : path
    overwrite : bool
        Whether what is there may be replaced: a file by a file, a stored surface by a surface, a recorded trajectory
        by a trajectory, nothing else.
    kind : "file", "surface" or "trajectory"
        What will be written.

    Raises
    ------
    OutputExistsError
        If something is there and `overwrite` is False, or it is something else.
    OutputNotWritableError
        If the folder cannot be made or written, or it is a URL.
    """
    require_place(path)
    if is_url(path):
        raise OutputNotWritableError(
            f"{path} is a URL, and this result is written to a folder. Choose one; a single run takes a URL: "
            "evaluate(store=)."
        )
    target = Path(path).expanduser()
    try:
        there = target.exists()
    except OSError as error:  # a name too long
        raise OutputNotWritableError(
            f"{target} cannot be written: {error.strerror or error}. Choose another name."
        ) from error
    if there and not (kind != "file" and _is_bare(target)):
        if not overwrite:
            raise OutputExistsError(f"{target} exists. Choose another name, or pass overwrite=True (--overwrite).")
        if not {"file": Path.is_file, "surface": _is_surface, "trajectory": is_trajectory}[kind](target):
            raise OutputExistsError(f"{target} is no {kind} of ours and is not replaced. Choose another name.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OutputNotWritableError(
            f"{target.parent} cannot be written: {error.strerror or error}. Choose a folder of yours."
        ) from error
    return target


class Parts:
    """The stores of several runs that one result is put together from: in a folder beside it, until it is whole.

    ``band.zarr`` has ``band.parts``. Where that is there, the runs in it are gone on from.

    Parameters
    ----------
    target : path
        Of the result.
    overwrite : bool

    Attributes
    ----------
    target : Path
    overwrite : bool
        Whether the result may be replaced: also where it is one of a call that was stopped.

    Raises
    ------
    OutputExistsError, OutputNotWritableError
        See `require_writable`.
    """

    def __init__(self, target: str | os.PathLike[str], overwrite: bool) -> None:
        self._anew, self._stores = overwrite, dict[str, Path]()
        self._folder = Path(target).expanduser().with_suffix(".parts")
        self.overwrite = overwrite or self._folder.is_dir()
        self.target = require_writable(target, self.overwrite, kind="surface")

    def options(self, name: str) -> dict[str, Any]:
        """What `evaluate` takes to keep a run here."""
        self._stores[name] = self._folder / f"{name}.zarr"
        return {"store": self._stores[name], "overwrite": self._anew}

    def discard(self) -> None:
        """Remove the stores: what was put together of them is written."""
        for store in self._stores.values():
            shutil.rmtree(store, ignore_errors=True)
        with suppress(OSError):  # there is something else in it
            self._folder.rmdir()


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is written, a full disk say, into an error of ours."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{target} could not be written: {error.strerror or error}. Make room and try again."
        ) from error


def swap_in(new: Path, target: Path, aside: Path) -> None:
    """Put a folder in the place of another; where that fails the old one is put back."""
    there = target.exists()
    if there:
        target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        if there:
            aside.rename(target)
        raise


def is_url(place: Place) -> bool:
    """Whether this is an fsspec URL, such as ``s3://bucket/run.zarr``."""
    return isinstance(place, str) and "://" in place


def as_path(place: Place) -> Place:
    """A ``file://`` URL as the path that it is; other places as they are."""
    if isinstance(place, str) and place.startswith("file://"):
        return url2pathname(urlsplit(place).path)
    return place


def beside(place: Place) -> str:
    """Where a store's directions are kept: ``run.zarr`` has ``run.directions.safetensors`` beside it."""
    place = as_path(place)
    if not isinstance(place, str | os.PathLike):
        raise OptionError("Directions are kept beside a path or URL, and this store is neither. Save them yourself.")
    return os.fspath(place).rstrip("/").removesuffix(".zarr") + ".directions.safetensors"


def inside(place: Place, group: str) -> Place:
    """A group within a store."""
    place = as_path(place)
    if isinstance(place, str | os.PathLike):
        return f"{os.fspath(place).rstrip('/')}/{group}"
    from zarr.storage import StorePath

    return place / group if isinstance(place, StorePath) else StorePath(place, group)


def is_there_file(place: str | os.PathLike[str]) -> bool:
    """Whether there is a file at a path or URL."""
    if not is_url(place):
        return Path(place).expanduser().is_file()
    import fsspec

    system, path = fsspec.core.url_to_fs(place)
    return bool(system.exists(path))


def is_local(place: Place) -> bool:
    """Whether this is a path on this machine."""
    return isinstance(place, str | os.PathLike) and not is_url(place)


def name_of(place: Place) -> str:
    """A place in words."""
    return os.fspath(place) if isinstance(place, str | os.PathLike) else str(place)


def is_there(place: Place) -> bool:
    """Whether there is anything at a place.

    Raises
    ------
    MissingExtraError
        If a URL needs a package that is not installed.
    OutputNotWritableError
        If a URL cannot be asked.
    """
    if is_local(place):
        path = Path(place).expanduser()
        with suppress(OSError):  # of a name too long
            return path.exists() and not _is_bare(path)
        return False
    require_place(place)
    import zarr
    from zarr.errors import GroupNotFoundError

    try:
        zarr.open_group(place, mode="r")
    except (FileNotFoundError, GroupNotFoundError):
        return False
    except ImportError as error:
        raise MissingExtraError(
            f'{name_of(place)} needs a package that is not installed: {error}. Try: pip install "lossnav[cloud]"'
        ) from error
    except Exception as error:
        raise OutputNotWritableError(
            f"{name_of(place)} cannot be reached: {type(error).__name__}: {error}. Check the URL and your credentials."
        ) from error
    return True


def _is_bare(path: Path) -> bool:
    """Whether this is an empty folder, as a run leaves that was killed before it wrote anything but its lease."""
    return path.is_dir() and all(inside.name == LEASE for inside in path.iterdir())


def is_trajectory(path: Path) -> bool:
    """Whether a folder holds a recorded trajectory."""
    try:
        return bool(json.loads((path / TRAJECTORY_HEADER).read_text())["schema"] == TRAJECTORY_SCHEMA)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_surface(path: Path) -> bool:
    """Whether a folder holds a stored surface and so may be replaced by another."""
    try:
        return bool(json.loads((path / "zarr.json").read_text())["attributes"]["schema"] == SURFACE_SCHEMA)
    except (OSError, ValueError, KeyError, TypeError):
        return False
