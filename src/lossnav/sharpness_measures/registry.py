"""The registry of kinds of sharpness: how each is measured, its options, and its description."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lossnav.errors import OptionError
from lossnav.sharpness_measures.result import KindResult

KindFunction = Callable[..., KindResult]

RANDOM = ("bias", "norm")  # excluded by kinds with random steps, as by directions.random

_OF_THE_CALL = ("objective", "kind", "params", "exclude", "seed", "precision", "progress")  # arguments of `sharpness`


@dataclass(frozen=True)
class SharpnessKind:
    """A definition of sharpness, as `sharpness`, the command line and docs/sharpness.md know it.

    Attributes
    ----------
    name : str
    measure : callable
        ``measure(ground, seed, **options)``: from a `Neighborhood` and a seed to a `KindResult`.
    formula, source, invariant_under, uncertainty : str
        Descriptions: the formula, the paper, the rescaling of weights that does not change it, and its error.
    exclude : tuple of str
        Parameters that do not move by default: roles or glob patterns.
    options : dict of str to object
        Keyword arguments of `measure`, with their defaults.
    """

    name: str
    measure: KindFunction
    formula: str
    source: str
    invariant_under: str
    uncertainty: str
    exclude: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


KINDS: dict[str, SharpnessKind] = {}


def register(
    name: str, *, formula: str, source: str, invariant_under: str, uncertainty: str, exclude: tuple[str, ...] = ()
) -> Callable[[KindFunction], KindFunction]:
    """Register a function as a kind of sharpness; a decorator.

    Parameters
    ----------
    name : str
        The value of ``kind=``.
    formula, source, invariant_under, uncertainty, exclude
        As in `SharpnessKind`.

    Returns
    -------
    callable
        The decorator. It takes ``measure(ground, seed, *, option=default, ...)``, which returns a `KindResult`.

    Raises
    ------
    OptionError
        If the name is taken, or the function has other arguments.

    Examples
    --------
    >>> from lossnav.sharpness_measures import Invariance, KindResult
    >>> @register("rise", formula="L(θ + e) - L(θ), e of length r", source="an example", invariant_under="nothing",
    ...           uncertainty="one draw says nothing of it")
    ... def rise(ground, seed, *, r=0.1):
    ...     step = next(ground.signs(seed).blocks(1, 1))[0]
    ...     value = ground.loss(r * step / step.norm()) - ground.center
    ...     return KindResult(value, float("nan"), (float("-inf"), float("inf")), "unknown", f"one step of {r}",
    ...                       "an example", Invariance(False, "a step has a length"), (value,), {"r": r})
    >>> KINDS["rise"].options
    {'r': 0.1}
    >>> del KINDS["rise"]
    """

    def add(measure: KindFunction) -> KindFunction:
        if name in KINDS:
            raise OptionError(
                f"The kind of sharpness {name!r} is registered already: {KINDS[name].formula}. Use another name."
            )
        leading, others = _split([*inspect.signature(measure).parameters.values()])
        wrong = any(each.kind is not each.KEYWORD_ONLY or each.default is each.empty for each in others)
        if leading != ["ground", "seed"] or wrong or any(each.name in _OF_THE_CALL for each in others):
            raise OptionError(
                f"The kind of sharpness {name!r} is measured by a function of {inspect.signature(measure)}. Let it "
                "take (ground, seed, *, option=default, ...), with none of the options called as an argument of "
                f"sharpness is ({', '.join(_OF_THE_CALL)})."
            )
        options = {each.name: each.default for each in others}
        KINDS[name] = SharpnessKind(
            name, measure, formula, source, invariant_under, uncertainty, tuple(exclude), options
        )
        return measure

    return add


def _split(parameters: list[inspect.Parameter]) -> tuple[list[str], list[inspect.Parameter]]:
    """Return the names of the first two parameters, and the others."""
    return [parameter.name for parameter in parameters[:2]], parameters[2:]


def table() -> str:
    """Return the table of docs/sharpness.md in Markdown."""
    columns = ("formula", "source", "invariant_under", "uncertainty")
    rows = [("kind", "formula", "source", "invariant under", "uncertainty"), ("---",) * 5]
    rows += [(f"`{kind.name}`", *(getattr(kind, column) for column in columns)) for kind in KINDS.values()]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines).replace("| --- | --- | --- | --- | --- |", "|---|---|---|---|---|")
