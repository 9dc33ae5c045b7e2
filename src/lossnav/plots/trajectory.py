"""Training trajectories on a picture of a plane: projection, distance from the plane, and loss at the snapshots.

The plane's loss under a snapshot differs from the loss at the snapshot. On planes the colour of the path is its
distance from the plane; in three dimensions one line lies on the surface, another shows the loss at the snapshots
themselves, and stems connect the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossnav.errors import OptionError
from lossnav.surface.groups import require_path

if TYPE_CHECKING:
    from lossnav.plots.picture import Picture

COLORS = ("#fdd49e", "#fc8d59", "#d7301f", "#7f0000")  # near the plane to far off; no colour of the surface's map
PATH_COLOR = "#222222"

_ABOUT = 6  # marks along a path
_STEMS = 40  # at most
_APART = 0.06  # of the picture: marks are no closer
_LIFT = 0.004  # of the range: how far a line on a surface is raised, so that flat facets do not swallow it

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Track:
    """A path ready to be drawn.

    Attributes
    ----------
    places : ndarray of shape (m, 2)
        Coordinates of the projections.
    residual : ndarray of shape (m,)
    values, shadow_values : ndarray of shape (m,), or None
        The variable at the snapshots and at their projections, in the unit of the picture.
    heights, shadow : ndarray of shape (m,), or None
        The same as drawn (log10 if the picture is logarithmic), NaN where that is impossible.
    steps : ndarray of shape (m,)
    epochs : ndarray of shape (m,), or None
    marks : tuple of (int, str)
        Indices of snapshots with their labels.
    note : str
    """

    places: Array
    residual: Array
    values: Array | None
    shadow_values: Array | None
    heights: Array | None
    shadow: Array | None
    steps: NDArray[np.int64]
    epochs: Array | None
    marks: tuple[tuple[int, str], ...]
    note: str

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Snapshots that have both heights; all snapshots if there are no heights."""
        known = np.ones(len(self.places), bool)
        for heights in (self.heights, self.shadow):
            known &= True if heights is None else np.isfinite(heights)
        return known

    def highest(self, height: float) -> float:
        """The largest of a height and the drawn heights of the snapshots."""
        heights = np.array([]) if self.heights is None else self.heights
        return float(heights[np.isfinite(heights)].max(initial=height))


def track_of(path: xr.Dataset, dataset: xr.Dataset, picture: Picture, variable: str) -> Track:
    """Extract the data of a picture from a projected trajectory.

    Raises
    ------
    NotATrajectoryError
        If it is not a trajectory.
    OptionError
        If it was projected on another chart than the surface's, or the surface has several seeds.
    """
    require_path(path)
    if len(dataset.attrs.get("ensemble", {}).get("seeds", ())) > 1:
        raise OptionError(
            "This surface has several seeds, each with its own plane. Draw the path on one of them, "
            f"surface.lossnav.seed({dataset.attrs['ensemble']['seeds'][0]})."
        )
    dims = [str(dim) for dim in (path.attrs["chart"]["dims"] if "point" in dataset.dims else dataset["loss"].dims)]
    if path.attrs["chart"] != dataset.attrs["chart"] or sorted(dims) != sorted(path.attrs["chart"]["dims"]):
        raise OptionError(
            "The trajectory was projected on another chart than this surface's. Project it on the plane that the "
            "surface was evaluated on: ln.project(trajectory, plane)."
        )
    places = np.stack([path[dim].values for dim in dims], axis=1)
    residual = path["residual"].values
    outside = np.zeros(len(places), bool)
    for column, axis in zip(places.T, picture.axes, strict=True):
        outside |= ~((column >= axis.values[0]) & (column <= axis.values[-1]))
    values, shadow_values = (
        picture.scaled(path[name].values) if name in path else None for name in (variable, f"{variable}_projected")
    )
    epochs = path["epoch"].values if "epoch" in path.coords else None
    note = f"trajectory of {len(places):,} snapshots, up to {_largest(residual):.3g} off the plane"
    note += f" and {_largest(path['distance'].values):.3g} from the centre"
    if outside.any():
        note += f", {int(outside.sum()):,} of them outside of the picture"
    spans = np.array([np.ptp(axis.values) for axis in picture.axes])
    return Track(
        places=places,
        residual=residual,
        values=values,
        shadow_values=shadow_values,
        heights=_drawn(values, picture.log, outside),
        shadow=_drawn(shadow_values, picture.log, outside),
        steps=path["step"].values,
        epochs=epochs,
        marks=_marks(places / spans, outside, epochs, path["step"].values),
        note=note,
    )


def _largest(values: Array) -> float:
    return float(values[np.isfinite(values)].max(initial=0.0))


def _drawn(values: Array | None, log: bool, outside: NDArray[np.bool_]) -> Array | None:
    if values is None:
        return None
    seen = np.where(outside | ~np.isfinite(values) | ((values <= 0) & log), np.nan, values)
    return np.log10(seen) if log else seen


def _marks(
    places: Array, outside: NDArray[np.bool_], epochs: Array | None, steps: NDArray[np.int64]
) -> tuple[tuple[int, str], ...]:
    """Choose a few snapshots at round epochs (or steps), without overlapping labels."""
    word = "step" if epochs is None else "epoch"
    numbers = np.floor(epochs) if epochs is not None else steps.astype(np.float64)
    known = np.flatnonzero(np.isfinite(numbers))
    if not len(known):
        return ()
    between = _round((numbers[known].max() - numbers[known].min()) / _ABOUT)
    chosen: list[tuple[int, str]] = []
    for i in known:
        first = i == known[0] or numbers[i] != numbers[i - 1]  # of its epoch
        if not first or outside[i] or (epochs is not None and numbers[i] % between):
            continue
        if epochs is None and chosen and numbers[i] - numbers[chosen[-1][0]] < between:
            continue
        if all(math.dist(places[i], places[j]) > _APART for j, _ in chosen):
            chosen.append((int(i), f"{numbers[i]:,.0f}" if chosen else f"{word} {numbers[i]:,.0f}"))
    return tuple(chosen)


def _round(about: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... that is at least the given number."""
    if about <= 1:
        return 1.0
    decade = 10.0 ** math.floor(math.log10(about))
    return next(digit * decade for digit in (1, 2, 5, 10) if digit * decade >= about * (1 - 1e-9))


# ---------------------------------------------------------------------- matplotlib


def _colors(track: Track) -> tuple[Any, Any]:
    """Colour map and scale of the residual."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    return LinearSegmentedColormap.from_list("residual", COLORS), Normalize(0, _largest(track.residual) or 1.0)


def residual_bar(axes: Any, track: Track) -> None:
    """Draw the scale of the residual's colours into axes of its own."""
    from matplotlib.cm import ScalarMappable

    cmap, norm = _colors(track)
    bar = axes.figure.colorbar(ScalarMappable(norm=norm, cmap=cmap), cax=axes)
    bar.set_label("distance off the plane", fontsize=8)
    bar.ax.locator_params(nbins=3)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)


def mark(axes: Any, track: Track) -> None:
    """Draw the path on a plane: a line, its snapshots coloured by their residual, and epochs."""
    from matplotlib.patheffects import withStroke

    cmap, norm = _colors(track)
    x, y = track.places.T
    axes.plot(x, y, color="white", linewidth=3.4, solid_joinstyle="round", zorder=4)
    axes.plot(x, y, color=PATH_COLOR, linewidth=1.5, solid_joinstyle="round", zorder=4.1)
    axes.scatter(x, y, c=track.residual, cmap=cmap, norm=norm, s=14 if len(x) < 100 else 7, linewidths=0, zorder=4.2)
    halo = [withStroke(linewidth=2.2, foreground="white")]
    for i, words in track.marks:
        axes.plot(x[i], y[i], "o", color="white", markeredgecolor=PATH_COLOR, markersize=4.2, zorder=4.5)
        axes.annotate(
            words,
            (x[i], y[i]),
            xytext=_beside(track, i),
            textcoords="offset points",
            ha=_anchor(_beside(track, i)[0], "left", "right"),
            va=_anchor(_beside(track, i)[1], "bottom", "top"),
            fontsize=7.5,
            color=PATH_COLOR,
            path_effects=halo,
            zorder=7,
            annotation_clip=True,
        )
    residual_bar(axes.inset_axes((1.03, 0, 0.035, 0.33)), track)


def _beside(track: Track, i: int) -> tuple[float, float]:
    """Offset in points from a mark to its label: beside the path, to its left."""
    ahead, behind = track.places[min(i + 5, len(track.places) - 1)], track.places[max(i - 5, 0)]
    dx, dy = ahead - behind
    length = math.hypot(dx, dy) or 1.0
    return -6 * dy / length, 6 * dx / length


def _anchor(offset: float, ahead: str, behind: str) -> str:
    """Anchor of a label, so that it extends away from the path."""
    return "center" if abs(offset) < 2 else ahead if offset > 0 else behind


def mark_3d(axes: Any, track: Track, floor: float) -> None:
    """Draw the path over a surface: its projection, the loss at the snapshots, stems, and a shadow on the floor."""
    from matplotlib.patheffects import withStroke
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    cmap, norm = _colors(track)
    x, y = track.places.T
    shadow, heights = _required(track)
    on_floor = np.where(np.isfinite(shadow), floor, np.nan)
    axes.plot(x, y, on_floor, color=PATH_COLOR, linewidth=0.8, alpha=0.55, zorder=0.8)
    chosen = _stems(track)
    ends = np.stack([np.c_[x, y, shadow][chosen], np.c_[x, y, heights][chosen]], axis=1)
    axes.add_collection3d(Line3DCollection(ends, colors=cmap(norm(track.residual[chosen])), linewidths=0.9, zorder=10))
    axes.plot(x, y, shadow, color=PATH_COLOR, linewidth=1.3, zorder=11, label="loss on the plane")
    axes.plot(x, y, heights, color=COLORS[2], linewidth=1.0, zorder=12, label="loss at the snapshots")
    for i, words in track.marks:
        if np.isfinite(heights[i]):
            axes.text(
                x[i], y[i], heights[i], f" {words}", fontsize=7, color=PATH_COLOR, zorder=14, va="bottom",
                path_effects=[withStroke(linewidth=1.8, foreground="white")],
            )  # fmt: skip
            axes.plot(x[i], y[i], heights[i], "o", color="white", markeredgecolor=COLORS[2], markersize=3, zorder=13)
    axes.legend(
        loc="upper left",
        fontsize=7.5,
        bbox_to_anchor=(-0.02, 0.91),
        borderaxespad=0,
        facecolor="white",
        edgecolor="none",
        framealpha=0.75,
    )


def _required(track: Track) -> tuple[Array, Array]:
    if track.shadow is None or track.heights is None:
        raise OptionError(
            "A path on a surface needs losses. Pass the result of ln.evaluate_trajectory(objective, plane, trajectory)."
        )
    return track.shadow, track.heights


def _stems(track: Track) -> NDArray[np.intp]:
    """Snapshots with a stem: evenly spaced along the drawn path, with a maximum number."""
    inside = np.flatnonzero(track.inside)
    if len(inside) <= _STEMS:
        return inside
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(track.places[inside], axis=0), axis=1))])
    return inside[np.unique(np.searchsorted(along, np.linspace(0, along[-1], _STEMS)))]


# ---------------------------------------------------------------------- plotly


def _scale() -> list[list[Any]]:
    return [[i / (len(COLORS) - 1), color] for i, color in enumerate(COLORS)]


def _hover(track: Track, label: str) -> tuple[list[str], str]:
    """Hover text at each snapshot."""
    lines = []
    for i, step in enumerate(track.steps):
        words = [f"step {step:,}"]
        if track.epochs is not None and math.isfinite(track.epochs[i]):
            words[0] += f", epoch {track.epochs[i]:.4g}"
        if track.values is not None and track.shadow_values is not None:
            words += [f"{label}: {track.values[i]:.5g}", f"on the plane: {track.shadow_values[i]:.5g}"]
        lines.append("<br>".join([*words, f"off the plane: {track.residual[i]:.4g}"]))
    return lines, "%{text}<extra></extra>"


def _marker(track: Track, size: float, bar: dict[str, Any]) -> dict[str, Any]:
    title = {"text": "distance off the plane", "side": "right"}
    return {
        "color": track.residual,
        "colorscale": _scale(),
        "cmin": 0,
        "cmax": _largest(track.residual) or 1.0,
        "size": size,
        "colorbar": {"title": title, "outlinewidth": 0, "nticks": 4, **bar},
    }


def mark_interactive(figure: Any, track: Track, label: str) -> None:
    """Draw the path on a plotly plane."""
    x, y = track.places.T
    text, template = _hover(track, label)
    figure.add_scatter(x=x, y=y, mode="lines", line={"color": "white", "width": 5}, hoverinfo="skip", showlegend=False)
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line={"color": PATH_COLOR, "width": 2},
        marker=_marker(track, 6 if len(x) < 100 else 4, {"len": 0.33, "y": 0, "yanchor": "bottom"}),
        text=text,
        hovertemplate=template,
        name="trajectory",
        showlegend=False,
    )
    numbers = [i for i, _ in track.marks]
    figure.add_scatter(
        x=x[numbers],
        y=y[numbers],
        mode="markers",
        marker={"color": "white", "size": 8, "line": {"color": PATH_COLOR, "width": 1.5}},
        hoverinfo="skip",
        showlegend=False,
    )
    for i, words in track.marks:
        right, up = _beside(track, i)
        figure.add_annotation(
            x=x[i],
            y=y[i],
            text=words,
            showarrow=False,
            xanchor=_anchor(right, "left", "right"),
            yanchor=_anchor(up, "bottom", "top").replace("center", "middle"),
            xshift=right,
            yshift=up,
            font={"size": 11, "color": PATH_COLOR},
            bgcolor="rgba(255,255,255,0.65)",
            borderpad=1,
        )


def mark_3d_interactive(figure: Any, track: Track, picture: Picture) -> None:
    """Draw the path over a plotly surface."""
    x, y = track.places.T
    shadow, heights = _required(track)
    low, high = picture.range
    text, template = _hover(track, picture.label)
    chosen = _stems(track)
    rows = np.full((3 * len(chosen), 3), np.nan)
    rows[0::3], rows[1::3] = np.c_[x, y, shadow][chosen], np.c_[x, y, heights][chosen]
    figure.add_scatter3d(
        x=rows[:, 0],
        y=rows[:, 1],
        z=rows[:, 2],
        mode="lines",
        line={
            "color": np.repeat(track.residual[chosen], 3),
            "colorscale": _scale(),
            "cmin": 0,
            "cmax": _largest(track.residual) or 1.0,
            "width": 3,
        },
        hoverinfo="skip",
        showlegend=False,
        name="stems",
    )
    figure.add_scatter3d(
        x=x,
        y=y,
        z=shadow + _LIFT * (high - low),
        mode="lines",
        line={"color": PATH_COLOR, "width": 5},
        text=text,
        hovertemplate=template,
        name="loss on the plane",
    )
    bar = {"len": 0.28, "y": 0.02, "yanchor": "bottom"}
    figure.add_scatter3d(
        x=x,
        y=y,
        z=heights,
        mode="lines+markers",
        line={"color": COLORS[2], "width": 4},
        marker=_marker(track, 2.5, bar),
        text=text,
        hovertemplate=template,
        name="loss at the snapshots",
    )
    numbers = [i for i, _ in track.marks if np.isfinite(heights[i])]
    figure.add_scatter3d(
        x=x[numbers],
        y=y[numbers],
        z=heights[numbers],
        mode="markers+text",
        marker={"color": "white", "size": 5, "line": {"color": COLORS[2], "width": 2}},
        text=[words for i, words in track.marks if i in numbers],
        textposition="top center",
        textfont={"size": 13, "color": COLORS[1]},  # to be read on white and on the darkest of the surface
        hoverinfo="skip",
        showlegend=False,
    )
    figure.update_layout(showlegend=True, legend={"x": 0.01, "y": 0.98, "bgcolor": "rgba(255,255,255,0.6)"})
