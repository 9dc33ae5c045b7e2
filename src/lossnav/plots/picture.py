"""Common data of all pictures: the drawn values, their labels, colours and holes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossnav._utils.geometry import unpacked
from lossnav.errors import OptionError
from lossnav.surface.assemble import points_of
from lossnav.surface.estimates import estimate_of
from lossnav.surface.seeds import of_one_seed
from lossnav.surface.variables import FAILED, NOT_EVALUATED, OK, validate

if TYPE_CHECKING:
    from lossnav.plots.marks import Mark
    from lossnav.plots.trajectory import Track

CENTER_COLOR = "#d62728"
LINE_COLOR = "#31688e"  # a colour of the map, so that line and surface belong together

_DRAWABLE = 1e100  # beyond it, and below its inverse, plotting libraries overflow in their squares and margins
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class PictureAxis:
    """One coordinate: its values, letter and meaning."""

    values: NDArray[np.float64]
    letter: str
    meaning: str

    @property
    def label(self) -> str:
        """Letter and meaning."""
        return f"{self.letter}  ({self.meaning})" if self.meaning else self.letter


@dataclass(frozen=True)
class Picture:
    """Numbers ready to be drawn.

    Attributes
    ----------
    values : ndarray
        The variable on the grid, in its own unit; NaN where it is not drawn.
    drawn : ndarray
        The same values, or their log10.
    se : ndarray or None
        Standard error of the values.
    holes : ndarray of bool
        Points that are not drawn.
    axes : tuple of PictureAxis
    log : bool
    label, log_label : str
        Of the values, and of their log10.
    title, note : str
        The note explains the holes; empty if there is none.
    center : float or None
        Value at the origin, if it is in the grid's range and was measured.
    measured : ndarray or None
        Coordinates of the points to mark, shape (m, k): those with a finite loss.
    measured_values : ndarray or None
        The values there, in the unit of `values`; NaN where they cannot be drawn.
    band : str
        Meaning of `se`.
    power : int
        Values are in units of this power of ten.
    limits : (float, float) or None
        Ends of the scale of colours (or heights), if not those of this picture.
    frame : tuple of (float, float), or None
        Ends of each axis, if not those of this picture.
    track : Track or None
        A training run to draw.
    marks : tuple of Mark
        Networks and curves to draw.
    """

    values: NDArray[np.float64]
    drawn: NDArray[np.float64]
    se: NDArray[np.float64] | None
    holes: NDArray[np.bool_]
    axes: tuple[PictureAxis, ...]
    log: bool
    label: str
    log_label: str
    title: str
    note: str
    center: float | None
    measured: NDArray[np.float64] | None = None
    measured_values: NDArray[np.float64] | None = None
    band: str = "± 1 standard error"
    power: int = 0
    limits: tuple[float, float] | None = None
    frame: tuple[tuple[float, float], ...] | None = None
    track: Track | None = None
    marks: tuple[Mark, ...] = ()

    def scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert values of the variable to the unit of `values`."""
        return np.asarray(_scaled(values, self.power))

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value of the scale: its limits, or those of the drawn values; (0, 1) if there are none."""
        if self.limits is not None:
            return self.limits
        seen = self.drawn[~self.holes]
        return (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)

    @property
    def ends(self) -> tuple[tuple[float, float], ...]:
        """First and last value of each axis."""
        return self.frame or tuple((float(axis.values[0]), float(axis.values[-1])) for axis in self.axes)

    @property
    def is_square(self) -> bool:
        """Whether the axes of a plane are similar enough in length for an equal aspect ratio."""
        (left, right), (bottom, top) = self.ends
        return 0.5 <= (right - left) / (top - bottom) <= 2 if top > bottom else False


def prepare(
    dataset: xr.Dataset, variable: str, log: bool, ndim: int, points: bool = False, power: int | None = None
) -> Picture:
    """Extract the data of a picture from a surface.

    Points that are not a grid are interpolated, and the note says so; several seeds become their mean with a band.
    Values at which plotting libraries overflow are drawn in units of a power of ten, chosen if none is given.

    Raises
    ------
    NotASurfaceError, OptionError
    """
    validate(dataset)
    drawable = [str(name) for name, data in dataset.data_vars.items() if data.dims == dataset["loss"].dims]
    if variable not in drawable or variable == "status":
        known = ", ".join(name for name in drawable if name not in ("status", "loss_se"))
        raise OptionError(f"This surface has no variable {variable!r}. Use {known}.")
    dataset = of_one_seed(dataset)
    dims = dims_of(dataset)
    if len(dims) != ndim:
        raise OptionError(
            f"This plot needs {ndim} coordinate(s), but the surface has ({', '.join(dims)}). "
            f"Plot {_instead(dataset, len(dims))}."
        )
    if "point" in dataset.dims:  # nothing is interpolated that is not drawn
        dataset = dataset.drop_vars([name for name in drawable if name not in (variable, "loss", "loss_se", "status")])
    dataset = on_grid(dataset)
    data = dataset[variable]
    values = np.asarray(data.values, dtype=np.float64)
    status = dataset["status"].values
    places, found = _measured(dataset, variable) if points else (None, None)
    power = 0 if log else _power(values) if power is None else power
    values, found = _scaled(values, power), _scaled(found, power)
    holes = ~np.isfinite(values)
    not_positive = (values <= 0) & ~holes if log else np.zeros_like(holes)
    holes = holes | not_positive
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.where(holes, np.nan, np.log10(values) if log else values)
    counts = {
        "not finite": int((~np.isfinite(values) & (status != NOT_EVALUATED) & (status != FAILED)).sum()),
        "failed": int((status == FAILED).sum()),
        "not evaluated": int((status == NOT_EVALUATED).sum()),
        "not positive (no logarithm)": int(not_positive.sum()),
    }
    note = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
    note = f"left out of {holes.size:,} points: {note}" if note else ""
    spread = "loss_sd" if "loss_sd" in dataset else "loss_se"
    unit = data.attrs.get("units", "1")
    unit = " ".join(
        part for part in (f"10{str(power).translate(_RAISED)}" if power else "", unit if unit != "1" else "") if part
    )
    suffix = f" ({unit})" if unit else ""
    axes = tuple(_axis(dataset, str(dim)) for dim in data.dims)
    return Picture(
        values=np.where(holes, np.nan, values),
        drawn=drawn,
        se=_scaled(dataset[spread].values, power) if variable == "loss" and spread in dataset else None,
        holes=holes,
        axes=axes,
        log=log,
        label=f"{variable}{suffix}",
        log_label=f"log₁₀ {variable}{suffix}",
        title=title_of(dataset),
        note="; ".join(part for part in (_corrected(dataset), _interpolated(dataset), note) if part),
        center=_center(axes, values, holes, dataset, variable, log, power),
        measured=places,
        measured_values=np.where(found > 0, found, np.nan) if log and found is not None else found,
        band="± 1 standard deviation over seeds" if spread == "loss_sd" else "± 1 standard error",
        power=power,
    )


def dims_of(dataset: xr.Dataset) -> tuple[str, ...]:
    """Names of the coordinates of the picture."""
    if "point" in dataset.dims:
        return tuple(dataset.lossnav.dims)
    return tuple(str(dim) for dim in dataset["loss"].dims if dim != "seed")


def on_grid(dataset: xr.Dataset) -> xr.Dataset:
    """Convert a surface to a grid for drawing: several seeds to their mean, points by interpolation."""
    if "seed" in dataset.dims:
        return dataset.lossnav.over_seeds()  # type: ignore[no-any-return]
    return dataset.lossnav.to_grid() if "point" in dataset.dims else dataset


def _instead(dataset: xr.Dataset, coordinates: int) -> str:
    """Suggest what can be drawn of a surface with another number of coordinates."""
    if coordinates < 3:
        return "'line' of it" if coordinates == 1 else "'contour', 'heatmap' or 'surface' of it"
    *_, last = dataset.lossnav.dims
    if "point" in dataset.dims:
        return f'a slice of it, surface.lossnav.to_grid(41).sel({last}=0, method="nearest")'
    return f"a slice of it, surface.isel({last}=0)"


def _measured(
    dataset: xr.Dataset, variable: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | tuple[None, None]:
    """Coordinates of the points with a finite loss, and the variable there; for several seeds those of each."""
    dims = [str(dim) for dim in dataset["loss"].dims]
    if "ensemble" in dataset.attrs:
        parts = [each["interpolation"] for each in dataset.attrs["ensemble"]["each"] if "interpolation" in each]
    else:
        parts = [dataset.attrs["interpolation"]] if "interpolation" in dataset.attrs else []
        if not parts:
            ok = dataset["status"].values.reshape(-1) == OK
            return points_of(dataset)[ok], dataset[variable].values.reshape(-1)[ok].astype(np.float64)
    places, values = [], []
    for said in parts:
        at = unpacked(said["measured"], len(said["dims"]))
        columns = dict(zip(said["dims"], at.T, strict=True))
        on_it = np.ones(len(at), bool)
        for dim in set(columns) - set(dims):  # a slice: points beside it are not on the picture
            on_it &= np.isclose(columns[dim], float(dataset[dim]), rtol=1e-9, atol=1e-9)
        places.append(np.stack([columns[dim] for dim in dims], axis=1)[on_it])
        known = unpacked(said["values"][variable]) if variable in said["values"] else np.full(len(at), math.nan)
        values.append(known[on_it])
    return (np.concatenate(places), np.concatenate(values)) if parts else (None, None)


def _power(values: NDArray[np.float64]) -> int:
    """The power of ten used as unit: 0 unless plotting libraries would overflow."""
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    return math.floor(math.log10(largest)) if largest and not 1 / _DRAWABLE < largest < _DRAWABLE else 0


def _scaled(values: Any, power: int) -> Any:
    """Values in units of a power of ten, in two steps: 10^-308 is inexact in float64, and 10^309 overflows."""
    if values is None or not power:
        return values
    half = -power // 2
    return values * 10.0**half * 10.0 ** (-power - half)


def _interpolated(dataset: xr.Dataset) -> str:
    """Note on interpolation: the number of points, and the estimated error."""
    said = dataset.attrs.get("interpolation")
    if said is None:
        return ""
    outcome = estimate_of(dataset.attrs)
    off = float(outcome.get("estimated_error", said["left_out_error_p99"]))
    words = f"interpolated from {said['points']:,} points"
    if said["holes"]:
        words += f" ({said['holes']:,} of them not finite or failed)"
    if math.isfinite(off):
        words += f", estimated error {off:.1%}" if off < 10 else f", estimated error {off:.0f}-fold"
    if float(outcome.get("noise", 0)) > 0:
        noise = float(outcome["noise"])
        words += f", noise {noise:.1%}" if math.isfinite(noise) else ", noisy: not finite each time"
    if outcome.get("unresolved"):
        words += f", {outcome['unresolved']:,} of {outcome['cells']:,} cells unresolved"
    return words


def _corrected(dataset: xr.Dataset) -> str:
    """Note on a control variate: the number of points with all the data, and the residual error."""
    said = dataset.attrs.get("control_variate")
    if said is None:
        return ""
    left = float(said["residual_error"])
    residual = f"{left:.1%}" if said["relative"] else f"{left:.2g}"
    return f"corrected by all the data at {said['points']:,} points, residual error {residual}"


def _axis(dataset: xr.Dataset, dim: str) -> PictureAxis:
    name = dataset[dim].attrs.get("long_name", dim)
    letter, _, meaning = str(name).partition(", ")
    return PictureAxis(np.asarray(dataset[dim].values, dtype=np.float64), letter, meaning)


def title_of(dataset: xr.Dataset) -> str:
    """Short title of a surface: model, chart, samples, seeds."""
    objective, chart = dataset.attrs.get("objective", {}), dataset.attrs.get("chart", {})
    samples, population = objective.get("samples"), objective.get("population")
    drawn = f"{samples:,}" + (f" of {population:,}" if population else "") + " samples" if samples else None
    seeds = dataset.attrs.get("ensemble", {}).get("seeds", [])
    of_seeds = f"mean over {len(seeds)} seeds" if len(seeds) > 1 else None
    parts = [objective.get("model"), chart.get("kind"), drawn, of_seeds]
    return " · ".join(part for part in parts if part)


def meanings(picture: Picture) -> str:
    """Meanings of the axis letters on one line, for pictures whose axes have no room for them."""
    by_meaning: dict[str, list[str]] = {}
    for axis in picture.axes:
        by_meaning.setdefault(axis.meaning, []).append(axis.letter)
    return "; ".join(f"{', '.join(letters)}: {meaning}" for meaning, letters in by_meaning.items() if meaning)


def _center(
    axes: tuple[PictureAxis, ...],
    values: NDArray[np.float64],
    holes: NDArray[np.bool_],
    dataset: xr.Dataset,
    variable: str,
    log: bool,
    power: int,
) -> float | None:
    """The value at the origin: that of the grid point there, if any, otherwise that measured before the run."""
    scalars = [coordinate for name, coordinate in dataset.coords.items() if coordinate.ndim == 0 and name != "seed"]
    if any(float(coordinate) != 0 for coordinate in scalars):
        return None  # a slice of a volume beside the centre
    if any(not axis.values[0] <= 0 <= axis.values[-1] for axis in axes):
        return None
    nearest = tuple(int(np.abs(axis.values).argmin()) for axis in axes)
    if all(axis.values[i] == 0 for axis, i in zip(axes, nearest, strict=True)):
        return None if holes[nearest] else float(values[nearest])
    measured = dataset.attrs.get("center", {}).get(variable)
    if measured is None or not math.isfinite(float(measured)) or (log and float(measured) <= 0):
        return None
    return float(_scaled(float(measured), power))
