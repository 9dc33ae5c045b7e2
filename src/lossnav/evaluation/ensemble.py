"""The same picture along other random directions, to tell what is there from what was drawn."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lossnav._utils import random_state
from lossnav._utils.jsonable import jsonable
from lossnav._utils.lazy_import import lazily
from lossnav._utils.signals import signal_of
from lossnav._utils.validation import described, require
from lossnav.charts import Chart
from lossnav.engines import Engine, Local
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
from lossnav.evaluation.provenance import provenance
from lossnav.objective.objective import Objective
from lossnav.samplers import Sampler
from lossnav.samplers.base import description_of
from lossnav.surface.parts import Parts, finished_ensemble, folder_of
from lossnav.surface.run_identity import differences
from lossnav.surface.run_record import RunRecord
from lossnav.surface.seeds import add_seeds, join_seeds, of_seeds
from lossnav.surface.variables import FAILED, NOT_EVALUATED
from lossnav.surface.zarr_io import open_surface, save_surface

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazily("xarray")

_BLOCK = 32  # seeds that have stores of their own, of nine files each
_FOLDED = "seeds"  # the store of the others


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
        Where the surface is written. Until all seeds are there, they are kept beside it as they go (``band.zarr`` has
        a folder ``band.parts``), and the same call goes on from there after a stop or a kill. Each has a store of its
        own until there are 32 of these, which are then put to the others in one: files do not grow with the seeds. If
        the store already holds the result of the same call, it is returned; points that failed are evaluated again.
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
    PlanMismatchError
        If a seed that is kept is of another run; it says in what they differ.
    StoreBusyError
        If another process makes the same ensemble.
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
    if store is not None and options.get("save_directions"):
        raise OptionError("An ensemble keeps the recipes of its directions. Leave out save_directions=True.")
    if options.get("keep_samples"):
        raise OptionError(
            "An ensemble joins the grids of its seeds, without the losses of single samples. Leave out "
            "keep_samples=True, or evaluate one seed with it."
        )
    there, engine = None, options.get("engine")
    if store is not None and not overwrite and (there := finished_ensemble(store, chosen)) is not None:
        sampler = _settled_for_all(objective, chart_of, sampler, chosen)
        if not all(_is_same(there.lossnav.seed(s), _plan(objective, chart_of(s), sampler, engine)) for s in chosen):
            there = None
        elif _is_whole(there) and not folder_of(store).exists():  # else a call was killed before it removed its parts
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
            f"Every point of seed {', '.join(map(str, run.failed))} raised an error and has status 3 (failed): with it "
            f"there is no mean over seeds. Take that of the others, surface.sel(seed={others}).lossnav.over_seeds(). "
            f"{next(iter(run.failed.values()))[1]}",
            PointsFailedWarning,
            stacklevel=2,
        )
    if run.stopped is not None:
        complete = sum(bool(surface.attrs["finished"]) for surface in run.surfaces.values()) + len(run.failed)
        what = "They are" if complete else "What there is of the first is"
        where = f"saved in {store}; the same call goes on" if store else "in the .partial of this exception"
        raise Interrupted(
            f"Stopped after {complete} of {len(chosen)} seeds. {what} {where}.", joined, run.stopped.signal
        )
    return joined


def _holds(target: Path, joined: xr.Dataset) -> bool:
    """Whether a result that is there has all that a call found which was stopped: it was killed once it was whole."""
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
    """The seeds of one call, one after the other.

    Attributes
    ----------
    surfaces : dict of int to xarray.Dataset
        Of each seed that has one.
    failed : dict of int to (Chart, EvaluationError)
        Of each seed of which every point raised.
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
        """Evaluate a seed, or take it from where it is finished; say whether to go on with the next."""
        chart: Chart | None = None
        try:
            chart = self._chart_of(seed)
            self.surfaces[seed] = self._surface(seed, chart)
        except EvaluationError as error:
            if chart is None:  # the user's own function raised it
                raise
            self.failed[seed] = chart, error
            if self._parts is not None:
                self._parts.remove(_name(seed))  # it has no value, and is tried again in any case
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
            plan = _plan(self._objective, chart, self._sampler, self._options.get("engine"))
            self._folded.require_same_plan(seed, there, plan)
            if _is_whole(there):
                self._parts.remove(_name(seed))  # whoever folded it was killed before that
                return there
            kept["resume"] = there
        made = evaluate(self._objective, chart, self._sampler, **kept | self._parts.options(_name(seed)))
        return self._folded.add(seed, made)

    def joined(self, order: Sequence[int]) -> xr.Dataset:
        """What there is, as one surface.

        Raises
        ------
        Interrupted, EvaluationError
            If there is nothing.
        """
        if not self.surfaces:
            raise self.stopped or next(iter(self.failed.values()))[1]
        return _joined(order, self.surfaces, self.failed)

    def discard(self, seeds: Sequence[int]) -> None:
        """Remove what the result was put together from."""
        if self._parts is not None and self._folded is not None:
            self._parts.discard()
            self._folded.discard(seeds)


class _Folded:
    """Seeds that are finished, in one store beside the result: how many files there are does not grow with the seeds.

    A store of its own each of them has until there are `_BLOCK` of such, which then are put to the others. At every
    moment each seed is in one of the two, or in both. A result of the same call is looked into last.
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
        """What is there; of interpolated grids nothing, where it was damaged: what was measured is not there."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                surface = open_surface(self._place)
            except StoreError as error:
                raise OutputExistsError(
                    f"{self._place} cannot be gone on from: {error} Remove it, and its seeds are evaluated again; or "
                    "pass overwrite=True (--overwrite)."
                ) from error
        for each in caught:
            warnings.warn(str(each.message), each.category, stacklevel=5)
        damaged = any(issubclass(each.category, DamagedStoreWarning) for each in caught)
        if "seed" not in surface.dims or (damaged and "interpolated" in surface):
            return None
        return surface

    def seed(self, seed: int) -> xr.Dataset | None:
        """The surface of a seed that is here."""
        for surface in (self._surface, self._result):
            if surface is not None and seed in surface["seed"].values:
                there: xr.Dataset = surface.lossnav.seed(seed)
                return there if _is_whole(there) or "interpolated" not in there else None
        return None

    def require_same_plan(self, seed: int, there: xr.Dataset, asked: Mapping[str, Any]) -> None:
        """Refuse to take a seed of something else.

        Raises
        ------
        PlanMismatchError
            That says in what it differs, item by item.
        """
        if not _is_same(there, asked):
            different = differences(there.attrs, asked)
            raise PlanMismatchError(
                f"{self._place} holds another run of seed {seed}:\n  "
                + "\n  ".join(different)
                + "\nChoose another store, or pass overwrite=True (--overwrite)."
            )

    def add(self, seed: int, surface: xr.Dataset) -> xr.Dataset:
        """Take a seed that was evaluated, and return what is joined of it: its grid, where its points lie on none."""
        if not surface.lossnav.is_grid:
            if not _is_whole(surface):
                return surface  # what raised is tried again, for which its points are needed
            with suppress(OptionError):  # all points have one value of a coordinate, which is said at the end
                surface = surface.lossnav.to_grid()
        if surface.lossnav.is_grid:
            self._waiting[seed] = surface
        if len(self._waiting) >= _BLOCK:
            self._fold()
        return surface

    def _fold(self) -> None:
        """Put the seeds that have stores of their own to the others, and remove those stores."""
        try:
            surface = join_seeds(list(self._waiting.values()), list(self._waiting))
            if self._surface is not None:
                others = [seed for seed in self._surface["seed"].values.tolist() if seed not in self._waiting]
                surface = add_seeds(of_seeds(self._surface, others), surface) if others else surface
        except OptionError:  # charts or ranges differ, which is said at the end
            self._waiting.clear()
            return
        save_surface(surface, self._place, overwrite=True)
        self._surface = surface
        for seed in self._waiting:
            self._parts.remove(_name(seed))
        self._waiting.clear()

    def discard(self, seeds: Sequence[int]) -> None:
        """Remove what is here, unless there are seeds that were not asked for now."""
        if self._surface is None or set(self._surface["seed"].values.tolist()) <= set(seeds):
            self._parts.remove(_FOLDED)


def _plan(objective: Objective, chart: Chart, sampler: Sampler, engine: Engine | None) -> dict[str, Any]:
    """What the surface of a seed would say of its plan, without anything being evaluated."""
    objective, chart = require_fit(objective, chart, sampler)
    return RunRecord(chart.dims, provenance(objective, chart, description_of(sampler), engine or Local())).attributes()


def _is_same(there: xr.Dataset, plan: Mapping[str, Any]) -> bool:
    """Whether a surface is of such a plan."""
    return there.attrs.get("plan_hash") == plan["plan_hash"] or not differences(there.attrs, plan)


def _name(seed: int) -> str:
    """Of the store of a seed."""
    return f"seed-{seed}"


def _is_whole(surface: xr.Dataset) -> bool:
    """Whether nothing is left to evaluate: no point that raised, and on a grid that was measured none that was not."""
    left = (FAILED,) if "interpolated" in surface or "point" in surface.dims else (FAILED, NOT_EVALUATED)
    return not np.isin(surface["status"].values, left).any()


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
        mine["still"] = None  # not known
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
        with random_state.preserved(device=objective.device):
            settled = sampler.settle(losses_of(*fitting))
        if settled is sampler:  # nothing was left open
            return sampler
        mine = description_of(settled)
        said = said or mine
        for dim, found in mine["auto"].items():
            if found["reach"] > said["auto"][dim]["reach"]:
                said["auto"][dim], said["axes"][dim] = found, mine["axes"][dim]
    return sampler.again(said)
