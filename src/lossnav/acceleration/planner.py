"""Choose a plan, by rule or by the clock, and prove it.

By rule: what the model, the data and the processor are says what is done; the same call chooses the same plan on the
same machine, and so gives the same bits. By the clock: one change after the other is timed on a part of the data, and
what is faster is kept; two runs may choose differently.

Nothing is believed either way. A plan that raises, or whose loss or metrics differ from the plain path's by more than
its precision allows at any probe point, falls back to the next simpler one. Metrics that count (an accuracy) may
differ in those samples that a change of the outputs by as much would change too; how many these were is kept. Batches
are cut anew only where a few samples, held in other company, show that loss and metrics do not care.
"""

from __future__ import annotations

import itertools
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lossnav import params as algebra
from lossnav._utils import random_state
from lossnav._utils.memory import free_bytes
from lossnav.acceleration.compiler import can_compile
from lossnav.acceleration.kernel import require_weights_in_cache
from lossnav.acceleration.planned import Fast, StateWrittenError
from lossnav.acceleration.structure import Structure, look
from lossnav.acceleration.trace_graph import NotReadableError
from lossnav.charts import Chart
from lossnav.engines.plan import TOLERANCES as TOLERANCES
from lossnav.engines.plan import Plan, Precision
from lossnav.errors import PlanFellBackWarning
from lossnav.objective.batch_tensors import tensors
from lossnav.objective.comparing import Column, Shaken, changed, column, cut, depends_on_batches, explained, relative
from lossnav.objective.functional import StepValues
from lossnav.objective.objective import Objective
from lossnav.params import Params

_TUNING_SECONDS = 0.1  # of plain work a timing is taken on: enough to tell, a hundredth of a usual run
_WORTH_PLANNING = 1.0  # seconds of plain work under which the plain path is done before a plan is found, by the clock
_WORTH_RULES = 2e10  # the same by rule: operations in the run; 0.2 to 2 s of plain work
_FEWEST_POINTS = 10  # a proof costs about as much as three points
_PROVING_FLOPS = 1e9  # of one pass over the part of the data on which all probes are held against the plain path
_FEWEST_PROVING = 30  # samples
_HOLDING_FLOPS = 1e9  # of one pass over the few samples that are held in other batches
_FULL = 1  # the probe at which, beside the centre, all data is passed: a random one
_IN_CACHE = 4e6  # bytes of the widest layer's output for a batch, where the size of batches goes by rule
_MOST_FUSED = 10_000  # samples a call of the fused kernel
_LEAST_INPUTS = 32  # to each part of a first layer's response, for that to be cheaper than the layer
_WORTH_COMPILING = 300.0  # seconds of work left above which 10-25 s of compiling are risked
_GAIN = 0.97  # a change is kept where it takes less than this part of the time
_BATCH_SIZES = (25, 50, 125, 250, 500, 1000)
_POINTS_AT_ONCE = (4, 16, 64)  # on a GPU; on the CPU it does not pay
_SHARE = 0.25  # of memory that first-layer responses may take


Way = Literal["auto", "tuned"]


@dataclass
class Choice:
    """What was chosen, and how sure it is.

    Attributes
    ----------
    plan : Plan
    error : float
        Largest relative difference of the loss from the plain path at the probe points; elsewhere it may be larger.
    metric_error : float
        The same of metrics that are no counts, and of the standard error of the loss (as a part of the loss).
    differing : dict of str to int
        Of each metric that counts (an accuracy): in how many samples it was another one, over all probes. The margin
        of each lay below the tolerance.
    compared : int
        How many samples that is of: those of all probes together.
    probes : int
        How many points it was held against the plain path at.
    seconds : float
        That choosing took.
    compiling : float
        Seconds of these in which a kernel was compiled, which later runs find.
    events : list of str
        What was tried and left out, what fell back.
    per_point : float
        Seconds a plain point, where the clock was asked.
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


def choose(
    objective: Objective,
    chart: Chart,
    probes: NDArray[np.float64],
    total: int | None,
    precision: Precision,
    plan: Way | Plan = "auto",
) -> tuple[Fast | None, Choice]:
    """Find and prove a plan for this objective on this chart.

    Parameters
    ----------
    objective : Objective
    chart : Chart
    probes : ndarray of shape (m, k)
        Where plans are held against the plain path; the first is the centre.
    total : int or None
        How many points there will be; None where nobody knows (taken for many).
    precision : str
    plan : "auto", "tuned" or Plan
        By rule, by the clock, or this one.

    Returns
    -------
    function : Fast or None
        None is the plain path.
    choice : Choice
    """
    started = time.perf_counter()
    chosen = Choice()
    finder = _Finder(objective, chart, probes, total or 1_000_000, precision, chosen)
    function = finder.find(plan)
    chosen.seconds = time.perf_counter() - started
    return function, chosen


class _Finder:
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
        self._by_rules = False
        self._plain_cache: dict[tuple[int, int | None], list[StepValues]] = {}

    # ------------------------------------------------------------------ looking

    def find(self, wanted: Way | Plan) -> Fast | None:
        objective = self.objective
        if self.chart.lazy:
            self.choice.events.append("plain: lazy directions are drawn anew at every point; plans need them stored")
            self._fall_back_to_plain()
            return None
        written = objective.batches is not None and objective.batches.written_to
        reason = objective.forward_pass.unplanned or ("its data is written to" if written else "")
        if not objective.forward_pass.by_value or objective.batches is None or reason:
            self.choice.events.append(f"plain: {reason or 'this model or function cannot be taken apart'}")
            self._fall_back_to_plain()
            return None
        with random_state.preserved(self.objective.seed, self.objective.device), torch.no_grad():
            try:
                self.structure = look(self.objective, *self._elsewhere())
            except Exception as error:
                self.choice.events.append(f"plain: looking at the model raised {type(error).__name__}")
                self._fall_back_to_plain()
                return None
        asked = isinstance(wanted, Plan)
        if self._keeps_batches(asked):
            self.choice.events.append("plain: the batches cannot be joined and cut anew")
            return None
        if wanted == "tuned":
            try:
                self.choice.per_point = self._plain_seconds()
            except Exception as error:  # a loss over pairs, say, of a part with one too few
                self.choice.events.append(f"the batches stay as they came: a part of them raised {_in_words(error)}")
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
            self.choice.events.append("plain: done before a plan is found")
            return None
        self._hold_in_other_batches()
        if self._keeps_batches(asked):
            return None
        if isinstance(wanted, Plan):
            return self._prove([wanted if self.structure.joined is not None else replace(wanted, batch_size=None)])
        if wanted == "auto":
            self._by_rules = True
            return self._prove(self._by_rule())
        kept = self._cached()
        if kept is None:
            kept = self._search()
            self.objective.forward_pass.plans[self._key()] = kept
        return self._prove(kept)

    def _keeps_batches(self, asked: bool) -> bool:
        """Whether the plain path is left, since most plans are other batches."""
        return self.structure.joined is None and self.precision == "native" and not asked

    def _hold_in_other_batches(self) -> None:
        """Leave the batches as they came where loss or metrics depend on how the data is cut, at two points."""
        structure = self.structure
        if structure.joined is None:
            return
        held = int(_HOLDING_FLOPS / max(1.0, structure.flops))
        points = [self.chart(probe) for probe in self.probes[: _FULL + 1]]
        found = depends_on_batches(self.objective, structure.joined, structure.samples, points, held)
        if found:
            self.choice.events.append(f"the batches stay as they came: in others {' and '.join(found)} differ")
            structure.joined = self.tuning = None

    def _elsewhere(self) -> list[Params]:
        """Another point, and that with the buffers of each checkpoint on the chart."""
        other = self.chart(self.probes[-1])
        places = () if self.chart.anchors is None else self.chart.anchors.places.tolist()
        return [other, *(algebra.Checkpoint(other, self.chart.buffers(place)) for place in places)]

    # ------------------------------------------------------------------ by rule

    def _set_tuning(self) -> None:
        samples = self.structure.samples
        if samples and self.structure.joined is not None:
            wanted = max(_FEWEST_PROVING, _PROVING_FLOPS / max(1.0, self.structure.flops))
            self.tuning = self._whole_batches(int(min(samples, wanted)))

    def _whole_batches(self, samples: int) -> int:
        """So many samples or fewer that end with one of the batches as they came; as many where the first is longer.

        A rest of one sample is what some models do not take.
        """
        ends = list(itertools.accumulate(next(tensors(batch)).shape[0] for batch in self.objective.batches or []))
        return max((end for end in ends if end <= samples), default=samples)

    def _by_rule(self) -> list[Plan]:
        """From the simplest plan to the boldest."""
        structure, plan = self.structure, Plan(precision=self.precision)
        on_cpu = self.objective.device.type == "cpu"
        kept = [plan]
        if on_cpu and structure.joined is not None:
            fitting = [size for size in _BATCH_SIZES if size * structure.widest <= _IN_CACHE]
            plan = replace(plan, batch_size=min(max(fitting, default=_BATCH_SIZES[0]), structure.samples))
        if on_cpu and structure.convolutional:
            plan = replace(plan, channels_last=True)
        kept.append(plan)
        if structure.folds:
            kept.append(replace(kept[-1], fold_batch_norm=True))
        if self._amortises():
            kept.append(replace(kept[-1], amortize_first_layer=True))
        if on_cpu and structure.linears and self.precision in ("native", "float32") and _has_onednn_linear():
            kept.append(replace(kept[-1], onednn_linear=True))
        if self._may_fuse():
            kept.append(self._fused_plan(self._amortises()))
        return [plan for i, plan in enumerate(kept) if plan not in kept[:i]]

    def _amortises(self) -> bool:
        """Whether the first layer's response is cheaper to keep than to make, and there is room for it."""
        structure = self.structure
        if not structure.first_layer or structure.joined is None or not self.chart.affine:
            return False
        inputs, outputs = structure.first_shape
        parts = 1 + len(self.chart.dims)
        needed = 4.0 * parts * outputs * structure.samples
        return inputs >= _LEAST_INPUTS * parts and needed <= _SHARE * free_bytes(self.objective.device)

    def _may_fuse(self) -> bool:
        on_cpu = self.objective.device.type == "cpu" and self.structure.joined is not None
        return on_cpu and self.precision in ("native", "float32", "bfloat16") and can_compile()

    def _fused_plan(self, amortize: bool) -> Plan:
        size = min(self.structure.samples, _MOST_FUSED)
        return Plan(precision=self.precision, batch_size=size, amortize_first_layer=amortize, fused=True)

    # ------------------------------------------------------------------ by the clock

    def _key(self) -> tuple[object, ...]:
        long = self.choice.per_point * self.total > _WORTH_COMPILING
        kind = self.chart.affine, len(self.chart.dims), bool(self.chart.moving_buffers)
        return self.precision, *kind, long, torch.get_num_threads()

    def _cached(self) -> list[Plan] | None:
        return self.objective.forward_pass.plans.get(self._key())

    def _plain_seconds(self) -> float:
        """Seconds a plain point takes, by a part of the data; sets how much of it plans are tuned on."""
        samples = self.structure.samples
        if self.structure.joined is None:
            started = time.perf_counter()
            self._plain(0, None)
            return time.perf_counter() - started
        part = self._whole_batches(min(samples, 25))
        self._plain(0, part)
        best = min(_clock(lambda: self._plain(0, part, cached=False)) for _ in range(2))
        per_sample = best / part
        self.tuning = self._whole_batches(int(min(samples, max(50, _TUNING_SECONDS / per_sample))))
        return per_sample * samples

    def _search(self) -> list[Plan]:
        """Greedy: from the plain plan, one change after the other; the list holds each plan that was kept."""
        plan = Plan(precision=self.precision)
        structure, affine = self.structure, self.chart.affine
        seconds = self._seconds(plan)
        kept = [plan]
        deadline = time.perf_counter() + max(2.0, 0.05 * self.choice.per_point * self.total)
        for group in self._changes():
            best, best_seconds = plan, seconds * _GAIN
            for change in group:
                if time.perf_counter() > deadline:
                    break
                candidate = change(plan)
                took = self._seconds(candidate)
                if took < best_seconds:
                    best, best_seconds = candidate, took
            if best is not plan:
                plan, seconds = best, best_seconds
                kept.append(plan)
        if self._may_fuse():
            for candidate in {self._fused_plan(False), self._fused_plan(bool(structure.first_layer) and affine)}:
                took = self._seconds(candidate)
                if took < seconds * _GAIN:
                    plan, seconds = candidate, took
                    kept.append(plan)
        if self._may_compile(plan, seconds) and not plan.fused:
            candidate = replace(plan, compiled=True, onednn_linear=False)
            if self._seconds(candidate) < seconds * _GAIN:
                kept.append(candidate)
        return kept

    def _changes(self) -> Iterator[list[Callable[[Plan], Plan]]]:
        """Groups of alternatives, in the order they are tried."""
        structure, tuning = self.structure, self.tuning or 0
        formats = (False, True) if structure.convolutional else (False,)
        if structure.joined is not None:
            sizes = [size for size in _BATCH_SIZES if size <= tuning] or [tuning]
            yield [
                lambda plan, s=size, f=form: replace(plan, batch_size=s, channels_last=f)  # type: ignore[misc]
                for form in reversed(formats)
                for size in sizes
            ]
        elif structure.convolutional:
            yield [lambda plan: replace(plan, channels_last=True)]
        if structure.folds:
            yield [lambda plan: replace(plan, fold_batch_norm=True)]
        if structure.linears and self.objective.device.type == "cpu" and _has_onednn_linear():
            yield [lambda plan: replace(plan, onednn_linear=True)]
        if structure.first_layer and self.chart.affine and structure.joined is not None:
            yield [
                lambda plan: replace(plan, amortize_first_layer=True),
                lambda plan: replace(plan, amortize_first_layer=True, onednn_linear=False),
            ]
        if self.objective.device.type == "cuda" and structure.joined is not None:
            yield [lambda plan, n=count: replace(plan, points=n) for count in _POINTS_AT_ONCE]  # type: ignore[misc]
        if structure.joined is not None:  # with the rest in place the next size up or down may be best
            yield [lambda plan, k=step: replace(plan, batch_size=_next_size(plan, sizes, k)) for step in (-1, 1)]  # type: ignore[misc]

    def _may_compile(self, plan: Plan, seconds: float) -> bool:
        if self.structure.joined is None or self.tuning is None or plan.batch_size is None:
            return False
        if self.tuning < plan.batch_size or not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
            return False
        left = seconds / self.tuning * self.structure.samples * self.total
        return left > _WORTH_COMPILING

    def _seconds(self, plan: Plan) -> float:
        """Seconds a point of the tuning samples takes by a plan; infinite where it fails its first test."""
        try:
            fast = self._build(plan, self.tuning)
            last = len(self.probes) - 1
            found = self._compare(last, self.tuning, fast.steps(self.probes[last]), plan.tolerance)
            if found.reason(plan.tolerance):
                self.choice.events.append(f"left out: {plan} ({found.reason(plan.tolerance)})")
                return math.inf
            if plan.points > 1:
                points = [self.probes[i % len(self.probes)] for i in range(plan.points)]
                return min(_clock(lambda: fast.many(points)) for _ in range(2)) / plan.points
            return min(_clock(lambda: fast(self.probes[last])) for _ in range(2))
        except Exception as error:
            self.choice.events.append(f"left out: {plan} ({_in_words(error)})")
            return math.inf

    def _build(self, plan: Plan, samples: int | None) -> Fast:
        if plan.amortize_first_layer:
            self._require_memory(plan)
        fast = Fast(self.objective, self.chart, self.structure, plan, samples)
        self.choice.compiling += fast.compile_seconds
        if fast.graph is not None and self._by_rules:
            require_weights_in_cache(fast.graph)
        return fast

    def _require_memory(self, plan: Plan) -> None:
        """The responses of the first layer are held for all samples: only where they take a part of what is free."""
        layer = str(self.structure.first_layer)
        with torch.no_grad():
            probe = Fast(
                self.objective, self.chart, self.structure, replace(plan, batch_size=1, fused=False), samples=1
            )
        assert probe._responses is not None
        per_sample = sum(part.numel() * part.element_size() for part in probe._responses[0])
        needed, free = per_sample * self.structure.samples, free_bytes(self.objective.device)
        if needed > _SHARE * free:
            raise MemoryError(f"responses of {layer} take {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB free")

    # ------------------------------------------------------------------ proving

    def _prove(self, kept: list[Plan]) -> Fast | None:
        """The last plan that agrees with the plain path at every probe, and at two on all the data."""
        fell = False
        if not any(math.isfinite(column(self._plain(i, self.tuning), "loss").mean) for i in range(len(self.probes))):
            self.choice.events.append("plain: no probe has a finite loss to hold a plan against")
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
                reason = f"not fused: {failure}" if known else _in_words(failure)
                if len(kept) > 1 and plan is not kept[0]:  # a rule that does not apply is no plan that failed
                    self.choice.events.append(reason if known else f"left out: {plan} ({reason})")
                    continue
            if not reason:
                choice = self.choice
                choice.plan, choice.error, choice.metric_error = plan, found.loss, found.metrics
                choice.differing, choice.compared, choice.probes = found.differing, found.compared, found.probes
                if fell:
                    self._warn(f"the next best, {plan}, is used")
                return self._proven
            fell = True
            self.choice.events.append(f"fell back from: {plan} ({reason})")
        if fell:
            self._warn("the plain path is used")
        self.choice.plan = Plan()
        return None

    def _fall_back_to_plain(self) -> None:
        if self.precision != "native":
            self._warn(f"precision={self.precision!r} is not possible here and the model's own is used")

    def _warn(self, what: str) -> None:
        warnings.warn(
            f"A faster plan did not prove itself ({self.choice.events[-1]}); {what}. "
            "Pass engine=ln.Local(plan='plain') to do without plans.",
            PlanFellBackWarning,
            stacklevel=6,
        )

    def _hold(self, plan: Plan) -> _Agreement:
        """Hold a plan against the plain path: at every probe on the tuning samples, at two on all data."""
        part, held = self._build(plan, self.tuning), _Agreement()
        for i, steps in enumerate(part.many_steps(self.probes) if plan.points > 1 else map(part.steps, self.probes)):
            held.add(self._compare(i, self.tuning, steps, plan.tolerance))
        self._proven = self._build(plan, None)
        if self.tuning is not None and self.tuning != self.structure.samples:
            for i in {0, min(_FULL, len(self.probes) - 1)}:
                held.add(self._compare(i, None, self._proven.steps(self.probes[i]), plan.tolerance))
        return held

    def _compare(self, i: int, samples: int | None, fast: list[StepValues], tolerance: float) -> _Agreement:
        """What a plan gives at a probe beside what the plain path gives."""
        plain, held = self._plain(i, samples), _Agreement(probes=1)
        if set(plain[0][1]) != set(fast[0][1]):
            return _Agreement(loss=math.inf, probes=1)
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
        """How far a count moves at a probe where the outputs move by the tolerance."""
        shaken = Shaken(self.objective.metrics[name], tolerance, self.objective.seed)
        counting = self.objective.forward_pass.measuring(self.objective.forward_pass.loss, {name: shaken})
        return column(self._pass_plain(counting, i, samples), name)

    def _plain(self, i: int, samples: int | None, cached: bool = True) -> list[StepValues]:
        """The plain path at a probe, on the first samples or on all; always in the batches as they came."""
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


@dataclass
class _Agreement:
    """How a plan compares with the plain path at some probes."""

    loss: float = 0.0
    metrics: float = 0.0
    metric: str = ""  # that is farthest off
    differing: dict[str, int] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)
    compared: int = 0
    probes: int = 0

    def worst(self, name: str, error: float) -> None:
        """Keep the error of a metric where it is the largest."""
        if not error <= self.metrics:
            self.metrics, self.metric = error, name

    def add(self, other: _Agreement) -> None:
        """Take another probe in."""
        self.loss = max(self.loss, other.loss)
        self.worst(other.metric, other.metrics)
        for name, count in other.differing.items():
            self.differing[name] = self.differing.get(name, 0) + count
        self.unexplained += other.unexplained
        self.compared += other.compared
        self.probes += other.probes

    def reason(self, tolerance: float) -> str:
        """Why the plan is not used; empty where it may be."""
        allowed = f", allowed {tolerance:.0e}"
        if not self.loss <= tolerance:
            return f"off by {self.loss:.1e}{allowed}"
        if not self.metrics <= tolerance:
            return f"{self.metric} off by {self.metrics:.1e}{allowed}"
        if self.unexplained:
            return f"{self.unexplained[0]} differs in samples that no rounding explains"
        return ""


def _next_size(plan: Plan, sizes: list[int], step: int) -> int | None:
    """The size before or after the plan's among those that are tried; its own at the ends."""
    if plan.batch_size not in sizes:
        return plan.batch_size
    return sizes[min(max(sizes.index(plan.batch_size) + step, 0), len(sizes) - 1)]


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"


def _clock(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _has_onednn_linear() -> bool:
    """Whether this torch has the private operator, and it works."""
    try:
        x = torch.eye(2)
        return torch.equal(torch.ops.mkldnn._linear_pointwise(x, x, None, "none", [], ""), x)
    except Exception:
        return False
