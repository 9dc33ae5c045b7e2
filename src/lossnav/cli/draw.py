"""The commands info, plot, compare, animate and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lossnav.cli.command import app, reporting, say
from lossnav.cli.options import Json, Overwrite, Surface
from lossnav.cli.tables import as_text, made_words, print_table, summary_words, surface_values


@app.command()
@reporting
def info(
    surface: Surface,
    as_json: Json = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read every byte of the store, and list files that do not match their checksum."),
    ] = False,
) -> None:
    """Print the contents of a stored surface and how it was made."""
    from lossnav.surface.zarr_io import open_surface

    if verify:
        _verify(surface, as_json)
        return
    opened = open_surface(surface)
    if as_json:
        typer.echo(as_text(surface_values(opened, surface)))
    else:
        print_table(made_words(opened) | summary_words(opened))


def _verify(surface: str, as_json: bool) -> None:
    """Compare every file of a store with its checksum; exit with 1 if one differs."""
    from lossnav.storage.reading import verify

    found = verify(surface)
    if as_json:
        typer.echo(as_text(found._asdict()))
    else:
        for name in found.damaged:
            typer.echo(f"damaged: {name}")
        without = f", {found.unchecked:,} have no checksum (written by an older lossnav)" if found.unchecked else ""
        typer.echo(f"{found.checked:,} chunks and documents were checked, {len(found.damaged):,} are damaged{without}.")
    if found.damaged:
        say("Damaged points count as not evaluated; lossnav resume evaluates them again.")
        raise typer.Exit(1)


@app.command()
@reporting
def plot(
    kind: Annotated[
        Literal["line", "contour", "heatmap", "surface", "spectrum"],
        typer.Argument(help="Kind of picture. spectrum: a result of lossnav curvature."),
    ],
    surface: Surface,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png, .svg, .pdf or .html file.")],
    variable: Annotated[str, typer.Option(help="loss, or a metric.")] = "loss",
    log: Annotated[bool | None, typer.Option("--log/--linear", help="Default: log for contours only.")] = None,
    points: Annotated[bool, typer.Option("--points", help="Mark the points that were measured.")] = False,
    trajectory: Annotated[bool, typer.Option("--trajectory", help="Draw the training run stored beside it.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw a stored surface or spectrum."""
    from lossnav import plots
    from lossnav.surface.groups import open_spectrum, open_trajectory
    from lossnav.surface.zarr_io import open_surface

    drawn = open_spectrum(surface) if kind == "spectrum" else open_surface(surface)
    path = open_trajectory(surface) if trajectory else None
    target = plots.write(
        kind, drawn, out, variable=variable, log=log, points=points, trajectory=path, overwrite=overwrite
    )
    typer.echo(str(target))


@app.command()
@reporting
def compare(
    surfaces: Annotated[list[str], typer.Argument(help="Two or more .zarr folders or URLs.", metavar="SURFACE...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png, .svg, .pdf or .html file.")],
    kind: Annotated[
        Literal["line", "contour", "heatmap", "surface"], typer.Option(help="Kind of picture.")
    ] = "contour",
    labels: Annotated[
        str | None, typer.Option(help="One label per surface, separated by commas. Default: the names of the folders.")
    ] = None,
    variable: Annotated[str, typer.Option(help="loss, or a metric.")] = "loss",
    log: Annotated[bool | None, typer.Option("--log/--linear", help="Default: log for contours only.")] = None,
    points: Annotated[bool, typer.Option("--points", help="Mark the points that were measured.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw several stored surfaces in one figure with common axes, levels and colours."""
    from lossnav import plots
    from lossnav.surface.zarr_io import open_surface

    opened = [open_surface(surface) for surface in surfaces]
    stems = [surface.rstrip("/").rpartition("/")[2].removesuffix(".zarr") for surface in surfaces]
    names = stems if len(set(stems)) == len(stems) else surfaces
    if labels is not None:
        names = [label.strip() for label in labels.split(",")]
    options: dict[str, Any] = {"variable": variable, "log": log, "points": points, "overwrite": overwrite}
    typer.echo(str(plots.write(kind, opened, out, labels=names, **options)))


@app.command()
@reporting
def animate(
    surface: Surface,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .gif file, or .mp4 if ffmpeg is installed.")],
    variable: Annotated[str, typer.Option(help="loss, or a metric.")] = "loss",
    log: Annotated[bool | None, typer.Option("--log/--linear", help="Default: log under a trajectory only.")] = None,
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="Draw the training run stored beside it over contours.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Animate a stored plane: it rotates once, or its training run is drawn over it."""
    from lossnav import plots
    from lossnav.surface.groups import open_trajectory
    from lossnav.surface.zarr_io import open_surface

    path = open_trajectory(surface) if trajectory else None
    options: dict[str, Any] = {"variable": variable, "log": log, "progress": True, "overwrite": overwrite}
    typer.echo(str(plots.animate(open_surface(surface), out, trajectory=path, **options)))


@app.command()
@reporting
def export(
    surface: Surface,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .csv, .json, .vti, .vtp, .glb or .obj file.")],
    variable: Annotated[str, typer.Option(help="Variable shown as height in a mesh (.vtp, .glb, .obj).")] = "loss",
    log: Annotated[bool, typer.Option("--log/--linear", help="Use log10 heights in a mesh.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Export a stored surface to other programs: tables, ParaView, Blender."""
    from lossnav.exports import export as run
    from lossnav.surface.zarr_io import open_surface

    typer.echo(str(run(open_surface(surface), out, variable=variable, log=log, overwrite=overwrite)))
