"""Ensembles: surfaces of several seeds as one with a dim ``seed``. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lossnav._utils.jsonable import jsonable
from lossnav._utils.lazy_import import lazily
from lossnav.errors import (
    OptionError,
)
from lossnav.surface.estimates import is_number
from lossnav.surface.variables import validate

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazily("xarray")

if TYPE_CHECKING:
    pass


FAILURES_KEPT = 20
_OF_CHARTS = ("still", "foreign_buffers", "checkpoints")  # in older ensembles, those of the first seed
_OF_EACH = (  # attributes that an ensemble has for every seed, besides its chart
    *_OF_CHARTS,
    "plan_hash", "sampler", "engine", "center", "sampling", "control_variate", "interpolation", "interrupted",
    "finished", "failures", "seconds", "points_per_second",
)  # fmt: skip


def join_seeds(surfaces: Sequence[xr.Dataset], seeds: Sequence[int]) -> xr.Dataset:
    """Join surfaces along a new first dim ``seed``; for point shape, their interpolated grids.

    Raises
    ------
    OptionError
        If their coordinates differ.
    """
    grids = [surface if surface.lossnav.is_grid else surface.lossnav.to_grid() for surface in surfaces]
    if any(grid.lossnav.dims != grids[0].lossnav.dims or grid["loss"].dims != grids[0]["loss"].dims for grid in grids):
        raise OptionError("The charts of the seeds differ in their coordinates. Use one kind of chart for all.")
    if any(not grid[dim].equals(grids[0][dim]) for grid in grids for dim in grid["loss"].dims):
        raise OptionError("The seeds have different ranges or points. Use one sampler with the same ends for all.")
    made = xr.concat(grids, xr.Variable("seed", list(seeds)), combine_attrs="override", join="exact")
    made["seed"].attrs = {"long_name": "seed of the directions", "units": "1"}
    each = [{key: grid.attrs[key] for key in _OF_EACH if key in grid.attrs} for grid in grids]
    ensemble = {"seeds": list(seeds), "charts": [grid.attrs["chart"] for grid in grids], "each": each}
    made.attrs = _of_seeds(grids[0].attrs | {"ensemble": ensemble}, seeds)
    return validate(made)


def add_seeds(surface: xr.Dataset, more: xr.Dataset) -> xr.Dataset:
    """Append the seeds of one ensemble to those of another.

    Raises
    ------
    OptionError
        If their coordinates differ.
    """
    if surface["loss"].dims != more["loss"].dims or any(
        not more[dim].equals(surface[dim]) for dim in more["loss"].dims if dim != "seed"
    ):
        raise OptionError("The seeds have different ranges or points. Use one sampler with the same ends for all.")
    made = xr.concat([surface, more], "seed", combine_attrs="override", join="exact")
    parts = [part.attrs["ensemble"] for part in (surface, more)]
    ensemble = {key: [*parts[0][key], *parts[1][key]] for key in ("seeds", "charts", "each")}
    made.attrs = _of_seeds(surface.attrs | {"ensemble": ensemble}, ensemble["seeds"])
    return validate(made)


def of_seeds(surface: xr.Dataset, seeds: Sequence[int]) -> xr.Dataset:
    """Return an ensemble of some of the seeds of another."""
    made = surface.sel(seed=list(seeds))
    made.attrs = _of_seeds(surface.attrs, seeds)
    return validate(made)


def _of_seeds(attributes: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Combine the attributes of some seeds: counts are added, errors are maxima."""
    ensemble = attributes["ensemble"]
    chosen = [ensemble["seeds"].index(seed) for seed in seeds]
    charts, each = ([ensemble[key][i] for i in chosen] for key in ("charts", "each"))
    failures = [
        f"seed {seed}: {failure}"
        for seed, said in zip(seeds, each, strict=True)
        for failure in said.get("failures", [])
    ]
    spent = [float(said.get("seconds", 0)) for said in each]
    points = sum(
        seconds * float(said.get("points_per_second", 0)) for seconds, said in zip(spent, each, strict=True) if seconds
    )
    made: dict[str, Any] = {key: value for key, value in attributes.items() if key not in _OF_EACH}
    about = each[0] if "still" in each[0] else attributes
    made |= {key: about[key] for key in _OF_CHARTS if key in about}
    made |= {
        "chart": charts[0],
        "ensemble": {"seeds": list(seeds), "charts": charts, "each": each},
        "engine": each[0].get("engine", {}),
        "sampler": each[0].get("sampler", {}),
        "failures": failures[:FAILURES_KEPT],
        "interrupted": any(said.get("interrupted", False) for said in each),
        "finished": all(said.get("finished", True) for said in each),
        "seconds": round(sum(spent), 3),
        "points_per_second": points / sum(spent) if sum(spent) else "nan",
    }
    outcomes = [said["sampler"]["outcome"] for said in each if "outcome" in said.get("sampler", {})]
    if outcomes:
        made["sampler"] = made["sampler"] | {"outcome": _worst(outcomes)}
    interpolations = [said["interpolation"] for said in each if "interpolation" in said]
    if interpolations:
        summaries = [
            {key: value for key, value in said.items() if key not in ("dims", "measured", "values")}
            for said in interpolations
        ]
        made["interpolation"] = _worst(summaries)
    centers = [said.get("center", {}) for said in each]
    made["center"] = centers[0] if all(center == centers[0] for center in centers) else {}
    return made


_NOISES = ("noise", "noise_largest", "noise_of_range")


def _worst(said: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Combine several summaries: sums of whole numbers, maxima of other numbers, the first of texts."""
    made: dict[str, Any] = {}
    for key, first in said[0].items():
        values = [part[key] for part in said if key in part]
        if not all(map(is_number, values)):
            made[key] = first
        elif all(isinstance(value, int) for value in values):
            made[key] = sum(values)
        elif key in _NOISES or key.startswith(("left_out_error", "estimated_error")):  # numbers, or the word "nan"
            known = [float(value) for value in values if not math.isnan(float(value))]
            made[key] = max(known, default=math.nan)
        else:
            made[key] = first
    return dict(jsonable(made))


def of_one_seed(dataset: xr.Dataset) -> xr.Dataset:
    """Return a surface with the attributes of its own seed, if ``sel(seed=...)`` left those of all seeds."""
    ensemble = dataset.attrs.get("ensemble")
    if ensemble is None or "seed" in dataset.dims or "seed" not in dataset.coords:
        return dataset
    i = ensemble["seeds"].index(int(dataset["seed"]))
    made = dataset.copy()
    said = ensemble["each"][i]
    own = {"ensemble", *_OF_EACH} - (set() if "still" in said else set(_OF_CHARTS))
    common = {key: value for key, value in dataset.attrs.items() if key not in own}
    made.attrs = common | {"chart": ensemble["charts"][i]} | said
    return made
