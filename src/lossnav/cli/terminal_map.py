"""A small map in the terminal, updated during a run."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lossnav._utils.geometry import mesh, nearest

if TYPE_CHECKING:
    from rich.text import Text

_WIDEST = 72  # columns
_RAMP = ("#440154", "#443983", "#31688e", "#21918c", "#35b779", "#90d743", "#fde725")  # viridis
_HOLE = "#3a3a3a"


class TerminalMap:
    """Draws partial surfaces on stderr, each in place of the previous one; for `evaluate(on_update=)`.

    A plane is a map of the log-loss, two cells per character, blue for low and yellow for high; a line is a curve.
    Each cell shows its nearest point. If stderr is not a terminal, only a line of the final numbers is printed.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=sys.stderr)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._last: xr.Dataset | None = None

    def __enter__(self) -> TerminalMap:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __call__(self, surface: xr.Dataset) -> None:
        """Draw a surface, complete or partial."""
        self._last = surface
        if self._console.is_terminal:
            self._live.update(draw(surface), refresh=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
        elif self._last is not None:
            self._console.print(draw(self._last).plain.splitlines()[-1], highlight=False)


def draw(surface: xr.Dataset, width: int | None = None) -> Text:
    """Return a surface of one or two coordinates as rich text; for three, its middle slice."""
    from rich.text import Text

    points, losses = surface.lossnav.points()
    dims = surface.lossnav.dims
    columns = width or min(_WIDEST, shutil.get_terminal_size().columns - 2)
    finite = np.isfinite(losses)
    text = Text()
    if not finite.any():
        return text.append("nothing finite yet")
    heights = np.log(np.where(losses > 0, losses, np.nan)) if (losses[finite] > 0).all() else losses
    low, high = float(np.nanmin(heights[finite])), float(np.nanmax(heights[finite]))
    shown = (heights - low) / ((high - low) or 1.0)
    if len(dims) == 1:
        _draw_line(text, points[:, 0], shown, columns)
    else:
        _draw_map(text, points, shown, columns)
    text.append(f"{len(losses):,} points, loss {losses[finite].min():.4g} to {losses[finite].max():.4g}", style="dim")
    if not finite.all():
        text.append(f", {int((~finite).sum()):,} not finite", style="dim")
    return text


def _nearest(points: NDArray[np.float64], shown: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Value of the nearest point at each cell of a grid over the first coordinates, the others at 0."""
    low, high = points.min(0), points.max(0)
    axes = [np.linspace(a, b, n) for a, b, n in zip(low, high, shape, strict=False)]
    axes += [np.zeros(1)] * (points.shape[1] - len(shape))
    _, which = nearest(points, mesh(axes))
    return np.asarray(shown[which].reshape(shape), np.float64)


def _draw_map(text: Any, points: NDArray[np.float64], shown: NDArray[np.float64], columns: int) -> None:
    rows = max(2, columns // 2 // 2 * 2)
    values = _nearest(points, shown, (columns, rows))
    for row in range(rows - 1, 0, -2):  # beta upwards
        for column in range(columns):
            text.append("▀", style=f"{_color(values[column, row])} on {_color(values[column, row - 1])}")
        text.append("\n")


def _draw_line(
    text: Any, places: NDArray[np.float64], shown: NDArray[np.float64], columns: int, rows: int = 10
) -> None:
    values = _nearest(places[:, None], shown, (columns,))
    for row in range(rows - 1, -1, -1):
        for value in values:
            filled = value * rows - row if np.isfinite(value) else 0.0
            block = " " if filled <= 0 else "▁▂▃▄▅▆▇█"[min(7, int(8 * min(filled, 0.999)))]
            text.append(block, style=_color(value))
        text.append("\n")


def _color(value: float) -> str:
    return _RAMP[min(len(_RAMP) - 1, int(value * len(_RAMP)))] if np.isfinite(value) else _HOLE
