"""Hold the way a model is called against the model itself, once, on the first batch.

The truth is plain torch: a fresh deep copy of the user's model, the weights of a point written into it, eval mode (or
train mode, where that is asked for), and the user's loss. Two points are held against it: the centre, and one at which
every parameter that moves is another, so that a weight which is reached in any other way than by its name shows as a
difference. What uses the memory of the user's own parameters meanwhile is found where it happens, among the operations
that torch dispatches.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lossnav import batches as data_batches
from lossnav import contents, rng
from lossnav import params as algebra
from lossnav.batches import Batch
from lossnav.calling import BATCH_NORMS, CopyPasses, FunctionalPasses, Passes, Step, StepValues, users_parts
from lossnav.diagnosis import explained
from lossnav.errors import DataError, LossnavWarning, LossShapeError, ObjectiveError, OptionError
from lossnav.measures import LossMisjudgedError, Values, reduce_steps
from lossnav.memory import free_bytes
from lossnav.outside import Outside, Place
from lossnav.params import Params

_SAMPLES = 4  # of the first batch, where it can be cut: two points in two ways cost less than the batch does
_MOST_CACHES = 16  # attributes that are tried without
_DRAWN = 2**16  # signs of a tensor that are drawn; then they come again: large weights take a while to draw for
_STEP = 0.05  # of its size, by which every number of a moving parameter is displaced
_SHARE = 1 / 4  # of the memory that is free, which a second copy of the model may take
_SHARED = 2**26  # bytes of a model that is not copied, above which it is held at its centre alone
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}  # relative; of half precision 2e-2
_NUMBERS_UNREAD = re.compile(r"::(new_\w+|\w+_like|sym_\w+)(\.|$)")  # operations that look at a shape alone
_HOME, _TORCH = Path(__file__).parent.as_posix(), Path(torch.__file__).parent.as_posix()


@dataclass
class Proven:
    """How a model may be called, and what it writes to.

    Attributes
    ----------
    passes : Passes
    writes_weights, writes_data : bool
    written_buffers : tuple of str
    remembers : bool
        Whether a pass leaves something behind in the model that a later one looks at.
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
        """Why nothing but the plain path may evaluate the objective; empty where nothing speaks against plans."""
        if not isinstance(self.passes, FunctionalPasses):
            return "the model cannot be called by value"
        if self.writes_weights or self.writes_data:
            return f"the model writes into its {'weights' if self.writes_weights else 'input'}"
        if self.written_buffers:
            return f'the model writes into its buffers ("{self.written_buffers[0]}")'
        if self.remembers:
            return "the model remembers what it was called with"
        return self.passes.bound


@dataclass
class Case:
    """What is proven: the user's model, and how lossnav calls it.

    Attributes
    ----------
    model : nn.Module
        The user's own.
    step : Step
        With the user's own loss, metrics and `forward=`.
    passes : Passes
        With copies of all that.
    center, held, buffers : dict of str to Tensor
    batch : Batch
        The first; ours.
    bn, device, seed
        Of the objective.
    copies : bool
        Whether the centre is a copy of the model's weights, or shares their memory.
    training : bool
        Whether it is called in train mode.
    writes : bool
        Whether a pass writes into its weights, as far as is known.
    """

    model: nn.Module
    step: Step
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


def prove(case: Case) -> Proven:
    """Find a way of calling the model that gives its own loss, here and elsewhere.

    Raises
    ------
    ObjectiveError
        If none does; it names the parameter that is reached by another way, and where.
    """
    outside = Outside(_code_of(case))
    try:
        found = _proven(case)
    except ObjectiveError:
        _require_no_state_outside(case, outside)  # which is then the better reason
        raise
    _require_no_state_outside(case, outside, found.passes)
    if found.twice:
        _warn_of_drift(type(case.model).__name__, *found.twice)
    return found


def prove_function(case: Case, name: str) -> None:
    """Hold a bare function to what it keeps outside of itself, where it keeps anything.

    Raises
    ------
    ObjectiveError
        If a value depends on what was evaluated before.
    """
    outside = Outside(_code_of(case))
    if any(place.may_change for place in outside.places):
        try:
            part = few_of(case.batch)
            first = _values(case, case.passes, algebra.copy(case.center), part)
            again = any(isinstance(place.value, Iterator) for place in outside.places)  # which cannot be put back
            second = _values(case, case.passes, algebra.copy(case.center), part) if again else first
        except Exception:  # it is raised again where it is called in earnest
            return
        _require_no_state_outside(case, outside, case.passes, name)
        if not _agree(case, first, second):
            _warn_of_drift(name, first, second)


def _proven(case: Case) -> Proven:
    found = Proven(case.passes)
    failure = _first_pass(case, found)
    part = few_of(case.batch)
    truth = _truth(case, part)
    _require_true_copy(case, part, truth)
    ways: list[Callable[[], Passes]] = [] if failure else [lambda: case.passes]
    if not isinstance(case.passes, CopyPasses):
        ways.append(lambda: _full_copy(case))
    difference: tuple[float, float, str] | None = None
    for make in ways:
        try:
            passes = make()
            difference = _difference(case, passes, part, truth)
            if difference and isinstance(passes, FunctionalPasses):
                passes.remembers = True  # then a cache is filled anew at every point
                difference = _difference(case, passes, part, truth)
        except (ObjectiveError, LossShapeError, DataError, OptionError):
            raise
        except Exception as error:
            failure = failure or error
            continue
        if difference is None:
            found.passes = passes
            if isinstance(passes, FunctionalPasses):
                passes.remembers = passes.remembers or _leaves_traces(case, passes, part)
                found.remembers = passes.remembers
            _require_no_stale_cache(case, part, truth)
            return found
    if difference is None:  # it is not the way of calling: the user's own mistake is more useful
        assert failure is not None
        raise explained(failure, always=True) from failure
    if found_twice := _contradiction(case, part):
        found.twice = found_twice
        return found
    expected, value, where = difference
    raise ObjectiveError(
        f"{type(case.model).__name__} cannot be evaluated by value: {where} a fresh copy of it has the loss "
        f"{expected:.7g} on the first batch, and lossnav's way of calling it gives {value:.7g}. Usual causes: a weight "
        "that is reached through a global, a cache (functools.lru_cache) or a tensor that was computed from weights "
        "before. Compute it in forward(), or use Objective.from_function(f, params)."
    )


def _code_of(case: Case) -> list[Any]:
    """Functions and classes of the user's: of the model and its layers, and of what is measured with it."""
    parts = [part for part in contents.reachable(users_parts(case.passes.step)) if contents.is_code(part)]
    for module in case.model.modules():
        hooks = [hook for name, table in vars(module).items() if name.endswith("hooks") for hook in table.values()]
        parts += [type(module), *(part for part in [*vars(module).values(), *hooks] if callable(part))]
    return parts


def _require_no_state_outside(
    case: Case, outside: Outside, passes: Passes | None = None, name: str | None = None
) -> None:
    """Raise where what a pass leaves in a global, a class or what a function encloses changes the value of another.

    Such state is shared with the user, and put back as it was before.
    """
    changed = outside.changed()
    caches = [place for place in outside.places if place not in changed and place.may_be_a_cache]
    if not changed and not caches:
        return
    part, elsewhere = few_of(case.batch), _displaced(case.center, case.seed)
    try:
        passes = passes or CopyPasses(case.model, case.step, case.bn, case.device, case.training)

        def values(point: Params) -> Values:
            assert passes is not None
            weights = point | case.held
            return _measured(case, passes, algebra.copy(weights) if case.writes else weights, part)

        def value(point: Params) -> float:
            return values(point)["loss"]

        what, found = _of_order(case, outside, values, elsewhere) if changed else ("loss", None)
        for place in () if found and not _agree(case, *found) else caches[:_MOST_CACHES]:
            if (stale := _of_stale(case, place, value, elsewhere)) is not None:
                what, found, changed = "loss", stale, [place]
                break
    except Exception:
        return
    finally:
        outside.restore()
    if found is None or _agree(case, *found):
        return
    keeper = "the model" if name is None else "an object with __call__"  # which a bare function is not
    raise ObjectiveError(
        f"{name or type(case.model).__name__} keeps state outside of itself, in {changed[0].title}: at the same "
        f"weights its {what} on the first batch is {found[0]:.7g}, and {found[1]:.7g} after other weights were "
        f"evaluated. What one point leaves there the next one would find. Keep it in an attribute of {keeper}, "
        "which every point begins with as it is now, or compute it anew in each call."
    )


def _of_order(
    case: Case, outside: Outside, values: Callable[[Params], Values], elsewhere: Params
) -> tuple[str, tuple[float, float] | None]:
    """A loss or metric at a point alone, and after another; None where it does not even agree with itself."""
    outside.restore()
    alone = values(elsewhere)
    outside.restore()
    again = values(elsewhere)
    outside.restore()
    values(case.center)
    after = values(elsewhere)
    same = {name for name in alone if alone[name] == again[name] or alone[name] != alone[name]}
    off = [name for name in alone if name in same and not _agree(case, alone[name], after[name])]
    name = off[0] if off else "loss"
    return name, (alone[name], after[name]) if name in same else None


def _of_stale(
    case: Case, place: Place, value: Callable[[Params], float], elsewhere: Params
) -> tuple[float, float] | None:
    """The losses at a displaced point without what a place holds, and with it; None where it is no stale cache."""
    known = value(case.center), value(elsewhere)
    place.keep()
    try:
        place.clear()
        at_center = value(case.center)
        place.clear()
        displaced = value(elsewhere)
    except Exception:  # it is no cache: the code needs it
        return None
    finally:
        place.restore()
    return (
        (displaced, known[1]) if _agree(case, at_center, known[0]) and not _agree(case, displaced, known[1]) else None
    )


def _full_copy(case: Case) -> CopyPasses:
    passes = CopyPasses(case.model, case.step, case.bn, case.device, case.training)
    _watched(case, passes, case.center | case.held, data_batches.move(case.batch, case.device))
    return passes


# ---------------------------------------------------------------------- the first pass


def _first_pass(case: Case, found: Proven) -> Exception | None:
    """Pass the whole first batch at the centre; say what was written to, and what went wrong if it did."""
    before = case.center | case.held
    params = algebra.copy(before) if case.copies else before
    given, versions = data_batches.move(case.batch, case.device), data_batches.versions(params)
    try:
        hollow, found.written_buffers = _watched(case, found.passes, params, given)
    except (ObjectiveError, LossShapeError, DataError, OptionError):
        raise
    except _WrittenError:
        case.copies = True
        return _first_pass(case, found)
    except Exception as error:
        return error
    found.writes_data = not data_batches.same(case.batch, given)
    found.writes_weights = case.copies and (
        data_batches.versions(params) != versions
        or any(not contents.equal(tensor, before[name]) for name, tensor in params.items())
    )
    case.writes = found.writes_weights
    if hollow is None:
        return None
    return ObjectiveError(
        f'"{hollow}" is reached in another way than by its name, and {type(case.model).__name__} cannot be copied '
        "whole. Keep weights as attributes of modules only."
    )


def _watched(case: Case, passes: Passes, params: Params, batch: Batch) -> tuple[str | None, tuple[str, ...]]:
    """Pass the first batch; raise where a parameter of the user's own is used.

    Returns
    -------
    hollow : str or None
        A parameter that was reached by another way than its name, so that the structure's own was used.
    written : tuple of str
        Buffers that were written to or replaced.
    """
    owners: dict[int, str] = {}
    objects: dict[int, str] = {}
    for name, parameter in case.model.named_parameters():
        if name in case.center and case.copies:
            owners[_place(parameter)] = name
        elif name in case.center:  # the centre shares its memory
            objects[id(parameter)] = name
    hollow: dict[int, str] = {}
    written: dict[str, None] = {}
    if isinstance(passes, FunctionalPasses):
        own = dict(passes.whole.model.named_parameters())
        hollow = {_place(own[name]): name for name in case.center if name in own}
        passes.whole.seen = lambda buffers: written.update(_written(case, buffers))
    protected = set() if case.copies else {_place(tensor) for tensor in params.values()}
    uses = _Uses(owners, objects, hollow, protected, passes)
    try:
        _values(case, passes, params, batch, uses)
    finally:
        if isinstance(passes, FunctionalPasses):
            passes.whole.seen = None
    if isinstance(passes, FunctionalPasses | CopyPasses):
        passes.learn()
    if uses.found:
        name, where = next(iter(uses.found.items()))
        others = f" and {len(uses.found) - 1} more" if len(uses.found) > 1 else ""
        raise ObjectiveError(
            f'"{name}"{others} of your own model is used {where}: it would stay at the centre while other weights are '
            "evaluated. Reach weights through self, or through the model that forward=lambda model, batch: (outputs, "
            "targets) is given, and not through a global; for weight decay let forward() return its own loss "
            "(loss=None)."
        )
    return next(iter(uses.hollow_found), None), tuple(written)


def _written(case: Case, buffers: Mapping[str, Tensor]) -> dict[str, None]:
    """Buffers that are other ones than before the pass, by version or by value; statistics that are asked for apart."""
    asked = set()
    if case.bn != "frozen":
        asked = {name for name, module in case.model.named_modules() if isinstance(module, BATCH_NORMS)}
    return {
        name: None
        for name, tensor in buffers.items()
        if name.rpartition(".")[0] not in asked
        and (name not in case.buffers or tensor._version > 0 or not contents.equal(tensor, case.buffers[name]))
    }


class _WrittenError(Exception):
    """The forward pass writes into the weights it is given."""


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches which memory the operations of a pass read from.

    Parameters
    ----------
    owners, hollow : dict of int to str
        Names by the place of a tensor's memory: of the user's own parameters, and of the structure's.
    objects : dict of int to str
        Names of the user's own parameters by their id, where others share their memory.
    protected : set of int
        Memory that nothing may write to.
    """

    def __init__(
        self,
        owners: Mapping[int, str],
        objects: Mapping[int, str],
        hollow: Mapping[int, str],
        protected: set[int],
        passes: Passes,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owners, self.objects, self.hollow, self.protected = owners, dict(objects), hollow, protected
        self.found: dict[str, str] = {}
        self.hollow_found: dict[str, None] = {}
        self._views: list[Tensor] = []  # their ids are in `objects`
        self._names = {} if not hasattr(passes, "whole") else {
            id(module): name for name, module in passes.whole.model.named_modules()
        }  # fmt: skip

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler, two seconds of it, at the first operation that is seen."""
        return False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.protected and function._schema.is_mutable:
            self._require_unwritten(function, args)
        tainted = None
        if not _NUMBERS_UNREAD.search(function.name()):
            for tensor in _flat((args, kwargs)):
                place = _place(tensor)
                owner = self.owners.get(place) or self.objects.get(id(tensor))
                if owner is not None:
                    if function.is_view:
                        tainted = owner
                    elif owner not in self.found:
                        self.found[owner] = self._where()
                elif place in self.hollow and not function.is_view:
                    self.hollow_found[self.hollow[place]] = None
        made = function(*args, **kwargs)
        if tainted is not None and self.objects:
            for tensor in _flat(made):
                self.objects[id(tensor)] = tainted
                self._views.append(tensor)
        return made

    def _require_unwritten(self, function: Any, args: Any) -> None:
        for argument, value in zip(function._schema.arguments, args, strict=False):
            writes = argument.alias_info is not None and argument.alias_info.is_write
            if writes and any(_place(tensor) in self.protected for tensor in _flat(value)):
                raise _WrittenError

    def _where(self) -> str:
        """Whose code uses it: the part of the objective, and the line."""
        frame: Any = sys._getframe(1)
        line, part = "", ""
        while frame is not None:
            code, file = frame.f_code, Path(frame.f_code.co_filename).as_posix()
            if not line and not file.startswith((_HOME, _TORCH)):
                line = f" ({Path(file).name}:{frame.f_lineno}, in {code.co_name})"
            owner = frame.f_locals.get("self")
            if not part and isinstance(owner, nn.Module) and id(owner) in self._names and code.co_name == "_call_impl":
                part = f'in the forward pass or a hook of "{self._names[id(owner)]}"'
            if not part and file.startswith(_HOME):
                if code.co_name == "__call__" and type(owner).__name__ in ("Loss", "_Between"):
                    part = "in the loss"
                elif code.co_name == "_measure":
                    part = "in forward= or a metric"
            frame = frame.f_back
        return f"{part or 'elsewhere'}{line}"


def _flat(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))


def _place(tensor: Tensor) -> int:
    """Where a tensor's memory begins; a number that no other has where that cannot be told."""
    try:
        return tensor.untyped_storage().data_ptr() or -id(tensor)
    except (RuntimeError, NotImplementedError):  # sparse, or of a subclass
        return -id(tensor)


# ---------------------------------------------------------------------- the truth


@dataclass
class _Truth:
    """What plain torch gives at the centre and at a displaced point; None where that cannot be had."""

    elsewhere: Params
    at_center: float | None = None
    displaced: float | None = None


def _truth(case: Case, part: Batch) -> _Truth:
    """The loss of the user's model, by a way that does not depend on names.

    A model that is too large to be copied once more, or is looked at and not copied, is called itself at the centre; at
    the displaced point a structure that was not called before takes its place.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in (case.center | case.held).values())
    shared = not case.copies and size > _SHARED  # looked at, since a second point of it is too much: the centre alone
    truth = _Truth({} if shared else _displaced(case.center, case.seed))
    try:
        if case.copies and 2 * size < _SHARE * free_bytes(case.device):
            truth.at_center = _fresh(case, case.center, part)
            truth.displaced = _fresh(case, truth.elsewhere, part)
        elif isinstance(case.passes, FunctionalPasses):
            truth.at_center = _by_itself(case, case.passes, part)
            truth.displaced = None if shared else _values(case, case.passes.apart(), truth.elsewhere | case.held, part)
    except Exception:
        return truth  # what is wrong shows where it is called our way
    return truth


def _fresh(case: Case, point: Params, part: Batch) -> float:
    """The loss of a fresh deep copy of the user's model, with other weights in it."""
    passes = CopyPasses(case.model, case.step, case.bn, case.device, case.training)
    return _values(case, passes, point | case.held, part)


def _require_true_copy(case: Case, part: Batch, truth: _Truth) -> None:
    """Raise where a copy of the model, which its class makes in a way of its own, is another model."""
    if not case.copies or truth.at_center is None or not isinstance(case.passes, FunctionalPasses):
        return
    own = next((module for module in case.model.modules() if contents.restores_itself(module)), None)
    if own is None:
        return
    try:
        value = _by_itself(case, case.passes, part)
    except Exception:  # then there is nothing to hold it against
        return
    if value is not None and not _agree(case, value, truth.at_center):
        raise ObjectiveError(
            f"A copy of {type(case.model).__name__} is another model: on the first batch it has the loss "
            f"{truth.at_center:.7g}, and the model itself {value:.7g}. {type(own).__name__} says itself how it is "
            "copied (__deepcopy__, __getstate__) and leaves something out: copy that too, or drop the method."
        )


def _by_itself(case: Case, passes: FunctionalPasses, part: Batch) -> float | None:
    """The loss of the user's model itself: its weights, mode, buffers and attributes are as before afterwards."""
    first = next(iter(case.model.parameters()))
    if case.training or case.bn != "frozen" or first.device != next(iter(case.center.values())).device:
        return None
    own = [*case.model.parameters(), *case.model.buffers()]
    kept = contents.Kept(case.model, without=own, borrowed=True)
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
    """A point at which every number is another: 5 % of itself, or of its tensor's size, to a side that is drawn."""
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
    """A few samples of a batch, where every tensor in it counts its samples along the first axis."""
    inside = list(data_batches.tensors(batch))
    lengths = {tensor.shape[0] if tensor.dim() else -1 for tensor in inside}
    if len(lengths) != 1 or not data_batches.only_tensors(batch) or max(lengths) <= 2 * _SAMPLES:
        return batch
    return data_batches.map_tensors(batch, lambda tensor: tensor[:_SAMPLES])


def _values(case: Case, passes: Passes, point: Params, batch: Batch, uses: TorchDispatchMode | None = None) -> float:
    """The loss of a batch, given a copy of it; the same random numbers each time."""
    return _measured(case, passes, point, batch, uses)["loss"]


def _measured(case: Case, passes: Passes, point: Params, batch: Batch, uses: TorchDispatchMode | None = None) -> Values:
    """Loss and metrics of a batch, likewise."""
    steps: list[StepValues] = []
    for _ in range(4):  # a loss may be taken for what it is not, in two ways
        given = batch if uses is not None else data_batches.move(batch, case.device)
        with rng.preserved(case.seed, case.device), torch.no_grad():
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
    """Where a value is another than the truth: the truth, the value, and at which point; None where all agree.

    The displaced point comes before the centre: what the first leaves behind shows in the second.
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


def _contradiction(case: Case, part: Batch) -> tuple[float, float] | None:
    """Two values of the truth at the same weights that do not agree: then nothing can be held against it."""
    try:
        first, second = (_fresh(case, case.center, part) for _ in range(2))
    except Exception:
        return math.nan, math.nan
    return None if _agree(case, first, second) else (first, second)


def _warn_of_drift(name: str, first: float, second: float) -> None:
    if first == first and second == second:
        warnings.warn(
            f"{name} gave {first:.7g} and {second:.7g} for the same samples at the same weights, with the same random "
            "numbers: something outside of it changes from call to call (an iterator, a clock, a file), so that values "
            "cannot be compared. Let forward() depend on weights, buffers and its input alone.",
            LossnavWarning,
            stacklevel=4,
        )


# ---------------------------------------------------------------------- what a pass leaves behind


def _leaves_traces(case: Case, passes: FunctionalPasses, part: Batch) -> bool:
    """Whether what passes left in the structure tells of more than the last: a counter does, kept features do not."""
    if not passes.state_changed():
        return False
    weights = algebra.copy(case.center | case.held) if case.writes else case.center | case.held
    try:
        _values(case, passes, weights, part)
        after_many = passes.apart().whole.model
        passes.forget()
        _values(case, passes, weights, part)
        return not contents.same_state(after_many, passes.whole.model)
    except Exception:
        return True
    finally:
        passes.forget()


def _require_no_stale_cache(case: Case, part: Batch, truth: _Truth) -> None:
    """Raise where the model holds tensors that it computed from its weights before, and would go on using them."""
    if truth.at_center is None or truth.displaced is None or not case.copies:
        return
    for name, attribute in itertools.islice(_caches(case, part), _MOST_CACHES):
        try:
            values = [_without(case, name, attribute, point, part) for point in (case.center, truth.elsewhere)]
        except Exception:  # it is no cache: the model needs it
            continue
        if _agree(case, values[0], truth.at_center) and not _agree(case, values[1], truth.displaced):
            path = f"{name}." if name else ""
            raise ObjectiveError(
                f'"{path}{attribute}" of the model holds what was computed from its weights before: at other weights '
                f"the loss is {truth.displaced:.7g} with it and {values[1]:.7g} with a new one. Clear it first "
                f"(model.{path}{attribute} = None), or register it as a buffer if it is part of the model's state."
            )


def _caches(case: Case, part: Batch) -> Iterator[tuple[str, str]]:
    """Plain attributes of modules that hold floating-point tensors, no parameters or buffers, over a whole pass."""
    found = list(_plain_tensors(case.model))
    if not found:
        return
    passes = CopyPasses(case.model, case.step, case.bn, case.device, case.training)
    modules = dict(passes.whole.model.named_modules())
    before = [vars(modules[name]).get(attribute) for name, attribute in found]
    _values(case, passes, case.center | case.held, part)
    for (name, attribute), value in zip(found, before, strict=True):
        if vars(modules[name]).get(attribute) is value:
            yield name, attribute


def _plain_tensors(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Plain attributes of modules that hold floating-point tensors which are no parameters or buffers."""
    known = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute in ("_parameters", "_buffers", "_modules") or (
                attribute.startswith("_") and "hook" in attribute
            ):
                continue
            if not isinstance(value, Tensor | dict | list):
                continue
            inside = [tensor for tensor in contents.tensors(value) if tensor.is_floating_point()]
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
        del vars(module)[attribute]  # of a cached_property
    else:
        setattr(module, attribute, None)
    passes.begin_here()
    return _values(case, passes, point | case.held, part)
