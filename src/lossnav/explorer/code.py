"""The Python that makes the view on the screen: "copy as code". No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lossnav.explorer.session import Place, Session
from lossnav.files import is_local, name_of

_FINE = 65  # points along each axis of a window that is evaluated anew


def code_of(session: Session, number: int, view: Mapping[str, Any]) -> str:
    """Write the script.

    Parameters
    ----------
    session : Session
    number : int
        Of the place.
    view : mapping
        As the page has it: ``ranges`` (pairs), ``metric``, ``log``, ``kind`` (contour, heatmap, surface or line). What
        is missing or cannot be is left out.
    """
    place = session.place(number)
    ranges = _ranges(view.get("ranges"), place)
    lines = ["import lossnav as ln", ""]
    lines += _stored(place, ranges) if not session.live else _live(place, ranges)
    options = []
    metric = view.get("metric")
    if isinstance(metric, str) and metric in place.names and metric != "loss":
        options.append(f"variable={metric!r}")
    if isinstance(view.get("log"), bool):
        options.append(f"log={view['log']}")
    kind = {1: "line", 2: "contour", 3: "contour"}[len(place.dims)]
    wanted = view.get("kind")
    if len(place.dims) == 2 and wanted in ("contour", "heatmap", "surface"):
        kind = str(wanted)
    if len(place.dims) < 3:
        lines.append(f"ln.plot.{kind}({', '.join(['surface', *options])}).show()")
    return "\n".join(lines) + "\n"


def _stored(place: Place, ranges: list[tuple[float, float]]) -> list[str]:
    lines = [f"surface = ln.open({name_of(place.store)!r})"]
    if not place.surface.lossnav.is_grid:
        lines.append("surface = surface.lossnav.to_grid()")
    if "seed" in place.surface.coords or place.surface.attrs.get("ensemble"):
        lines.append("surface = surface.lossnav.over_seeds()")
    cuts = [
        f"{dim}=slice({low!r}, {high!r})"
        for dim, (low, high), ends in zip(place.dims, ranges, place.base.tolist(), strict=True)
        if low > ends[0] or high < ends[1]
    ]
    return [*lines, f"surface = surface.sel({', '.join(cuts)})"] if cuts else lines


def _live(place: Place, ranges: list[tuple[float, float]]) -> list[str]:
    said = place.surface.attrs
    origin = said.get("objective", {}).get("origin")
    lines = []
    if origin:
        options = "".join(
            f", {name}={origin[name]!r}"
            for name in ("checkpoint", "data_root", "missing_buffers", "mode")
            if origin.get(name)
        )
        lines += ["from lossnav.specs import load_objective", ""]
        lines.append(f"objective = load_objective({origin['spec']!r}{options})")
    else:
        lines.append("objective = ...  # the one that was explored")
    lines += _chart(place)
    axes = ", ".join(f"{dim}=({low!r}, {high!r}, {_FINE})" for dim, (low, high) in zip(place.dims, ranges, strict=True))
    return [*lines, f"surface = ln.evaluate(objective, chart, ln.Grid({axes}))"]


def _chart(place: Place) -> list[str]:
    """How the chart is had again: drawn anew where it was drawn, else from its kept tensors."""
    said = place.surface.attrs["chart"]
    recipes = said["directions"]
    first = recipes[0]
    drawn = place.number == 0 and all(recipe["kind"] == "random" for recipe in recipes)
    if drawn and all({**recipe, "index": 0}.get("seed") == first.get("seed") for recipe in recipes):
        options = [f"n={first['n']}", f"normalize={first['normalize']!r}", f"seed={first['seed']}"]
        if first["distribution"] != "normal":
            options.append(f"distribution={first['distribution']!r}")
        if not first["orthogonal"]:
            options.append("orthogonal=False")
        if sorted(first["exclude"]) != ["bias", "norm"]:
            options.append(f"exclude={tuple(first['exclude'])!r}")
        return [
            f"directions = ln.directions.random(objective, {', '.join(options)})",
            f"chart = ln.{said['kind']}(objective.params, *directions)",
        ]
    if place.store is None or not is_local(place.store):
        return ["chart = ...  # the one that was explored"]
    store = name_of(place.store)
    return [
        "from lossnav.resuming import chart_of",
        "",
        f"chart = chart_of(ln.open({store!r}).attrs, objective, {store!r})",
    ]


def _ranges(given: Any, place: Place) -> list[tuple[float, float]]:
    """What of the view can be read; else the place's own."""
    try:
        ranges = [(float(low), float(high)) for low, high in given]
    except (TypeError, ValueError):
        ranges = []
    if len(ranges) != len(place.dims) or not all(low < high for low, high in ranges):
        ranges = [(low, high) for low, high in place.base.tolist()]
    return ranges
