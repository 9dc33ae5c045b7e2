"""Whether the code that a stored run names may be run: a store is data, and may come from anybody.

A run says which SPEC its objective came from. To make it again means to import a file and to call a function in it. So
what a store names is run only where the user gives it again, or says yes to what is shown: and yes is heard only for
files of the user's own project, never for one that came with a store. Nothing here imports what it asks about.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path

from lossnav._utils.paths import LEASE, TRAJECTORY_HEADER, Location, as_path, is_local, name_of
from lossnav.errors import SpecError, UntrustedCodeError

_OF_A_PROJECT = (".git", ".hg", "pyproject.toml", "setup.py", "setup.cfg")
_OF_A_STORE = ("zarr.json", ".zgroup", ".zattrs", f"{LEASE}/zarr.json")
_OF_OURS = (TRAJECTORY_HEADER, "session.json")  # whose schema is one of ours: others have files of these names too

Asked = Callable[[str], bool]  # given "file:name" as it is shown; whether the user says yes


def require_trust(spec: str, store: Location, trusted: bool | Asked) -> None:
    """Raise unless the code that a store names may be run.

    Parameters
    ----------
    spec : str
        That the store names. One of the zoo is code of ours.
    store : path, fsspec URL or zarr store
    trusted : bool or callable
        Whether the user says yes; asked with ``file:name``, and only where yes would do.

    Raises
    ------
    UntrustedCodeError
        If the file lies in a store, or outside of the user's project, or the user does not say yes. It says what to
        type.
    SpecError
        If there is no such file.
    """
    place, _, name = spec.rpartition(":")
    if place == "zoo":
        return
    again = f"Give it again: --spec {spec} (in Python objective=, or spec=)"
    file = file_of(place)
    if file is None:
        raise SpecError(
            f"{name_of(store)} names {spec}, and there is no such file or module here. {again}, as it is now."
        )
    if is_in_a_store(file, store):
        raise UntrustedCodeError(
            f"{name_of(store)} names code that lies in a store: {file}. It is not run. Look at it, copy it elsewhere, "
            f"and name the copy: --spec copy.py:{name} (in Python objective=, or spec=)."
        )
    project = project_of(Path.cwd())
    if not file.is_relative_to(project):
        raise UntrustedCodeError(
            f"{name_of(store)} names code outside of your project ({project}): {file}. It is not run. {again}.",
            spec,
        )
    shown = f"{file}:{name}"
    if not (trusted(shown) if callable(trusted) else trusted):
        raise UntrustedCodeError(
            f"{name_of(store)} names code to run: {shown}. It is run where you give it again, or say yes. {again}, or "
            "add --trust (trust=True).",
            spec,
        )


def file_of(place: str) -> Path | None:
    """The file of ``file.py`` or of a module's dotted name, links resolved; found without importing anything."""
    if place.endswith(".py"):
        path = Path(place).expanduser().resolve()
        return path if path.is_file() else None
    where: list[str] = [str(Path.cwd()), *(entry or str(Path.cwd()) for entry in sys.path)]
    for part in place.split("."):
        found = PathFinder.find_spec(part, where) if part.isidentifier() else None
        if found is None:
            return None
        where = list(found.submodule_search_locations or ())
    origin = found.origin if found is not None else None
    return Path(origin).resolve() if origin is not None and found is not None and found.has_location else None


def project_of(folder: Path) -> Path:
    """The folder of the project that a folder belongs to: the nearest that says it is one, else the folder itself."""
    folder = folder.resolve()
    for above in (folder, *folder.parents):
        if above not in (Path.home().resolve(), Path(above.anchor)) and any(
            (above / n).exists() for n in _OF_A_PROJECT
        ):
            return above
    return folder


def is_in_a_store(file: Path, store: Location) -> bool:
    """Whether a file lies in this store, or in any other."""
    if is_local(store) and file.is_relative_to(Path(as_path(store)).resolve()):
        return True
    return any(
        any((folder / name).exists() for name in _OF_A_STORE) or any(_is_ours(folder / name) for name in _OF_OURS)
        for folder in file.parents
    )


def _is_ours(document: Path) -> bool:
    """Whether a document says that it is a recorded trajectory, or an explored session; one that is damaged may be."""
    try:
        if not document.exists():
            return False
        said = json.loads(document.read_bytes())
    except (OSError, ValueError):
        return True
    return isinstance(said, dict) and str(said.get("schema", "")).startswith("lossnav.")
