"""Which kinds of samplers there are, by the name that stores hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lossnav._utils.definitions import is_same_definition
from lossnav.errors import SamplerError

if TYPE_CHECKING:
    from lossnav.samplers.base import Sampler

S = TypeVar("S", bound="type[Sampler]")


@dataclass(frozen=True)
class SamplerKind:
    """What is known of a class of samplers.

    Attributes
    ----------
    sampler : class
        Whose `again` makes the settled sampler of its description.
    estimates : bool
        Whether the outcome of a finished run says how far off the loss is between the points (``estimated_error``,
        ``cells``, ``unresolved``; see `Adaptive`), so that a report misses it in a run that was stopped.
    """

    sampler: type[Sampler]
    estimates: bool = False


_KINDS: dict[str, SamplerKind] = {}


def register(**known: Any) -> Callable[[S], S]:
    """Make a class of samplers known, so that a run that it chose the points of can be resumed from its store.

    Parameters
    ----------
    **known
        ``estimates`` of a `SamplerKind`; it may be left out.

    Returns
    -------
    callable
        The decorator of the class.

    Raises
    ------
    SamplerError
        If another class of that name is registered.

    Examples
    --------
    >>> sorted(kinds())
    ['Adaptive', 'Grid', 'Points']
    """

    def record(sampler: S) -> S:
        there = _KINDS.get(sampler.__name__)
        if there is not None and not is_same_definition(there.sampler, sampler):
            raise SamplerError(
                f"A sampler called {sampler.__name__} is registered already, from {there.sampler.__module__}. Stores "
                "hold the name of the class: give yours another one."
            )
        _KINDS[sampler.__name__] = SamplerKind(sampler, **known)
        return sampler

    return record


def kinds() -> dict[str, SamplerKind]:
    """Return the registered kinds by the names that stores hold."""
    return dict(_KINDS)
