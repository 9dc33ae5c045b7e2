"""A training run on a chart: the projection of each snapshot, its distance, and the losses at both.

A picture of a path on a plane shows its projection. What the projection leaves out is measured here: the distance of
each snapshot from the plane, and the loss at the snapshot beside that at its projection, which the surface shows.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lossnav import params as algebra
from lossnav._utils import jsonable, lazy_import, random_state, turns
from lossnav._utils.paths import TRAJECTORY_SCHEMA, Location, name_of
from lossnav._utils.progress import Progress, track
from lossnav._utils.signals import StopRequests
from lossnav._utils.validation import require
from lossnav._version import __version__
from lossnav.charts import Chart, meet
from lossnav.directions import lazy as lazily
from lossnav.engines import Engine, Local
from lossnav.errors import (
    LossnavWarning,
    NotATrajectoryError,
    OptionError,
    PlanMismatchError,
    StructureMismatchError,
)
from lossnav.objective.networks import End, network_of
from lossnav.objective.objective import Objective
from lossnav.params import Params
from lossnav.surface import assemble, seeds, variables, zarr_io
from lossnav.surface.groups import TRAJECTORY, TRAJECTORY_VERSION, open_trajectory, save_group
from lossnav.surface.run_record import RunRecord
from lossnav.trajectory.recorder import Trajectory

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazy_import.lazily("xarray")

BUFFERS = ("snapshot", "objective")

_NAMES = ("snapshot", "step", "epoch", "training_loss", "residual", "distance")
_SAVE_SECONDS = 10.0  # between two writes of a path that is being evaluated


def project(trajectory: Trajectory | End | Sequence[End], chart: Chart, *, progress: bool | None = None) -> xr.Dataset:
    """Project every snapshot of a trajectory, or networks, on an affine chart.

    Only one snapshot at a time is in memory.

    Parameters
    ----------
    trajectory : Trajectory; or Objective, nn.Module, path or dict of str to Tensor; or a sequence of these
        It must have the chart's tensors. Of several networks, such as points of a curve, each is a snapshot. Pictures
        take the result as a mark: ``ln.plot.contour(surface, marks={"bend": ln.project(bend, plane)})``.
    chart : Line, Plane or Volume
    progress : bool or None
        See `Progress`.

    Returns
    -------
    xarray.Dataset
        With the dim ``snapshot``: the coordinates of the closest point of the chart (``alpha``, ``beta``, in units of
        each direction's length), ``residual`` (distance of the snapshot from that point, in units of weights),
        ``distance`` (of the snapshot from the chart's centre), ``step``, and if recorded ``epoch`` and
        ``training_loss``.

    Raises
    ------
    ChartError
        If the chart is not affine.
    StructureMismatchError
        If the trajectory lacks a tensor of the chart, or it has another shape.
    MissingSnapshotError
        If a snapshot cannot be read.

    Examples
    --------
    >>> import tempfile, torch, lossnav as ln
    >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
    >>> _ = model.weight.copy_(torch.tensor([[3.0, 4.0]]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     trajectory = ln.Trajectory(model, store=f"{folder}/run")
    ...     line = ln.Line({"weight": torch.zeros(1, 2)}, {"weight": torch.tensor([[1.0, 0.0]])})
    ...     path = project(trajectory, line)
    >>> float(path["alpha"][0]), float(path["residual"][0]), float(path["distance"][0])
    (3.0, 4.0, 5.0)
    """
    require(chart, "chart")
    gram = lazily.gram(chart.basis)
    if isinstance(trajectory, Mapping | str | os.PathLike | nn.Module | Objective):
        trajectory = [trajectory]
    if isinstance(trajectory, list | tuple):
        return _projected(_networks(trajectory, chart), chart, gram, np.arange(len(trajectory)))
    require(trajectory, "trajectory")
    assert not isinstance(trajectory, Sequence)
    _require_tensors(trajectory, chart.center, "the chart")
    frozen = not chart.center.keys() <= trajectory.structure.keys()
    numbers = track(range(len(trajectory)), "project", "snapshots", progress)
    path = _projected(
        (trajectory.state(i) if frozen else trajectory[i] for i in numbers), chart, gram, trajectory.steps
    )
    for name, marks in (("epoch", trajectory.epochs), ("training_loss", trajectory.losses)):
        if not np.isnan(marks).all():
            path[name] = ("snapshot", marks)
    return _described(path.set_coords([name for name in ("epoch",) if name in path]))


def _networks(ends: Sequence[Any], chart: Chart) -> Iterator[Params]:
    """The chart's tensors of each of some networks."""
    for end in ends:
        network = network_of(end)
        state = network.params | network.held | network.buffers
        own = {name: tensor for name, tensor in state.items() if name in chart.center}
        if difference := algebra.first_difference(own, chart.center):
            raise StructureMismatchError(
                f"{network.source} and the chart differ at {difference}. Pass a network with the names and shapes of "
                "the chart's centre."
            )
        yield state


def _projected(points: Iterable[Params], chart: Chart, gram: NDArray[np.float64], steps: Any) -> xr.Dataset:
    """Project points of weight space, one snapshot each."""
    places, residuals, distances = [], [], []
    for params in points:
        here = {name: params[name].to(tensor.device) for name, tensor in chart.center.items()}
        coords, residual = chart.project(here)
        places.append(coords)
        residuals.append(residual)
        distances.append(math.sqrt(residual**2 + coords @ gram @ coords))
    coordinates = np.array(places).reshape(-1, len(chart.dims))
    path = xr.Dataset(
        {"residual": ("snapshot", np.array(residuals)), "distance": ("snapshot", np.array(distances))},
        coords={
            "step": ("snapshot", steps),
            **{dim: ("snapshot", coordinates[:, i]) for i, dim in enumerate(chart.dims)},
        },
    )
    path.attrs = {
        "schema": TRAJECTORY_SCHEMA,
        "schema_version": TRAJECTORY_VERSION,
        "lossnav_version": __version__,
        "chart": jsonable.jsonable(chart.describe()),
    }
    return _described(path)


def evaluate_trajectory(
    objective: Objective,
    chart: Chart,
    trajectory: Trajectory,
    *,
    buffers: Literal["snapshot", "objective"] = "snapshot",
    engine: Engine | None = None,
    store: Location | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> xr.Dataset:
    """Project a trajectory on a chart, and evaluate the objective at every snapshot and at its projection.

    ``loss`` is the loss at the snapshot; ``loss_projected`` is the loss at its projection, which the surface over this
    chart shows. The picture of the path on the surface does not show their difference.

    Parameters
    ----------
    objective : Objective
    chart : Line, Plane or Volume
    trajectory : Trajectory
    buffers : "snapshot" or "objective"
        Which buffers (running statistics of BatchNorm) the loss *at the snapshot* uses. ``snapshot``: those recorded
        with it, so that with ``bn="frozen"`` it is the loss of the network at that time. ``objective``: those of the
        objective, as at every point of the surface, so that the difference from ``loss_projected`` is due to the
        weights alone. Projections use the buffers of their point on the chart (`Chart.buffers`), which without
        checkpoints on the chart are the objective's. Recorded in the attributes. For buffers that are not recorded
        (``persistent=False``) the objective's are used.
    engine : Engine, optional
        Default ``Local(plan="plain")``; points outside a chart have no faster path. Worker processes must have access
        to the trajectory's folder.
    store : path, fsspec URL or zarr store, optional
        Store of a surface on the same chart, of the same objective. The path is written to its group ``trajectory``
        repeatedly. The same call evaluates the snapshots that are missing there or failed.
    overwrite : bool
        Whether to replace an existing path.
    progress : bool or None
        See `Progress`.

    Returns
    -------
    xarray.Dataset
        The result of `project`, with ``loss``, its standard error and metrics at the snapshots, the same at the
        projections (``loss_projected``, …), and ``status`` as in a surface (docs/schema.md).

    Raises
    ------
    As `project` does, and:
    OptionError
        If `buffers` is unknown, or a metric has the name of another variable of the path.
    NotASurfaceError, PlanMismatchError
        If the store is not a surface, or has another chart or objective, or a path with other options.
    EvaluationError
        If every snapshot raised an error; if only some did, there is a `PointsFailedWarning`.
    Interrupted
        After Ctrl-C or SIGTERM, with the path so far in ``.partial``; it is also in the store.
    StoreError
        If the store cannot be written, with the path in ``.surface``.

    Examples
    --------
    >>> import tempfile, torch, lossnav as ln
    >>> model = torch.nn.Linear(2, 1, bias=False).requires_grad_(False)
    >>> _ = model.weight.fill_(0.0)
    >>> with ln.Trajectory(model, store=tempfile.mkdtemp() + "/run") as trajectory:
    ...     for value in (1.0, 2.0):
    ...         _ = model.weight.fill_(value)
    ...         trajectory.step()
    >>> objective = ln.Objective(model, "mse", (torch.ones(4, 2), torch.zeros(4, 1)), params="all")
    >>> line = ln.Line(objective.params, {"weight": torch.ones(1, 2)})
    >>> path = ln.evaluate_trajectory(objective, line, trajectory)
    >>> path["loss"].values.tolist(), path["alpha"].values.tolist()
    ([0.0, 4.0, 16.0], [-2.0, -1.0, 0.0])
    """
    require(objective, "objective")
    require(chart, "chart")
    require(trajectory, "trajectory")
    if buffers not in BUFFERS:
        raise OptionError(f"buffers must be 'snapshot' or 'objective', got {buffers!r}. The default is 'snapshot'.")
    if taken := set(objective.metrics) & {*chart.dims, *_NAMES}:
        raise OptionError(
            f"A metric and a variable of the path have the same name, {taken.pop()!r}. Rename the metric."
        )
    objective, chart = meet(objective, chart)
    objective.require_same_structure(chart.center, "the chart's centre")
    _require_tensors(trajectory, objective.params, "the objective")
    if buffers == "snapshot" and (lacking := objective.anatomy.missing(trajectory.buffers)):
        warnings.warn(
            f"The trajectory lacks the buffers {', '.join(lacking)} of {objective.name}, so the loss of every snapshot "
            "uses those of the objective. If training changes them, it is not the loss of the network at that time.",
            LossnavWarning,
            stacklevel=2,
        )
    surface = None if store is None else zarr_io.open_surface(store)
    path = project(trajectory, chart, progress=progress)
    made_of = {"objective": objective.describe(), "buffers": buffers}
    path.attrs |= jsonable.jsonable(made_of)
    if surface is not None:
        _require_same(surface, path, f"{name_of(store)} contains a surface of something else")
    record = _PathRecord(path)
    if store is not None and not overwrite:
        record.know(store)
    engine = engine or Local(plan="plain")
    places = np.stack([path[dim].values for dim in chart.dims], axis=1)
    function = _AtSnapshot(objective, chart, trajectory, places, buffers == "snapshot")
    points = np.setdiff1d(np.arange(len(trajectory), dtype=np.float64), record.rows.points)[:, None]
    saved = time.monotonic()
    with random_state.preserved(device=objective.device), StopRequests() as stop:
        try:
            with Progress("evaluate trajectory", len(points), "snapshots", progress) as bar:
                prepared = engine.prepare(function, points[:1], len(points)) if len(points) else function
                for outcome in engine.run(prepared, points) if len(points) else ():
                    record.add(points[outcome.number], outcome.values, outcome.error)
                    bar.advance()
                    if stop.signal is not None:
                        engine.stop()
                    elif store is not None and time.monotonic() - saved > _SAVE_SECONDS:
                        save_group(record.dataset(), store, TRAJECTORY)
                        saved = time.monotonic()
        except KeyboardInterrupt:  # the second Ctrl-C, or one outside the main thread
            stop.signal = stop.signal or 2
        finally:
            engine.close()
    made = record.dataset()
    if store is not None:
        save_group(made, store, TRAJECTORY)
    if stop.signal is not None:
        place = "" if store is None else name_of(store)
        raise record.stopped(made, stop.signal, f"{len(trajectory):,}", place)
    record.require_a_value()
    record.warn()
    return made


class _AtSnapshot:
    """Maps the number of a snapshot to loss and metrics at the snapshot and at its projection."""

    def __init__(
        self,
        objective: Objective,
        chart: Chart,
        trajectory: Trajectory,
        places: NDArray[np.float64],  # (m, k): of the projections
        own_buffers: bool,
    ) -> None:
        self.objective, self.chart, self.trajectory = objective, chart, trajectory
        self.places, self.own_buffers = places, own_buffers

    def __call__(self, point: NDArray[np.float64]) -> Mapping[str, float]:
        number = int(point[0])
        if self.own_buffers:
            with turns.hiding(LossnavWarning):  # the warning about missing buffers was given once
                here = self.objective.at(self.trajectory.state(number), missing="keep")
        else:
            state = self.trajectory.state(number)
            here = self.objective.around({name: state[name] for name in self.objective.params})
        values = here.evaluate(here.params)
        shadow = self.objective.evaluate(self.chart(self.places[number]))
        return values | {f"{name}_projected": value for name, value in shadow.items()}


class _PathRecord(RunRecord):
    """The record of a path: values at its snapshots by their numbers, and their coordinates."""

    what = "snapshots"
    hint = "Call objective.evaluate(trajectory[0]) to see where it comes from."

    def __init__(self, projected: xr.Dataset) -> None:
        self.projected = projected
        numbers = np.arange(projected.sizes["snapshot"], dtype=np.float64)
        super().__init__(("snapshot",), projected.attrs, axes={"snapshot": numbers})

    def place_words(self, point: Sequence[float]) -> str:
        """Return the name of a snapshot: its step."""
        return f"step {int(self.projected['step'][int(point[0])])}"

    def attributes(self, interrupted: bool = False) -> dict[str, Any]:
        """Return the attributes, with the failures of the evaluation (docs/schema.md)."""
        return {**self.projected.attrs, "failures": self.errors[: seeds.FAILURES_KEPT]}

    def dataset(self, interrupted: bool = False) -> xr.Dataset:
        """Return the path with the values so far."""
        values = assemble.arrays_of(self.dims, self.axes, self.rows).drop_vars("snapshot")
        return _described(self.projected.assign(values.data_vars).assign_attrs(self.attributes()))

    def know(self, store: Location) -> None:
        """Reuse the values of the same snapshots in the store's group.

        Raises
        ------
        PlanMismatchError
            If that path has another chart, objective or option.
        """
        try:
            there = open_trajectory(store)
        except NotATrajectoryError:
            return
        _require_same(there, self.projected, f"{name_of(store)} contains a trajectory of something else", "buffers")
        mine = [str(name) for name in ("step", *self.projected.attrs["chart"]["dims"], "residual")]
        rows = {tuple(row): i for i, row in enumerate(np.stack([there[name].values for name in mine], 1).tolist())}
        names = [str(name) for name in there.data_vars if name not in (*self.projected.data_vars, "status")]
        for number, row in enumerate(np.stack([self.projected[name].values for name in mine], 1).tolist()):
            i = rows.get(tuple(row))
            if i is not None and there["status"].values[i] not in (variables.NOT_EVALUATED, variables.FAILED):
                self.add_known([number], {name: float(there[name].values[i]) for name in names})


def _require_same(there: xr.Dataset, path: xr.Dataset, what: str, *options: str) -> None:
    """Raise if a stored surface or path has another chart or objective than this path."""
    was, now = there.attrs, path.attrs
    different = [key for key in ("chart", *options) if was.get(key) != now[key]]
    if was.get("objective", {}).get("fingerprint") != now["objective"]["fingerprint"]:
        different.append("objective")
    if different:
        raise PlanMismatchError(
            f"{what}: another {' and '.join(different)}. Pass the same objective and chart, or leave out store=; "
            "overwrite=True replaces a trajectory."
        )


def _require_tensors(trajectory: Trajectory, wanted: Params, what: str) -> None:
    structure = trajectory.structure | trajectory.held
    if difference := algebra.first_difference({n: t for n, t in structure.items() if n in wanted}, wanted):
        raise StructureMismatchError(
            f"The trajectory and {what} differ at {difference}. Use the same model for both, and record the parameters "
            "that the objective moves (params=)."
        )


def _described(path: xr.Dataset) -> xr.Dataset:
    """Give every variable its description and unit, as in surfaces."""
    variables.describe_variables(path)
    meanings = {
        "step": ("training steps", "1"),
        "epoch": ("epoch, as recorded", "1"),
        "training_loss": ("training loss, as recorded", "1"),
        "residual": ("distance of the snapshot from its projection", "units of weights"),
        "distance": ("distance of the snapshot from the centre of the chart", "units of weights"),
    }
    for name, (meaning, unit) in meanings.items():
        if name in path:
            path[name].attrs = {"long_name": meaning, "units": unit}
    for variable in map(str, path.data_vars):
        if variable.endswith("_projected"):
            of = path[variable.removesuffix("_projected")].attrs
            path[variable].attrs = of | {"long_name": f"{of['long_name']}, at the projection on the chart"}
    return path
