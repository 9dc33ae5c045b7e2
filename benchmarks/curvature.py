"""What curvature costs on ResNet-56: passes over the data and seconds, at the centre and along a row of a plane."""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

import lossnav as ln
from benchmarks.workloads import resnet56
from lossnav.curvature.eigen import random_vector


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--points", type=int, default=5, help="of a row of the plane")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--arpack", action="store_true", help="the same ends by SciPy's eigsh")
    asked = parser.parse_args()

    work = resnet56(asked.samples)
    objective = ln.Objective(work.model, work.loss, (work.x, work.y))
    print(f"{work.name}, {asked.samples} images, {torch.get_num_threads()} thread(s), tolerance {asked.tolerance:g}")

    started = time.perf_counter()
    objective.evaluate(objective.params)
    print(f"one evaluation: {time.perf_counter() - started:.2f} s")
    hessian = ln.curvature.Hessian(objective)
    vector = random_vector(hessian, 0)
    hessian.derive([vector])
    started = time.perf_counter()
    hessian.derive([vector])
    print(f"one product: {time.perf_counter() - started:.2f} s")

    for which in ("largest", "smallest", "both"):
        started = time.perf_counter()
        pairs = ln.curvature.top_eigenpairs(objective, which=which, tolerance=asked.tolerance, progress=True)
        seconds = time.perf_counter() - started
        values = ", ".join(f"{v:.5g} ± {e:.1g}" for v, e in zip(pairs.values, pairs.errors, strict=True))
        print(f"{which}: {values}; {pairs.products} products, {seconds:.0f} s")

    if asked.arpack:
        for which in ("LA", "SA", "BE"):
            count = [0]

            def product(v: np.ndarray, count: list[int] = count) -> np.ndarray:
                count[0] += 1
                return hessian.derive([torch.from_numpy(v.reshape(-1))]).products[0].numpy()

            operator = LinearOperator((hessian.size, hessian.size), matvec=product, dtype=np.float64)
            started = time.perf_counter()
            options = {"which": which, "tol": asked.tolerance, "v0": vector.numpy(), "return_eigenvectors": False}
            found = eigsh(operator, k=2 if which == "BE" else 1, **options)
            print(f"eigsh {which}: {found}; {count[0]} products, {time.perf_counter() - started:.0f} s")

    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))
    axis = [float(x) for x in np.linspace(-1, 1, 2 * asked.points - 1)[: asked.points]]
    started = time.perf_counter()
    row = ln.curvature.on_chart(
        objective,
        ln.Line(plane.center, plane.basis[0]),
        ln.Grid(alpha=axis),
        tolerance=asked.tolerance,
        progress=True,
    )
    for at in row.transpose("alpha", ...).alpha.values:
        point = row.sel(alpha=at)
        print(
            f"alpha {at:+.3f}: loss {float(point.loss):.4g}, lambda_min {float(point.lambda_min):.4g}, "
            f"lambda_max {float(point.lambda_max):.4g}, {int(point.products)} products"
        )
    print(f"{asked.points} points: {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
