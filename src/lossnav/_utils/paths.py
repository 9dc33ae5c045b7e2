"""Where results go: a path, a URL, or a Zarr store."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

from lossnav._utils.validation import require_place
from lossnav.errors import MissingExtraError, OptionError, OutputExistsError, OutputNotWritableError, StoreError

SURFACE_SCHEMA = "lossnav.surface"
TRAJECTORY_SCHEMA = "lossnav.trajectory"
LEASE = "lease"  # the group in a store that says who writes there
TRAJECTORY_HEADER = "trajectory.json"  # in the folder of a recorded trajectory

Location = str | os.PathLike[str] | Any  # a path, an fsspec URL, or a zarr.abc.store.Store


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
        there = target.exists() and not (kind != "file" and _is_bare(target))
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise _not_writable(target, error) from error
    if there:
        if not overwrite:
            raise OutputExistsError(f"{target} exists. Choose another name, or pass overwrite=True (--overwrite).")
        if not {"file": Path.is_file, "surface": _is_surface, "trajectory": is_trajectory}[kind](target):
            raise OutputExistsError(f"{target} is no {kind} of ours and is not replaced. Choose another name.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise _not_writable(target.parent, error) from error
    return target


def _not_writable(place: Path, error: OSError) -> OutputNotWritableError:
    remedy = _REMEDIES.get(error.errno or 0, "Choose a folder of yours")
    return OutputNotWritableError(f"{place} cannot be written: {error.strerror or error}. {remedy}.")


@contextmanager
def replacing(
    target: str | os.PathLike[str], *, folder: bool = False, within: Path | None = None, durable: bool = True
) -> Iterator[Path]:
    """Write a result whole or not at all: what the block writes takes the place of `target` when the block ends.

    Until then it lies in a hidden folder beside the target, ``.lossnav-….partial``, which goes away with the block,
    also where that raises. What a killed process left of its own is removed by the next write into the same folder.
    Whatever wants a result in a file or folder on this machine goes through here.

    Parameters
    ----------
    target : path
        Where it leads through links, the file at their end is replaced. Its permissions stay.
    folder : bool
        Whether a folder is written. The block makes it.
    within : Path, optional
        A folder above the target to work in, where nobody else looks into the target's own.
    durable : bool
        Whether a file is on the disk, and not only on its way there, before it takes its place.

    Yields
    ------
    Path
        To write to; its name is that of the target.

    Raises
    ------
    StoreError
        If the system refuses (a full disk, a quota, a folder without permission); what was there is as it was.
    """
    shown, target = target, Path(os.path.realpath(Path(target).expanduser()))
    try:
        parent = target.parent if within is None else Path(os.path.realpath(within))
        with _scratch(parent) as scratch:
            if folder:
                (scratch / _GOES_TO).write_text(str(target.relative_to(parent)), "utf-8")
                (scratch / "new").mkdir()
                yield scratch / "new" / target.name
                swap_in(scratch / "new" / target.name, target, scratch / "old")
            else:
                new = scratch / target.name
                with new.open("xb") as file:  # which has the mode of a file that is made here
                    mode = os.fstat(file.fileno()).st_mode
                yield new
                with suppress(FileNotFoundError):
                    mode = target.stat().st_mode
                new.chmod(stat.S_IMODE(mode))
                if durable:
                    with new.open("rb") as file:
                        os.fsync(file.fileno())
                new.replace(target)
    except OSError as error:
        raise not_written(shown, error) from error


def write_whole(target: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file of bytes, or of text in UTF-8, whole or not at all; see `replacing`."""
    with replacing(target) as new:
        new.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


_REMEDIES = {
    errno.ENOSPC: "Make room and try again",
    errno.EDQUOT: "Your quota is used up: make room and try again",
    errno.EFBIG: "A file may not be that large here (ulimit -f, or the file system): raise the limit",
    errno.ENAMETOOLONG: "Choose a shorter name",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a folder of yours"),
}


def not_written(target: Any, error: OSError, kept: str = "") -> StoreError:
    """The error of a result that could not be written: what the system says, and what to do.

    Examples
    --------
    >>> print(not_written("a.png", OSError(errno.ENOSPC, "No space left on device")))
    a.png could not be written: No space left on device. Make room and try again, or choose another folder.
    """
    remedy = _REMEDIES.get(error.errno or 0, "Try again")
    other = "" if remedy.startswith("Choose") else ", or choose another folder"
    return StoreError(f"{target} could not be written: {error.strerror or error}. {remedy}{other}.{kept and ' '}{kept}")


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A hidden folder that its process holds by a lock, so that others can tell it from one of the dead."""
    _clear(parent)
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=_PREFIX, suffix=_SUFFIX, dir=parent))
        held = _lock(scratch, wait=True)
        if held is None or scratch.exists():
            break
        os.close(held)  # another process took it for one of the dead before it was locked
    try:
        yield scratch
    finally:
        try:
            shutil.rmtree(scratch, ignore_errors=True)
        except BaseException:  # a signal came in the middle of it
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        finally:
            if held is not None:
                os.close(held)


_PREFIX, _SUFFIX = ".lossnav-", ".partial"
_GOES_TO = "target"  # the file in a scratch folder that says of which folder it is
_CLEARED: set[tuple[int, Path]] = set()  # by this process: a folder with 20,000 snapshots is not listed for each


def is_scratch(name: str) -> bool:
    """Whether this is the name of a folder that `replacing` works in."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def _clear(parent: Path) -> None:
    """Remove what killed processes left in a folder, once a process; a folder they had moved aside is put back."""
    if (os.getpid(), parent) in _CLEARED:
        return
    _CLEARED.add((os.getpid(), parent))
    for scratch in [parent / name for name in os.listdir(parent) if is_scratch(name)]:
        held = _lock(scratch, wait=False)
        if held is None:
            continue
        with suppress(OSError, ValueError):
            target = parent / (scratch / _GOES_TO).read_text("utf-8")
            if not target.exists() and target.resolve().is_relative_to(parent.resolve()):
                (scratch / "old").rename(target)
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(held)


def _lock(folder: Path, wait: bool) -> int | None:
    """An open file that locks a folder until it is closed; None where another has it, or there are no locks."""
    number = None
    try:
        import fcntl

        number = os.open(folder, os.O_RDONLY)
        fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):  # Windows, or a network disk that has no locks
        if number is not None:
            os.close(number)
        return None
    return number


def swap_in(new: Path, target: Path, aside: Path) -> None:
    """Put a folder in the place of another, at once where the system can; where it fails the old one is put back."""
    if not target.exists():
        new.rename(target)
    elif not _exchange(new, target):
        target.rename(aside)
        try:
            new.rename(target)
        except OSError:
            aside.rename(target)
            raise


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where the system cannot."""
    import ctypes

    library: Any = ctypes.CDLL(None) if os.name == "posix" else None
    paths = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):  # Linux; AT_FDCWD, RENAME_EXCHANGE
        return bool(library.renameat2(-100, paths[0], -100, paths[1], ctypes.c_uint(2)) == 0)
    if hasattr(library, "renamex_np"):  # macOS; RENAME_SWAP
        return bool(library.renamex_np(*paths, ctypes.c_uint(2)) == 0)
    return False


def is_url(place: Location) -> bool:
    """Whether this is an fsspec URL, such as ``s3://bucket/run.zarr``."""
    return isinstance(place, str) and "://" in place


def as_path(place: Location) -> Location:
    """A ``file://`` URL as the path that it is; other places as they are."""
    if isinstance(place, str) and place.startswith("file://"):
        return url2pathname(urlsplit(place).path)
    return place


def beside(place: Location) -> str:
    """Where a store's directions are kept: ``run.zarr`` has ``run.directions.safetensors`` beside it."""
    place = as_path(place)
    if not isinstance(place, str | os.PathLike):
        raise OptionError("Directions are kept beside a path or URL, and this store is neither. Save them yourself.")
    return os.fspath(place).rstrip("/").removesuffix(".zarr") + ".directions.safetensors"


def inside(place: Location, group: str) -> Location:
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


def is_local(place: Location) -> bool:
    """Whether this is a path on this machine."""
    return isinstance(place, str | os.PathLike) and not is_url(place)


def name_of(place: Location) -> str:
    """A place in words."""
    return os.fspath(place) if isinstance(place, str | os.PathLike) else str(place)


def is_there(place: Location) -> bool:
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
    """Whether this is an empty folder, as a run leaves that was killed before it wrote anything but its lease.

    What a write leaves that was cut short, ``.….partial``, is nothing either.
    """
    return path.is_dir() and all(inside.name == LEASE or inside.name.endswith(_SUFFIX) for inside in path.iterdir())


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
