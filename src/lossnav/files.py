"""Where results go on disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lossnav.errors import OutputExistsError, OutputNotWritableError


def require_writable(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Check, before anything is computed, that a result can be written here.

    Raises
    ------
    OutputExistsError
        If something is there and `overwrite` is False.
    OutputNotWritableError
        If the folder cannot be made or written.
    """
    target = Path(path).expanduser()
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} exists. Choose another name, or pass overwrite=True (--overwrite).")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise OutputNotWritableError(
            f"{target.parent} cannot be written: {error.strerror or error}. Choose a folder of yours."
        ) from error
    return target
