"""What curvature costs on ResNet-56: products and seconds for the ends of the spectrum, at the centre and along a row.

Seconds are those of the processor (one thread), which other processes do not lengthen.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

import lossnav as ln
from benchmarks.workloads import resnet56
from lossnav.curvature.chart import on_chart
from lossnav.curvature.eigen import random_vector, top_eigenpairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--points", type=int, default=5, help="along a filter-normalised direction, from the centre")
    parser.add_argument("--step", type=float, default=0.04, help="between them; 0.04 as on 51 points from -1 to 1")
    parser.add_argument("--arpack", action="store_true", help="the ends of the spectrum by SciPy's eigsh too")
    asked = parser.parse_args()

    torch.set_num_threads(1)
    work = resnet56(asked.samples)
    objective = ln.Objective(work.model, work.loss, (work.x, work.y))
    print(f"{work.name}, {asked.samples} images, one thread, tolerance {asked.tolerance:g}")

    hessian = ln.curvature.Hessian(objective)
    vector = random_vector(hessian, 0)
    for what, call in (
        ("evaluation", lambda: objective.evaluate(objective.params)),
        ("gradient", lambda: hessian.derive()),
        ("Hessian-vector product", lambda: hessian.derive([vector])),
    ):
        call()
        started = time.process_time()
        call()
        print(f"one {what}: {time.process_time() - started:.2f} s", flush=True)

    for which in ("largest", "both"):
        started = time.process_time()
        pairs = top_eigenpairs(objective, which=which, tolerance=asked.tolerance)
        seconds = time.process_time() - started
        values = ", ".join(f"{v:.6g} ± {e:.1g}" for v, e in zip(pairs.values, pairs.errors, strict=True))
        print(f"{which}: {values}; {pairs.products} products, {seconds:.0f} s", flush=True)

    if asked.arpack:
        for which in ("LA", "BE"):
            arpack(hessian, vector.numpy(), which, asked.tolerance)

    (direction,) = ln.directions.random(objective, seed=0)
    axis = [i * asked.step for i in range(asked.points)]
    started = time.process_time()
    row = on_chart(
        objective, ln.Line(objective.params, direction), ln.Grid(alpha=axis), tolerance=asked.tolerance, progress=True
    )
    seconds = time.process_time() - started
    for alpha in row["alpha"].values:
        point = {name: float(value) for name, value in row.sel(alpha=alpha).drop_vars("hessian_in_plane").items()}
        print(
            f"alpha {alpha:.3g}: loss {point['loss']:.4g}, λmin {point['lambda_min']:.5g}, "
            f"λmax {point['lambda_max']:.5g}, ratio {point['lambda_ratio']:.3g}, {point['products']:.0f} products"
        )
    print(f"{asked.points} points: {seconds:.0f} s, {seconds / asked.points:.0f} s a point")


def arpack(hessian: ln.curvature.Hessian, start: NDArray[np.float64], which: str, tolerance: float) -> None:
    """The same by SciPy, from the same vector."""
    count = 0

    def product(v: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal count
        count += 1
        made: NDArray[np.float64] = hessian.derive([torch.from_numpy(v.reshape(-1).copy())]).products[0].numpy()
        return made

    operator = LinearOperator((hessian.size, hessian.size), matvec=product, dtype=np.float64)
    options: dict[str, Any] = {"which": which, "tol": tolerance, "v0": start, "return_eigenvectors": False}
    started = time.process_time()
    found = eigsh(operator, k=2 if which == "BE" else 1, **options)
    print(f"eigsh {which}: {found}; {count} products, {time.process_time() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
