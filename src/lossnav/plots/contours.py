"""Contour lines of a plane, with its centre marked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lossnav.plots import marks as markers
from lossnav.plots import trajectory
from lossnav.plots.picture import CENTER_COLOR, Picture
from lossnav.plots.scales import COLORMAP, color_bar_words, color_norm, color_ticks, distinct, lines_of
from lossnav.plots.style import finish, hover, layout


def draw(figure: Any, picture: Picture) -> None:
    """Draw into a matplotlib figure."""
    axes = figure.add_subplot()
    colors = paint(axes, picture)
    if not picture.holes.all():
        color_bar(axes, colors, picture)
    finish(figure, picture)


def paint(axes: Any, picture: Picture) -> Any:
    """Draw into matplotlib axes; return the mappable of the colour bar."""
    from matplotlib.cm import ScalarMappable

    x, y = picture.axes
    norm = color_norm(picture)
    heights, chosen = lines_of(picture)
    if len(heights):
        values = np.ma.masked_invalid(picture.drawn.T)
        lines = axes.contour(x.values, y.values, values, levels=heights, cmap=COLORMAP, norm=norm, linewidths=1.3)
        words = dict(zip(lines.levels, distinct(chosen.tolist()), strict=True))
        axes.clabel(lines, fmt=words, fontsize=7, inline=True, inline_spacing=2)
    if (edge := _edge(picture)) is not None:
        axes.plot(*edge, color="0.8", linewidth=0.8, zorder=0)
    mark_plane(axes, picture)
    return ScalarMappable(norm=norm, cmap=COLORMAP)


def _edge(picture: Picture) -> tuple[list[float], list[float]] | None:
    """Outline of the measured region, if the frame is larger."""
    (left, right), (bottom, top) = replace(picture, frame=None).ends
    if picture.ends == ((left, right), (bottom, top)):
        return None
    return [left, right, right, left, left], [bottom, bottom, top, top, bottom]


def color_bar(axes: Any, colors: Any, picture: Picture) -> None:
    """Draw a colour bar beside a plane, as high as the plane, or above that of a path."""
    below = 0.0 if picture.track is None else 0.42
    bar = axes.figure.colorbar(colors, cax=axes.inset_axes((1.03, below, 0.035, 1 - below)))
    if picture.log:  # our own ticks on log10: those of LogNorm overflow where losses near 1e300 are
        where, words = color_ticks(picture)
        bar.set_ticks(where, labels=words)
        bar.minorticks_off()
    bar.set_label(picture.label)
    bar.outline.set_visible(False)


def mark_plane(axes: Any, picture: Picture) -> None:
    """Mark the path, the centre and the holes, and label the axes, as in every matplotlib picture of a plane."""
    x, y = picture.axes
    if picture.track is not None:
        trajectory.mark(axes, picture.track)
    markers.mark(axes, picture)
    if picture.center is not None:
        axes.plot(
            [0], [0], marker="o", color=CENTER_COLOR, markersize=6, markeredgecolor="white", markeredgewidth=1, zorder=6
        )
    if picture.measured is not None:
        seen = {"color": "0.1", "markersize": 2.6, "markeredgecolor": "white", "markeredgewidth": 0.4}
        axes.plot(*picture.measured.T, "o", zorder=5, clip_on=False, **seen)
    if picture.holes.any():
        columns, rows = np.nonzero(picture.holes)
        axes.plot(x.values[columns], y.values[rows], "x", color="0.55", markersize=2.5, markeredgewidth=0.6)
    axes.set_xlim(picture.ends[0])
    axes.set_ylim(picture.ends[1])
    axes.set_xlabel(x.label)
    axes.set_ylabel(y.label)
    axes.spines[:].set_visible(True)
    if picture.is_square:
        axes.set_aspect("equal")


def interactive(picture: Picture) -> Any:
    """Make a plotly figure."""
    import plotly.graph_objects as go

    return label_plane(go.Figure(traces(picture)), picture)


def traces(picture: Picture) -> list[Any]:
    """Traces of a plotly figure; the first carries the colours."""
    import plotly.graph_objects as go

    low, high = picture.range
    lines = go.Contour(
        **values_of(picture),
        contours={"coloring": "lines", "start": low, "end": high, "size": (high - low) / 14 or 1.0},
        line={"width": 2},
        connectgaps=False,
    )
    if (edge := _edge(picture)) is None:
        return [lines, *marks(picture)]
    around = {"color": "#ccc", "width": 1}
    x_edge, y_edge = edge
    return [
        lines,
        go.Scatter(x=x_edge, y=y_edge, mode="lines", line=around, hoverinfo="skip", showlegend=False),
        *marks(picture),
    ]


def values_of(picture: Picture) -> dict[str, Any]:
    """Arguments of every plotly trace over a plane: coordinates, values, colours, and hover text."""
    x, y = picture.axes
    low, high = picture.range
    numbers, template = hover(picture)
    return {
        "x": x.values,
        "y": y.values,
        "z": picture.drawn.T,
        "zmin": low,
        "zmax": high,
        "colorscale": COLORMAP,
        "colorbar": color_bar_words(picture),
        "customdata": numbers,
        "hovertemplate": template,
    }


def marks(picture: Picture) -> list[Any]:
    """Plotly markers on a plane: measured points, holes, the centre."""
    import plotly.graph_objects as go

    x, y = picture.axes
    made = []
    if picture.measured is not None:
        made.append(
            go.Scatter(
                x=picture.measured[:, 0],
                y=picture.measured[:, 1],
                mode="markers",
                marker={"size": 3, "color": "#333"},
                hoverinfo="skip",
                name="measured",
                showlegend=False,
            )
        )
    if picture.holes.any():
        columns, rows = np.nonzero(picture.holes)
        made.append(
            go.Scatter(
                x=x.values[columns],
                y=y.values[rows],
                mode="markers",
                marker={"symbol": "x-thin", "size": 5, "line": {"color": "#888", "width": 1}},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    if picture.center is not None:
        made.append(
            go.Scatter(
                x=[0],
                y=[0],
                mode="markers",
                marker={"color": CENTER_COLOR, "size": 11, "line": {"color": "white", "width": 1.5}},
                hovertemplate=f"centre<br>{picture.label}: {picture.center:.5g}<extra></extra>",
                showlegend=False,
            )
        )
    return [*made, *markers.traces(picture)]


def label_plane(figure: Any, picture: Picture) -> Any:
    """Draw the path, and label and limit the axes, as in every plotly picture of a plane."""
    x, y = picture.axes
    if picture.track is not None:
        colors, *others = figure.data
        figure.update_traces(colorbar={"len": 0.62, "y": 1, "yanchor": "top"}, selector=0)
        trajectory.mark_interactive(figure, picture.track, picture.label)
        path = figure.data[1 + len(others) :]
        figure.data = (colors, *path, *others)  # centre and holes lie over it
    figure.update_xaxes(title=x.label, range=picture.ends[0], constrain="domain")
    figure.update_yaxes(title=y.label, range=picture.ends[1])
    if picture.is_square:
        figure.update_yaxes(scaleanchor="x")
    return layout(figure, picture)
