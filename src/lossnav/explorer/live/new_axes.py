"""New places: another centre, other axes through it, and the ranges along them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lossnav import charts, directions
from lossnav.errors import OptionError, SamplerError
from lossnav.evaluation.center import losses_of, probe_points
from lossnav.samplers import Grid
from lossnav.samplers.range import AutoRange, find_ranges

if TYPE_CHECKING:
    from lossnav.charts import Chart
    from lossnav.objective.objective import Objective

Array = NDArray[np.float64]

_STRAIGHT: dict[int, Any] = {1: charts.Line, 2: charts.Plane, 3: charts.Volume}
_BETWEEN = (-0.5, 1.5)  # range of the axis to another checkpoint, which lies at 1


class Departure(NamedTuple):
    """A new place, not evaluated yet.

    Attributes
    ----------
    objective : Objective
        Centred at the chart's centre.
    chart : Chart
    base : ndarray of shape (k, 2)
        The ends of each axis.
    words : str
        How the axes were chosen, for the breadcrumb.
    axes_info : dict
        ``kind``, ``seed``, ``cosines``, and for axes of the Hessian ``eigenvalues`` (each ``value`` and ``error``).
    """

    objective: Objective
    chart: Chart
    base: Array
    words: str
    axes_info: dict[str, Any]


def depart(
    objective: Objective,
    chart: Chart,
    base: Array,
    center: ArrayLike | None,
    kind: str,
    *,
    seed: int = 0,
    checkpoint: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> Departure:
    """Make the chart of a new place.

    Parameters
    ----------
    objective, chart, base
        Of the current place.
    center : array of shape (k,), optional
        Coordinates of the new centre on the current chart; None: the same centre.
    kind : "keep", "random", "gradient", "hessian" or "checkpoint"
        The new axes. Those of the Hessian belong to its largest and smallest (most negative) eigenvalues in turn. With
        the gradient or a checkpoint the remaining axes are random, drawn by the seed.
    seed : int
    checkpoint : str, optional
        A ``.safetensors`` file.
    check : callable
        Called before every batch of data while directions are computed; an exception that it raises ends that.

    Raises
    ------
    OptionError
        If the checkpoint is not a safetensors file: a request must not open a pickle.
    CheckpointError, DirectionError, ChartError
        If the direction cannot be computed.
    """
    moved = chart if center is None else chart.around(center)
    there = objective if center is None else objective.around(moved(np.zeros(len(chart.dims))))
    k, point = len(chart.dims), there.params
    there.fingerprint  # noqa: B018 - computed here, so that the copy has it
    sought = _watched(there, check)
    info: dict[str, Any] = {"kind": kind}
    if kind == "keep":
        return Departure(there, moved, base, "the same axes", info | {"cosines": moved.describe()["cosines"]})
    info["seed"] = seed
    own: tuple[Any, ...] = ()
    words = {"random": f"random axes, seed {seed}", "gradient": "along the gradient"}.get(kind, "")
    if kind == "gradient":
        own = (directions.gradient(sought),)
    elif kind == "hessian":
        own = directions.hessian(sought, n=k, which="both" if k > 1 else "largest", seed=seed, progress=False)
        info["eigenvalues"] = [{"value": d.recipe["eigenvalue"], "error": d.recipe["error"]} for d in own]
        values = ", ".join(f"{pair['value']:.3g}" for pair in info["eigenvalues"])
        words = f"along the Hessian's, λ = {values}"
    elif kind == "checkpoint":
        own, words = (_way_to(there, str(checkpoint)),), f"towards {Path(str(checkpoint)).name}"
    drawn = directions.random(there, n=k - len(own), seed=seed) if len(own) < k else ()
    made = _STRAIGHT[k](point, *own, *drawn)
    if kind != "random":
        base = _reach(sought, made, base, kind)
    return Departure(there, made, base, words, info | {"cosines": made.describe()["cosines"]})


def probes_of(chart: Chart, base: Array, seed: int = 0) -> Array:
    """Return the points at which a faster path is compared with the plain one, as for a grid with these ends."""
    axes: dict[str, Any] = {dim: (low, high, 2) for dim, (low, high) in zip(chart.dims, base.tolist(), strict=True)}
    return probe_points(Grid(**axes), seed)


def _way_to(objective: Objective, path: str) -> Any:
    """Return the direction from the centre to a checkpoint."""
    if not path.endswith(".safetensors"):
        raise OptionError(f"The explorer opens only .safetensors files, got {path}. Save the weights as one.")
    return directions.between(objective, objective.at(path))


def _reach(objective: Objective, chart: Chart, base: Array, kind: str) -> Array:
    """Return the ends of each axis, where the loss is ten times the centre's; `base` if they cannot be found."""
    try:
        found = find_ranges(chart.dims, dict.fromkeys(chart.dims, AutoRange()), losses_of(objective, chart))
    except SamplerError:  # the loss at the centre is not positive
        return base
    reach = np.array([[-found[dim]["reach"], found[dim]["reach"]] for dim in chart.dims])
    if kind == "checkpoint":
        reach[0] = _BETWEEN
    return reach


def _watched(objective: Objective, check: Callable[[], None]) -> Objective:
    """Return the objective with data that call `check` before every batch."""
    other = copy.copy(objective)
    if objective.batches is not None:
        other.batches = _InterruptibleBatches(objective.batches, check)  # type: ignore[assignment]
    return other


class _InterruptibleBatches:
    def __init__(self, batches: Any, check: Callable[[], None]) -> None:
        self._batches, self._check = batches, check

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            self._check()
            yield batch

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)
