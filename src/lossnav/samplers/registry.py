"""The registry of sampler classes, by the name that stores contain."""

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
    """A registered class of samplers.

    Attributes
    ----------
    sampler : class
        Its `again` makes the settled sampler from its description.
    estimates : bool
        Whether the outcome of a finished run contains estimated errors between the points (``estimated_error``,
        ``cells``, ``unresolved``; see `Adaptive`), so that a report can say when a stopped run lacks them.
    """

    sampler: type[Sampler]
    estimates: bool = False


_KINDS: dict[str, SamplerKind] = {}


def register(**known: Any) -> Callable[[S], S]:
    """Register a class of samplers, so that a run with such a sampler can be resumed from its store.

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
        If another class with that name is registered.

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
                "contain the name of the class, so give your class another name."
            )
        _KINDS[sampler.__name__] = SamplerKind(sampler, **known)
        return sampler

    return record


def kinds() -> dict[str, SamplerKind]:
    """Return the registered kinds by the names that stores contain."""
    return dict(_KINDS)
