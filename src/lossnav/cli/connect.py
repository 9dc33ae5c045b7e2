"""The commands connect and barrier: a curve of low loss between two networks, and how far the loss rises on a path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lossnav.cli.command import app, reporting
from lossnav.cli.options import (
    DataRoot,
    Device,
    EvaluationMode,
    Json,
    LevelOption,
    MissingBuffers,
    Overwrite,
    ParamsOption,
    Seed,
    Surface,
)
from lossnav.cli.tables import as_text
from lossnav.errors import OptionError


@app.command()
@reporting
def connect(
    spec: Annotated[str, typer.Argument(help="file.py:name, package.module:name or zoo:notebook-digits.")],
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            help="Checkpoints A B: the ends of the curve. One alone is connected with the SPEC's own weights."
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Curve to write while it is trained: a .safetensors file.")
    ] = Path("curve.safetensors"),
    run: Annotated[
        str | None, typer.Option(help="Surface to write afterwards, a .zarr folder: the loss along the curve.")
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="For --run: SPEC of the objective, such as test data. Default: the same.")
    ] = None,
    points: Annotated[int, typer.Option(min=3, help="For --run: points along the curve.")] = 61,
    kind: Annotated[
        Literal["bezier", "chain", "band"], typer.Option(help="Bézier curve, chain of segments, or AutoNEB band.")
    ] = "bezier",
    bends: Annotated[
        int | None, typer.Option(help="Free control points. Default: 1; band: 3 pivots, and more where needed.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data; of a band, in each cycle.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Samples of a minibatch.")] = 128,
    lr: Annotated[float | None, typer.Option(help="Learning rate. Default: 0.03.")] = None,
    momentum: Annotated[float, typer.Option(help="Momentum of SGD.")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="Of the point on the curve.")] = 0.0,
    cycles: Annotated[int, typer.Option(help="For --kind band: cycles, between which pivots are inserted.")] = 4,
    bn: Annotated[
        Literal["frozen", "batch", "recompute"] | None,
        typer.Option(help="BatchNorm while training: interpolated buffers (frozen), or statistics of each minibatch."),
    ] = None,
    data_root: DataRoot = None,
    missing_buffers: MissingBuffers = "refuse",
    mode: EvaluationMode = None,
    params: ParamsOption = None,
    device: Device = None,
    as_json: Json = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a curve of low loss between two networks. The same call resumes a stopped one, to the same bits."""
    from lossnav._utils.paths import is_url, require_writable
    from lossnav.evaluation.connect import connect as train
    from lossnav.evaluation.evaluate import evaluate
    from lossnav.samplers import Grid
    from lossnav.specs.objective_of import load_objective
    from lossnav.surface.barrier import barrier as measure

    if len(checkpoints) > 2:
        raise OptionError(f"A curve has two ends, and {len(checkpoints)} checkpoints are named. Name A and B.")
    if on is not None and run is None:
        raise OptionError("--on is the objective of --run. Add --run run.zarr.")
    if run is not None and not is_url(run):
        require_writable(run, overwrite=True, kind="surface")
    first, last = (None, checkpoints[0]) if len(checkpoints) == 1 else checkpoints
    how: dict[str, Any] = {"checkpoint": first, "data_root": data_root, "missing_buffers": missing_buffers}
    how |= {"params": params, "device": device, "mode": mode}
    objective = load_objective(spec, **how)
    end: Any = last if missing_buffers == "refuse" else objective.at(last, missing_buffers)
    options: dict[str, Any] = {"bends": bends, "epochs": epochs, "batch_size": batch_size, "lr": lr, "bn": bn}
    options |= {"momentum": momentum, "weight_decay": weight_decay, "cycles": cycles, "seed": seed}
    made = train(objective, end, kind, **options, store=out, overwrite=overwrite, progress=True)
    values: dict[str, Any] = {
        "path": str(out),
        "finished": made.finished,
        "length": made.curve.length(),
        **made.options,
    }
    if run is not None:
        measured = objective if on is None else load_objective(on, **how)
        surface = evaluate(measured, made.curve, Grid(t=(0.0, 1.0, points)), store=run, overwrite=overwrite,
                           save_directions=True, keep_samples=_has_samples(measured), progress=True)  # fmt: skip
        rise = measure(surface)
        values["barrier"] = rise.to_dict()
    if as_json:
        typer.echo(as_text(values))
        return
    typer.echo(str(made))
    if run is not None:
        typer.echo(f"{rise}\n{run}")


def _has_samples(objective: Any) -> bool:
    """Whether the loss of single samples is known."""
    return "loss_se" in objective.evaluate(objective.params)


@app.command()
@reporting
def barrier(
    surface: Surface,
    ends: Annotated[tuple[float, float], typer.Option(help="Coordinates of the two networks.")] = (0.0, 1.0),
    level: LevelOption = 0.95,
    as_json: Json = False,
) -> None:
    """Print how far the loss rises between two networks, with an interval that holds for the maximum of all points."""
    from lossnav.surface.barrier import barrier as run
    from lossnav.surface.zarr_io import open_surface

    found = run(open_surface(surface), ends=ends, level=level)
    typer.echo(as_text(found.to_dict()) if as_json else str(found))
