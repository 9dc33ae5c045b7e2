"""Every measured point of a plane as a coloured cell."""

from __future__ import annotations

from typing import Any

import numpy as np

from lossnav.plots.contour import color_bar, mark_plane, mark_plane_interactive
from lossnav.plots.picture import COLORMAP, Picture, color_ticks, finish, hover


def draw(figure: Any, picture: Picture) -> None:
    """Draw into a matplotlib figure."""
    from matplotlib.colors import Normalize

    axes = figure.add_subplot()
    x, y = picture.axes
    low, high = picture.range
    if not low < high:
        high = low + 1
    norm = Normalize(low, high)
    values = np.ma.masked_invalid(picture.drawn.T)
    cells = axes.pcolormesh(
        x.values, y.values, values, cmap=COLORMAP, norm=norm, shading="nearest", rasterized=True, linewidth=0
    )
    color_bar(axes, cells, picture)
    mark_plane(axes, picture)
    axes.autoscale(tight=True)  # the outer cells reach half a step beyond the last points
    finish(figure, picture)


def interactive(picture: Picture) -> Any:
    """Make a plotly figure."""
    import plotly.graph_objects as go

    x, y = picture.axes
    bar: dict[str, Any] = {"title": {"text": picture.label, "side": "right"}, "outlinewidth": 0}
    if picture.log:
        bar["tickvals"], bar["ticktext"] = color_ticks(picture)
    numbers, template = hover(picture)
    figure = go.Figure(
        go.Heatmap(
            x=x.values,
            y=y.values,
            z=picture.drawn.T,
            colorscale=COLORMAP,
            colorbar=bar,
            hoverongaps=False,
            customdata=numbers,
            hovertemplate=template,
        )
    )
    return mark_plane_interactive(figure, picture)
