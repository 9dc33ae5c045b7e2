"""The command line: parse, call, print. Results go to stdout, progress to stderr; no numerics here.

Exit codes: 0 ok, 1 failed, 2 usage, 3 finished with failed points, 130 Ctrl-C, 143 SIGTERM.
"""

from lossnav.cli import train, evaluate, measure, draw, explore  # isort: skip  # in the order of the help
from lossnav.cli.command import app, main
from lossnav.cli.options import engine_of

__all__ = ["app", "draw", "engine_of", "evaluate", "explore", "main", "measure", "train"]
