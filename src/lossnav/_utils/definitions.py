"""Whether two classes or functions are one definition, made twice."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any


def is_same_definition(one: Callable[..., Any], other: Callable[..., Any]) -> bool:
    """Whether two come from one definition: of a cell that is run again, or a script that is imported too.

    Parameters
    ----------
    one, other : class or function

    Examples
    --------
    >>> from collections import Counter, OrderedDict
    >>> is_same_definition(Counter, Counter), is_same_definition(Counter, OrderedDict)
    (True, False)
    """
    if getattr(one, "__qualname__", None) != getattr(other, "__qualname__", None):
        return False
    return one.__module__ == other.__module__ or (_file(one) or "") == _file(other)


def _file(made: Any) -> str | None:
    path = getattr(sys.modules.get(made.__module__), "__file__", None) or _code_file(made)
    return None if path is None else os.path.realpath(path)


def _code_file(made: Any) -> str | None:
    """Where a function, or the methods of a class, are written, of a module that is not kept."""
    codes = (getattr(value, "__code__", None) for value in (made, *vars(made).values()))
    return next((code.co_filename for code in codes if code is not None), None)
