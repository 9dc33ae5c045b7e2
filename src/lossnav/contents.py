"""What a value of the user's is made of, as far as it can be seen: objects, closures, and the tensors in them.

A loss may be a module, a `functools.partial`, a bound method or a function that encloses a module; a batch may be an
object of any class. All that lossnav copies, watches or restores it finds by the one walk of this file.
"""

from __future__ import annotations

import copy
import functools
import random
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

T = TypeVar("T")

_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_ATOMS = (  # nothing of what these refer to is looked into
    str, bytes, bytearray, int, float, complex, type, types.ModuleType, types.BuiltinFunctionType, types.CodeType,
    types.GeneratorType, types.FrameType, torch.dtype, torch.device, torch.Generator, torch.Size, np.ndarray,
    np.generic, range, slice,
)  # fmt: skip
_LARGEST = 2**28  # bytes of a tensor whose numbers are kept: beyond that it is data, which nobody writes to
_NOTHING = frozenset((types.NoneType, bool, int, float, str, *_CONTAINERS, OrderedDict))  # where they are false
_OWN = "_lossnav_own_cells"  # in the attributes of a function that was copied: which cells are its own
_SMALL = 2**16  # numbers: so many are compared at every pass, of larger tensors only the version is
_MOST = 100_000  # objects that are looked at: whoever encloses a whole data set in a loss need not wait for it


def is_object(value: Any) -> bool:
    """Whether a value is more than a number, a word or a function: it may hold tensors.

    >>> is_object(3), is_object("word"), is_object({"x": 1}), is_object(torch.nn.ReLU())
    (False, False, True, True)
    """
    return not (value is None or isinstance(value, (*_ATOMS, Tensor, types.FunctionType)))


@functools.lru_cache(maxsize=4096)
def _sort(kind: Any) -> tuple[bool, bool]:
    """Whether values of a class are not looked into, and whether they have items."""
    return issubclass(kind, (*_ATOMS, Tensor, types.NoneType)), issubclass(kind, _CONTAINERS)


def parts(value: Any) -> Iterator[Any]:
    """What a value refers to: items, attributes, what a function encloses."""
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
    """A value and all that it refers to, each once, depth first; of numbers and containers not those that are empty.

    >>> layer = torch.nn.Linear(2, 1)
    >>> any(part is layer.weight for part in reachable(functools.partial(layer, torch.ones(2))))
    True
    """
    seen: set[int] = set()
    ahead = [value]
    kept = []  # ids are those of living objects: an attribute may be made when it is asked for
    while ahead and len(seen) < _MOST:
        part = ahead.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        kept.append(part)
        yield part
        further = [each for each in parts(part) if type(each) not in _NOTHING or each]  # of each module twelve tables
        ahead += reversed(further)


def is_code(value: Any) -> bool:
    """Whether a value is a function, or an object of a class whose methods may be called.

    >>> is_code(len), is_code(lambda: 0), is_code(torch.nn.ReLU()), is_code([1])
    (False, True, True, False)
    """
    return isinstance(value, types.FunctionType | types.MethodType | functools.partial) or (
        is_object(value) and not isinstance(value, _CONTAINERS)
    )


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor that a value reaches, once."""
    return (part for part in reachable(value) if isinstance(part, Tensor))


def copied(value: T, memo: dict[int, Any]) -> T:
    """Make a deep copy that follows functions into what they enclose, where that holds a module or a tensor.

    A loss that encloses a module gets a copy of that module, the same one as everybody who is copied with this memo:
    of a model and a loss that looks at it the copies belong together. What a function encloses otherwise (a list that
    it counts its calls in) stays shared. So does what cannot be copied.

    Parameters
    ----------
    value : object
    memo : dict
        As of `copy.deepcopy`: from the id of what is replaced to what stands in its place. It grows.

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
    """The same; of modules that copy themselves by that, or as any other: they may return themselves, or forget."""
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
        mine = {id(cell) for cell in own}  # not by equality: cells compare what they hold
        made.__dict__[_OWN] = tuple(n for n, cell in enumerate(function.__closure__ or ()) if id(cell) in mine)
    for function in functions:  # after all closures: a default may hold a function that has one
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
    """The same, its bound methods of functions that were copied: `copy.deepcopy` copies what they are bound to alone.

    So is the `forward` that somebody puts into a module, around the one that it had.
    """

    def own(part: Any) -> Any:
        known = isinstance(part, types.MethodType) and id(part.__func__) in memo
        return types.MethodType(memo[id(part.__func__)], part.__self__) if known else part

    copies = {id(part) for part in memo.values()}  # nothing of the user's own is written to
    ahead = True
    while ahead:  # around a forward that was put there before
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
    """Whether it is a module of the user's that says by ``__deepcopy__`` how it is copied."""
    return isinstance(part, nn.Module) and any(
        "__deepcopy__" in vars(kind) for kind in type(part).__mro__ if not kind.__module__.startswith("torch.")
    )


def restores_itself(part: Any) -> bool:
    """Whether it is a module of the user's that says by ``__getstate__`` and the like what a copy of it has."""
    names = ("__getstate__", "__setstate__", "__reduce__", "__reduce_ex__", "__deepcopy__")
    kinds = [kind for kind in type(part).__mro__ if kind is not object and not kind.__module__.startswith("torch.")]
    return isinstance(part, nn.Module) and any(name in vars(kind) for kind in kinds for name in names)


def is_shared(a: Any, b: Any) -> bool:
    """Whether a value and its copy have a module or a callable object in common, which copies itself by itself.

    >>> layer = torch.nn.ReLU()
    >>> is_shared([layer], [copy.deepcopy(layer)]), is_shared([layer], (layer,))
    (False, True)
    """
    mine = {id(part) for part in reachable(a) if _is_own_object(part)}
    return any(id(part) in mine for part in reachable(b))


def _is_own_object(part: Any) -> bool:
    return isinstance(part, nn.Module) or (_is_called(part) and not type(part).__module__.startswith("torch."))


def _cells_with_state(function: types.FunctionType) -> list[types.CellType]:
    """Cells that a copy of a function has for itself: the same ones again where it is a copy already."""
    known = function.__dict__.get(_OWN)
    if known is not None:
        return [(function.__closure__ or ())[number] for number in known]
    return [cell for cell in filled(function) if _is_state(cell.cell_contents)]


def _is_state(value: Any) -> bool:
    """Whether it reaches a module, a tensor, or an object that is called: what a loss or a metric may be made of."""
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
    trial = dict(memo)  # a copy that fails half way must leave nothing half made behind
    try:
        made = copy.deepcopy(value, trial)
    except Exception:
        return value
    _remember(memo, trial)
    return made


def _remember(memo: dict[int, Any], trial: dict[int, Any]) -> None:
    """Take over what a copy with another memo has copied.

    `copy.deepcopy` keeps what it has copied alive in a list under the id of its memo. When that memo is gone, another
    object may get its id, whose copy would be that list.
    """
    alive = trial.pop(id(trial), [])
    memo.update(trial)
    memo.setdefault(id(memo), []).append(alive)


class Kept:
    """The state of objects as it is now, to put back later: attributes, items of containers, numbers in tensors.

    Parameters
    ----------
    value : object
        All that it reaches is kept; of hooks that modules have, which there are. Those that lossnav watches a pass by
        are left alone.
    without : iterable of Tensor
        Tensors whose numbers are not kept: those that others put in place at every pass.
    borrowed : bool
        Whether it is the user's own, and no copy by `copied`.
    numbers : bool
        Whether the numbers in tensors and arrays are kept: of a dataset they are most of its memory.

    Examples
    --------
    >>> state = {"steps": 0, "mean": torch.zeros(2)}
    >>> kept = Kept(state)
    >>> state["steps"] += 1
    >>> _ = state["mean"].add_(1)
    >>> kept.restore()
    >>> state
    {'steps': 0, 'mean': tensor([0., 0.])}
    """

    def __init__(
        self, value: Any, without: Iterable[Tensor] = (), borrowed: bool = False, numbers: bool = True
    ) -> None:
        self.value = value
        skipped = {id(tensor) for tensor in without}
        self._tensors: list[list[Any]] = []  # tensor, its numbers, its version, whether it may change without that
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._others: list[tuple[Any, Any]] = []  # lists, sets and deques
        self._inner: list[list[Any]] = []  # arrays, bytes and random generators: it, its state, whether it is looked at
        self._slots: list[tuple[Any, dict[str, Any]]] = []
        self._hooks: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        for part in _stateful(value, borrowed=borrowed):
            if isinstance(part, Tensor | np.ndarray) and not numbers:
                continue
            if isinstance(part, Tensor):
                if id(part) not in skipped and part.numel() * part.element_size() <= _LARGEST:
                    small = part.numel() <= _SMALL
                    self._tensors.append([part, part.detach().clone(), part._version, small])
            elif isinstance(part, dict):
                self._dicts.append((part, dict(part)))
            elif isinstance(part, list | set | deque):
                self._others.append((part, copy.copy(part)))
            elif (inner := _inner_state(part)) is not None:
                self._inner.append([part, inner, not isinstance(part, np.ndarray) or part.size <= _SMALL])
            if isinstance(part, nn.Module):
                tables = [table for name, table in vars(part).items() if _of_hooks(name) and isinstance(table, dict)]
                self._hooks += [(table, dict(table)) for table in tables]
            attributes = None if isinstance(part, types.FunctionType | Tensor) else getattr(part, "__dict__", None)
            if isinstance(attributes, dict):
                self._dicts.append((attributes, dict(attributes)))
            if slots := _slots(part):
                self._slots.append((part, slots))

    def changed(self) -> bool:
        """Whether anything is another than it was."""
        return (
            any(not _alike(dictionary, saved) for dictionary, saved in self._dicts)
            or any(not _alike(_without_ours(table), _without_ours(saved)) for table, saved in self._hooks)
            or any(not _same_items(part, saved) for part, saved in self._others)
            or any(not _alike(_slots(part), saved) for part, saved in self._slots)
            or any(not _same_values(_inner_state(part), saved) for part, saved, _ in self._inner)
            or any(not equal(part, saved) for part, saved, *_ in self._tensors)
        )

    def learn(self) -> None:
        """See what was written to behind a version's back (`tensor.data`, large arrays), to compare it each time."""
        for row in self._tensors:
            row[3] = row[3] or not equal(row[0], row[1])
        for row in self._inner:
            row[2] = row[2] or not _same_values(_inner_state(row[0]), row[1])

    @property
    def compared(self) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
        """Which tensors, and which other numbers, are compared each time: what `learn` found."""
        return tuple(row[3] for row in self._tensors), tuple(row[2] for row in self._inner)

    def compare(self, known: tuple[tuple[bool, ...], tuple[bool, ...]]) -> None:
        """Compare what the same state of a copy was found to need."""
        tensors, inner = known
        for row, looks in zip(self._tensors, tensors, strict=True):
            row[3] = looks
        for row, looks in zip(self._inner, inner, strict=True):
            row[2] = looks

    def restore(self) -> None:
        """Put everything back that was changed."""
        for dictionary, saved in self._dicts:
            if not _alike(dictionary, saved):
                dictionary.clear()
                dictionary.update(saved)
        for table, saved in self._hooks:  # a model may mark itself as hooked, and hook itself anew without the mark
            if not _alike(_without_ours(table), _without_ours(saved)):
                ours = {key: hook for key, hook in table.items() if _is_ours(hook)}
                table.clear()
                table.update(saved | ours)
        for part, saved in self._others:
            if not _same_items(part, saved):
                part.clear()
                part.update(saved) if isinstance(part, set) else part.extend(saved)
        for part, saved in self._slots:
            if not _alike(now := _slots(part), saved):
                for name in now.keys() | saved.keys():
                    object.__setattr__(part, name, saved[name]) if name in saved else object.__delattr__(part, name)
        for part, saved, looks in self._inner:
            if looks and not _same_values(_inner_state(part), saved):
                _put_back(part, saved)
        for row in self._tensors:
            part, saved, version, looks = row
            if part._version != version or (looks and not equal(part, saved)):
                part.detach().copy_(saved)
                row[2] = part._version


def _inner_state(part: Any) -> Any:
    """The state of what is changed in place and is no tensor or container; None of anything else."""
    if isinstance(part, np.ndarray):
        return None if part.dtype == object or part.nbytes > _LARGEST or not part.flags.writeable else part.copy()
    if isinstance(part, bytearray):
        return bytes(part)
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, np.random.Generator):
        return copy.deepcopy(part.bit_generator.state)
    if isinstance(part, np.random.RandomState):
        return part.get_state()
    return part.getstate() if isinstance(part, random.Random) else None


def _same_values(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return bool(a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same_values(value, b[name]) for name, value in a.items())
    if isinstance(a, tuple):
        return len(a) == len(b) and all(_same_values(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _put_back(part: Any, saved: Any) -> None:
    if isinstance(part, np.ndarray):
        if part.shape != saved.shape:
            part.resize(saved.shape, refcheck=False)
        part[...] = saved
    elif isinstance(part, bytearray):
        part[:] = saved
    elif isinstance(part, np.random.Generator):
        part.bit_generator.state = saved
    elif isinstance(part, random.Random):
        part.setstate(saved)
    else:  # of torch, and the older kind of NumPy
        part.set_state(saved)


def _slots(part: Any) -> dict[str, Any]:
    """Attributes of an object of the user's own that has slots instead of a dict."""
    kind: Any = type(part)
    names = _slot_names(kind)
    return {name: getattr(part, name) for name in names if hasattr(part, name)} if names else {}


@functools.lru_cache(maxsize=4096)
def _slot_names(kind: Any) -> tuple[str, ...]:
    """Names of the slots of a class; of what is written in C those are not to be set."""
    if issubclass(kind, (*_ATOMS, *_CONTAINERS, Tensor, types.FunctionType, types.MethodType, functools.partial)):
        return ()
    names = (name for base in kind.__mro__ for name in _listed(base.__dict__.get("__slots__", ())))
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def same_state(a: Any, b: Any) -> bool:
    """Whether two copies of one thing are in the same state, as far as attributes, items and tensors tell."""
    ours, theirs = list(_stateful(a, atoms=True)), list(_stateful(b, atoms=True))
    return len(ours) == len(theirs) and all(_same_part(x, y) for x, y in zip(ours, theirs, strict=True))


def _same_part(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return equal(a, b)
    if isinstance(a, dict | list | tuple | set | deque):
        return len(a) == len(b)
    if (inner := _inner_state(a)) is not None:
        return _same_values(inner, _inner_state(b))
    return not isinstance(a, int | float | str | bytes) or a == b


def _stateful(value: Any, atoms: bool = False, borrowed: bool = False) -> Iterator[Any]:
    """What may be changed by a call, each once; hooks are not looked into."""
    seen: set[int] = set()
    ahead: list[Any] = [value]
    kept: list[Any] = []
    while ahead and len(kept) < _MOST:
        part = ahead.pop()
        plain = isinstance(part, int | float | complex | str | bytes)
        if part is None or id(part) in seen or (plain and not atoms):
            continue
        if not plain:  # equal numbers may be one object here and two there
            seen.add(id(part))
        kept.append(part)
        yield part
        if isinstance(part, types.FunctionType):  # a list that the user counts calls in is not ours to put back
            if borrowed or _OWN in part.__dict__:
                ahead += reversed([cell.cell_contents for cell in _cells_with_state(part)])
                ahead += reversed([default for default in _defaults(part) if _is_state(default)])
        elif isinstance(part, nn.Module):
            ahead += reversed([value for name, value in vars(part).items() if not _of_hooks(name)])
        else:
            ahead += reversed(list(parts(part)))


def _of_hooks(name: str) -> bool:
    return name.startswith("_") and "hook" in name


def _is_ours(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("lossnav.")


def _without_ours(table: dict[Any, Any]) -> dict[Any, Any]:
    return {key: hook for key, hook in table.items() if not _is_ours(hook)}


def _same_items(a: Any, b: Any) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def _alike(a: dict[Any, Any], b: dict[Any, Any]) -> bool:
    return len(a) == len(b) and all(name in a and a[name] is value for name, value in b.items())


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN for NaN."""
    if a.shape != b.shape or a.dtype != b.dtype or a.layout != b.layout:
        return False
    if a.layout != torch.strided:
        a, b = a.to_dense(), b.to_dense()
    return torch.equal(a, b) or (a.is_floating_point() and bool(((a == b) | (a.isnan() & b.isnan())).all()))


def filled(function: types.FunctionType) -> list[types.CellType]:
    """Cells of what a function encloses, without names that are not bound yet."""

    def is_bound(cell: types.CellType) -> bool:
        try:
            return cell.cell_contents is not cell
        except ValueError:
            return False

    return [cell for cell in function.__closure__ or () if is_bound(cell)]


def _listed(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
