"""Options that several commands have, and what their words mean."""

from __future__ import annotations

import json
import sys
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
    typer.Option("--mode", help="train: the loss as training has it (dropout of one seed, batch statistics)."),
]
MissingBuffers = Annotated[
    Literal["refuse", "keep"],
    typer.Option("--missing-buffers", help="Where a checkpoint lacks buffers of the model; keep: the model's own."),
]
ParamsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--params", help="What moves: trainable, all, or a glob over parameters; repeat. Default: the SPEC's."
    ),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        help="Weights to look around: a file or folder (docs/checkpoints.md); file.pt::ema for what is in it."
    ),
]
Through = Annotated[
    list[Path] | None,
    typer.Option("--to", help="A checkpoint to lead through, from the weights of the SPEC or --checkpoint; repeat."),
]
ChartWord = Annotated[
    str | None,
    typer.Option(
        "--chart",
        help="line, plane, volume, rescaled-line or rescaled-bilinear. Default: a plane; what the checkpoints of --to "
        "span; of a gradient a line.",
    ),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option("--directions", help="random (default), hessian, gradient or pca; repeat: one for each axis."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...: where to compute. Default: where the SPEC does.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Seed = Annotated[int, typer.Option(min=0, help="Of everything random.")]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run the code that the store names, where it lies in this project. Else it is asked."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Surface = Annotated[str, typer.Argument(help="A .zarr folder, or a URL.")]
EngineName = Annotated[Literal["local", "ray"], typer.Option(help="This process, or workers on a Ray cluster.")]
Address = Annotated[
    str | None, typer.Option(help="Of the cluster: local (default: a private one), auto, or host:port.")
]
Workers = Annotated[int | None, typer.Option(help="Default: as many as the cluster has room for.")]
CpusPerWorker = Annotated[int | None, typer.Option(help="Default: 1.")]
GpusPerWorker = Annotated[float | None, typer.Option(help="Default: none.")]
At = Annotated[str, typer.Option("--at", help="Coordinates of a point that was evaluated: 0 0.5.")]
LevelOption = Annotated[float, typer.Option(help="Of the interval.")]


def engine_of(name: str, plan: Any, precision: Any, **cluster: Any) -> Any:
    """Make the engine of a name; what is said of a cluster needs one."""
    from lossnav.engines import Local, Ray

    said = {option: value for option, value in cluster.items() if value is not None}
    if name == "ray":
        return Ray(plan, precision, **said)
    if said:
        raise OptionError(f"--{next(iter(said)).replace('_', '-')} is of a cluster. Add --engine ray.")
    return Local(plan, precision)


def subset_of(words: str) -> Any:
    """A number of samples, or auto."""
    if words != "auto" and not words.isdecimal():
        raise OptionError(f"--subset {words} is no number of samples. Use a number, or auto.")
    return words if words == "auto" else int(words)


def setting_of(text: str) -> tuple[str, Any]:
    """From ``name=value`` the name, and the value as JSON has it or as it stands there."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise OptionError(f"--set {text} sets nothing. Use name=value, such as --set radius=0.1.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, None if value == "none" else value


def trusted_by(yes: bool) -> Any:
    """What says whether code that a store names may be run: the option, or whoever sits at the terminal."""

    def asked(shown: str) -> bool:
        if yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return yes
        return typer.confirm(f"The store names code to run:\n  {shown}\nRun it?", default=False, err=True)

    return asked


class Coordinates(typer.core.TyperCommand):
    """A command whose --at and --and take as many numbers as there are: ``--at 0 -0.5``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the numbers after an option to one value."""
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
    """Read the coordinates of a point."""
    try:
        return [float(word) for word in words.replace(",", " ").split()]
    except ValueError:
        raise OptionError(
            f"{option} {words} holds no numbers. Pass the coordinates of a point: {option} 0 0.5."
        ) from None
