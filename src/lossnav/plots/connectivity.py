"""Several paths between two networks on one axis: as trained, aligned, repaired, and along a curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from lossnav._utils.validation import described
from lossnav.errors import OptionError
from lossnav.plots import comparison as _comparison
from lossnav.plots import lines
from lossnav.plots.comparison import Comparison
from lossnav.plots.picture import dims_of, on_grid
from lossnav.plots.style import note_below
from lossnav.surface.seeds import of_one_seed
from lossnav.surface.variables import validate

_T = "t"
_MEANING = "t, from one network (0) to the other (1)"
_HIGHER_IS_BETTER = ("accuracy", "exact_match")


@dataclass(frozen=True)
class Peak:
    """The place of a path that is furthest above the straight line between the values of its ends.

    Attributes
    ----------
    t, value, height : float
        Where it is, the value there, and how far that is above the line; below it for a metric of which more is better.
    """

    t: float
    value: float
    height: float


@dataclass(frozen=True)
class PathPictures:
    """Paths that share a frame, and the highest place of each.

    Attributes
    ----------
    comparison : Comparison
        Its labels say the barrier of each path.
    peaks : tuple of Peak or None
        None of a path without a value at both ends.
    """

    comparison: Comparison
    peaks: tuple[Peak | None, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the paths."""
        return self.comparison.labels


def prepare(rows: Any, variable: str, log: bool) -> PathPictures:
    """Bring surfaces over one coordinate on one axis from 0 to 1.

    Raises
    ------
    OptionError
        If there is no path, one is over several coordinates, does not reach from 0 to 1, or lacks the variable.
    NotASurfaceError
        If one is not a surface.
    """
    if not isinstance(rows, Mapping) or isinstance(rows, xr.Dataset) or not rows:
        raise OptionError(
            f'connectivity takes surfaces by label, got {described(rows)}. Pass {{"naive": line, "aligned": other}}.'
        )
    paths = {str(label): _on_one_axis(str(label), dataset, variable) for label, dataset in rows.items()}
    peaks = {label: _peak(path, variable) for label, path in paths.items()}
    names = [label if peak is None else f"{label}: barrier {peak.height:.3g}" for label, peak in peaks.items()]
    first = next(iter(paths.values()))
    if len(paths) == 1:  # the same axes as for several
        made = _comparison.compare([first, first], [names[0], "again"], "line", variable, log, 1, False)
        made = Comparison("line", made.pictures[:1], made.labels[:1])
    else:
        made = _comparison.compare(list(paths.values()), names, "line", variable, log, 1, False)
    return PathPictures(made, tuple(peaks.values()))


def draw(figure: Any, paths: PathPictures) -> None:
    """Draw into a matplotlib figure."""
    whole = paths.comparison.whole
    axes = figure.add_subplot()
    for (picture, label, (color, stroke, _)), peak in _looks(paths):
        lines.paint(axes, picture, {"curve": label}, color=color, linestyle=stroke)
        if peak is not None:
            scale = np.log10 if lines.is_far(picture) else np.asarray
            value = scale(picture.scaled(np.array([peak.value])))
            axes.plot([peak.t], value, "D", color=color, markersize=5, markeredgecolor="white", zorder=6)
    lines.label_axes(axes, whole)
    axes.set_xlim(-0.02, 1.02)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8, borderaxespad=0.2)
    axes.set_title(whole.title, color="0.25", loc="left", pad=12 + 13 * -(-len(paths.labels) // 2))
    note_below(figure, _note(paths))


def interactive(paths: PathPictures) -> Any:
    """Make a plotly figure."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for (picture, label, (color, _, dash)), peak in _looks(paths):
        figure.add_traces(lines.traces(picture, {"curve": label}, color, dash))
        if peak is not None:
            figure.add_scatter(
                x=[peak.t],
                y=picture.scaled(np.array([peak.value])),
                mode="markers",
                marker={"symbol": "diamond", "size": 10, "color": color, "line": {"color": "white", "width": 1}},
                showlegend=False,
                name=label,
                hovertemplate=f"{label}<extra></extra>",
            )
    made = lines.label_figure(figure, replace(paths.comparison.whole, note=_note(paths)))
    return made.update_layout(legend={"x": 0, "y": 1.01, "yanchor": "bottom", "orientation": "h"}, title={"y": 0.98})


def _looks(paths: PathPictures) -> Any:
    return zip(_comparison.looks(paths.comparison), paths.peaks, strict=True)


def _note(paths: PathPictures) -> str:
    said = "barrier (diamond): the measured point furthest from the straight line between the values of the ends; "
    said += "along an optimised curve an upper bound"
    return "; ".join(part for part in (paths.comparison.whole.note, said) if part)


def _on_one_axis(label: str, dataset: xr.Dataset, variable: str) -> xr.Dataset:
    """The surface as a grid over t, from 0 to 1."""
    dims = dims_of(of_one_seed(validate(dataset)))
    if len(dims) != 1:
        raise OptionError(
            f"{label} has the coordinates ({', '.join(dims)}), and a path has one. Pass a surface on a line or a curve."
        )
    if variable not in dataset:
        raise OptionError(f"{label} has no variable {variable!r}. Draw a variable that all paths have.")
    path = on_grid(of_one_seed(dataset)).rename({dims[0]: _T})
    path[_T].attrs["long_name"] = _MEANING
    inside = (path[_T].values >= -1e-9) & (path[_T].values <= 1 + 1e-9)
    ts = path[_T].values[inside]
    if not len(ts) or abs(ts[0]) > 1e-6 or abs(ts[-1] - 1) > 1e-6:
        raise OptionError(
            f"{label} has no points at 0 and 1, where its networks lie. Evaluate it there: "
            f"ln.Grid({dims[0]}=(0, 1, 21))."
        )
    return path.isel({_T: inside})


def _peak(path: xr.Dataset, variable: str) -> Peak | None:
    values, ts = np.asarray(path[variable].values, np.float64), path[_T].values
    if not (np.isfinite(values[0]) and np.isfinite(values[-1])):
        return None
    sign = -1.0 if any(word in variable for word in _HIGHER_IS_BETTER) else 1.0
    heights = sign * (values - ((1 - ts) * values[0] + ts * values[-1]))
    at = int(np.nanargmax(heights))
    return Peak(float(ts[at]), float(values[at]), float(heights[at]))
