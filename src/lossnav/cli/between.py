"""The command align: other networks in the order of units of the first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lossnav.cli.command import app, reporting
from lossnav.cli.options import DataRoot, Device, Json, MissingBuffers, Overwrite, ParamsOption, Seed
from lossnav.cli.tables import as_text
from lossnav.errors import OptionError


@app.command()
@reporting
def align(
    spec: Annotated[str, typer.Argument(help="file.py:name, package.module:name or zoo:notebook-digits.")],
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            help="Checkpoints A B ...: all are brought to the order of A. One alone is brought to that of the SPEC."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="File to write: .safetensors, or .pt for torch.save; of several networks a folder. "
            "Default: B.aligned.safetensors.",
        ),
    ] = None,
    method: Annotated[
        Literal["weights", "activations"], typer.Option(help="What is to be alike: weights, or units on the data.")
    ] = "weights",
    restarts: Annotated[int, typer.Option(min=1, help="Starts of the search; the best is taken.")] = 10,
    data_root: DataRoot = None,
    missing_buffers: MissingBuffers = "refuse",
    params: ParamsOption = None,
    device: Device = None,
    as_json: Json = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Permute the units of networks so that they are in the order of another's, and prove that no function changed."""
    from lossnav import checkpoints as files
    from lossnav._utils.paths import require_writable
    from lossnav.specs.objective_of import load_objective
    from lossnav.symmetry import align as run

    first, others = (checkpoints[0], checkpoints[1:]) if len(checkpoints) > 1 else (None, checkpoints)
    targets = _targets(others, out)
    for target in targets:
        require_writable(target, overwrite)
    objective = load_objective(
        spec,
        checkpoint=first,
        data_root=data_root,
        missing_buffers=missing_buffers,
        params=params,
        device=device,
    )
    ends = [objective.at(other, missing_buffers) for other in others]
    made = run([objective, *ends], method=method, restarts=restarts, seed=seed, progress=True)
    about = {
        "method": made.method,
        "seed": made.seed,
        "objective": made.objective,
        "before": made.before,
        "error": made.error,
        "starts": made.values,
    }
    for target, end, point in zip(targets, ends, made.points[1:], strict=True):
        state = {**end.forward_pass.held, **point, **point.buffers}
        files.save(state, target, metadata={"alignment": as_text(about)}, overwrite=overwrite)
    if as_json:
        groups: list[dict[str, Any]] = [
            {"group": g.name, "size": g.size, "within": g.within, "tensors": len(g.tensors), "error": g.error}
            for g in made.symmetries.groups
        ]
        typer.echo(as_text({"paths": list(map(str, targets)), "groups": groups, **about}))
        return
    typer.echo(f"{made.symmetries}\n\n{made}")
    for target in targets:
        typer.echo(str(target))


def _targets(others: list[Path], out: Path | None) -> list[Path]:
    """The file of each network that is aligned."""
    names = [f"{_stem(other)}.aligned.safetensors" for other in others]
    if len(others) == 1:
        return [Path(names[0]) if out is None else out]
    if len(set(names)) < len(names):
        raise OptionError("Two checkpoints have the same name, and so would their files. Align them one by one.")
    if out is not None and out.suffix in (".safetensors", ".pt", ".pth"):
        raise OptionError(f"--out is the file {out}, and {len(others)} networks are written. Name a folder.")
    return [(Path() if out is None else out) / name for name in names]


def _stem(path: Path) -> str:
    """Name of a checkpoint without its ending, and without what follows ``::``."""
    name = path.name.partition("::")[0]
    for ending in (".safetensors", ".pt", ".pth", ".bin", ".ckpt"):
        name = name.removesuffix(ending)
    return name
