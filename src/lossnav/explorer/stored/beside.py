"""What lies beside a stored surface: curvature on its chart, and the spectrum at its centre. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from lossnav._utils.paths import Location, inside
from lossnav.errors import LossnavError, NotASurfaceError, StoreError
from lossnav.plots import spectra
from lossnav.surface import assemble, zarr_io
from lossnav.surface.groups import open_spectrum

CURVATURE = "curvature"  # a group of the store
_UNSHOWN = ("loss", "status", "products")
_ERROR = "_error"


class Curvature:
    """Gradient and extreme eigenvalues of the Hessian at points of the surface's chart.

    Parameters
    ----------
    surface : xarray.Dataset
        The result of `evaluate_curvature`.

    Attributes
    ----------
    names : list of str
        Of the variables with one number a point, errors among them.
    """

    def __init__(self, surface: xr.Dataset) -> None:
        self.surface = surface
        dims = surface["loss"].dims
        self.names = [str(name) for name, v in surface.data_vars.items() if v.dims == dims and name not in _UNSHOWN]
        self._rows: dict[bytes, int] | None = None

    @property
    def variables(self) -> list[dict[str, str]]:
        """The variables of the map with their units and words; an error is not one of them."""
        return [
            {
                "name": name,
                "units": self.surface[name].attrs.get("units", "1"),
                "long_name": self.surface[name].attrs.get("long_name", name),
            }
            for name in self.names
            if not name.endswith(_ERROR)
        ]

    def at(self, point: ArrayLike) -> dict[str, float]:
        """Return the values at a point; empty if curvature was not evaluated exactly there.

        The error of a ratio is the largest that the errors of its parts allow; infinite if they allow any.
        """
        if self._rows is None:
            table = assemble.points_of(self.surface)
            self._rows = {(row + 0.0).tobytes(): k for k, row in enumerate(np.asarray(table, np.float64))}
        k = self._rows.get((np.asarray(point, np.float64) + 0.0).tobytes())
        if k is None or int(self.surface["status"].values.reshape(-1)[k]) == 0:
            return {}
        found = {name: float(self.surface[name].values.reshape(-1)[k]) for name in self.names}
        if {"lambda_min", "lambda_max", "lambda_ratio"} <= set(found):
            found["lambda_ratio" + _ERROR] = _error_of_ratio(found)
        return found


def _error_of_ratio(found: dict[str, float]) -> float:
    low, high = found["lambda_min"], found["lambda_max"]
    errors = [found.get(name + _ERROR, math.inf) for name in ("lambda_min", "lambda_max")]
    left = abs(high) - errors[1]
    if not (left > 0 and math.isfinite(errors[0])):
        return math.inf
    return (abs(low) + errors[0]) / left - abs(low) / abs(high)


def curvature_beside(store: Location, dims: Sequence[str]) -> Curvature | None:
    """Read the curvature beside a stored surface; None if there is none over the same coordinates."""
    with suppress(StoreError, NotASurfaceError):
        found = zarr_io.open_surface(inside(store, CURVATURE))
        if "seed" in found.dims:
            found = found.lossnav.over_seeds()
        if "curvature" in found.attrs and tuple(found.lossnav.dims) == tuple(dims):
            return Curvature(found)
    return None


def spectrum_beside(store: Location) -> dict[str, Any] | None:
    """Return the spectrum beside a stored surface as lists, with its errors in words; None if there is none.

    Its numbers are those of `lossnav.plot.spectrum`.
    """
    with suppress(LossnavError):
        picture = spectra.prepare(open_spectrum(store))
        return {
            "name": picture.name,
            "eigenvalues": picture.eigenvalues.tolist(),
            "errors": picture.errors.tolist(),
            "ranks": picture.places.tolist(),
            "smallest": picture.smallest,
            "value": picture.values.tolist(),
            "density": picture.density.tolist(),
            "density_error": picture.error.tolist(),
            "floor": picture.floor,
            "ends": list(picture.ends),
            "note": picture.note,
        }
    return None
