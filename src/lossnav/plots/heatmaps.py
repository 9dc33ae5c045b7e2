"""Every measured point of a plane as a coloured cell."""

from __future__ import annotations

from typing import Any

import numpy as np

from lossnav.plots.contours import color_bar, label_plane, mark_plane, marks, values_of
from lossnav.plots.picture import Picture
from lossnav.plots.scales import COLORMAP, color_norm
from lossnav.plots.style import finish


def draw(figure: Any, picture: Picture) -> None:
    """Draw into a matplotlib figure."""
    axes = figure.add_subplot()
    color_bar(axes, paint(axes, picture), picture)
    finish(figure, picture)


def paint(axes: Any, picture: Picture) -> Any:
    """Draw into matplotlib axes; return the mappable of the colour bar."""
    x, y = picture.axes
    values, norm = np.ma.masked_invalid(picture.drawn.T), color_norm(picture)
    cells = axes.pcolormesh(
        x.values, y.values, values, cmap=COLORMAP, norm=norm, shading="nearest", rasterized=True, linewidth=0
    )
    mark_plane(axes, picture)
    axes.autoscale(tight=True)  # the outer cells reach half a step beyond the last points
    return cells


def interactive(picture: Picture) -> Any:
    """Make a plotly figure."""
    import plotly.graph_objects as go

    return label_plane(go.Figure(traces(picture)), picture)


def traces(picture: Picture) -> list[Any]:
    """Traces of a plotly figure; the first carries the colours."""
    import plotly.graph_objects as go

    return [go.Heatmap(**values_of(picture), hoverongaps=False), *marks(picture)]
