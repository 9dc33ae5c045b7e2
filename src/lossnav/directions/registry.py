"""Which kinds of directions are made again from their recipes, by the ``kind`` that a recipe says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lossnav._utils.definitions import is_same_definition
from lossnav.errors import DirectionError

if TYPE_CHECKING:
    from lossnav.directions.base import Direction
    from lossnav.objective.networks import Network

F = TypeVar("F", bound="Callable[..., Any]")


@dataclass(frozen=True)
class DirectionKind:
    """What is known of a kind of directions.

    Attributes
    ----------
    name : str
        The ``kind`` of its recipes, and its word on the command line.
    make : callable or None
        From an objective and options to a direction, or to a tuple of those of one call; None where it takes something
        else (a training run, an optimiser).
    options : tuple of str
        Keyword arguments of `make` that a recipe holds: with these it makes the same again.
    lead : callable or None
        Of directions between checkpoints: from a recipe and the networks that it names to the direction.
    on_command_line : bool
        Whether ``--directions`` may ask for it.
    """

    name: str
    make: Callable[..., Any] | None = None
    options: tuple[str, ...] = ()
    lead: Callable[[Mapping[str, Any], Sequence[Network]], Direction] | None = None
    on_command_line: bool = False

    @property
    def several(self) -> bool:
        """Whether one call makes several."""
        return "n" in self.options


_KINDS: dict[str, DirectionKind] = {}


def register(name: str, **known: Any) -> Callable[[F], F]:
    """Make a kind of directions known, so that a chart along them is made again from a store.

    The words for an axis along one are ``words`` of its recipe.

    Parameters
    ----------
    name : str
        The ``kind`` that the recipes say.
    **known
        ``options`` and ``on_command_line`` of a `DirectionKind`; both may be left out.

    Returns
    -------
    callable
        The decorator of the function that makes them of an objective.

    Raises
    ------
    DirectionError
        If another function is registered by that name.

    Examples
    --------
    >>> @register("ones", options=("length",))
    ... def ones(objective, length=1.0):
    ...     from lossnav.directions import Direction
    ...     tensors = {name: length * torch.ones_like(tensor) for name, tensor in objective.params.items()}
    ...     return Direction(tensors, {"kind": "ones", "length": length, "words": "all ones"})
    >>> kinds()["ones"].options
    ('length',)
    """

    def record(make: F) -> F:
        there = _KINDS.get(name)
        if there is not None and (there.make is None or not is_same_definition(there.make, make)):
            raise DirectionError(f"Directions of kind {name!r} are registered already. Give yours another name.")
        _KINDS[name] = DirectionKind(name, make, **known)
        return make

    return record


def declare(kind: DirectionKind) -> None:
    """Make a kind known that is not made of an objective alone."""
    _KINDS[kind.name] = kind


def kinds() -> dict[str, DirectionKind]:
    """Return the registered kinds by name."""
    return dict(_KINDS)
