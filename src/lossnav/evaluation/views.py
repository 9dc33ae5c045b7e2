"""From the options of the command line to a view: an objective, a chart around it, and the ends of each axis."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lossnav import charts, directions, samplers
from lossnav.charts import Chart, Curve, DirectedChart, Mixture
from lossnav.checkpoints.weights import Missing
from lossnav.errors import OptionError
from lossnav.evaluation.trajectory import project
from lossnav.objective.objective import Objective
from lossnav.specs.objective_of import at_the_end
from lossnav.trajectory.recorder import Trajectory

_STRAIGHT = ("line", "plane", "volume")  # by their number of coordinates
_INSIDE = 0.85  # maximum fraction of the steps of a grid that lie between checkpoints


@dataclass(frozen=True, eq=False)
class View:
    """An objective and a chart around it.

    Attributes
    ----------
    objective : Objective
        At the centre of the chart. Its ``origin`` says how to make the chart, if the recipe of the chart does not.
    chart : Chart
    places : dict of str to list of float
        For a chart through checkpoints, the coordinates of each file.
    trajectory : Trajectory or None
        The training run that is drawn on the chart.
    """

    objective: Objective
    chart: Chart
    places: dict[str, list[float]] = field(default_factory=dict)
    trajectory: Trajectory | None = None

    def ends(self, n: int) -> dict[str, tuple[float, float]] | None:
        """Return the ends of each axis for a grid of n points, around checkpoints or the training run, if any.

        The outermost checkpoints lie on points of the grid, those at 0 and 1 exactly.
        """
        dims = self.chart.dims
        if isinstance(self.chart, Mixture):  # what lies beyond its ends was neither trained nor is between networks
            return dict.fromkeys(dims, (0.0, 1.0))
        if self.places:
            columns = zip(*[[0.0] * len(dims), *self.places.values()], strict=True)
            return {dim: _around(min(column), max(column), n) for dim, column in zip(dims, columns, strict=True)}
        if self.trajectory is not None:
            path = project(self.trajectory, self.chart)
            box = samplers.Grid.around({dim: path[dim].values for dim in dims}, n).box
            return {dim: (float(low), float(high)) for dim, (low, high) in zip(dims, box, strict=True)}
        return None


def _around(low: float, high: float, n: int) -> tuple[float, float]:
    """Return the ends of an axis of n points that has both numbers, a power of two steps apart, so 0 and 1 are exact.

    >>> _around(0.0, 1.0, 51)
    (-0.28125, 1.28125)
    """
    steps = n - 1
    inside = 1
    while 2 * inside <= max(1.0, _INSIDE * steps):
        inside *= 2
    before = (steps - inside) // 2
    step = (high - low) / inside
    return low - before * step, high + (steps - inside - before) * step


def view_of(
    objective: Objective,
    chart: str | None = None,
    *,
    kinds: Sequence[str] = (),
    to: Sequence[str | os.PathLike[str]] = (),
    trajectory: str | os.PathLike[str] | None = None,
    normalize: str | None = None,
    distribution: str | None = None,
    exclude: Sequence[str] | None = None,
    seed: int = 0,
    missing_buffers: Missing = "refuse",
) -> View:
    """Make a view of an objective from options.

    Parameters
    ----------
    objective : Objective
    chart : str, optional
        A word of `charts_by_word`. Default: a plane; with `to`, the chart that they span; along a gradient, a line.
    kinds : sequence of str
        Kinds of directions: "random" (default), "hessian", "gradient" or "pca"; one for all axes, or one for each.
    to : sequence of paths
        Checkpoints that the chart passes through, starting at the objective's own weights.
    trajectory : path, optional
        A recorded training run: gives the "pca" directions, and is drawn on the chart.
    normalize, distribution, exclude, seed
        For random directions, as in `directions.random` (``"none"`` for None); `exclude` for others too.
    missing_buffers : "refuse" or "keep"
        What to do if a checkpoint of `to` lacks buffers.

    Raises
    ------
    OptionError
        If the options do not fit together.
    CheckpointError, DirectionError, NotATrajectoryError
        If a chart cannot be made of them.

    Examples
    --------
    >>> import torch
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.tensor([1.0, 2.0])})
    >>> view_of(bowl, kinds=["gradient"]).chart.dims
    ('alpha',)
    """
    if to:
        if normalize or distribution or exclude is not None:
            raise OptionError(
                "--normalize, --distribution and --exclude are for random directions, "
                "not for those between checkpoints. "
                "Leave them out."
            )
        return _through(objective, chart, list(to), kinds, trajectory, missing_buffers)
    names, kind = list(kinds) or ["random"], kind_of(chart, kinds)
    made_by, known = charts_by_word()[kind], directions.kinds()
    dims, draw = made_by.dims, charts.kinds()[made_by.__name__].draw
    wanted = names * len(dims) if len(names) == 1 else names
    if len(wanted) != len(dims):
        raise OptionError(
            f"A {kind} has {len(dims)} axes, and {len(names)} kinds of directions are named: {', '.join(names)}. Name "
            "one for all axes, or one for each."
        )
    counts = Counter(wanted)
    if alone := [name for name in counts if counts[name] > 1 and name != "pca" and not known[name].several]:
        raise OptionError(
            f"There is one {alone[0]}, and a {kind} has {len(dims)} axes. Use --chart line, or name a kind for each: "
            f"--directions {alone[0]} --directions random."
        )
    rescaled = bool(draw)
    if trajectory is not None and rescaled:
        raise OptionError(
            f"A training run is drawn on a line, plane or volume, not on a {kind}. Choose another --chart."
        )
    run = None if trajectory is None else Trajectory.open(trajectory)
    if counts["pca"] and run is None:
        raise OptionError("pca needs a recorded training run. Add --trajectory FOLDER, which ln.Trajectory wrote.")
    center: Any = objective.params
    made: dict[str, list[Any]] = {}
    left_out: dict[str, Any] = {} if exclude is None else {"exclude": list(exclude)}
    if counts["pca"] and run is not None:
        objective = at_the_end(objective, run, missing_buffers)
        components = directions.pca(run, counts["pca"], device=objective.device, **left_out)
        made["pca"], center = list(components), objective.params
    if counts["random"]:
        drawing: dict[str, Any] = {"normalize": "filter", "distribution": "normal", **draw, "seed": seed, **left_out}
        if normalize:
            drawing["normalize"] = None if normalize == "none" else normalize
        drawing |= {"distribution": distribution} if distribution else {}
        made["random"] = list(directions.random(objective, n=counts["random"], **drawing))
    elif normalize is not None or distribution is not None:
        raise OptionError(
            f"--normalize and --distribution are for random directions, but these are {', '.join(counts)}. Leave "
            "them out."
        )
    for name in counts.keys() - {"pca", "random"}:
        given = {"n": counts[name], "seed": seed, **left_out}
        make = known[name].make
        assert make is not None  # kinds on the command line are made from an objective
        found = make(objective, **{key: given[key] for key in known[name].options if key in given})
        made[name] = list(found) if isinstance(found, tuple) else [found]
    along = [made[name].pop(0) for name in wanted]
    again: dict[str, Any] = {}
    if counts["pca"]:
        again = {"chart": kind, "kinds": names, "trajectory": _absolute(trajectory), "seed": seed, **left_out}
        again |= {"normalize": normalize, "distribution": distribution, "missing_buffers": missing_buffers}
        objective.origin = None if objective.origin is None else {**objective.origin, "view": again}
    return View(objective, made_by(center, *along), trajectory=run)


def charts_by_word() -> dict[str, type[DirectedChart]]:
    """Return the registered charts that take a centre and directions, by their words on the command line.

    Examples
    --------
    >>> charts_by_word()["plane"].dims
    ('alpha', 'beta')
    """
    known = charts.kinds().values()
    return {kind.word: kind.chart for kind in known if kind.word and issubclass(kind.chart, DirectedChart)}


def mixtures_by_word() -> dict[str, type[Mixture]]:
    """Return the registered charts of which checkpoints are the control points, by their words on the command line.

    Examples
    --------
    >>> sorted(mixtures_by_word())
    ['bezier', 'chain', 'simplex']
    """
    known = charts.kinds().values()
    return {kind.word: kind.chart for kind in known if kind.word and issubclass(kind.chart, Mixture)}


def dims_of(kind: str, to: Sequence[Any] = ()) -> tuple[str, ...]:
    """Return the coordinates of a chart by its word and its checkpoints, before it is made.

    Examples
    --------
    >>> dims_of("plane"), dims_of("chain", ["b.pt", "c.pt"]), dims_of("simplex", ["b.pt", "c.pt"])
    (('alpha', 'beta'), ('t',), ('w1', 'w2'))
    """
    if kind not in (mixed := mixtures_by_word()):
        return charts_by_word()[kind].dims
    return mixed[kind].dims if issubclass(mixed[kind], Curve) else tuple(f"w{i}" for i in range(1, len(to) + 1))


def knows(chart: str | None, kinds: Sequence[str] = ()) -> bool:
    """Return whether the words for a chart and directions are registered; those of a SPEC are once it is loaded.

    Examples
    --------
    >>> knows("plane", ["random"]), knows("spiral")
    (True, False)
    """
    known = _directions_on_command_line()
    return (chart is None or chart in charts_by_word() | mixtures_by_word()) and all(name in known for name in kinds)


def _directions_on_command_line() -> list[str]:
    return sorted(name for name, kind in directions.kinds().items() if kind.on_command_line)


def kind_of(chart: str | None, kinds: Sequence[str] = (), to: Sequence[Any] = ()) -> str:
    """Return the word of the chart, before anything is made.

    Raises
    ------
    OptionError
        If a kind of directions or the chart is unknown, or does not fit the number of checkpoints.

    Examples
    --------
    >>> kind_of(None), kind_of(None, ["gradient"]), kind_of(None, to=["a.pt", "b.pt"])
    ('plane', 'line', 'plane')
    """
    known = _directions_on_command_line()
    if unknown := [name for name in kinds if name not in known]:
        raise OptionError(f"Directions {unknown[0]!r} are unknown. Use {', '.join(known[:-1])} or {known[-1]}.")
    mixed = mixtures_by_word()
    if chart is not None and chart not in (words := charts_by_word() | mixed):
        raise OptionError(f"There is no chart {chart!r}. Use {', '.join(words)}.")
    if chart in mixed:
        if not to:
            raise OptionError(
                f"A {chart} has checkpoints as its control points, the SPEC's own weights first. Name the others in "
                "order, each with --to."
            )
        if len(to) > len(_STRAIGHT) and not issubclass(mixed[chart], Curve):
            raise OptionError(f"A {chart} of {len(to) + 1} networks has no picture. Pass up to three --to.")
        return chart
    if not to:
        several = _STRAIGHT[min(len(kinds), 3) - 1] if len(kinds) > 1 else "plane"
        return chart or ("line" if list(kinds) == ["gradient"] else several)
    if len(to) > len(_STRAIGHT):
        raise OptionError(f"{len(to)} checkpoints beside the first span more than a volume. Pass up to three of them.")
    kind = _STRAIGHT[len(to) - 1]
    if chart not in (None, kind):
        raise OptionError(
            f"{len(to)} checkpoint(s) beside the first span a {kind}, not a {chart}. Leave out --chart, or pass "
            "another number of --to."
        )
    return kind


def _through(
    objective: Objective, chart: str | None, to: list[Any], kinds: Sequence[str], trajectory: Any, missing: Missing
) -> View:
    """Make a view with a chart through the objective's own weights and those of files."""
    kind = kind_of(chart, to=to)
    if kinds:
        raise OptionError("A chart through checkpoints has its own directions. Leave out --directions.")
    names = _names([os.fspath(path) for path in to])
    ends = to if missing == "refuse" else [objective.at(path, missing) for path in to]
    again: dict[str, Any] = {"to": [_absolute(path) for path in to], "missing_buffers": missing}
    run = None if trajectory is None else Trajectory.open(trajectory)
    if kind in (mixed := mixtures_by_word()):
        again["chart"] = kind
        made: Chart = mixed[kind](objective, *ends)
        known = dict(zip([*made.points][1:], names, strict=True))
        places = {known[point]: list(place) for point, place in made.places().items() if point in known}
        return View(_remembering(objective, again), made, places, run)
    if len(ends) == 1:
        found: tuple[Any, ...] = (directions.between(objective, ends[0]),)
        coordinates: list[list[float]] = [[1.0]]
    else:
        found = directions.through(objective, *ends)
        coordinates = [list(map(float, place)) for place in found[0].recipe["places"][1:]]
    places = dict(zip(names, coordinates, strict=True))
    return View(_remembering(objective, again), charts_by_word()[kind](objective, *found), places, run)


def _remembering(objective: Objective, view: Mapping[str, Any]) -> Objective:
    """Return the objective; where it has a SPEC, its origin says how the chart is made."""
    if objective.origin is not None:
        objective = copy.copy(objective)
        objective.origin = {**(objective.origin or {}), "view": dict(view)}
    return objective


def _names(paths: Sequence[str]) -> list[str]:
    """Return the paths; raise if one occurs twice."""
    if twice := [path for path, count in Counter(paths).items() if count > 1]:
        raise OptionError(f"{twice[0]} is named twice, but a chart passes through different checkpoints. Name it once.")
    return list(paths)


def _absolute(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.path.abspath(os.path.expanduser(os.fspath(path)))


def again(objective: Objective, description: Mapping[str, Any]) -> View:
    """Make a view from its stored description."""
    return view_of(objective, **description)
