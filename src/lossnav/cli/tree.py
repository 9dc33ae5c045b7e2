"""The command tree: how several minima hang together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lossnav.cli.command import app, reporting
from lossnav.cli.options import DataRoot, Device, EvaluationMode, Json, MissingBuffers, Overwrite, ParamsOption, Seed
from lossnav.cli.tables import as_text


@app.command()
@reporting
def tree(
    spec: Annotated[str, typer.Argument(help="file.py:name, package.module:name or zoo:notebook-digits.")],
    checkpoints: Annotated[
        list[Path],
        typer.Argument(help="Checkpoints of the minima. One alone: with the weights of the SPEC."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder of the lines, tree.json and tree.png. The same command continues it."),
    ] = Path("tree"),
    points: Annotated[int, typer.Option(min=3, help="Points on the line between each two, both ends included.")] = 21,
    restarts: Annotated[int, typer.Option(min=1, help="Starts of each alignment.")] = 10,
    align: Annotated[
        bool, typer.Option("--align/--no-align", help="Permute the second of each two towards the first.")
    ] = True,
    level: Annotated[float, typer.Option(help="Probability with which no basins are told apart that are one.")] = 0.95,
    subset: Annotated[str | None, typer.Option(help="Number of random samples of the data, or auto.")] = None,
    data_root: DataRoot = None,
    missing_buffers: MissingBuffers = "refuse",
    params: ParamsOption = None,
    device: Device = None,
    mode: EvaluationMode = None,
    as_json: Json = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Measure the passes between each two of several minima, and draw them as a tree with errors.

    Each pass is the highest loss on a straight line after alignment: an upper bound on the lowest pass.
    """
    from lossnav import plots
    from lossnav.cli.options import subset_of
    from lossnav.evaluation.tree import FILE
    from lossnav.evaluation.tree import tree as run
    from lossnav.specs.objective_of import load_objective

    first, others = (checkpoints[0], checkpoints[1:]) if len(checkpoints) > 1 else (None, checkpoints)
    objective = load_objective(
        spec,
        checkpoint=first,
        data_root=data_root,
        missing_buffers=missing_buffers,
        params=params,
        device=device,
        mode=mode,
    )
    if subset is not None:
        objective = objective.subset(subset_of(subset), seed)
    stems = [Path(spec.rpartition(":")[2]).stem if first is None else first.stem, *(path.stem for path in others)]
    found = run(
        [objective, *(objective.at(path, missing_buffers) for path in others)],
        names=stems if len(set(stems)) == len(stems) else None,
        align=align,
        restarts=restarts,
        points=points,
        level=level,
        seed=seed,
        store=out,
        overwrite=overwrite,
        progress=True,
    )
    picture = plots.write("tree", found, out / "tree.png", overwrite=True)
    if as_json:
        typer.echo(as_text({"path": str(out / FILE), "picture": str(picture), **found.to_dict()}))
        return
    typer.echo(f"{found}\n\n{out / FILE}\n{picture}")
