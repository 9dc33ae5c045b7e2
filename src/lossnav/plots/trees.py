"""Picture of a tree of minima: a disconnectivity graph (Becker & Karplus 1997), with errors and upper bounds."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lossnav.errors import OptionError
from lossnav.plots.comparison import COLORS
from lossnav.plots.style import finish, layout
from lossnav.surface.minima_tree import Merge, MinimaTree

_BRANCH = "#666666"
_SLANTED = 6  # minima above which names are written slanted


@dataclass(frozen=True)
class TreePicture:
    """Numbers ready to be drawn.

    Attributes
    ----------
    x : tuple of float
        Place of each minimum, by its index.
    y, y_error : tuple of float
        Its loss, and the standard error.
    colors : tuple of str
        One for each basin.
    branches : tuple of tuple of float
        Each merge: left, right, their lower ends, height, its standard error (NaN if unknown).
    names : tuple of str
    title, note : str
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    y_error: tuple[float, ...]
    colors: tuple[str, ...]
    branches: tuple[tuple[float, float, float, float, float, float], ...]
    names: tuple[str, ...]
    title: str
    note: str


def prepare(tree: MinimaTree) -> TreePicture:
    """Place the minima so that no two branches cross, each merge above the middle of its parts.

    Raises
    ------
    OptionError
        If a minimum's loss is not finite.
    """
    if not np.isfinite(tree.loss).all():
        name = tree.names[int(np.flatnonzero(~np.isfinite(tree.loss))[0])]
        raise OptionError(f'The loss at "{name}" is not finite, so it has no place in the picture. Leave it out.')
    whole = [merge for merge in tree.merges if math.isfinite(merge.height)]
    below = {part for merge in whole for part in merge.parts if isinstance(part, Merge)}
    roots: list[int | Merge] = [merge for merge in whole if merge not in below]
    covered = {i for root in roots if isinstance(root, Merge) for i in root.minima}
    roots += [i for i in range(len(tree.names)) if i not in covered]
    order = [i for root in roots for i in ((root,) if isinstance(root, int) else root.minima)]
    across: dict[int | Merge, float] = {i: float(k) for k, i in enumerate(order)}
    branches = []
    for merge in whole:  # from the lowest up: parts come first
        left, right = sorted((across[part], _height(tree, part)) for part in merge.parts)
        across[merge] = (left[0] + right[0]) / 2
        branches.append((left[0], right[0], left[1], right[1], merge.height, merge.error))
    basin = {i: k for k, leaf in enumerate(tree.leaves) for i in leaf}
    count = len(tree.names)
    said = [
        "every pass is an upper bound on the lowest one (the path is "
        + ("a straight line" if tree.path == "line" else tree.path)
        + (", after alignment)" if tree.aligned else ", not aligned)"),
        "bars: one standard error",
        f"one colour a basin, told apart at {tree.level:.0%}",
    ]
    if len(whole) < len(tree.merges):
        said.append("branches that do not meet: no finite pass")
    title = f"{count} minima, {len(tree.leaves)} {'basin' if len(tree.leaves) == 1 else 'basins'}"
    return TreePicture(
        tuple(across[i] for i in range(count)),
        tuple(float(v) for v in tree.loss),
        tuple(float(v) for v in tree.loss_error),
        tuple(COLORS[basin[i] % len(COLORS)] for i in range(count)),
        tuple(branches),
        tree.names,
        title,
        "; ".join(said),
    )


def _height(tree: MinimaTree, part: int | Merge) -> float:
    return float(tree.loss[part]) if isinstance(part, int) else part.height


def draw(figure: Any, picture: TreePicture) -> None:
    """Draw into a matplotlib figure."""
    axes = figure.add_subplot()
    for left, right, low, other, height, error in picture.branches:
        axes.plot([left, left, right, right], [low, height, height, other], color=_BRANCH, linewidth=1.2, zorder=1)
        middle = (left + right) / 2
        axes.errorbar(middle, height, yerr=0 if math.isnan(error) else error, color=_BRANCH, capsize=2.5, linewidth=1)
        axes.plot(middle, height, marker="v", markersize=4.5, color=_BRANCH, zorder=3)
    for x, y, error, color in zip(picture.x, picture.y, picture.y_error, picture.colors, strict=True):
        axes.errorbar(x, y, yerr=0 if math.isnan(error) else error, fmt="o", color=color, markersize=6, zorder=4)
    axes.set_ylabel("loss")
    axes.set_xlim(-0.5, len(picture.x) - 0.5)
    slanted = len(picture.x) > _SLANTED or max(map(len, picture.names)) > 10
    axes.set_xticks(picture.x, picture.names, rotation=35 if slanted else 0, ha="right" if slanted else "center")
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="0.92", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.plot([], [], marker="v", color=_BRANCH, linewidth=1.2, markersize=4.5, label="pass: at most this high")
    axes.legend(frameon=False, fontsize=8, loc="best")
    finish(figure, picture)  # type: ignore[arg-type]


def interactive(picture: TreePicture) -> Any:
    """Make a plotly figure."""
    import plotly.graph_objects as go

    figure = go.Figure()
    x: list[float | None] = []
    y: list[float | None] = []
    for left, right, low, other, height, _ in picture.branches:
        x += [left, left, right, right, None]
        y += [low, height, height, other, None]
    figure.add_scatter(x=x, y=y, mode="lines", line={"color": _BRANCH, "width": 1.5}, hoverinfo="skip")
    heights = [branch[4] for branch in picture.branches]
    figure.add_scatter(
        x=[(branch[0] + branch[1]) / 2 for branch in picture.branches],
        y=heights,
        error_y={"type": "data", "array": [0 if math.isnan(b[5]) else b[5] for b in picture.branches]},
        customdata=["unknown" if math.isnan(b[5]) else f"{b[5]:.2g}" for b in picture.branches],
        mode="markers",
        marker={"symbol": "triangle-down", "size": 9, "color": _BRANCH},
        hovertemplate="pass: at most %{y:.5g}<br>standard error %{customdata}<extra></extra>",
    )
    figure.add_scatter(
        x=picture.x,
        y=picture.y,
        error_y={"type": "data", "array": [0 if math.isnan(v) else v for v in picture.y_error]},
        customdata=[
            (html.escape(name), "unknown" if math.isnan(v) else f"{v:.2g}")
            for name, v in zip(picture.names, picture.y_error, strict=True)
        ],
        mode="markers",
        marker={"size": 11, "color": list(picture.colors)},
        hovertemplate="%{customdata[0]}<br>loss %{y:.5g}, standard error %{customdata[1]}<extra></extra>",
    )
    figure.update_xaxes(
        tickvals=list(picture.x), ticktext=[html.escape(name) for name in picture.names], showgrid=False, zeroline=False
    )
    figure.update_yaxes(title="loss")
    figure.update_layout(showlegend=False)
    return layout(figure, picture)  # type: ignore[arg-type]
