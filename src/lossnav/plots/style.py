"""Style of the pictures: sizes, fonts, notes, for matplotlib and plotly."""

from __future__ import annotations

import textwrap
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossnav.plots.picture import Picture

if TYPE_CHECKING:
    pass


_SIZE = (5.0, 3.9)  # inches: one column and a half

_NOTE_SIZE, _NOTE_WIDTH = 7, 110  # points; characters a line of an interactive picture


def style() -> AbstractContextManager[Any]:
    """Context with the matplotlib settings of our figures; global settings are restored."""
    import matplotlib as mpl

    return mpl.rc_context(
        {
            "figure.figsize": _SIZE,
            "figure.dpi": 120,
            "savefig.dpi": 300,
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.labelsize": 9,
            "axes.linewidth": 0.7,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "lines.linewidth": 1.6,
            "pdf.fonttype": 42,
            "svg.fonttype": "none",
            "svg.hashsalt": "lossnav",
        }
    )


def finish(figure: Any, picture: Picture) -> None:
    """Add the title and the note on holes to a matplotlib figure."""
    figure.axes[0].set_title(picture.title, color="0.25", loc="left", pad=8)
    note_below(figure, picture.note)


def note_below(figure: Any, note: str) -> None:
    """Write a note, if any, in small letters at the bottom of a matplotlib figure."""
    if note:
        width = int(figure.get_figwidth() * 72 / (0.56 * _NOTE_SIZE))  # a letter is about 0.56 of the size wide
        lines = textwrap.fill(note, width)
        figure.supxlabel(lines, fontsize=_NOTE_SIZE, color="0.35", x=0.98, ha="right", multialignment="right")


def layout(figure: Any, picture: Picture) -> Any:
    """Add the title, the note on holes, fonts and margins to a plotly figure."""
    lines = textwrap.wrap(picture.note, _NOTE_WIDTH)
    figure.update_layout(
        template="plotly_white",
        title={"text": picture.title, "x": 0.02, "font": {"size": 15}},
        font={"family": "Helvetica, Arial, sans-serif", "size": 13},
        margin={"l": 70, "r": 20, "t": 60, "b": 66 + 14 * len(lines)},
        autosize=True,
    )
    if picture.note:
        figure.add_annotation(
            text="<br>".join(lines),
            xref="paper",
            yref="paper",
            x=1,
            y=0,
            yshift=-56,  # pixels: below the axis and its title, however high the picture
            align="right",
            xanchor="right",
            yanchor="top",
            showarrow=False,
            font={"size": 11, "color": "#555"},
        )
    return figure


def hover(picture: Picture) -> tuple[NDArray[np.float64], str]:
    """Hover values, transposed for plotly, and their template."""
    columns = [picture.values.T]
    text = f"{picture.label}: %{{customdata[0]:.5g}}"
    if picture.se is not None:
        columns.append(picture.se.T)
        text += " ± %{customdata[1]:.2g}"
    x, y = picture.axes[0].letter, picture.axes[1].letter
    return np.stack(columns, axis=-1), f"{x} = %{{x:.4g}}<br>{y} = %{{y:.4g}}<br>{text}<extra></extra>"
