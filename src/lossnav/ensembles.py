"""The same picture along other random directions, to tell what is there from what was drawn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import xarray as xr

from lossnav.charts import Chart
from lossnav.errors import Interrupted, OptionError
from lossnav.evaluation import evaluate
from lossnav.files import require_writable
from lossnav.objective import Objective
from lossnav.samplers import Sampler
from lossnav.surface import join_seeds, save_surface


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
        Of points that lie on no grid the interpolated grids are joined.
    seeds : iterable of int
    store, overwrite
        As in `evaluate`.
    **options
        What else `evaluate` takes.

    Returns
    -------
    xarray.Dataset
        A surface whose first dim is ``seed``: ``sel(seed=3)`` is one of them, ``lossnav.over_seeds()`` their mean with
        ``loss_sd``, the standard deviation over the seeds. ``attrs["ensemble"]`` holds every chart.

    Raises
    ------
    OptionError
        If there is no seed, or the charts differ in their coordinates.
    Interrupted
        After Ctrl-C, with the seeds that are complete.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> model, x = torch.nn.Linear(2, 1), torch.eye(2)
    >>> objective = ln.Objective(model, "mse", (x, x[:, :1]))
    >>> lines = lambda seed: ln.Line(objective.params, *ln.directions.random(objective, n=1, seed=seed))
    >>> ln.ensemble(objective, lines, ln.Grid(alpha=(-1, 1, 5)), seeds=range(3)).sizes["seed"]
    3
    """
    chosen = [int(seed) for seed in seeds]
    if not chosen or len(set(chosen)) != len(chosen):
        raise OptionError("Each seed is needed once, and one at least. Pass seeds=range(10).")
    if store is not None:
        store = require_writable(store, overwrite, kind="surface")
    surfaces: list[xr.Dataset] = []
    stopped: Interrupted | None = None
    for seed in chosen:
        try:
            surfaces.append(evaluate(objective, chart_of(seed), sampler, **options))
        except Interrupted as error:
            stopped = error
            if not surfaces:
                raise
            break
    joined = join_seeds(surfaces, chosen[: len(surfaces)])
    if store is not None:
        save_surface(joined, store, overwrite=overwrite)
    if stopped is not None:
        kept = f"They are saved in {store}." if store else "They are in the .surface of this exception."
        raise Interrupted(f"Stopped after {len(surfaces)} of {len(chosen)} seeds. {kept}", joined, stopped.signal)
    return joined
