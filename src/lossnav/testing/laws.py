"""What every class of laws is: an object to make anew for each law, and methods that raise where it breaks one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lossnav._utils.jsonable import jsonable


class Laws:
    """Laws of one kind of object; a subclass says how to make it.

    Every method whose name begins with ``test_`` is a law: it passes, or raises an AssertionError that says what was
    broken and with which values.
    """

    def make(self) -> Any:
        """Return the object anew: the same at every call. To be defined by the subclass."""
        raise NotImplementedError(f"Define make() of {type(self).__name__}: it returns the object that is tested.")

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all laws.

        Examples
        --------
        >>> from lossnav.testing import EngineLaws
        >>> EngineLaws.names()[:2]
        ['test_an_error_is_an_outcome', 'test_description_is_complete']
        """
        return [name for name in sorted(dir(cls)) if name.startswith("test_")]

    @classmethod
    def check(cls, make: Callable[[], Any], **attributes: Any) -> None:
        """Hold what `make` returns to every law.

        Parameters
        ----------
        make : callable
            Without arguments.
        **attributes
            Of the class of laws, such as ``coords`` of `ChartLaws`.

        Raises
        ------
        AssertionError
            At the first law that is broken.
        """
        for name in cls.names():
            laws = cls()
            for attribute, value in attributes.items():
                if not hasattr(cls, attribute) or attribute.startswith("test_"):
                    raise TypeError(f"{cls.__name__} has no attribute {attribute!r} to be set.")
                setattr(laws, attribute, value)
            laws.make = make  # type: ignore[method-assign]
            getattr(laws, name)()


def require(holds: object, message: str) -> None:
    """Raise an AssertionError with a message unless something holds; also under ``python -O``."""
    if not holds:
        raise AssertionError(message)


def require_described(described: Any, name: str) -> None:
    """Raise unless a description is a mapping that JSON gives back as it was."""
    require(isinstance(described, dict), f"{name}.describe() returned {described!r}, which is no dict.")
    said = jsonable(described)
    again = json.loads(json.dumps(said))
    require(
        again == said and said == _plain(described),
        f"{name}.describe() returned {described!r}; JSON gives back {again!r}. Use str, int, float, bool, None, lists "
        "and dicts with string keys.",
    )


def _plain(value: Any) -> Any:
    """A value with its tuples as lists; all else as it is, so that what JSON lacks is seen."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return jsonable(value) if isinstance(value, float) else value
