"""Plans chosen by rule: from the model, the data and the processor, without a measurement.

The same call chooses the same plans on the same machine, so its results have the same bits.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lossnav._utils.memory import free_bytes
from lossnav.acceleration.compiler import can_compile
from lossnav.acceleration.structure import Structure
from lossnav.charts import Chart
from lossnav.engines.plan import Plan, Precision

BATCH_SIZES = (25, 50, 125, 250, 500, 1000)  # that are tried

_IN_CACHE = 4e6  # bytes: the largest layer output of a batch must be smaller
_MOST_FUSED = 10_000  # samples per call of the fused kernel
_LEAST_INPUTS = 32  # for each stored part of the first layer's response; with fewer, the layer itself is cheaper
MEMORY_SHARE = 0.25  # of free memory that first-layer responses may take


def plans_by_rule(structure: Structure, chart: Chart, precision: Precision, device: torch.device) -> list[Plan]:
    """Return the plans to try, from the simplest to the fastest."""
    plan = Plan(precision=precision)
    on_cpu = device.type == "cpu"
    plans = [plan]
    if on_cpu and structure.joined is not None:
        fitting = [size for size in BATCH_SIZES if size * structure.widest <= _IN_CACHE]
        plan = replace(plan, batch_size=min(max(fitting, default=BATCH_SIZES[0]), structure.samples))
    if on_cpu and structure.convolutional:
        plan = replace(plan, channels_last=True)
    plans.append(plan)
    if structure.folds:
        plans.append(replace(plans[-1], fold_batch_norm=True))
    amortizes = _amortizes(structure, chart, device)
    if amortizes:
        plans.append(replace(plans[-1], amortize_first_layer=True))
    if on_cpu and structure.linears and precision in ("native", "float32") and has_onednn_linear():
        plans.append(replace(plans[-1], onednn_linear=True))
    if may_fuse(structure, precision, device):
        plans.append(fused_plan(structure, precision, amortizes))
    return [plan for i, plan in enumerate(plans) if plan not in plans[:i]]


def _amortizes(structure: Structure, chart: Chart, device: torch.device) -> bool:
    """Whether storing the first layer's response is cheaper than computing it, and fits into memory."""
    if not structure.first_layer or structure.joined is None or not chart.affine:
        return False
    inputs, outputs = structure.first_shape
    parts = 1 + len(chart.dims)
    needed = 4.0 * parts * outputs * structure.samples
    return inputs >= _LEAST_INPUTS * parts and needed <= MEMORY_SHARE * free_bytes(device)


def may_fuse(structure: Structure, precision: Precision, device: torch.device) -> bool:
    """Whether the fused kernel can be tried here."""
    on_cpu = device.type == "cpu" and structure.joined is not None
    return on_cpu and precision in ("native", "float32", "bfloat16") and can_compile()


def fused_plan(structure: Structure, precision: Precision, amortize: bool) -> Plan:
    """Return the plan of the fused kernel, with or without the first layer."""
    size = min(structure.samples, _MOST_FUSED)
    return Plan(precision=precision, batch_size=size, amortize_first_layer=amortize, fused=True)


def has_onednn_linear() -> bool:
    """Whether this torch has oneDNN's linear layer (a private operator), and it works."""
    try:
        x = torch.eye(2)
        return torch.equal(torch.ops.mkldnn._linear_pointwise(x, x, None, "none", [], ""), x)
    except Exception:
        return False
