"""Saving charts, and making them again from a surface: from recipes and checkpoints, or from saved tensors."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lossnav import checkpoints, directions
from lossnav import params as algebra
from lossnav._utils.paths import is_there_file, is_url, not_written
from lossnav.charts.anchors import Anchors
from lossnav.charts.base import Chart
from lossnav.charts.registry import ChartKind, kinds
from lossnav.checkpoints import weights
from lossnav.directions import lazy as lazily
from lossnav.directions.base import Direction
from lossnav.directions.lazy import LazyDirection
from lossnav.errors import ChartError, CheckpointError
from lossnav.objective.networks import Network, network_of

if TYPE_CHECKING:
    from lossnav.objective.objective import Objective

_CENTER, _POINT, _BUFFERS = "center", "point-", "buffers-"
_LEAVE = "Remove the file, to make them again from their recipes, or evaluate again with save_directions=True."


def save_chart(
    chart: Chart,
    target: str | os.PathLike[str],
    also: Mapping[str, Tensor] | None = None,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write control points and directions to a safetensors file; an existing file is replaced.

    Parameters
    ----------
    chart : Chart
    target : path or fsspec URL
        The file. Its tensors are named ``center/NAME``; ``point-POINT/NAME`` for other control points; ``0/NAME``,
        ``1/NAME``, … for directions; and ``buffers-0/NAME``, … if the checkpoints on the chart differ in buffers. Its
        metadata contain the chart's description. Tensors in which a direction is zero are omitted.
    also : mapping of str to Tensor, optional
        Further tensors in the file, with names of their own.
    about : mapping of str to str, optional
        Further metadata.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    parts = {f"{_CENTER}/{name}": tensor for name, tensor in chart.center.items()}
    described = chart.describe()
    for point in (control["name"] for control in described.get("points", ())):
        parts |= {f"{_POINT}{point}/{name}": tensor.clone() for name, tensor in chart.points[point].items()}
    for i, direction in enumerate(chart.directions):
        parts |= {f"{i}/{name}": tensor for name, tensor in direction.items() if bool((tensor != 0).any())}
    for i, buffers in enumerate(() if chart.anchors is None else chart.anchors.recorded):
        parts |= {f"{_BUFFERS}{i}/{name}": tensor.clone() for name, tensor in buffers.items()}
    parts |= also or {}
    metadata = {"chart": json.dumps(described), "names": json.dumps(list(chart.center)), **(about or {})}
    if not is_url(target):
        checkpoints.save(parts, target, overwrite=True, metadata=metadata)
        return
    import fsspec

    with tempfile.TemporaryDirectory() as folder:
        local = checkpoints.save(parts, Path(folder) / "chart.safetensors", metadata=metadata)
        system, path = fsspec.core.url_to_fs(target)
        try:
            system.put_file(str(local), path)  # writing to an open remote file could leave half of it there
        except OSError as error:
            raise not_written(target, error) from error


def open_chart(
    description: Mapping[str, Any],
    objective: Objective | None = None,
    kept: str | os.PathLike[str] | None = None,
    files: Mapping[str, str] | None = None,
) -> Chart:
    """Make a chart again from its description in a surface.

    Parameters
    ----------
    description : mapping
        ``surface.attrs["chart"]``.
    objective : Objective, optional
        The objective whose parameters are the centre; needed if no tensors were saved.
    kept : path or fsspec URL, optional
        A file that `save_chart` wrote.
    files : mapping of str to str, optional
        ``surface.attrs["checkpoints"]``: files of the checkpoints on the chart, by the fingerprints of their weights.

    Raises
    ------
    ChartError
        If the directions can be made neither from their recipes nor from saved tensors, or differ from the original.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)
    >>> objective = ln.Objective(model, "mse", (x, x[:, :1]))
    >>> line = ln.Line(objective.params, *ln.directions.random(objective, seed=3))
    >>> open_chart(line.describe(), objective).describe() == line.describe()
    True
    """
    name = str(description["kind"])
    if name not in kinds():
        raise ChartError(
            f"No chart of kind {name!r} is registered. Import the module that registers it with "
            "@lossnav.charts.register(), or call evaluate with the chart."
        )
    make = _maker(kinds()[name], description)
    recipes, points = description["directions"], description.get("points", [{"name": _CENTER}])
    if kept is not None and is_there_file(kept):
        try:
            tensors, names = _read(kept)
        except (SafetensorError, ValueError, OSError, CheckpointError) as error:
            raise ChartError(f"The directions saved in {kept} cannot be read: {error}. {_LEAVE}") from error
        if not isinstance(names, list) or any(f"{_CENTER}/{name}" not in tensors for name in names):
            raise ChartError(f"The directions saved in {kept} lack tensors of the centre. {_LEAVE}")
        center = {name: tensors[f"{_CENTER}/{name}"] for name in names}
        zeros = {name: algebra.hollow(tensor) for name, tensor in center.items()}
        controls: list[Any] = [center]
        if "points" in description:
            stored = [_named(tensors, f"{_POINT}{point['name']}") for point in points]
            controls = [{name: point[name] for name in names if name in point} for point in stored]
        made = [zeros | _named(tensors, str(i)) for i in range(len(recipes))]
        chart = make(*controls, *(Direction(part, recipe) for part, recipe in zip(made, recipes, strict=True)))
        if anchors := description.get("buffers"):
            buffers = [_named(tensors, f"{_BUFFERS}{i}") for i in range(len(anchors["points"]))]
            places = [point["at"] for point in anchors["points"]]
            chart.anchors = Anchors(places, buffers, _metric(chart), anchors["others"])
    elif objective is None:
        raise ChartError("To make the chart again, the objective or saved tensors are needed. Pass one of them.")
    else:
        chart = _by_files(make, description, objective, files or {})
    require_same(chart, description)
    return chart


def _maker(kind: ChartKind, description: Mapping[str, Any]) -> Callable[..., Chart]:
    """Return a function from control points and directions to the chart, with its options and its origin."""

    def make(*controls: Any) -> Chart:
        options = {name: value for name, value in description.get("options", {}).items() if name in kind.options}
        try:
            chart: Chart = kind.chart(*controls, **options)
        except TypeError as error:
            raise ChartError(
                f"The constructor of {kind.name} must take its control points by position and its options by name: "
                f"{error}. Change the constructor, or call evaluate with the chart."
            ) from error
        return chart.around(description["origin"]) if "origin" in description else chart

    return make


def _metric(chart: Chart) -> NDArray[np.float64]:
    """Return the inner products of a chart's directions; the identity for a chart without directions."""
    return lazily.gram(chart.directions) if chart.directions else np.eye(len(chart.dims))


def _by_files(
    make: Callable[..., Chart], description: Mapping[str, Any], objective: Objective, files: Mapping[str, str]
) -> Chart:
    """Make a chart from recipes, with an objective and the files of checkpoints that still exist."""
    recipes = description["directions"]
    ends = [path for path in files.values() if os.path.exists(path.partition("::")[0])]
    networks = [network_of(objective), *(network_of(path, objective.anatomy) for path in ends)]
    if "points" in description:
        known = {network.fingerprint: network for network in reversed(networks)}
        if unknown := [point["name"] for point in description["points"] if point["fingerprint"] not in known]:
            raise ChartError(
                f"The control points {', '.join(unknown)} are neither the objective's weights nor in a file that still "
                "exists. Call evaluate with the chart, or save them with save_directions=True."
            )
        points = [known[point["fingerprint"]] for point in description["points"]]
        return make(*points, *_drawn(recipes, objective, known)).fitted(objective)
    if not ends:
        return make(objective.params, *_drawn(recipes, objective, {networks[0].fingerprint: networks[0]}))
    named = (network for network in networks if algebra.fingerprint(network.params) == description.get("center"))
    middle = next(named, networks[0])
    around = objective
    if middle is not networks[0]:
        around = objective.around(algebra.Checkpoint(middle.params, middle.buffers))
    chart = make(middle, *_drawn(recipes, around, {network.fingerprint: network for network in networks}))
    return chart.fitted(objective)


def require_same(chart: Chart, description: Mapping[str, Any]) -> None:
    """Raise unless the description of a chart that was made again equals that in the surface.

    Raises
    ------
    ChartError
    """
    now = json.loads(json.dumps(chart.describe()))
    keys = [key for key in {**description, **now} if key != "axes"]  # only labels
    if different := [key for key in keys if now.get(key) != description.get(key)]:
        raise ChartError(
            f"The chart that was made again differs from the surface's in {', '.join(different)}, because the weights "
            "differ. Pass the objective of the run, at its checkpoint. (Gradients and eigenvectors are equal only on "
            "the same kind of machine; save_directions=True saves them.)"
        )


def _drawn(
    recipes: Sequence[Mapping[str, Any]], objective: Objective, ends: Mapping[str, Network]
) -> list[Direction | LazyDirection]:
    """Make directions from their recipes; those of one call are made together."""
    calls: dict[str, tuple[Direction | LazyDirection, ...]] = {}
    made: list[Direction | LazyDirection] = []
    for recipe in recipes:
        kind = directions.kinds().get(str(recipe["kind"]))
        points = recipe.get("points") or [recipe.get(name) for name in ("start", "end")]
        if kind is not None and kind.lead is not None and all(point in ends for point in points):
            made.append(kind.lead(recipe, [ends[point] for point in points]))
            continue
        if kind is None or kind.make is None:
            raise ChartError(
                f"A direction of kind {recipe['kind']!r} cannot be made from its recipe. Call evaluate with the chart, "
                "or save its tensors with save_directions=True."
            )
        options = {name: recipe[name] for name in kind.options if name in recipe}
        call = json.dumps([recipe["kind"], options])
        if call not in calls:
            found = kind.make(objective, **options)
            calls[call] = found if isinstance(found, tuple) else (found,)
        made.append(calls[call][recipe.get("index", 0)])
    return made


def _read(kept: str | os.PathLike[str]) -> tuple[weights.State, list[str]]:
    """Return all tensors of a file, and the names of the centre's tensors in their order."""
    if not is_url(kept):
        with safe_open(kept, framework="pt") as file:
            return checkpoints.load(kept), json.loads((file.metadata() or {}).get("names", "[]"))
    import fsspec

    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "chart.safetensors"
        with fsspec.open(kept, "rb") as remote, local.open("wb") as file:
            shutil.copyfileobj(remote, file)
        return _read(local)


def _named(tensors: weights.State, part: str) -> weights.State:
    return {name.removeprefix(f"{part}/"): tensor for name, tensor in tensors.items() if name.startswith(f"{part}/")}
