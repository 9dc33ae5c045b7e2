"""Losses of single samples in memory, during a run. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lossnav.storage import samples as kept
from lossnav.surface import assemble

if TYPE_CHECKING:
    import xarray as xr


class KeptSamples:
    """The samples of a run without a store, and of a surface to resume.

    Parameters
    ----------
    resume : xarray.Dataset, optional
        A surface that has them.
    """

    def __init__(self, resume: xr.Dataset | None) -> None:
        self._rows: dict[bytes, NDArray[np.float32]] = {}
        self._weights: NDArray[np.float64] | None = None
        self._resume, self._numbers = resume, dict[bytes, int]()
        if resume is not None:
            self._numbers = {_key(point): i for i, point in enumerate(assemble.points_of(resume))}

    def of(self, point: NDArray[np.float64], values: Mapping[str, float], failed: bool) -> kept.SampleLosses | None:
        """Return the samples of a point that was just measured, or that the surface to resume has."""
        if (samples := getattr(values, "samples", None)) is not None:
            return samples  # type: ignore[no-any-return]
        number = self._numbers.get(_key(point))
        if self._resume is None or number is None or failed:
            return None
        place = np.unravel_index(number, self._resume["loss"].shape)
        losses = self._resume[kept.LOSS][tuple(int(i) for i in place)].values
        return kept.SampleLosses(losses, self._resume[kept.WEIGHT].values)

    def keep(self, point: NDArray[np.float64], samples: kept.SampleLosses) -> None:
        """Add the samples of a point."""
        self._rows[_key(point)], self._weights = samples.losses, samples.weights

    def put_into(self, surface: xr.Dataset) -> xr.Dataset:
        """Return the surface with the samples; each row is freed once it is copied."""
        if self._weights is None:
            return surface
        shape = surface["loss"].shape
        losses = np.full((*shape, len(self._weights)), np.nan, np.float32)
        flat = losses.reshape(-1, len(self._weights))
        for i, point in enumerate(assemble.points_of(surface)):
            if (row := self._rows.pop(_key(point), None)) is not None:
                flat[i] = row
        return assemble.with_samples(surface, losses, self._weights)


def _key(point: NDArray[np.float64]) -> bytes:
    return (np.asarray(point, np.float64) + 0.0).tobytes()  # -0.0 and 0.0 are the same
