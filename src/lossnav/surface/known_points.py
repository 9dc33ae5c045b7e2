"""Points that earlier runs measured, looked up by their coordinates. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossnav.errors import OptionError
from lossnav.storage import samples as kept
from lossnav.storage.journal import joined, keys
from lossnav.surface import assemble, run_identity, variables

if TYPE_CHECKING:
    import xarray as xr

if TYPE_CHECKING:
    from lossnav.surface.run_store import Store

_SAME_LOSS = 1e-5  # relative; another order of summation stays below it


class KnownPoints:
    """Points that were measured before, each once, without failed ones.

    Attributes
    ----------
    rows : Rows
    stored : ndarray of bool
        Which of them are in the store of the run.
    """

    def __init__(self, k: int) -> None:
        self._k, self._numbers = k, dict[bytes, int]()
        self.rows, self.stored = joined([], k), np.empty(0, bool)

    def learn(self, earlier: xr.Dataset, stored: bool = False) -> int:
        """Add the points of a surface, and return their number."""
        rows = assemble.table_of(earlier)
        rows = rows.take(rows.status != variables.FAILED)
        before = len(self.rows)
        self.rows = joined([self.rows, rows], self._k)
        self._numbers = {key: i for i, key in enumerate(keys(self.rows.points))}
        self.stored = np.full(len(self.rows), stored)
        if before and stored:  # points known only from the surface to resume are still to be written
            mine = set(keys(rows.points))
            self.stored = np.array([key in mine for key in self._numbers], bool)
        return len(rows)

    def find(self, points: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the numbers of points among the known ones; -1 if not known."""
        return np.array([self._numbers.get(key, -1) for key in keys(points)], np.intp)


def require_same(earlier: xr.Dataset, attributes: Mapping[str, Any]) -> None:
    """Raise if the points of a surface to resume are not measurements of this objective on this chart."""
    variables.validate(earlier)
    if reason := run_identity.mismatch(earlier.attrs, attributes):
        raise OptionError(
            f"The surface to resume {reason.rstrip()}\nPass its own objective and chart, or leave out resume=."
        )
    was, now = (said.get("center", {}).get("loss") for said in (earlier.attrs, attributes))
    if was is not None and now is not None and not math.isclose(float(was), float(now), rel_tol=_SAME_LOSS):
        raise OptionError(
            f"The loss at the centre was {float(was):.6g} in the surface to resume and is {float(now):.6g}: the loss "
            "function has changed. Leave out resume=."
        )


def require_samples_there(asked: bool, store: Store | None, resume: xr.Dataset | None) -> None:
    """Raise if samples are to be stored, but resumed points lack them."""
    there = [] if store is None or store.earlier is None or store.has_samples else [(store.earlier, f"{store}")]
    there += [] if resume is None or kept.LOSS in resume else [(resume, "The surface to resume")]
    for surface, name in there:
        if asked and bool((surface["status"] == variables.OK).any()):
            raise OptionError(
                f"{name} lacks the losses of single samples, which can only be had by computing "
                "it again. Leave out keep_samples=True, or choose another store (overwrite=True replaces this one)."
            )
