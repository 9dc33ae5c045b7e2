"""What all pictures share: which numbers are drawn, their labels, their colours, and what is left a hole."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossnav.errors import OptionError
from lossnav.surface import FAILED, NOT_EVALUATED, validate

COLORMAP = "viridis"  # perceptually uniform, and readable in grey and by the colour-blind
CENTER_COLOR = "#d62728"
LINE_COLOR = "#31688e"  # a colour of the map, so that line and surface belong together

_SIZE = (5.0, 3.9)  # inches: one column and a half


@dataclass(frozen=True)
class Axis:
    """One coordinate: its values, its letter, and what it means."""

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
        The variable on the grid, in its own unit; NaN where there is nothing to draw.
    drawn : ndarray
        The same, or its log10.
    se : ndarray or None
        Standard error of the values.
    holes : ndarray of bool
        Where nothing is drawn.
    axes : tuple of Axis
    log : bool
    label, log_label : str
        Of the values, and of their log10.
    title, note : str
        The note says what the holes are; empty where there is none.
    center : float or None
        Value at the origin, where that lies on the grid's range and was measured.
    measured : ndarray or None
        Coordinates of the points to mark, shape (m, k).
    band : str
        What `se` is.
    """

    values: NDArray[np.float64]
    drawn: NDArray[np.float64]
    se: NDArray[np.float64] | None
    holes: NDArray[np.bool_]
    axes: tuple[Axis, ...]
    log: bool
    label: str
    log_label: str
    title: str
    note: str
    center: float | None
    measured: NDArray[np.float64] | None = None
    band: str = "± 1 standard error"

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest drawn value; (0, 1) where nothing is drawn."""
        seen = self.drawn[~self.holes]
        return (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)


def prepare(dataset: xr.Dataset, variable: str, log: bool, ndim: int, points: bool = False) -> Picture:
    """Take from a surface what a picture needs.

    Points that lie on no grid are interpolated, and the note says so; several seeds become their mean with a band.

    Raises
    ------
    NotASurfaceError, OptionError
    """
    validate(dataset)
    if variable not in dataset or variable == "status":
        known = ", ".join(str(name) for name in dataset.data_vars if name not in ("status", "loss_se"))
        raise OptionError(f"This surface has no variable {variable!r}. Use one of {known}.")
    measured = dataset.attrs.get("interpolation", {}).get("measured")
    if "seed" in dataset.dims:
        dataset = dataset.lossnav.over_seeds()
    elif "point" in dataset.dims and len(dataset.lossnav.dims) == ndim:
        dataset = dataset.lossnav.to_grid()
        measured = dataset.attrs["interpolation"]["measured"]
    elif measured is None:
        measured = dataset.lossnav.points()[0]
    data = dataset[variable]
    if data.ndim != ndim:
        dims = ", ".join(map(str, data.dims))
        kinds = {1: "'line'", 2: "'contour', 'heatmap' or 'surface'"}.get(data.ndim, "a slice, surface.isel(gamma=0)")
        raise OptionError(f"This plot needs {ndim} coordinate(s) and the surface has ({dims}). Plot {kinds} of it.")
    values = np.asarray(data.values, dtype=np.float64)
    status = dataset["status"].values
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
    suffix = f" ({unit})" if unit != "1" else ""
    axes = tuple(_axis(dataset, str(dim)) for dim in data.dims)
    return Picture(
        values=np.where(holes, np.nan, values),
        drawn=drawn,
        se=dataset[spread].values if variable == "loss" and spread in dataset else None,
        holes=holes,
        axes=axes,
        log=log,
        label=f"{variable}{suffix}",
        log_label=f"log₁₀ {variable}{suffix}",
        title=_title(dataset),
        note="; ".join(part for part in (_corrected(dataset), _interpolated(dataset), note) if part),
        center=_center(axes, values, holes, dataset, variable, log),
        measured=np.asarray(measured, np.float64) if points and measured is not None else None,
        band="± 1 standard deviation over seeds" if spread == "loss_sd" else "± 1 standard error",
    )


def _interpolated(dataset: xr.Dataset) -> str:
    """What a note says of interpolation: from how many points, and how far off it may be."""
    said = dataset.attrs.get("interpolation")
    if said is None:
        return ""
    outcome = dataset.attrs.get("sampler", {}).get("outcome") or {}
    off = float(outcome.get("estimated_error", said["left_out_error_p99"]))
    words = f"interpolated from {said['points']:,} points"
    if math.isfinite(off):
        words += f", estimated error {off:.1%}" if off < 10 else f", estimated error {off:.0f}-fold"
    if outcome.get("unresolved"):
        words += f", {outcome['unresolved']:,} of {outcome['cells']:,} cells unresolved"
    return words


def _corrected(dataset: xr.Dataset) -> str:
    """What a note says of a control variate: at how many points there was all the data, and what error is left."""
    said = dataset.attrs.get("control_variate")
    if said is None:
        return ""
    left = float(said["residual_error"])
    residual = f"{left:.1%}" if said["relative"] else f"{left:.2g}"
    return f"corrected by all the data at {said['points']:,} points, residual error {residual}"


def _axis(dataset: xr.Dataset, dim: str) -> Axis:
    name = dataset[dim].attrs.get("long_name", dim)
    letter, _, meaning = str(name).partition(", ")
    return Axis(np.asarray(dataset[dim].values, dtype=np.float64), letter, meaning)


def _title(dataset: xr.Dataset) -> str:
    objective, chart = dataset.attrs.get("objective", {}), dataset.attrs.get("chart", {})
    samples, population = objective.get("samples"), objective.get("population")
    drawn = f"{samples:,}" + (f" of {population:,}" if population else "") + " samples" if samples else None
    seeds = dataset.attrs.get("ensemble", {}).get("seeds", [])
    parts = [objective.get("model"), chart.get("kind"), drawn, f"mean over {len(seeds)} seeds" if seeds else None]
    return " · ".join(part for part in parts if part)


def meanings(picture: Picture) -> str:
    """What the letters mean, on one line, for pictures whose axes have no room for it."""
    by_meaning: dict[str, list[str]] = {}
    for axis in picture.axes:
        by_meaning.setdefault(axis.meaning, []).append(axis.letter)
    return "; ".join(f"{', '.join(letters)}: {meaning}" for meaning, letters in by_meaning.items() if meaning)


def _center(
    axes: tuple[Axis, ...],
    values: NDArray[np.float64],
    holes: NDArray[np.bool_],
    dataset: xr.Dataset,
    variable: str,
    log: bool,
) -> float | None:
    """The value at the origin: a grid point where there is one, else what was measured before the run."""
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
    return float(measured)


def levels(picture: Picture, about: int = 12) -> NDArray[np.float64]:
    """Contour levels in the unit of the values: round numbers, evenly spaced (in the logarithm where log)."""
    low, high = picture.range
    if not low < high:
        return np.array([10**low if picture.log else low])
    if not picture.log:
        from matplotlib.ticker import MaxNLocator

        found = np.asarray(MaxNLocator(2 * about, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
        return found[(found > low) & (found < high)]
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)):
        decades = 10.0 ** np.arange(math.floor(low), math.ceil(high) + 1)
        found = np.array([decade * digit for decade in decades for digit in digits])
        found = found[(found > 10**low) & (found < 10**high)]
        if len(found) >= about * 0.6:
            break
    if len(found) > 2 * about:  # many decades: one line each, or fewer
        found = decades[(decades > 10**low) & (decades < 10**high)]
        found = found[:: math.ceil(len(found) / (2 * about))]
    return found if len(found) >= 3 else np.unique(10 ** np.linspace(low, high, about + 2)[1:-1])


def short(value: float) -> str:
    """A number in as few characters as a label bears."""
    return (
        f"{value:.3g}"
        if 1e-3 <= abs(value) < 1e4 or value == 0
        else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    )


def color_ticks(picture: Picture) -> tuple[list[float], list[str]]:
    """Ticks of a logarithmic colour bar: where they stand on the drawn scale, and their labels in the unit."""
    chosen = levels(picture, 8)
    chosen = chosen[:: math.ceil(len(chosen) / 10)]
    return [float(x) for x in np.log10(chosen)], [short(float(x)) for x in chosen]


def style() -> AbstractContextManager[Any]:
    """Matplotlib settings of our figures, for a `with`: nothing global is left changed."""
    import matplotlib as mpl

    return mpl.rc_context(
        {
            "figure.figsize": _SIZE,
            "figure.dpi": 120,
            "savefig.dpi": 300,
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.labelsize": 9,
            "axes.linewidth": 0.7,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 1.6,
            "pdf.fonttype": 42,
            "svg.fonttype": "none",
            "svg.hashsalt": "lossnav",
        }
    )


def finish(figure: Any, picture: Picture) -> None:
    """Add to a matplotlib figure what every picture has: its title and the note on holes."""
    figure.axes[0].set_title(picture.title, color="0.25", loc="left", pad=8)
    if picture.note:
        figure.supxlabel(picture.note, fontsize=7, color="0.35", x=0.98, ha="right")


def layout(figure: Any, picture: Picture) -> Any:
    """Add to a plotly figure what every picture has: its title, the note on holes, fonts and margins."""
    figure.update_layout(
        template="plotly_white",
        title={"text": picture.title, "x": 0.02, "font": {"size": 15}},
        font={"family": "Helvetica, Arial, sans-serif", "size": 13},
        margin={"l": 70, "r": 20, "t": 60, "b": 80},
        autosize=True,
    )
    if picture.note:
        figure.add_annotation(
            text=picture.note,
            xref="paper",
            yref="paper",
            x=1,
            y=-0.14,
            showarrow=False,
            font={"size": 11, "color": "#555"},
        )
    return figure


def hover(picture: Picture) -> tuple[NDArray[np.float64], str]:
    """Numbers to show under the mouse, transposed for plotly, and the template that shows them."""
    columns = [picture.values.T]
    text = f"{picture.label}: %{{customdata[0]:.5g}}"
    if picture.se is not None:
        columns.append(picture.se.T)
        text += " ± %{customdata[1]:.2g}"
    x, y = picture.axes[0].letter, picture.axes[1].letter
    return np.stack(columns, axis=-1), f"{x} = %{{x:.4g}}<br>{y} = %{{y:.4g}}<br>{text}<extra></extra>"
