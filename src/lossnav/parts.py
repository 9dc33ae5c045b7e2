"""Where the runs lie that one result is put together from, until it is whole: in a folder beside it."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from lossnav.files import LEASE, require_writable
from lossnav.lease import Lease

_GOING = ".partial"  # ends the name of a run that is being removed


class Parts:
    """The stores of several runs that one result is put together from: in a folder beside it, until it is whole.

    ``band.zarr`` has ``band.parts``. Where that is there, the runs in it are gone on from. Within a ``with`` statement
    no other process can write there.

    Parameters
    ----------
    target : path
        Of the result.
    overwrite : bool

    Attributes
    ----------
    target, folder : Path
    overwrite : bool
        Whether the result may be replaced: also where it is one of a call that was stopped.
    anew : bool
        Whether what is in the folder counts for nothing.

    Raises
    ------
    OutputExistsError, OutputNotWritableError
        See `require_writable`.
    StoreBusyError
        In a ``with`` statement, if another process makes the same result.
    """

    def __init__(self, target: str | os.PathLike[str], overwrite: bool) -> None:
        self.anew, self._names = overwrite, list[str]()
        self.folder = Path(target).expanduser().with_suffix(".parts")
        self.overwrite = overwrite or self.folder.is_dir()
        self.target = require_writable(target, self.overwrite, kind="surface")

    def __enter__(self) -> Parts:
        self._lease = Lease(self.folder)
        for left in self.folder.glob(f".*{_GOING}"):  # of a call that was killed in the middle of a removal
            shutil.rmtree(left, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        nothing = not any(path.name != LEASE for path in self.folder.glob("*"))
        self._lease.release(forget=nothing)
        if nothing:
            with suppress(OSError):
                self.folder.rmdir()

    def options(self, name: str) -> dict[str, Any]:
        """What `evaluate` takes to keep a run here."""
        self._names.append(name)
        return {"store": self.place(name), "overwrite": self.anew}

    def place(self, name: str) -> Path:
        """Where the run of a name is kept."""
        return self.folder / f"{name}.zarr"

    def remove(self, name: str) -> None:
        """Remove a run, at once: what it has is elsewhere, or nothing."""
        going = self.folder / f".{name}{_GOING}"
        with suppress(OSError):  # it is not there
            self.place(name).rename(going)
        shutil.rmtree(going, ignore_errors=True)

    def discard(self) -> None:
        """Remove all runs of this call: what was put together of them is written."""
        for name in self._names:
            self.remove(name)
