"""State that code keeps outside of its objects: globals, attributes of classes, names in closures.

Each copy of a model has its own attributes, which are restored before every pass. A global counter or cache is shared
by all copies and by the user: what one point leaves there, the next one finds. The code of a function shows which names
it reads or binds; they are followed through functions and classes of the user's own. Installed packages are not
searched.
"""

from __future__ import annotations

import dis
import functools
import random
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lossnav.objective import contents as contents_module
from lossnav.objective import kept_state

_SMALL = 2**16  # entries of a tensor or an array that is compared and restored
_MOST = 2_000  # functions that are followed
_UNBOUND = object()
_CONTAINERS = (dict, list, set, deque)
_NUMBERS = (types.NoneType, bool, int, float, complex, str, bytes)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random, Iterator)
_CHANGED = (Tensor, np.ndarray, nn.Module, *_GENERATORS)
_ATOMS = (*_NUMBERS, types.ModuleType, type)
_LIBRARIES = tuple(Path(sysconfig.get_path(name)).as_posix() for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class Binding:
    """A name that is bound in a module, a class or a closure.

    Attributes
    ----------
    title : str
        For messages.
    bound : bool
        Whether the code may bind the name to something else.
    """

    def __init__(self, holder: Any, name: str, title: str, bound: bool) -> None:
        self.holder, self.name, self.title, self.bound = holder, name, title, bound
        self._kept: kept_state.Kept | None
        self._calls: Any
        self.keep()

    @property
    def value(self) -> Any:
        """What the name is bound to now."""
        return _held_by(self.holder, self.name)

    @value.setter
    def value(self, value: Any) -> None:
        if isinstance(self.holder, types.CellType):
            if value is _UNBOUND:
                del self.holder.cell_contents
            else:
                self.holder.cell_contents = value
        elif value is not _UNBOUND:
            setattr(self.holder, self.name, value)
        elif self.name in vars(self.holder):
            delattr(self.holder, self.name)

    def keep(self) -> None:
        """Remember the present value."""
        self._before = value = self.value
        self._kept, self._calls = None, None
        self._tensors: list[tuple[Tensor, int, Tensor | None]] = []
        self._arrays: list[tuple[NDArray[Any], NDArray[Any]]] = []
        if isinstance(value, functools._lru_cache_wrapper):
            self._calls = value.cache_info()
            return
        if value is _UNBOUND or isinstance(value, _ATOMS):
            return
        for part in contents_module.reachable(value):
            if isinstance(part, Tensor):
                numbers = part.detach().clone() if part.numel() <= _SMALL else None
                self._tensors.append((part, part._version, numbers))
            elif isinstance(part, np.ndarray) and part.size <= _SMALL and part.dtype != object:
                self._arrays.append((part, part.copy()))
        self._kept = kept_state.Kept(value, borrowed=True, numbers=False)

    @property
    def changed(self) -> bool:
        """Whether the value has changed since `keep`."""
        value = self.value
        if self._calls is not None:
            return value is not self._before or value.cache_info() != self._calls
        if value is not self._before:
            return not (isinstance(value, _ATOMS) and type(value) is type(self._before) and value == self._before)
        if self._kept is not None and self._kept.changed():
            return True
        if any(tensor._version != version for tensor, version, _ in self._tensors):
            return True
        return any(array.tobytes() != saved.tobytes() for array, saved in self._arrays)

    def restore(self) -> None:
        """Restore the value as far as it was kept; a cache of results is emptied."""
        if self._calls is not None:
            self._before.cache_clear()
        if self.value is not self._before:
            self.value = self._before
        if self._kept is not None:
            self._kept.restore()
        for tensor, version, numbers in self._tensors:
            if numbers is not None and tensor._version != version:
                tensor.detach().copy_(numbers)
        for array, saved in self._arrays:
            if array.flags.writeable:
                array[...] = saved

    @property
    def may_change(self) -> bool:
        """Whether the code may change it in a pass: bind it to something else, or change more than numbers in it."""
        return self.bound or not isinstance(self.value, (*_ATOMS, Tensor, np.ndarray))

    @property
    def may_be_a_cache(self) -> bool:
        """Whether it holds floating-point tensors that a computation may have left there."""
        value = self.value
        if value is _UNBOUND or not self.may_change or isinstance(value, (*_ATOMS, nn.Module)):
            return False
        return any(tensor.is_floating_point() for tensor in contents_module.tensors(value))

    def clear(self) -> None:
        """Empty it."""
        if isinstance(self.value, dict | list | set):
            self.value.clear()
        else:
            self.value = None


class Outside:
    """All state that some code keeps outside of its objects, as it is now.

    Parameters
    ----------
    parts : iterable
        Functions, and objects whose methods are followed.

    Examples
    --------
    >>> calls = [3]
    >>> counting = lambda: calls.append(1)
    >>> counting.__module__ = "yours"
    >>> outside = Outside([counting])
    >>> calls.append(1)
    >>> [place.title for place in outside.changed()]
    ['the global "calls"']
    >>> outside.restore()
    >>> calls
    [3]
    """

    def __init__(self, parts: Iterable[Any]) -> None:
        found: dict[tuple[int, str], _Reference] = {}
        for holder, name, title, bound in _Search(parts).places():
            key = id(holder.__dict__ if isinstance(holder, types.ModuleType | _Globals) else holder), name
            known = key in found and found[key][3]
            found[key] = (holder, name, title, bound or known)
        self.places = [Binding(*each) for each in found.values()]

    def changed(self) -> list[Binding]:
        """Places whose value has changed."""
        return [place for place in self.places if place.changed]

    def restore(self) -> None:
        """Restore everything."""
        for place in self.places:
            place.restore()


_Reference = tuple[Any, str, str, bool]  # holder, name, title, and whether the code binds it


class _Search:
    """Follows the user's functions and classes through the names in their code."""

    def __init__(self, parts: Iterable[Any]) -> None:
        self.ahead: list[Any] = list(parts)
        self.seen: set[int] = set()

    def places(self) -> Iterator[_Reference]:
        """Holders and names of values that may be state, with their titles for messages."""
        for part in self.ahead:  # the list grows
            part = _unwrapped(part)
            if id(part) in self.seen or len(self.seen) > _MOST:
                continue
            self.seen.add(id(part))
            if isinstance(part, types.FunctionType):
                yield from self._of_function(part)
            elif isinstance(part, type):
                yield from self._of_class(part)
            elif part is not None:
                self.ahead.append(type(part))

    def _of_class(self, kind: type) -> Iterator[_Reference]:
        for base in kind.__mro__:
            if not _is_users(base.__module__):
                continue
            for name, value in list(vars(base).items()):
                if isinstance(value, property):
                    self.ahead += [value.fget, value.fset]
                elif not (name.startswith("__") and name.endswith("__")) or callable(value):
                    yield from self._of_value(base, name, value, f'"{name}" of the class {base.__name__}', True)

    def _of_function(self, function: types.FunctionType) -> Iterator[_Reference]:
        if not _is_users(function.__module__):
            return
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            bound = any(name in _bound(code) for code in _codes(function.__code__))
            yield from self._of_value(cell, name, _held_by(cell, name), f'"{name}", which a function encloses', bound)
        for default in [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]:
            if isinstance(default, _CONTAINERS):
                yield types.CellType(default), "", f'a default argument of "{function.__name__}"', False
        names = function.__globals__
        module = sys.modules.get(function.__module__ or "")
        holder = module if module is not None and vars(module) is names else _Globals(names)
        for code in _codes(function.__code__):
            modules = [m for m in map(names.get, code.co_names) if isinstance(m, types.ModuleType)]
            modules = [m for m in modules if _is_users(m.__name__)]
            for name in code.co_names:
                if name in names:
                    yield from self._of_value(holder, name, names[name], f'the global "{name}"', name in _bound(code))
                elif name in _bound(code):
                    yield holder, name, f'the global "{name}"', True
                for other in modules:
                    if name in vars(other):
                        title = f'"{name}" of the module {other.__name__}'
                        yield from self._of_value(other, name, vars(other)[name], title, True)

    def _of_value(self, holder: Any, name: str, value: Any, title: str, bound: bool) -> Iterator[_Reference]:
        """The place itself if it may be state; values to follow are added to `ahead`."""
        if isinstance(value, functools._lru_cache_wrapper):
            self.ahead.append(value.__wrapped__)
            yield holder, name, title, bound
        elif isinstance(_unwrapped(value), types.FunctionType | type):
            self.ahead.append(value)
        elif isinstance(value, (*_NUMBERS, *_CONTAINERS, *_CHANGED)):
            yield holder, name, title, bound
        elif value is not _UNBOUND and _is_users(type(value).__module__):
            self.ahead.append(type(value))
            yield holder, name, title, bound


class _Globals:
    """Globals of code that belongs to no module, as that run by `exec`."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.__dict__ = names


def _unwrapped(value: Any) -> Any:
    """The function behind a method, a partial or a decorator."""
    while True:
        if isinstance(value, functools.partial):
            value = value.func
        elif isinstance(value, types.MethodType | staticmethod | classmethod):
            value = value.__func__
        else:
            return value


def _held_by(holder: Any, name: str) -> Any:
    if isinstance(holder, types.CellType):
        try:
            return holder.cell_contents
        except ValueError:
            return _UNBOUND
    return vars(holder).get(name, _UNBOUND)


@functools.lru_cache(maxsize=4096)
def _is_users(module: str | None) -> bool:
    """Whether a module is the user's: not of Python, of an installed package, or of lossnav."""
    root = (module or "").partition(".")[0]
    if root in ("builtins", "lossnav", "torch", "numpy"):
        return False
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return file is None or not Path(file).as_posix().startswith(_LIBRARIES)


@functools.lru_cache(maxsize=4096)
def _codes(code: types.CodeType) -> tuple[types.CodeType, ...]:
    """The code of a function and of the functions defined in it."""
    inner = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return (code, *(each for part in inner for each in _codes(part)))


@functools.lru_cache(maxsize=4096)
def _bound(code: types.CodeType) -> frozenset[str]:
    """Globals and closure names that a code object binds."""
    binds = ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF")
    return frozenset(i.argval for i in dis.get_instructions(code) if i.opname in binds)
