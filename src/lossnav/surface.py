"""The result: an `xarray.Dataset` by a written schema (docs/schema.md), saved to and opened from Zarr.

No torch in this file: a stored surface opens and draws without it. What was measured is what is stored; NaN and inf
stay as they are, and `status` says of every point what became of it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossnav import __version__, arrays, journal
from lossnav import samples as kept
from lossnav.coordinates import mesh, nearest, packed
from lossnav.errors import (
    DamagedStoreWarning,
    NotASurfaceError,
    OptionError,
    SchemaTooNewError,
    StoreBusyError,
    StoreError,
)
from lossnav.files import SURFACE_SCHEMA, Place, as_path, is_local, is_there, name_of, replacing, require_writable
from lossnav.journal import Row, Rows, is_same, joined
from lossnav.keys import Said
from lossnav.lease import require_free
from lossnav.nouns import no_surface
from lossnav.samplers import Grid
from lossnav.schema import SURFACE
from lossnav.stored import (
    Documents,
    LazyArray,
    array_of,
    dataset_of,
    documents_of,
    group_of,
    read_arrays,
    require_coordinates,
    require_model,
    require_sound,
    write_dataset,
)

if TYPE_CHECKING:
    from lossnav.interpolation import Interpolant

SCHEMA_VERSION = 1

NOT_EVALUATED, OK, NON_FINITE, FAILED = 0, 1, 2, 3
STATUS_WORDS = {NOT_EVALUATED: "not evaluated", OK: "ok", NON_FINITE: "non-finite", FAILED: "failed"}

_ONE_PLACE = 1e-9  # of the range: nearer than this, a place is a measured point
_LEFT_OUT = 1000  # points that are predicted from the others, to say how far off they may be
TILE = kept.TILE  # points along each side of a chunk: one chunk is one tile

_CURVATURE = {  # what `curvature.on_chart` finds; weights have no unit
    "lambda_min": "smallest (most negative) eigenvalue of the Hessian",
    "lambda_max": "largest eigenvalue of the Hessian",
    "lambda_ratio": "|λmin / λmax| of the Hessian",
    "lambda_min_error": "an eigenvalue lies within this distance of lambda_min",
    "lambda_max_error": "an eigenvalue lies within this distance of lambda_max",
    "lambda_min_in_plane": "smallest eigenvalue of the Hessian within the tangent plane of the chart",
    "lambda_max_in_plane": "largest eigenvalue of the Hessian within the tangent plane of the chart",
    "gradient_norm": "norm of the gradient",
    "gradient_in_plane": "norm of the gradient's projection on the tangent plane of the chart",
    "gradient_out_of_plane": "norm of what the gradient's projection leaves",
    "hessian_in_plane": "second derivatives of the loss by the coordinates, in the chart's order",
    "products": "Hessian-vector products, each a pass over the data",
}
_MATRIX = ("row", "column")  # dims of a variable that is a matrix at every point
_LOSS_UNITS = {"cross_entropy": "nat", "CrossEntropyLoss": "nat", "nll_loss": "nat", "NLLLoss": "nat"}
DIM_LETTERS = {"alpha": "α", "beta": "β", "gamma": "γ"}


# ---------------------------------------------------------------------- making one


def assemble(
    dims: Sequence[str],
    axes: Mapping[str, NDArray[np.float64]] | None,
    points: NDArray[np.float64],
    rows: Sequence[Mapping[str, float]],
    statuses: Sequence[int],
    attributes: Mapping[str, Any],
) -> xr.Dataset:
    """Make a surface of what was measured.

    Parameters
    ----------
    dims : sequence of str
        Names of the k coordinates.
    axes : mapping of str to ndarray, or None
        With axes the surface has their grid shape; points not given are "not evaluated". Without, one dim ``point``.
    points : ndarray of shape (m, k)
    rows : m mappings of name to value
        Empty where a point failed.
    statuses : m status codes
    attributes : mapping
        Provenance: ``objective``, ``chart``, ``sampler``, ``engine``, ``center``, ``seconds``, ...

    Returns
    -------
    xarray.Dataset
        That `validate` accepts.
    """
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["loss"]
    values = {name: np.array([row.get(name, math.nan) for row in rows], np.float64) for name in names}
    return assemble_table(dims, axes, Rows(points, np.asarray(statuses, np.uint8), values), attributes)


def assemble_table(
    dims: Sequence[str], axes: Mapping[str, NDArray[np.float64]] | None, rows: Rows, attributes: Mapping[str, Any]
) -> xr.Dataset:
    """The same of a table of what was measured."""
    points = rows.points
    if axes is not None:
        shape: tuple[int, ...] = tuple(len(axes[dim]) for dim in dims)
        where = tuple(np.searchsorted(axes[dim], points[:, i]) for i, dim in enumerate(dims))
        value_dims: tuple[str, ...] = tuple(dims)
        coords: dict[str, Any] = {dim: (dim, axes[dim]) for dim in dims}
    else:
        shape, where, value_dims = (len(points),), (np.arange(len(points)),), ("point",)
        coords = {dim: ("point", points[:, i].copy()) for i, dim in enumerate(dims)}
    variables: dict[str, Any] = {}
    for name, column in (rows.values or {"loss": np.full(len(rows), np.nan)}).items():
        values = np.full(shape, np.nan)
        values[where] = column
        variables[name] = (value_dims, values)
    variables = _joined_entries(variables)
    status = np.zeros(shape, np.uint8)
    status[where] = rows.status
    variables["status"] = (value_dims, status)
    dataset = xr.Dataset(variables, coords=coords)
    header = {"schema": SURFACE_SCHEMA, "schema_version": SCHEMA_VERSION, "lossnav_version": __version__}
    dataset.attrs = header | {"created": datetime.now(UTC).isoformat(timespec="seconds")} | jsonable(attributes)
    describe_variables(dataset)
    return validate(dataset)


def table_of(dataset: xr.Dataset) -> Rows:
    """What was measured (or failed), column by column; an entry of a matrix is a column of its own."""
    status = dataset["status"].values.reshape(-1)
    done = status != NOT_EVALUATED
    columns: dict[str, NDArray[np.float64]] = {}
    for name in map(str, without_samples(dataset).data_vars):
        entries = dataset[name].values.reshape(status.size, *dataset[name].shape[dataset["status"].ndim :])
        if name != "status":
            columns |= {f"{name}{list(at) or ''}": entries[:, *at][done] for at in np.ndindex(entries.shape[1:])}
    return Rows(points_of(dataset)[done] + 0.0, status[done], columns)


def with_rows(dataset: xr.Dataset, tables: Sequence[Rows]) -> xr.Dataset:
    """The same surface with what was measured besides; a point that has a value there keeps the one measured last."""
    mine = table_of(dataset)
    k = mine.points.shape[1]
    axes = None if "point" in dataset.dims else {str(dim): dataset[dim].values for dim in dataset["loss"].dims}
    rows = joined([mine, *(on_axes(table, axes) for table in tables)], k)
    if is_same(rows, mine):
        return dataset
    made = assemble_table(list(dataset.attrs["chart"]["dims"]), axes, rows, dataset.attrs)
    made.attrs = dict(dataset.attrs)
    return made


def on_axes(rows: Rows, axes: Mapping[str, NDArray[np.float64]] | None) -> Rows:
    """Those that lie on a grid: all of them, unless they are another run's."""
    if axes is None:
        return rows
    there = np.ones(len(rows), bool)
    for axis, column in zip(axes.values(), rows.points.T, strict=True):
        at = np.clip(np.searchsorted(axis, column), 0, len(axis) - 1)
        there &= axis[at] == column
    return rows if there.all() else rows.take(there)


def rows_of(dataset: xr.Dataset) -> Iterator[Row]:
    """Yield what was measured (or failed), point by point, with the values that are there."""
    for row in journal.rows_of(table_of(dataset)):
        yield row if row.status != FAILED else row._replace(values={})


def _joined_entries(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Make one variable, with dims ``row`` and ``column``, of those called ``name[0, 0]``, ``name[0, 1]`` and so on."""
    made: dict[str, Any] = {}
    for name, (dims, values) in variables.items():
        whole, _, place = name.partition("[")
        if not place:
            made[name] = (dims, values)
            continue
        at = tuple(int(part) for part in place.rstrip("]").split(","))
        k = max(int(other.rpartition(", ")[2].rstrip("]")) for other in variables if other.startswith(f"{whole}[")) + 1
        made.setdefault(whole, ((*dims, *_MATRIX), np.full((*values.shape, k, k), np.nan)))
        made[whole][1][..., *at] = values
    return made


def status_of(values: Mapping[str, float], error: str | None = None) -> int:
    """Return the status code of a point from its values."""
    if error is not None:
        return FAILED
    return OK if math.isfinite(values["loss"]) else NON_FINITE


def describe_variables(dataset: xr.Dataset) -> None:
    """Give every variable and coordinate its meaning and unit."""
    objective, chart = dataset.attrs.get("objective", {}), dataset.attrs.get("chart", {})
    loss = objective.get("loss", "loss")
    unit = _LOSS_UNITS.get(loss, "1")
    for name, variable in dataset.data_vars.items():
        if name == "loss":
            variable.attrs = {"long_name": f"mean loss over the data ({loss})", "units": unit}
        elif name == "loss_se":
            variable.attrs = {"long_name": "standard error of the mean loss over the data", "units": unit}
        elif name == "loss_skewness":
            variable.attrs = {"long_name": "skewness of the losses of single samples", "units": "1"}
        elif name == kept.LOSS:
            variable.attrs = {"long_name": "losses of single samples (sums before weights)", "units": unit}
        elif name == kept.WEIGHT:
            variable.attrs = {"long_name": "weights of the samples in the mean", "units": "1"}
        elif name == "status":
            words = {word.replace(" ", "_"): code for code, word in STATUS_WORDS.items()}
            variable.attrs = {"long_name": "what became of the point", "units": "1"}
            variable.attrs |= {"flag_values": list(words.values()), "flag_meanings": " ".join(words)}
        elif name in _CURVATURE and "curvature" in dataset.attrs:
            in_loss = name not in ("lambda_ratio", "products")
            variable.attrs = {"long_name": _CURVATURE[str(name)], "units": unit if in_loss else "1"}
        else:
            variable.attrs = {"long_name": f"{name}, mean over the data", "units": "1"}
    recipes = chart.get("directions", [])
    for i, dim in enumerate(chart.get("dims", [])):
        recipe = recipes[i] if i < len(recipes) else {}
        dataset[dim].attrs = {
            "long_name": f"{DIM_LETTERS.get(dim, dim)}, {direction_words(recipe)}",
            "units": "lengths of the direction",
        }


def direction_words(recipe: Mapping[str, Any]) -> str:
    """Say in a few words what a direction is, for an axis label."""
    kind = recipe.get("kind", "given")
    if kind == "random":
        drawn = "uniform" if recipe.get("distribution") == "uniform" else "Gaussian"
        how = recipe.get("normalize")
        return f"random {drawn}" + (f", {how}-normalised" if how else "")
    if kind == "pca":
        how = ", filter-normalised" if recipe.get("scale") else ""
        mine, chance = f"{recipe['explained']:.0%}", f"{recipe['random_walk']:.0%}"
        return f"component {recipe['index'] + 1}: {mine} of path, chance {chance}{how}"
    if kind == "hessian":
        return f"eigenvector of the Hessian, λ = {float(recipe['eigenvalue']):.3g}"
    words = {"between": "from start to end", "given": "given direction", "gradient": "gradient of the loss"}
    words |= {"moment": f"Adam's {recipe.get('moment')}", "through": "through several models"}
    times = f", times {float(recipe['times']):.3g}" if "times" in recipe else ""
    return words.get(kind, str(kind)) + times


# ---------------------------------------------------------------------- checking one


def validate(dataset: xr.Dataset) -> xr.Dataset:
    """Return the dataset if it is a surface of a schema we know.

    Raises
    ------
    NotASurfaceError
        If the header, the loss or the status is missing, or shapes and types are off.
    SchemaTooNewError
        If a newer lossnav wrote it.
    """
    if not isinstance(dataset, xr.Dataset):
        raise no_surface(dataset)
    _validate_header(dataset.attrs)
    for name, kind in (("loss", "f"), ("status", "u")):
        if name not in dataset or dataset[name].dtype.kind != kind:
            raise NotASurfaceError(f'This surface has no variable "{name}". It was damaged; evaluate it anew.')
    dims = dataset["loss"].dims
    allowed = {kept.LOSS: ((*dims, kept.DIM),), kept.WEIGHT: ((kept.DIM,),)}
    every = dataset.data_vars.items()
    if any(variable.dims not in allowed.get(str(name), (dims, (*dims, *_MATRIX))) for name, variable in every):
        raise NotASurfaceError("The variables of this surface differ in shape. It was damaged; evaluate it anew.")
    if "seed" in dims:
        seeds = dataset.attrs.get("ensemble", {}).get("seeds", ())
        if "seed" not in dataset.coords or not {*dataset["seed"].values.tolist()} <= {*seeds}:
            raise NotASurfaceError(
                "The seeds of this surface are not those that its attributes name. It was damaged; evaluate it anew."
            )
    return dataset


def _validate_header(attributes: Mapping[str, Any]) -> None:
    """Raise where attributes are none of a surface whose schema we know."""
    if attributes.get("schema") != SURFACE_SCHEMA:
        raise NotASurfaceError(
            "This is not a lossnav surface: its attributes lack the schema. "
            "Pass what ln.evaluate returned, or a path that lossnav evaluate wrote."
        )
    version = attributes.get("schema_version")
    if not isinstance(version, int) or version < 1:
        raise NotASurfaceError("This surface does not say its schema version. It was damaged; evaluate it anew.")
    if version > SCHEMA_VERSION:
        raise SchemaTooNewError(
            f"This surface has schema version {version} and this lossnav ({__version__}) reads up to {SCHEMA_VERSION}. "
            "Upgrade with: pip install --upgrade lossnav"
        )


@xr.register_dataset_accessor("lossnav")  # type: ignore[no-untyped-call]
class SurfaceAccessor:
    """What a surface can say of itself: ``surface.lossnav``."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the chart's coordinates."""
        return tuple(self._dataset.attrs["chart"]["dims"])

    @property
    def is_grid(self) -> bool:
        """Whether the surface has grid shape (else point shape)."""
        return "point" not in self._dataset.dims

    @property
    def complete(self) -> bool:
        """Whether every point was evaluated (or failed), none left out."""
        return bool((self._dataset["status"] != NOT_EVALUATED).all())

    @property
    def counts(self) -> dict[str, int]:
        """How many points have each status, by its word."""
        status = self._dataset["status"].values
        return {word: int((status == code).sum()) for code, word in STATUS_WORDS.items()}

    @property
    def center(self) -> dict[str, float]:
        """Loss and metrics measured at the centre of the chart before the run; empty where that was not checked."""
        return {name: float(value) for name, value in self._dataset.attrs.get("center", {}).items()}

    def summary(self) -> dict[str, Any]:
        """Points by status, lowest and highest finite loss and where, loss at the centre, seconds, points/s."""
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
        """Coordinates that were evaluated, shape (m, k), and their losses, shape (m,), not finite ones among them."""
        done = self._dataset["status"].values.reshape(-1) != NOT_EVALUATED
        return points_of(self._dataset)[done], self._dataset["loss"].values.reshape(-1)[done]

    def seed(self, seed: int) -> xr.Dataset:
        """Of a surface with a dim ``seed`` the surface of one of them, as if it had been evaluated alone.

        It has its own chart, outcome and failures, where ``sel(seed=...)`` keeps the attributes of all.

        Raises
        ------
        OptionError
            If there is no such dim, or no such seed.
        """
        if "seed" not in self._dataset.dims:
            raise OptionError("This surface is of one seed. ln.ensemble makes one of several.")
        seeds = self._dataset["seed"].values.tolist()
        if seed not in seeds:
            raise OptionError(f"There is no seed {seed}. Use one of {', '.join(map(str, seeds))}.")
        return of_one_seed(self._dataset.sel(seed=seed)).drop_vars("seed")

    def over_seeds(self) -> xr.Dataset:
        """Of a surface with a dim ``seed`` the mean over the seeds; ``loss_sd`` is their standard deviation.

        A place that is not finite for one seed is not finite in the mean, and one that was interpolated for one seed
        is in the mean. One seed has no deviation.
        """
        dataset = self._dataset
        if "seed" not in dataset.dims:
            raise OptionError("This surface is of one seed. ln.ensemble makes one of several.")
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
        """Interpolate what was measured on a regular grid; see `resample`."""
        return resample(self._dataset, n)

    def _repr_html_(self) -> str:
        """What a notebook shows of ``surface.lossnav``: a small picture, and what it is."""
        from lossnav.plots.notebook import html_of

        return html_of(self._dataset)

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write to a Zarr folder; see `save_surface`."""
        return save_surface(self._dataset, path, overwrite=overwrite)


def without_samples(dataset: xr.Dataset) -> xr.Dataset:
    """The same surface without the losses of single samples."""
    return dataset.drop_vars(kept.VARIABLES, errors="ignore")


def with_samples(
    dataset: xr.Dataset, losses: NDArray[np.float32] | xr.Variable, weights: NDArray[np.float64] | xr.Variable
) -> xr.Dataset:
    """The same surface with the losses of single samples, shape (*points, n), and their weights, shape (n,)."""
    dims = dataset["loss"].dims
    values = {kept.LOSS: ((*dims, kept.DIM), losses), kept.WEIGHT: ((kept.DIM,), weights)}
    made = dataset.assign({name: xr.Variable(d, getattr(v, "_data", v)) for name, (d, v) in values.items()})
    describe_variables(made)
    return validate(made)


def points_of(dataset: xr.Dataset) -> NDArray[np.float64]:
    """Return the coordinates of every point, shape (m, k), in the order of the flattened variables."""
    dims = [str(dim) for dim in dataset.attrs["chart"]["dims"] if str(dim) in dataset.coords]
    if "point" in dataset.dims:
        return np.stack([dataset[dim].values for dim in dims], axis=1).astype(np.float64)
    return mesh(dataset[dim].values.astype(np.float64) for dim in dataset["loss"].dims)


# ---------------------------------------------------------------------- several seeds


FAILURES_KEPT = 20
_OF_CHARTS = ("still", "foreign_buffers", "checkpoints")  # in ensembles of before they were those of the first seed
_OF_EACH = (  # attributes that an ensemble keeps of every seed, beside its chart
    *_OF_CHARTS,
    "plan_hash", "sampler", "engine", "center", "sampling", "control_variate", "interpolation", "interrupted",
    "finished", "failures", "seconds", "points_per_second",
)  # fmt: skip


def join_seeds(surfaces: Sequence[xr.Dataset], seeds: Sequence[int]) -> xr.Dataset:
    """Join surfaces along a new first dim ``seed``; of point shape their interpolated grids.

    Raises
    ------
    OptionError
        If their coordinates differ.
    """
    grids = [surface if surface.lossnav.is_grid else surface.lossnav.to_grid() for surface in surfaces]
    if any(grid.lossnav.dims != grids[0].lossnav.dims or grid["loss"].dims != grids[0]["loss"].dims for grid in grids):
        raise OptionError("The charts of the seeds differ in their coordinates. Make them all of one kind.")
    if any(not grid[dim].equals(grids[0][dim]) for grid in grids for dim in grid["loss"].dims):
        raise OptionError("The seeds have different ranges or points. Give all of them one sampler with the same ends.")
    made = xr.concat(grids, xr.Variable("seed", list(seeds)), combine_attrs="override", join="exact")
    made["seed"].attrs = {"long_name": "seed of the directions", "units": "1"}
    each = [{key: grid.attrs[key] for key in _OF_EACH if key in grid.attrs} for grid in grids]
    ensemble = {"seeds": list(seeds), "charts": [grid.attrs["chart"] for grid in grids], "each": each}
    made.attrs = _of_seeds(grids[0].attrs | {"ensemble": ensemble}, seeds)
    return validate(made)


def add_seeds(surface: xr.Dataset, more: xr.Dataset) -> xr.Dataset:
    """Put the seeds of one ensemble after those of another.

    Raises
    ------
    OptionError
        If their coordinates differ.
    """
    if surface["loss"].dims != more["loss"].dims or any(
        not more[dim].equals(surface[dim]) for dim in more["loss"].dims if dim != "seed"
    ):
        raise OptionError("The seeds have different ranges or points. Give all of them one sampler with the same ends.")
    made = xr.concat([surface, more], "seed", combine_attrs="override", join="exact")
    parts = [part.attrs["ensemble"] for part in (surface, more)]
    ensemble = {key: [*parts[0][key], *parts[1][key]] for key in ("seeds", "charts", "each")}
    made.attrs = _of_seeds(surface.attrs | {"ensemble": ensemble}, ensemble["seeds"])
    return validate(made)


def of_seeds(surface: xr.Dataset, seeds: Sequence[int]) -> xr.Dataset:
    """An ensemble of some of the seeds of another."""
    made = surface.sel(seed=list(seeds))
    made.attrs = _of_seeds(surface.attrs, seeds)
    return validate(made)


def _of_seeds(attributes: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Attributes of some seeds of an ensemble together: counts are added, of errors the worst is said."""
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
    """One summary of several: whole numbers added, of others the largest, of words the first."""
    made: dict[str, Any] = {}
    for key, first in said[0].items():
        values = [part[key] for part in said if key in part]
        if isinstance(first, int):
            made[key] = sum(values)
        elif key in _NOISES or key.startswith(("left_out_error", "estimated_error")):  # numbers, or the word "nan"
            known = [float(value) for value in values if not math.isnan(float(value))]
            made[key] = max(known, default=math.nan)
        else:
            made[key] = first
    return dict(jsonable(made))


def of_one_seed(dataset: xr.Dataset) -> xr.Dataset:
    """Return a surface with the attributes of its own seed, where ``sel(seed=...)`` left those of all; else itself."""
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


# ---------------------------------------------------------------------- from points to a grid


def resample(dataset: xr.Dataset, n: int | None = None) -> xr.Dataset:
    """Interpolate a surface on a regular grid over the range of its points.

    A polyharmonic spline of log-loss (of the value itself, where not all are positive) through every finite point.

    Parameters
    ----------
    dataset : xarray.Dataset
        A surface of point shape, or of grid shape, not all of it evaluated perhaps.
    n : int, optional
        Points along each axis; by default the surface's own grid, or 201 (in two dimensions 101, in three 41).

    Returns
    -------
    xarray.Dataset
        A surface of grid shape with a variable ``interpolated``: 0 where the value was measured, 1 where it was not.
        A place whose nearest measured point is not finite (or failed) has no value and that point's status, and so
        have the places around each such point, however narrow the hole: nothing is drawn across it. A place outside of
        all points is not evaluated. Other variables than the loss stay within the range of what was measured.
        ``attrs["interpolation"]`` says how far off it may be: ``left_out_error``, largest and at the 99th percentile
        (``left_out_error_p99``), the relative difference of each loss from what the other points predict (without
        logarithms: a part of their range). Of more than 1,200 points they are those of 1,000 drawn among them, and the
        percentile an upper limit (95 % confidence).

    Raises
    ------
    NotASurfaceError
        If the dataset is no surface.
    OptionError
        If n is below 2, no point was evaluated, or all points have one value of a coordinate.
    """
    from lossnav.interpolation import DIRECT

    made, loss, points, columns = _interpolated(dataset, n)
    errors = loss.left_out(_LEFT_OUT)
    errors = errors[np.isfinite(errors)]
    off = {
        "left_out_error": float(errors.max()) if len(errors) else math.nan,
        "left_out_error_p99": _largest_but_one_per_cent(errors, len(loss.points) > DIRECT),
        "left_out_points": len(errors),
    }
    there = {"measured": packed(points), "values": {name: packed(values) for name, values in columns.items()}}
    made.attrs["interpolation"] |= jsonable(off) | there
    return validate(made)


def between(dataset: xr.Dataset, n: int | None = None) -> xr.Dataset:
    """What `resample` gives, without how far off it may be, and without the points: for who has them and draws more."""
    return validate(_interpolated(dataset, n)[0])


def _interpolated(
    dataset: xr.Dataset, n: int | None
) -> tuple[xr.Dataset, Interpolant, NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """What `between` gives, with the interpolated loss, the points that have one, and their values."""
    from lossnav.interpolation import interpolants, together

    dataset = without_samples(validate(dataset))
    if "seed" in dataset.dims:
        raise OptionError(
            f"This surface is of several seeds. Take one, surface.lossnav.seed({int(dataset['seed'][0])}), or their "
            "mean, over_seeds()."
        )
    dataset = of_one_seed(dataset)
    dims = [str(dim) for dim in (dataset.attrs["chart"]["dims"] if "point" in dataset.dims else dataset["loss"].dims)]
    status = dataset["status"].values.reshape(-1)
    done = status != NOT_EVALUATED
    points, status = points_of(dataset)[done], status[done]
    if not len(points) or (n is not None and n < 2):
        raise OptionError(f"{len(points)} points and n={n} make no grid. Evaluate some points, and ask for 2 or more.")
    if n is None and "point" not in dataset.dims:
        axes = [dataset[dim].values.astype(np.float64) for dim in dims]
    else:
        for dim, low, high in zip(dims, points.min(0), points.max(0), strict=True):
            if low == high:
                raise OptionError(
                    f"All {len(points)} points have {dim} = {low:g}, which makes no axis. Evaluate points with other "
                    f"values of {dim} too, or a chart without it."
                )
        count = n or {1: 201, 2: 101}.get(len(dims), 41)
        axes = [np.linspace(low, high, count) for low, high in zip(points.min(0), points.max(0), strict=True)]
    places = mesh(axes)
    shape = tuple(len(axis) for axis in axes)
    distance, beside = nearest(points, places)
    measured = distance < _ONE_PLACE
    columns = {
        str(name): dataset[name].values.reshape(-1)[done].astype(np.float64)
        for name in dataset.data_vars
        if name not in ("status", "interpolated") and dataset[name].dims == dataset["loss"].dims
    }
    fields = interpolants(points, columns)
    loss = fields["loss"]
    beyond = ~loss.reaches(places)
    asked = ~measured & ~beyond  # elsewhere nothing is interpolated
    between = np.full((len(fields), len(places)), np.nan)
    between[:, asked] = together(list(fields.values()), places[asked])
    variables: dict[str, Any] = {}
    for found, (name, values) in zip(between, columns.items(), strict=True):
        bad = status != OK if name == "loss" else (status != OK) | ~np.isfinite(values)
        hole = np.where(measured | bad[beside], beside, _beside_holes(axes, points, bad))
        if name != "loss" and not bad.all():  # an accuracy of 1.1 is none
            np.clip(found, values[~bad].min(), values[~bad].max(), out=found)
        none = np.where(np.isfinite(values), np.nan, values)  # inf stays inf
        found = np.where(measured, values[beside], np.where(hole >= 0, none[hole], found))
        variables[name] = (dims, found.reshape(shape), dataset[name].attrs)
        if name == "loss":
            became = np.where(hole >= 0, status[hole], np.where(beyond, NOT_EVALUATED, OK)).astype(np.uint8)
    variables["status"] = (dims, became.reshape(shape), dataset["status"].attrs)
    meaning = {"long_name": "whether the value was interpolated (1) or measured (0)", "units": "1"}
    variables["interpolated"] = (dims, (~measured).astype(np.uint8).reshape(shape), meaning)
    coords = {dim: (dim, axis, dataset[dim].attrs) for dim, axis in zip(dims, axes, strict=True)}
    others = {name: coord for name, coord in dataset.coords.items() if name not in dims and coord.ndim == 0}
    ok = status == OK
    said = {
        "method": f"polyharmonic spline of {'log-loss' if loss.log else 'the loss'}",
        "points": len(points),
        "holes": int((~ok).sum()),
        "dims": dims,
    }
    made = xr.Dataset(variables, coords=coords | others, attrs=dataset.attrs | {"interpolation": said})
    return made, loss, points[ok], {name: values[ok] for name, values in columns.items()}


def _largest_but_one_per_cent(errors: NDArray[np.float64], sampled: bool) -> float:
    """The 99th percentile of the errors of all points; of a sample of them a limit that it is below in 95 % of cases.

    How many of n points lie below it is binomial, whatever their distribution: so many of the smallest are passed over.
    """
    if not len(errors):
        return math.nan
    if not sampled or len(errors) < _LEFT_OUT:
        return float(np.quantile(errors, 0.99))
    n = len(errors)
    rank = math.ceil(0.99 * n + 1.645 * math.sqrt(0.0099 * n) + 1)
    return float(np.sort(errors)[min(rank, n) - 1])


def _beside_holes(
    axes: Sequence[NDArray[np.float64]], points: NDArray[np.float64], bad: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """For each place of a grid the bad point in one of the cells that meet there, or -1.

    A point on a side of a cell concerns the ends of that side, and one on a place that place alone.
    """
    found = np.full([len(axis) for axis in axes], -1, np.intp)
    numbers = np.flatnonzero(bad)
    ends: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []  # along each axis the places before and after each point
    for axis, x in zip(axes, points[numbers].T, strict=True):
        after = np.clip(np.searchsorted(axis, x), min(1, len(axis) - 1), len(axis) - 1)
        before = np.maximum(after - 1, 0)
        near = np.where(np.abs(axis[before] - x) <= np.abs(axis[after] - x), before, after)
        on_it = (np.abs(axis[near] - x) <= _ONE_PLACE * (axis[-1] - axis[0])) | (len(axis) == 1)
        ends.append((np.where(on_it, near, before), np.where(on_it, near, after)))
    for corner in itertools.product(*ends):  # of several points at a place the last one is named
        np.maximum.at(found, corner, numbers)
    return found.reshape(-1)


# ---------------------------------------------------------------------- files


def save_surface(dataset: xr.Dataset, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a surface to a Zarr v3 folder, whole or not at all.

    Parameters
    ----------
    dataset : xarray.Dataset
        A surface.
    path : path
        The folder to make, by custom ending in ``.zarr``.
    overwrite : bool
        Whether something that is there is replaced.

    Returns
    -------
    Path

    Raises
    ------
    NotASurfaceError, OutputExistsError, OutputNotWritableError
    StoreBusyError
        If a run is writing there.
    StoreError
        If writing fails half-way (a full disk); `.surface` of the error holds the dataset.
    """
    require_model(validate(dataset).attrs, SURFACE)
    target = require_writable(path, overwrite, kind="surface")
    try:
        with replacing(target, folder=True) as new:
            write_dataset(dataset, new)
            require_free(target)
    except StoreBusyError:
        raise
    except StoreError as error:
        failure = StoreError(f"{error} The surface is in the .surface of this error: ln.save(error.surface, path).")
        failure.surface = dataset
        raise failure from error
    return target


def open_surface(path: Place) -> xr.Dataset:
    """Open a stored surface into memory; of a run that goes on, or was killed, all that it has measured.

    Losses of single samples stay on disk until they are asked for, and come a part at a time where a part is asked for.

    Parameters
    ----------
    path : path, fsspec URL or zarr store

    Raises
    ------
    NotASurfaceError
        If there is nothing, or no surface.
    SchemaTooNewError
        If a newer lossnav wrote it.
    """
    path = as_path(path)
    source = Path(path).expanduser() if is_local(path) else path
    if not (os.path.lexists(source) if isinstance(source, Path) else is_there(source)):
        raise NotASurfaceError(
            f"There is no {name_of(source)}. Check the path; surfaces are folders, often named *.zarr."
        )
    try:
        documents = documents_of(source)
        if documents is None:
            raise _not_a_surface(source)
        header = documents.attributes
        _validate_header(header)
        root = group_of(source)
        superseded = bool(documents.damaged) and journal.supersedes(root)
        if superseded:  # killed while arrays were replaced
            whole = {name: said for name, said in documents.arrays.items() if name not in documents.damaged}
            documents = documents._replace(damaged=[], arrays=whole)
        require_sound(documents, SURFACE, source)
        dataset, damaged = _open(root, documents, superseded)
        dataset = attach_samples(_in_order(validate(dataset)), source, root)
    except StoreError as error:
        kind = type(error) if isinstance(error, NotASurfaceError | SchemaTooNewError) else NotASurfaceError
        raise kind(str(error) if str(error).startswith(name_of(source)) else f"{name_of(source)}: {error}") from None
    if damaged:
        dataset.attrs["finished"] = False  # what is not there any more is to be asked for again
        shown = "; ".join(damaged[:4]) + (f"; and {len(damaged) - 4} more" if len(damaged) > 4 else "")
        warnings.warn(
            f"{name_of(source)} is damaged: {shown}. The points that lie there are taken as not evaluated; the same "
            "call, or lossnav resume, evaluates them again.",
            DamagedStoreWarning,
            stacklevel=2,
        )
    return dataset


def _open(root: Any, documents: Documents, superseded: bool) -> tuple[xr.Dataset, list[str]]:
    """All that a store has measured, without the losses of single samples, and the names of what is damaged there."""
    header, damaged = documents.attributes, list[str]()
    dims = [str(dim) for dim in header["chart"]["dims"]]
    journaled = any(map(len, journal.tables(root, len(dims), damaged)))
    if journaled and "ensemble" in header:
        raise StoreError(
            "It is of several seeds, and has rows of a run in its journal, which are of none of them. It was damaged, "
            "or two stores were put together. Remove the folder journal from it."
        )
    try:
        dataset = None if superseded else arrays_of(root, documents, damaged)
    except StoreError:
        if not journaled:
            raise
        dataset = None  # killed while its arrays were replaced: by then all of it is in the journal
    if dataset is None or journaled:
        axes = _axes_of(root, documents)
        mine = None if dataset is None else table_of(validate(dataset))
        tables = [on_axes(table, axes) for table in journal.known(root, mine, len(dims), damaged=[])]
        dataset = assemble_table(dims, axes, joined(tables, len(dims)), header)
        dataset.attrs = dict(header)
    return dataset, damaged


def arrays_of(root: Any, documents: Documents | None = None, damaged: list[str] | None = None) -> xr.Dataset | None:
    """What the arrays of a store hold, without its journal and the losses of single samples; None before they do.

    A point of which something cannot be read is not evaluated, and one whose coordinates cannot be read is not there.

    Raises
    ------
    StoreError
        If they are none of a surface; a ValueError too where they are of several lengths.
    """
    documents = documents_of(root.store_path) if documents is None else documents
    if documents is None or "status" not in documents.arrays:
        return None  # killed while it was begun: it holds nothing yet
    header = documents.attributes
    found = read_arrays(root, documents, without=kept.VARIABLES)
    for dim in set(found.damaged) & found.coordinates:
        if found.variables[dim][0] == (dim,):
            found.variables[dim] = (
                (dim,),
                _axis_again(header, dim, len(found.variables[dim][1])),
                found.variables[dim][2],
            )
    dataset = dataset_of(found, header)
    if "loss" not in dataset or "status" not in dataset:
        return validate(dataset)  # which says so
    status = dataset["status"]
    lost = {name: np.zeros(status.shape, bool) for name in ("values", "places")}
    for name, parts in found.damaged.items():
        if found.variables[name][0][: status.ndim] == status.dims and not (
            name in found.coordinates and status.dims == (name,)
        ):
            for part in parts:
                lost["places" if name in found.coordinates else "values"][part[: status.ndim]] = True
        if damaged is not None:
            damaged += [arrays.named(name, part) for part in parts]
    if (
        not documents.sealed and status.shape == dataset["loss"].shape
    ):  # then a chunk that is gone is seen by this alone
        gone = (status.values == OK) & np.isnan(dataset["loss"].values) & ~lost["values"]
        if gone.any() and damaged is not None:
            damaged.append(f"{int(gone.sum())} points with status ok and no loss")
        lost["values"] |= gone
    if lost["values"].any():
        for each, variable in dataset.data_vars.items():
            if each == "status":
                variable.values[lost["values"]] = NOT_EVALUATED
            elif variable.dtype.kind == "f" and variable.dims[: status.ndim] == status.dims:
                variable.values[lost["values"]] = np.nan
    if lost["places"].any():
        dataset = dataset.isel(point=~lost["places"])
    require_coordinates(dataset, list(map(str, header["chart"]["dims"] if "point" in dataset.dims else status.dims)))
    return dataset


def _axis_again(header: Mapping[str, Any], dim: str, n: int) -> NDArray[Any]:
    """The coordinates along an axis as the attributes say them, where those that are stored are damaged."""
    said = header.get("sampler", {})
    if dim == "seed":
        return np.array(header["ensemble"]["seeds"], np.int64)
    if (axis := said.get("coordinates", {}).get(dim)) is None and len(ends := said.get("axes", {}).get(dim, ())) == 3:
        axis = Grid.again({"axes": {dim: ends}}).axes[dim] if 0 < ends[2] == n else None
    if axis is None or len(axis) != n:
        raise NotASurfaceError(
            f"Its coordinate {dim!r} is damaged, and its attributes do not say it. Evaluate it anew."
        )
    return np.asarray(axis, np.float64)


def _in_order(dataset: xr.Dataset) -> xr.Dataset:
    """The variables as they were measured: the loss, what belongs to it, metrics as they were given, the status.

    A folder lists them in an order of its file system's own.
    """
    metrics = dataset.attrs.get("objective", {}).get("metrics") or ()
    first: list[str] = ["loss", "loss_se", "loss_skewness", *map(str, metrics)]
    names = sorted(str(name) for name in dataset.data_vars if name not in (*first, "status"))
    return dataset[[name for name in (*first, *names, "status") if name in dataset.data_vars]]


def attach_samples(dataset: xr.Dataset, source: Any, root: Any = None) -> xr.Dataset:
    """The surface of a store with the losses of single samples that lie there, read when they are asked for."""
    documents = documents_of(source)
    if documents is None or not set(kept.VARIABLES) <= set(documents.arrays):
        return dataset
    root = group_of(source) if root is None else root
    made = {}
    for name in kept.VARIABLES:
        array, dims = array_of(root, name), documents.arrays[name].get("dimension_names") or ()
        if len(dims) != array.ndim:
            raise StoreError(f"{name} has {array.ndim} dims and {len(dims)} names of them. It was damaged.")
        made[name] = LazyArray.variable(array, name, dims)
    losses, weights = made[kept.LOSS], made[kept.WEIGHT]
    rows = dataset["loss"].shape
    if "point" in dataset.dims and losses.ndim == 2:
        losses = losses[: dataset.sizes["point"]]  # while a run goes on there is room for more
    if losses.shape != (*rows, *weights.shape):
        raise StoreError(f"{kept.LOSS} has shape {losses.shape}, where that of the points is {rows}. It was damaged.")
    return with_samples(dataset, losses, weights)


def _not_a_surface(source: Place) -> NotASurfaceError:
    return NotASurfaceError(
        f"{name_of(source)} is not a lossnav surface: it does not open as Zarr. "
        "Pass a folder that lossnav evaluate wrote."
    )


def _axes_of(root: Any, documents: Documents) -> dict[str, NDArray[np.float64]] | None:
    """The axes of a grid, as they are stored; None of point shape."""
    header, axes = documents.attributes, {}
    dims = [str(dim) for dim in header["chart"]["dims"]]
    for dim in dims:
        if (said := documents.arrays.get(dim)) is not None:
            if said.get("dimension_names") != [dim]:
                return None
            values, lost = arrays.read(array_of(root, dim))
            known = not lost and np.isfinite(values).all()  # killed while it was begun, an axis is not yet written
            axes[dim] = np.asarray(values, np.float64) if known else _axis_again(header, dim, len(values))
        elif len(ends := header.get("sampler", {}).get("axes", {}).get(dim, ())) == 3:  # it was being replaced
            axes[dim] = _axis_again(header, dim, int(ends[2]))
        else:
            return None
    require_coordinates(xr.Dataset(coords=axes), dims)
    return axes


# ---------------------------------------------------------------------- what makes two runs the same

_NOT_OF_THE_PLAN = {  # what may differ, or becomes known, while a run goes on
    "objective": (
        "samples",
        "batches",
        "data_resident",
        "device",
        "origin",
        "weights",
        "held",
        "moves",
        "layers",
        "buffers",
        "buffers_unread",
        "draws",
        "cut_samples",
    ),
    "chart": (),
    "sampler": ("outcome", "tolerance", "max_points"),  # points that are known stay good when more are asked for
    "curvature": (),
}


def put_together(attributes: Mapping[str, Any]) -> str:
    """What a surface was made by that is no measurement of one run, in a word; empty where it is one."""
    return next((word for word in ("interpolation", "control_variate", "ensemble") if word in attributes), "")


def plan_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What a run must share with another to be its continuation, from the attributes: "chart.kind" and so on."""
    items = {
        f"{part}.{key}": value
        for part, left_out in _NOT_OF_THE_PLAN.items()
        for key, value in attributes.get(part, {}).items()
        if key not in left_out
    }
    said = Said(attributes)
    items["objective.device"] = str(said["objective"]["device"]).partition(":")[0]
    items["engine.precision"] = said["engine"]["precision"]
    return items | {name: said[name] for name in ("lossnav_version", "torch_version")}


def plan_hash(attributes: Mapping[str, Any]) -> str:
    """Sixteen hex digits of a SHA-256 over `plan_of`, without the digits that another number of threads changes."""
    items = {
        key: _rounded(value) if _is_computed(key) else value for key, value in jsonable(plan_of(attributes)).items()
    }
    return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()[:16]


def differences(there: Mapping[str, Any], asked: Mapping[str, Any], *parts: str) -> list[str]:
    """Say in what two runs differ, a line an item; of some parts ("objective", "chart", …) or of all."""
    was, now = plan_of(there), plan_of(asked)
    keys = [key for key in dict.fromkeys([*was, *now]) if not parts or key.partition(".")[0] in parts]
    return [
        f"{key}: was {_short(was.get(key))}, is {_short(now.get(key))}"
        for key in keys
        if not (was.get(key) == now.get(key) or (_is_computed(key) and _are_close(was.get(key), now.get(key))))
    ]


_CLOSE = 1e-9  # norms and cosines are sums, whose last digits depend on how many threads made them


def _is_computed(key: str) -> bool:
    """Whether numbers of a plan were computed from weights; the seeds or fingerprints beside them are exact."""
    return key.startswith("chart.")


def _are_close(one: Any, other: Any) -> bool:
    """Whether two values of JSON differ in the last digits of numbers only."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_are_close(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_are_close(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=_CLOSE, abs_tol=_CLOSE)
    return bool(one == other)


def _rounded(value: Any) -> Any:
    """A value of JSON whose numbers have nine digits, and none beyond the ninth decimal."""
    if isinstance(value, Mapping):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return round(float(f"{value:.9g}"), 9) + 0.0 if isinstance(value, float) else value


def _short(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 100 else f"{words[:80]} … ({len(words)} characters)"


# ---------------------------------------------------------------------- JSON


def jsonable(value: Any) -> Any:
    """Turn a value into what JSON can hold; numbers that JSON lacks become words."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
