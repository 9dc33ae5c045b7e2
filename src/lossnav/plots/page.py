"""One self-contained HTML page of pictures and numbers, which opens without a network."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from lossnav._utils.paths import write_whole
from lossnav._version import __version__
from lossnav.reports import Report, report
from lossnav.reports.findings import TITLE, panel


@dataclass(frozen=True)
class Section:
    """A heading, a sentence or two, interactive figures and still pictures.

    Attributes
    ----------
    title, text : str
    figures : sequence of plotly figures
    pictures : sequence of paths to PNG files, embedded
    """

    title: str
    text: str
    figures: Sequence[Any]
    pictures: Sequence[Path]


def write_page(
    path: Path,
    *,
    title: str,
    lead: str,
    numbers: Mapping[str, str],
    sections: Sequence[Section],
    surfaces: Mapping[str, xr.Dataset],
    reports: Mapping[str, Report] | None = None,
) -> Path:
    """Write the page completely or not at all.

    Parameters
    ----------
    path : Path
    title, lead : str
    numbers : mapping of str to str
        The table at the top.
    sections : sequence of Section
    surfaces : mapping of str to xarray.Dataset
        The surfaces shown; the page has the report of each below the pictures, and its provenance at the end.
    reports : mapping of str to Report, optional
        Reports with measurements, used instead of those made from the stored values.

    Returns
    -------
    Path
    """
    body = [f"<header><h1>{html.escape(title)}</h1><p>{html.escape(lead)}</p>{_table(numbers)}</header>"]
    body += [_section(section) for section in sections]
    said = {name: (reports or {}).get(name) or report(surface) for name, surface in surfaces.items()}
    body.append(f"<section>{panel(said, TITLE)}</section>")
    body.append(f"<section><h2>How it was made</h2>{_provenance(surfaces)}</section>")
    body.append(f"<footer>lossnav {__version__}</footer>")
    page = _PAGE.format(title=html.escape(title), style=_STYLE, plotly=_plotly(), body="\n".join(body))
    write_whole(path, page)
    return path


def _section(section: Section) -> str:
    figures = "".join(f'<div class="figure">{_unbound(figure)}</div>' for figure in section.figures)
    pictures = "".join(
        f'<img alt="{html.escape(picture.stem)}" src="data:image/png;base64,'
        f'{base64.b64encode(picture.read_bytes()).decode()}">'
        for picture in section.pictures
    )
    return (
        f"<section><h2>{html.escape(section.title)}</h2><p>{html.escape(section.text)}</p>"
        f'{figures}<div class="pictures">{pictures}</div></section>'
    )


def _unbound(figure: Any) -> str:
    """A figure's HTML without plotly itself, which the page contains once."""
    text: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        default_height="560px",
        config={"displaylogo": False, "responsive": True},
    )
    return text


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _table(numbers: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in numbers.items()
    )
    return f"<table>{rows}</table>"


def _provenance(surfaces: Mapping[str, xr.Dataset]) -> str:
    blocks = []
    for name, surface in surfaces.items():
        objective, chart, sampler = (surface.attrs[key] for key in ("objective", "chart", "sampler"))
        axes = ", ".join(f"{dim} {low:g} … {high:g} ({n})" for dim, (low, high, n) in sampler["axes"].items())
        made = [
            f"{chart['kind']} over {axes}",
            *(_direction(dim, recipe) for dim, recipe in zip(chart["dims"], chart["directions"], strict=False)),
            f"{objective['model']}, {objective['loss']}, {objective['samples']:,} samples, {objective['dtype']} on "
            f"{objective['device']}, BatchNorm {objective['bn']}, fingerprint {objective['fingerprint']}",
            f"{surface.attrs['seconds']:.1f} s, {surface.attrs['points_per_second']:.0f} points/s",
        ]
        items = "".join(f"<li>{html.escape(item)}</li>" for item in made)
        blocks.append(f"<h3>{html.escape(name)}.zarr</h3><ul>{items}</ul>")
    return "".join(blocks)


def _direction(dim: str, recipe: Mapping[str, Any]) -> str:
    facts = [f"{key} {recipe[key]}" for key in ("distribution", "normalize", "seed", "index") if key in recipe]
    held = ", ".join(recipe.get("excluded", [])) or "nothing"
    return f"{dim}: {recipe['kind']} direction ({', '.join(facts)}), norm {recipe['norm']:.4g}, held still: {held}"


_STYLE = """
:root { color-scheme: light; --ink: #1d2530; --soft: #5d6875; --line: #e3e7ec; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.25rem; color: var(--ink); background: #fff;
       font: 16px/1.55 Helvetica, Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.35rem; margin: 0 0 .25rem; }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; font-family: ui-monospace, Menlo, monospace; }
p { margin: 0 0 1rem; max-width: 46rem; color: var(--soft); }
section { border-top: 1px solid var(--line); margin-top: 2.5rem; padding-top: 1.75rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: normal; color: var(--soft); padding: .2rem 2rem .2rem 0; }
td { padding: .2rem 0; }
ul { margin: 0; padding-left: 1.2rem; color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
.figure { overflow: hidden; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
.pictures img { width: 100%; max-width: 38rem; }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style><script>{plotly}</script></head>
<body>
{body}
</body></html>
"""
