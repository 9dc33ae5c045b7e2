"""The command line: parse, call, print. Results go to stdout, progress to stderr; no numerics here.

Exit codes: 0 ok, 1 failed, 2 usage, 3 finished with failed points, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import functools
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec

import typer
import typer.core

from lossnav import __version__
from lossnav.errors import (
    Interrupted,
    LossnavError,
    LossnavWarning,
    OptionError,
    SamplerError,
    SpecError,
)

app = typer.Typer(
    name="lossnav",
    help="Navigate the loss space of neural networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

P = ParamSpec("P")

_USAGE_ERRORS = (OptionError, SamplerError, SpecError)


def _reporting(command: Callable[P, None]) -> Callable[P, None]:
    """Turn our errors into a line on stderr and an exit code; anything else is a bug and shows its traceback."""

    @functools.wraps(command)
    def reported(*args: P.args, **kwargs: P.kwargs) -> None:
        warnings.showwarning = _show_warning
        try:
            command(*args, **kwargs)
        except LossnavError as error:
            _say(f"{type(error).__name__}: {error}")
            raise typer.Exit(2 if isinstance(error, _USAGE_ERRORS) else 1) from error
        except Interrupted as error:
            _say(str(error))
            raise typer.Exit(128 + error.signal) from error
        except KeyboardInterrupt as error:
            _say("Stopped.")
            raise typer.Exit(130) from error

    return reported


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
Params = Annotated[
    list[str] | None,
    typer.Option(
        "--params", help="What moves: trainable, all, or a glob over parameters; repeat. Default: the SPEC's."
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of everything random.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Surface = Annotated[str, typer.Argument(help="A .zarr folder, or a URL.")]
EngineName = Annotated[Literal["local", "ray"], typer.Option(help="This process, or workers on a Ray cluster.")]
Address = Annotated[
    str | None, typer.Option(help="Of the cluster: local (default: a private one), auto, or host:port.")
]
Workers = Annotated[int | None, typer.Option(help="Default: as many as the cluster has room for.")]
CpusPerWorker = Annotated[int | None, typer.Option(help="Default: 1.")]
GpusPerWorker = Annotated[float | None, typer.Option(help="Default: none.")]


@app.command()
@_reporting
def demo(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("lossnav-demo"),
    data: Annotated[Literal["digits", "mnist"], typer.Option(help="MNIST is the notebook itself.")] = "digits",
    data_root: DataRoot = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train the notebook's network and show the ground around it: a line, two planes, pictures, one page."""
    from lossnav.zoo.demo import demo as run

    result = run(out, data=data, data_root=data_root, seed=seed, overwrite=overwrite, progress=True, say=_say)
    _print_table(result.table())
    typer.echo(f"open {result.index}")


@app.command()
@_reporting
def train(
    spec: Annotated[
        str, typer.Argument(help="zoo:notebook-digits, notebook-mnist, resnet20, resnet56-wide2-noshort, vgg9, ...")
    ] = "zoo:notebook-digits",
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint to write (.safetensors).")] = Path(
        "model.safetensors"
    ),
    data_root: DataRoot = None,
    passes: Annotated[
        int | None, typer.Option("--passes", "--epochs", help="Over the training data. Default: the recipe's.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="The first so many training samples. Default: all.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default: the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(help="The step at the beginning. Default: the recipe's.")] = None,
    order: Annotated[
        Literal["stored", "shuffled"] | None, typer.Option(help="Of the batches. Default: the recipe's.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a network of the zoo and write its checkpoint."""
    from lossnav import checkpoints, zoo
    from lossnav.files import require_writable

    prefix, _, name = spec.rpartition(":")
    if prefix != "zoo":
        raise SpecError(f"{spec!r} is not of the zoo. Use zoo:notebook-digits, zoo:notebook-mnist or zoo:resnet20.")
    require_writable(out, overwrite)
    recipe = zoo.recipe(name)
    model = recipe.model(seed, device)
    _say(f"loading {recipe.data}")
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
        words = f"Stopped. The weights as they are (held-out accuracy {held_out:.4f}) are in {out}."
        raise Interrupted(words, signal=getattr(interrupted, "signal", 2))
    assert history is not None
    _print_table({"held-out accuracy": f"{held_out:.4f}", "training loss": f"{history.loss[-1]:.5g} nat"})
    typer.echo(str(out))


@app.command()
@_reporting
def reproduce(
    paper: Annotated[Literal["li2018"], typer.Argument(help="Li et al. 2018, arXiv:1712.09913.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make, or to go on in.")] = Path("lossnav-li2018"),
    scale: Annotated[
        Literal["small", "full"],
        typer.Option(help="small: ResNet-20, 20 minutes on two cores. full: ResNet-56 as in the paper, on a GPU."),
    ] = "small",
    data_root: DataRoot = None,
    minutes: Annotated[float | None, typer.Option(help="The time there is. Default: 20 for small.")] = None,
    depth: Annotated[int | None, typer.Option(help="Layers of the networks, 6n + 2.")] = None,
    passes: Annotated[int | None, typer.Option("--passes", "--epochs", help="Default: by the time.")] = None,
    samples: Annotated[
        int | None, typer.Option(help="The first so many training images. Default: by the time.")
    ] = None,
    grid: Annotated[int | None, typer.Option(help="Points along each axis. Default: by the time.")] = None,
    images: Annotated[int | None, typer.Option(help="A plane is measured on. Default: by the time.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, or cuda.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run the full scale without a GPU.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make a result of a paper again, and report what came out beside what the paper says."""
    from lossnav.zoo.li2018 import reproduce as run

    size: dict[str, Any] = {"minutes": minutes, "depth": depth, "passes": passes, "samples": samples}
    size |= {"side": grid, "images": images, "device": device, "force": force}
    options: dict[str, Any] = {"data_root": data_root, "seed": seed, "overwrite": overwrite}
    result = run(out, scale=scale, **size, **options, progress=True, say=_say)
    _print_table(result.table())
    typer.echo(str(result.report))


@app.command()
@_reporting
def evaluate(
    spec: Annotated[str, typer.Argument(help="file.py:name, package.module:name or zoo:notebook-digits.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Surface to write: a .zarr folder, or a URL.")] = "run.zarr",
    chart: Annotated[
        Literal["line", "plane", "rescaled-line", "rescaled-bilinear"], typer.Option(help="Where to look.")
    ] = "plane",
    normalize: Annotated[
        Literal["filter", "layer", "weight", "none"] | None,
        typer.Option(help="Default: filter; none for rescaled charts."),
    ] = None,
    distribution: Annotated[
        Literal["normal", "uniform"] | None, typer.Option(help="Default: normal; uniform for rescaled charts.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="bias, norm or a glob; repeat. Default: bias norm. '' for nothing.")
    ] = None,
    sampler: Annotated[
        Literal["grid", "adaptive"], typer.Option(help="Every point of a grid, or points where the surface bends.")
    ] = "grid",
    grid: Annotated[int, typer.Option(help="Points along each axis of a grid.")] = 51,
    tolerance: Annotated[float, typer.Option(help="Of the adaptive sampler: relative error of the loss.")] = 0.01,
    max_points: Annotated[int, typer.Option(help="Of the adaptive sampler.")] = 2000,
    range_: Annotated[tuple[float, float], typer.Option("--range", help="Ends of each axis.")] = (-1.0, 1.0),
    auto_range: Annotated[
        bool, typer.Option("--auto-range", help="Find the ends: where the loss is ten times the centre's.")
    ] = False,
    subset: Annotated[str | None, typer.Option(help="So many random samples of the data, or auto.")] = None,
    control: Annotated[
        int | None,
        typer.Option(min=2, help="With --subset: points along each axis of a coarse grid with all the data."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="So many seeds of the directions, from --seed on.")] = 1,
    live: Annotated[bool, typer.Option("--live", help="Draw a map in the terminal while it runs.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to look around.")] = None,
    missing_buffers: MissingBuffers = "refuse",
    mode: EvaluationMode = None,
    params: Params = None,
    plan: Annotated[
        Literal["auto", "plain", "tuned"],
        typer.Option(help="auto: faster ways by rule, proved; tuned: by the clock; plain: the reference path."),
    ] = "auto",
    precision: Annotated[
        Literal["native", "float32", "tf32", "bfloat16", "float64"],
        typer.Option(help="What the model computes in."),
    ] = "native",
    save_directions: Annotated[
        bool, typer.Option("--save-directions", help="Keep centre and directions too, beside the surface.")
    ] = False,
    keep_samples: Annotated[
        bool, typer.Option("--keep-samples", help="Keep the loss of every sample at every point too.")
    ] = False,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost: plan, time, memory. Writes nothing.")
    ] = False,
    data_root: DataRoot = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Evaluate an objective on a chart and write the surface, as it goes; the same call goes on where it stopped."""
    import contextlib

    from lossnav import directions
    from lossnav.charts import Line, Plane, RescaledBilinear, RescaledLine
    from lossnav.ensembles import ensemble
    from lossnav.evaluation import estimate
    from lossnav.evaluation import evaluate as run
    from lossnav.files import Parts, is_url, require_writable
    from lossnav.live import TerminalMap
    from lossnav.samplers import Adaptive, Grid
    from lossnav.specs import load_objective

    per_worker = {"cpus_per_worker": cpus_per_worker, "gpus_per_worker": gpus_per_worker}
    chosen_engine = _engine(engine, plan, precision, address=address, workers=workers, **per_worker)
    charts = {"line": Line, "plane": Plane, "rescaled-line": RescaledLine, "rescaled-bilinear": RescaledBilinear}
    chart_class: Any = charts[chart]
    rescaled = chart.startswith("rescaled")
    how = normalize or ("none" if rescaled else "filter")
    ends: Any = "auto" if auto_range else range_
    axes: dict[str, Any] = dict.fromkeys(chart_class.dims, (ends, grid) if auto_range else (*range_, grid))
    chosen: Any = Grid(**axes)
    if sampler == "adaptive":
        chosen = Adaptive(tolerance=tolerance, max_points=max_points, **dict.fromkeys(chart_class.dims, ends))
    samples = None if subset is None else _subset(subset)
    if control is not None:
        _require_control(control, grid, len(chart_class.dims), subset, sampler, auto_range, seeds)
    alone = seeds == 1 and control is None
    if keep_samples and not alone:
        raise OptionError("--keep-samples is for one surface of one seed: leave out --seeds and --control.")
    if not dry_run and not (alone and is_url(out)):
        if alone:
            require_writable(out, overwrite=True, kind="surface")  # it goes on from what is there
        else:
            Parts(out, overwrite)
    objective = load_objective(
        spec, checkpoint=checkpoint, data_root=data_root, missing_buffers=missing_buffers, params=params, mode=mode
    )

    def place(seed: int) -> Any:
        found = directions.random(
            objective,
            n=len(chart_class.dims),
            normalize=None if how == "none" else how,
            distribution=distribution or ("uniform" if rescaled else "normal"),
            orthogonal=not rescaled,
            exclude=("bias", "norm") if exclude is None else [word for word in exclude if word],
            seed=seed,
        )
        return chart_class(objective.params, *found)

    part = objective
    if samples is not None:
        part = objective.subset(samples, seed)
    coarse_axes: dict[str, Any] = dict.fromkeys(chart_class.dims, (*range_, control))
    coarse = None if control is None else Grid(**coarse_axes)
    if dry_run:
        found = estimate(part, place(seed), chosen, engine=chosen_engine)
        whole = None if coarse is None else estimate(objective, place(seed), coarse, engine=chosen_engine)
        _print_table(_estimate_words(found, seeds, whole))
        return
    with TerminalMap() if live else contextlib.nullcontext() as drawn:
        options: dict[str, Any] = {"engine": chosen_engine, "progress": not live, "on_update": drawn}
        if seeds > 1:
            many = range(seed, seed + seeds)
            surface = ensemble(part, place, chosen, many, store=out, overwrite=overwrite, **options)
        elif coarse is not None:
            surface = _corrected(run, (objective, part), place(seed), (coarse, chosen), out, overwrite, options)
        else:
            kept: dict[str, Any] = {"store": out, "overwrite": overwrite, "save_directions": save_directions}
            kept["keep_samples"] = keep_samples
            surface = run(part, place(seed), chosen, **kept, **options)
    _print_result(surface, out)


@app.command()
@_reporting
def resume(
    surface: Annotated[str, typer.Argument(help="Folder or URL of a run that was stopped or killed.")],
    live: Annotated[bool, typer.Option("--live", help="Draw a map in the terminal while it runs.")] = False,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
) -> None:
    """Go on with a run where it stopped; points that failed are tried again."""
    import contextlib

    from lossnav.live import TerminalMap
    from lossnav.resuming import asked_of
    from lossnav.resuming import resume as run
    from lossnav.surface import open_surface

    per_worker = {"cpus_per_worker": cpus_per_worker, "gpus_per_worker": gpus_per_worker}
    asked = asked_of(open_surface(surface).attrs)
    chosen_engine = _engine(engine, *asked, address=address, workers=workers, **per_worker)
    with TerminalMap() if live else contextlib.nullcontext() as drawn:
        _print_result(run(surface, engine=chosen_engine, progress=not live, on_update=drawn), surface)


def _require_control(
    control: int, grid: int, k: int, subset: str | None, sampler: str, auto_range: bool, seeds: int
) -> None:
    """Refuse, before anything is computed, what a control variate cannot be made of."""
    lacking = ["add --subset auto"] if subset is None else []
    words = {"--sampler adaptive": sampler == "adaptive", "--auto-range": auto_range, "--seeds": seeds > 1}
    lacking += [f"leave out {word}" for word, there in words.items() if there]
    if lacking:
        raise OptionError(
            f"--control corrects a --subset on a grid of a given range, for one seed: {' and '.join(lacking)}."
        )
    fits = [n for n in range(2, grid + 1) if n**k >= 6 and (grid - 1) % (n - 1) == 0]
    if control**k < 6:
        instead = f"--control {fits[0]}" if fits else "--grid 11 --control 6"
        raise OptionError(
            f"--control {control} makes {control**k} points with all the data and a correction needs 6. Use {instead}."
        )
    if control not in fits:
        raise OptionError(
            f"--control {control} has points that --grid {grid} has not: {grid} - 1 is no multiple of {control} - 1. "
            f"Use --grid {(grid - 1) // (control - 1) * (control - 1) + control}."
        )


def _corrected(
    run: Callable[..., Any],
    objectives: tuple[Any, Any],
    place: Any,
    grids: tuple[Any, Any],
    out: str,
    overwrite: bool,
    options: dict[str, Any],
) -> Any:
    """Evaluate all the data on a coarse grid, a part of it on a fine one; at a stop save what there is as it is."""
    from lossnav.corrections import control_variate
    from lossnav.files import Parts
    from lossnav.surface import save_surface

    parts, made = Parts(out, overwrite), []
    names = {"whole": "all the data", "subset": "the subset, not corrected,"}
    for objective, grid, (name, words) in zip(objectives, grids, names.items(), strict=True):
        try:
            made.append(run(objective, place, grid, **parts.options(name), **options))
        except Interrupted as error:
            save_surface(error.surface, out, overwrite=parts.overwrite)
            done = int((error.surface["status"] != 0).sum())
            said = f"Stopped. The surface of {words} as far as it got, {done:,} points, is saved in {out}; "
            raise Interrupted(said + "the same call goes on.", error.surface, error.signal) from error
    whole, part = made
    try:
        surface = control_variate(part, whole)
    except OptionError as error:
        save_surface(part, out, overwrite=parts.overwrite)
        raise OptionError(f"{error} The surface of the subset, not corrected, is saved in {out}.") from error
    save_surface(surface, out, overwrite=parts.overwrite)
    parts.discard()
    return surface


@app.command()
@_reporting
def curvature(
    spec: Annotated[str, typer.Argument(help="file.py:name, package.module:name or zoo:notebook-digits.")],
    out: Annotated[
        str,
        typer.Option("--out", "-o", help="Where to keep it: a new .zarr, or that of a surface around the same point."),
    ] = "spectrum.zarr",
    top: Annotated[int, typer.Option(min=0, help="So many eigenvalues of each end.")] = 5,
    density: Annotated[bool, typer.Option("--density", help="The density of all eigenvalues.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Their sum.")] = False,
    operator: Annotated[Literal["hessian", "gauss-newton"], typer.Option(help="Of which matrix.")] = "hessian",
    probes: Annotated[int, typer.Option(min=2, help="Of the density: random vectors.")] = 5,
    steps: Annotated[int, typer.Option(min=2, help="Of the density: Lanczos steps of each.")] = 50,
    tolerance: Annotated[float, typer.Option(help="Relative error of the eigenvalues.")] = 1e-3,
    limit: Annotated[int, typer.Option(min=1, help="Most products for the eigenvalues.")] = 500,
    params: Annotated[
        list[str] | None,
        typer.Option(help="all, or a glob over parameters that move; repeat. Default: all that move."),
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="bias, norm or a glob; repeat. Default: nothing.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to look at.")] = None,
    missing_buffers: MissingBuffers = "refuse",
    mode: EvaluationMode = None,
    subset: Annotated[str | None, typer.Option(help="So many random samples of the data, or auto.")] = None,
    precision: Annotated[Literal["native", "float64"], typer.Option(help="What the model computes in.")] = "native",
    data_root: DataRoot = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Find the eigenvalues at both ends of the Hessian of an objective and, if asked for, density and trace."""
    from lossnav.curvature.spectra import spectrum
    from lossnav.groups import spectrum_place
    from lossnav.specs import load_objective

    spectrum_place(out, overwrite)
    objective = load_objective(
        spec,
        checkpoint=checkpoint,
        data_root=data_root,
        missing_buffers=missing_buffers,
        params=params if params == ["all"] else None,
        mode=mode,
    )
    if subset is not None:
        objective = objective.subset(_subset(subset), seed)
    wanted: dict[str, Any] = {"params": params or "*", "exclude": exclude or (), "precision": precision}
    wanted |= {"probes": probes, "steps": steps, "tolerance": tolerance, "limit": limit, "seed": seed}
    found = spectrum(
        objective,
        top=top,
        density=density,
        trace=trace,
        operator=operator,
        store=out,
        overwrite=overwrite,
        progress=True,
        **wanted,
    )
    if as_json:
        pairs = [found[name].values.tolist() for name in ("end", "eigenvalue", "eigenvalue_error")]
        rows = [dict(zip(("end", "value", "error"), pair, strict=True)) for pair in zip(*pairs, strict=True)]
        typer.echo(_json({"path": out, "eigenvalues": rows, **found.attrs}))
    else:
        _print_table(_spectrum_words(found))
        typer.echo(out)


@app.command()
@_reporting
def plot(
    kind: Annotated[
        Literal["line", "contour", "heatmap", "surface", "spectrum"],
        typer.Argument(help="What to draw; spectrum: what lossnav curvature wrote."),
    ],
    surface: Surface,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png, .svg, .pdf or .html file.")],
    variable: Annotated[str, typer.Option(help="loss, or a metric.")] = "loss",
    log: Annotated[bool | None, typer.Option("--log/--linear", help="Default: log for contours only.")] = None,
    points: Annotated[bool, typer.Option("--points", help="Mark the points that were measured.")] = False,
    trajectory: Annotated[bool, typer.Option("--trajectory", help="Draw the training run stored beside it.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw a stored surface, or the spectrum beside it or alone."""
    from lossnav import plots
    from lossnav.groups import open_spectrum, open_trajectory
    from lossnav.surface import open_surface

    drawn = open_spectrum(surface) if kind == "spectrum" else open_surface(surface)
    path = open_trajectory(surface) if trajectory else None
    target = plots.write(
        kind, drawn, out, variable=variable, log=log, points=points, trajectory=path, overwrite=overwrite
    )
    typer.echo(str(target))


@app.command()
@_reporting
def compare(
    surfaces: Annotated[list[str], typer.Argument(help="Two .zarr folders or URLs, or more.", metavar="SURFACE...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A .png, .svg, .pdf or .html file.")],
    kind: Annotated[Literal["line", "contour", "heatmap", "surface"], typer.Option(help="What to draw.")] = "contour",
    labels: Annotated[
        str | None, typer.Option(help="One a surface, with commas between them. Default: the names of the folders.")
    ] = None,
    variable: Annotated[str, typer.Option(help="loss, or a metric.")] = "loss",
    log: Annotated[bool | None, typer.Option("--log/--linear", help="Default: log for contours only.")] = None,
    points: Annotated[bool, typer.Option("--points", help="Mark the points that were measured.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw several stored surfaces in one figure, with the same axes, levels and colours."""
    from lossnav import plots
    from lossnav.surface import open_surface

    opened = [open_surface(surface) for surface in surfaces]
    stems = [surface.rstrip("/").rpartition("/")[2].removesuffix(".zarr") for surface in surfaces]
    names = stems if len(set(stems)) == len(stems) else surfaces
    if labels is not None:
        names = [label.strip() for label in labels.split(",")]
    options: dict[str, Any] = {"variable": variable, "log": log, "points": points, "overwrite": overwrite}
    typer.echo(str(plots.write(kind, opened, out, labels=names, **options)))


class _Coordinates(typer.core.TyperCommand):
    """A command whose --at and --and take as many numbers as there are: ``--at 0 -0.5``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
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


def _numbers(words: str, option: str) -> list[float]:
    try:
        return [float(word) for word in words.replace(",", " ").split()]
    except ValueError:
        raise OptionError(
            f"{option} {words} holds no numbers. Pass the coordinates of a point: {option} 0 0.5."
        ) from None


At = Annotated[str, typer.Option("--at", help="Coordinates of a point that was evaluated: 0 0.5.")]
Level = Annotated[float, typer.Option(help="Of the interval.")]


@app.command(cls=_Coordinates)
@_reporting
def interval(
    surface: Surface,
    at: At,
    level: Level = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say how sure the loss at a point is: an interval over samples, and whether it holds."""
    from lossnav.intervals import interval as run
    from lossnav.surface import open_surface

    found = run(open_surface(surface), _numbers(at, "--at"), level=level)
    typer.echo(_json(found.to_dict()) if as_json else str(found))


@app.command(cls=_Coordinates)
@_reporting
def difference(
    surface: Annotated[str, typer.Argument(help="A .zarr folder or a URL, evaluated with --keep-samples.")],
    at: At,
    and_: Annotated[str | None, typer.Option("--and", help="The point whose loss is subtracted.")] = None,
    other: Annotated[str | None, typer.Option(help="The surface whose loss is subtracted; of the same data.")] = None,
    level: Level = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Subtract the loss at one point from that at another, or of another surface: with its paired standard error."""
    from lossnav.contrasts import difference as run
    from lossnav.surface import open_surface

    if (and_ is None) == (other is None):
        raise OptionError(
            "A difference is of two points (--at 0 0 --and 0.5 0.5), or of two surfaces at one (--other)."
        )
    point, opened = _numbers(at, "--at"), open_surface(surface)
    if other is not None:
        found = run(opened, open_surface(other), point, level=level)
    else:
        found = run(opened, point, _numbers(str(and_), "--and"), level=level)
    typer.echo(_json(found.to_dict()) if as_json else str(found))


@app.command()
@_reporting
def animate(
    surface: Surface,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .gif, or an .mp4 where ffmpeg is installed.")],
    variable: Annotated[str, typer.Option(help="loss, or a metric.")] = "loss",
    log: Annotated[bool | None, typer.Option("--log/--linear", help="Default: log under a trajectory only.")] = None,
    trajectory: Annotated[
        bool, typer.Option("--trajectory", help="Draw the training run stored beside it over contours.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Make a film of a stored plane: it turns once, or its training run is drawn over it."""
    from lossnav import plots
    from lossnav.groups import open_trajectory
    from lossnav.surface import open_surface

    path = open_trajectory(surface) if trajectory else None
    options: dict[str, Any] = {"variable": variable, "log": log, "progress": True, "overwrite": overwrite}
    typer.echo(str(plots.animate(open_surface(surface), out, trajectory=path, **options)))


@app.command()
@_reporting
def export(
    surface: Surface,
    out: Annotated[Path, typer.Option("--out", "-o", help="A .csv, .json, .vti, .vtp, .glb or .obj file.")],
    variable: Annotated[str, typer.Option(help="Of a mesh (.vtp, .glb, .obj): what its heights are.")] = "loss",
    log: Annotated[bool, typer.Option("--log/--linear", help="Of a mesh: heights are log10.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a stored surface for other programs: tables, ParaView, Blender."""
    from lossnav.exports import export as run
    from lossnav.surface import open_surface

    typer.echo(str(run(open_surface(surface), out, variable=variable, log=log, overwrite=overwrite)))


@app.command()
@_reporting
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
    mode: EvaluationMode = None,
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
            what, checkpoint=checkpoint, data_root=data_root, missing_buffers=missing_buffers, params=params, mode=mode
        )
        kind: Any = {"line": Line, "plane": Plane, "volume": Volume}[chart]
        how = None if normalize == "none" else normalize
        found = directions.random(objective, n=len(kind.dims), normalize=how, seed=seed)
        options |= {"ends": range_, "store": out, "overwrite": overwrite, "engine": _engine("local", plan, precision)}
        explorer = run(objective, kind(objective.params, *found), block=False, **options)
    else:
        explorer = run(what, block=False, **options)
    typer.echo(explorer.url)
    kept = explorer.desk.session.store
    _say(f"{kept}: Ctrl-C ends the explorer." + (" Every point is kept there." if is_spec else ""))
    if not no_browser:
        explorer.open()
    if signal := explorer.wait():
        said = f"Stopped. What was evaluated is in {kept}; the same call goes on from there." if is_spec else "Stopped."
        raise Interrupted(said, signal=signal)


@app.command()
@_reporting
def info(
    surface: Surface,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what a stored surface holds and how it was made."""
    from lossnav.surface import open_surface

    opened = open_surface(surface)
    if as_json:
        sizes = {str(dim): size for dim, size in opened.sizes.items()}
        typer.echo(_json({"path": str(surface), "sizes": sizes, "summary": opened.lossnav.summary(), **opened.attrs}))
    else:
        _print_table(_made_words(opened) | _summary_words(opened))


@app.command()
@_reporting
def report(
    surface: Surface,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure at the centre what is not known, with the run's own objective.")
    ] = False,
    spec: Annotated[str | None, typer.Option(help="Of the objective, where the run does not say.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Its weights, where they are not where they were.")] = None,
    missing_buffers: MissingBuffers = "refuse",
    mode: EvaluationMode = None,
    data_root: DataRoot = None,
    limit: Annotated[int, typer.Option(min=2, help="Hessian-vector products for λmin and λmax.")] = 200,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what a stored picture can and cannot say: warnings, notes, and what to do."""
    from lossnav.reports import report as run
    from lossnav.resuming import objective_of
    from lossnav.surface import open_surface

    elsewhere = {"spec": spec, "checkpoint": checkpoint, "data_root": data_root}
    elsewhere |= {"missing_buffers": missing_buffers} if missing_buffers != "refuse" else {}
    elsewhere |= {"mode": mode} if mode is not None else {}
    moved = {name: None if value is None else str(value) for name, value in elsewhere.items()}
    objective = None
    if measure:
        objective = objective_of(open_surface(surface).attrs["objective"], surface, **moved)
    elif any(moved.values()):
        raise OptionError("--spec, --checkpoint and --data-root say what to measure with. Add --measure.")
    try:
        found = run(surface, objective=objective, seed=seed, limit=limit, progress=True)
    except Interrupted as stopped:
        typer.echo(str(stopped.surface))
        raise
    typer.echo(found.to_json() if as_json else str(found))


@app.command()
@_reporting
def sharpness(
    spec: Annotated[str, typer.Argument(help="file.py:name, package.module:name or zoo:notebook-digits.")],
    kind: Annotated[str, typer.Option(help="Which definition: sam, asam, epsilon, ... (docs/sharpness.md).")],
    options: Annotated[
        list[str] | None, typer.Option("--set", help="An option of the kind, such as radius=0.1; repeat.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to look around.")] = None,
    missing_buffers: MissingBuffers = "refuse",
    mode: EvaluationMode = None,
    params: Params = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure how sharp the loss is at the weights, by a named definition, with its uncertainty."""
    from lossnav.flatness import sharpness as run
    from lossnav.specs import load_objective

    chosen: Any = {"kind": kind, "seed": seed} | dict(map(_setting, options or ()))
    objective = load_objective(
        spec, checkpoint=checkpoint, data_root=data_root, missing_buffers=missing_buffers, params=params, mode=mode
    )
    found = run(objective, progress=True, **chosen)
    typer.echo(_json(found.describe()) if as_json else str(found))


def _setting(text: str) -> tuple[str, Any]:
    """From ``name=value`` the name, and the value as JSON has it or as it stands there."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise OptionError(f"--set {text} sets nothing. Use name=value, such as --set radius=0.1.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, None if value == "none" else value


def _engine(name: str, plan: Any, precision: Any, **cluster: Any) -> Any:
    """Make the engine of a name; what is said of a cluster needs one."""
    from lossnav.engines import Local, Ray

    said = {option: value for option, value in cluster.items() if value is not None}
    if name == "ray":
        return Ray(plan, precision, **said)
    if said:
        raise OptionError(f"--{next(iter(said)).replace('_', '-')} is of a cluster. Add --engine ray.")
    return Local(plan, precision)


def _subset(words: str) -> Any:
    """A number of samples, or auto."""
    if words != "auto" and not words.isdecimal():
        raise OptionError(f"--subset {words} is no number of samples. Use a number, or auto.")
    return words if words == "auto" else int(words)


def _json(value: Any) -> str:
    from lossnav.surface import jsonable

    return json.dumps(jsonable(value), indent=2, ensure_ascii=False)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"lossnav {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; exits with the code that says how it went."""
    app()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - stderr is for people


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    if issubclass(category, LossnavWarning):
        _say(f"{category.__name__}: {message}")


def _print_result(surface: Any, place: str) -> None:
    """Say what was found and where it is; some points may have failed."""
    _print_table(_summary_words(surface))
    typer.echo(str(place))
    if surface.lossnav.counts["failed"]:
        raise typer.Exit(3)


def _print_table(rows: dict[str, str]) -> None:
    """Print two columns."""
    width = max(len(name) for name in rows)
    for name, value in rows.items():
        typer.echo(f"{name:<{width}}  {value}")


def _estimate_words(found: Any, seeds: int, whole: Any = None) -> dict[str, str]:
    """What a run would cost: of one surface, of several seeds, or of a subset and of all the data at fewer points."""
    points = "as many as it takes" if found.points is None else f"{found.points:,}"
    if seeds > 1:
        points += f" for each of {seeds} seeds"
    if whole is not None:
        points += f", and {whole.points:,} with all the data"
    words = {"points": points, "plan": found.plan}
    if found.plan != "plain":
        words["plan error"] = f"{found.plan_error:.2g} relative, the largest at the probes"
    words["before"] = f"{found.checking_seconds:.1f} s to check the centre and find the range"
    words["planning"] = f"{found.planning_seconds:.1f} s"
    if found.compiling_seconds:
        words["planning"] += f", and {found.compiling_seconds:.1f} s for a kernel that is kept"
    words["a point"] = f"{1e3 * found.seconds_per_point:.3g} ms"
    if whole is not None:
        words["a point"] += f", with all the data {1e3 * whole.seconds_per_point:.3g} ms"
    if found.workers > 1:
        words["workers"] = f"{found.workers:,}"
    if found.points is not None:
        words["all of it"] = _in_hours(seeds * found.seconds + (0.0 if whole is None else whole.seconds))
    memory = found.memory if whole is None else max(found.memory, whole.memory)
    if memory == memory:
        words["memory"] = f"{memory / 1e6:,.0f} MB at its peak, Python and torch included"
    return words


def _in_hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _summary_words(surface: Any) -> dict[str, str]:
    found = surface.lossnav.summary()
    words = {"points": f"{found['points']:,}"}
    words |= {f"  {word}": f"{count:,}" for word, count in found["status"].items() if count and word != "ok"}
    for name, value in found["center"].items():
        words[f"{name} at the centre"] = f"{value:.6g}"
    for name in ("lowest", "highest"):
        if name in found:
            at = ", ".join(f"{dim} = {x:g}" for dim, x in found[name]["at"].items())
            words[f"{name} loss"] = f"{found[name]['loss']:.6g} at {at}"
    outcome = surface.attrs.get("sampler", {}).get("outcome")
    if outcome is not None and "seed" not in surface.dims:
        resolved = outcome["cells"] - outcome["unresolved"]
        words["estimated error"] = (
            f"{float(outcome['estimated_error']):.2g} relative, the largest of {resolved:,} cells; no bound"
        )
        if outcome["unresolved"]:
            off = f"99 % of all cells are within {float(outcome['estimated_error_p99']):.2g}"
            words["unresolved"] = f"{outcome['unresolved']:,} of {outcome['cells']:,} cells; {off}"
        if float(outcome.get("noise", 0)) > 0:
            words["noise"] = f"{float(outcome['noise']):.2g} relative (standard deviation)"
        if outcome["non_finite"]:
            words["beside holes"] = f"{outcome['non_finite']:,} cells"
    if "control_variate" in surface.attrs:
        words["residual error"] = f"{float(surface.attrs['control_variate']['residual_error']):.2g} relative"
    words["seconds"] = f"{found['seconds']:.1f} ({float(found['points_per_second']):.3g} points/s)"
    return words


def _made_words(surface: Any) -> dict[str, str]:
    objective, chart, engine = (surface.attrs[key] for key in ("objective", "chart", "engine"))
    axes = ", ".join(f"{dim}: {size}" for dim, size in surface.sizes.items())
    words = {
        "objective": f"{objective['model']}, {objective['loss']}, {objective['parameters']:,} parameters"
        + (f", {objective['samples']:,} samples" if objective["samples"] else ""),
        "fingerprint": objective["fingerprint"],
        "chart": f"{chart['kind']} ({axes})",
    }
    for dim, recipe in zip(chart["dims"], chart["directions"], strict=True):
        facts = [f"{key} {recipe[key]}" for key in ("normalize", "distribution", "seed") if key in recipe]
        words[f"  {dim}"] = ", ".join([recipe["kind"], *facts, f"norm {recipe['norm']:.5g}"])
    words |= {f"  cosine {pair}": f"{cosine:.2g}" for pair, cosine in chart["cosines"].items()}
    words["BatchNorm"] = objective["bn"]
    words["computed"] = f"{objective['dtype']} on {objective['device']}, {engine['kind']}, plan: {engine['plan']}"
    if "plan_error" in engine:
        words["plan error"] = f"{engine['plan_error']:.2g} relative, the largest at {engine['plan_probes']} probes"
        if differing := {name: n for name, n in engine.get("plan_differing", {}).items() if n}:
            counts = ", ".join(f"{name} {n:,}" for name, n in differing.items())
            words["  rounding"] = f"decides {counts} of {engine['plan_compared']:,} samples at these"
        words["planning"] = f"{engine['plan_seconds']:.1f} s"
    words["created"] = f"{surface.attrs['created']} by lossnav {surface.attrs['lossnav_version']}"
    return words


def _spectrum_words(spectrum: Any) -> dict[str, str]:
    """What a spectrum found: each number with its error, and what it cost."""
    said = spectrum.attrs
    names = {"hessian": "Hessian", "gauss-newton": "Gauss-Newton matrix"}
    entries = f"{said['parameters']:,} parameters"
    if said["excluded"]:
        entries += f", without {len(said['excluded'])} tensors"
    words = {
        "matrix": f"{names[said['operator']]} of {said['objective']['model']}, {entries}",
        "loss": f"{float(said['loss']):.6g}" + (f" ± {float(said['loss_se']):.2g}" if "loss_se" in said else ""),
        "gradient norm": f"{float(said['gradient_norm']):.3g}",
    }
    columns = (spectrum[name].values.tolist() for name in ("end", "eigenvalue", "eigenvalue_error"))
    counts: dict[str, int] = {}
    for end, value, error in zip(*columns, strict=True):
        counts[end] = counts.get(end, 0) + 1
        words[f"{end} {counts[end]}"] = f"{value:.6g}  within {error:.1g}"
    if "trace" in said:
        made = {name: float(said["trace"][name]) for name in ("value", "error")}
        words["trace"] = f"{made['value']:.6g} ± {made['error']:.2g}, by {said['trace']['method']}"
    if "density" in said:
        made = {name: float(said["density"]["mean"][name]) for name in ("value", "error")}
        words["mean eigenvalue"] = f"{made['value']:.4g} ± {made['error']:.2g}"
        words["density"] = (
            f"{said['density']['probes']} probes of {said['density']['steps']} steps, "
            f"width {float(said['density']['width']):.3g}"
        )
    words["cost"] = f"{said['passes']:,} passes over the data, {said['products']:,} products, {said['seconds']:.1f} s"
    return words
