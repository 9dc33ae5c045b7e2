"""The description of a chart: how it is made, in values that JSON can hold. A surface stores it as its recipe."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lossnav import params as algebra
from lossnav._utils.jsonable import jsonable
from lossnav.charts import numeric
from lossnav.charts.registry import kind_of
from lossnav.directions.base import Direction, cosines

if TYPE_CHECKING:
    from lossnav.charts.base import Chart


def describe(chart: Chart, control: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a chart, with the part that `describe_control` returns."""
    recipes = []
    for direction in chart.directions:
        recipe = getattr(direction, "recipe", None)
        recipe = recipe or Direction(direction, {"kind": "given"}).recipe
        if recipe["kind"] == "given":
            recipe = recipe | {"fingerprint": algebra.fingerprint(direction)}
        recipes.append(recipe)
    axes = kind_of(chart).axes
    return {
        "kind": type(chart).__name__,
        "dims": list(chart.dims),
        "affine": chart.affine,
        "center": algebra.fingerprint(chart.center),
        "center_norm": algebra.norm(chart.center),
        "directions": recipes,
        "cosines": cosines(chart.directions),
        **control,
        **({"origin": list(chart._shift)} if any(chart._shift) else {}),
        **({"axes": {dim: str(axes[dim]) for dim in chart.dims if dim in axes}} if axes else {}),
        **({"buffers": chart.anchors.describe()} if chart.anchors is not None and chart.anchors.matters else {}),
    }


def describe_control(chart: Chart) -> dict[str, Any]:
    """Describe control points and options, and numbers of the map itself if its class is not `complete`."""
    kind = kind_of(chart)
    description: dict[str, Any] = {}
    points = {name: point for name, point in chart.points.items() if name not in chart._names}
    if list(points) != ["center"] or not kind.complete:
        description["points"] = [
            {
                "name": name,
                "fingerprint": algebra.fingerprint(dict(sorted(point.items()))),
                "norm": algebra.norm(point),
            }
            for name, point in points.items()
        ]
    if kind.options:
        description["options"] = {name: jsonable(getattr(chart, name)) for name in kind.options}
    if not kind.complete:
        whole = copy.copy(chart)
        whole._shift = ()
        description["signature"] = numeric.signature(whole._precise(), len(chart.dims))
    return description
