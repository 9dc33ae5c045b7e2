"""The command explore."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lossnav.cli.command import app, reporting, say
from lossnav.cli.options import (
    ChartWord,
    CheckpointOption,
    DataRoot,
    Device,
    EvaluationMode,
    Kinds,
    MissingBuffers,
    Overwrite,
    ParamsOption,
    Seed,
    Through,
    engine_of,
)
from lossnav.errors import Interrupted, OptionError


@app.command()
@reporting
def explore(
    what: Annotated[
        str,
        typer.Argument(help="A stored surface (.zarr folder or URL), or a SPEC (file.py:name, zoo:...) to evaluate."),
    ],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="For a SPEC: store of its points. Default: a folder in lossnav-explore."),
    ] = None,
    chart: ChartWord = None,
    kinds: Kinds = None,
    to: Through = None,
    trajectory: Annotated[Path | None, typer.Option(help="Recorded training run; gives the pca directions.")] = None,
    normalize: Annotated[
        Literal["filter", "layer", "weight", "none"] | None,
        typer.Option(help="Normalisation of random directions. Default: filter."),
    ] = None,
    range_: Annotated[
        tuple[float, float] | None, typer.Option("--range", help="Initial ends of each axis, as in evaluate.")
    ] = None,
    checkpoint: CheckpointOption = None,
    missing_buffers: MissingBuffers = "refuse",
    mode: EvaluationMode = None,
    params: ParamsOption = None,
    device: Device = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    plan: Annotated[Literal["auto", "plain", "tuned"], typer.Option(help="As in evaluate.")] = "auto",
    precision: Annotated[
        Literal["native", "float32", "tf32", "bfloat16", "float64"], typer.Option(help="As in evaluate.")
    ] = "native",
    host: Annotated[str, typer.Option(help="Address to listen on. Default: only this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 0,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Host name of a proxy that serves the page; repeatable.")
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address without opening a browser.")
    ] = False,
    export: Annotated[
        Path | None, typer.Option("--export", help="Write the stored surface as one HTML file instead.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Explore a surface in the browser: a stored one, or an objective that is evaluated where you look."""
    from lossnav._utils.paths import is_url
    from lossnav.explorer import explore as run
    from lossnav.explorer.server.server import HASTE

    is_spec = ":" in what and not is_url(what) and not Path(what).exists()
    if export is not None:
        if is_spec:
            raise OptionError(
                f"--export needs a stored surface, but {what} is a SPEC. Explore it with -o run.zarr first."
            )
        from lossnav.explorer.stored.export_html import write_html

        typer.echo(str(write_html(what, export, overwrite=overwrite)))
        return
    options: dict[str, Any] = {"host": host, "port": port, "allow_hosts": allow_host or (), "browser": False}
    if is_spec:
        from lossnav.evaluation import views
        from lossnav.specs.objective_of import load_objective

        if views.knows(chart, kinds or ()) or what.startswith("zoo:"):  # any other SPEC may register what is named
            views.kind_of(chart, kinds or (), to or ())  # an invalid option is refused before the model is loaded
        objective = load_objective(
            what,
            checkpoint=checkpoint,
            data_root=data_root,
            missing_buffers=missing_buffers,
            params=params,
            device=device,
            mode=mode,
        )
        looks: dict[str, Any] = {"kinds": kinds or (), "to": to or (), "trajectory": trajectory, "seed": seed}
        view = views.view_of(objective, chart, normalize=normalize, missing_buffers=missing_buffers, **looks)
        around = None if range_ is not None else view.ends(51)
        ends: Any = (range_ or (-1.0, 1.0)) if around is None else list(around.values())
        options |= {"ends": ends, "store": out, "overwrite": overwrite, "engine": engine_of("local", plan, precision)}
        explorer = run(view.objective, view.chart, block=False, **options)
    else:
        explorer = run(what, block=False, **options)
    kept = explorer.handler.session.store
    try:
        typer.echo(explorer.url)
        say(f"{kept}: Ctrl-C ends the explorer." + (" Every point is stored there." if is_spec else ""))
        if not no_browser:
            explorer.open()
        signal = explorer.wait()
    except KeyboardInterrupt:  # before it waited, or the second
        explorer.close(HASTE)
        signal = 2
    if signal:
        said = f"Stopped. Evaluated points are in {kept}; the same call resumes it." if is_spec else "Stopped."
        if not explorer.finished:  # a thread in the middle of a long point can only be left behind with the process
            say(said)
            sys.stdout.flush()
            os._exit(128 + signal)
        raise Interrupted(said, signal=signal)
