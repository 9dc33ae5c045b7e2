"""The accessor ``surface.lossnav``: questions to a surface. No torch."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossnav.errors import OptionError
from lossnav.surface.assemble import points_of
from lossnav.surface.resample import resample
from lossnav.surface.seeds import _of_seeds, of_one_seed
from lossnav.surface.variables import FAILED, NOT_EVALUATED, STATUS_WORDS, validate
from lossnav.surface.zarr_io import save_surface

if TYPE_CHECKING:
    import xarray as xr


class SurfaceAccessor:
    """Questions to a surface: ``surface.lossnav``."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the chart's coordinates."""
        return tuple(self._dataset.attrs["chart"]["dims"])

    @property
    def is_grid(self) -> bool:
        """Whether the surface has grid shape (otherwise point shape)."""
        return "point" not in self._dataset.dims

    @property
    def complete(self) -> bool:
        """Whether every point was evaluated, or failed."""
        return bool((self._dataset["status"] != NOT_EVALUATED).all())

    @property
    def counts(self) -> dict[str, int]:
        """Number of points of each status, by its name."""
        status = self._dataset["status"].values
        return {word: int((status == code).sum()) for code, word in STATUS_WORDS.items()}

    @property
    def center(self) -> dict[str, float]:
        """Loss and metrics at the centre of the chart, measured before the run; empty if not measured."""
        return {name: float(value) for name, value in self._dataset.attrs.get("center", {}).items()}

    def summary(self) -> dict[str, Any]:
        """Return points by status, lowest and highest loss with coordinates, loss at the centre, seconds, points/s."""
        loss = self._dataset["loss"]
        flat = loss.values.reshape(-1)
        finite = np.isfinite(flat)
        found: dict[str, Any] = {"points": int(flat.size), "status": self.counts, "center": self.center}
        if finite.any():
            for word, index in (("lowest", np.nanargmin), ("highest", np.nanargmax)):
                i = int(index(np.where(finite, flat, np.nan)))
                if self.is_grid:
                    places = np.unravel_index(i, loss.shape)
                    at = {str(dim): float(loss[dim][int(j)]) for dim, j in zip(loss.dims, places, strict=True)}
                else:
                    at = {dim: float(self._dataset[dim][i]) for dim in self.dims}
                found[word] = {"loss": float(flat[i]), "at": at}
        for name in ("seconds", "points_per_second"):
            if name in self._dataset.attrs:
                found[name] = self._dataset.attrs[name]
        return found

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return evaluated coordinates, shape (m, k), and their losses, shape (m,), including non-finite ones."""
        done = self._dataset["status"].values.reshape(-1) != NOT_EVALUATED
        return points_of(self._dataset)[done], self._dataset["loss"].values.reshape(-1)[done]

    def seed(self, seed: int) -> xr.Dataset:
        """Return the surface of one seed of an ensemble, as if it had been evaluated alone.

        It has its own chart, outcome and failures, while ``sel(seed=...)`` keeps the attributes of all seeds.

        Raises
        ------
        OptionError
            If there is no dim ``seed``, or no such seed.
        """
        if "seed" not in self._dataset.dims:
            raise OptionError("This surface has one seed, not several. Make an ensemble with ln.ensemble.")
        seeds = self._dataset["seed"].values.tolist()
        if seed not in seeds:
            raise OptionError(f"seed must be one of {', '.join(map(str, seeds))}, got {seed}. Choose one of these.")
        return of_one_seed(self._dataset.sel(seed=seed)).drop_vars("seed")

    def over_seeds(self) -> xr.Dataset:
        """Return the mean over the seeds of an ensemble; ``loss_sd`` is their standard deviation.

        A point that is not finite for one seed is not finite in the mean, and a point that was interpolated for one
        seed counts as interpolated. One seed has no standard deviation.
        """
        dataset = self._dataset
        if "seed" not in dataset.dims:
            raise OptionError("This surface has one seed, not several. Make an ensemble with ln.ensemble.")
        status, several = dataset["status"], dataset.sizes["seed"] > 1
        means = dataset.drop_vars(
            ["status", "interpolated", *(["loss_se", "loss_skewness"] if several else [])], errors="ignore"
        )
        made = means.mean("seed", skipna=False, keep_attrs=True)
        if several:
            made["loss_sd"] = dataset["loss"].std("seed", ddof=1, skipna=False)
            made["loss_sd"].attrs = {"long_name": "standard deviation of the loss over seeds"}
            made["loss_sd"].attrs["units"] = dataset["loss"].attrs.get("units", "1")
        if "interpolated" in dataset:
            made["interpolated"] = dataset["interpolated"].max("seed", keep_attrs=True)
        worst = status.where(status != NOT_EVALUATED, FAILED + 1).max("seed")
        made["status"] = worst.where(worst <= FAILED, NOT_EVALUATED).astype(np.uint8)
        made["status"].attrs = status.attrs
        made.attrs = _of_seeds(dataset.attrs, dataset["seed"].values.tolist())
        return validate(made.drop_vars("seed", errors="ignore"))

    def to_grid(self, n: int | None = None) -> xr.Dataset:
        """Interpolate on a regular grid; see `resample`."""
        return resample(self._dataset, n)

    def _repr_html_(self) -> str:
        """Return what a notebook displays: a small picture and a description."""
        return str(importlib.import_module("lossnav.plots.notebook").html_of(self._dataset))

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write to a Zarr folder; see `save_surface`."""
        return save_surface(self._dataset, path, overwrite=overwrite)
