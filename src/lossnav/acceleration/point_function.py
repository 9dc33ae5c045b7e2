"""An objective on a chart as a function of coordinates, which engines evaluate; it can choose a faster plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lossnav.acceleration.planned import Fast, StateWrittenError
from lossnav.acceleration.planner import Way, choose
from lossnav.acceleration.proof import Choice
from lossnav.acceleration.trace_graph import NotReadableError
from lossnav.charts import Chart, meet
from lossnav.engines.base import Point
from lossnav.engines.plan import Plan, Precision
from lossnav.errors import ObjectiveError, OptionError
from lossnav.objective.objective import Objective
from lossnav.objective.reduction import Values
from lossnav.params import Params
from lossnav.specs.objective_of import rebuild

_SMALLEST_BATCH = 1


class ChartFunction:
    """The plain path from coordinates to values; `accelerate` chooses a faster one.

    Parameters
    ----------
    objective : Objective
    chart : Chart
    """

    def __init__(self, objective: Objective, chart: Chart) -> None:
        self.objective, self.chart = meet(objective, chart)

    def __call__(self, point: Point) -> Mapping[str, float]:
        """Return loss and metrics at some coordinates."""
        return self.objective.evaluate(self.at(point))

    def at(self, point: Point) -> Params:
        """Return the weights that are evaluated at some coordinates: those of the chart."""
        return self.chart(point)

    def keeping_samples(self) -> ChartFunction:
        """Return the same function, whose values also contain the per-sample losses."""
        return ChartFunction(self.objective.keeping_samples(), self.chart)

    def by_spec(self) -> FromSpec:
        """Return a recipe that builds this function again from the SPEC of its objective.

        Raises
        ------
        OptionError
            If the objective was not built from a SPEC.
        """
        objective = self.objective
        if objective.origin is None:
            raise OptionError(
                "build='spec' needs an unchanged objective that was loaded from a SPEC. Load it with load_objective("
                "'file.py:name') or on the command line, or use build='send'."
            )
        drawn = (objective.population, objective.samples, objective.subset_seed)
        return FromSpec(
            objective.origin, drawn, objective.fingerprint, self.chart, objective.forward_pass.keeps_samples
        )

    def accelerate(
        self, probes: NDArray[np.float64], total: int | None, precision: Precision, plan: Way | Plan = "auto"
    ) -> Accelerated:
        """Choose a plan and prove it at the probe points; see `planner.choose`."""
        function, choice = choose(self.objective, self.chart, probes, total, precision, plan)
        return Accelerated(self, function, choice)


@dataclass
class FromSpec:
    """A recipe that builds the function where it is called, from the SPEC of its objective; it is small to send.

    Attributes
    ----------
    origin : mapping
        The ``origin`` of the objective.
    drawn : (int or None, int or None, int or None)
        The objective's ``population``, ``samples`` and ``subset_seed``.
    fingerprint : str
        The fingerprint that the built objective must have.
    chart : Chart
    keeps_samples : bool
        Whether the per-sample losses are returned too.
    """

    origin: Mapping[str, Any]
    drawn: tuple[int | None, int | None, int | None]
    fingerprint: str
    chart: Chart
    keeps_samples: bool = False

    def __call__(self) -> ChartFunction:
        """Build the function; raise ObjectiveError if the SPEC gives another objective here."""
        objective = rebuild(self.origin, *self.drawn)
        function = ChartFunction(objective.keeping_samples() if self.keeps_samples else objective, self.chart)
        if (here := function.objective.fingerprint) != self.fingerprint:
            raise ObjectiveError(
                f"{self.origin['spec']} gives another objective on this machine: its fingerprint is {here} instead of "
                f"{self.fingerprint}. Give every machine the same code, weights and data, or use build='send'."
            )
        return function


class Accelerated:
    """A proven plan in use. When memory runs out, it halves its batches and continues.

    Attributes
    ----------
    choice : Choice
    """

    def __init__(self, plain: ChartFunction, fast: Fast | None, choice: Choice) -> None:
        self.plain, self.fast, self.choice = plain, fast, choice

    def __call__(self, point: Point) -> Mapping[str, float]:
        """Return loss and metrics at some coordinates."""
        if self.fast is None:
            return self.plain(point)
        while True:
            try:
                return self.fast(point)
            except StateWrittenError as error:
                self._give_up(error)
                return self.plain(point)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error) or not self.halve():
                    raise

    @property
    def points_at_once(self) -> int:
        """The number of points for which `many` is most efficient."""
        return 1 if self.fast is None else self.fast.plan.points

    def many(self, points: Sequence[Point]) -> list[Values]:
        """Return loss and metrics at several coordinates, in one pass; fewer at once when memory runs out."""
        if self.fast is None:  # the plan was given up during the run
            return [dict(self.plain(point)) for point in points]
        try:
            return self.fast.many(points)
        except StateWrittenError as error:
            self._give_up(error)
            return [dict(self.plain(point)) for point in points]
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error) or len(points) == 1:
                raise
        half = len(points) // 2
        if half < self.choice.plan.points:
            self.choice.events.append(f"out of memory: {half} points at once")
            self.choice.plan = self.fast.plan = replace(self.choice.plan, points=half)
        return self.many(points[:half]) + self.many(points[half:])

    def _give_up(self, error: StateWrittenError) -> None:
        """Use the plain path from here on; it gives every pass its own buffers and data."""
        self.plain.objective.forward_pass.leave_unplanned(str(error))
        self.fast, self.choice.plan = None, Plan()
        self.choice.events.append(f"plain from here on: {error}")

    def describe(self) -> dict[str, Any]:
        """Return the plan and its proof, in values that JSON can hold."""
        choice = self.choice
        return {
            "plan": str(choice.plan),
            "plan_fields": choice.plan.describe(),
            "plan_error": choice.error,
            "plan_metric_error": choice.metric_error,
            "plan_differing": choice.differing,
            "plan_compared": choice.compared,
            "plan_probes": choice.probes,
            "plan_seconds": round(choice.seconds, 3),
            "plan_compiling_seconds": round(choice.compiling, 3),
            "plan_events": choice.events,
        }

    def halve(self) -> bool:
        """Build the same plan with batches of half the size; return False if they cannot be smaller."""
        if self.fast is None:
            return False
        fast, structure = self.fast, self.fast.structure
        size = min(fast.plan.batch_size or structure.samples, structure.samples)
        if structure.joined is None or size <= _SMALLEST_BATCH:
            return False
        if fast.objective.device.type == "cuda":
            torch.cuda.empty_cache()
        plan = replace(fast.plan, batch_size=size // 2)
        try:
            self.fast = Fast(fast.objective, fast.chart, structure, plan)
        except NotReadableError:  # too few samples for tracing the model
            plan = replace(plan, fused=False)
            self.fast = Fast(fast.objective, fast.chart, structure, plan)
        self.choice.events.append(f"out of memory: batches halved to {size // 2}")
        self.choice.plan = plan
        return True


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in text or "can't allocate" in text
    )
