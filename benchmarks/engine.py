"""The engine against the plain loop and the peers, on four workloads, planning and compiling included.

The plain loop: `functional_call` and `inference_mode`, the whole data set as one batch, data resident. All contenders
are timed in one process, interleaved, medians over the rounds; a ratio is for a 51x51 plane: (plain seconds a point x
2,601) over (planning seconds + seconds a point x 2,601). Values are held against the plain loop's at the same points.

    python -m benchmarks.engine [--quick] [--json] [--only cnn,resnet56,mlp,gpt]

Peers are measured where they are installed (see benchmarks/peers.py).
"""

from __future__ import annotations

import resource
import statistics
import time
from typing import Any

import numpy as np
import torch
from torch.func import functional_call

import lossnav as ln
from benchmarks import peers, workloads
from benchmarks.common import machine, options, paired, report
from lossnav.acceleration import ChartFunction
from lossnav.evaluation.center import probe_points

PLANE = 51 * 51
SIZES = {"cnn": (1000, 200), "resnet56": (1000, 25), "mlp": (10_000, 1000), "gpt": (64, 8)}  # samples: full, quick


def matmul_peak() -> float:
    """GFLOP/s of a float32 matrix product of 2,048 x 2,048: the machine's measured peak."""
    a = torch.randn(2048, 2048)
    best = min(_clock(lambda: a @ a) for _ in range(5))
    return 2 * 2048**3 / best / 1e9


def measure(name: str, quick: bool, rounds: int) -> dict[str, Any]:
    """Measure one workload."""
    workload = getattr(workloads, name)(SIZES[name][quick])
    objective = ln.Objective(workload.model, workload.loss, (workload.x, workload.y))
    d1, d2 = ln.directions.random(objective, n=2, seed=0)
    plane = ln.Plane(objective.params, d1, d2)
    points = np.random.default_rng(1).uniform(-1, 1, size=(1 if quick else 3, 2))
    probes = probe_points(ln.Grid(alpha=(-1, 1, 51), beta=(-1, 1, 51)))
    center = objective.params

    def plain() -> list[float]:
        found = []
        with torch.inference_mode():
            for alpha, beta in points:
                theta = {n: center[n] + alpha * d1[n] + beta * d2[n] for n in center}
                found.append(float(workload.loss(functional_call(workload.model, theta, (workload.x,)), workload.y)))
        return found

    result: dict[str, Any] = {"samples": len(workload.x)}
    contenders: dict[str, Any] = {"plain loop": plain}
    planned = {}
    for precision in ("native", "bfloat16"):
        label = "lossnav" if precision == "native" else "lossnav bfloat16"
        total = 60 if quick else PLANE
        function = ChartFunction(objective, plane).accelerate(probes, total, precision)
        planned[label] = function
        contenders[label] = lambda f=function: [f(point)["loss"] for point in points]
        result[f"{label}: plan"] = str(function.choice.plan)
        result[f"{label}: planning s"] = function.choice.seconds
        result[f"{label}: plan error at probes"] = function.choice.error
    others, missing = peers.available(workload)
    contenders |= others
    counts = {name: len(points) for name in ("plain loop", *planned)} | dict.fromkeys(others, peers.POINTS)

    seconds = paired(contenders, rounds)
    per_point = {name: [s / counts[name] for s in values] for name, values in seconds.items()}
    truth = plain()
    for label, function in planned.items():
        ours = [function(point)["loss"] for point in points]
        result[f"{label}: largest relative difference"] = max(
            abs(a - b) / abs(a) for a, b in zip(truth, ours, strict=True)
        )
    for name, values in per_point.items():
        result[f"{name}: ms a point"] = 1e3 * statistics.median(values)

    def whole(name: str, i: int) -> float:
        planning = planned[name].choice.seconds if name in planned else 0.0
        return planning + per_point[name][i] * PLANE

    for name in contenders:
        if name != "plain loop":
            result[f"plain loop / {name}"] = statistics.median(
                whole("plain loop", i) / whole(name, i) for i in range(rounds)
            )
    if others:
        best = min(others, key=lambda name: statistics.median(per_point[name]))
        result["best peer"] = best
        for label in planned:
            result[f"best peer / {label}"] = statistics.median(whole(best, i) / whole(label, i) for i in range(rounds))
    result["peers that did not run"] = missing or "none"
    result["peak resident MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def _clock(run: Any) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    chosen = options(__doc__ or "", only=",".join(SIZES))
    result: dict[str, Any] = {"machine": machine(), "matmul peak GFLOP/s": matmul_peak()}
    for name in chosen.only.split(","):
        for key, value in measure(name, chosen.quick, chosen.rounds or (1 if chosen.quick else 5)).items():
            result[f"{name}: {key}"] = value
    report(result, chosen.json)


if __name__ == "__main__":
    main()
