"""Taking turns: what one process has once, its threads use one after the other.

A pass puts weights into a structure that all calls on an objective share, and seeds generators that are the whole
process's. So one thread at a time passes, and the next begins when a pass ends: at every point, not at the end of a
run. A process that is forked begins between two passes, with generators as the user left them.

Filters of warnings are the process's too. What hides warnings here hides those of its own thread.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from lossnav.errors import ForkedInAPointError

_FORK_SECONDS = 10.0  # a fork waits for the point under way; that may wait for the thread that forks: data it reads

_alone = threading.RLock()
_fork = threading.local()
_torn = False  # whether this process began in the middle of a point


@contextmanager
def alone() -> Iterator[None]:
    """Inside, no other thread of this process is inside; a thread that is may enter again.

    Raises
    ------
    ForkedInAPointError
        In a process that was forked in the middle of a point: what it has may be half of one.
    """
    if _torn:
        raise ForkedInAPointError(
            "This process was forked while a point was computed, and its copy of the objective may be half-way. Make "
            "the objective in this process, after a start by spawn: multiprocessing.get_context('spawn')."
        )
    with _alone:
        yield


def _before() -> None:
    _fork.waited = _alone.acquire(timeout=_FORK_SECONDS)


def _after_in_parent() -> None:
    if _fork.waited:
        _alone.release()


def _after_in_child() -> None:
    global _alone, _torn
    _alone, _torn = threading.RLock(), _torn or not _fork.waited


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


_hidden: ContextVar[tuple[type[Warning], ...]] = ContextVar("hidden", default=())


class _IfHidden(type):
    """Classes are taken for subclasses while this thread hides them."""

    def __subclasscheck__(cls, kind: Any) -> bool:
        return issubclass(kind, _hidden.get())


class _Hidden(Warning, metaclass=_IfHidden):
    """What the one filter that we add is for: any warning, where and while it is hidden."""


@contextmanager
def hiding(*kinds: type[Warning]) -> Iterator[None]:
    """Inside, warnings of these kinds that this thread raises are dropped.

    `warnings.catch_warnings` changes what the whole process filters: of two threads that leave in the order in which
    they entered, the second leaves the first one's filters behind, for ever.

    Examples
    --------
    >>> with hiding(UserWarning):
    ...     warnings.warn("not said")
    """
    token = _hidden.set((*_hidden.get(), *kinds))
    try:
        warnings.simplefilter("ignore", _Hidden)  # moves to the front where it is there
        yield
    finally:
        _hidden.reset(token)
