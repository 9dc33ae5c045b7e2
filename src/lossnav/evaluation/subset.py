"""A surface of a part of the data, corrected by one of all of it at fewer points."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

from lossnav.errors import Interrupted, OptionError
from lossnav.evaluation.evaluate import evaluate
from lossnav.samplers import Grid
from lossnav.surface.control_variate import control_variate
from lossnav.surface.parts import Parts

if TYPE_CHECKING:
    import xarray as xr

if TYPE_CHECKING:
    from lossnav.charts import Chart
    from lossnav.engines import Engine
    from lossnav.objective.objective import Objective

FEWEST = 6  # points that a correction needs


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
    """Evaluate a random part of the data on a grid, all of the data on a coarse one, and correct the one by the other.

    Parameters
    ----------
    objective : Objective
        Of all the data.
    chart : Chart
    grid : Grid
        For the part of the data; of given ranges.
    subset : int or "auto"
        How many samples: see `Objective.subset`.
    control : int, Grid or None
        For all the data: so many points along each axis (n with n - 1 a divisor of the grid's steps), or a grid whose
        points the other has. None: no correction is made.
    seed : int
        Of the subset.
    store : path, optional
        Where the corrected surface is written. Until it is there the two runs are kept beside it (``run.zarr`` has a
        folder ``run.parts``), and the same call goes on from there after a stop or a kill.
    engine, overwrite, progress, on_update
        As in `evaluate`.

    Returns
    -------
    xarray.Dataset
        What `control_variate` returns; without `control` the surface of the subset.

    Raises
    ------
    OptionError
        If the two grids do not fit, the subset cannot be drawn, or too few losses are finite; in that case the
        surface of the subset is in the store.
    Interrupted
        After Ctrl-C or SIGTERM, with the surface under way, which is also in the store: that of all the data, or that
        of the subset, not corrected.

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
    with nullcontext() if store is None else Parts(store, overwrite) as parts:
        made = []
        runs = (("whole", objective, coarse, "all the data"), ("subset", None, grid, "the subset, not corrected,"))
        for name, whole, points, words in runs:
            kept = {} if parts is None else parts.options(name)
            try:
                made.append(evaluate(whole or objective.subset(subset, seed), chart, points, **kept, **options))
            except Interrupted as error:
                if parts is not None:
                    parts.save(error.partial)
                done = int((error.partial["status"] != 0).sum())
                where = "is in the .partial of this exception." if parts is None else f"is saved in {store}; "
                said = f"Stopped. The surface of {words} as far as it got, {done:,} points, {where}"
                said += "" if parts is None else "the same call goes on."
                raise Interrupted(said, error.partial, error.signal) from error
        full, few = made
        try:
            surface = control_variate(few, full)
        except OptionError as error:
            if parts is None:
                raise
            parts.save(few)
            raise OptionError(f"{error} The surface of the subset, not corrected, is saved in {store}.") from error
        if parts is not None:
            parts.save(surface)
            parts.discard()
        return surface


def coarse_grid(grid: Grid, control: int | Grid) -> Grid:
    """Return the grid for all the data: so many points along each axis of another, all of them among its own.

    Raises
    ------
    OptionError
        If they are not, or are too few for a correction.

    Examples
    --------
    >>> coarse_grid(Grid(alpha=(-1, 1, 51)), 11).points()[:3, 0].tolist()
    [-1.0, -0.8, -0.6]
    """
    if isinstance(control, Grid):
        return control
    if not isinstance(grid, Grid):
        raise OptionError(f"control={control} thins out a grid, and this is a {type(grid).__name__}. Pass a Grid.")
    lengths = {name: len(axis) for name, axis in grid.axes.items()}
    fits = set.intersection(*(set(controls_of(n, len(lengths))) for n in lengths.values()))
    if control not in fits:
        instead = f"control={min(fits)}" if fits else "a grid of 11 points along each axis and control=6"
        raise OptionError(
            f"control={control} does not fit a grid of {' x '.join(map(str, lengths.values()))} points: n points along "
            f"each axis need n - 1 that divides those steps, and {FEWEST} in all. Use {instead}."
        )
    axes: dict[str, Any] = {name: axis[:: (len(axis) - 1) // (control - 1)] for name, axis in grid.axes.items()}
    return Grid(**axes)


def controls_of(points: int, dims: int) -> list[int]:
    """How many points along an axis a coarse grid may have, for a grid of so many along each of some coordinates.

    >>> controls_of(51, 1), controls_of(51, 2)
    ([6, 11, 26, 51], [3, 6, 11, 26, 51])
    """
    return [n for n in range(2, points + 1) if n**dims >= FEWEST and (points - 1) % (n - 1) == 0]
