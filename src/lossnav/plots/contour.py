"""Lines of equal loss over a plane, the centre marked."""

from __future__ import annotations

from typing import Any

import numpy as np

from lossnav.plots import trajectory
from lossnav.plots.picture import CENTER_COLOR, COLORMAP, Picture, color_ticks, finish, hover, layout, levels, short


def draw(figure: Any, picture: Picture) -> None:
    """Draw into a matplotlib figure."""
    from matplotlib.colors import Normalize

    axes = figure.add_subplot()
    x, y = picture.axes
    if not picture.holes.all():
        low, high = picture.range
        chosen = levels(picture)
        if not low < high:
            high = low + 1
        norm = Normalize(low, high)
        values = np.ma.masked_invalid(picture.drawn.T)
        heights = np.log10(chosen) if picture.log else chosen
        lines = axes.contour(x.values, y.values, values, levels=heights, cmap=COLORMAP, norm=norm, linewidths=1.3)
        words = dict(zip(lines.levels, map(short, chosen), strict=True))
        axes.clabel(lines, fmt=words, fontsize=7, inline=True, inline_spacing=2)
        from matplotlib.cm import ScalarMappable

        color_bar(axes, ScalarMappable(norm=norm, cmap=COLORMAP), picture)
    mark_plane(axes, picture)
    finish(figure, picture)


def color_bar(axes: Any, colors: Any, picture: Picture) -> None:
    """Draw a colour bar beside a plane, as high as the plane is, or above that of a path."""
    below = 0.0 if picture.track is None else 0.42
    bar = axes.figure.colorbar(colors, cax=axes.inset_axes((1.03, below, 0.035, 1 - below)))
    if picture.log:  # our own ticks on log10: those of LogNorm overflow where losses near 1e300 are
        where, words = color_ticks(picture)
        bar.set_ticks(where, labels=words)
        bar.minorticks_off()
    bar.set_label(picture.label)
    bar.outline.set_visible(False)


def mark_plane(axes: Any, picture: Picture) -> None:
    """Mark the path, the centre and the holes, label the axes: what every matplotlib picture of a plane has."""
    x, y = picture.axes
    if picture.track is not None:
        trajectory.mark(axes, picture.track)
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
    axes.set_xlim(x.values[0], x.values[-1])
    axes.set_ylim(y.values[0], y.values[-1])
    axes.set_xlabel(x.label)
    axes.set_ylabel(y.label)
    axes.spines[:].set_visible(True)
    spans = np.ptp(x.values), np.ptp(y.values)
    if 0.5 <= spans[0] / spans[1] <= 2:
        axes.set_aspect("equal")


def interactive(picture: Picture) -> Any:
    """Make a plotly figure."""
    import plotly.graph_objects as go

    x, y = picture.axes
    bar: dict[str, Any] = {"title": {"text": picture.label, "side": "right"}, "outlinewidth": 0}
    if picture.log:
        bar["tickvals"], bar["ticktext"] = color_ticks(picture)
    low, high = picture.range
    numbers, template = hover(picture)
    figure = go.Figure(
        go.Contour(
            x=x.values,
            y=y.values,
            z=picture.drawn.T,
            colorscale=COLORMAP,
            contours={"coloring": "lines", "start": low, "end": high, "size": (high - low) / 14 or 1.0},
            line={"width": 2},
            colorbar=bar,
            connectgaps=False,
            customdata=numbers,
            hovertemplate=template,
        )
    )
    return mark_plane_interactive(figure, picture)


def mark_plane_interactive(figure: Any, picture: Picture) -> Any:
    """Mark the path, the centre and the holes, label the axes: what every plotly picture of a plane has."""
    x, y = picture.axes
    if picture.track is not None:
        figure.update_traces(colorbar={"len": 0.62, "y": 1, "yanchor": "top"}, selector=0)
        trajectory.mark_interactive(figure, picture.track, picture.label)
    if picture.measured is not None:
        figure.add_scatter(
            x=picture.measured[:, 0],
            y=picture.measured[:, 1],
            mode="markers",
            marker={"size": 3, "color": "#333"},
            hoverinfo="skip",
            name="measured",
            showlegend=False,
        )
    if picture.holes.any():
        columns, rows = np.nonzero(picture.holes)
        figure.add_scatter(
            x=x.values[columns],
            y=y.values[rows],
            mode="markers",
            marker={"symbol": "x-thin", "size": 5, "line": {"color": "#888", "width": 1}},
            hoverinfo="skip",
            showlegend=False,
        )
    if picture.center is not None:
        figure.add_scatter(
            x=[0],
            y=[0],
            mode="markers",
            marker={"color": CENTER_COLOR, "size": 11, "line": {"color": "white", "width": 1.5}},
            hovertemplate=f"centre<br>{picture.label}: {picture.center:.5g}<extra></extra>",
            showlegend=False,
        )
    figure.update_xaxes(title=x.label, range=[x.values[0], x.values[-1]], constrain="domain")
    figure.update_yaxes(title=y.label, range=[y.values[0], y.values[-1]])
    spans = np.ptp(x.values), np.ptp(y.values)
    if 0.5 <= spans[0] / spans[1] <= 2:
        figure.update_yaxes(scaleanchor="x")
    return layout(figure, picture)
