"""A curve over one coordinate."""

from __future__ import annotations

from typing import Any

import numpy as np

from lossnav.plots.picture import CENTER_COLOR, LINE_COLOR, Picture, finish, layout

_FAR = 200  # decades from 1: where the ticks of a logarithmic axis may overflow, log10 is drawn


def draw(figure: Any, picture: Picture) -> None:
    """Draw into a matplotlib figure."""
    axes = figure.add_subplot()
    (axis,) = picture.axes
    low, high = picture.range
    far = picture.log and max(-low, high) > _FAR
    scale = np.log10 if far else np.asarray
    dots = "o" if picture.measured is None and len(axis.values) <= 101 else ""
    axes.plot(axis.values, scale(picture.values), color=LINE_COLOR, marker=dots, markersize=2.5)
    if picture.measured is not None and picture.measured_values is not None:
        axes.plot(
            picture.measured[:, 0],
            scale(picture.measured_values),
            "o",
            color=LINE_COLOR,
            markersize=3.5,
            label="measured",
        )
    if (band := _band(picture)) is not None:
        axes.fill_between(axis.values, *map(scale, band), color=LINE_COLOR, alpha=0.22, linewidth=0, label=picture.band)
    if picture.center is not None:
        axes.axvline(0, color="0.6", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axes.plot([0], [scale(picture.center)], "o", color=CENTER_COLOR, markersize=5.5, label="centre", zorder=5)
    edges = np.concatenate([axis.values[:1], (axis.values[1:] + axis.values[:-1]) / 2, axis.values[-1:]])
    for i in np.flatnonzero(picture.holes):
        axes.axvspan(edges[i], edges[i + 1], color="0.93", linewidth=0, zorder=0)
    if picture.log and not far and not picture.holes.all():
        axes.set_yscale("log")
    axes.set_xlabel(axis.label)
    axes.set_ylabel(picture.log_label if far else picture.label)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    finish(figure, picture)


def interactive(picture: Picture) -> Any:
    """Make a plotly figure."""
    import plotly.graph_objects as go

    (axis,) = picture.axes
    figure = go.Figure()
    if (band := _band(picture)) is not None:
        for values, fill in zip(band, (None, "tonexty"), strict=True):
            figure.add_scatter(
                x=axis.values,
                y=values,
                mode="lines",
                line={"width": 0},
                fill=fill,
                fillcolor="rgba(49,104,142,0.22)",
                showlegend=fill is not None,
                name=picture.band,
                hoverinfo="skip",
            )
    figure.add_scatter(
        x=axis.values,
        y=picture.values,
        mode="lines+markers" if picture.measured is None and len(axis.values) <= 101 else "lines",
        line={"color": LINE_COLOR, "width": 2.5},
        marker={"size": 5},
        name=picture.label,
        connectgaps=False,
        hovertemplate=f"{axis.letter} = %{{x:.4g}}<br>{picture.label}: %{{y:.5g}}<extra></extra>",
    )
    if picture.measured is not None:
        figure.add_scatter(
            x=picture.measured[:, 0],
            y=picture.measured_values,
            mode="markers",
            marker={"size": 7, "color": LINE_COLOR},
            name="measured",
            hoverinfo="skip",
        )
    if picture.center is not None:
        figure.add_scatter(
            x=[0],
            y=[picture.center],
            mode="markers",
            marker={"color": CENTER_COLOR, "size": 10},
            name="centre",
            hovertemplate=f"centre<br>{picture.label}: %{{y:.5g}}<extra></extra>",
        )
    figure.update_xaxes(title=axis.label)
    figure.update_yaxes(title=picture.label, type="log" if picture.log else "linear")
    return layout(figure, picture)


def _band(picture: Picture) -> tuple[Any, Any] | None:
    """One standard error below and above; on a logarithmic axis nothing below the smallest value."""
    if picture.se is None:
        return None
    low, high = picture.values - picture.se, picture.values + picture.se
    return (np.maximum(low, np.nanmin(picture.values) / 10) if picture.log else low), high
