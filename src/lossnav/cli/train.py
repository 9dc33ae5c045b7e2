"""The commands demo, train and reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lossnav._utils.signals import signal_of
from lossnav.cli.command import app, reporting, say
from lossnav.cli.options import DataRoot, Overwrite, Seed
from lossnav.cli.tables import print_table
from lossnav.errors import Interrupted, SpecError


@app.command()
@reporting
def demo(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("lossnav-demo"),
    data: Annotated[Literal["digits", "mnist"], typer.Option(help="mnist is read from --data-root.")] = "digits",
    data_root: DataRoot = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a small network and draw its loss surface: a line, two planes, pictures, one page."""
    from lossnav.reproductions.demo import demo as run

    result = run(out, data=data, data_root=data_root, seed=seed, overwrite=overwrite, progress=True, say=say)
    print_table(result.table())
    typer.echo(f"open {result.index}")


@app.command()
@reporting
def train(
    spec: Annotated[
        str, typer.Argument(help="zoo:notebook-digits, notebook-mnist, resnet20, resnet56-wide2-noshort, vgg9, ...")
    ] = "zoo:notebook-digits",
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint to write (.safetensors).")] = Path(
        "model.safetensors"
    ),
    data_root: DataRoot = None,
    passes: Annotated[
        int | None,
        typer.Option("--passes", "--epochs", help="Passes over the training data. Default: those of the recipe."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Number of training samples, from the first on. Default: all.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Batch size. Default: that of the recipe.")] = None,
    lr: Annotated[float | None, typer.Option(help="Initial learning rate. Default: that of the recipe.")] = None,
    order: Annotated[
        Literal["stored", "shuffled"] | None, typer.Option(help="Order of the batches. Default: that of the recipe.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a network of the zoo and write its checkpoint."""
    from lossnav import checkpoints, zoo
    from lossnav._utils.paths import require_writable

    prefix, _, name = spec.rpartition(":")
    if prefix != "zoo":
        raise SpecError(f"{spec!r} is not in the zoo. Use zoo:notebook-digits, zoo:notebook-mnist or zoo:resnet20.")
    require_writable(out, overwrite)
    recipe = zoo.recipe(name)
    model = recipe.model(seed, device)
    say(f"loading {recipe.data}")
    data = recipe.load_data(data_root, samples)
    options = {"passes": passes, "batch_size": batch_size, "lr": lr, "order": order, "seed": seed}
    interrupted = None
    try:
        history = recipe.train(model, data, progress=True, **options)
    except KeyboardInterrupt as error:
        interrupted, history = error, None
    held_out = zoo.accuracy(model, data, recipe.held_out)
    checkpoints.save(
        model, out, metadata={"recipe": name, "seed": seed, "held_out_accuracy": held_out}, overwrite=overwrite
    )
    if interrupted is not None:
        words = f"Stopped. The current weights (held-out accuracy {held_out:.4f}) are in {out}."
        raise Interrupted(words, signal=signal_of(interrupted))
    assert history is not None
    print_table({"held-out accuracy": f"{held_out:.4f}", "training loss": f"{history.loss[-1]:.5g} nat"})
    typer.echo(str(out))


@app.command()
@reporting
def reproduce(
    paper: Annotated[Literal["li2018"], typer.Argument(help="Li et al. 2018, arXiv:1712.09913.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder; a stopped run in it is resumed.")] = Path(
        "lossnav-li2018"
    ),
    scale: Annotated[
        Literal["small", "full"],
        typer.Option(help="small: ResNet-20, 20 minutes on two cores. full: ResNet-56 as in the paper, on a GPU."),
    ] = "small",
    data_root: DataRoot = None,
    minutes: Annotated[float | None, typer.Option(help="Time available. Default: 20 for small.")] = None,
    depth: Annotated[int | None, typer.Option(help="Layers of the networks, 6n + 2.")] = None,
    passes: Annotated[
        int | None,
        typer.Option("--passes", "--epochs", help="Passes over the training data. Default: chosen to fit the time."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Number of training images, from the first on. Default: chosen to fit the time.")
    ] = None,
    grid: Annotated[int | None, typer.Option(help="Points along each axis. Default: chosen to fit the time.")] = None,
    images: Annotated[
        int | None, typer.Option(help="Number of images for each plane. Default: chosen to fit the time.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, or cuda.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run the full scale without a GPU.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Reproduce a result of a paper, and report it beside the published one."""
    from lossnav.reproductions.li2018.run import reproduce as run

    size: dict[str, Any] = {"minutes": minutes, "depth": depth, "passes": passes, "samples": samples}
    size |= {"side": grid, "images": images, "device": device, "force": force}
    options: dict[str, Any] = {"data_root": data_root, "seed": seed, "overwrite": overwrite}
    result = run(out, scale=scale, **size, **options, progress=True, say=say)
    print_table(result.table())
    typer.echo(str(result.report))
