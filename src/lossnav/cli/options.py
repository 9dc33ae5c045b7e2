"""Options shared by several commands, and the parsers of their values."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from lossnav.errors import OptionError

DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder of the data (MNIST: four IDX files; CIFAR-10: parquet).")
]
EvaluationMode = Annotated[
    Literal["eval", "train"] | None,
    typer.Option(
        "--mode",
        help="train: the loss in train mode (dropout with one seed, batch statistics). Default: as in the SPEC.",
    ),
]
MissingBuffers = Annotated[
    Literal["refuse", "keep"],
    typer.Option(
        "--missing-buffers", help="If a checkpoint lacks buffers of the model: refuse it, or keep the model's own."
    ),
]
ParamsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--params", help="Parameters that move: trainable, all, or a glob; repeatable. Default: as in the SPEC."
    ),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        help="Weights at the centre: a file or folder (docs/checkpoints.md); file.pt::ema for one state dict of it."
    ),
]
Through = Annotated[
    list[Path] | None,
    typer.Option(
        "--to", help="Checkpoint that the chart passes through, starting at the SPEC or --checkpoint; repeatable."
    ),
]
ChartWord = Annotated[
    str | None,
    typer.Option(
        "--chart",
        help="line, plane, volume, rescaled-line or rescaled-bilinear; with --to also chain (segments), bezier or "
        "simplex. Default: plane; with --to, through the checkpoints; for a gradient, line.",
    ),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option("--directions", help="random (default), hessian, gradient or pca; repeat for each axis."),
]
SamplerWord = Annotated[
    str, typer.Option("--sampler", help="How points are chosen; a SPEC may register its own sampler.")
]
Device = Annotated[str | None, typer.Option(help="Device: cpu, cuda, ... Default: that of the SPEC.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run the code that the store names, if it is in this project. Default: ask."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]
Surface = Annotated[str, typer.Argument(help="A .zarr folder, or a URL.")]
EngineName = Annotated[
    Literal["local", "ray"], typer.Option(help="local: this process. ray: workers on a Ray cluster.")
]
Address = Annotated[
    str | None, typer.Option(help="Address of the cluster: local (default: a private one), auto, or host:port.")
]
Workers = Annotated[int | None, typer.Option(help="Number of workers. Default: as many as the cluster has room for.")]
CpusPerWorker = Annotated[int | None, typer.Option(help="CPUs of each worker. Default: 1.")]
GpusPerWorker = Annotated[float | None, typer.Option(help="GPUs of each worker. Default: none.")]
At = Annotated[str, typer.Option("--at", help="Coordinates of an evaluated point, such as 0 0.5.")]
LevelOption = Annotated[float, typer.Option(help="Confidence level of the interval.")]


def engine_of(name: str, plan: Any, precision: Any, **cluster: Any) -> Any:
    """Make the engine of a name; options of a cluster need --engine ray."""
    from lossnav.engines import Local, Ray

    said = {option: value for option, value in cluster.items() if value is not None}
    if name == "ray":
        return Ray(plan, precision, **said)
    if said:
        raise OptionError(f"--{next(iter(said)).replace('_', '-')} is an option of a cluster. Add --engine ray.")
    return Local(plan, precision)


class WithSamplers(typer.core.TyperCommand):
    """A command whose help of --sampler lists the registered samplers; importing them waits until help is printed."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        from lossnav.samplers import by_word

        (option,) = (param for param in self.params if param.name == "sampler")
        listed = " ".join(f"{word}: {kind.help}." for word, kind in by_word().items())
        plain, option.help = option.help, f"{listed} {option.help}"  # type: ignore[attr-defined]
        try:
            super().format_help(ctx, formatter)
        finally:
            option.help = plain  # type: ignore[attr-defined]


def sampler_of(word: str, ends: Mapping[str, Any], options: Mapping[str, Any], settings: Sequence[str] = ()) -> Any:
    """Make the sampler of a word.

    Parameters
    ----------
    word : str
        Of a registered sampler.
    ends : mapping of str to (low, high) or "auto"
    options : mapping
        Values of options with a name of their own (``--grid``: ``("points", 51)``); None if not given.
    settings : sequence of str
        ``name=value`` of ``--set``.

    Raises
    ------
    OptionError
        If there is no such sampler, or it has no such option.
    SamplerError
        If a value is invalid.
    """
    from lossnav.samplers import by_word

    kinds = by_word()
    if word not in kinds:
        raise OptionError(f"There is no sampler {word!r}. Use {' or '.join(sorted(kinds))}.")
    given = [(flag, name, value) for flag, (name, value) in options.items() if value is not None]
    given += [(f"--set {text}", *setting_of(text)) for text in settings]
    for flag, name, _ in given:
        if name not in kinds[word].options:
            known = ", ".join(kinds[word].options)
            raise OptionError(
                f"{flag} is not an option of --sampler {word}. "
                + (f"Its options are {known}: --set name=value." if known else "It has no options.")
            )
    try:
        return kinds[word].sampler.over(ends, **{name: value for _, name, value in given})
    except TypeError as error:
        raise OptionError(f"--sampler {word} does not accept a value: {error}. Check its options.") from error


def subset_of(words: str) -> Any:
    """Parse --subset: a number of samples, or auto."""
    if words != "auto" and not words.isdecimal():
        raise OptionError(f"--subset must be a number of samples or auto, got {words}.")
    return words if words == "auto" else int(words)


def setting_of(text: str) -> tuple[str, Any]:
    """Split ``name=value``; the value is parsed as JSON if possible, else taken as text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise OptionError(f"--set must be name=value, such as --set radius=0.1, got {text}.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, None if value == "none" else value


def as_setting(value: Any) -> str:
    """A value as ``--set name=value`` takes it: the way back of `setting_of`."""
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)


def trusted_by(yes: bool) -> Any:
    """Return a function that decides if code named by a store may be run: by --trust, or by asking at the terminal."""

    def asked(shown: str) -> bool:
        if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return yes
        return typer.confirm(f"The store names code to run:\n  {shown}\nRun it?", default=False, err=True)

    return asked


class Coordinates(typer.core.TyperCommand):
    """A command whose --at and --and take several numbers: ``--at 0 -0.5``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the numbers after an option into one value."""
        joined: list[str] = []
        taking = False
        for word in args:
            if taking and _is_number(word):
                joined[-1] += ("," if "=" in joined[-1] else "=") + word
            else:
                taking = word in ("--at", "--and")
                joined.append(word)
        return super().parse_args(ctx, joined)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def numbers(words: str, option: str) -> list[float]:
    """Parse the coordinates of a point."""
    try:
        return [float(word) for word in words.replace(",", " ").split()]
    except ValueError:
        raise OptionError(
            f"{option} must be the coordinates of a point, such as {option} 0 0.5, got {words}."
        ) from None
