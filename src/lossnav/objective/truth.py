"""Reference values of an objective in plain torch: model, loss and data called as the user would call them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lossnav import params as algebra
from lossnav._utils import random_state
from lossnav.objective import batch_tensors, kept_state
from lossnav.objective import contents as contents_module
from lossnav.objective.batch_tensors import Batch
from lossnav.objective.functional import StepFunction, StepValues
from lossnav.objective.loss import LossMisjudgedError
from lossnav.objective.passes import CopyPasses, FunctionalPasses, Passes
from lossnav.objective.reduction import Values, reduce_steps
from lossnav.objective.state_uses import _place, _Uses
from lossnav.params import Params

_SAMPLES = 4  # samples of the first batch, if it can be split: two points in two ways then cost less than the batch

_DRAWN = 2**16  # random signs per tensor, then repeated: drawing is slow for large weights
_STEP = 0.05  # relative displacement of every entry of a moving parameter

_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}  # relative; 2e-2 in half precision


@dataclass
class Proven:
    """How a model may be called, and what it writes to.

    Attributes
    ----------
    passes : Passes
    writes_weights, writes_data : bool
    written_buffers : tuple of str
    remembers : bool
        Whether a pass leaves something in the model that changes a later one.
    twice : tuple of float, optional
        Two values at the same weights that do not agree.
    """

    passes: Passes
    writes_weights: bool = False
    writes_data: bool = False
    written_buffers: tuple[str, ...] = ()
    remembers: bool = False
    twice: tuple[float, float] | None = None

    @property
    def unplanned(self) -> str:
        """Why only the plain path may evaluate the objective; empty if fast plans are possible."""
        if not isinstance(self.passes, FunctionalPasses):
            return "the model cannot be called by value"
        if self.writes_weights or self.writes_data:
            return f"the model writes into its {'weights' if self.writes_weights else 'input'}"
        if self.written_buffers:
            return f'the model writes into its buffers ("{self.written_buffers[0]}")'
        if self.remembers:
            return "the model keeps state from earlier calls"
        return self.passes.bound


@dataclass
class Case:
    """What is compared: the user's model, and lossnav's way of calling it.

    Attributes
    ----------
    model : nn.Module
        The user's own.
    step : StepFunction
        With the user's own loss, metrics and `forward=`.
    passes : Passes
        With copies of all these.
    center, held, buffers : dict of str to Tensor
    batch : Batch
        The first batch; a copy.
    bn, device, seed
        As of the objective.
    copies : bool
        Whether the centre is a copy of the model's weights; else it shares their memory.
    training : bool
        Whether the model is called in train mode.
    writes : bool
        Whether a pass writes into its weights, as far as known.
    """

    model: nn.Module
    step: StepFunction
    passes: Passes
    center: Params
    held: Params
    buffers: Params
    batch: Batch
    bn: str
    device: torch.device
    seed: int
    copies: bool
    training: bool = False
    writes: bool = False


@dataclass
class _Truth:
    """Values of plain torch at the centre and at a displaced point; None if they cannot be computed."""

    elsewhere: Params
    at_center: float | None = None
    displaced: float | None = None


def _fresh(case: Case, point: Params, part: Batch) -> float:
    """The loss of a fresh deep copy of the user's model with other weights in it."""
    passes = CopyPasses(case.model, case.step, case.bn, case.device, case.training)
    return _values(case, passes, point | case.held, part)


def _by_itself(case: Case, passes: FunctionalPasses, part: Batch) -> float | None:
    """The loss of the user's model itself; its weights, mode, buffers and attributes are restored afterwards."""
    first = next(iter(case.model.parameters()))
    if case.training or case.bn != "frozen" or first.device != next(iter(case.center.values())).device:
        return None
    own = [*case.model.parameters(), *case.model.buffers()]
    kept = kept_state.Kept(case.model, without=own, borrowed=True)
    protected = {_place(tensor) for tensor in (case.center | case.held).values()}
    try:
        for module in case.model.modules():
            module.training = False
        itself = passes.around(case.model)
        uses = _Uses({}, {}, {}, protected, itself)
        return _values(case, itself, case.center | case.held, part, uses)
    finally:
        kept.restore()


def _displaced(center: Params, seed: int) -> Params:
    """A point at which every entry is changed by 5 % of itself (of the size of its tensor, if 0), with random signs."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, tensor in center.items():
        drawn = torch.randint(0, 2, (min(tensor.numel(), _DRAWN),), generator=generator, dtype=torch.int8)
        signs = (2 * drawn - 1).to(tensor.device, tensor.dtype)
        signs = signs.repeat(-(-tensor.numel() // _DRAWN))[: tensor.numel()].view(tensor.shape)
        moved = torch.addcmul(tensor, tensor, signs, value=_STEP)
        zero = tensor == 0
        if bool(zero.any()):
            size = float(torch.linalg.vector_norm(tensor.float())) / math.sqrt(tensor.numel()) or _STEP
            moved = torch.where(zero, _STEP * size * signs, moved)
        made[name] = moved
    return made


def few_of(batch: Batch) -> Batch:
    """A few samples of a batch, if every tensor in it has one row per sample; else the whole batch."""
    inside = list(batch_tensors.tensors(batch))
    lengths = {tensor.shape[0] if tensor.dim() else -1 for tensor in inside}
    if len(lengths) != 1 or not batch_tensors.only_tensors(batch) or max(lengths) <= 2 * _SAMPLES:
        return batch
    return batch_tensors.map_tensors(batch, lambda tensor: tensor[:_SAMPLES])


def _values(case: Case, passes: Passes, point: Params, batch: Batch, uses: TorchDispatchMode | None = None) -> float:
    """The loss of a copy of a batch, with the same random numbers each time."""
    return _measured(case, passes, point, batch, uses)["loss"]


def _measured(case: Case, passes: Passes, point: Params, batch: Batch, uses: TorchDispatchMode | None = None) -> Values:
    """Loss and metrics of a copy of a batch, with the same random numbers each time."""
    steps: list[StepValues] = []
    for _ in range(4):  # a loss may be misjudged in two ways
        given = batch if uses is not None else batch_tensors.move(batch, case.device)
        with random_state.preserved(case.seed, case.device), torch.no_grad():
            try:
                if uses is None:
                    steps = passes(point, case.buffers, [given])
                else:
                    with uses:
                        steps = passes(point, case.buffers, [given])
                break
            except LossMisjudgedError:
                if isinstance(passes, FunctionalPasses | CopyPasses):
                    passes.learn()
    return reduce_steps(steps, has_samples=True)[0]


def _difference(case: Case, passes: Passes, part: Batch, truth: _Truth) -> tuple[float, float, str] | None:
    """The first difference from the reference: expected value, value, and at which point; None if all agree.

    The displaced point comes first: what it leaves behind shows at the centre.
    """
    points = ((truth.displaced, truth.elsewhere, "at other weights"), (truth.at_center, case.center, "at its weights"))
    for expected, point, where in points:
        if expected is None:
            continue
        weights = point | case.held
        value = _values(case, passes, algebra.copy(weights) if case.writes else weights, part)
        if not _agree(case, expected, value):
            return expected, value, where
    return None


def _agree(case: Case, a: float, b: float) -> bool:
    tolerance = _TOLERANCES.get(next(iter(case.center.values())).dtype, 2e-2)
    return a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance * max(abs(a), abs(b))


def _plain_tensors(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Plain attributes of modules that hold floating-point tensors other than parameters or buffers."""
    known = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in ("_parameters", "_buffers", "_modules") or (
                attribute.startswith("_") and "hook" in attribute
            ):
                continue
            if not isinstance(value, Tensor | dict | list):
                continue
            inside = [tensor for tensor in contents_module.tensors(value) if tensor.is_floating_point()]
            if inside and not any(id(tensor) in known for tensor in inside):
                yield name, attribute


def _without(case: Case, name: str, attribute: str, point: Params, part: Batch) -> float:
    """The loss of a fresh copy in which an attribute is empty."""
    passes = CopyPasses(case.model, case.step, case.bn, case.device, case.training)
    module: Any = passes.whole.model.get_submodule(name)
    value = vars(module)[attribute]
    if isinstance(value, dict | list):
        value.clear()
    elif hasattr(type(module), attribute):
        del vars(module)[attribute]  # set by a cached_property
    else:
        setattr(module, attribute, None)
    passes.begin_here()
    return _values(case, passes, point | case.held, part)
