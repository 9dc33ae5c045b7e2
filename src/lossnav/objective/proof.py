"""Compare the way in which lossnav calls a model with the model itself, once, on the first batch.

The reference is plain torch: a fresh deep copy of the user's model with the weights of a point written into it, in eval
mode (or train mode, if the user asks for it), and the user's loss. Two points are compared: the centre, and one at
which every moving parameter differs, so that a weight that is reached in another way than by its name gives a different
value. A use of the user's own parameters during a pass is found among the operations that torch dispatches.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from lossnav import params as algebra
from lossnav.errors import DataError, LossnavWarning, LossShapeError, ObjectiveError, OptionError
from lossnav.objective import batch_tensors, kept_state
from lossnav.objective import contents as contents_module
from lossnav.objective.batch_tensors import Batch
from lossnav.objective.diagnosis import explained
from lossnav.objective.first_pass import _MOST_CACHES, _caches, _first_pass, _truth, _watched
from lossnav.objective.functional import users_parts
from lossnav.objective.outside import Binding, Outside
from lossnav.objective.passes import CopyPasses, FunctionalPasses, Passes
from lossnav.objective.reduction import Values
from lossnav.objective.truth import (
    Case,
    Proven,
    _agree,
    _by_itself,
    _difference,
    _displaced,
    _fresh,
    _measured,
    _Truth,
    _values,
    _without,
    few_of,
)
from lossnav.params import Params


def prove(case: Case) -> Proven:
    """Find a way to call the model that gives its own loss at the centre and at other weights.

    Raises
    ------
    ObjectiveError
        If there is none; the message names the parameter that is reached in another way, and where.
    """
    outside = Outside(_code_of(case))
    try:
        found = _proven(case)
    except ObjectiveError:
        _require_no_state_outside(case, outside)  # if it raises, its reason is the better one
        raise
    _require_no_state_outside(case, outside, found.passes)
    if found.twice:
        _warn_of_drift(type(case.model).__name__, *found.twice)
    return found


def prove_function(case: Case, name: str) -> None:
    """Check that the state that a bare function keeps outside of itself does not change its values.

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
            again = any(isinstance(place.value, Iterator) for place in outside.places)  # an iterator cannot be restored
            second = _values(case, case.passes, algebra.copy(case.center), part) if again else first
        except Exception:  # the evaluation will raise it again
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
                passes.remembers = True  # then a cache is filled again at every point
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
    if difference is None:  # every way of calling raises: the error is the user's own
        assert failure is not None
        raise explained(failure, always=True) from failure
    if found_twice := _contradiction(case, part):
        found.twice = found_twice
        return found
    expected, value, where = difference
    raise ObjectiveError(
        f"{type(case.model).__name__} cannot be evaluated with other weights: {where} a fresh copy of it has the loss "
        f"{expected:.7g} on the first batch, but lossnav's way of calling it gives {value:.7g}. Usual causes: a "
        "weight that is reached through a global, a cache (functools.lru_cache), or a tensor computed from weights "
        "before. Compute it in forward(), or use Objective.from_function(f, params)."
    )


def _code_of(case: Case) -> list[Any]:
    """The user's functions and classes: those of the model and its layers, and of what is measured with it."""
    parts = [part for part in contents_module.reachable(users_parts(case.passes.step)) if contents_module.is_code(part)]
    for module in case.model.modules():
        hooks = [hook for name, table in vars(module).items() if name.endswith("hooks") for hook in table.values()]
        parts += [type(module), *(part for part in [*vars(module).values(), *hooks] if callable(part))]
    return parts


def _require_no_state_outside(
    case: Case, outside: Outside, passes: Passes | None = None, name: str | None = None
) -> None:
    """Raise if a pass leaves something in a global, a class or a closure that changes the value of another pass.

    The user shares such state, so it is restored.
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
    keeper = "the model" if name is None else "an object with __call__"  # a bare function has no attributes of its own
    raise ObjectiveError(
        f"{name or type(case.model).__name__} keeps state outside of itself, in {changed[0].title}: at the same "
        f"weights its {what} on the first batch is {found[0]:.7g}, but {found[1]:.7g} after other weights were "
        f"evaluated, so one point would influence the next. Keep it in an attribute of {keeper}, which is reset "
        "before every point, or compute it in each call."
    )


def _of_order(
    case: Case, outside: Outside, values: Callable[[Params], Values], elsewhere: Params
) -> tuple[str, tuple[float, float] | None]:
    """A loss or metric at a point alone and after another one; None if it does not agree with itself either."""
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
    case: Case, place: Binding, value: Callable[[Params], float], elsewhere: Params
) -> tuple[float, float] | None:
    """The losses at a displaced point without the contents of a place and with them; None if no stale cache."""
    known = value(case.center), value(elsewhere)
    place.keep()
    try:
        place.clear()
        at_center = value(case.center)
        place.clear()
        displaced = value(elsewhere)
    except Exception:  # not a cache: the code needs the value
        return None
    finally:
        place.restore()
    return (
        (displaced, known[1]) if _agree(case, at_center, known[0]) and not _agree(case, displaced, known[1]) else None
    )


def _full_copy(case: Case) -> CopyPasses:
    passes = CopyPasses(case.model, case.step, case.bn, case.device, case.training)
    _watched(case, passes, case.center | case.held, batch_tensors.move(case.batch, case.device))
    return passes


# ---------------------------------------------------------------------- the truth


def _require_true_copy(case: Case, part: Batch, truth: _Truth) -> None:
    """Raise if a copy of the model, made by its own rules, is another model."""
    if not case.copies or truth.at_center is None or not isinstance(case.passes, FunctionalPasses):
        return
    own = next((module for module in case.model.modules() if contents_module.restores_itself(module)), None)
    if own is None:
        return
    try:
        value = _by_itself(case, case.passes, part)
    except Exception:  # then there is nothing to compare with
        return
    if value is not None and not _agree(case, value, truth.at_center):
        raise ObjectiveError(
            f"A copy of {type(case.model).__name__} is another model: on the first batch it has the loss "
            f"{truth.at_center:.7g}, but the model itself {value:.7g}. {type(own).__name__} defines how it is copied "
            "(__deepcopy__, __getstate__) and leaves something out: copy that too, or remove the method."
        )


def _contradiction(case: Case, part: Batch) -> tuple[float, float] | None:
    """Two reference values at the same weights, if they do not agree, so that nothing can be compared with them."""
    try:
        first, second = (_fresh(case, case.center, part) for _ in range(2))
    except Exception:
        return math.nan, math.nan
    return None if _agree(case, first, second) else (first, second)


def _warn_of_drift(name: str, first: float, second: float) -> None:
    if first == first and second == second:
        warnings.warn(
            f"{name} gave {first:.7g} and {second:.7g} for the same samples at the same weights with the same random "
            "numbers. Something outside of it changes from call to call (an iterator, a clock, a file), so values "
            "cannot be compared. Let forward() depend only on weights, buffers and its input.",
            LossnavWarning,
            stacklevel=4,
        )


# ---------------------------------------------------------------------- what a pass leaves behind


def _leaves_traces(case: Case, passes: FunctionalPasses, part: Batch) -> bool:
    """Whether passes leave more in the structure than the last one alone: a counter does, kept features do not."""
    if not passes.state_changed():
        return False
    weights = algebra.copy(case.center | case.held) if case.writes else case.center | case.held
    try:
        _values(case, passes, weights, part)
        after_many = passes.apart().whole.model
        passes.forget()
        _values(case, passes, weights, part)
        return not kept_state.same_state(after_many, passes.whole.model)
    except Exception:
        return True
    finally:
        passes.forget()


def _require_no_stale_cache(case: Case, part: Batch, truth: _Truth) -> None:
    """Raise if the model keeps tensors that it computed from its weights, and would use them at other weights."""
    if truth.at_center is None or truth.displaced is None or not case.copies:
        return
    for name, attribute in itertools.islice(_caches(case, part), _MOST_CACHES):
        try:
            values = [_without(case, name, attribute, point, part) for point in (case.center, truth.elsewhere)]
        except Exception:  # not a cache: the model needs the value
            continue
        if _agree(case, values[0], truth.at_center) and not _agree(case, values[1], truth.displaced):
            path = f"{name}." if name else ""
            raise ObjectiveError(
                f'The attribute "{path}{attribute}" of the model holds a value computed from its weights before: at '
                f"other weights the loss is {truth.displaced:.7g} with it, but {values[1]:.7g} if it is computed "
                f"again. Clear it first (model.{path}{attribute} = None), or register it as a buffer if it is part of "
                "the state of the model."
            )
