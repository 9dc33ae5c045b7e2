"""The first pass of an objective, watched: which state it reads and writes, and its value in plain torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from lossnav import params as algebra
from lossnav._utils.memory import free_bytes
from lossnav.errors import DataError, LossShapeError, ObjectiveError, OptionError
from lossnav.objective import batch_tensors
from lossnav.objective import contents as contents_module
from lossnav.objective.batch_norm import BATCH_NORMS
from lossnav.objective.batch_tensors import Batch
from lossnav.objective.passes import CopyPasses, FunctionalPasses, Passes
from lossnav.objective.state_uses import _SHARE, _SHARED, _place, _Uses, _WrittenError
from lossnav.objective.truth import Case, Proven, _by_itself, _displaced, _fresh, _plain_tensors, _Truth, _values
from lossnav.params import Params

_MOST_CACHES = 16  # attributes that are emptied to see whether they are caches


def _first_pass(case: Case, found: Proven) -> Exception | None:
    """Pass the whole first batch at the centre; record what was written to, and return the error if there was one."""
    before = case.center | case.held
    params = algebra.copy(before) if case.copies else before
    given, versions = batch_tensors.move(case.batch, case.device), batch_tensors.versions(params)
    try:
        hollow, found.written_buffers = _watched(case, found.passes, params, given)
    except (ObjectiveError, LossShapeError, DataError, OptionError):
        raise
    except _WrittenError:
        case.copies = True
        return _first_pass(case, found)
    except Exception as error:
        return error
    found.writes_data = not batch_tensors.same(case.batch, given)
    found.writes_weights = case.copies and (
        batch_tensors.versions(params) != versions
        or any(not contents_module.equal(tensor, before[name]) for name, tensor in params.items())
    )
    case.writes = found.writes_weights
    if hollow is None:
        return None
    return ObjectiveError(
        f'The parameter "{hollow}" is reached in another way than by its name, and {type(case.model).__name__} cannot '
        "be copied as a whole. Keep weights only as attributes of modules."
    )


def _watched(case: Case, passes: Passes, params: Params, batch: Batch) -> tuple[str | None, tuple[str, ...]]:
    """Pass the first batch; raise ObjectiveError if a parameter of the user's own model is used.

    Returns
    -------
    hollow : str or None
        A parameter that was reached in another way than by its name, so the NaNs of the structure were used.
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
            f'The parameter "{name}"{others} of your own model is used {where}, so it would stay at the centre while '
            "other weights are evaluated. Reach weights through self, or through the model that forward=lambda "
            "model, batch: (outputs, targets) gets, not through a global; for weight decay let forward() return its "
            "own loss (loss=None)."
        )
    return next(iter(uses.hollow_found), None), tuple(written)


def _written(case: Case, buffers: Mapping[str, Tensor]) -> dict[str, None]:
    """Buffers that a pass changed or replaced, except BatchNorm statistics that the user asked to recompute."""
    asked = set()
    if case.bn != "frozen":
        asked = {name for name, module in case.model.named_modules() if isinstance(module, BATCH_NORMS)}
    return {
        name: None
        for name, tensor in buffers.items()
        if name.rpartition(".")[0] not in asked
        and (name not in case.buffers or tensor._version > 0 or not contents_module.equal(tensor, case.buffers[name]))
    }


def _truth(case: Case, part: Batch) -> _Truth:
    """The loss of the user's model, computed in a way that does not depend on names.

    A model that is too large for another copy, or is shared (``copy=False``), is called itself at the centre; at the
    displaced point a structure that was not called before is used.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in (case.center | case.held).values())
    shared = not case.copies and size > _SHARED  # no second point: it would need another copy of a large model
    truth = _Truth({} if shared else _displaced(case.center, case.seed))
    try:
        if case.copies and 2 * size < _SHARE * free_bytes(case.device):
            truth.at_center = _fresh(case, case.center, part)
            truth.displaced = _fresh(case, truth.elsewhere, part)
        elif isinstance(case.passes, FunctionalPasses):
            truth.at_center = _by_itself(case, case.passes, part)
            truth.displaced = None if shared else _values(case, case.passes.apart(), truth.elsewhere | case.held, part)
    except Exception:
        return truth  # the error shows again where lossnav calls the model
    return truth


def _caches(case: Case, part: Batch) -> Iterator[tuple[str, str]]:
    """Plain attributes of modules (no parameters or buffers) that keep the same floating-point tensors over a pass."""
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
