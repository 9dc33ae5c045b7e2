"""The decision whether the code that a store names may be run: a store is data, and may come from anybody.

A run records the SPEC of its objective. Making the objective means importing a file and calling a function in it. So
the code is run only if the user gives the SPEC again or confirms it. Confirming is possible only for files of the
user's own project, never for a file in a store. Nothing here imports the code in question.
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
_OF_OURS = (TRAJECTORY_HEADER, "session.json")  # with a schema of ours: other programs have files of these names too

Asked = Callable[[str], bool]  # called with "file:name"; returns whether the user confirms


def require_trust(spec: str, store: Location, trusted: bool | Asked) -> None:
    """Raise unless the code that a store names may be run.

    Parameters
    ----------
    spec : str
        Named by the store. The zoo is code of lossnav.
    store : path, fsspec URL or zarr store
    trusted : bool or callable
        Whether the user confirms; called with ``file:name``, and only if confirming is possible.

    Raises
    ------
    UntrustedCodeError
        If the file is in a store, or outside the user's project, or the user does not confirm. The message says what to
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
            f"{name_of(store)} names {spec}, but there is no such file or module here. {again}, with its new place."
        )
    if is_in_a_store(file, store):
        raise UntrustedCodeError(
            f"{name_of(store)} names code that lies in a store: {file}. It is not run. Check it, copy it elsewhere, "
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
            f"{name_of(store)} names code to run: {shown}. It is run only if you give it again or confirm. {again}, or "
            "add --trust (trust=True).",
            spec,
        )


def file_of(place: str) -> Path | None:
    """Return the file of ``file.py`` or of a module's dotted name, with links resolved, without importing anything."""
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
    """Return the project folder of a folder: the nearest with a project file, or else the folder itself."""
    folder = folder.resolve()
    for above in (folder, *folder.parents):
        if above not in (Path.home().resolve(), Path(above.anchor)) and any(
            (above / n).exists() for n in _OF_A_PROJECT
        ):
            return above
    return folder


def is_in_a_store(file: Path, store: Location) -> bool:
    """Return whether a file is in this store or any other."""
    if is_local(store) and file.is_relative_to(Path(as_path(store)).resolve()):
        return True
    return any(
        any((folder / name).exists() for name in _OF_A_STORE) or any(_is_ours(folder / name) for name in _OF_OURS)
        for folder in file.parents
    )


def _is_ours(document: Path) -> bool:
    """Return whether a document is the header of a trajectory or an explorer session; a damaged one counts as one."""
    try:
        if not document.exists():
            return False
        said = json.loads(document.read_bytes())
    except (OSError, ValueError):
        return True
    return isinstance(said, dict) and str(said.get("schema", "")).startswith("lossnav.")
