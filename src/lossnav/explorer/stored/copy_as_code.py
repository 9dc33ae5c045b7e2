"""The Python code that makes the view on the screen: "copy as code". No torch.

A store may come from anybody, and the user runs this code. So values read from a store appear in it only as literals or
as names of ours, and the objective is that of the session, not the one named in its store.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from lossnav._utils.paths import inside, is_local, name_of
from lossnav.explorer.stored.beside import CURVATURE
from lossnav.explorer.stored.place import Place
from lossnav.explorer.stored.session import Session
from lossnav.surface.variables import DIM_LETTERS, is_straight

_FINE = 65  # points along each axis of a window that is evaluated anew
_COLORS = ("viridis", "cividis")
_OPTIONS = ("checkpoint", "data_root", "missing_buffers", "mode", "params", "device")  # of `load_objective`


def code_of(session: Session, number: int, view: Mapping[str, Any], *, shared: bool = False) -> str:
    """Return the script.

    Parameters
    ----------
    session : Session
    number : int
        Of the place.
    view : mapping
        Of the page: ``ranges`` (pairs), ``metric``, ``log``, ``kind`` (contour, heatmap, surface or line), ``points``,
        ``colors``, ``domain`` and ``contours`` (first and step) as drawn, ``slice``. Missing and invalid entries are
        ignored.
    shared : bool
        Whether the script is for others: it then names files without their folders.
    """
    place = session.place(number)
    ranges = _ranges(view.get("ranges"), place)
    lines = ["import lossnav as ln", ""]
    metric = view.get("metric")
    of = place.curvature if isinstance(metric, str) and metric not in place.names else None
    beside = of is not None and metric in of.names
    lines += _stored(place, ranges, shared, beside) if not session.live else _live(place, ranges, shared)
    options = []
    if isinstance(metric, str) and (beside or metric in place.names) and metric != "loss":
        options.append(f"variable={metric!r}")
    if isinstance(view.get("log"), bool):
        options.append(f"log={view['log']}")
    kind = {1: "line", 2: "contour", 3: "contour"}[len(place.dims)]
    wanted = view.get("kind")
    if len(place.dims) == 2 and isinstance(wanted, str) and wanted in ("contour", "heatmap", "surface"):
        kind = str(wanted)
    if view.get("points") is True:
        options.append("points=True")
    if len(place.dims) == 3:
        third = place.dims[2]
        at: Any = view.get("slice")
        middle = float(place.base[2].mean())
        where = float(at) if _is_finite(at) else middle
        lines.append(f"surface = surface.sel({_keywords([(third, repr(where))])}, method='nearest')")
    looks = _looks(view, kind)
    lines.append(f"ln.plot.{kind}({', '.join(['surface', *options])}){looks}.show()")
    return "\n".join(lines) + "\n"


def _looks(view: Mapping[str, Any], kind: str) -> str:
    """Return the call that sets the colours, their range and the contour levels of the view."""
    if kind == "line":
        return ""
    options = []
    colors = view.get("colors")
    if isinstance(colors, str) and colors in _COLORS and colors != _COLORS[0]:
        options.append(f"colorscale={colors!r}")
    domain: Any = view.get("domain")
    levels: Any = view.get("contours")
    if _are_finite(domain) and domain[0] < domain[1]:
        low, high = ("cmin", "cmax") if kind == "surface" else ("zmin", "zmax")
        options += [f"{low}={float(domain[0])!r}", f"{high}={float(domain[1])!r}"]
        if kind == "contour" and _are_finite(levels) and levels[1] > 0:
            lines = {"start": float(levels[0]), "end": float(domain[1]), "size": float(levels[1])}
            options.append(f"contours={lines!r}")
    return f".update_traces({', '.join(options)}, selector={{'type': {kind!r}}})" if options else ""


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _are_finite(pair: Any) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(map(_is_finite, pair))


def _named(store: Any, shared: bool) -> str:
    name = name_of(store)
    return os.path.basename(name.rstrip("/\\")) if shared else name


def _stored(place: Place, ranges: list[tuple[float, float]], shared: bool, beside: bool) -> list[str]:
    if not isinstance(place.store, str | os.PathLike):
        return ["surface = ...  # the surface that was shown"]
    named = _named(place.store, shared)
    lines = [f"surface = ln.open({str(inside(named, CURVATURE)) if beside else named!r})"]
    if not beside and not place.surface.lossnav.is_grid:
        lines.append("surface = surface.lossnav.to_grid()")
    if "seed" in place.surface.coords or place.surface.attrs.get("ensemble"):
        lines.append("surface = surface.lossnav.over_seeds()")
    cuts = [
        (dim, f"slice({low!r}, {high!r})")
        for dim, (low, high), ends in zip(place.dims, ranges, place.base.tolist(), strict=True)
        if low > ends[0] or high < ends[1]
    ]
    return [*lines, f"surface = surface.sel({_keywords(cuts).removeprefix('**')})"] if cuts else lines


def _live(place: Place, ranges: list[tuple[float, float]], shared: bool) -> list[str]:
    lines = [*_objective(place.made_of.get("objective", {}), shared), *_chart(place, shared)]
    axes = [(dim, f"({low!r}, {high!r}, {_FINE})") for dim, (low, high) in zip(place.dims, ranges, strict=True)]
    return [*lines, f"surface = ln.evaluate(objective, chart, ln.Grid({_keywords(axes)}))"]


def _objective(said: Mapping[str, Any], shared: bool) -> list[str]:
    """Return the code that makes the objective."""
    origin = said.get("origin")
    if not origin or not _is_literal(origin) or (shared and os.path.sep in repr(origin)):
        return ["objective = ...  # the one that was explored"]
    drawn = [said.get(name) for name in ("population", "samples", "subset_seed")]
    if "view" in origin or drawn[0] is not None:
        again = f"rebuild({dict(origin)!r}, {', '.join(map(repr, drawn))})"
        return ["from lossnav.specs.objective_of import rebuild", "", f"objective = {again}"]
    options = "".join(f", {name}={origin[name]!r}" for name in _OPTIONS if origin.get(name))
    return [
        "from lossnav.specs.objective_of import load_objective",
        "",
        f"objective = load_objective({origin['spec']!r}{options})",
    ]


def _chart(place: Place, shared: bool) -> list[str]:
    """Return the code that makes the chart: by the same random draw, or else from its stored tensors."""
    said = place.made_of["chart"]
    if place.number == 0 and is_straight(said) and (options := _drawing(said["directions"])):
        return [
            f"directions = ln.directions.random(objective, {', '.join(options)})",
            f"chart = ln.{said['kind']}(objective.params, *directions)",
        ]
    if place.store is None or not is_local(place.store):
        return ["chart = ...  # the one that was explored"]
    store = _named(place.store, shared)
    return [
        "from lossnav.evaluation.resume import chart_of",
        "",
        f"chart = chart_of(ln.open({store!r}).attrs, objective, {store!r})",
    ]


def _drawing(recipes: Any) -> list[str]:
    """Return the options of the one call that drew all these directions; empty if there is no such call."""
    first = recipes[0]
    if not all(_is_literal(recipe) and recipe.get("kind") == "random" for recipe in recipes):
        return []
    if any({**recipe, "index": 0} != {**first, "index": 0} for recipe in recipes):
        return []
    options = [f"{name}={first[name]!r}" for name in ("n", "normalize", "seed")]
    if first["distribution"] != "normal":
        options.append(f"distribution={first['distribution']!r}")
    if not first["orthogonal"]:
        options.append("orthogonal=False")
    if sorted(map(str, first["exclude"])) != ["bias", "norm"]:
        options.append(f"exclude={tuple(first['exclude'])!r}")
    return options


def _keywords(pairs: Iterable[tuple[str, str]]) -> str:
    """Return arguments as code; as a mapping if a name is not valid for an argument.

    >>> _keywords([("alpha", "1")]), _keywords([("a=b", "1")])
    ('alpha=1', "**{'a=b': 1}")
    """
    pairs = list(pairs)
    if all(name in DIM_LETTERS for name, _ in pairs):
        return ", ".join(f"{name}={value}" for name, value in pairs)
    return "**{" + ", ".join(f"{name!r}: {value}" for name, value in pairs) + "}"


def _is_literal(value: Any) -> bool:
    """Return whether the ``repr`` of a value, read by Python, gives the same value."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_literal(part) for name, part in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_literal, value))
    return value is None or type(value) in (str, bool, int) or (type(value) is float and math.isfinite(value))


def _ranges(given: Any, place: Place) -> list[tuple[float, float]]:
    """Return the ranges of a view if they are valid; else those of the place."""
    try:
        ranges = [(float(low), float(high)) for low, high in given]
    except (TypeError, ValueError, OverflowError):
        ranges = []
    finite = all(math.isfinite(low) and math.isfinite(high) and low < high for low, high in ranges)
    if len(ranges) != len(place.dims) or not finite:
        ranges = [(low, high) for low, high in place.base.tolist()]
    return ranges
