"""The commands curvature, report, sharpness, interval and difference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lossnav.cli.command import app, reporting
from lossnav.cli.options import (
    At,
    CheckpointOption,
    Coordinates,
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
    Trust,
    as_setting,
    numbers,
    setting_of,
    subset_of,
    trusted_by,
)
from lossnav.cli.tables import as_text, print_table, spectrum_words
from lossnav.errors import Interrupted, OptionError


@app.command()
@reporting
def curvature(
    spec: Annotated[str, typer.Argument(help="file.py:name, package.module:name or zoo:notebook-digits.")],
    out: Annotated[
        str,
        typer.Option("--out", "-o", help="Where to store it: a new .zarr, or that of a surface around the same point."),
    ] = "spectrum.zarr",
    top: Annotated[int, typer.Option(min=0, help="Number of eigenvalues at each end.")] = 5,
    density: Annotated[bool, typer.Option("--density", help="Estimate the density of all eigenvalues.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Estimate the trace.")] = False,
    operator: Annotated[Literal["hessian", "gauss-newton"], typer.Option(help="Matrix to analyse.")] = "hessian",
    probes: Annotated[int, typer.Option(min=2, help="For --density: number of random vectors.")] = 5,
    steps: Annotated[int, typer.Option(min=2, help="For --density: Lanczos steps per random vector.")] = 50,
    tolerance: Annotated[float, typer.Option(help="Relative error of the eigenvalues.")] = 1e-3,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of products for the eigenvalues.")] = 500,
    params: Annotated[
        list[str] | None,
        typer.Option(help="all, or a glob over parameters that move; repeatable. Default: all that move."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Tensors left out: bias, norm or a glob; repeatable. Default: none.")
    ] = None,
    checkpoint: CheckpointOption = None,
    missing_buffers: MissingBuffers = "refuse",
    mode: EvaluationMode = None,
    subset: Annotated[str | None, typer.Option(help="Number of random samples of the data, or auto.")] = None,
    precision: Annotated[Literal["native", "float64"], typer.Option(help="Arithmetic of the model.")] = "native",
    device: Device = None,
    data_root: DataRoot = None,
    as_json: Json = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Compute extreme eigenvalues of the Hessian of an objective, and optionally its spectral density and trace."""
    from lossnav.curvature import OPERATORS, DensityOptions
    from lossnav.evaluation.spectrum import spectrum
    from lossnav.specs.objective_of import load_objective
    from lossnav.surface.groups import spectrum_place

    spectrum_place(out, overwrite)
    objective = load_objective(
        spec,
        checkpoint=checkpoint,
        data_root=data_root,
        missing_buffers=missing_buffers,
        params=params if params == ["all"] else None,
        device=device,
        mode=mode,
    )
    if subset is not None:
        objective = objective.subset(subset_of(subset), seed)
    block: dict[str, Any] = {"params": params or "*", "exclude": exclude or (), "precision": precision}
    found = spectrum(
        OPERATORS[operator](objective, **block),
        top=top,
        density=DensityOptions(probes, steps) if density else False,
        trace=trace,
        tolerance=tolerance,
        limit=limit,
        seed=seed,
        store=out,
        overwrite=overwrite,
        progress=True,
    )
    if as_json:
        pairs = [found[name].values.tolist() for name in ("end", "eigenvalue", "eigenvalue_error")]
        rows = [dict(zip(("end", "value", "error"), pair, strict=True)) for pair in zip(*pairs, strict=True)]
        typer.echo(as_text({"path": out, "eigenvalues": rows, **found.attrs}))
    else:
        print_table(spectrum_words(found))
        typer.echo(out)


@app.command()
@reporting
def report(
    surface: Surface,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure missing values at the centre, with the objective of the run.")
    ] = False,
    spec: Annotated[
        str | None, typer.Option(help="SPEC of the objective, if the run names none, or to skip the question.")
    ] = None,
    trust: Trust = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint of the run, if its file was moved.")] = None,
    missing_buffers: MissingBuffers = "refuse",
    mode: EvaluationMode = None,
    device: Device = None,
    data_root: DataRoot = None,
    limit: Annotated[
        int, typer.Option(min=2, help="Maximum number of Hessian-vector products for λmin and λmax.")
    ] = 200,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Report what a stored picture can and cannot say: warnings, notes, unknowns, and what to do.

    With --measure: a stored run names code. That code is executed only if you pass --spec or --trust, or confirm.
    """
    from lossnav.evaluation.resume import objective_of
    from lossnav.reports import report as run
    from lossnav.surface.zarr_io import open_surface

    elsewhere = {"spec": spec, "checkpoint": checkpoint, "data_root": data_root, "device": device}
    elsewhere |= {"missing_buffers": missing_buffers} if missing_buffers != "refuse" else {}
    elsewhere |= {"mode": mode} if mode is not None else {}
    moved = {name: None if value is None else str(value) for name, value in elsewhere.items()}
    objective = None
    if measure:
        objective = objective_of(open_surface(surface).attrs.get("objective", {}), surface, trusted_by(trust), **moved)
    elif any(moved.values()) or trust:
        raise OptionError(
            "--spec, --trust, --checkpoint, --data-root and --device are options of a measurement. Add --measure."
        )
    try:
        found = run(surface, objective=objective, seed=seed, limit=limit, progress=True)
    except Interrupted as stopped:
        typer.echo(str(stopped.partial))
        raise
    typer.echo(found.to_json() if as_json else str(found))


def _list_kinds(asked: bool) -> None:
    """Print every kind of sharpness, what it is and which options it has, and end."""
    if not asked:
        return
    from lossnav.sharpness_measures import KINDS

    for kind in KINDS.values():
        options = "  ".join(f"{name}={as_setting(value)}" for name, value in kind.options.items())
        print_table({kind.name: kind.formula, "  source": kind.source, "  options": options})
    raise typer.Exit


@app.command()
@reporting
def sharpness(
    spec: Annotated[str, typer.Argument(help="file.py:name, package.module:name or zoo:notebook-digits.")],
    kind: Annotated[str, typer.Option(help="Definition: sam, asam, epsilon, ... (--kinds lists all).")],
    kinds: Annotated[
        bool,
        typer.Option("--kinds", help="List the definitions and their options.", is_eager=True, callback=_list_kinds),
    ] = False,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="Option of the definition, such as radius=0.1; repeatable.")
    ] = None,
    checkpoint: CheckpointOption = None,
    missing_buffers: MissingBuffers = "refuse",
    mode: EvaluationMode = None,
    params: ParamsOption = None,
    device: Device = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure the sharpness of the loss at the weights, by a named definition, with its uncertainty."""
    from lossnav.sharpness_measures import sharpness as run
    from lossnav.specs.objective_of import load_objective

    chosen: Any = {"kind": kind, "seed": seed} | dict(map(setting_of, options or ()))
    objective = load_objective(
        spec,
        checkpoint=checkpoint,
        data_root=data_root,
        missing_buffers=missing_buffers,
        params=params,
        device=device,
        mode=mode,
    )
    found = run(objective, progress=True, **chosen)
    typer.echo(as_text(found.describe()) if as_json else str(found))


@app.command(cls=Coordinates)
@reporting
def interval(
    surface: Surface,
    at: At,
    level: LevelOption = 0.95,
    as_json: Json = False,
) -> None:
    """Print a confidence interval of the loss at a point, and whether it is valid."""
    from lossnav.surface.intervals import interval as run
    from lossnav.surface.zarr_io import open_surface

    found = run(open_surface(surface), numbers(at, "--at"), level=level)
    typer.echo(as_text(found.to_dict()) if as_json else str(found))


@app.command(cls=Coordinates)
@reporting
def difference(
    surface: Annotated[str, typer.Argument(help="A .zarr folder or a URL, evaluated with --keep-samples.")],
    at: At,
    and_: Annotated[str | None, typer.Option("--and", help="Second point; its loss is subtracted.")] = None,
    other: Annotated[str | None, typer.Option(help="Surface whose loss is subtracted, of the same data.")] = None,
    level: LevelOption = 0.95,
    as_json: Json = False,
) -> None:
    """Print the difference of the loss at two points, or of two surfaces, with its paired standard error."""
    from lossnav.surface.difference import difference as run
    from lossnav.surface.zarr_io import open_surface

    if (and_ is None) == (other is None):
        raise OptionError("Pass two points (--at 0 0 --and 0.5 0.5), or one point and a second surface (--other).")
    point, opened = numbers(at, "--at"), open_surface(surface)
    if other is not None:
        found = run(opened, open_surface(other), point, level=level)
    else:
        found = run(opened, point, numbers(str(and_), "--and"), level=level)
    typer.echo(as_text(found.to_dict()) if as_json else str(found))
