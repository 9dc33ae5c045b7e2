"""Marks on a picture: networks that lie on it or are projected on it, and curves between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossnav._utils.validation import described
from lossnav.errors import OptionError

if TYPE_CHECKING:
    from lossnav.plots.picture import Picture

MARK_COLOR = "#111111"
CURVE_COLORS = ("#111111", "#c2185b", "#0b6e4f", "#7b3294")

_LETTERS = "abcdefgh"
_ROUNDING = 1e-5  # of its distance from the centre: so far from its projection is a network that lies on the picture

Array = NDArray[np.float64]
Marks = Mapping[str, Any] | bool


@dataclass(frozen=True)
class Mark:
    """One network, or a curve through several places.

    Attributes
    ----------
    label : str
    places : ndarray of shape (m, k)
        Coordinates; one row for a network.
    residual : float
        Largest distance from the chart, in units of weights; 0 where nothing is said of it.
    """

    label: str
    places: Array
    residual: float = 0.0

    @property
    def is_curve(self) -> bool:
        """Whether it has several places, which a line connects."""
        return len(self.places) > 1


def marks_of(given: Marks, dataset: xr.Dataset, dims: tuple[str, ...]) -> tuple[Mark, ...]:
    """Return the marks of a picture.

    Parameters
    ----------
    given : mapping of str to coordinates, or bool
        Coordinates of shape (k,), or (m, k) for a curve, or a result of `lossnav.project`. True: the networks that the
        surface's directions connect. False: none.
    dataset : xarray.Dataset
        The surface.
    dims : tuple of str
        Its coordinates, in the order of the picture.

    Raises
    ------
    OptionError
        If a mark has another number of coordinates, or was projected on another chart.
    """
    if isinstance(given, bool):
        return _networks(dataset, dims) if given else ()
    if not isinstance(given, Mapping):
        raise OptionError(f'marks is {described(given)}. Pass places by label: marks={{"b": (1, 0)}}.')
    return tuple(_mark(str(label), place, dataset, dims) for label, place in given.items())


def _mark(label: str, place: Any, dataset: xr.Dataset, dims: tuple[str, ...]) -> Mark:
    if isinstance(place, xr.Dataset):
        if place.attrs.get("chart") != dataset.attrs.get("chart"):
            raise OptionError(
                f'The mark "{label}" was projected on another chart than this surface\'s. Project it on the chart that '
                "the surface was evaluated on: ln.project(network, plane)."
            )
        columns = np.stack([np.asarray(place[dim].values, np.float64) for dim in dims], axis=1)
        off = float(np.nanmax(place["residual"].values, initial=0.0))
        reach = float(np.nanmax(place["distance"].values, initial=0.0))
        return Mark(label, columns, off if off > _ROUNDING * reach else 0.0)
    try:
        places = np.asarray(place, dtype=np.float64)
    except (TypeError, ValueError):
        places = np.zeros((0, 0, 0))
    if places.ndim == 0:
        places = places[None]
    if places.ndim == 1 and len(dims) == 1 and len(places) != 1:
        places = places[:, None]
    places = np.atleast_2d(places)
    if places.ndim != 2 or places.shape[1] != len(dims) or not len(places) or not np.isfinite(places).all():
        raise OptionError(
            f'The mark "{label}" is {described(place)}, and this picture has the coordinates ({", ".join(dims)}). Pass '
            f"{len(dims)} number(s), several rows of them for a curve, or ln.project(network, chart)."
        )
    return Mark(label, places)


def _networks(dataset: xr.Dataset, dims: tuple[str, ...]) -> tuple[Mark, ...]:
    """The networks that the directions of a chart were made through, where the chart contains them all."""
    chart = dataset.attrs.get("chart", {})
    recipes = dict(zip(chart.get("dims", ()), chart.get("directions") or (), strict=False))
    own = [recipes.get(dim) or {} for dim in dims]
    first = own[0] if own else {}
    if first.get("kind") != "through" or any(float(one.get("times", 1.0)) != 1.0 for one in own):
        return ()
    if any(one.get("points") != first["points"] or one.get("kind") != "through" for one in own):
        return ()
    indices = [int(one["index"]) for one in own]
    places = np.asarray(first["places"], np.float64)
    if chart.get("center") not in (None, first["points"][0]) or len(places) > len(_LETTERS):
        return ()
    others = [i for i in range(places.shape[1]) if i not in indices]
    inside = [(letter, at) for letter, at in zip(_LETTERS, places, strict=False) if not at[others].any()]
    return tuple(Mark(letter, at[indices][None]) for letter, at in inside)


def note_of(marks: tuple[Mark, ...]) -> str:
    """What to say of marks that do not lie on the picture."""
    off = [mark for mark in marks if mark.residual > 0]
    worst = max(off, key=lambda mark: mark.residual, default=None)
    if worst is None:
        return ""
    return f"{worst.label}: up to {worst.residual:.3g} off the picture, in units of weights"


# ---------------------------------------------------------------------- matplotlib


def mark(axes: Any, picture: Picture) -> None:
    """Draw marks on a matplotlib plane."""
    for color, one in _colored(picture):
        if one.is_curve:
            axes.plot(*one.places.T, color="white", linewidth=3.2, zorder=5.5)
            axes.plot(*one.places.T, color=color, linewidth=1.6, zorder=5.6, label=one.label)
            at = one.places[len(one.places) // 2]
        else:
            (at,) = one.places
            axes.plot(*at, "D", color=color, markersize=5, markeredgecolor="white", markeredgewidth=0.9, zorder=6.5)
        _write(axes, one.label, at, color)


def mark_line(axes: Any, picture: Picture) -> None:
    """Draw marks on a matplotlib curve, as vertical lines with their labels above."""
    for color, one in _colored(picture):
        for (at,) in one.places:
            axes.axvline(at, color=color, linewidth=0.7, linestyle=":", zorder=0.5)
            axes.annotate(
                one.label, (at, 1), (3, -3), xycoords=("data", "axes fraction"), textcoords="offset points",
                ha="left", va="top", fontsize=8, color=color, annotation_clip=True,
            )  # fmt: skip


def mark_3d(axes: Any, picture: Picture, floor: float) -> None:
    """Draw marks on a matplotlib surface: a stem to the height there, where it is known."""
    for color, one in _colored(picture):
        heights = heights_of(picture, one.places)
        axes.plot(*one.places.T, heights, color=color, marker="" if one.is_curve else "D", markersize=4, zorder=12)
        i = len(heights) // 2
        if np.isfinite(heights[i]):
            if not one.is_curve:
                x, y = one.places[0]
                axes.plot([x, x], [y, y], [floor, heights[i]], color=color, linewidth=0.6, linestyle=":", zorder=10)
            axes.text(*one.places[i], heights[i], f"  {one.label}", fontsize=8, color=color, zorder=13)


def _write(axes: Any, label: str, at: Array, color: str) -> None:
    import matplotlib.patheffects as effects

    axes.annotate(
        label, at, (5, 5), textcoords="offset points", fontsize=8.5, color=color, zorder=7, annotation_clip=True,
        path_effects=[effects.withStroke(linewidth=2.2, foreground="white")],
    )  # fmt: skip


# ---------------------------------------------------------------------- plotly


def traces(picture: Picture) -> list[Any]:
    """Marks of a plotly plane."""
    import plotly.graph_objects as go

    return [
        go.Scatter(
            x=one.places[:, 0],
            y=one.places[:, 1],
            **_look(one, color, 9),
        )
        for color, one in _colored(picture)
    ]


def traces_3d(picture: Picture) -> list[Any]:
    """Marks of a plotly surface, at the height there."""
    import plotly.graph_objects as go

    return [
        go.Scatter3d(
            x=one.places[:, 0], y=one.places[:, 1], z=heights_of(picture, one.places), **_look(one, color, 5)
        )
        for color, one in _colored(picture)
    ]  # fmt: skip


def mark_figure(figure: Any, picture: Picture) -> None:
    """Draw marks on a plotly curve, as vertical lines with their labels above."""
    for color, one in _colored(picture):
        for (at,) in one.places.tolist():
            figure.add_vline(
                at, line={"color": color, "width": 1, "dash": "dot"}, annotation_text=one.label,
                annotation_position="top", annotation_font={"color": color},
            )  # fmt: skip


def _look(one: Mark, color: str, size: int) -> dict[str, Any]:
    text: list[str] = [""] * len(one.places)
    text[len(text) // 2] = one.label
    return {
        "mode": "lines+text" if one.is_curve else "markers+text",
        "line": {"color": color, "width": 3},
        "marker": {"symbol": "diamond", "size": size, "color": color, "line": {"color": "white", "width": 1}},
        "text": text,
        "textposition": "top right",
        "textfont": {"color": color},
        "name": one.label,
        "showlegend": False,
        "hovertemplate": f"{one.label}<extra></extra>",
    }


def heights_of(picture: Picture, places: Array) -> Array:
    """Heights of a drawn surface at some places, bilinear between its points; NaN outside and beside a hole."""
    x, y = (axis.values for axis in picture.axes)
    found = np.full(len(places), np.nan)
    for k, (u, v) in enumerate(places):
        if not (x[0] <= u <= x[-1] and y[0] <= v <= y[-1]) or len(x) < 2 or len(y) < 2:
            continue
        i, j = (int(np.clip(np.searchsorted(axis, at) - 1, 0, len(axis) - 2)) for axis, at in ((x, u), (y, v)))
        s, t = (u - x[i]) / (x[i + 1] - x[i]), (v - y[j]) / (y[j + 1] - y[j])
        parts = ((i, j, (1 - s) * (1 - t)), (i + 1, j, s * (1 - t)), (i, j + 1, (1 - s) * t), (i + 1, j + 1, s * t))
        found[k] = sum(picture.drawn[a, b] * weight for a, b, weight in parts if weight)
    return found


def _colored(picture: Picture) -> list[tuple[str, Mark]]:
    """Marks with their colours: networks are black, each curve has its own."""
    made, curves = [], 0
    for one in picture.marks:
        made.append((CURVE_COLORS[1 + curves % 3] if one.is_curve else MARK_COLOR, one))
        curves += one.is_curve
    return made
