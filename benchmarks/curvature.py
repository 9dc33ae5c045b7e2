"""What curvature costs on ResNet-56 with 200 images: products and seconds, at the centre and beside it.

Seconds are those of the processor on one thread, which other processes lengthen little.

    python -m benchmarks.curvature [--quick] [--json]

``--quick`` takes the notebook's CNN on digits, and compares with SciPy's `eigsh` too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

import lossnav as ln
from benchmarks.common import machine, options, report
from benchmarks.workloads import cnn_digits, resnet56
from lossnav.curvature.eigen import random_vector

TOLERANCE = 1e-3
STEP, POINTS = 0.04, 3  # 51 points from -1 to 1


def main() -> None:
    chosen = options(__doc__ or "")
    torch.set_num_threads(1)
    work = cnn_digits(100) if chosen.quick else resnet56(200)
    objective = ln.Objective(work.model, work.loss, (work.x, work.y))
    hessian = ln.curvature.Hessian(objective)
    vector = random_vector(hessian, 0)
    result: dict[str, Any] = {"machine": machine(), "model": work.name, "parameters": hessian.size}
    result["seconds, evaluation"] = seconds(lambda: objective.evaluate(objective.params))
    result["seconds, gradient"] = seconds(lambda: hessian.derive())
    result["seconds, Hessian-vector product"] = seconds(lambda: hessian.derive([vector]))

    for which in ("largest", "both"):
        started = time.process_time()
        pairs = ln.curvature.top_eigenpairs(objective, which=which, tolerance=TOLERANCE)
        result[f"{which}: values"] = pairs.values.tolist()
        result[f"{which}: errors"] = pairs.errors.tolist()
        result[f"{which}: products"] = pairs.products
        result[f"{which}: seconds"] = time.process_time() - started
    if chosen.quick:
        result["eigsh, largest: products"] = arpack(hessian, vector.numpy(), "LA", 1)
        result["eigsh, both: products"] = arpack(hessian, vector.numpy(), "BE", 2)

    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))
    grid = ln.Grid(alpha=[i * STEP for i in range(POINTS)], beta=[0.0, STEP])
    started = time.process_time()
    found = ln.curvature.on_chart(objective, plane, grid, tolerance=TOLERANCE)
    result["grid: products"] = found["products"].values.tolist()
    result["grid: seconds a point"] = (time.process_time() - started) / found["loss"].size
    report(result, chosen.json)


def seconds(call: Callable[[], Any]) -> float:
    """Of the processor, the second time."""
    call()
    started = time.process_time()
    call()
    return time.process_time() - started


def arpack(hessian: ln.curvature.Hessian, start: NDArray[np.float64], which: str, k: int) -> int:
    """How many products SciPy takes from the same vector."""
    count = 0

    def product(v: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal count
        count += 1
        made: NDArray[np.float64] = hessian.derive([torch.from_numpy(v.reshape(-1).copy())]).products[0].numpy()
        return made

    operator = LinearOperator((hessian.size, hessian.size), matvec=product, dtype=np.float64)
    eigsh(operator, k=k, which=which, tol=TOLERANCE, v0=start, return_eigenvectors=False)
    return count


if __name__ == "__main__":
    main()
