"""Proof that a plan computes what the plain path computes: at probe points, before the plan is used.

A plan that raises, or whose loss or metrics differ from the plain path's by more than its precision allows, is not
used. Metrics that count (an accuracy) may differ in samples where an equal change of the outputs would change them
too; the number of such samples is recorded.
"""

from __future__ import annotations

import itertools
import math
import warnings
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from lossnav._utils.memory import free_bytes
from lossnav.acceleration.kernel import require_weights_in_cache
from lossnav.acceleration.planned import Fast, StateWrittenError
from lossnav.acceleration.rules import MEMORY_SHARE
from lossnav.acceleration.structure import Structure
from lossnav.acceleration.trace_graph import NotReadableError
from lossnav.charts import Chart
from lossnav.engines.plan import Plan, Precision
from lossnav.errors import PlanFellBackWarning
from lossnav.objective.batch_tensors import tensors
from lossnav.objective.comparing import Column, Shaken, changed, column, cut, explained, relative
from lossnav.objective.functional import StepValues
from lossnav.objective.objective import Objective

FULL_PROBE = 1  # besides the centre, the probe (a random point) at which all data is used


@dataclass
class Choice:
    """The chosen plan, and how well it was proven.

    Attributes
    ----------
    plan : Plan
    error : float
        Largest relative difference of the loss from the plain path at the probe points; elsewhere it may be larger.
    metric_error : float
        The same for metrics that do not count, and for the standard error of the loss (relative to the loss).
    differing : dict of str to int
        For each metric that counts (an accuracy): the number of samples in which it differs, over all probes. In each
        of them an output change within the tolerance changes it too.
    compared : int
        The number of samples compared, over all probes.
    probes : int
        The number of points at which the plan was compared with the plain path.
    seconds : float
        Time for choosing and proving the plan.
    compiling : float
        The part of `seconds` for compiling a kernel, which later runs reuse.
    events : list of str
        Plans that were tried and not used, with the reasons.
    per_point : float
        Seconds per point on the plain path, if it was timed; else NaN.
    """

    plan: Plan = field(default_factory=Plan)
    error: float = 0.0
    metric_error: float = 0.0
    differing: dict[str, int] = field(default_factory=dict)
    compared: int = 0
    probes: int = 0
    seconds: float = 0.0
    compiling: float = 0.0
    events: list[str] = field(default_factory=list)
    per_point: float = math.nan


@dataclass
class Agreement:
    """Differences between a plan and the plain path at some probes."""

    loss: float = 0.0
    metrics: float = 0.0
    metric: str = ""  # the one with the largest error
    differing: dict[str, int] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)
    compared: int = 0
    probes: int = 0

    def worst(self, name: str, error: float) -> None:
        """Record the error of a metric if it is the largest so far."""
        if not error <= self.metrics:
            self.metrics, self.metric = error, name

    def add(self, other: Agreement) -> None:
        """Add the differences at another probe."""
        self.loss = max(self.loss, other.loss)
        self.worst(other.metric, other.metrics)
        for name, count in other.differing.items():
            self.differing[name] = self.differing.get(name, 0) + count
        self.unexplained += other.unexplained
        self.compared += other.compared
        self.probes += other.probes

    def reason(self, tolerance: float) -> str:
        """Return why the plan must not be used; empty if it may be used."""
        allowed = f", allowed {tolerance:.0e}"
        if not self.loss <= tolerance:
            return f"off by {self.loss:.1e}{allowed}"
        if not self.metrics <= tolerance:
            return f"{self.metric} off by {self.metrics:.1e}{allowed}"
        if self.unexplained:
            return f"{self.unexplained[0]} differs in more samples than rounding explains"
        return ""


class PlanProof:
    """Builds plans of an objective on a chart, and compares them with the plain path at probe points."""

    def __init__(
        self,
        objective: Objective,
        chart: Chart,
        probes: NDArray[np.float64],
        total: int,
        precision: Precision,
        choice: Choice,
    ) -> None:
        self.objective, self.chart, self.probes, self.total, self.choice = objective, chart, probes, total, choice
        self.precision: Precision = precision
        self.structure = Structure()
        self.tuning: int | None = None
        self._is_by_rule = False
        self._plain_cache: dict[tuple[int, int | None], list[StepValues]] = {}

    def _build(self, plan: Plan, samples: int | None) -> Fast:
        if plan.amortize_first_layer:
            self._require_memory(plan)
        fast = Fast(self.objective, self.chart, self.structure, plan, samples)
        self.choice.compiling += fast.compile_seconds
        if fast.graph is not None and self._is_by_rule:
            require_weights_in_cache(fast.graph)
        return fast

    def _require_memory(self, plan: Plan) -> None:
        """Raise MemoryError if the first layer's responses to all samples take too much of the free memory."""
        layer = str(self.structure.first_layer)
        with torch.no_grad():
            probe = Fast(
                self.objective, self.chart, self.structure, replace(plan, batch_size=1, fused=False), samples=1
            )
        assert probe._responses is not None
        per_sample = sum(part.numel() * part.element_size() for part in probe._responses[0])
        needed, free = per_sample * self.structure.samples, free_bytes(self.objective.device)
        if needed > MEMORY_SHARE * free:
            raise MemoryError(f"the responses of {layer} need {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB free memory")

    def _prove(self, kept: list[Plan]) -> Fast | None:
        """Return the last plan that agrees with the plain path at every probe, and at two probes on all the data."""
        fell = False
        if not any(math.isfinite(column(self._plain(i, self.tuning), "loss").mean) for i in range(len(self.probes))):
            self.choice.events.append("plain: no probe has a finite loss, so no plan can be compared")
            self._fall_back_to_plain()
            return None
        for plan in reversed(kept):
            if plan == Plan():
                break
            try:
                found, reason = self._hold(plan), ""
                reason = found.reason(plan.tolerance)
            except StateWrittenError as failure:
                self.objective.forward_pass.leave_unplanned(str(failure))
                self.choice.events.append(f"plain: {failure}")
                self._fall_back_to_plain()
                self.choice.plan = Plan()
                return None
            except Exception as failure:
                known = isinstance(failure, NotReadableError)
                reason = f"not fused: {failure}" if known else in_words(failure)
                if len(kept) > 1 and plan is not kept[0]:  # a rule that does not apply is not a failed plan
                    self.choice.events.append(reason if known else f"left out: {plan} ({reason})")
                    continue
            if not reason:
                choice = self.choice
                choice.plan, choice.error, choice.metric_error = plan, found.loss, found.metrics
                choice.differing, choice.compared, choice.probes = found.differing, found.compared, found.probes
                if fell:
                    self._warn(f"the next simpler plan, {plan}, is used")
                return self._proven
            fell = True
            self.choice.events.append(f"fell back from: {plan} ({reason})")
        if fell:
            self._warn("the plain path is used")
        self.choice.plan = Plan()
        return None

    def _fall_back_to_plain(self) -> None:
        if self.precision != "native":
            self._warn(f"precision={self.precision!r} is not possible here, and the model's own precision is used")

    def _warn(self, what: str) -> None:
        warnings.warn(
            f"A faster plan cannot be used ({self.choice.events[-1]}); {what}. "
            "Pass engine=ln.Local(plan='plain') to evaluate without plans.",
            PlanFellBackWarning,
            stacklevel=6,
        )

    def _hold(self, plan: Plan) -> Agreement:
        """Compare a plan with the plain path: at every probe on the tuning samples, at two probes on all data."""
        part, held = self._build(plan, self.tuning), Agreement()
        for i, steps in enumerate(part.many_steps(self.probes) if plan.points > 1 else map(part.steps, self.probes)):
            held.add(self._compare(i, self.tuning, steps, plan.tolerance))
        self._proven = self._build(plan, None)
        if self.tuning is not None and self.tuning != self.structure.samples:
            for i in {0, min(FULL_PROBE, len(self.probes) - 1)}:
                held.add(self._compare(i, None, self._proven.steps(self.probes[i]), plan.tolerance))
        return held

    def _compare(self, i: int, samples: int | None, fast: list[StepValues], tolerance: float) -> Agreement:
        """Compare what a plan computes at a probe with the plain path."""
        plain, held = self._plain(i, samples), Agreement(probes=1)
        if set(plain[0][1]) != set(fast[0][1]):
            return Agreement(loss=math.inf, probes=1)
        loss, same = column(plain, "loss"), column(fast, "loss")
        held.loss = relative(loss.mean, same.mean, abs(loss.mean))
        values, others = ((self.objective.forward_pass.reduce(steps)[0].get("loss_se", 0.0)) for steps in (plain, fast))
        held.worst("loss_se", relative(values, others, max(abs(values), abs(loss.mean))))
        held.compared = int(sum(n for n, _ in plain))
        for name in self.objective.metrics:
            one, other = column(plain, name), column(fast, name)
            if not (one.counted and other.counted and len(one.numerators) == len(other.numerators)):
                held.worst(name, relative(one.mean, other.mean, one.level))
                continue
            held.differing[name] = int(changed(one, other).sum())
            if held.differing[name] and not explained(one, other, self._shaken(i, samples, name, tolerance)):
                held.unexplained.append(name)
        return held

    def _shaken(self, i: int, samples: int | None, name: str, tolerance: float) -> Column:
        """Return the change of a count at a probe if the outputs change by the tolerance."""
        shaken = Shaken(self.objective.metrics[name], tolerance, self.objective.seed)
        counting = self.objective.forward_pass.measuring(self.objective.forward_pass.loss, {name: shaken})
        return column(self._pass_plain(counting, i, samples), name)

    def _plain(self, i: int, samples: int | None, cached: bool = True) -> list[StepValues]:
        """Return the plain path at a probe, on the first samples or on all; always in the original batches."""
        if not cached or (i, samples) not in self._plain_cache:
            self._plain_cache[(i, samples)] = self._pass_plain(self.objective, i, samples)
        return self._plain_cache[(i, samples)]

    def _pass_plain(self, objective: Objective, i: int, samples: int | None) -> list[StepValues]:
        params = self.chart(self.probes[i])
        joined = self.structure.joined
        if samples in (None, self.structure.samples) or joined is None:
            return objective.forward_pass.checked(params)  # the truth itself
        ends = [0]
        for batch in objective.batches or []:
            ends.append(min(ends[-1] + next(tensors(batch)).shape[0], samples))
            if ends[-1] == samples:
                break
        parts = [cut(joined, start, stop) for start, stop in itertools.pairwise(ends)]
        return objective.forward_pass(params, batches=parts)


def in_words(error: Exception) -> str:
    """Return the type and the first line of an exception."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
