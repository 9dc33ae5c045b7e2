"""The same picture along other random directions, to tell what is there from what was drawn."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from lossnav import rng
from lossnav.charts import Chart
from lossnav.errors import EvaluationError, Interrupted, OptionError, PointsFailedWarning
from lossnav.evaluation import evaluate, losses_of, require_fit
from lossnav.files import Parts
from lossnav.nouns import described, require
from lossnav.objective import Objective
from lossnav.samplers import Sampler
from lossnav.surface import FAILED, join_seeds, jsonable, save_surface


def ensemble(
    objective: Objective,
    chart_of: Callable[[int], Chart],
    sampler: Sampler,
    seeds: Iterable[int] = range(10),
    *,
    store: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> xr.Dataset:
    """Evaluate one chart a seed, and join the surfaces along a dim ``seed``.

    Parameters
    ----------
    objective : Objective
    chart_of : callable
        From a seed to a chart, such as ``lambda seed: ln.Line(center, *ln.directions.random(objective, seed=seed))``.
    sampler : Sampler
        Of points that lie on no grid the interpolated grids are joined. An automatic range is the same for all seeds:
        along each coordinate the largest that one of them finds.
    seeds : iterable of int
    store : path, optional
        Where the surface is written. Until all seeds are there, each is kept beside it as it goes (``band.zarr`` has
        a folder ``band.parts``), and the same call goes on from there after a stop or a kill.
    overwrite : bool
        Whether what is there is replaced.
    **options
        What else `evaluate` takes.

    Returns
    -------
    xarray.Dataset
        A surface whose first dim is ``seed``: ``lossnav.seed(3)`` is the surface of one of them with its own chart
        (``sel(seed=3)`` has its values), ``lossnav.over_seeds()`` their mean with ``loss_sd``, the standard deviation
        over the seeds. ``attrs["ensemble"]`` holds every chart. A seed of which every point raised is there with
        status 3, with a `PointsFailedWarning`.

    Raises
    ------
    OptionError
        If there is no seed, or the charts differ in their coordinates.
    Interrupted
        After Ctrl-C, with the seeds that are complete; within the first, with what there is of it.
    EvaluationError
        If every point of every seed raised.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)
    >>> objective = ln.Objective(model, "mse", (x, x[:, :1]))
    >>> lines = lambda seed: ln.Line(objective.params, *ln.directions.random(objective, n=1, seed=seed))
    >>> ln.ensemble(objective, lines, ln.Grid(alpha=(-1, 1, 5)), seeds=range(3)).sizes["seed"]
    3
    """
    require(objective, "objective")
    require(sampler, "sampler")
    if not callable(chart_of) or hasattr(chart_of, "fitted"):
        raise OptionError(
            f"An ensemble makes a chart of every seed, and was given {described(chart_of)}. Pass a function of it: "
            "lambda seed: ln.Line(objective.params, *ln.directions.random(objective, seed=seed))."
        )
    if not isinstance(seeds, Iterable):
        raise OptionError(f"The seeds are {described(seeds)}. Pass several: seeds=range(10).")
    chosen = [int(seed) for seed in seeds]
    if not chosen or len(set(chosen)) != len(chosen):
        raise OptionError("Each seed is needed once, and one at least. Pass seeds=range(10).")
    parts = None if store is None else Parts(store, overwrite)
    if parts and options.get("save_directions"):
        raise OptionError("An ensemble keeps the recipes of its directions. Leave out save_directions=True.")
    if options.get("keep_samples"):
        raise OptionError(
            "An ensemble joins the grids of its seeds, without the losses of single samples. Leave out "
            "keep_samples=True, or evaluate one seed with it."
        )
    sampler = _settled_for_all(objective, chart_of, sampler, chosen)
    surfaces: dict[int, xr.Dataset] = {}
    failed: dict[int, tuple[Chart, EvaluationError]] = {}
    stopped: Interrupted | None = None
    for seed in chosen:
        chart = chart_of(seed)
        try:
            kept = parts.options(f"seed-{seed}") if parts else {}
            surfaces[seed] = evaluate(objective, chart, sampler, **kept, **options)
        except EvaluationError as error:
            failed[seed] = chart, error
        except KeyboardInterrupt as error:  # an Interrupted, or one before there was anything
            stopped = error if isinstance(error, Interrupted) else Interrupted("Stopped before the first point.")
            if not surfaces and stopped.surface is not None:
                surfaces[seed] = stopped.surface
            break
    if not surfaces:
        raise stopped or next(iter(failed.values()))[1]
    joined = _joined(chosen, surfaces, failed)
    if parts:
        save_surface(joined, parts.target, overwrite=parts.overwrite)
        if stopped is None:
            parts.discard()
    if failed:
        others = [seed for seed in chosen if seed in surfaces]
        warnings.warn(
            f"Every point of seed {', '.join(map(str, failed))} raised an error and has status 3 (failed): with it "
            f"there is no mean over seeds. Take that of the others, surface.sel(seed={others}).lossnav.over_seeds(). "
            f"{next(iter(failed.values()))[1]}",
            PointsFailedWarning,
            stacklevel=2,
        )
    if stopped is not None:
        complete = sum(bool(surface.attrs["finished"]) for surface in surfaces.values()) + len(failed)
        what = "They are" if complete else "What there is of the first is"
        where = f"saved in {store}; the same call goes on" if store else "in the .surface of this exception"
        raise Interrupted(f"Stopped after {complete} of {len(chosen)} seeds. {what} {where}.", joined, stopped.signal)
    return joined


def _joined(
    order: Iterable[int], surfaces: Mapping[int, xr.Dataset], failed: Mapping[int, tuple[Chart, EvaluationError]]
) -> xr.Dataset:
    """Join the surfaces of the seeds; one of which every point failed has the coordinates of another."""
    first = next(iter(surfaces.values()))
    try:
        grid = first if first.lossnav.is_grid else first.lossnav.to_grid()
    except OptionError:  # stopped so early that its points make no grid
        return first
    all_of_them = dict(surfaces)
    for seed, (chart, error) in failed.items():
        nothing = grid.copy(deep=True)
        for name in nothing.data_vars:
            if name not in ("status", "interpolated"):
                nothing[name].values[...] = np.nan
        nothing["status"].values[...] = FAILED
        sampler = {key: value for key, value in grid.attrs["sampler"].items() if key != "outcome"}
        mine = {"chart": jsonable(chart.describe()), "sampler": sampler, "center": {}, "failures": [str(error)]}
        common = {key: value for key, value in grid.attrs.items() if key != "interpolation"}
        nothing.attrs = common | mine | {"seconds": 0.0, "points_per_second": "nan"}
        all_of_them[seed] = nothing
    seeds = [seed for seed in order if seed in all_of_them]
    return join_seeds([all_of_them[seed] for seed in seeds], seeds)


def _settled_for_all(
    objective: Objective, chart_of: Callable[[int], Chart], sampler: Sampler, seeds: Iterable[int]
) -> Sampler:
    """Return the sampler with its automatic ranges found: along each coordinate the largest of all seeds."""
    said: dict[str, Any] = {}
    for seed in seeds:
        fitting = require_fit(objective, chart_of(seed), sampler)
        with rng.preserved(device=objective.device):
            settled = sampler.settle(losses_of(*fitting))
        if settled is sampler:  # nothing was left open
            return sampler
        mine = settled.describe()
        said = said or mine
        for dim, found in mine["auto"].items():
            if found["reach"] > said["auto"][dim]["reach"]:
                said["auto"][dim], said["axes"][dim] = found, mine["axes"][dim]
    return sampler.again(said)
