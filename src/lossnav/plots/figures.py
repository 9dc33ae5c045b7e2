"""Pictures of surfaces: matplotlib for papers, plotly for interactive views. Works without torch.

This file is longer than the others because it holds the public functions with their documentation.

Each function takes a surface and returns a figure of the backend::

    ln.plot.contour(surface).show()
    ln.plot.surface(surface, log=True).show()
    ln.plot.line(surface, backend="matplotlib").savefig("line.pdf")
    ln.plot.compare([a, b], labels=["with skip connections", "without"]).show()
    ln.plot.spectrum(ln.spectrum(objective, density=True)).show()

``write(kind, surface, path)`` writes a file, and ``write(kind, [a, b], path)`` one of several surfaces; the file
extension chooses the backend. ``animate(surface, "turn.gif")`` writes an animation.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import xarray as xr

from lossnav._utils.paths import require_writable, write_whole
from lossnav._utils.validation import described, no_surface, require_place
from lossnav.errors import OptionError
from lossnav.plots import animation as _animation
from lossnav.plots import comparison as _comparison
from lossnav.plots import connectivity as _connectivity
from lossnav.plots import contours as _contour
from lossnav.plots import heatmaps as _heatmap
from lossnav.plots import lines as _line
from lossnav.plots import spectra as _spectrum
from lossnav.plots import surface3d as _surface3d
from lossnav.plots import trees as _tree
from lossnav.plots.marks import Marks, marks_of, note_of
from lossnav.plots.picture import dims_of, prepare
from lossnav.plots.style import style
from lossnav.plots.trajectory import track_of
from lossnav.reports import report
from lossnav.reports.findings import TITLE, panel
from lossnav.surface.minima_tree import MinimaTree

Backend = Literal["plotly", "matplotlib"]
Drawable = xr.Dataset | MinimaTree | Sequence[xr.Dataset] | Mapping[str, xr.Dataset]

KINDS = ("line", "contour", "heatmap", "surface")
SPECTRUM, CONNECTIVITY, TREE = "spectrum", "connectivity", "tree"

_DRAWERS: dict[str, Any] = {"line": _line, "contour": _contour, "heatmap": _heatmap, "surface": _surface3d}
_DIMS = {"line": 1, "contour": 2, "heatmap": 2, "surface": 2}
_LOG_BY_DEFAULT = {"line": False, "contour": True, "heatmap": False, "surface": False}


def line(
    dataset: xr.Dataset,
    *,
    variable: str = "loss",
    log: bool = False,
    points: bool = False,
    marks: Marks = True,
    backend: Backend = "plotly",
) -> Any:
    """Draw a 1-D surface as a curve, with a band of one standard error if it has `loss_se`.

    For several seeds the mean is drawn, with a band of one standard deviation. If the points are not a grid, the
    curve is interpolated, and a note gives the number of points and the interpolation error.

    Parameters
    ----------
    dataset : xarray.Dataset
        A surface over one coordinate.
    variable : str
        ``"loss"`` or a metric.
    log : bool
        Logarithmic vertical axis.
    points : bool
        Mark the measured points.
    marks : mapping of str to coordinates, or bool
        What to mark, by label: coordinates, rows of them (a curve), or a result of `lossnav.project`. By default (True)
        the networks that the directions were made through (`directions.through`).
    backend : "plotly" or "matplotlib"

    Returns
    -------
    plotly.graph_objects.Figure or matplotlib.figure.Figure
        Points that are not finite are gaps, and counted in a note.

    Raises
    ------
    NotASurfaceError
        If the dataset is not a surface.
    OptionError
        If the variable is missing, or the surface has another number of coordinates.
    """
    return _figure("line", dataset, variable, log, backend, points, marks=marks)


def contour(
    dataset: xr.Dataset,
    *,
    variable: str = "loss",
    log: bool = True,
    points: bool = False,
    trajectory: xr.Dataset | None = None,
    marks: Marks = True,
    backend: Backend = "plotly",
) -> Any:
    """Draw contour lines of a plane, with its centre marked.

    Parameters as in `line`; ``log`` spaces the levels evenly in the logarithm; ``trajectory`` is a result of
    `lossnav.project` or `lossnav.evaluate_trajectory` on the surface's own plane: it is drawn with its epochs, coloured
    by its distance from the plane. Raises the errors of `line`, and OptionError for a trajectory on another plane.
    """
    return _figure("contour", dataset, variable, log, backend, points, trajectory, marks=marks)


def heatmap(
    dataset: xr.Dataset,
    *,
    variable: str = "loss",
    log: bool = False,
    points: bool = False,
    trajectory: xr.Dataset | None = None,
    marks: Marks = True,
    backend: Backend = "plotly",
) -> Any:
    """Draw every measured point of a plane as a coloured cell.

    Parameters as in `line`; ``log`` colours by the logarithm; ``trajectory`` as in `contour`. Raises the errors of
    `contour`.
    """
    return _figure("heatmap", dataset, variable, log, backend, points, trajectory, marks=marks)


def surface(
    dataset: xr.Dataset,
    *,
    variable: str = "loss",
    log: bool = False,
    points: bool = False,
    trajectory: xr.Dataset | None = None,
    marks: Marks = True,
    backend: Backend = "plotly",
) -> Any:
    """Draw a plane as a surface in three dimensions.

    Parameters as in `line`; ``log`` draws log10 of the values; ``trajectory`` is a result of
    `lossnav.evaluate_trajectory`: one line lies on the surface, another shows the loss at the snapshots themselves,
    and stems connect them, coloured by the distance from the plane. Raises the errors of `contour`.
    """
    return _figure("surface", dataset, variable, log, backend, points, trajectory, marks=marks)


def compare(
    datasets: Sequence[xr.Dataset] | xr.Dataset,
    *more: xr.Dataset,
    labels: Sequence[str] | None = None,
    kind: str = "contour",
    variable: str = "loss",
    log: bool | None = None,
    points: bool = False,
    backend: Backend = "plotly",
) -> Any:
    """Draw several surfaces in one figure, with the same axes, levels and colours.

    Planes are drawn beside each other, lines in one pair of axes. If the ranges differ, the frame contains them all,
    and regions that were not measured are blank.

    Parameters
    ----------
    datasets, *more : sequence of xarray.Dataset, or several arguments
        At least two surfaces, over the same coordinates.
    labels : sequence of str, optional
        One per surface. By default model, chart and samples, where these differ.
    kind : "contour", "heatmap", "surface" or "line"
    variable, log, points, backend
        As in `line`. By default contours are logarithmic and the other kinds linear.

    Returns
    -------
    plotly.graph_objects.Figure or matplotlib.figure.Figure

    Raises
    ------
    NotASurfaceError
        If one of them is not a surface.
    OptionError
        If there are fewer than two, their coordinates have different names, one lacks the variable, or labels are too
        few or not distinct.

    Warns
    -----
    ComparisonWarning
        If their losses or units differ, so that one scale has two meanings.
    """
    several = [datasets, *more] if isinstance(datasets, xr.Dataset) else [*datasets, *more]
    return _figure(kind, several, variable, log, backend, points, labels=labels)


def connectivity(
    rows: Mapping[str, xr.Dataset], *, variable: str = "loss", log: bool = False, backend: Backend = "plotly"
) -> Any:
    """Draw several paths between two networks on one axis, with error bands and the barrier of each.

    Such as the line as trained, aligned, aligned and repaired, and a curve. Every coordinate runs from 0 (one network)
    to 1 (the other). A diamond marks the measured point furthest above the straight line between the values of the
    ends (below it for an accuracy), and the legend says how far it is.

    Parameters
    ----------
    rows : mapping of str to xarray.Dataset
        Surfaces on lines and curves, by label, with points at 0 and 1.
    variable, log, backend
        As in `line`.

    Returns
    -------
    plotly.graph_objects.Figure or matplotlib.figure.Figure

    Raises
    ------
    OptionError
        If there is no path, one is over several coordinates, has no points at 0 and 1, or lacks the variable.
    NotASurfaceError
        If one is not a surface.
    """
    return _figure(CONNECTIVITY, rows, variable, log, backend, False)


def spectrum(dataset: xr.Dataset, *, log: bool = True, backend: Backend = "plotly") -> Any:
    """Draw the density of eigenvalues with a band of one standard error, and the eigenvalues at both ends as ticks.

    Negative values are red. If the spectrum has no density, its eigenvalues are drawn by rank.

    Parameters
    ----------
    dataset : xarray.Dataset
        A result of `lossnav.spectrum`.
    log : bool
        Logarithmic vertical axis; it starts at a twentieth of the height of a single eigenvalue.
    backend : "plotly" or "matplotlib"

    Returns
    -------
    plotly.graph_objects.Figure or matplotlib.figure.Figure

    Raises
    ------
    NotASpectrumError
        If the dataset is not a spectrum.
    OptionError
        If none of its values is finite.
    """
    return _figure(SPECTRUM, dataset, "loss", log, backend, False)


def tree(minima: MinimaTree, *, backend: Backend = "plotly") -> Any:
    """Draw how minima hang together: a disconnectivity graph, with a bar of one standard error at each pass.

    The height is the loss. Two branches meet at the lowest known pass between them, which is an upper bound; minima of
    one basin have one colour.

    Parameters
    ----------
    minima : MinimaTree
        A result of `lossnav.tree`.
    backend : "plotly" or "matplotlib"

    Returns
    -------
    plotly.graph_objects.Figure or matplotlib.figure.Figure

    Raises
    ------
    OptionError
        If the loss at a minimum is not finite.

    References
    ----------
    Becker & Karplus 1997, "The topology of multidimensional potential energy surfaces".
    """
    return _figure(TREE, minima, "loss", None, backend, False)


def write(
    kind: str,
    dataset: Drawable,
    path: str | os.PathLike[str] | None = None,
    *,
    variable: str = "loss",
    log: bool | None = None,
    points: bool = False,
    trajectory: xr.Dataset | None = None,
    labels: Sequence[str] | None = None,
    marks: Marks = True,
    overwrite: bool = False,
) -> Path:
    """Draw a surface, or several as in `compare`, into a file.

    Parameters
    ----------
    kind : "line", "contour", "heatmap" or "surface"; also "spectrum", "connectivity" and "tree"
    dataset : xarray.Dataset, or a sequence of them; paths by label for "connectivity"; a MinimaTree for "tree"
    path : path
        ``.png``, ``.svg`` or ``.pdf`` by matplotlib; ``.html`` by plotly, interactive and self-contained, with the
        report of a surface below it (`lossnav.report`).
    variable : str
    log : bool, optional
        By default contours and spectra are logarithmic and the other kinds linear.
    points : bool
        Mark the measured points.
    trajectory : xarray.Dataset, optional
        A training run to draw on a plane; see `contour` and `surface`.
    labels : sequence of str, optional
        For several surfaces.
    marks : mapping of str to coordinates, or bool
        What to mark, by label: coordinates, rows of them (a curve), or a result of `lossnav.project`. By default (True)
        the networks that the directions were made through (`directions.through`).
    overwrite : bool

    Raises
    ------
    OptionError, NotASurfaceError, OutputExistsError, OutputNotWritableError
    StoreError
        If writing fails half-way.
    """
    path = _require_order(kind, dataset, path)
    suffix = Path(path).suffix.lower()
    if suffix not in (".png", ".svg", ".pdf", ".html"):
        raise OptionError(f"{path} must end in .png, .svg, .pdf or .html, got {suffix or 'no ending'!r}.")
    drawer, picture = _prepared(kind, dataset, variable, log, points, trajectory, labels, marks)
    target = require_writable(path, overwrite)
    if suffix == ".html":
        script = _comparison.ONE_CAMERA if drawer is _comparison else None
        page = drawer.interactive(picture).to_html(
            include_plotlyjs=True, full_html=True, post_script=script, default_height="88vh"
        )
        if not isinstance(dataset, MinimaTree) and kind != SPECTRUM:  # which say themselves how sure they are
            page = _with_panel(page, dataset, trajectory, picture)
        write_whole(target, page)
    else:
        from matplotlib.figure import Figure

        drawn = io.BytesIO()
        with style():
            figure = Figure(layout="constrained")
            drawer.draw(figure, picture)
            figure.savefig(drawn, format=suffix[1:])
        write_whole(target, drawn.getvalue())
    return target


def _require_order(kind: Any, dataset: Any, path: Any) -> str | os.PathLike[str]:
    """Return the path; raise OptionError if kind, surface and path are in another order, or one is missing."""
    if isinstance(kind, str) and isinstance(path, str | os.PathLike) and not isinstance(dataset, str | os.PathLike):
        return path
    given = [part for part in (kind, dataset, path) if part is not None]
    of = ", ".join(described(part) for part in given)
    file = next((os.fspath(p) for p in given if isinstance(p, str | os.PathLike) and Path(p).suffix), "picture.png")
    wanted = next((p for p in given if isinstance(p, str) and p in (*KINDS, SPECTRUM, CONNECTIVITY, TREE)), "contour")
    raise OptionError(
        f"write takes a kind, a surface and a path, in this order, got {of}. Type "
        f'ln.plot.write("{wanted}", surface, "{file}").'
    )


def _with_panel(page: str, dataset: Drawable, trajectory: xr.Dataset | None, picture: Any) -> str:
    """A plotly page with the report below the picture."""
    if isinstance(picture, _connectivity.PathPictures):
        assert isinstance(dataset, Mapping)
        said = {str(label): report(each) for label, each in dataset.items()}
    elif isinstance(dataset, Sequence):
        said = dict(zip(picture.labels, (report(each) for each in dataset), strict=True))
    else:
        said = {"": report(dataset, *([] if trajectory is None else [trajectory]))}
    before, end, after = page.rpartition("</body>")
    return f'{before}<div style="padding: 0 2rem 2rem">{panel(said, TITLE)}</div>{end}{after}'


def animate(
    dataset: xr.Dataset,
    out: str | os.PathLike[str],
    *,
    trajectory: xr.Dataset | None = None,
    variable: str = "loss",
    log: bool | None = None,
    progress: bool | None = None,
    overwrite: bool = False,
) -> Path:
    """Animate a plane: it rotates in three dimensions, or a path is drawn over its contours.

    Parameters
    ----------
    dataset : xarray.Dataset
        A surface over two coordinates.
    out : path
        ``.gif``, or ``.mp4`` if ffmpeg is installed.
    trajectory : xarray.Dataset, optional
        A result of `evaluate_trajectory` or `project`, or any path: a dim ``snapshot`` and, over it, a variable for
        each of the plane's coordinates (``alpha``, ``beta``). Its ``loss``, if it has one, is drawn below. A path that
        leaves the plane's range widens the frame.
    variable : str
    log : bool, optional
        By default contours are logarithmic and rotating surfaces linear.
    progress : bool, optional
        Whether to show a progress bar; by default on a terminal.
    overwrite : bool

    Returns
    -------
    Path
        The file. After Ctrl-C no file is written.

    Raises
    ------
    OptionError
        If the file extension is not supported, the surface is not over two coordinates, or the path does not fit it.
    MissingExtraError
        If an MP4 is requested and ffmpeg is missing.
    NotASurfaceError, OutputExistsError, OutputNotWritableError
    StoreError
        If writing fails half-way.
    """
    require_place(out)
    suffix = Path(out).suffix.lower()
    _animation.require_writer(suffix)
    _, picture = _prepared("surface" if trajectory is None else "contour", dataset, variable, log, False)
    drawn = None if trajectory is None else _animation.path_of(trajectory, dims_of(dataset))
    target = require_writable(out, overwrite)
    with style():
        _animation.write(picture, drawn, target, progress)
    return target


def _figure(
    kind: str,
    dataset: Drawable,
    variable: str,
    log: bool | None,
    backend: str,
    points: bool,
    trajectory: xr.Dataset | None = None,
    labels: Sequence[str] | None = None,
    marks: Marks = True,
) -> Any:
    drawer, picture = _prepared(kind, dataset, variable, log, points, trajectory, labels, marks)
    if backend == "plotly":
        return drawer.interactive(picture)
    if backend != "matplotlib":
        raise OptionError(f"backend must be 'plotly' or 'matplotlib', got {backend!r}.")
    import matplotlib.pyplot as plt

    with style():
        figure = plt.figure(layout="constrained")
        drawer.draw(figure, picture)
    return figure


def _prepared(
    kind: str,
    dataset: Drawable,
    variable: str,
    log: bool | None,
    points: bool,
    trajectory: xr.Dataset | None = None,
    labels: Sequence[str] | None = None,
    marks: Marks = True,
) -> tuple[Any, Any]:
    """Who draws, and what."""
    if isinstance(dataset, MinimaTree) or kind == TREE:
        if not (isinstance(dataset, MinimaTree) and kind == TREE):
            raise OptionError(
                'The plot "tree" is of what ln.tree returns. Use ln.plot.tree(ln.tree([objective, "b.pt"])).'
            )
        return _tree, _tree.prepare(dataset)
    by_label = isinstance(dataset, Mapping) and not isinstance(dataset, xr.Dataset)
    if kind == SPECTRUM and not isinstance(dataset, Sequence) and not by_label:
        return _spectrum, _spectrum.prepare(cast(xr.Dataset, dataset), log=log is None or log)
    if kind == CONNECTIVITY or by_label:
        if kind != CONNECTIVITY:
            raise OptionError(f"{kind} draws a surface, got surfaces by label. Use connectivity for these.")
        return _connectivity, _connectivity.prepare(dataset, variable, bool(log))
    if kind not in KINDS:
        raise OptionError(f"There is no plot {kind!r}. Use {', '.join((*KINDS, SPECTRUM, CONNECTIVITY, TREE))}.")
    scale = _LOG_BY_DEFAULT[kind] if log is None else log
    if trajectory is not None and (_DIMS[kind] != 2 or isinstance(dataset, Sequence)):
        raise OptionError("A trajectory is drawn on one plane. Use contour, heatmap or surface.")
    if isinstance(dataset, str | os.PathLike):
        raise no_surface(dataset)
    if isinstance(dataset, Sequence):
        return _comparison, _comparison.compare(dataset, labels, kind, variable, scale, _DIMS[kind], points)
    dataset = cast(xr.Dataset, dataset)  # anything else is refused there
    picture = prepare(dataset, variable, scale, _DIMS[kind], points)
    found = marks_of(marks, dataset, dims_of(dataset))
    picture = replace(picture, marks=found, note="; ".join(filter(None, (note_of(found), picture.note))))
    if trajectory is None:
        return _DRAWERS[kind], picture
    track = track_of(trajectory, dataset, picture, variable)
    note = "; ".join(part for part in (track.note, picture.note) if part)
    return _DRAWERS[kind], replace(picture, track=track, note=note)
