"""A surface of a random subset of the data, corrected by a surface of all the data at fewer points."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

from lossnav._utils.conclusion import conclude
from lossnav._utils.jsonable import jsonable
from lossnav.errors import Interrupted, OptionError
from lossnav.evaluation.evaluate import evaluate
from lossnav.evaluation.provenance import plan_of
from lossnav.samplers import Grid
from lossnav.samplers.base import description_of
from lossnav.surface.control_variate import control_variate
from lossnav.surface.parts import Parts, finished_correction
from lossnav.surface.run_identity import is_same

if TYPE_CHECKING:
    import xarray as xr

if TYPE_CHECKING:
    from lossnav.charts import Chart
    from lossnav.engines import Engine
    from lossnav.objective.objective import Objective

FEWEST = 6  # minimum number of points of a correction


def evaluate_subset(
    objective: Objective,
    chart: Chart,
    grid: Grid,
    *,
    subset: int | Literal["auto"] = "auto",
    control: int | Grid | None = None,
    seed: int = 0,
    engine: Engine | None = None,
    store: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
    on_update: Callable[[xr.Dataset], object] | None = None,
) -> xr.Dataset:
    """Evaluate a random subset of the data on a grid, and correct it by all the data on a coarse grid.

    Parameters
    ----------
    objective : Objective
        With all the data.
    chart : Chart
    grid : Grid
        For the subset; its ranges must be given.
    subset : int or "auto"
        Number of samples: see `Objective.subset`.
    control : int, Grid or None
        For all the data: points along each axis (n - 1 must divide the steps of the grid), or a grid whose points are
        all in `grid`. None: no correction.
    seed : int
        Seed of the subset.
    store : path, optional
        Where the corrected surface is written. Until then the two runs are stored beside it (in the folder
        ``run.parts`` for ``run.zarr``); the same call resumes them after a stop or a kill, and returns the surface if
        it is finished.
    engine, overwrite, progress, on_update
        As in `evaluate`.

    Returns
    -------
    xarray.Dataset
        The result of `control_variate`; without `control` the surface of the subset.

    Raises
    ------
    OptionError
        If the two grids do not fit, the subset cannot be drawn, or too few losses are finite; in the last case the
        surface of the subset is in the store.
    OutputExistsError
        If the store contains the result of another call.
    Interrupted
        After Ctrl-C or SIGTERM, with the current surface, which is also in the store: that of all the data, or the
        uncorrected one of the subset.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> x = torch.linspace(-1, 1, 200).reshape(-1, 1)
    >>> objective = ln.Objective(torch.nn.Linear(1, 1), "mse", (x, x**2))
    >>> line = ln.Line(objective.params, ln.directions.random(objective, seed=0, exclude=())[0])
    >>> surface = ln.evaluate_subset(objective, line, ln.Grid(alpha=(-1, 1, 17)), subset=40, control=9)
    >>> surface.attrs["control_variate"]["points"]
    9
    """
    options: dict[str, Any] = {"engine": engine, "progress": progress, "on_update": on_update}
    if control is None:
        part = objective.subset(subset, seed)
        return evaluate(part, chart, grid, store=store, overwrite=overwrite, **options)
    coarse = coarse_grid(grid, control)
    if store is not None and not overwrite and (there := finished_correction(store)) is not None:
        by = description_of(coarse)
        plan = plan_of(objective.subset(subset, seed), chart, grid, engine)
        if is_same(there.attrs, plan) and there.attrs["control_variate"]["sampler"] == jsonable(by):
            return there
    with nullcontext() if store is None else Parts(store, overwrite) as parts:
        made = []
        runs = (("whole", objective, coarse, "all the data"), ("subset", None, grid, "the subset, not corrected"))
        for name, whole, points, words in runs:
            stores = {} if parts is None else parts.options(name)
            try:
                made.append(evaluate(whole or objective.subset(subset, seed), chart, points, **stores, **options))
            except Interrupted as error:
                if parts is not None:
                    parts.save(error.partial)
                done = int((error.partial["status"] != 0).sum())
                where = "is in the .partial of this exception."
                where = where if parts is None else f"is stored in {store}; the same call resumes it."
                kept = f"The surface so far {where}"
                conclude(error.partial, error.signal, f"{done:,} points with {words}", kept=kept)
        full, few = made
        try:
            surface = control_variate(few, full)
        except OptionError as error:
            if parts is None:
                raise
            parts.save(few)
            raise OptionError(f"{error} The uncorrected surface of the subset is stored in {store}.") from error
        if parts is not None:
            parts.save(surface)
            parts.discard()
        return surface


def coarse_grid(grid: Grid, control: int | Grid) -> Grid:
    """Return the grid for all the data, whose points are all in `grid`, with `control` points along each axis.

    Raises
    ------
    OptionError
        If there is no such grid, or it has too few points for a correction.

    Examples
    --------
    >>> coarse_grid(Grid(alpha=(-1, 1, 51)), 11).points()[:3, 0].tolist()
    [-1.0, -0.8, -0.6]
    """
    if isinstance(control, Grid):
        return control
    if not isinstance(grid, Grid):
        raise OptionError(
            f"control={control} needs a Grid to take points from, got {type(grid).__name__}. Pass a Grid."
        )
    lengths = {name: len(axis) for name, axis in grid.axes.items()}
    fits = set.intersection(*(set(controls_of(n, len(lengths))) for n in lengths.values()))
    if control not in fits:
        instead = f"control={min(fits)}" if fits else "a grid of 11 points along each axis and control=6"
        raise OptionError(
            f"control={control} does not fit a grid of {' x '.join(map(str, lengths.values()))} points: "
            "control - 1 must "
            f"divide the number of steps along each axis, and there must be {FEWEST} points in all. Use {instead}."
        )
    axes: dict[str, Any] = {name: axis[:: (len(axis) - 1) // (control - 1)] for name, axis in grid.axes.items()}
    return Grid(**axes)


def controls_of(points: int, dims: int) -> list[int]:
    """Return the numbers of points along each axis that a coarse grid may have, for a grid of so many points.

    >>> controls_of(51, 1), controls_of(51, 2)
    ([6, 11, 26, 51], [3, 6, 11, 26, 51])
    """
    return [n for n in range(2, points + 1) if n**dims >= FEWEST and (points - 1) % (n - 1) == 0]
