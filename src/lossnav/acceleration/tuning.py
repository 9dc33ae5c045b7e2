"""Plans chosen by the clock: one change after another is timed on a part of the data, and kept if it is faster."""

from __future__ import annotations

import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from lossnav.acceleration.proof import PlanProof, in_words
from lossnav.acceleration.rules import BATCH_SIZES, fused_plan, has_onednn_linear, may_fuse
from lossnav.engines.plan import Plan
from lossnav.objective.batch_tensors import tensors

_TUNING_SECONDS = 0.1  # of plain work per timing: long enough to be reliable, a hundredth of a usual run
_FEWEST_PROVING = 30  # samples
_PROVING_FLOPS = 1e9  # of one pass over the part of the data on which all probes are compared with the plain path
WORTH_COMPILING = 300.0  # seconds of work left above which 10-25 s of compiling are risked
_GAIN = 0.97  # a change is kept if it takes less than this part of the time
_POINTS_AT_ONCE = (4, 16, 64)  # on a GPU; on the CPU it does not pay


class Tuning(PlanProof):
    """Finds plans by timing them, and sets how many samples plans are compared and timed on."""

    def _set_tuning(self) -> None:
        samples = self.structure.samples
        if samples and self.structure.joined is not None:
            wanted = max(_FEWEST_PROVING, _PROVING_FLOPS / max(1.0, self.structure.flops))
            self.tuning = self._whole_batches(int(min(samples, wanted)))

    def _whole_batches(self, samples: int) -> int:
        """Return the largest number of samples up to `samples` that consists of whole batches.

        If the first batch is longer, return `samples`. Whole batches leave no rest of one sample, on which some models
        fail.
        """
        ends = list(itertools.accumulate(next(tensors(batch)).shape[0] for batch in self.objective.batches or []))
        return max((end for end in ends if end <= samples), default=samples)

    def _plain_seconds(self) -> float:
        """Estimate the seconds per plain point from a part of the data; set the part on which plans are tuned."""
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
        """Improve the plain plan greedily, one change after another; return each plan that was kept."""
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
        if may_fuse(self.structure, self.precision, self.objective.device):
            amortizes = bool(structure.first_layer) and affine
            for candidate in {fused_plan(structure, self.precision, each) for each in (False, amortizes)}:
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
        """Yield groups of alternative changes, in the order in which they are tried."""
        structure, tuning = self.structure, self.tuning or 0
        formats = (False, True) if structure.convolutional else (False,)
        if structure.joined is not None:
            sizes = [size for size in BATCH_SIZES if size <= tuning] or [tuning]
            yield [
                lambda plan, s=size, f=form: replace(plan, batch_size=s, channels_last=f)  # type: ignore[misc]
                for form in reversed(formats)
                for size in sizes
            ]
        elif structure.convolutional:
            yield [lambda plan: replace(plan, channels_last=True)]
        if structure.folds:
            yield [lambda plan: replace(plan, fold_batch_norm=True)]
        if structure.linears and self.objective.device.type == "cpu" and has_onednn_linear():
            yield [lambda plan: replace(plan, onednn_linear=True)]
        if structure.first_layer and self.chart.affine and structure.joined is not None:
            yield [
                lambda plan: replace(plan, amortize_first_layer=True),
                lambda plan: replace(plan, amortize_first_layer=True, onednn_linear=False),
            ]
        if self.objective.device.type == "cuda" and structure.joined is not None:
            yield [lambda plan, n=count: replace(plan, points=n) for count in _POINTS_AT_ONCE]  # type: ignore[misc]
        if structure.joined is not None:  # with the other changes, the next smaller or larger size may be best
            yield [lambda plan, k=step: replace(plan, batch_size=_next_size(plan, sizes, k)) for step in (-1, 1)]  # type: ignore[misc]

    def _may_compile(self, plan: Plan, seconds: float) -> bool:
        if self.structure.joined is None or self.tuning is None or plan.batch_size is None:
            return False
        if self.tuning < plan.batch_size or not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
            return False
        left = seconds / self.tuning * self.structure.samples * self.total
        return left > WORTH_COMPILING

    def _seconds(self, plan: Plan) -> float:
        """Time one point of the tuning samples with a plan; infinite if the plan fails its first comparison."""
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
            self.choice.events.append(f"left out: {plan} ({in_words(error)})")
            return math.inf


def _next_size(plan: Plan, sizes: list[int], step: int) -> int | None:
    """Return the next smaller or larger batch size that is tried; the plan's own at either end."""
    if plan.batch_size not in sizes:
        return plan.batch_size
    return sizes[min(max(sizes.index(plan.batch_size) + step, 0), len(sizes) - 1)]


def _clock(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
