"""Several surfaces in one figure, with a common frame and scale for comparison.

Planes are drawn beside each other with the same axes, levels and colours, in three dimensions from one camera; lines in
one pair of axes. If the surfaces have different ranges, the frame contains them all, and regions that were not measured
are blank.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from lossnav.errors import ComparisonWarning, OptionError
from lossnav.plots import contours, heatmaps, lines, surface3d
from lossnav.plots.picture import Picture, dims_of, meanings, prepare, title_of
from lossnav.plots.style import note_below
from lossnav.surface.variables import validate

# Okabe & Ito 2008, told apart by the colour-blind too, the lightest left out; then again with other strokes
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#000000")
_STROKES = (("-", "solid"), ("--", "dash"), (":", "dot"))  # of matplotlib, of plotly

_PANEL = {"contour": (2.75, 2.75), "heatmap": (2.75, 2.75), "surface": (3.4, 3.0)}  # inches

# a camera that was moved is the camera of all; where all have it, nothing more is said and the echo ends
ONE_CAMERA = """
const plot = document.getElementById('{plot_id}');
const scenes = Object.keys(plot._fullLayout).filter(name => /^scene[0-9]*$/.test(name));
plot.on('plotly_relayout', change => {
  const moved = scenes.find(name => name + '.camera' in change);
  if (!moved) return;
  const camera = change[moved + '.camera'];
  const others = scenes.filter(name => JSON.stringify(plot.layout[name].camera) !== JSON.stringify(camera));
  if (others.length) Plotly.relayout(plot, Object.fromEntries(others.map(name => [name + '.camera', camera])));
});
"""


@dataclass(frozen=True)
class Comparison:
    """Pictures that share limits and frame, with their labels.

    Attributes
    ----------
    kind : "line", "contour", "heatmap" or "surface"
    pictures : tuple of Picture
    labels : tuple of str
    """

    kind: str
    pictures: tuple[Picture, ...]
    labels: tuple[str, ...]

    def together(self, words: Sequence[str]) -> str:
        """A text of each picture: once if it is the same for all, otherwise with the label of each."""
        if len(set(words)) == 1:
            return words[0]
        return "; ".join(f"{label}: {said}" for label, said in zip(self.labels, words, strict=True) if said)

    @property
    def whole(self) -> Picture:
        """One picture that represents all: title, note, axes, scale."""
        titles = {picture.title for picture in self.pictures}
        said = [self.together([picture.note for picture in self.pictures])]
        bands = [picture.band if picture.se is not None else "" for picture in self.pictures]
        if self.kind == "line" and any(bands):
            said.insert(0, f"bands: {self.together(bands)}")
        if any(replace(picture, frame=None).ends != picture.frame for picture in self.pictures):
            said.append("blank: not measured" if self.kind != "line" else "")
        first = self.pictures[0]
        if len({tuple(axis.meaning for axis in picture.axes) for picture in self.pictures}) > 1:
            said.insert(0, self.together([meanings(picture) for picture in self.pictures]))
            first = _without_meanings(first)
        note = "; ".join(part for part in said if part)
        return replace(first, title=titles.pop() if len(titles) == 1 else "", note=note)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of panels."""
        count = len(self.pictures)
        columns = count if count <= 3 else math.ceil(math.sqrt(count))
        return math.ceil(count / columns), columns


def compare(
    datasets: Sequence[xr.Dataset],
    labels: Sequence[str] | None,
    kind: str,
    variable: str,
    log: bool,
    ndim: int,
    points: bool,
) -> Comparison:
    """Prepare surfaces for drawing in one frame and on one scale.

    Raises
    ------
    OptionError
        If there are fewer than two, a label is missing or repeated, their coordinates have different names, or one of
        them cannot be drawn as this kind.
    NotASurfaceError
    """
    surfaces = [validate(dataset) for dataset in datasets]
    if len(surfaces) < 2:
        raise OptionError(f"A comparison needs at least two surfaces, got {len(surfaces)}. Pass [a, b].")
    names = tuple(labels) if labels is not None else _labels([title_of(surface) for surface in surfaces])
    if len(names) != len(surfaces) or len(set(names)) < len(names):
        raise OptionError(
            f"{len(surfaces)} surfaces need as many distinct labels, got {', '.join(map(repr, names))}. "
            "Give each surface its own label."
        )
    first = dims_of(surfaces[0])
    for surface, name in zip(surfaces, names, strict=True):
        if (dims := dims_of(surface)) != first:
            raise OptionError(
                f"{name} has the coordinates ({', '.join(dims)}), but {names[0]} has ({', '.join(first)}). "
                "Compare surfaces over the same coordinates."
            )
        if variable not in surface:
            raise OptionError(f"{name} has no variable {variable!r}. Compare a variable that all surfaces have.")
    pictures = [prepare(surface, variable, log, ndim, points) for surface in surfaces]
    _warn_of_differences(surfaces, names, variable)
    powers = {picture.power for picture in pictures if np.nan_to_num(picture.values).any()}
    if len(powers) > 1:
        pictures = [prepare(surface, variable, log, ndim, points, max(powers)) for surface in surfaces]
    seen = [picture.range for picture in pictures if not picture.holes.all()] or [(0.0, 1.0)]
    limits = min(low for low, _ in seen), max(high for _, high in seen)
    frame = tuple(
        (min(low for low, _ in ends), max(high for _, high in ends))
        for ends in zip(*(picture.ends for picture in pictures), strict=True)
    )
    return Comparison(kind, tuple(replace(each, limits=limits, frame=frame) for each in pictures), names)


def draw(figure: Any, comparison: Comparison) -> None:
    """Draw into a matplotlib figure, and set its size to fit the panels."""
    whole = comparison.whole
    if comparison.kind == "line":
        axes = figure.add_subplot()
        for picture, label, (color, stroke, _) in looks(comparison):
            lines.paint(axes, picture, {"curve": label}, color=color, linestyle=stroke)
        lines.label_axes(axes, whole)
        axes.set_title(whole.title, color="0.25", loc="left", pad=8)
        note_below(figure, whole.note)
        return
    drawer: Any = {"contour": contours, "heatmap": heatmaps, "surface": surface3d}[comparison.kind]
    rows, columns = comparison.shape
    width, height = _PANEL[comparison.kind]
    figure.set_size_inches(columns * width + 0.9, rows * height + 0.6)
    deep = comparison.kind == "surface"
    figure.set_layout_engine("constrained" if deep else "compressed", wspace=0.05)
    panels = figure.subplots(
        rows, columns, squeeze=False, sharex=not deep, sharey=not deep, subplot_kw={"projection": "3d"} if deep else {}
    )
    for axes, picture, label in zip(panels.flat, comparison.pictures, comparison.labels, strict=False):
        colors = drawer.paint(axes, _without_meanings(picture))
        axes.set_title(label, pad=6)
        for name in "xy":
            axes.locator_params(axis=name, nbins=5)
    for axes in panels.flat[len(comparison.pictures) :]:
        axes.set_visible(False)
    if not deep:
        for i, axes in enumerate(panels.flat):
            if comparison.kind == "heatmap":  # painting one panel fixed the limits of all, and cells reach further
                axes.autoscale(tight=True)
            axes.tick_params(labelbottom=i + columns >= len(comparison.pictures), labelleft=i % columns == 0)
            axes.set(xlabel=axes.get_xlabel() if i + columns >= len(comparison.pictures) else "")
            axes.set(ylabel=axes.get_ylabel() if i % columns == 0 else "")
    if deep:
        surface3d.dress_bar(figure.colorbar(colors, ax=panels, pad=0.06, shrink=0.6, aspect=24 * rows), whole)
    for row in [] if deep else panels:
        contours.color_bar([axes for axes in row if axes.get_visible()][-1], colors, whole)
    figure.suptitle(
        "\n".join(part for part in (whole.title, meanings(whole)) if part), fontsize=8, color="0.35", x=0.02, ha="left"
    )
    note_below(figure, whole.note)


def interactive(comparison: Comparison) -> Any:
    """Make a plotly figure; the script `ONE_CAMERA` in its page rotates all scenes together."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    whole = comparison.whole
    if comparison.kind == "line":
        figure = go.Figure()
        for picture, label, (color, _, dash) in looks(comparison):
            figure.add_traces(lines.traces(picture, {"curve": label}, color, dash))
        return lines.label_figure(figure, whole)
    drawer: Any = {"contour": contours, "heatmap": heatmaps, "surface": surface3d}[comparison.kind]
    rows, columns = comparison.shape
    deep = comparison.kind == "surface"
    figure = make_subplots(
        rows,
        columns,
        specs=[[{"type": "scene" if deep else "xy"}] * columns] * rows,
        subplot_titles=comparison.labels,
        horizontal_spacing=0.02 if deep else 0.05,
        vertical_spacing=0.08 if deep else 0.12,
    )
    titles = list(figure.layout.annotations)
    for i, picture in enumerate(comparison.pictures):
        row, column = i // columns + 1, i % columns + 1
        made = drawer.traces(picture)
        made[0].showscale = i == 0
        made[0].name = comparison.labels[i]
        figure.add_traces(made, rows=row, cols=column)
    figure.layout.annotations = ()  # those that `layout` adds are moved about
    if deep:
        seen = surface3d.scene(whole)
        seen["camera"]["eye"] = {axis: 1.3 * far for axis, far in seen["camera"]["eye"].items()}  # panels are narrow
        seen["zaxis"]["title"] = {"text": ""}  # the colour bar says it
        figure.update_scenes(seen)
        surface3d.label_scenes(figure, whole)
    else:
        contours.label_plane(figure, _without_meanings(whole))
        for i in range(2, rows * columns + 1):  # those of the first panel lead
            figure.layout[f"xaxis{i}"].matches = "x"
            figure.layout[f"yaxis{i}"].update(matches="y", scaleanchor=None)
            if (i - 1) % columns:
                figure.layout[f"yaxis{i}"].title = None
        figure.update_layout(title={"subtitle": {"text": meanings(whole), "font": {"size": 12, "color": "#666"}}})
    figure.layout.annotations += tuple(titles)
    figure.update_layout(height=rows * 430 + 110, margin={"t": 120})
    return figure


def looks(comparison: Comparison) -> list[tuple[Picture, str, tuple[str, str, str]]]:
    """Each picture with its label, its colour, and its line style for matplotlib and plotly."""
    looks = ((color, *stroke) for stroke, color in itertools.product(_STROKES, COLORS))
    return list(zip(comparison.pictures, comparison.labels, itertools.cycle(looks), strict=False))


def _labels(titles: Sequence[str]) -> tuple[str, ...]:
    """Titles if they are distinct; otherwise numbers."""
    if all(titles) and len(set(titles)) == len(titles):
        return tuple(titles)
    return tuple(f"surface {i + 1}" for i in range(len(titles)))


def _without_meanings(picture: Picture) -> Picture:
    return replace(picture, axes=tuple(replace(axis, meaning="") for axis in picture.axes))


def _warn_of_differences(surfaces: Sequence[xr.Dataset], names: Sequence[str], variable: str) -> None:
    """Warn if heights on one scale measure different things."""
    losses = [str(surface.attrs.get("objective", {}).get("loss", "unknown")) for surface in surfaces]
    units = [str(surface[variable].attrs.get("units", "1")) for surface in surfaces]
    for word, said in (("losses", losses if variable.startswith("loss") else []), ("units", units)):
        if len(set(said)) > 1:
            each = ", ".join(f"{name}: {value}" for name, value in zip(names, said, strict=True))
            warnings.warn(
                f"These surfaces are of different {word} ({each}), so their heights mean different things. "
                "Compare the positions of high and low regions, not the heights.",
                ComparisonWarning,
                stacklevel=6,
            )
