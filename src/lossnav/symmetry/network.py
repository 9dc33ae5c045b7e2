"""A network as it is asked for its symmetries: called in float64 with weights and buffers that are given.

From an objective, the model is called as the objective calls it, on its first batch. A module and an example are called
as they are, a deep copy of the module in eval mode. The user's own are not changed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lossnav._utils import random_state, turns
from lossnav._utils.validation import described
from lossnav.errors import DataError, LossnavError, ObjectiveError, OptionError
from lossnav.objective import contents
from lossnav.objective.batch_tensors import Batch, map_tensors, tensors, to_double
from lossnav.objective.functional import StepValues, call_with
from lossnav.objective.kept_state import Kept
from lossnav.objective.objective import Objective
from lossnav.objective.truth import few_of
from lossnav.params import Params
from lossnav.symmetry.liveness import Liveness
from lossnav.symmetry.trace import InDouble, Tracer

Step = Callable[[nn.Module, Any], Any]


class CalledNetwork:
    """A network in float64.

    Parameters
    ----------
    source : Objective or nn.Module
    example : optional
        What a module is called with: a tensor, a tuple of arguments, or a dict of arguments by name.
    hold : collection of str
        Parameters that may not move.

    Attributes
    ----------
    name : str
    params, held, buffers : dict of str to Tensor
        Parameters that may move, those that may not, and buffers; float64 where they are floating-point.
    unsaved : set of str
        Buffers that no state dict has.
    """

    name: str
    params: Params
    held: Params
    buffers: Params
    unsaved: set[str]

    def __init__(self, source: Objective | nn.Module, example: Any = None, hold: Collection[str] = ()) -> None:
        self.hold = frozenset(hold)
        if isinstance(source, Objective):
            self._from_objective(source, example)
        elif isinstance(source, nn.Module):
            self._from_module(source, example)
        else:
            raise OptionError(
                f"Symmetries are of an objective or a module, not of {described(source)}. Pass "
                "ln.Objective(model, loss, data), or the module and an example of its input."
            )

    def _from_objective(self, objective: Objective, example: Any) -> None:
        if objective.forward_pass.is_function:
            raise OptionError(
                "The objective is a bare function of parameters, which has no module to read. Pass an objective of a "
                "module: ln.Objective(model, loss, data)."
            )
        exact = objective.double()
        one = exact.forward_pass
        self.name = objective.name
        self.params, self.held, self.buffers = dict(exact.params), dict(one.held), dict(one.buffers)
        batches: Iterable[Batch] = one.batches if one.batches is not None else ()
        batch = few_of(next(iter(batches))) if example is None else map_tensors(example, to_double)
        self.unsaved = {name for name in self.buffers if name in objective.anatomy.optional}

        def run(step: Step, state: Params, many: Iterable[Any]) -> list[Any]:
            made: list[Any] = []

            def record(model: Any, given: Batch) -> StepValues:
                made.append(step(model, lambda: one.outputs_and_targets(model, given)[0]))
                return 1, {}

            params = {name: state[name] for name in self.params}
            buffers = {name: state[name] for name in self.buffers}
            one(params, buffers, many, record)
            return made

        self._run, self._batch = run, batch

    def _from_module(self, module: nn.Module, example: Any) -> None:
        if example is None:
            raise OptionError(
                "A module alone does not say what it is called with. Pass an example of its input: "
                "ln.symmetries(model, x), with a tensor, a tuple of arguments or a dict of arguments by name."
            )
        try:
            own = contents.copied(module, {}).eval().double()
        except Exception as error:
            raise ObjectiveError(
                f"The {type(module).__name__} cannot be copied ({error}). Pass an objective of it: "
                "ln.Objective(model, loss, data)."
            ) from error
        for part in own.modules():
            for name, value in vars(part).items():
                if isinstance(value, Tensor) and value.is_floating_point():  # a plain attribute
                    setattr(part, name, value.double())
        self.name = type(module).__name__
        self.params = {name: tensor.detach() for name, tensor in own.named_parameters()}
        self.held = {}
        self.buffers = {name: tensor.detach() for name, tensor in own.named_buffers()}
        saved = set(own.state_dict(keep_vars=True))
        self.unsaved = {name for name in self.buffers if name not in saved}
        kept = Kept(own, without=(*self.params.values(), *self.buffers.values()))
        caller = _Caller(own)

        def one(step: Step, state: Params, given: Any) -> Any:
            args, kwargs = _arguments(given)
            here = {f"model.{n}": t.clone() if n in self.buffers else t for n, t in state.items()}
            try:
                with torch.no_grad():
                    return call_with(caller, here, lambda: step(own, lambda: own(*args, **kwargs)))
            finally:
                kept.restore()  # caches, counters, and what hooks of the user's write to

        def run(step: Step, state: Params, many: Iterable[Any]) -> list[Any]:
            return [one(step, state, given) for given in many]

        self._run, self._batch = run, map_tensors(example, to_double)

    # ------------------------------------------------------------------ calls

    @property
    def state(self) -> Params:
        """Parameters and buffers as they are."""
        return self.params | self.held | self.buffers

    def outputs(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        """What the network gives on the example with these weights and buffers: its floating-point tensors.

        Raises
        ------
        DataError
            If the outputs hold no such tensor.
        """
        made = self._call(lambda model, call: call(), dict(state))
        found = outputs_of(made)
        if not found:
            raise DataError(
                f"The outputs of {self.name} hold no floating-point tensor, but {described(made)}. Pass a model that "
                "returns a tensor, or tensors in a tuple or dict."
            )
        return [tensor.detach().clone() for tensor in found]

    def difference(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
        """Largest difference of the outputs with two states, as a fraction of their largest entry."""
        return largest_difference(self.outputs(a), self.outputs(b))

    def trace(self) -> tuple[Tracer, dict[str, Tensor]]:
        """Run once to see which operators matter, and once to label tensors.

        Inputs, outputs and what may not move are fixed.

        Returns
        -------
        tracer : Tracer
        found : dict of str to Tensor
            Weights and buffers by name, as they are labelled.
        """
        watch = Liveness()

        def look(model: nn.Module, call: Callable[[], Any]) -> list[bool]:
            with watch:
                made = call()
            return watch.of(outputs_of(made, floating=False))

        tracer = Tracer(live := self._call(look, self.state))
        found = self.label(tracer)
        if tracer.calls != len(live):  # another number of operators: nobody knows which is which
            tracer = Tracer()
            found = self.label(tracer)
        return tracer, found

    def label(self, tracer: Tracer, batch: Any = None) -> dict[str, Tensor]:
        """Run once under a tracer, on the example or another batch; return what it labelled, by name."""
        batch = self._batch if batch is None else batch
        found: dict[str, Tensor] = {}
        known = self.state

        def step(model: nn.Module, call: Callable[[], Any]) -> None:
            own = dict(model.named_parameters(remove_duplicate=False))
            for name, tensor in (own | dict(model.named_buffers(remove_duplicate=False))).items():
                if name in known:
                    found[name] = tensor
                    if not tensor.is_floating_point() or name in self.held or name in self.hold:
                        tracer.hold(tensor, "whole numbers" if name in self.buffers else "held")
                    elif name in self.unsaved:
                        tracer.hold(tensor, "a buffer that no state dict has")
                    else:
                        tracer.free(tensor)
            for tensor in tensors(batch):
                tracer.hold(tensor, "an input")
                tracer.mark_data(tensor)
            with tracer:
                made = call()
            for tensor in outputs_of(made, floating=False):
                tracer.fix(tensor, "an output")

        self._call(step, known, batch)
        return found

    def watched(self, watch: TorchDispatchMode, state: Params, batch: Any) -> None:
        """Run once on a batch with these weights and buffers, under a mode that sees every operator."""

        def step(model: nn.Module, call: Callable[[], Any]) -> None:
            with watch:
                call()

        self._call(step, state, batch)

    def _call(self, step: Step, state: Params, batch: Any = None) -> Any:
        batch = self._batch if batch is None else batch
        try:
            return self._called(step, state, batch)
        except LossnavError:
            raise
        except Exception as error:
            said = next(iter(str(error).splitlines()), type(error).__name__)
            raise ObjectiveError(
                f"{self.name} cannot be run in float64 on the example ({type(error).__name__}: {said}). "
                "Pass an example that it takes: a tensor, a tuple of arguments or a dict of arguments by name."
            ) from error

    def _called(self, step: Step, state: Params, batch: Any) -> Any:
        with turns.alone(), random_state.preserved(0), plain_attention(), InDouble():  # type: ignore[no-untyped-call]
            (made,) = self._run(step, state, [batch])
        return made


class _Caller(nn.Module):
    """A module, and something to call while other weights are in it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def largest_difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Over some outputs the largest difference, as a fraction of the largest entry of each; inf where not finite."""
    worst = 0.0
    for one, other in zip(a, b, strict=True):
        if one.shape != other.shape:
            return math.inf
        if one.numel():
            worst = max(worst, float((one - other).abs().max()) / (float(one.abs().max()) or 1.0))
    return worst if math.isfinite(worst) else math.inf


def outputs_of(made: Any, floating: bool = True) -> list[Tensor]:
    """The tensors in what a model returned: its `logits` where it has some; a cache of keys and values is none."""
    logits = getattr(made, "logits", None)
    if isinstance(logits, Tensor):
        return [logits]
    if isinstance(made, Mapping):
        made = {key: value for key, value in made.items() if "past_key_values" not in str(key)}
    found: list[Tensor] = []
    for leaf in tree_leaves(made):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif "Cache" not in type(leaf).__name__:
            found += contents.tensors(leaf)
    return [t for t in found if t.is_floating_point() or t.is_complex()] if floating else found


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), {str(name): value for name, value in example.items()}
    return (tuple(example), {}) if isinstance(example, list | tuple) else ((example,), {})


@contextmanager
def plain_attention() -> Iterator[None]:
    """Torch's attention layers as operators that are known, and not as one kernel."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
