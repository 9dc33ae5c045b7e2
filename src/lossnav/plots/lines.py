"""A curve over one coordinate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lossnav.plots import marks
from lossnav.plots.picture import CENTER_COLOR, LINE_COLOR, Picture
from lossnav.plots.style import finish, layout

_FAR = 200  # decades from 1: where the ticks of a logarithmic axis may overflow, log10 is drawn


def draw(figure: Any, picture: Picture) -> None:
    """Draw into a matplotlib figure."""
    axes = figure.add_subplot()
    (axis,) = picture.axes
    paint(axes, picture, {"band": picture.band, "measured": "measured"})
    if picture.center is not None:
        scale = np.log10 if is_far(picture) else np.asarray
        axes.axvline(0, color="0.6", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axes.plot([0], [scale(picture.center)], "o", color=CENTER_COLOR, markersize=5.5, label="centre", zorder=5)
    edges = np.concatenate([axis.values[:1], (axis.values[1:] + axis.values[:-1]) / 2, axis.values[-1:]])
    for i in np.flatnonzero(picture.holes):
        axes.axvspan(edges[i], edges[i + 1], color="0.93", linewidth=0, zorder=0)
    marks.mark_line(axes, picture)
    label_axes(axes, picture)
    finish(figure, picture)


def paint(axes: Any, picture: Picture, words: Mapping[str, str], **look: Any) -> None:
    """Draw curve, band and measured points into matplotlib axes, with legend labels and a style."""
    (axis,) = picture.axes
    scale = np.log10 if is_far(picture) else np.asarray
    look = {"color": LINE_COLOR} | look
    dots = "o" if picture.measured is None and len(axis.values) <= 101 else ""
    axes.plot(axis.values, scale(picture.values), marker=dots, markersize=2.5, label=words.get("curve"), **look)
    color = look["color"]
    if picture.measured is not None and picture.measured_values is not None:
        heights = scale(picture.measured_values)
        axes.plot(picture.measured[:, 0], heights, "o", color=color, markersize=3.5, label=words.get("measured"))
    if (band := _band(picture)) is not None:
        axes.fill_between(axis.values, *map(scale, band), color=color, alpha=0.22, linewidth=0, label=words.get("band"))


def label_axes(axes: Any, picture: Picture) -> None:
    """Label the axes, and draw grid and legend, as in every matplotlib picture of curves."""
    far = is_far(picture)
    if picture.log and not far and not picture.holes.all():
        axes.set_yscale("log")
    axes.set_xlabel(picture.axes[0].label)
    axes.set_ylabel(picture.log_label if far else picture.label)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def is_far(picture: Picture) -> bool:
    """Whether log10 values are drawn on a linear axis."""
    low, high = picture.range
    return picture.log and max(-low, high) > _FAR


def interactive(picture: Picture) -> Any:
    """Make a plotly figure."""
    import plotly.graph_objects as go

    figure = go.Figure(traces(picture, {"curve": picture.label, "band": picture.band, "measured": "measured"}))
    if picture.center is not None:
        figure.add_scatter(
            x=[0],
            y=[picture.center],
            mode="markers",
            marker={"color": CENTER_COLOR, "size": 10},
            name="centre",
            hovertemplate=f"centre<br>{picture.label}: %{{y:.5g}}<extra></extra>",
        )
    marks.mark_figure(figure, picture)
    return label_figure(figure, picture)


def traces(picture: Picture, words: Mapping[str, str], color: str = LINE_COLOR, dash: str = "solid") -> list[Any]:
    """Band, curve and measured points of a plotly figure, with legend labels."""
    import plotly.graph_objects as go

    (axis,) = picture.axes
    made = []
    if (band := _band(picture)) is not None:
        red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
        made += [
            go.Scatter(
                x=axis.values,
                y=values,
                mode="lines",
                line={"width": 0},
                fill=fill,
                fillcolor=f"rgba({red},{green},{blue},0.22)",
                showlegend=fill is not None and "band" in words,
                name=words.get("band"),
                hoverinfo="skip",
            )
            for values, fill in zip(band, (None, "tonexty"), strict=True)
        ]
    made.append(
        go.Scatter(
            x=axis.values,
            y=picture.values,
            mode="lines+markers" if picture.measured is None and len(axis.values) <= 101 else "lines",
            line={"color": color, "width": 2.5, "dash": dash},
            marker={"size": 5},
            name=words.get("curve"),
            connectgaps=False,
            hovertemplate=f"{axis.letter} = %{{x:.4g}}<br>{picture.label}: %{{y:.5g}}<extra></extra>",
        )
    )
    if picture.measured is not None:
        made.append(
            go.Scatter(
                x=picture.measured[:, 0],
                y=picture.measured_values,
                mode="markers",
                marker={"size": 7, "color": color},
                name=words.get("measured"),
                showlegend="measured" in words,
                hoverinfo="skip",
            )
        )
    return made


def label_figure(figure: Any, picture: Picture) -> Any:
    """Label the axes, as in every plotly picture of curves."""
    figure.update_xaxes(title=picture.axes[0].label)
    figure.update_yaxes(title=picture.label, type="log" if picture.log else "linear")
    return layout(figure, picture)


def _band(picture: Picture) -> tuple[Any, Any] | None:
    """One standard error below and above; on a logarithmic axis nothing below the smallest value."""
    if picture.se is None:
        return None
    low, high = picture.values - picture.se, picture.values + picture.se
    return (np.maximum(low, np.nanmin(picture.values) / 10) if picture.log else low), high
