"""Walk through loss space in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lossnav.cli.command import app, reporting, say
from lossnav.cli.options import DataRoot, MissingBuffers, Overwrite, Params, Seed, engine_of
from lossnav.errors import Interrupted, OptionError


@app.command()
@reporting
def explore(
    what: Annotated[
        str, typer.Argument(help="A .zarr folder or a URL to look at; or a SPEC (file.py:name, zoo:...) to evaluate.")
    ],
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="Of a SPEC: where points are kept. Default: in lossnav-explore.")
    ] = None,
    chart: Annotated[Literal["line", "plane", "volume"], typer.Option(help="Of a SPEC: where to look.")] = "plane",
    normalize: Annotated[
        Literal["filter", "layer", "weight", "none"], typer.Option(help="Of the directions.")
    ] = "filter",
    range_: Annotated[tuple[float, float], typer.Option("--range", help="Ends of each axis to begin with.")] = (-1, 1),
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to look around.")] = None,
    missing_buffers: MissingBuffers = "refuse",
    params: Params = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    plan: Annotated[Literal["auto", "plain", "tuned"], typer.Option(help="As of evaluate.")] = "auto",
    precision: Annotated[
        Literal["native", "float32", "tf32", "bfloat16", "float64"], typer.Option(help="As of evaluate.")
    ] = "native",
    host: Annotated[str, typer.Option(help="Address to listen on. Default: this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 0,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name of a proxy under which the page is reached; repeat.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, open nothing.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", help="Write the stored surface as one HTML file instead.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Walk through loss space in the browser: a stored surface, or an objective that is evaluated where you look."""
    from lossnav.explorer import explore as run
    from lossnav.files import is_url

    is_spec = ":" in what and not is_url(what) and not Path(what).exists()
    if export is not None:
        if is_spec:
            raise OptionError(
                f"--export is of a stored surface, and {what} is a SPEC. Explore it with -o run.zarr first."
            )
        from lossnav.explorer.export import write_html

        typer.echo(str(write_html(what, export, overwrite=overwrite)))
        return
    options: dict[str, Any] = {"host": host, "port": port, "allow_hosts": allow_host or (), "browser": False}
    if is_spec:
        from lossnav import directions
        from lossnav.charts import Line, Plane, Volume
        from lossnav.specs import load_objective

        objective = load_objective(
            what, checkpoint=checkpoint, data_root=data_root, missing_buffers=missing_buffers, params=params
        )
        kind: Any = {"line": Line, "plane": Plane, "volume": Volume}[chart]
        how = None if normalize == "none" else normalize
        found = directions.random(objective, n=len(kind.dims), normalize=how, seed=seed)
        options |= {"ends": range_, "store": out, "overwrite": overwrite, "engine": engine_of("local", plan, precision)}
        explorer = run(objective, kind(objective.params, *found), block=False, **options)
    else:
        explorer = run(what, block=False, **options)
    typer.echo(explorer.url)
    kept = explorer.desk.session.store
    say(f"{kept}: Ctrl-C ends the explorer." + (" Every point is kept there." if is_spec else ""))
    if not no_browser:
        explorer.open()
    if signal := explorer.wait():
        said = f"Stopped. What was evaluated is in {kept}; the same call goes on from there." if is_spec else "Stopped."
        raise Interrupted(said, signal=signal)
