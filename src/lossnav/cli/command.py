"""Common behaviour of commands: errors become one line and an exit code; results go to stdout, all else to stderr."""

from __future__ import annotations

import errno
import functools
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, ParamSpec

import typer

from lossnav._utils.paths import not_written
from lossnav._utils.signals import signal_of
from lossnav._version import __version__
from lossnav.errors import (
    Interrupted,
    LossnavError,
    LossnavWarning,
    OptionError,
    SamplerError,
    SpecError,
    UntrustedCodeError,
)

app = typer.Typer(
    name="lossnav",
    help="Navigate the loss space of neural networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


P = ParamSpec("P")


USAGE_ERRORS = (OptionError, SamplerError, SpecError)


def reporting(command: Callable[P, None]) -> Callable[P, None]:
    """Turn lossnav errors into a line on stderr and an exit code; any other error is a bug and shows its traceback."""

    @functools.wraps(command)
    def reported(*args: P.args, **kwargs: P.kwargs) -> None:
        warnings.showwarning = show_warning
        try:
            command(*args, **kwargs)
        except LossnavError as error:
            say(f"{type(error).__name__}: {error}")
            if isinstance(error, UntrustedCodeError) and error.spec is not None:
                say(f"To run it, type:\n  {shlex.join(['lossnav', *sys.argv[1:], '--spec', error.spec])}")
            raise typer.Exit(2 if isinstance(error, USAGE_ERRORS) else 1) from error
        except Interrupted as error:
            say(str(error))
            raise typer.Exit(128 + error.signal) from error
        except KeyboardInterrupt as error:
            say("Stopped.")
            raise typer.Exit(128 + signal_of(error)) from error

    return reported


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"lossnav {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def run() -> None:
    """Run the typed command; report a full disk also if only stdout writes to it, as with ``>``."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE):
            raise
        if error.errno != errno.EPIPE:  # which is no fault: `lossnav info run.zarr | head -1`
            say(f"StoreError: {not_written('What came out', error)}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python says it again when it ends
        raise SystemExit(1) from error


def say(text: str) -> None:
    """Print a line on stderr."""
    with suppress(OSError):  # a full disk that stderr leads to
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - stderr is for people


def show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Print a LossnavWarning as one line; ignore other warnings."""
    if issubclass(category, LossnavWarning):
        say(f"{category.__name__}: {message}")
