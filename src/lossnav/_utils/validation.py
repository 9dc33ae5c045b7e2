"""Say what was passed where one of the nouns is asked for: an objective, a chart, a sampler, an engine, a surface.

What is asked of a value are the methods that are called on it, not its class: a sampler of the user's own is a sampler.
No torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from lossnav.errors import DirectionError, LossnavError, NotASurfaceError, OptionError

T = TypeVar("T")

Noun = Literal["objective", "chart", "sampler", "engine", "trajectory"]

_METHODS: dict[str, tuple[str, ...]] = {
    "objective": ("require_same_structure", "evaluate", "params"),
    "chart": ("fitted", "dims", "describe"),
    "sampler": ("rounds", "dims", "settle", "describe"),
    "engine": ("prepare", "run", "stop", "close", "describe"),
    "trajectory": ("structure", "steps", "columns"),
}
_LINES = {  # by what is asked for and what was passed; None: by whatever else
    ("objective", "model"): "Make one of it: objective = ln.Objective(model, loss, data).",
    ("objective", "weights"): "Weights alone have no loss; make one: objective = ln.Objective(model, loss, data).",
    ("objective", "class"): "Make one: objective = ln.Objective(model, loss, data).",
    ("objective", None): "Make one: objective = ln.Objective(model, loss, data).",
    ("chart", "direction"): "Make a line of it: ln.Line(objective.params, direction).",
    ("chart", None): "Make one: ln.Plane(objective.params, *ln.directions.random(objective, n=2)).",
    (
        "trajectory",
        None,
    ): "Record one: with ln.Trajectory(model, store=folder) as trajectory: …",
    ("sampler", None): "Make one: ln.Grid(alpha=(-1, 1, 51)), with an axis for each coordinate of the chart.",
    ("engine", "text"): "Make one: engine=ln.Local() for this machine, engine=ln.Ray() for a cluster.",
    ("engine", None): "Make one: engine=ln.Local() for this machine, engine=ln.Ray() for a cluster.",
}
_ORDER = "The order is ln.evaluate(objective, chart, sampler)."
_WORDS = {
    "objective": "an objective",
    "chart": "a chart",
    "sampler": "a sampler",
    "engine": "an engine",
    "trajectory": "a trajectory",
    "model": "a model",
    "surface": "a surface",
    "direction": "a direction",
    "weights": "a dict of tensors",
    "class": "a class",
}


def require(value: T, noun: Noun, name: str | None = None) -> T:
    """Return a value that can do what is asked of a noun.

    Parameters
    ----------
    value : object
    noun : "objective", "chart", "sampler", "engine" or "trajectory"
    name : str, optional
        How the argument is called; by default as the noun.

    Raises
    ------
    OptionError
        If it cannot; it says what was passed, and what to type.

    Examples
    --------
    >>> require(5, "engine")
    Traceback (most recent call last):
    lossnav.errors.OptionError: The engine is 5, an int. Make one: engine=ln.Local() for this machine, ...
    """
    if not isinstance(value, type) and all(hasattr(value, method) for method in _METHODS[noun]):
        return value
    kind = _kind(value)
    line = _LINES.get((noun, kind), _LINES[noun, None])
    if kind in _METHODS:
        line = f"{_ORDER} {line}"
    elif isinstance(value, type) and _is_a(value, noun):
        line = f"Make one of it, with its arguments: {value.__name__}(…)."
    raise OptionError(f"The {name or noun} is {described(value)}. {line}")


def require_callback(value: T, name: str, arguments: str) -> T:
    """Return what is to be called back, or None; raise where it cannot be called.

    Raises
    ------
    OptionError
        It says what was passed.

    Examples
    --------
    >>> require_callback(3, "on_update", "surface")
    Traceback (most recent call last):
    lossnav.errors.OptionError: on_update= is 3, an int, which cannot be called. Pass a function: on_update=lambda ...
    """
    if value is None or callable(value):
        return value
    raise OptionError(
        f"{name}= is {described(value)}, which cannot be called. Pass a function: {name}=lambda {arguments}: …"
    )


def require_directions(center: Any, directions: tuple[Any, ...], kind: str, wanted: int) -> None:
    """Raise unless each is a mapping of names to tensors, and the centre is none of them.

    Raises
    ------
    DirectionError
        If one is something else; it says what.
    """
    if _kind(center) == "direction":
        raise DirectionError(
            f"The centre of a {kind} is a direction. First comes the centre, then {wanted} of them: "
            f"ln.{kind}(objective.params, {', '.join(['d1', 'd2', 'd3'][:wanted])})."
        )
    for direction in directions:
        if isinstance(direction, list | tuple) and direction and all(_is_mapping(part) for part in direction):
            raise DirectionError(
                f"A {kind} takes each direction by itself, and one of them is a {type(direction).__name__} of "
                f"{len(direction)}. Put a star before it: ln.{kind}(center, *directions)."
            )
        if _kind(direction) in ("model", "objective", "text") or isinstance(direction, os.PathLike):
            raise DirectionError(
                f"A direction of a {kind} is {described(direction)}, which is a point. Pass the way there: "
                "ln.directions.between(center, other)."
            )
        if not _is_mapping(direction):
            raise DirectionError(
                f"A direction of a {kind} is {described(direction)}, not a dict of parameter name to tensor. Make "
                f"{'one' if wanted == 1 else 'them'}: *ln.directions.random(objective, n={wanted})."
            )
        wrong = [(name, part) for name, part in direction.items() if not hasattr(part, "requires_grad")]
        if wrong and not hasattr(direction, "recipe"):
            name, part = wrong[0]
            raise DirectionError(
                f'The direction holds {described(part)} at "{name}". Pass tensors: '
                "{name: torch.as_tensor(value) for name, value in direction.items()}."
            )


def require_place(place: Any, name: str = "The path") -> None:
    """Raise where a path is a dataset, an objective, a number: whatever is no place.

    Raises
    ------
    OptionError
        It says what was passed.
    """
    if isinstance(place, str | os.PathLike) or "Store" in _family(place) or hasattr(place, "read_only"):
        return
    raise OptionError(f'{name} is {described(place)}. Pass a path, such as "run.zarr".')


def require_run(value: Any) -> None:
    """Raise where what is to be reported on is neither a surface nor the place of one.

    Raises
    ------
    NotASurfaceError
        It says what was passed.
    """
    if isinstance(value, str | os.PathLike) or "Store" in _family(value) or hasattr(value, "read_only"):
        return
    line = "Pass what ln.evaluate returned, or the path of a run"
    line += ": ln.report(surface, objective=objective)." if _kind(value) == "objective" else "."
    raise NotASurfaceError(f"A report is of a surface, and this is {described(value)}. {line}")


def no_surface(value: Any) -> LossnavError:
    """The error where a surface is asked for and something else was passed."""
    if isinstance(value, str | os.PathLike):
        return NotASurfaceError(
            f"The surface is the path {os.fspath(value)!r}. Open it first: ln.open({os.fspath(value)!r})."
        )
    return NotASurfaceError(
        f"The surface is {described(value)}. Pass what ln.evaluate returned, or ln.open(path) of a run."
    )


def described(value: Any) -> str:
    """A value in a few words, with its noun where it has one.

    >>> described("ray"), described(3), described(int), described([1, 2])
    ("'ray', a str", '3, an int', 'the class int', 'a list of 2')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name, kind = type(value).__name__, _kind(value)
    article = "an" if name[0].lower() in "aeio" else "a"
    if kind in _WORDS:
        return f"{article} {name} ({_WORDS[kind]})" if name.lower() != kind else _WORDS[kind]
    if isinstance(value, str | int | float):
        return f"{value!r}, {article} {name}"
    if value is None:
        return "None"
    if isinstance(value, list | tuple | set):
        return f"{article} {name} of {len(value)}"
    shape = getattr(value, "shape", None)
    if shape is not None and "shape" not in _family(value):
        return f"{article} {name} of shape {_shape(shape)}"
    return f"{article} {name}"


def _shape(shape: Any) -> str:
    try:
        return str(tuple(int(length) for length in shape))
    except (TypeError, ValueError):
        return str(shape)


def _kind(value: Any) -> str | None:
    """What a value is in the package's own words; None where it is none of them."""
    if isinstance(value, type):
        return "class"
    for noun, methods in _METHODS.items():
        if all(hasattr(value, method) for method in methods):
            return noun
    if "Module" in _family(value) and hasattr(value, "named_parameters"):
        return "model"
    if isinstance(value, str):
        return "text"
    if hasattr(value, "recipe") and _is_mapping(value):
        return "direction"
    if "Dataset" in _family(value) and hasattr(value, "data_vars"):
        return "surface"
    return "weights" if _is_mapping(value) else None


def _is_a(value: type, noun: str) -> bool:
    return all(hasattr(value, method) for method in _METHODS[noun] if method not in ("dims", "params"))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _family(value: Any) -> Iterable[str]:
    return [each.__name__ for each in type(value).__mro__]
