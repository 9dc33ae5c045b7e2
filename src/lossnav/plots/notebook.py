"""A surface in a notebook: a small still picture and a few numbers, as self-contained HTML."""

from __future__ import annotations

import base64
import html
import io
import math
from typing import Any

import xarray as xr

from lossnav.errors import OptionError

_INCHES, _DOTS = (3.6, 2.9), 110


def html_of(dataset: xr.Dataset) -> str:
    """Draw a surface as a small picture with a summary.

    Parameters
    ----------
    dataset : xarray.Dataset
        A surface. For several seeds the mean is drawn; for a volume only the numbers are shown.

    Returns
    -------
    str
        HTML, with the picture in it.
    """
    rows = "".join(
        f"<tr><th style='text-align:left;font-weight:normal;opacity:.7'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in _words(dataset).items()
    )
    picture = _picture(dataset)
    shown = f"<img alt='the loss' width='360' src='data:image/png;base64,{picture}'>" if picture else ""
    return f"<div style='display:flex;gap:1.5em;align-items:center'>{shown}<table>{rows}</table></div>"


def _words(dataset: xr.Dataset) -> dict[str, str]:
    found = dataset.lossnav.summary()
    chart, objective = dataset.attrs.get("chart", {}), dataset.attrs.get("objective", {})
    sizes = " × ".join(f"{size} {dim}" for dim, size in dataset.sizes.items() if dim not in ("row", "column"))
    words = {"surface": f"{chart.get('kind', 'chart')}, {sizes}"}
    if objective:
        words["objective"] = f"{objective.get('model')}, {objective.get('loss')}"
    for name in ("lowest", "highest"):
        if name in found:
            at = ", ".join(f"{dim} {x:.3g}" for dim, x in found[name]["at"].items())
            words[f"{name} loss"] = f"{found[name]['loss']:.5g} at {at}"
    if "loss" in found["center"]:
        words["loss at the centre"] = f"{found['center']['loss']:.5g}"
    return words | {word: f"{n:,}" for word, n in found["status"].items() if n and word != "ok"}


def _picture(dataset: xr.Dataset) -> str:
    """A PNG in base64; empty if there is no picture."""
    import matplotlib.figure

    from lossnav import plots

    dims = dataset.lossnav.dims
    losses = dataset.lossnav.points()[1]
    if len(dims) > 2 or not any(math.isfinite(loss) for loss in losses.tolist()):
        return ""
    drawing: Any = plots.line if len(dims) == 1 else plots.heatmap
    try:
        figure: matplotlib.figure.Figure = drawing(dataset, log=bool((losses > 0).all()), backend="matplotlib")
    except OptionError:  # too few points to draw
        return ""
    figure.set_size_inches(*_INCHES)
    file = io.BytesIO()
    figure.savefig(file, dpi=_DOTS, bbox_inches="tight")
    return base64.b64encode(file.getvalue()).decode()
