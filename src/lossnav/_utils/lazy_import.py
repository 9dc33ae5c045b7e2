"""Modules that are imported when they are first used, so that `import lossnav` costs little."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

_AFTER: dict[str, list[Callable[[], None]]] = {}  # what is to be called once a module is there
_LOCK = threading.RLock()


class _StandIn(ModuleType):
    """Stands for a module; the first attribute that is asked for imports it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):  # Python and its tools ask any module for these
            raise AttributeError(name)
        module = importlib.import_module(self.__name__)
        if self.__name__ in _AFTER:
            _call_what_waits(self.__name__)
        return getattr(module, name)


def lazily(name: str) -> Any:
    """Stand-in for a module that takes long to import.

    Parameters
    ----------
    name : str
        Name of the module, such as ``"scipy.spatial"``.

    Returns
    -------
    module
        Its attributes are those of the module, which is imported when the first is asked for.

    Examples
    --------
    >>> lazily("math").floor(2.5)
    2
    """
    return _StandIn(name)


def once_imported(name: str, function: Callable[[], None]) -> None:
    """Call a function once a module is imported: now, or when a stand-in for it is first used.

    Parameters
    ----------
    name : str
        Name of the module.
    function : callable
        Takes no arguments.
    """
    with _LOCK:
        _AFTER.setdefault(name, []).append(function)
    if name in sys.modules:
        _call_what_waits(name)


def _call_what_waits(name: str) -> None:
    with _LOCK:
        for function in _AFTER.pop(name, ()):
            function()
