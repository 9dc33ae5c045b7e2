"""Commands of lossnav, in this process and in one of their own."""

import contextlib
import os
import subprocess
import sys
import warnings

from typer.testing import CliRunner

from lossnav import cli


def lossnav(*arguments, cwd):
    """The command, here: a process of its own takes seconds to begin."""
    with contextlib.chdir(cwd), warnings.catch_warnings():  # which also keeps `showwarning`: the command replaces it
        warnings.simplefilter("default")
        done = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def lossnav_process(*arguments, cwd, **environment):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "lossnav", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
