"""The objects, closures and tensors that a value of the user's refers to, as far as they can be found.

A loss may be a module, a `functools.partial`, a bound method or a function that encloses a module; a batch may be an
object of any class. Everything that lossnav copies, watches or restores is found by the walk in this file.
"""

from __future__ import annotations

import copy
import functools
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

T = TypeVar("T")

_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_ATOMS = (  # values that are not searched
    str, bytes, bytearray, int, float, complex, type, types.ModuleType, types.BuiltinFunctionType, types.CodeType,
    types.GeneratorType, types.FrameType, torch.dtype, torch.device, torch.Generator, torch.Size, np.ndarray,
    np.generic, range, slice,
)  # fmt: skip
_LARGEST = 2**28  # bytes of a tensor whose numbers are kept; a larger one is data, which nobody writes to
_NOTHING = frozenset((types.NoneType, bool, int, float, str, *_CONTAINERS, OrderedDict))  # skipped if empty or zero
_OWN = "_lossnav_own_cells"  # attribute of a copied function: which cells are its own
_SMALL = 2**16  # entries: smaller tensors are compared at every pass, of larger ones only the version
_MOST = 100_000  # objects that are searched, so that a loss that encloses a data set does not take long


def is_object(value: Any) -> bool:
    """Whether a value is more than a number, a string or a function: it may hold tensors.

    >>> is_object(3), is_object("word"), is_object({"x": 1}), is_object(torch.nn.ReLU())
    (False, False, True, True)
    """
    return not (value is None or isinstance(value, (*_ATOMS, Tensor, types.FunctionType)))


@functools.lru_cache(maxsize=4096)
def _sort(kind: Any) -> tuple[bool, bool]:
    """Whether values of a class are not searched, and whether they have items."""
    return issubclass(kind, (*_ATOMS, Tensor, types.NoneType)), issubclass(kind, _CONTAINERS)


def parts(value: Any) -> Iterator[Any]:
    """What a value refers to: its items, its attributes, what a function encloses."""
    kind: Any = type(value)
    atom, container = _sort(kind)
    if atom:
        return
    if container:
        yield from value.values() if isinstance(value, dict) else value
    if isinstance(value, types.FunctionType):
        yield from (cell.cell_contents for cell in filled(value))
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    else:
        yield from (getattr(value, "__dict__", None) or {}).values()
        yield from _slots(value).values()


def reachable(value: Any) -> Iterator[Any]:
    """A value and everything that it refers to, each once, depth first; empty containers and zeros are left out.

    >>> layer = torch.nn.Linear(2, 1)
    >>> any(part is layer.weight for part in reachable(functools.partial(layer, torch.ones(2))))
    True
    """
    seen: set[int] = set()
    ahead = [value]
    kept = []  # keep the objects alive, because their ids are used: an attribute may be created on access
    while ahead and len(seen) < _MOST:
        part = ahead.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        kept.append(part)
        yield part
        further = [
            each for each in parts(part) if type(each) not in _NOTHING or each
        ]  # every module has twelve tables, most of them empty
        ahead += reversed(further)


def is_code(value: Any) -> bool:
    """Whether a value is a function, or an object with methods that may be called.

    >>> is_code(len), is_code(lambda: 0), is_code(torch.nn.ReLU()), is_code([1])
    (False, True, True, False)
    """
    return isinstance(value, types.FunctionType | types.MethodType | functools.partial) or (
        is_object(value) and not isinstance(value, _CONTAINERS)
    )


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor that a value refers to, once."""
    return (part for part in reachable(value) if isinstance(part, Tensor))


def copied(value: T, memo: dict[int, Any]) -> T:
    """Make a deep copy that also copies modules and tensors that functions enclose.

    A loss that encloses a module gets a copy of that module, the same copy as all objects that are copied with this
    memo: the copies of a model and of a loss that refers to it belong together. Other objects that a function encloses
    (a list in which it counts its calls) stay shared, and so does what cannot be copied.

    Parameters
    ----------
    value : object
    memo : dict
        As for `copy.deepcopy`: from the id of an object to its replacement. It grows.

    Examples
    --------
    >>> layer = torch.nn.Linear(1, 1)
    >>> def enclosing(model):
    ...     return lambda: model
    >>> made = copied(enclosing(layer), {})
    >>> made() is layer, torch.equal(made().weight, layer.weight)
    (False, True)
    """
    for own_copying in (False, True):
        trial = dict(memo)
        try:
            made = _copied(value, trial, own_copying)
        except Exception:
            if own_copying or not any(_copies_itself(part) for part in reachable(value)):
                raise
            continue
        _remember(memo, trial)
        break
    return made


def _copied(value: T, memo: dict[int, Any], own_copying: bool) -> T:
    """Copy once; modules with a ``__deepcopy__`` of their own use it, or are copied like any other."""
    found = [part for part in reachable(value) if id(part) not in memo]
    themselves = [] if own_copying else [part for part in found if _copies_itself(part)]
    for module in themselves:
        kind: Any = type(module)
        memo[id(module)] = kind.__new__(kind)
    functions = [part for part in found if isinstance(part, types.FunctionType)]
    cells: dict[int, tuple[types.CellType, types.CellType]] = {}
    for function in functions:
        own = _cells_with_state(function)
        if not own:
            continue
        for cell in own:
            cells.setdefault(id(cell), (cell, types.CellType()))
        closure = tuple(cells[id(cell)][1] if id(cell) in cells else cell for cell in function.__closure__ or ())
        memo[id(function)] = made = _with_closure(function, closure)
        mine = {id(cell) for cell in own}  # by id: cells compare equal if their contents do
        made.__dict__[_OWN] = tuple(n for n, cell in enumerate(function.__closure__ or ()) if id(cell) in mine)
    for function in functions:  # after all closures, because a default may be a function that has one
        if any(_is_state(default) for default in _defaults(function)):
            made = memo.setdefault(id(function), _with_closure(function, function.__closure__ or ()))
            _give_defaults(made, lambda default: _copied_or_shared(default, memo) if _is_state(default) else default)
            made.__dict__.setdefault(_OWN, ())
    for cell, new in cells.values():
        new.cell_contents = _copied_or_shared(cell.cell_contents, memo)
    for module in themselves:
        memo[id(module)].__dict__.update(copy.deepcopy(vars(module), memo))
    own_methods = any(isinstance(part, types.MethodType) and id(part.__func__) in memo for part in reachable(value))
    result = copy.deepcopy(value, memo)
    return _with_own_methods(result, memo) if own_methods else result


def _with_own_methods(value: T, memo: dict[int, Any]) -> T:
    """Bind copied functions to copied objects: `copy.deepcopy` copies only the object that a method is bound to.

    An example is a `forward` that a library puts into a module, around the original one.
    """

    def own(part: Any) -> Any:
        known = isinstance(part, types.MethodType) and id(part.__func__) in memo
        return types.MethodType(memo[id(part.__func__)], part.__self__) if known else part

    copies = {id(part) for part in memo.values()}  # only copies are written to
    ahead = True
    while ahead:  # a forward may be wrapped several times
        ahead = False
        for part in [part for part in reachable(value) if id(part) in copies]:
            for dictionary in [d for d in (part, getattr(part, "__dict__", None)) if isinstance(d, dict)]:
                fresh = {name: own(item) for name, item in dictionary.items()}
                if any(item is not dictionary[name] for name, item in fresh.items()):
                    dictionary.update(fresh)
                    ahead = True
            if isinstance(part, list):
                part[:] = [own(item) for item in part]
            for cell in filled(part) if isinstance(part, types.FunctionType) else ():
                if own(cell.cell_contents) is not cell.cell_contents:
                    cell.cell_contents = own(cell.cell_contents)
                    ahead = True
    return cast(T, own(value))


def _defaults(function: types.FunctionType) -> list[Any]:
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _give_defaults(function: types.FunctionType, change: Callable[[Any], Any]) -> None:
    if function.__defaults__:
        function.__defaults__ = tuple(change(default) for default in function.__defaults__)
    if function.__kwdefaults__:
        function.__kwdefaults__ = {name: change(default) for name, default in function.__kwdefaults__.items()}


def _copies_itself(part: Any) -> bool:
    """Whether it is a module of the user's with a ``__deepcopy__`` of its own."""
    return isinstance(part, nn.Module) and any(
        "__deepcopy__" in vars(kind) for kind in type(part).__mro__ if not kind.__module__.startswith("torch.")
    )


def restores_itself(part: Any) -> bool:
    """Whether it is a module of the user's that defines what a copy of it contains (``__getstate__`` and similar)."""
    names = ("__getstate__", "__setstate__", "__reduce__", "__reduce_ex__", "__deepcopy__")
    kinds = [kind for kind in type(part).__mro__ if kind is not object and not kind.__module__.startswith("torch.")]
    return isinstance(part, nn.Module) and any(name in vars(kind) for kind in kinds for name in names)


def is_shared(a: Any, b: Any) -> bool:
    """Whether a value and its copy share a module or a callable object, which returned itself when it was copied.

    >>> layer = torch.nn.ReLU()
    >>> is_shared([layer], [copy.deepcopy(layer)]), is_shared([layer], (layer,))
    (False, True)
    """
    mine = {id(part) for part in reachable(a) if _is_own_object(part)}
    return any(id(part) in mine for part in reachable(b))


def _is_own_object(part: Any) -> bool:
    return isinstance(part, nn.Module) or (_is_called(part) and not type(part).__module__.startswith("torch."))


def _cells_with_state(function: types.FunctionType) -> list[types.CellType]:
    """Cells that a copy of a function does not share; if it is a copy already, the same ones again."""
    known = function.__dict__.get(_OWN)
    if known is not None:
        return [(function.__closure__ or ())[number] for number in known]
    return [cell for cell in filled(function) if _is_state(cell.cell_contents)]


def _is_state(value: Any) -> bool:
    """Whether it refers to a module, a tensor or a callable object: what a loss or a metric may be made of."""
    return any(isinstance(part, nn.Module | Tensor) or _is_called(part) for part in reachable(value))


def _is_called(value: Any) -> bool:
    plain = isinstance(value, types.FunctionType | types.MethodType | functools.partial | type)
    return (
        not plain and callable(value) and bool(getattr(value, "__dict__", None)) and not hasattr(value, "__wrapped__")
    )


def _with_closure(function: types.FunctionType, closure: tuple[types.CellType, ...]) -> types.FunctionType:
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    made.__qualname__, made.__module__, made.__doc__ = function.__qualname__, function.__module__, function.__doc__
    return made


def _copied_or_shared(value: Any, memo: dict[int, Any]) -> Any:
    trial = dict(memo)  # a copy that fails must not leave partial copies in the memo
    try:
        made = copy.deepcopy(value, trial)
    except Exception:
        return value
    _remember(memo, trial)
    return made


def _remember(memo: dict[int, Any], trial: dict[int, Any]) -> None:
    """Take over the copies from another memo.

    `copy.deepcopy` keeps the originals alive in a list under the id of its memo. When that memo is deleted, another
    object may get its id, and its copy would be that list.
    """
    alive = trial.pop(id(trial), [])
    memo.update(trial)
    memo.setdefault(id(memo), []).append(alive)


def _slots(part: Any) -> dict[str, Any]:
    """Attributes in the slots of an object of the user's own."""
    kind: Any = type(part)
    names = _slot_names(kind)
    return {name: getattr(part, name) for name in names if hasattr(part, name)} if names else {}


@functools.lru_cache(maxsize=4096)
def _slot_names(kind: Any) -> tuple[str, ...]:
    """Names of the slots of a class; none for classes in C, whose slots cannot be set."""
    if issubclass(kind, (*_ATOMS, *_CONTAINERS, Tensor, types.FunctionType, types.MethodType, functools.partial)):
        return ()
    names = (name for base in kind.__mro__ for name in _listed(base.__dict__.get("__slots__", ())))
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers; NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if a.layout != torch.strided:
        a, b = a.to_dense(), b.to_dense()
    return torch.equal(a, b) or (a.is_floating_point() and bool(((a == b) | (a.isnan() & b.isnan())).all()))


def filled(function: types.FunctionType) -> list[types.CellType]:
    """The cells of a closure, without names that are not bound yet."""

    def is_bound(cell: types.CellType) -> bool:
        try:
            return cell.cell_contents is not cell
        except ValueError:
            return False

    return [cell for cell in function.__closure__ or () if is_bound(cell)]


def _listed(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
