"""A plan as a function of coordinates, which computes the objective's values in a faster way."""

from __future__ import annotations

import copy
import operator
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lossnav._utils import random_state, turns
from lossnav.acceleration.kernel import Kernel
from lossnav.acceleration.replaced_layers import Fold, FusedModel, OneDnnLinear, PrecomputedLayer
from lossnav.acceleration.structure import Structure
from lossnav.acceleration.trace_graph import NotReadableError, TraceGraph
from lossnav.acceleration.trace_reader import TRACED_SAMPLES, read
from lossnav.charts import Chart
from lossnav.engines.base import Point
from lossnav.engines.plan import Plan
from lossnav.objective.batch_tensors import Batch, map_tensors, tensors, versions
from lossnav.objective.comparing import cut
from lossnav.objective.functional import Measured, StepValues, call_with
from lossnav.objective.objective import Objective
from lossnav.objective.passes import FunctionalPasses
from lossnav.objective.reduction import Values
from lossnav.params import Params

Response = Tensor | tuple[list[Tensor], list[float]]  # of the first layer; or the terms of its sum and their factors
BatchAndResponse = tuple[Batch, "Response | None"]


class StateWrittenError(Exception):
    """A pass wrote into buffers or data that the plan reuses at every point."""


class Fast:
    """The values of an objective on a chart, computed according to a plan.

    Parameters
    ----------
    objective : Objective
    chart : Chart
    structure : Structure
    plan : Plan
    samples : int, optional
        Use only the first samples, for tuning; by default all.
    """

    def __init__(
        self, objective: Objective, chart: Chart, structure: Structure, plan: Plan, samples: int | None = None
    ) -> None:
        self._lock = threading.Lock()  # memory is reused at every point
        passes = objective.forward_pass.passes
        assert isinstance(passes, FunctionalPasses)
        self.objective, self.chart, self.structure, self.plan, self.samples = objective, chart, structure, plan, samples
        original = passes.whole.model
        with turns.alone():  # all calls share the model
            model = copy.deepcopy(original, {id(parameter): parameter for parameter in original.parameters()})
        self._weights = _AffineWeights(chart) if chart.affine else chart
        belonging = objective.buffers_at(chart.center, chart.buffers(np.zeros(len(chart.dims))))
        self._buffers = {
            name: tensor.clone() for name, tensor in belonging.items()
        }  # copies, so the user's buffers are safe
        self._moving_buffers = chart.moving_buffers
        self._fixed = {name: self._form(t) for name, t in (objective.forward_pass.held | self._buffers).items()}
        given_layer = structure.first_layer if plan.amortize_first_layer else None
        folds = [
            names for names in structure.folds if names[0] != given_layer
        ]  # a stored response contains no BatchNorm
        self._folds = [Fold(model, *names) for names in folds] if plan.fold_batch_norm and not plan.fused else []
        self._given = PrecomputedLayer.in_place_of(model, structure.first_layer) if plan.amortize_first_layer else None
        if plan.onednn_linear:
            for name in structure.linears:
                if name == given_layer:
                    continue
                model.get_submodule(name).__class__ = OneDnnLinear
        if plan.dtype is not None and not plan.fused:
            model.register_forward_pre_hook(
                lambda _, args, kwargs: map_tensors((args, kwargs), self._cast), with_kwargs=True
            )
            model.register_forward_hook(lambda _, args, made: map_tensors(made, _at_least_float32))
        self._batches = self._cut_batches()
        self._responses = self._first_layer_responses(original) if self._given is not None else None
        self._fused = self._fuse(model) if plan.fused else None
        if self._fused is not None and chart.affine:
            self._weights = _AffineWeights(chart, self._fused.kernel.names)
        self._whole = _PlannedPass(self._fused or model, objective.forward_pass.step, self._fused or self._given)
        self._call: Any = torch.compile(self._functional, dynamic=False) if plan.compiled else self._functional
        self._versions = versions(self._lasting)

    def __call__(self, point: Point) -> Values:
        """Return loss and metrics at some coordinates, as `Objective.evaluate` does."""
        if self.plan.points > 1:
            return self.many([point])[0]
        values, count = self.objective.forward_pass.reduce(self.steps(point))
        if self.samples is None:
            self.objective.samples = count
        return values

    def many(self, points: Sequence[Point] | Point) -> list[Values]:
        """Return loss and metrics at several coordinates, in one pass through the model."""
        made = [self.objective.forward_pass.reduce(steps) for steps in self.many_steps(points)]
        if self.samples is None:
            self.objective.samples = made[-1][1]
        return [values for values, _ in made]

    def steps(self, point: Point) -> list[StepValues]:
        """Return the values of every batch at some coordinates, before they are joined."""
        if self.plan.points > 1:
            return self.many_steps([point])[0]
        objective = self.objective
        with random_state.preserved(objective.seed, objective.device), self._lock, torch.no_grad(), _tf32(self.plan):
            state = self._state(point)
            if self.plan.compiled:
                steps = [step for pair in self._pairs(point) for step in self._run_one(state, pair)]
            else:
                steps = self._functional(state, self._pairs(point))
            self._require_unwritten()
        return steps

    def many_steps(self, points: Sequence[Point] | Point) -> list[list[StepValues]]:
        """Return the values of every batch at several coordinates, in one pass through the model."""
        objective = self.objective
        with random_state.preserved(objective.seed, objective.device), self._lock, torch.no_grad(), _tf32(self.plan):
            states = [{name: tensor.clone() for name, tensor in self._state(point).items()} for point in points]
            moved = {f"model.{name}" for name in self._moved} & states[0].keys()
            stacked = {name: torch.stack([state[name] for state in states]) for name in moved}
            still = {name: tensor for name, tensor in states[0].items() if name not in moved}
            lengths: list[int] = []

            def one(state: Params, coordinates: Tensor) -> list[dict[str, Measured]]:
                steps = self._functional(state | still, self._pairs(list(coordinates)))
                lengths[:] = [n for n, _ in steps]
                return [values for _, values in steps]

            made = torch.vmap(one, randomness="same")(
                stacked, torch.tensor(np.asarray(points), device=objective.device)
            )
            self._require_unwritten()
            return [
                [(n, map_tensors(values, operator.itemgetter(i))) for n, values in zip(lengths, made, strict=True)]
                for i in range(len(points))
            ]

    @property
    def _lasting(self) -> list[Any]:
        """Tensors that every point reads and none may change."""
        return [list(self._fixed.values()), self._batches]

    def _require_unwritten(self) -> None:
        """Raise if this point wrote into a tensor that the next one reads; the proof may have missed a batch."""
        if versions(self._lasting) != self._versions:
            raise StateWrittenError("the model writes into its buffers or its input")

    @property
    def graph(self) -> TraceGraph | None:
        """The operations of the fused kernel, if there is one."""
        return None if self._fused is None else self._fused.kernel.graph

    @property
    def compile_seconds(self) -> float:
        """Seconds for compiling the fused kernel; 0 if there is none, or it was compiled before."""
        return 0.0 if self._fused is None else self._fused.kernel.compile_seconds

    # ------------------------------------------------------------------ the same at every point

    def _cast(self, tensor: Tensor) -> Tensor:
        dtype = None if self.plan.fused else self.plan.dtype  # the kernel converts by itself
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

    def _layout(self, tensor: Tensor) -> Tensor:
        if not self.plan.channels_last or tensor.dim() != 4:
            return tensor
        # not .contiguous(): with one channel it does not change the strides, and oneDNN then takes a slow path
        laid_out = torch.empty_like(tensor, memory_format=torch.channels_last)
        return tensor if tensor.stride() == laid_out.stride() else laid_out.copy_(tensor)

    def _form(self, tensor: Tensor) -> Tensor:
        return self._cast(self._layout(tensor))

    def _cut_batches(self) -> list[Batch]:
        joined, total = self.structure.joined, self.structure.samples
        own: Iterable[Batch] = self.objective.batches or []
        if joined is None or (self.plan.batch_size is None and self.samples is None):
            return [map_tensors(batch, self._layout) for batch in own]
        total = min(total, self.samples or total)
        size = min(self.plan.batch_size or _length(next(iter(own))), total)
        parts = (cut(joined, start, min(start + size, total)) for start in range(0, total, size))
        return [map_tensors(part, self._layout) for part in parts]

    def _first_layer_responses(self, original: nn.Module) -> list[list[Tensor]]:
        """Return the first layer's response to each batch, at the centre and along each direction: 1 + k tensors.

        The response is linear in weight and bias, so at (x_1, ..., x_k) it is z_0 + sum_i x_i z_i.
        """
        name = str(self.structure.first_layer)
        layer = original.get_submodule(name)
        center = self.chart.center | self.objective.forward_pass.held
        points = [center, *self.chart.basis]
        responses = []
        for given in _inputs_of(layer, self.objective, self._batches):
            row = []
            for point in points:
                weight, bias = point.get(f"{name}.weight"), point.get(f"{name}.bias")
                weight = torch.zeros_like(center[f"{name}.weight"]) if weight is None else weight.to(given.dtype)
                made = _linear_map(layer, given, self._layout(weight), None if bias is None else bias.to(given.dtype))
                row.append(made.contiguous() if self.plan.fused else self._cast(made))
            responses.append(row)
        return responses

    def _fuse(self, model: nn.Module) -> FusedModel:
        """Compile the model into one kernel; without its first layer if that layer's response is stored."""
        pass_, sample = self.objective.forward_pass.passes, self._batches[0]
        assert isinstance(pass_, FunctionalPasses)
        half = self.plan.precision == "bfloat16"
        first = cut(sample, 0, TRACED_SAMPLES)
        if _length(first) < TRACED_SAMPLES:
            raise NotReadableError(f"fewer than {TRACED_SAMPLES} samples")
        state = self.objective.params | self.objective.forward_pass.held | self._buffers
        x = _input_of(pass_.whole.model, self.objective, first)
        if self._given is None or self._responses is None:
            graph = read(lambda weights, x: functional_call(model, weights, (x,)), state, x)
            return FusedModel(Kernel(graph, half=half))
        given = self._given

        def call(weights: Params, response: Tensor) -> Tensor:
            given.set_response(response)
            made: Tensor = functional_call(model, weights, (x,))
            return made

        row = [part[:TRACED_SAMPLES] for part in self._responses[0]]
        return FusedModel(Kernel(read(call, state, row[0]), len(row), half))

    # ------------------------------------------------------------------ different at every point

    def _state(self, point: Point) -> Params:
        """Return weights and buffers at a point in the plan's dtype and layout, with BatchNorm folded in."""
        params, buffers = self._weights(point), self.chart.buffers(point)
        moved = {name: buffers[name].clone() for name in self._moving_buffers}
        fixed = self._fixed | {name: self._form(tensor) for name, tensor in moved.items()}
        if self._fused is not None:
            self._fused.kernel.load(params | fixed)
            return {}
        state = {name: self._form(tensor) for name, tensor in params.items()} | fixed
        for fold in self._folds:
            folded = fold.fold(params | self.objective.forward_pass.held | self._buffers | moved)
            state |= {name: self._form(tensor) for name, tensor in folded.items()}
        gone = {name for fold in self._folds for name in fold.gone}
        return {f"model.{name}": tensor for name, tensor in state.items() if name not in gone}

    @property
    def _moved(self) -> set[str]:
        """Names of the weights and buffers that differ between points, after BatchNorm is folded."""
        folded = {f"{fold.layer}.{leaf}" for fold in self._folds for leaf in ("weight", "bias")}
        return folded | set(self.objective.params) | set(self._moving_buffers)

    def _pairs(self, point: Sequence[Any] | Point) -> Iterator[BatchAndResponse]:
        """Return the batches, each with the first layer's response to it if the plan stores them."""
        if self._responses is None:
            return ((batch, None) for batch in self._batches)
        if self._fused is not None:
            factors = [1.0, *(float(x) for x in point)]
            return ((batch, (row, factors)) for batch, row in zip(self._batches, self._responses, strict=True))
        return ((batch, _mix(row, point)) for batch, row in zip(self._batches, self._responses, strict=True))

    def _functional(self, state: Params, pairs: Iterable[BatchAndResponse]) -> list[StepValues]:
        result: list[StepValues]
        if self.plan.compiled:  # torch.compile understands torch's function, and not ours
            result = functional_call(self._whole, state, (pairs,))
        else:
            result = call_with(self._whole, state, pairs)
        return result

    def _run_one(self, state: Params, pair: BatchAndResponse) -> list[StepValues]:
        """Evaluate a batch, by the compiled function if it has the first one's size; a short last one without it."""
        usual = _length(pair[0]) == _length(self._batches[0])
        result: list[StepValues] = (self._call if usual else self._functional)(state, [pair])
        return result


# ---------------------------------------------------------------------- weights


class _AffineWeights:
    """The points of an affine chart, computed in memory that is reused at every point."""

    def __init__(self, chart: Chart, wanted: Container[str] | None = None) -> None:
        self.center = chart.center
        basis = chart.basis
        wanted = chart.center if wanted is None else wanted
        names = [name for name in chart.center if name in wanted and any(bool((b[name] != 0).any()) for b in basis)]
        self.names = names
        dtypes = [torch.promote_types(chart.center[name].dtype, basis[0][name].dtype) for name in names]
        self.start = [chart.center[name].to(dtype) for name, dtype in zip(names, dtypes, strict=True)]
        self.steps = [[torch.empty_like(s).copy_(b[n]) for n, s in zip(names, self.start, strict=True)] for b in basis]
        self.buffers = [torch.empty_like(start) for start in self.start]

    def __call__(self, point: Point) -> Params:
        torch._foreach_copy_(self.buffers, self.start)
        for x, steps in zip(point, self.steps, strict=True):
            if x:
                torch._foreach_add_(self.buffers, steps, alpha=float(x))
        moved = zip(self.names, self.buffers, strict=True)
        return self.center | {name: buffer.to(self.center[name].dtype) for name, buffer in moved}


class _PlannedPass(nn.Module):
    """All batches through model and loss under one substitution of the weights."""

    def __init__(self, model: nn.Module, step: Any, given: PrecomputedLayer | FusedModel | None) -> None:
        super().__init__()
        self.model, self.step = model, step
        self.set_response: Any = given.set_response if given is not None else None

    def forward(self, pairs: Iterable[BatchAndResponse]) -> list[StepValues]:
        results = []
        for batch, response in pairs:
            if self.set_response is not None:
                self.set_response(response)
            results.append(self.step(self.model, batch))
        return results


def _inputs_of(layer: nn.Module, objective: Objective, batches: Sequence[Batch]) -> list[Tensor]:
    """Return the input of a layer of the objective's model for each batch, at the centre."""
    seen, forward = list[Tensor](), objective.forward_pass
    with turns.alone(), torch.no_grad():
        handle = layer.register_forward_hook(lambda _, given, made: seen.append(given[0]))
        try:
            forward.passes(objective.params | forward.held, forward.buffers, batches)
        finally:
            handle.remove()
    return seen


def _input_of(model: nn.Module, objective: Objective, batch: Batch) -> Tensor:
    """Return the one tensor that is the input of the objective's model for a batch."""
    seen, forward = list[Any](), objective.forward_pass
    with turns.alone(), torch.no_grad():
        handle = model.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append((args, kwargs)), prepend=True, with_kwargs=True
        )  # before the user's own hooks, which are traced too
        try:
            forward.passes(objective.params | forward.held, forward.buffers, [batch])
        finally:
            handle.remove()
    if len(seen) != 1 or len(seen[0][0]) != 1 or seen[0][1] or not isinstance(seen[0][0][0], Tensor):
        raise NotReadableError("its input is not one tensor")
    x: Tensor = seen[0][0][0]
    return x


def _linear_map(layer: nn.Module, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a linear or convolutional layer with another weight and bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(given, weight, bias)
    result: Tensor = layer._conv_forward(given, weight, bias)  # type: ignore[operator]
    return result


def _mix(row: list[Tensor], point: Sequence[Any] | Point) -> Tensor:
    """Return z_0 + sum_i x_i z_i in new memory, because the model may write into it."""
    if isinstance(point[0], Tensor):  # several points at once
        return torch.stack([row[0], *(x.to(z.dtype) * z for x, z in zip(point, row[1:], strict=True))]).sum(0)
    total = torch.add(row[0], row[1], alpha=float(point[0]))
    for x, part in zip(point[1:], row[2:], strict=True):
        total.add_(part, alpha=float(x))
    return total


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _length(batch: Batch) -> int:
    return int(next(iter(tensors(batch))).shape[0])


@contextmanager
def _tf32(plan: Plan) -> Iterator[None]:
    """Use TF32 for matrix products and convolutions on a GPU, and restore the setting afterwards."""
    if plan.precision != "tf32":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
