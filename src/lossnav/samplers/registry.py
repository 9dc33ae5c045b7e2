"""The registry of samplers: which classes exist, by the name in stores and by the word on the command line."""

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
        Its `again` makes the settled sampler from a description, its `over` one from the ends of the axes.
    estimates : bool
        Whether the outcome of a finished run has an estimated error of the loss between the points
        (``estimated_error``, ``cells``, ``unresolved``; see `Adaptive`). The report of a stopped run says that it
        lacks this estimate.
    word : str
        Its name on the command line (``--sampler``); empty if it cannot be chosen there.
    help : str
        What it does, in a few words, for the help of the command line.
    options : tuple of str
        Keyword arguments of `Sampler.over` that the command line may set.
    """

    sampler: type[Sampler]
    estimates: bool = False
    word: str = ""
    help: str = ""
    options: tuple[str, ...] = ()


_KINDS: dict[str, SamplerKind] = {}


def register(**known: Any) -> Callable[[S], S]:
    """Register a class of samplers: its runs can be resumed from their stores, and ``--sampler`` can choose it.

    Parameters
    ----------
    **known
        ``estimates``, ``word``, ``help`` and ``options`` of a `SamplerKind`; all are optional.

    Returns
    -------
    callable
        The decorator of the class.

    Raises
    ------
    SamplerError
        If another class of that name, or with that word, is registered.

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
        word = known.get("word", "")
        if taken := [kind for kind in _KINDS.values() if word and kind.word == word and kind is not there]:
            raise SamplerError(
                f"The word {word!r} belongs to {taken[0].sampler.__name__}. Register {sampler.__name__} with another "
                "word."
            )
        _KINDS[sampler.__name__] = SamplerKind(sampler, **known)
        return sampler

    return record


def kinds() -> dict[str, SamplerKind]:
    """Return the registered kinds by the names that stores hold."""
    return dict(_KINDS)


def by_word() -> dict[str, SamplerKind]:
    """Return the kinds that the command line can choose, by their words.

    Examples
    --------
    >>> sorted(by_word())
    ['adaptive', 'grid']
    """
    return {kind.word: kind for kind in _KINDS.values() if kind.word}
