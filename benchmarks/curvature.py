"""Curvature of ResNet-56 on 1,000 images beside PyHessian and curvlinops, on the same work in one run.

    python -m benchmarks.curvature [--only products,largest,both,density] [--rounds 3] [--quick] [--json]

``products``: one Hessian-vector product, and five at once; rounds of all contenders, one after the other; last
PyHessian on all images as one batch, whose graph it keeps (14 GB here). ``largest``: lambda_max to 1 %. ``both``:
lambda_min and lambda_max, to 1 % each. ``density``: 5 probes of 50 steps; of the peers one probe of 5 steps, times 50,
since a step costs them the same as any other (``--only whole``: all of it). ``chart``: what a warm start saves on 200
images (on request). Seconds are those of a clock, with as many threads as torch takes. Peers are looked for as
`benchmarks.curvature_peers` says, and left out with a reason where they are not there.

Numbers are said on stderr as they come. At 11 s a product all four take some two and a half hours, a part each run.
``--quick`` takes the notebook's CNN on digits, in a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

import lossnav as ln
from benchmarks.common import Told, machine, options, paired, ratio, report
from benchmarks.curvature_peers import Peer, arpack, available
from benchmarks.workloads import Workload, cnn_digits, resnet56
from lossnav.curvature.eigen import random_vector

PARTS = "products,largest,both,density"
TOLERANCE = 1e-2
PROBES, STEPS = 5, 50
SAMPLED = 5  # steps of a peer's density
STEP, POINTS = 0.04, 3  # of a chart: 51 points from -1 to 1
WARM_TOLERANCE = 1e-3


def main() -> None:
    chosen = options(__doc__ or "", only=PARTS)
    parts = chosen.only.split(",")
    work = cnn_digits(100) if chosen.quick else resnet56(1000)
    objective = ln.Objective(work.model, work.loss, (work.x, work.y))
    batches = [tuple(batch) for batch in objective.batches or ()]
    peers, missing = available(work, batches)
    result: dict[str, Any] = {"machine": machine(), "model": work.name, "images": len(work.x)}
    result |= {f"left out: {name}": reason for name, reason in missing.items()}
    if "products" in parts:
        result |= products(objective, peers, chosen.rounds or (2 if chosen.quick else 3))
    for which in ("largest", "both"):
        if which in parts:
            result |= ends(objective, peers, which)
    if "density" in parts or "whole" in parts:
        result |= density(objective, peers, "whole" in parts)
    if "chart" in parts:
        result |= chart(cnn_digits(100) if chosen.quick else resnet56(200))
    report(result, chosen.json)


def products(objective: ln.Objective, peers: Mapping[str, Peer], rounds: int) -> dict[str, Any]:
    """One product, and five in a block: seconds, ratios, and how far from ours the peers' numbers are."""
    hessian = ln.curvature.Hessian(objective)
    vectors = torch.stack([random_vector(hessian, seed) for seed in range(5)])
    result = Told(parameters=hessian.size)
    ours = hessian.derive([vectors[0]]).products[0]
    for name, peer in peers.items():
        apart = torch.linalg.vector_norm(peer.product(vectors[0]).double() - ours) / torch.linalg.vector_norm(ours)
        result[f"product: {name} from ours, relative"] = float(apart)
    one: dict[str, Callable[[], Any]] = {"ours": lambda: hessian.derive([vectors[0]])}
    five: dict[str, Callable[[], Any]] = {"ours": lambda: hessian.derive(list(vectors))}
    one["gradient, ours"] = hessian.derive
    for name, peer in peers.items():
        one[name] = lambda peer=peer: peer.product(vectors[0])  # type: ignore[misc]
        five[name] = lambda peer=peer: peer.block(vectors)  # type: ignore[misc]
    for what, contenders in (("product", one), ("block of 5", five)):
        seconds = paired(contenders, rounds)
        result |= {f"{what}: {name}, seconds": min(values) for name, values in seconds.items()}
        result |= {f"{what}: {name} / ours": ratio(seconds, name, "ours") for name in peers}
    if "PyHessian" in peers:
        result |= whole_batch(peers["PyHessian"], one["ours"], vectors[0], rounds)
    return result


def whole_batch(peer: Peer, ours: Callable[[], Any], vector: torch.Tensor, rounds: int) -> dict[str, Any]:
    """PyHessian where all images are one batch: it then keeps their graph from one product to the next, as ours do."""
    name = "PyHessian, one batch"
    started = time.perf_counter()
    try:
        kept = peer.keeping()
    except (MemoryError, RuntimeError) as error:
        return {f"left out: {name}": str(error)}
    result: dict[str, Any] = {f"product: {name}, seconds to begin": time.perf_counter() - started}
    seconds = paired({"ours": ours, name: lambda: kept(vector)}, rounds)
    return result | {
        f"product: {name}, seconds": min(seconds[name]),
        f"product: {name} / ours": ratio(seconds, name, "ours"),
    }


def ends(objective: ln.Objective, peers: Mapping[str, Peer], which: Literal["largest", "both"]) -> dict[str, Any]:
    """lambda_max, or both ends, to 1 %: values, products, seconds."""
    result = Told()
    started = time.perf_counter()
    pairs = ln.curvature.top_eigenpairs(
        ln.curvature.Hessian(objective), which=which, tolerance=TOLERANCE, progress=False
    )
    ours = time.perf_counter() - started
    result[f"{which}: ours, values"] = pairs.values.tolist()
    result[f"{which}: ours, errors"] = pairs.errors.tolist()
    result[f"{which}: ours, products"] = pairs.products
    result[f"{which}: ours, seconds"] = ours
    for name, peer in peers.items():
        started = time.perf_counter()
        try:
            values, count = getattr(peer, which)(TOLERANCE)
        except NotImplementedError as reason:
            result[f"{which}: left out: {name}"] = str(reason)
            continue
        seconds = time.perf_counter() - started
        result[f"{which}: {name}, values"] = values
        result[f"{which}: {name}, products"] = count
        result[f"{which}: {name}, seconds"] = seconds
        result[f"{which}: {name} / ours"] = seconds / ours
    return result


def density(objective: ln.Objective, peers: Mapping[str, Peer], whole: bool) -> dict[str, Any]:
    """Seconds to a spectral density: ours in full; of the peers a part, times what it is a part of, unless whole."""
    started = time.perf_counter()
    found = ln.curvature.spectral_density(ln.curvature.Hessian(objective), probes=PROBES, steps=STEPS, progress=False)
    ours = time.perf_counter() - started
    result = Told()
    result |= {"density: ours, products": found.products, "density: ours, passes": found.passes}
    result |= {"density: ours, seconds": ours, "density: ours, mean eigenvalue": found.mean.value}
    around = float(found.nodes.min()), float(found.nodes.max())
    for name, peer in peers.items():
        probes, steps = (PROBES, STEPS) if whole else (1, SAMPLED)
        started = time.perf_counter()
        peer.density(probes, steps, around)
        seconds = (time.perf_counter() - started) * PROBES * STEPS / (probes * steps)
        result[f"density: {name}, seconds{'' if whole else ' (of a part, times the rest)'}"] = seconds
        result[f"density: {name} / ours"] = seconds / ours
    return result


def chart(work: Workload) -> dict[str, Any]:
    """Products at the centre and beside it, where each point begins with its neighbour's eigenvectors."""
    objective = ln.Objective(work.model, work.loss, (work.x, work.y))
    result: dict[str, Any] = {}
    for which in ("largest", "both"):
        pairs = ln.curvature.top_eigenpairs(
            ln.curvature.Hessian(objective), which=which, tolerance=WARM_TOLERANCE, progress=False
        )
        result[f"chart: centre, {which}, products"] = pairs.products
    hessian = ln.curvature.Hessian(objective)
    for which, k in (("LA", 1), ("BE", 2)):
        _, count = arpack(
            lambda v: hessian.derive([torch.from_numpy(v)]).products[0].numpy(), hessian.size, which, k, WARM_TOLERANCE
        )
        result[f"chart: centre, SciPy's {which}, products"] = count
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))
    grid = ln.Grid(alpha=[i * STEP for i in range(POINTS)], beta=[0.0, STEP])
    started = time.perf_counter()
    found = ln.evaluate_curvature(objective, plane, grid, tolerance=WARM_TOLERANCE, progress=False)
    result["chart: products"] = found["products"].values.tolist()
    result["chart: seconds a point"] = (time.perf_counter() - started) / found["loss"].size
    return result


if __name__ == "__main__":
    main()
