"""Where results go on disk."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Literal

from lossnav.errors import OutputExistsError, OutputNotWritableError

SURFACE_SCHEMA = "lossnav.surface"


def require_writable(
    path: str | os.PathLike[str], overwrite: bool = False, kind: Literal["file", "surface"] = "file"
) -> Path:
    """Check, before anything is computed, that a result can be written here.

    Parameters
    ----------
    path : path
    overwrite : bool
        Whether what is there may be replaced: a file by a file, a stored surface by a surface, nothing else.
    kind : "file" or "surface"
        What will be written.

    Raises
    ------
    OutputExistsError
        If something is there and `overwrite` is False, or it is something else.
    OutputNotWritableError
        If the folder cannot be made or written.
    """
    target = Path(path).expanduser()
    if target.exists():
        if not overwrite:
            raise OutputExistsError(f"{target} exists. Choose another name, or pass overwrite=True (--overwrite).")
        if not (_is_surface(target) if kind == "surface" else target.is_file()):
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


def _is_surface(path: Path) -> bool:
    """Whether a folder holds a stored surface and so may be replaced by another."""
    try:
        return bool(json.loads((path / "zarr.json").read_text())["attributes"]["schema"] == SURFACE_SCHEMA)
    except (OSError, ValueError, KeyError, TypeError):
        return False
