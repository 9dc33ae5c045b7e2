"""Choose a plan, by rule or by the clock, and prove it.

By rule (`rules`): the model, the data and the processor decide; the same call chooses the same plan on the same
machine, so its results have the same bits. By the clock (`tuning`): changes are timed on a part of the data, and kept
if they are faster; two runs may choose differently.

Either way, a plan is compared with the plain path before it is used (`proof`); if it fails, the next simpler one is
tried. Batches are cut in other sizes only if a test with a few samples shows that loss and metrics do not depend on it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lossnav import params as algebra
from lossnav._utils import random_state
from lossnav.acceleration.planned import Fast
from lossnav.acceleration.proof import FULL_PROBE, Choice, in_words
from lossnav.acceleration.rules import plans_by_rule
from lossnav.acceleration.structure import look
from lossnav.acceleration.tuning import WORTH_COMPILING, Tuning
from lossnav.charts import Chart
from lossnav.engines.plan import TOLERANCES as TOLERANCES
from lossnav.engines.plan import Plan, Precision
from lossnav.objective.comparing import depends_on_batches
from lossnav.objective.objective import Objective
from lossnav.params import Params

_WORTH_PLANNING = 1.0  # seconds of plain work under which the plain path is done before a plan is found, by the clock
_WORTH_RULES = 2e10  # the same by rule: operations in the run; 0.2 to 2 s of plain work
_FEWEST_POINTS = 10  # a proof costs about as much as three points
_HOLDING_FLOPS = 1e9  # of one pass over the few samples that are evaluated in other batches

Way = Literal["auto", "tuned"]


def choose(
    objective: Objective,
    chart: Chart,
    probes: NDArray[np.float64],
    total: int | None,
    precision: Precision,
    plan: Way | Plan = "auto",
) -> tuple[Fast | None, Choice]:
    """Choose and prove a plan for an objective on a chart.

    Parameters
    ----------
    objective : Objective
    chart : Chart
    probes : ndarray of shape (m, k)
        Points at which plans are compared with the plain path; the first is the centre.
    total : int or None
        The number of points of the run; None if it is unknown (many are assumed).
    precision : str
    plan : "auto", "tuned" or Plan
        Choose by rule, by the clock, or use this plan.

    Returns
    -------
    function : Fast or None
        None stands for the plain path.
    choice : Choice
    """
    started = time.perf_counter()
    chosen = Choice()
    finder = _Finder(objective, chart, probes, total or 1_000_000, precision, chosen)
    function = finder.find(plan)
    chosen.seconds = time.perf_counter() - started
    return function, chosen


class _Finder(Tuning):
    """One search for a plan."""

    def find(self, wanted: Way | Plan) -> Fast | None:
        objective = self.objective
        if self.chart.lazy:
            self.choice.events.append("plain: plans need stored directions, and lazy ones are drawn at every point")
            self._fall_back_to_plain()
            return None
        written = objective.batches is not None and objective.batches.written_to
        reason = objective.forward_pass.unplanned or ("the model writes into its data" if written else "")
        if not objective.forward_pass.by_value or objective.batches is None or reason:
            self.choice.events.append(f"plain: {reason or 'this model or function cannot be analysed'}")
            self._fall_back_to_plain()
            return None
        with random_state.preserved(self.objective.seed, self.objective.device), torch.no_grad():
            try:
                self.structure = look(self.objective, *self._elsewhere())
            except Exception as error:
                self.choice.events.append(f"plain: analysing the model raised {type(error).__name__}")
                self._fall_back_to_plain()
                return None
        asked = isinstance(wanted, Plan)
        if self._keeps_batches(asked):
            self.choice.events.append("plain: the batches cannot be joined and cut again")
            return None
        if wanted == "tuned":
            try:
                self.choice.per_point = self._plain_seconds()
            except Exception as error:  # a loss over pairs of samples, say, in a batch with an odd number of them
                self.choice.events.append(f"the original batches are used: a part of one raised {in_words(error)}")
                self.structure.joined = self.tuning = None
                if self._keeps_batches(asked):
                    return None
                self.choice.per_point = self._plain_seconds()
            worth = self.choice.per_point * self.total >= _WORTH_PLANNING
        else:
            self._set_tuning()
            work = self.structure.flops * self.structure.samples * self.total
            worth = self.total >= _FEWEST_POINTS and work >= _WORTH_RULES
        if not worth and not asked and self.precision == "native":
            self.choice.events.append("plain: the run is shorter than the search for a plan")
            return None
        self._hold_in_other_batches()
        if self._keeps_batches(asked):
            return None
        if isinstance(wanted, Plan):
            return self._prove([wanted if self.structure.joined is not None else replace(wanted, batch_size=None)])
        if wanted == "auto":
            self._is_by_rule = True
            return self._prove(plans_by_rule(self.structure, self.chart, self.precision, self.objective.device))
        kept = self._cached()
        if kept is None:
            kept = self._search()
            self.objective.forward_pass.plans[self._key()] = kept
        return self._prove(kept)

    def _keeps_batches(self, asked: bool) -> bool:
        """Whether only the plain path remains, because batches cannot be cut and most plans need that."""
        return self.structure.joined is None and self.precision == "native" and not asked

    def _hold_in_other_batches(self) -> None:
        """Keep the original batches if loss or metrics depend on how the data is cut, at one of two points."""
        structure = self.structure
        if structure.joined is None:
            return
        held = int(_HOLDING_FLOPS / max(1.0, structure.flops))
        points = [self.chart(probe) for probe in self.probes[: FULL_PROBE + 1]]
        found = depends_on_batches(self.objective, structure.joined, structure.samples, points, held)
        if found:
            self.choice.events.append(f"the original batches are used: in others {' and '.join(found)} differ")
            structure.joined = self.tuning = None

    def _elsewhere(self) -> list[Params]:
        """Return another point, alone and with the buffers of each checkpoint on the chart."""
        other = self.chart(self.probes[-1])
        places = () if self.chart.anchors is None else self.chart.anchors.places.tolist()
        return [other, *(algebra.Checkpoint(other, self.chart.buffers(place)) for place in places)]

    def _key(self) -> tuple[object, ...]:
        long = self.choice.per_point * self.total > WORTH_COMPILING
        kind = self.chart.affine, len(self.chart.dims), bool(self.chart.moving_buffers)
        return self.precision, *kind, long, torch.get_num_threads()

    def _cached(self) -> list[Plan] | None:
        return self.objective.forward_pass.plans.get(self._key())
