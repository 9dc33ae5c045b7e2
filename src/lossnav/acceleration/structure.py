"""The structure of a model as one pass shows it: its first layer, and which BatchNorm follows which layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lossnav.objective.batch_norm import BATCH_NORMS
from lossnav.objective.batch_tensors import Batch, tensors
from lossnav.objective.comparing import cut, join
from lossnav.objective.functional import Measured
from lossnav.objective.objective import Objective
from lossnav.objective.passes import FunctionalPasses
from lossnav.params import Params

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (nn.Linear, *CONVOLUTIONS)


@dataclass
class Structure:
    """What can be accelerated, as one pass over a small batch shows it.

    All of it is inferred from that pass, so a plan built on it is compared with the plain path before it is used.

    Attributes
    ----------
    joined : Batch or None
        All data as one batch, if batches can be joined and cut again.
    samples : int
        Number of samples in all batches.
    flops : float
        Multiplications and additions for one sample, in matrix products and convolutions.
    widest : float
        Bytes of the largest layer output, for one sample.
    first_layer : str or None
        A linear or convolutional layer that is called once, and whose input does not depend on the weights.
    first_shape : (inputs, outputs)
        The number of inputs to one of its outputs, and the number of outputs per sample.
    folds : list of (layer, BatchNorm)
        Names of pairs in which the BatchNorm's only input is the layer's output.
    linears : list of str
        Plain linear layers.
    convolutional : bool
        Whether there are two- or three-dimensional convolutions.
    """

    joined: Batch | None = None
    samples: int = 0
    flops: float = 0.0
    widest: float = 0.0
    first_layer: str | None = None
    first_shape: tuple[int, int] = (0, 0)
    folds: list[tuple[str, str]] = field(default_factory=list)
    linears: list[str] = field(default_factory=list)
    convolutional: bool = False


@dataclass
class _LayerCall:
    name: str
    given: Tensor
    made: Tensor


def look(objective: Objective, *displaced: Params) -> Structure:
    """Pass a few samples through the model at the centre and at displaced points, and record its layers.

    Parameters
    ----------
    objective : Objective
    *displaced : dict of str to Tensor
        Other weights and buffers, to find out which inputs depend on them.
    """
    found = Structure()
    passes = objective.forward_pass.passes
    if not isinstance(passes, FunctionalPasses) or objective.batches is None or objective.forward_pass.unplanned:
        return found
    first = objective.batches.peek()
    steps = passes(objective.params | objective.forward_pass.held, objective.forward_pass.buffers, [first])
    found.joined, found.samples = _join(objective, steps[0][1])
    model = passes.whole.model
    sample = first if found.joined is None else cut(found.joined, 0, 4)
    with FlopCounterMode(display=False) as counter:
        at_center = _watch(objective, passes, objective.params, sample)
    in_sample = max(1, steps[0][0] if found.joined is None else next(tensors(sample)).shape[0])
    found.samples = found.samples or in_sample * len(objective.batches)
    found.flops = counter.get_total_flops() / in_sample
    found.widest = max((call.made.numel() * call.made.element_size() for call in at_center), default=0) / in_sample
    elsewhere = [_watch(objective, passes, point, sample) for point in displaced]
    times = Counter(call.name for call in at_center)
    modules = dict(model.named_modules())
    layers = [call for call in at_center if isinstance(modules[call.name], LAYERS)]
    if layers and times[layers[0].name] == 1:
        again = [next((call for call in calls if call.name == layers[0].name), None) for calls in elsewhere]
        # not if it is computed from other parameters
        is_parameter = f"{layers[0].name}.weight" in objective.params | objective.forward_pass.held
        if is_parameter and all(call is not None and torch.equal(call.given, layers[0].given) for call in again):
            found.first_layer = layers[0].name
            weight: Any = modules[layers[0].name].weight
            found.first_shape = (weight.numel() // weight.shape[0], layers[0].made.numel() // in_sample)
    owners = Counter(id(p) for m in modules.values() for p in m._parameters.values() if p is not None)
    if objective.bn == "frozen":
        for call in at_center:
            norm = modules[call.name]
            if not isinstance(norm, BATCH_NORMS) or norm.running_mean is None or times[call.name] > 1:
                continue
            before = [other for other in layers if other.made is call.given]
            own = before and times[before[0].name] == 1 and owners[id(modules[before[0].name].weight)] == 1
            if own:
                found.folds.append((before[0].name, call.name))
    found.linears = [name for name, module in modules.items() if type(module) is nn.Linear]
    found.convolutional = any(isinstance(module, nn.Conv2d | nn.Conv3d) for module in modules.values())
    return found


def _watch(objective: Objective, passes: FunctionalPasses, params: Params, batch: Batch) -> list[_LayerCall]:
    """Return every call of a layer or BatchNorm in one pass, in order, with its input and output tensors."""
    calls: list[_LayerCall] = []

    def hook(name: str) -> Callable[..., None]:
        def record(module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            if given and isinstance(given[0], Tensor) and isinstance(made, Tensor):
                calls.append(_LayerCall(name, given[0], made))

        return record

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in passes.whole.model.named_modules()
        if isinstance(module, (*LAYERS, BATCH_NORMS))
    ]
    try:
        passes(params | objective.forward_pass.held, objective.buffers_at(params), [batch])
    finally:
        for handle in handles:
            handle.remove()
    return calls


# ---------------------------------------------------------------------- batches


def _join(objective: Objective, values: dict[str, Measured]) -> tuple[Batch | None, int]:
    """Return all batches as one, if the first axis of every tensor and of every value is the sample."""
    batches = objective.batches
    if batches is None or not batches.resident or batches.written_to or objective.forward_pass.unplanned:
        return None, 0
    if objective.bn != "frozen":
        return None, 0  # the statistics of a batch depend on its samples
    if any(isinstance(value, Tensor) and value.dim() == 0 for name, value in values.items() if name != "loss"):
        return None, 0  # a metric of a whole batch is not a mean over its samples
    return join(batches)
