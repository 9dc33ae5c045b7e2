"""Pictures of the spectrum of a Hessian: density of its eigenvalues, and extreme eigenvalues."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossnav.errors import OptionError
from lossnav.plots.picture import CENTER_COLOR, LINE_COLOR
from lossnav.plots.scales import short
from lossnav.plots.style import finish, layout
from lossnav.surface.groups import require_spectrum

Array = NDArray[np.float64]

_NAMES = {"hessian": "Hessian", "gauss-newton": "Gauss-Newton matrix"}
_FLOOR = 20  # a logarithmic axis ends at this part of the height of one eigenvalue: below is the tail of a Gaussian
_ZERO = 0.01  # of the width: nodes nearer to zero are zero, up to rounding
_BREAK = 1.5  # steps of the grid beyond which nothing lies between two points


@dataclass(frozen=True)
class SpectrumPicture:
    """Numbers ready to be drawn.

    Attributes
    ----------
    values, density, error : ndarray of shape (n,)
        NaN at gaps of the grid; empty if there is no density.
    eigenvalues, errors : ndarray of shape (k,)
        The computed ones, increasing.
    places : ndarray of shape (k,)
        Rank of each at its end of the spectrum: 1 is the smallest eigenvalue, or the largest.
    smallest : int
        Number of eigenvalues of the lower end.
    negative : bool
        Whether there is negative curvature; false if only the drawn width of a zero eigenvalue reaches below zero.
    log : bool
    floor : float
        Lower end of the axis of the density.
    name : str
        Of the matrix.
    title, note : str
    """

    values: Array
    density: Array
    error: Array
    eigenvalues: Array
    errors: Array
    places: NDArray[np.int64]
    smallest: int
    negative: bool
    log: bool
    floor: float
    name: str
    title: str
    note: str

    @property
    def has_density(self) -> bool:
        """Whether there is one."""
        return len(self.values) > 0

    @property
    def ends(self) -> tuple[float, float]:
        """First and last value of the horizontal axis."""
        seen = self.eigenvalues
        if self.has_density:
            high = self.density > self.floor if self.log else self.density > 1e-3 * np.nanmax(self.density)
            seen = np.concatenate([seen, self.values[high]])
        low, high_end = min(float(seen.min()), 0.0), max(float(seen.max()), 0.0)
        margin = 0.03 * (high_end - low) or 1.0
        return low - margin, high_end + margin

    @property
    def label(self) -> str:
        """Of the vertical axis."""
        return "density of eigenvalues" if self.has_density else "place, counted from its end"

    def part(self, negative: bool) -> Array:
        """Density below or above zero, NaN elsewhere; both have the point next to zero."""
        first = int(np.searchsorted(self.values, 0.0)) if self.negative else 0  # at zero or above
        places = np.arange(len(self.values))
        return np.where((places <= first) & (first > 0) if negative else places >= first, self.density, np.nan)


def prepare(dataset: xr.Dataset, log: bool = True) -> SpectrumPicture:
    """Extract the data of a picture from a spectrum."""
    dataset = require_spectrum(dataset)
    eigenvalues, errors = (dataset[name].values for name in ("eigenvalue", "eigenvalue_error"))
    order = np.argsort(eigenvalues)
    order = order[np.isfinite(eigenvalues[order])]
    values, density, error = np.zeros(0), np.zeros(0), np.zeros(0)
    if dataset.sizes.get("value", 0):
        values, density, error = (dataset[name].values for name in ("value", "density", "density_error"))
    if not len(order) and not len(values):
        raise OptionError("This spectrum has no finite value to draw. Check the loss and the gradient at its point.")
    size, width = int(dataset.attrs["parameters"]), float(dataset.attrs.get("density", {}).get("width", 1.0))
    one = 1 / (size * width * math.sqrt(2 * math.pi))
    if len(values):
        values, density, error = _with_gaps(values, density, error)
    smallest = int((dataset["end"].values[order] == "smallest").sum())
    places = np.concatenate([np.arange(smallest) + 1, np.arange(len(order) - smallest, 0, -1)])
    return SpectrumPicture(
        values=values,
        density=density,
        error=error,
        eigenvalues=eigenvalues[order],
        errors=np.where(np.isfinite(errors[order]), errors[order], 0.0),
        places=places,
        smallest=smallest,
        negative=_is_negative(dataset),
        log=log and len(values) > 0,
        floor=one / _FLOOR if log else 0.0,
        name=_NAMES[dataset.attrs["operator"]],
        title=_title(dataset),
        note=_note(dataset),
    )


def _is_negative(dataset: xr.Dataset) -> bool:
    """Whether any computed eigenvalue is negative."""
    if bool((dataset["eigenvalue"] < -dataset["eigenvalue_error"]).any()):
        return True
    if "density" not in dataset:
        return False
    least = dataset["node"].where(dataset["weight"] > 0).min()
    return bool(least < -_ZERO * float(dataset.attrs["density"]["width"]))


def _with_gaps(*columns: Array) -> tuple[Array, ...]:
    """Insert NaN in the second and third column wherever the first has a gap."""
    steps = np.diff(columns[0])
    leaps = np.flatnonzero(steps > _BREAK * steps.min()) + 1 if len(steps) else np.zeros(0, np.int64)
    middle = (columns[0][leaps - 1] + columns[0][leaps]) / 2
    return tuple(np.insert(c, leaps, middle if i == 0 else np.nan) for i, c in enumerate(columns))


def _title(dataset: xr.Dataset) -> str:
    objective = dataset.attrs["objective"]
    samples = objective.get("samples")
    parts = [objective["model"], f"{dataset.attrs['parameters']:,} parameters"]
    return " · ".join([*parts, *([f"{samples:,} samples"] if samples else [])])


def _note(dataset: xr.Dataset) -> str:
    said, parts = dataset.attrs, []
    if "trace" in said:
        parts.append(f"trace {_signed(float(said['trace']['value']))} ± {short(float(said['trace']['error']))}")
    if "density" in said and dataset.sizes.get("value", 0):
        made = said["density"]
        below = dataset["weight"].where(dataset["node"] < -float(made["width"]), 0.0).sum("step")
        width = short(float(made["width"]))
        if _is_negative(dataset):
            parts.append(f"{float(below.mean()):.2%} of the eigenvalues below −{width}")
        parts.append(f"{made['probes']} probes of {made['steps']} steps, Gaussians of width {width}")
    parts.append(f"{said['passes']:,} passes over the data")
    if said.get("interrupted"):
        parts.append("stopped before its end")
    return "; ".join(parts)


def _signed(value: float) -> str:
    return short(value).replace("-", "−")


def draw(figure: Any, picture: SpectrumPicture) -> None:
    """Draw into a matplotlib figure."""
    axes = figure.add_subplot()
    left, right = picture.ends
    if picture.negative and left < 0 < right:
        axes.axvspan(left, 0, color=CENTER_COLOR, alpha=0.06, linewidth=0, zorder=0)
        axes.axvline(0, color="0.6", linewidth=0.7, zorder=0)
    if picture.has_density:
        for negative, color in ((True, CENTER_COLOR), (False, LINE_COLOR)):
            part = picture.part(negative)
            if np.isfinite(part).any():
                low, high = (np.maximum(part + s * picture.error, picture.floor) for s in (-1, 1))
                filled = np.maximum(part, picture.floor)
                axes.fill_between(picture.values, picture.floor, filled, color=color, alpha=0.12, linewidth=0)
                label = None if negative else "± 1 standard error"
                axes.fill_between(picture.values, low, high, color=color, alpha=0.35, linewidth=0, label=label)
                axes.plot(picture.values, part, color=color, linewidth=1.2)
        highest = float(np.nanmax(picture.density + picture.error))
        if picture.log:
            axes.set_yscale("log")
        axes.set_ylim(picture.floor, 2 * highest if picture.log else 1.05 * highest)
        _ticks(axes, picture)
    else:
        for value, error, place in zip(picture.eigenvalues, picture.errors, picture.places, strict=True):
            color = CENTER_COLOR if picture.negative and value < 0 else LINE_COLOR
            axes.errorbar(value, place, xerr=error, fmt="o", color=color, markersize=4, linewidth=1)
        axes.set_ylim(float(picture.places.max()) + 0.5, 0.5)
        axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_xlim(left, right)
    axes.set_xlabel(f"eigenvalue of the {picture.name} (unit of the loss)")
    axes.set_ylabel(picture.label)
    axes.grid(color="0.92", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    finish(figure, picture)  # type: ignore[arg-type]


def _ticks(axes: Any, picture: SpectrumPicture) -> None:
    """A tick on the axis for each known eigenvalue, and the number at both ends."""
    from matplotlib.patheffects import withStroke

    across = axes.get_xaxis_transform()
    for negative, color in ((True, CENTER_COLOR), (False, LINE_COLOR)):
        mine = picture.eigenvalues[(picture.negative & (picture.eigenvalues < 0)) == negative]
        axes.vlines(mine, 0, 0.045, color=color, linewidth=1.3, transform=across, zorder=4)
    known = len(picture.eigenvalues)
    for name, place, side, there in (
        ("λmin", 0, "left", picture.smallest > 0),
        ("λmax", known - 1, "right", picture.smallest < known),
    ):
        if there:
            value = float(picture.eigenvalues[place])
            color = CENTER_COLOR if picture.negative and value < 0 else LINE_COLOR
            words = f"{name} = {_signed(value)}"
            written = axes.text(value, 0.065, words, color=color, fontsize=8, ha=side, transform=across, zorder=5)
            written.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def interactive(picture: SpectrumPicture) -> Any:
    """Make a plotly figure."""
    import plotly.graph_objects as go

    figure = go.Figure()
    left, right = picture.ends
    if picture.negative and left < 0 < right:
        figure.add_vrect(x0=left, x1=0, fillcolor=CENTER_COLOR, opacity=0.06, line_width=0, layer="below")
    for negative, color in ((True, CENTER_COLOR), (False, LINE_COLOR)):
        part = picture.part(negative) if picture.has_density else np.zeros(0)
        if np.isfinite(part).any():
            _add_density(figure, picture, part, color, "below zero" if negative else "density")
        mine = (picture.negative & (picture.eigenvalues < 0)) == negative
        if mine.any():
            heights = np.full(int(mine.sum()), picture.floor) if picture.has_density else picture.places[mine]
            figure.add_scatter(
                x=picture.eigenvalues[mine],
                y=heights,
                customdata=np.stack([picture.errors[mine], picture.places[mine]], axis=-1),
                error_x={"type": "data", "array": picture.errors[mine]},
                mode="markers",
                marker={"symbol": "line-ns", "size": 16, "line": {"width": 2, "color": color}, "color": color},
                name="eigenvalues, negative" if negative else "eigenvalues",
                cliponaxis=False,
                hovertemplate="λ = %{x:.5g} ± %{customdata[0]:.2g}<br>number %{customdata[1]} there<extra></extra>",
            )
    figure.update_xaxes(
        title=f"eigenvalue of the {picture.name} (unit of the loss)", range=[left, right], zeroline=True
    )
    if picture.has_density:
        top = float(np.nanmax(picture.density + picture.error))
        ends = [math.log10(picture.floor), math.log10(top) + 0.2] if picture.log else [0, 1.05 * top]
        figure.update_yaxes(title=picture.label, type="log" if picture.log else "linear", range=ends)
        if picture.log:
            figure.update_yaxes(exponentformat="power", dtick=1 if ends[1] - ends[0] < 8 else 2)
    else:
        figure.update_yaxes(title=picture.label, autorange="reversed")
    return layout(figure, picture)  # type: ignore[arg-type]


def _add_density(figure: Any, picture: SpectrumPicture, part: Array, color: str, name: str) -> None:
    """Band and curve of one side of zero; each stretch between gaps is a band of its own."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    seen = np.isfinite(part)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], seen, [False]]).astype(np.int8)))
    first = True
    for begin, end in edges.reshape(-1, 2):
        x, y, error = picture.values[begin:end], part[begin:end], picture.error[begin:end]
        low, high = np.maximum(y - error, picture.floor), np.maximum(y + error, picture.floor)
        figure.add_scatter(
            x=np.concatenate([x, x[::-1]]),
            y=np.concatenate([high, low[::-1]]),
            fill="toself",
            fillcolor=f"rgba({red},{green},{blue},0.3)",
            mode="lines",
            line={"width": 0},
            name=f"{name}, ± 1 standard error",
            showlegend=first,
            legendgroup=f"band {name}",
            hoverinfo="skip",
        )
        first = False
    figure.add_scatter(
        x=picture.values,
        y=part,
        customdata=picture.error,
        mode="lines",
        line={"color": color, "width": 2},
        name=name,
        connectgaps=False,
        hovertemplate="λ = %{x:.4g}<br>density %{y:.3g} ± %{customdata:.2g}<extra></extra>",
    )
