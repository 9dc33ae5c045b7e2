"""Pictures of surfaces: matplotlib for paper, plotly to turn and zoom. No torch needed.

Each function takes a surface and returns a figure of the backend::

    ln.plot.contour(surface).show()
    ln.plot.surface(surface, log=True).show()
    ln.plot.line(surface, backend="matplotlib").savefig("line.pdf")

``write(kind, surface, path)`` makes a file; its ending chooses the backend.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from lossnav.errors import OptionError, StoreError
from lossnav.files import require_writable
from lossnav.plots import contour as _contour
from lossnav.plots import heatmap as _heatmap
from lossnav.plots import line as _line
from lossnav.plots import surface3d as _surface3d
from lossnav.plots.picture import Picture, prepare, style
from lossnav.plots.trajectory import track_of

Backend = Literal["plotly", "matplotlib"]

KINDS = ("line", "contour", "heatmap", "surface")

_DRAWERS: dict[str, Any] = {"line": _line, "contour": _contour, "heatmap": _heatmap, "surface": _surface3d}
_DIMS = {"line": 1, "contour": 2, "heatmap": 2, "surface": 2}
_LOG_BY_DEFAULT = {"line": False, "contour": True, "heatmap": False, "surface": False}


def line(
    dataset: xr.Dataset, *, variable: str = "loss", log: bool = False, points: bool = False, backend: Backend = "plotly"
) -> Any:
    """Draw a 1-D surface as a curve, with a band of one standard error where `loss_se` is there.

    Of several seeds their mean is drawn, with a band of one standard deviation. Where the points lie on no grid the
    curve is interpolated, and a note says from how many points and how far off it may be.

    Parameters
    ----------
    dataset : xarray.Dataset
        A surface over one coordinate.
    variable : str
        ``"loss"`` or a metric.
    log : bool
        Logarithmic vertical axis.
    points : bool
        Mark the points that were measured.
    backend : "plotly" or "matplotlib"

    Returns
    -------
    plotly.graph_objects.Figure or matplotlib.figure.Figure
        Points that are not finite are gaps, and said in a note.

    Raises
    ------
    NotASurfaceError
        If the dataset is no surface.
    OptionError
        If the variable is not there or the surface has another number of coordinates.
    """
    return _figure("line", dataset, variable, log, backend, points)


def contour(
    dataset: xr.Dataset,
    *,
    variable: str = "loss",
    log: bool = True,
    points: bool = False,
    trajectory: xr.Dataset | None = None,
    backend: Backend = "plotly",
) -> Any:
    """Draw lines of equal loss over a plane, the centre marked.

    Parameters as in `line`; ``log`` spaces the levels evenly in the logarithm; ``trajectory`` is what `lossnav.project`
    or `lossnav.evaluate_trajectory` made of a training run on the surface's own plane: it is drawn with its epochs,
    coloured by its distance from the plane. Raises as `line` does, and OptionError where it is of another plane.
    """
    return _figure("contour", dataset, variable, log, backend, points, trajectory)


def heatmap(
    dataset: xr.Dataset,
    *,
    variable: str = "loss",
    log: bool = False,
    points: bool = False,
    trajectory: xr.Dataset | None = None,
    backend: Backend = "plotly",
) -> Any:
    """Draw every measured point of a plane as a coloured cell.

    Parameters as in `line`; ``log`` makes the colours follow the logarithm; ``trajectory`` as in `contour`. Raises as
    `contour` does.
    """
    return _figure("heatmap", dataset, variable, log, backend, points, trajectory)


def surface(
    dataset: xr.Dataset,
    *,
    variable: str = "loss",
    log: bool = False,
    points: bool = False,
    trajectory: xr.Dataset | None = None,
    backend: Backend = "plotly",
) -> Any:
    """Draw a plane as a surface in three dimensions.

    Parameters as in `line`; ``log`` draws log10 of the values; ``trajectory`` is what `lossnav.evaluate_trajectory`
    made: one line lies on the surface, another is the loss at the snapshots themselves, and stems join them, coloured
    by the distance from the plane. Raises as `contour` does.
    """
    return _figure("surface", dataset, variable, log, backend, points, trajectory)


def write(
    kind: str,
    dataset: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    variable: str = "loss",
    log: bool | None = None,
    points: bool = False,
    trajectory: xr.Dataset | None = None,
    overwrite: bool = False,
) -> Path:
    """Draw a surface into a file.

    Parameters
    ----------
    kind : "line", "contour", "heatmap" or "surface"
    dataset : xarray.Dataset
    path : path
        ``.png``, ``.svg`` or ``.pdf`` by matplotlib; ``.html`` by plotly, interactive, with all it needs inside.
    variable : str
    log : bool, optional
        By default contours are logarithmic and the rest linear.
    points : bool
        Mark the points that were measured.
    trajectory : xarray.Dataset, optional
        A training run to draw on a plane; see `contour` and `surface`.
    overwrite : bool

    Raises
    ------
    OptionError, NotASurfaceError, OutputExistsError, OutputNotWritableError
    StoreError
        If writing fails half-way.
    """
    if kind not in KINDS:
        raise OptionError(f"There is no plot {kind!r}. Use {', '.join(KINDS)}.")
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg", ".pdf", ".html"):
        raise OptionError(f"{path} ends in {suffix or 'nothing'!r}. Use .png, .svg, .pdf or .html.")
    picture = _picture(kind, dataset, variable, log, points, trajectory)
    target = require_writable(path, overwrite)
    try:
        if suffix == ".html":
            _DRAWERS[kind].interactive(picture).write_html(target, include_plotlyjs=True, full_html=True)
        else:
            from matplotlib.figure import Figure

            with style():
                figure = Figure(layout="constrained")
                _DRAWERS[kind].draw(figure, picture)
                figure.savefig(target)
    except OSError as error:
        raise StoreError(
            f"{target} could not be written: {error.strerror or error}. Make room and try again."
        ) from error
    return target


def _figure(
    kind: str,
    dataset: xr.Dataset,
    variable: str,
    log: bool | None,
    backend: str,
    points: bool,
    trajectory: xr.Dataset | None = None,
) -> Any:
    picture = _picture(kind, dataset, variable, log, points, trajectory)
    if backend == "plotly":
        return _DRAWERS[kind].interactive(picture)
    if backend != "matplotlib":
        raise OptionError(f"backend={backend!r} is unknown. Use 'plotly' or 'matplotlib'.")
    import matplotlib.pyplot as plt

    with style():
        figure = plt.figure(layout="constrained")
        _DRAWERS[kind].draw(figure, picture)
    return figure


def _picture(
    kind: str,
    dataset: xr.Dataset,
    variable: str,
    log: bool | None,
    points: bool,
    trajectory: xr.Dataset | None = None,
) -> Picture:
    picture = prepare(dataset, variable, _LOG_BY_DEFAULT[kind] if log is None else log, _DIMS[kind], points)
    if trajectory is None:
        return picture
    if _DIMS[kind] != 2:
        raise OptionError("A trajectory is drawn on a plane. Use contour, heatmap or surface.")
    track = track_of(trajectory, dataset, picture, variable)
    return replace(picture, track=track, note="; ".join(part for part in (track.note, picture.note) if part))
