"""Error against points, and the time to a picture that is right to one percent.

For each workload a plane of filter-normalised directions, [-1, 1] x [-1, 1], is evaluated on a full grid (51x51, and
201x201), which is the reference. Then the same picture from fewer points: a coarse grid drawn linearly, as every tool
does; a coarse grid with a tensor cubic spline of log-loss; `ln.Adaptive`. Errors are relative errors of the loss over
the whole reference. Each adaptive picture's own error estimate stands beside its true error.

Timed, in one process and interleaved: points of the plain loop (`functional_call` and `inference_mode`, the whole data
set as one batch), and the whole call `ln.evaluate(objective, plane, ln.Adaptive(tolerance=0.01))`, its planning, proof
and compiling included (kernels are compiled anew in every round). The loop's time over a full grid is extrapolated
from its measured time a point.

    python -m benchmarks.adaptive [--quick] [--json] [--only digits,mnist,mlp,line,resnet56] [--keep FOLDER]

The whole takes an hour, nearly all of it for the references; with --keep they are kept for the next time.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, RectBivariateSpline, RegularGridInterpolator
from torch.func import functional_call

import lossnav as ln
from benchmarks import workloads
from benchmarks.common import machine, options, report
from lossnav._utils.geometry import mesh

Array = NDArray[np.float64]


class Case(NamedTuple):
    """A workload, its samples (full, quick), the sides of its reference grids, and the tolerance asked for."""

    make: Callable[[int], workloads.Workload]
    samples: tuple[int, int]
    references: tuple[int, ...]
    tolerance: float = 0.01
    dims: int = 2


CASES = {
    "digits": Case(workloads.cnn_digits, (400, 100), (51, 201)),
    "mnist": Case(workloads.cnn, (1000, 100), (51, 201)),
    "mlp": Case(workloads.mlp, (10_000, 1000), (51, 201)),
    "line": Case(workloads.cnn, (1000, 100), (201,), dims=1),
    "resnet56": Case(workloads.resnet56, (500, 10), (51,), tolerance=0.015),
}


def measure(name: str, quick: bool, rounds: int, keep: Path | None) -> dict[str, Any]:
    """Measure one workload."""
    case = CASES[name]
    workload = case.make(case.samples[quick])
    objective = ln.Objective(workload.model, workload.loss, (workload.x, workload.y))
    drawn = ln.directions.random(objective, n=2, seed=0)[: case.dims]
    chart = (ln.Line, ln.Plane)[case.dims - 1](objective.params, *drawn)
    sides = tuple(side for side in case.references if side < 51) if quick else case.references
    sides = sides or (11,)
    result: dict[str, Any] = {"samples": len(workload.x), "tolerance": case.tolerance}
    result |= times(workload, objective, chart, case, sides, quick, rounds)
    for side in sides:
        truth = reference(objective, chart, side, keep)
        result[f"{side}: loss"] = f"{truth.min():.4g} to {truth.max():.4g}"
        for label, count, errors in [*coarse(truth), *sampled(objective, chart, truth, case, quick)]:
            key = f"{side}: {label}, {count} points"
            result[f"{key}: largest error"] = errors["largest"]
            result[f"{key}: 99th percentile"] = errors["p99"]
            if "own" in errors:
                result[f"{key}: own estimate"] = errors["own"]
                result[f"{key}: own estimate / largest error"] = errors["own"] / errors["largest"]
                result[f"{key}: unresolved cells"] = errors["unresolved"]
    return result


# ---------------------------------------------------------------------- errors


def reference(objective: ln.Objective, chart: ln.charts.Chart, side: int, keep: Path | None) -> Array:
    """Losses on the full grid, shape (side,) * k."""
    made_of = f"{objective.describe()['fingerprint']} {objective.samples} {chart.describe()} {side}"
    file = keep / f"{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.npy" if keep else None
    if file is not None and file.exists():
        kept: Array = np.load(file)
        return kept
    axes: dict[str, Any] = dict.fromkeys(chart.dims, (-1, 1, side))
    losses: Array = ln.evaluate(objective, chart, ln.Grid(**axes), progress=None)["loss"].values
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, losses)
    return losses


def against(found: Array, truth: Array) -> dict[str, float]:
    """Largest relative error of the loss, and its 99th percentile."""
    errors = np.abs(found / truth - 1).reshape(-1)
    return {"largest": float(errors.max()), "p99": float(np.quantile(errors, 0.99))}


def coarse(truth: Array) -> Iterator[tuple[str, int, dict[str, float]]]:
    """Every coarse grid whose points are points of the reference, drawn linearly and by a cubic spline of log-loss."""
    side, k = len(truth), truth.ndim
    axis = np.linspace(-1, 1, side)
    places = mesh([axis] * k)
    for step in (s for s in range(side // 4, 1, -1) if (side - 1) % s == 0):
        part = axis[::step]
        values = truth[(slice(None, None, step),) * k]
        linear = RegularGridInterpolator([part] * k, values)(places).reshape(truth.shape)
        yield f"full {'x'.join([str(len(part))] * k)} grid, linear", values.size, against(linear, truth)
        if k == 1:
            cubic = CubicSpline(part, np.log(values))(axis)
        else:
            cubic = RectBivariateSpline(part, part, np.log(values))(axis, axis)
        yield f"coarse {'x'.join([str(len(part))] * k)} grid, cubic", values.size, against(np.exp(cubic), truth)


def sampled(
    objective: ln.Objective, chart: ln.charts.Chart, truth: Array, case: Case, quick: bool
) -> Iterator[tuple[str, int, dict[str, float]]]:
    """`Adaptive` at tolerances around the one asked for, with what it says itself of its error."""
    ends: dict[str, Any] = dict.fromkeys(chart.dims, (-1, 1))
    for tolerance in (case.tolerance,) if quick else (5 * case.tolerance, 2 * case.tolerance, case.tolerance):
        surface = ln.evaluate(objective, chart, ln.Adaptive(**ends, tolerance=tolerance), progress=False)
        found = surface.lossnav.to_grid(len(truth))["loss"].values
        outcome = surface.attrs["sampler"]["outcome"]
        said = {"own": float(outcome["estimated_error"]), "unresolved": int(outcome["unresolved"])}
        yield f"Adaptive({tolerance:g})", surface.sizes["point"], against(found, truth) | said


# ---------------------------------------------------------------------- times


def times(
    workload: workloads.Workload,
    objective: ln.Objective,
    chart: ln.charts.Chart,
    case: Case,
    sides: tuple[int, ...],
    quick: bool,
    rounds: int,
) -> dict[str, Any]:
    """Time the plain loop a point, and the adaptive picture from the call to its grid."""
    ends: dict[str, Any] = dict.fromkeys(chart.dims, (-1, 1))
    points = np.random.default_rng(1).uniform(-1, 1, size=(1 if quick else 5, len(chart.dims)))
    model = workload.model

    def plain() -> None:
        with torch.inference_mode():
            for point in points:
                float(workload.loss(functional_call(model, chart(point), (workload.x,)), workload.y))

    plain()
    loop, ours, planning, first, counts = [], [], [], [], []
    for _ in range(rounds):
        started = time.perf_counter()
        plain()
        loop.append((time.perf_counter() - started) / len(points))
        with tempfile.TemporaryDirectory() as empty, mock.patch.dict(os.environ, XDG_CACHE_HOME=empty):
            started = time.perf_counter()
            sampler = ln.Adaptive(**ends, tolerance=case.tolerance)
            surface = ln.evaluate(objective, chart, sampler, progress=False)
            surface.lossnav.to_grid(max(sides))
            ours.append(time.perf_counter() - started)
        counts.append(surface.sizes["point"])
        planning.append(surface.attrs["engine"].get("plan_seconds", 0.0))
        stamps: list[float] = []
        started = time.perf_counter()
        axes: dict[str, Any] = dict.fromkeys(chart.dims, (-1, 1, 51))
        for partial in ln.stream(objective, chart, ln.Grid(**axes)):
            stamps.append(time.perf_counter() - started - partial.attrs["engine"].get("plan_seconds", 0.0))
            break
        first.append(stamps[0])
    found: dict[str, Any] = {
        "plain loop: ms a point": 1e3 * statistics.median(loop),
        "plan": surface.attrs["engine"]["plan"],
        "Adaptive: points": counts[-1],
        "Adaptive: s, planning included": statistics.median(ours),
        "Adaptive: planning s": statistics.median(planning),
        "first coarse picture: s after planning": statistics.median(first),
    }
    for side in sides:
        label = f"plain loop over {'x'.join([str(side)] * len(chart.dims))} (extrapolated) / Adaptive"
        found[label] = statistics.median(a * side ** len(chart.dims) / b for a, b in zip(loop, ours, strict=True))
    return found


def main() -> None:
    chosen = options(__doc__ or "", only=",".join(CASES), keep=True)
    result: dict[str, Any] = {"machine": machine()}
    for name in chosen.only.split(","):
        rounds = chosen.rounds or (1 if chosen.quick else 5)
        for key, value in measure(name, chosen.quick, rounds, chosen.keep).items():
            result[f"{name}: {key}"] = value
    report(result, chosen.json)


if __name__ == "__main__":
    main()
