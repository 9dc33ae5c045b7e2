"""The registry of kinds of directions, by the ``kind`` in a recipe; some can be made again from their recipes."""

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
    """A registered kind of directions.

    Attributes
    ----------
    name : str
        The ``kind`` in its recipes, and its name on the command line.
    make : callable or None
        From an objective and options to a direction, or to a tuple of directions; None if it needs something else (a
        training run, an optimiser).
    options : tuple of str
        Keyword arguments of `make` that a recipe contains; with the same options, `make` returns the same directions.
    lead : callable or None
        For directions between checkpoints: from a recipe and the networks that it names to the direction.
    on_command_line : bool
        Whether ``--directions`` accepts it.
    """

    name: str
    make: Callable[..., Any] | None = None
    options: tuple[str, ...] = ()
    lead: Callable[[Mapping[str, Any], Sequence[Network]], Direction] | None = None
    on_command_line: bool = False

    @property
    def several(self) -> bool:
        """Whether one call makes several directions."""
        return "n" in self.options


_KINDS: dict[str, DirectionKind] = {}


def register(name: str, **known: Any) -> Callable[[F], F]:
    """Register a kind of directions, so that a chart along them can be made again from a store.

    The label of an axis along such a direction is ``words`` in its recipe.

    Parameters
    ----------
    name : str
        The ``kind`` in the recipes.
    **known
        ``options`` and ``on_command_line`` of a `DirectionKind`; both are optional.

    Returns
    -------
    callable
        The decorator of a function that makes them from an objective.

    Raises
    ------
    DirectionError
        If another function is registered under that name.

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
            raise DirectionError(f"Directions of kind {name!r} are registered already. Register yours by another name.")
        _KINDS[name] = DirectionKind(name, make, **known)
        return make

    return record


def declare(kind: DirectionKind) -> None:
    """Register a kind that needs more than an objective."""
    _KINDS[kind.name] = kind


def kinds() -> dict[str, DirectionKind]:
    """Return the registered kinds by name."""
    return dict(_KINDS)
