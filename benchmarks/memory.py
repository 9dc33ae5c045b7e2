"""How much memory a run takes beyond the model and the data, on ResNet-56.

Asked: peak resident size during a run <= model x (directions + 3) + data + one micro-batch's activations. Libraries
are not the run's: a first, small run loads them; then everything that belongs to the run (objective, directions,
planning with its proof, all points) happens between two readings of the resident size. The plain loop, one batch of
all the data, is read in the same way.

    python -m benchmarks.memory [--quick] [--json]

Linux only: the peak is reset through /proc/self/clear_refs and read from /proc/self/status.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.func import functional_call

import lossnav as ln
from benchmarks import workloads
from benchmarks.common import machine, options, report

MICRO_BATCH = 50  # samples: the CPU's default


def status(field: str) -> float:
    """Megabytes, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def growth(run: Callable[[], object]) -> float:
    """By how many megabytes the resident size rises at most while something runs."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    run()
    return status("VmHWM") - before


def activations(model: nn.Module, sample: torch.Tensor) -> float:
    """Megabytes of the outputs of all layers, for one sample."""
    sizes: list[int] = []
    handles = [
        module.register_forward_hook(lambda _, given, made: sizes.append(made.numel() * made.element_size()))
        for module in model.modules()
        if not list(module.children())
    ]
    with torch.no_grad():
        model(sample[None])
    for handle in handles:
        handle.remove()
    return sum(sizes) / 2**20


def run(workload: workloads.Workload, plan: str, points: int) -> None:
    """Evaluate a plane, from the model and the data as the user holds them."""
    objective = ln.Objective(workload.model, workload.loss, (workload.x, workload.y))
    plane = ln.Plane(objective.params, *ln.directions.random(objective, n=2, seed=0))
    grid = ln.Grid(alpha=(-1, 1, points), beta=(-1, 1, points))
    ln.evaluate(objective, plane, grid, engine=ln.Local(plan=plan), progress=False)  # type: ignore[arg-type]


def plain_loop(workload: workloads.Workload) -> None:
    """One point: all the data as one batch."""
    state = {name: parameter.detach() for name, parameter in workload.model.named_parameters()}
    with torch.inference_mode():
        workload.loss(functional_call(workload.model, state, (workload.x,)), workload.y)


def main() -> None:
    chosen = options(__doc__ or "")
    samples, points = (60, 2) if chosen.quick else (1000, 5)
    small, workload = workloads.resnet56(60), workloads.resnet56(samples)
    for plan in ("auto", "plain"):
        run(small, plan, 2 if chosen.quick else 4)
    megabytes = sum(p.numel() * p.element_size() for p in workload.model.parameters()) / 2**20
    data = sum(t.numel() * t.element_size() for t in (workload.x, workload.y)) / 2**20
    micro_batch = MICRO_BATCH * activations(workload.model, workload.x[0])
    result = {
        "machine": machine(),
        "samples": samples,
        "model MB": megabytes,
        "data MB": data,
        "activations of a micro-batch MB": micro_batch,
        # model and data are there before the run begins
        "allowed growth MB": megabytes * (2 + 3) + micro_batch - megabytes,
    }
    for plan in ("auto", "plain"):
        result[f"growth, plan {plan} MB"] = growth(lambda plan=plan: run(workload, plan, points))  # type: ignore[misc]
    result["growth, plain loop MB"] = growth(lambda: plain_loop(workload))
    report(result, chosen.json)


if __name__ == "__main__":
    main()
