"""A module is imported when its first attribute is asked for, and what waits for it is called once."""

import subprocess
import sys

import pytest

from lossnav._utils.lazy_import import lazily, once_imported

CODE = """
import sys
from lossnav._utils.lazy_import import lazily, once_imported
called = []
once_imported("colorsys", lambda: called.append(1))
stand_in = lazily("colorsys")
repr(stand_in), hasattr(stand_in, "__path__")
print("colorsys" in sys.modules, called)
print(stand_in.ONE_THIRD == 1 / 3, "colorsys" in sys.modules, called)
stand_in.ONE_SIXTH
once_imported("colorsys", lambda: called.append(2))
print(called)
"""


def test_what_is_imported_late():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["False []", "True True [1]", "[1, 2]"]


def test_what_is_not_there_is_said_as_always():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _ = lazily("no_such_module").anything
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = lazily("math").no_such_name
    assert lazily("math").pi > 3


def test_what_is_there_already_is_not_waited_for():
    called = []
    once_imported("sys", lambda: called.append(1))
    assert called == [1]
