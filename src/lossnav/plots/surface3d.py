"""A plane as a surface in three dimensions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lossnav.plots import marks, trajectory
from lossnav.plots.picture import CENTER_COLOR, Picture, meanings
from lossnav.plots.scales import COLORMAP, color_norm, lines_of
from lossnav.plots.style import finish, hover, layout

_LINE = 75  # characters under the title


def draw(figure: Any, picture: Picture) -> None:
    """Draw into a matplotlib figure."""
    beside = None if picture.track is None else figure.add_gridspec(16, 2, width_ratios=(30, 1))
    axes = figure.add_subplot(projection="3d") if beside is None else figure.add_subplot(beside[:, 0], projection="3d")
    sheet = paint(axes, picture)
    if beside is None or picture.track is None:
        bar = figure.colorbar(sheet, ax=axes, pad=0.08, shrink=0.7, aspect=24)
    else:
        bar = figure.colorbar(sheet, cax=figure.add_subplot(beside[3:9, 1]))
        trajectory.residual_bar(figure.add_subplot(beside[10:14, 1]), picture.track)
    dress_bar(bar, picture)
    finish(figure, picture)
    said = meanings(picture)
    said = said if len(said) < _LINE else said.replace("; ", "\n")
    words = axes.text2D(0, 0.985, said, transform=axes.transAxes, fontsize=7.5, color="0.35", va="top")
    words.set_in_layout(False)  # else long ones make the axes narrow


def dress_bar(bar: Any, picture: Picture) -> None:
    """Label a matplotlib colour bar."""
    bar.set_label(picture.log_label if picture.log else picture.label)
    bar.outline.set_visible(False)


def paint(axes: Any, picture: Picture) -> Any:
    """Draw into 3-D matplotlib axes; return the mappable of the colour bar."""
    x, y = picture.axes
    mesh_x, mesh_y = np.meshgrid(x.values, y.values, indexing="ij")
    norm = color_norm(picture)
    low, high = norm.vmin, norm.vmax
    sheet = axes.plot_surface(
        mesh_x,
        mesh_y,
        picture.drawn,
        cmap=COLORMAP,
        norm=norm,
        rcount=len(x.values),
        ccount=len(y.values),
        linewidth=0.15,
        edgecolor=(0, 0, 0, 0.25),
        antialiased=True,
    )
    floor = low - 0.35 * (high - low)
    heights, _ = lines_of(picture, 8)
    if len(heights):
        values = np.ma.masked_invalid(picture.drawn)  # lines end at a hole, and go on beside it
        lines = axes.contour(
            mesh_x, mesh_y, values, heights, cmap=COLORMAP, norm=norm, zdir="z", offset=floor, linewidths=0.8
        )
        lines.set_zorder(0.5)
    if picture.track is not None:
        axes.computed_zorder = False  # else lines over a surface vanish in it
        sheet.set_zorder(1)
        trajectory.mark_3d(axes, picture.track, floor)
        high = max(
            high, float(np.nanmax([high, *(picture.track.heights if picture.track.heights is not None else ())]))
        )
    axes.set_xlim(picture.ends[0])
    axes.set_ylim(picture.ends[1])
    for name in "xy":
        axes.locator_params(axis=name, nbins=5)
    axes.set_zlim(floor, high)
    axes.set_zticks([tick for tick in axes.get_zticks() if low <= tick <= high])  # none below the surface
    if picture.measured is not None:
        axes.plot(*picture.measured.T, floor, ".", color="0.3", markersize=1.5)
    if picture.center is not None:
        height = math.log10(picture.center) if picture.log else picture.center
        axes.plot([0, 0], [0, 0], [floor, height], color=CENTER_COLOR, linewidth=0.8, linestyle="--", zorder=10)
        axes.plot([0], [0], [height], "o", color=CENTER_COLOR, markersize=4, zorder=11)
    marks.mark_3d(axes, picture, floor)
    axes.set_xlabel(x.letter, labelpad=2)
    axes.set_ylabel(y.letter, labelpad=2)
    axes.tick_params(labelsize=7, pad=0)
    for labels, side in ((axes.get_xticklabels(), "left"), (axes.get_yticklabels(), "right")):
        for label in labels:
            label.set_ha(side)  # away from the near corner, where both axes have one
    axes.view_init(elev=32, azim=-125)
    axes.set_box_aspect((1, 1, 0.75), zoom=1.05)
    for pane in (axes.xaxis, axes.yaxis, axes.zaxis):
        pane.set_pane_color((1, 1, 1, 0))
        pane._axinfo["grid"].update(color=(0.88, 0.88, 0.88), linewidth=0.5)
    return sheet


def interactive(picture: Picture) -> Any:
    """Make a plotly figure."""
    import plotly.graph_objects as go

    figure = go.Figure(traces(picture))
    if picture.track is not None:
        figure.update_traces(colorbar={"len": 0.6, "y": 0.95, "yanchor": "top"}, selector=0)
        trajectory.mark_3d_interactive(figure, picture.track, picture)
    figure.update_layout(scene=scene(picture))
    return label_scenes(figure, picture)


def traces(picture: Picture) -> list[Any]:
    """Traces of a plotly figure; the first carries the colours."""
    import plotly.graph_objects as go

    x, y = picture.axes
    low, high = picture.range
    label = picture.log_label if picture.log else picture.label
    numbers, template = hover(picture)
    made = [
        go.Surface(
            x=x.values,
            y=y.values,
            z=picture.drawn.T,
            cmin=low,
            cmax=high,
            colorscale=COLORMAP,
            colorbar={"title": {"text": label, "side": "right"}, "outlinewidth": 0, "len": 0.75},
            connectgaps=False,
            contours={"z": {"show": True, "usecolormap": True, "project": {"z": True}, "width": 1}},
            lighting={"ambient": 0.65, "diffuse": 0.7, "specular": 0.12, "roughness": 0.6},
            customdata=numbers,
            hovertemplate=template,
            name=label,
        )
    ]
    if picture.measured is not None:
        made.append(
            go.Scatter3d(
                x=picture.measured[:, 0],
                y=picture.measured[:, 1],
                z=np.full(len(picture.measured), low),
                mode="markers",
                marker={"color": "#333", "size": 2},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    if picture.center is not None:
        made.append(
            go.Scatter3d(
                x=[0],
                y=[0],
                z=[math.log10(picture.center) if picture.log else picture.center],
                mode="markers",
                marker={"color": CENTER_COLOR, "size": 5},
                hovertemplate=f"centre<br>{picture.label}: {picture.center:.5g}<extra></extra>",
                showlegend=False,
            )
        )
    return [*made, *marks.traces_3d(picture)]


def scene(picture: Picture) -> dict[str, Any]:
    """Plotly's axes and camera."""
    x, y = picture.axes
    label = picture.log_label if picture.log else picture.label
    return {
        "xaxis": {"title": {"text": x.letter}, "range": picture.frame and picture.frame[0]},
        "yaxis": {"title": {"text": y.letter}, "range": picture.frame and picture.frame[1]},
        "zaxis": {"title": {"text": label}, "range": picture.limits},
        "aspectratio": {"x": 1, "y": 1, "z": 0.75},
        "camera": {"eye": {"x": -1.1, "y": -1.35, "z": 0.85}, "center": {"x": 0, "y": 0, "z": -0.14}},
    }


def label_scenes(figure: Any, picture: Picture) -> Any:
    """Add title, note and meanings of the axes to a plotly figure with scenes."""
    layout(figure, picture)
    lines = sum(note.text.count("<br>") + 1 for note in figure.layout.annotations)
    figure.update_layout(margin={"l": 0, "r": 10, "b": 10 + 14 * lines})
    figure.update_annotations(yshift=0)
    figure.update_layout(title={"subtitle": {"text": meanings(picture), "font": {"size": 12, "color": "#666"}}})
    return figure
