"""The same picture for several seeds of the directions, to tell the landscape from the choice of directions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lossnav._utils import random_state
from lossnav._utils.conclusion import conclude
from lossnav._utils.jsonable import jsonable
from lossnav._utils.lazy_import import lazily
from lossnav._utils.signals import signal_of
from lossnav._utils.validation import described, require
from lossnav.charts import Chart
from lossnav.errors import (
    DamagedStoreWarning,
    EvaluationError,
    Interrupted,
    OptionError,
    OutputExistsError,
    PlanMismatchError,
    PointsFailedWarning,
    StoreError,
)
from lossnav.evaluation.center import losses_of, require_fit
from lossnav.evaluation.evaluate import evaluate
from lossnav.evaluation.provenance import plan_of
from lossnav.objective.objective import Objective
from lossnav.samplers import Sampler
from lossnav.samplers.base import description_of
from lossnav.surface.parts import Parts, finished_ensemble, folder_of
from lossnav.surface.run_identity import differences, is_same
from lossnav.surface.seeds import add_seeds, join_seeds, of_seeds
from lossnav.surface.variables import FAILED, NOT_EVALUATED
from lossnav.surface.zarr_io import open_surface, save_surface

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazily("xarray")

_BLOCK = 32  # maximum number of seeds with a store of their own, of nine files each
_FOLDED = "seeds"  # the store of the other seeds


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
    """Evaluate one chart per seed, and join the surfaces along a dim ``seed``.

    Parameters
    ----------
    objective : Objective
    chart_of : callable
        Maps a seed to a chart, such as ``lambda seed: ln.Line(center, *ln.directions.random(objective, seed=seed))``.
    sampler : Sampler
        If its points are not on a grid, the interpolated grids are joined. An automatic range is the same for all
        seeds: along each coordinate the largest one.
    seeds : iterable of int
    store : path, optional
        Where the surface is written. Until all seeds are finished, they are stored beside it (in the folder
        ``band.parts`` for ``band.zarr``), and the same call resumes after a stop or a kill. Up to 32 seeds have stores
        of their own, which are then merged into one, so the number of files stays bounded. If the store already
        contains the result of the same call, it is returned; failed points are evaluated again.
    overwrite : bool
        Whether to replace an existing result.
    **options
        Further options of `evaluate`.

    Returns
    -------
    xarray.Dataset
        A surface whose first dim is ``seed``: ``lossnav.seed(3)`` is the surface of one seed with its own chart
        (``sel(seed=3)`` has its values), ``lossnav.over_seeds()`` their mean with ``loss_sd``, the standard deviation
        over the seeds. ``attrs["ensemble"]`` contains every chart. A seed for which every point raised an error has
        status 3, with a `PointsFailedWarning`.

    Raises
    ------
    OptionError
        If there are no seeds, or the charts differ in their coordinates.
    PlanMismatchError
        If a stored seed is of another run; the message lists the differences.
    StoreBusyError
        If another process makes the same ensemble.
    Interrupted
        After Ctrl-C, with the complete seeds; during the first seed, with its points so far.
    EvaluationError
        If every point of every seed raised an error.

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
            f"chart_of must be a function from a seed to a chart, got {described(chart_of)}. Example: "
            "lambda seed: ln.Line(objective.params, *ln.directions.random(objective, seed=seed))."
        )
    if not isinstance(seeds, Iterable):
        raise OptionError(f"seeds must be several whole numbers, got {described(seeds)}. Example: seeds=range(10).")
    chosen = [int(seed) for seed in seeds]
    if not chosen or len(set(chosen)) != len(chosen):
        raise OptionError("seeds must be distinct and at least one. Example: seeds=range(10).")
    if store is not None and options.get("save_directions"):
        raise OptionError(
            "An ensemble stores the recipes of its directions, not their tensors. Leave out save_directions=True."
        )
    if options.get("keep_samples"):
        raise OptionError(
            "An ensemble does not store the losses of single samples. Leave out keep_samples=True, or "
            "evaluate one seed "
            "with it."
        )
    there, engine = None, options.get("engine")
    if store is not None and not overwrite and (there := finished_ensemble(store, chosen)) is not None:
        sampler = _settled_for_all(objective, chart_of, sampler, chosen)
        plans = {s: plan_of(objective, chart_of(s), sampler, engine) for s in chosen}
        if not all(is_same(there.lossnav.seed(s).attrs, plan) for s, plan in plans.items()):
            there = None
        elif (
            _is_whole(there) and not folder_of(store).exists()
        ):  # otherwise a call was killed before it removed its parts
            return there
    with nullcontext() if store is None else Parts(store, overwrite, goes_on=there is not None) as parts:
        sampler = _settled_for_all(objective, chart_of, sampler, chosen)
        run = _Ensemble(objective, chart_of, sampler, parts, options, there)
        for seed in chosen:
            if not run.take(seed):
                break
        joined = run.joined(chosen)
        if parts and not (run.stopped is not None and not parts.anew and _holds(parts.target, joined)):
            parts.save(joined)
            if run.stopped is None:
                run.discard(chosen)
    if run.failed:
        others = [seed for seed in chosen if seed in run.surfaces]
        warnings.warn(
            f"Every point of seed {', '.join(map(str, run.failed))} raised an error and has status 3 "
            "(failed), so there "
            f"is no mean over all seeds. Take that of the others: surface.sel(seed={others}).lossnav.over_seeds(). "
            f"{next(iter(run.failed.values()))[1]}",
            PointsFailedWarning,
            stacklevel=2,
        )
    if run.stopped is not None:
        complete = sum(bool(surface.attrs["finished"]) for surface in run.surfaces.values()) + len(run.failed)
        what = "They are" if complete else "The first one so far is"
        where = f"stored in {store}; the same call resumes it" if store else "in the .partial of this exception"
        conclude(joined, run.stopped.signal, f"{complete} of {len(chosen)} seeds", kept=f"{what} {where}.")
    return joined


def _holds(target: Path, joined: xr.Dataset) -> bool:
    """Return whether the stored result has all points of a stopped call, as after a kill of a finished one."""
    try:
        there = open_surface(target)
    except StoreError:
        return False
    if "seed" not in there.dims or "seed" not in joined.dims:
        return "seed" in there.dims
    seeds = joined["seed"].values
    if not np.isin(seeds, there["seed"].values).all():
        return False
    known = there.sel(seed=seeds)
    if known.sizes != joined.sizes:
        return False
    return bool(((known["status"].values != NOT_EVALUATED) | (joined["status"].values == NOT_EVALUATED)).all())


class _Ensemble:
    """The seeds of one call, evaluated one after the other.

    Attributes
    ----------
    surfaces : dict of int to xarray.Dataset
        The surfaces by seed.
    failed : dict of int to (Chart, EvaluationError)
        The seeds for which every point raised an error.
    stopped : Interrupted or None
    """

    def __init__(
        self,
        objective: Objective,
        chart_of: Callable[[int], Chart],
        sampler: Sampler,
        parts: Parts | None,
        options: Mapping[str, Any],
        there: xr.Dataset | None,
    ) -> None:
        self._objective, self._chart_of, self._sampler, self._options = objective, chart_of, sampler, options
        self._parts, self._folded = parts, None if parts is None else _Folded(parts, there)
        self.surfaces: dict[int, xr.Dataset] = {}
        self.failed: dict[int, tuple[Chart, EvaluationError]] = {}
        self.stopped: Interrupted | None = None

    def take(self, seed: int) -> bool:
        """Evaluate a seed, or read it if it is finished; return whether to continue with the next."""
        chart: Chart | None = None
        try:
            chart = self._chart_of(seed)
            self.surfaces[seed] = self._surface(seed, chart)
        except EvaluationError as error:
            if chart is None:  # the user's own function raised it
                raise
            self.failed[seed] = chart, error
            if self._parts is not None:
                self._parts.remove(_name(seed))  # it has no value, and is evaluated again
        except StoreError as error:
            if error.surface is None and self.surfaces:
                error.surface = _joined(list(self.surfaces), self.surfaces, {})
            raise
        except KeyboardInterrupt as error:  # an Interrupted, or one before there was anything
            stopped = Interrupted("Stopped before the first point.", signal=signal_of(error))
            self.stopped = error if isinstance(error, Interrupted) else stopped
            if not self.surfaces and self.stopped.partial is not None:
                self.surfaces[seed] = self.stopped.partial
        return self.stopped is None

    def _surface(self, seed: int, chart: Chart) -> xr.Dataset:
        if self._parts is None or self._folded is None:
            return evaluate(self._objective, chart, self._sampler, **self._options)
        kept = dict(self._options)
        if (there := self._folded.seed(seed)) is not None:
            plan = plan_of(self._objective, chart, self._sampler, self._options.get("engine"))
            self._folded.require_same_plan(seed, there, plan)
            if _is_whole(there):
                self._parts.remove(_name(seed))  # the call that merged it was killed before that
                return there
            kept["resume"] = there
        made = evaluate(self._objective, chart, self._sampler, **kept | self._parts.options(_name(seed)))
        return self._folded.add(seed, made)

    def joined(self, order: Sequence[int]) -> xr.Dataset:
        """Return the seeds so far as one surface.

        Raises
        ------
        Interrupted, EvaluationError
            If there are none.
        """
        if not self.surfaces:
            raise self.stopped or next(iter(self.failed.values()))[1]
        return _joined(order, self.surfaces, self.failed)

    def discard(self, seeds: Sequence[int]) -> None:
        """Remove the stores from which the result was made."""
        if self._parts is not None and self._folded is not None:
            self._parts.discard()
            self._folded.discard(seeds)


class _Folded:
    """Finished seeds in one store beside the result, which bounds the number of files.

    Up to `_BLOCK` seeds have stores of their own, which are then merged into this one. At every moment each seed is in
    one of the two, or in both. The result of an earlier call is used last.
    """

    def __init__(self, parts: Parts, result: xr.Dataset | None) -> None:
        self._result = result
        self._parts, self._waiting = parts, dict[int, xr.Dataset]()
        self._place = parts.place(_FOLDED)
        self._surface: xr.Dataset | None = None
        if parts.anew:
            parts.remove(_FOLDED)
        elif self._place.exists():
            self._surface = self._open()

    def _open(self) -> xr.Dataset | None:
        """Open the store; return None for damaged interpolated grids, which lack the measured points."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                surface = open_surface(self._place)
            except StoreError as error:
                raise OutputExistsError(
                    f"{self._place} cannot be resumed: {error} Remove it to evaluate its seeds again, or pass "
                    "overwrite=True (--overwrite)."
                ) from error
        for each in caught:
            warnings.warn(str(each.message), each.category, stacklevel=5)
        damaged = any(issubclass(each.category, DamagedStoreWarning) for each in caught)
        if "seed" not in surface.dims or (damaged and "interpolated" in surface):
            return None
        return surface

    def seed(self, seed: int) -> xr.Dataset | None:
        """Return the surface of a seed if it is here."""
        for surface in (self._surface, self._result):
            if surface is not None and seed in surface["seed"].values:
                there: xr.Dataset = surface.lossnav.seed(seed)
                return there if _is_whole(there) or "interpolated" not in there else None
        return None

    def require_same_plan(self, seed: int, there: xr.Dataset, asked: Mapping[str, Any]) -> None:
        """Raise if a seed is of another run.

        Raises
        ------
        PlanMismatchError
            The message lists the differences.
        """
        if not is_same(there.attrs, asked):
            different = differences(there.attrs, asked)
            raise PlanMismatchError(
                f"{self._place} contains another run of seed {seed}:\n  "
                + "\n  ".join(different)
                + "\nChoose another store, or pass overwrite=True (--overwrite)."
            )

    def add(self, seed: int, surface: xr.Dataset) -> xr.Dataset:
        """Add an evaluated seed; return its surface, or its interpolated grid if its points are on no grid."""
        if not surface.lossnav.is_grid:
            if not _is_whole(surface):
                return surface  # failed points are evaluated again, which needs its points
            with suppress(OptionError):  # all points have the same coordinate, which is reported at the end
                surface = surface.lossnav.to_grid()
        if surface.lossnav.is_grid:
            self._waiting[seed] = surface
        if len(self._waiting) >= _BLOCK:
            self._fold()
        return surface

    def _fold(self) -> None:
        """Merge the seeds with stores of their own into this store, and remove those stores."""
        try:
            surface = join_seeds(list(self._waiting.values()), list(self._waiting))
            if self._surface is not None:
                others = [seed for seed in self._surface["seed"].values.tolist() if seed not in self._waiting]
                surface = add_seeds(of_seeds(self._surface, others), surface) if others else surface
        except OptionError:  # charts or ranges differ, which is reported at the end
            self._waiting.clear()
            return
        save_surface(surface, self._place, overwrite=True)
        self._surface = surface
        for seed in self._waiting:
            self._parts.remove(_name(seed))
        self._waiting.clear()

    def discard(self, seeds: Sequence[int]) -> None:
        """Remove this store, unless it has seeds that this call does not use."""
        if self._surface is None or set(self._surface["seed"].values.tolist()) <= set(seeds):
            self._parts.remove(_FOLDED)


def _name(seed: int) -> str:
    """Return the name of the store of a seed."""
    return f"seed-{seed}"


def _is_whole(surface: xr.Dataset) -> bool:
    """Return whether nothing is left to evaluate: no failed point, and no missing point of a measured grid."""
    left = (FAILED,) if "interpolated" in surface or "point" in surface.dims else (FAILED, NOT_EVALUATED)
    return not np.isin(surface["status"].values, left).any()


def _joined(
    order: Iterable[int], surfaces: Mapping[int, xr.Dataset], failed: Mapping[int, tuple[Chart, EvaluationError]]
) -> xr.Dataset:
    """Join the surfaces of the seeds; a seed without values gets the coordinates of another."""
    first = next(iter(surfaces.values()))
    try:
        grid = first if first.lossnav.is_grid else first.lossnav.to_grid()
    except OptionError:  # stopped so early that its points do not form a grid
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
        mine["still"] = None  # not known
        common = {key: value for key, value in grid.attrs.items() if key != "interpolation"}
        nothing.attrs = common | mine | {"seconds": 0.0, "points_per_second": "nan"}
        all_of_them[seed] = nothing
    seeds = [seed for seed in order if seed in all_of_them]
    return join_seeds([all_of_them[seed] for seed in seeds], seeds)


def _settled_for_all(
    objective: Objective, chart_of: Callable[[int], Chart], sampler: Sampler, seeds: Iterable[int]
) -> Sampler:
    """Return the sampler with its automatic ranges set: along each coordinate the largest of all seeds."""
    said: dict[str, Any] = {}
    for seed in seeds:
        fitting = require_fit(objective, chart_of(seed), sampler)
        with random_state.preserved(device=objective.device):
            settled = sampler.settle(losses_of(*fitting))
        if settled is sampler:  # there are no automatic ranges
            return sampler
        mine = description_of(settled)
        said = said or mine
        for dim, found in mine["auto"].items():
            if found["reach"] > said["auto"][dim]["reach"]:
                said["auto"][dim], said["axes"][dim] = found, mine["axes"][dim]
    return sampler.again(said)
