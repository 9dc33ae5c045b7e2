"""Levels of contour lines, colours, ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossnav.plots.picture import Picture

if TYPE_CHECKING:
    pass


COLORMAP = "viridis"  # perceptually uniform, and readable in grey and by the colour-blind


def levels(picture: Picture, about: int = 12) -> NDArray[np.float64]:
    """Contour levels in the unit of the values: round numbers, evenly spaced (in the logarithm if log)."""
    low, high = picture.range
    if not low < high:
        return np.array([10**low if picture.log else low])
    if not picture.log:
        from matplotlib.ticker import MaxNLocator

        found = np.asarray(MaxNLocator(2 * about, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
        return found[(found > low) & (found < high)]
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9)):
        with np.errstate(over="ignore"):
            decades = 10.0 ** np.arange(math.floor(low), math.ceil(high) + 1)
            found = np.array([decade * digit for decade in decades for digit in digits])
        found = found[(found > 10**low) & (found < 10**high)]
        if len(found) >= about * 0.6:
            break
    if len(found) > 2 * about:  # many decades: one line each, or fewer
        found = decades[(decades > 10**low) & (decades < 10**high)]
        found = found[:: math.ceil(len(found) / (2 * about))]
    return found if len(found) >= 3 else np.unique(10 ** np.linspace(low, high, about + 2)[1:-1])


def lines_of(picture: Picture, about: int = 12) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Contour levels that cross the picture: on the drawn scale, and in the unit of the values."""
    chosen = levels(picture, about)
    heights = np.log10(chosen) if picture.log else chosen
    seen = picture.drawn[~picture.holes]
    crossed = (heights > seen.min(initial=np.inf)) & (heights < seen.max(initial=-np.inf))
    return heights[crossed], chosen[crossed]


def color_norm(picture: Picture) -> Any:
    """Matplotlib norm of the drawn values."""
    from matplotlib.colors import Normalize

    low, high = picture.range
    return Normalize(low, high if low < high else low + 1)


def colors_of(picture: Picture) -> NDArray[np.float64]:
    """Colour of each drawn value as red, green and blue from 0 to 1 (sRGB), shape (..., 3)."""
    import matplotlib as mpl

    return np.asarray(mpl.colormaps[COLORMAP](color_norm(picture)(picture.drawn)), np.float64)[..., :3]


def short(value: float) -> str:
    """Format a number in few characters for a label."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.4g}"
    return f"{value:.2g}".replace("e+", "e").replace("e0", "e").replace("e-0", "e-")


def distinct(values: Sequence[float]) -> list[str]:
    """Format ascending numbers in few characters that tell each from its neighbours, by the step between them.

    >>> distinct([1.380, 1.445, 1.514]), distinct([0.5, 1.0, 1000.0])
    (['1.38', '1.45', '1.51'], ['0.5', '1', '1000'])
    >>> distinct([2.30258, 2.30260, 2.30262])
    ['2.30258', '2.3026', '2.30262']
    """
    labels = [short(value) for value in values]
    gaps = np.diff(np.asarray(values, np.float64))
    for digits in range(4, 18):
        away = [abs(float(label) - value) for label, value in zip(labels, values, strict=True)]
        if all(error < 0.25 * gap for error, gap in zip([*away[1:], *away[:-1]], [*gaps, *gaps], strict=True)):
            break
        labels = [f"{value:.{digits}g}".replace("e+", "e").replace("e0", "e").replace("e-0", "e-") for value in values]
    return labels


def color_ticks(picture: Picture) -> tuple[list[float], list[str]]:
    """Ticks of a logarithmic colour bar: positions on the drawn scale, and labels in the unit of the values."""
    chosen = levels(picture, 8)
    chosen = chosen[:: math.ceil(len(chosen) / 10)]
    return [float(x) for x in np.log10(chosen)], distinct([float(x) for x in chosen])


def color_bar_words(picture: Picture) -> dict[str, Any]:
    """Arguments of plotly's colour bar of a plane."""
    bar: dict[str, Any] = {"title": {"text": picture.label, "side": "right"}, "outlinewidth": 0}
    if picture.log:
        bar["tickvals"], bar["ticktext"] = color_ticks(picture)
    return bar
