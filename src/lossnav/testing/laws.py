"""What every class of laws is: an object to make anew for each law, and methods that raise where it breaks one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


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
    require(isinstance(described, dict), f"{name} is {described!r}, which is no dict.")
    wrong = next(_beyond_json(described, ""), None)
    require(
        wrong is None,
        f"{name} holds {wrong}, which JSON does not give back. Use str, int, float, bool, None, lists and dicts with "
        "string keys.",
    )


def _beyond_json(value: Any, where: str) -> Iterator[str]:
    """What of a value JSON lacks, and where it is."""
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                yield f"the key {key!r}"
            yield from _beyond_json(part, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from _beyond_json(part, f"{where}[{i}]")
    elif type(value) not in (str, int, float, bool, type(None)):
        yield f"{value!r} at {where}"
