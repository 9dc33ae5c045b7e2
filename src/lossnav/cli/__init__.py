"""The command line: parse, call, print. Results go to stdout, progress to stderr; no numerics here.

Exit codes: 0 ok, 1 failed, 2 usage, 3 finished with failed points, 130 Ctrl-C, 143 SIGTERM.

Importing this package loads no command: `main` does, after it has taken over Ctrl-C.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossnav.cli import between, connect, draw, evaluate, explore, measure, train, tree
    from lossnav.cli.command import app
    from lossnav.cli.options import engine_of

__all__ = ["app", "between", "connect", "draw", "engine_of", "evaluate", "explore", "main", "measure", "train", "tree"]

# in the order of the help
_COMMANDS = ("train", "evaluate", "measure", "between", "connect", "tree", "draw", "explore")
_PLACES = {"app": "command", "engine_of": "options"}


def main() -> None:
    """Run the command line; exits with one of the exit codes above."""
    from lossnav._utils.signals import EndAtOnce

    with EndAtOnce():
        _load()
        importlib.import_module(f"{__name__}.command").run()


def _load() -> None:
    for command in _COMMANDS:
        importlib.import_module(f"{__name__}.{command}")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _load()
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name) if name in _PLACES else globals()[name]
