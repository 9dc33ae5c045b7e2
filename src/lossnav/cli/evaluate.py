"""The commands evaluate and resume."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lossnav.cli.command import app, reporting, say
from lossnav.cli.options import (
    Address,
    ChartWord,
    CheckpointOption,
    CpusPerWorker,
    DataRoot,
    Device,
    EngineName,
    EvaluationMode,
    GpusPerWorker,
    Json,
    Kinds,
    MissingBuffers,
    Overwrite,
    ParamsOption,
    SamplerWord,
    Seed,
    Through,
    Trust,
    WithSamplers,
    Workers,
    engine_of,
    sampler_of,
    subset_of,
    trusted_by,
)
from lossnav.cli.tables import as_text, estimate_values, estimate_words, place_words, print_result, print_table
from lossnav.errors import OptionError

_GRIDS = {3: 21}  # points along each axis of so many coordinates; of fewer 51


@app.command(cls=WithSamplers)
@reporting
def evaluate(
    spec: Annotated[str, typer.Argument(help="file.py:name, package.module:name or zoo:notebook-digits.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Surface to write: a .zarr folder, or a URL.")] = "run.zarr",
    chart: ChartWord = None,
    kinds: Kinds = None,
    to: Through = None,
    trajectory: Annotated[
        Path | None,
        typer.Option(help="Recorded training run: gives the pca directions, and its path is evaluated too."),
    ] = None,
    normalize: Annotated[
        Literal["filter", "layer", "weight", "none"] | None,
        typer.Option(help="Normalisation of directions. Default: filter; none for rescaled charts."),
    ] = None,
    distribution: Annotated[
        Literal["normal", "uniform"] | None,
        typer.Option(help="Distribution of random directions. Default: normal; uniform for rescaled charts."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            help="Tensors left out: bias, norm or a glob; repeatable. Default for random: bias norm. '': none."
        ),
    ] = None,
    sampler: SamplerWord = "grid",
    grid: Annotated[int | None, typer.Option(help="Points along each axis of a grid. Default: 51; volume: 21.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="For --sampler adaptive: relative error of the loss. Default: 0.01.")
    ] = None,
    max_points: Annotated[
        int | None, typer.Option(help="For --sampler adaptive: maximum number of points. Default: 2000.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Another option of the sampler, name=value; repeatable.")
    ] = None,
    range_: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--range",
            help="Low and high end, the same for every axis: --range -1 1. Default: -1 1; with --to or --trajectory, "
            "around their points.",
        ),
    ] = None,
    auto_range: Annotated[
        bool, typer.Option("--auto-range", help="Choose the ends where the loss is ten times the centre's.")
    ] = False,
    subset: Annotated[str | None, typer.Option(help="Number of random samples of the data, or auto.")] = None,
    control: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="With --subset: points along each axis of a coarse grid on all the data, to correct it.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds of the directions, starting at --seed.")] = 1,
    live: Annotated[bool, typer.Option("--live", help="Draw a map in the terminal while it runs.")] = False,
    checkpoint: CheckpointOption = None,
    missing_buffers: MissingBuffers = "refuse",
    mode: EvaluationMode = None,
    params: ParamsOption = None,
    plan: Annotated[
        Literal["auto", "plain", "tuned"],
        typer.Option(
            help="auto: faster paths chosen by rule and verified; tuned: chosen by timing; plain: the reference path."
        ),
    ] = "auto",
    precision: Annotated[
        Literal["native", "float32", "tf32", "bfloat16", "float64"],
        typer.Option(help="Arithmetic of the model."),
    ] = "native",
    save_directions: Annotated[
        bool, typer.Option("--save-directions", help="Store centre and directions beside the surface.")
    ] = False,
    keep_samples: Annotated[
        bool, typer.Option("--keep-samples", help="Store the loss of every sample at every point.")
    ] = False,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    device: Device = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the estimated plan, time and memory; write nothing.")
    ] = False,
    data_root: DataRoot = None,
    as_json: Json = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Evaluate the loss on a line, plane or volume through weight space and store it while running.

    The same call resumes a stopped run.
    """
    from lossnav._utils.paths import is_url, require_writable
    from lossnav.cli.terminal_map import TerminalMap
    from lossnav.evaluation import views
    from lossnav.evaluation.ensemble import ensemble
    from lossnav.evaluation.estimate import estimate
    from lossnav.evaluation.evaluate import evaluate as run
    from lossnav.evaluation.subset import coarse_grid, evaluate_subset
    from lossnav.samplers import by_word
    from lossnav.specs.objective_of import load_objective
    from lossnav.surface.parts import Parts, finished_correction, finished_ensemble

    per_worker = {"cpus_per_worker": cpus_per_worker, "gpus_per_worker": gpus_per_worker}
    chosen_engine = engine_of(engine, plan, precision, address=address, workers=workers, **per_worker)
    looks: dict[str, Any] = {"kinds": kinds or (), "to": to or (), "trajectory": trajectory}
    looks |= {"normalize": normalize, "distribution": distribution, "missing_buffers": missing_buffers}
    looks |= {} if exclude is None else {"exclude": [word for word in exclude if word]}
    load = partial(
        load_objective,
        spec,
        checkpoint=checkpoint,
        data_root=data_root,
        missing_buffers=missing_buffers,
        params=params,
        device=device,
        mode=mode,
    )
    is_known = sampler in by_word() and views.knows(chart, looks["kinds"])
    registered = None if is_known or spec.startswith("zoo:") else load()  # it may register what the options name
    kind = views.kind_of(chart, looks["kinds"], looks["to"])
    dims = views.dims_of(kind, to or ())
    points = _GRIDS.get(len(dims), 51) if grid is None else grid
    samples: Any = None if subset is None else subset_of(subset)
    if control is not None:
        _require_control(control, points, len(dims), subset, sampler, auto_range, seeds)
    alone = seeds == 1 and control is None
    for_one = {"keep-samples": keep_samples, "save-directions": save_directions, "trajectory": trajectory is not None}
    for option, is_set in for_one.items():
        if is_set and not alone:
            raise OptionError(f"--{option} is for one surface of one seed: leave out --seeds and --control.")
    if seeds > 1 and (to or any(word != "random" for word in kinds or ())):
        raise OptionError("--seeds draws random directions anew for each seed. Leave it out, or --to and --directions.")
    if not dry_run and not (alone and is_url(out)):
        if alone:
            require_writable(out, overwrite=True, kind="surface")  # it goes on from what is there
        else:
            there = finished_correction(out) if seeds == 1 else finished_ensemble(out, range(seed, seed + seeds))
            if there is None:
                Parts(out, overwrite)
    ends_given: Any = "auto" if auto_range else range_
    axes: dict[str, Any] = dict.fromkeys(dims, ends_given or (-1.0, 1.0))
    own: dict[str, Any] = {"--grid": ("points", points if sampler == "grid" else grid)}
    own |= {"--tolerance": ("tolerance", tolerance), "--max-points": ("max_points", max_points)}
    sampler_of(sampler, axes, own, settings or ())  # an invalid option is refused before the model is loaded
    objective = load() if registered is None else registered
    view = views.view_of(objective, kind, seed=seed, **looks)
    objective = view.objective
    if ends_given is None:
        axes = dict(view.ends(points) or axes)
    chosen = sampler_of(sampler, axes, own, settings or ())
    if dry_run:
        part = objective if samples is None else objective.subset(samples, seed)
        found = estimate(part, view.chart, chosen, engine=chosen_engine)
        whole = None
        if control is not None:
            whole = estimate(objective, view.chart, coarse_grid(chosen, control), engine=chosen_engine)
        if as_json:
            typer.echo(as_text(estimate_values(found, seeds, whole)))
        else:
            print_table(estimate_words(found, seeds, whole))
        return
    part = objective if samples is None or control is not None else objective.subset(samples, seed)
    with TerminalMap() if live else contextlib.nullcontext() as drawn:
        options: dict[str, Any] = {"engine": chosen_engine, "progress": not live, "on_update": drawn}
        options |= {"store": out, "overwrite": overwrite}
        if seeds > 1:
            many = range(seed, seed + seeds)
            charts: Any = lambda s: views.view_of(objective, kind, **(looks | {"seed": s})).chart  # noqa: E731
            surface = ensemble(part, charts, chosen, many, **options)
        elif control is not None:
            few: dict[str, Any] = {"subset": samples, "control": control, "seed": seed}
            surface = evaluate_subset(objective, view.chart, chosen, **few, **options)
        else:
            kept: dict[str, Any] = {"save_directions": save_directions, "keep_samples": keep_samples}
            surface = run(part, view.chart, chosen, **kept, **options)
    if view.trajectory is not None:
        from lossnav.evaluation.trajectory import evaluate_trajectory

        say("evaluating the training run on it")
        evaluate_trajectory(part, view.chart, view.trajectory, store=out, overwrite=overwrite, progress=not live)
    print_result(surface, out, as_json, place_words(view.places, dims))


@app.command()
@reporting
def resume(
    surface: Annotated[str, typer.Argument(help="Folder or URL of a stopped or killed run.")],
    spec: Annotated[
        str | None, typer.Option(help="SPEC of its objective, given again; then the command does not ask.")
    ] = None,
    trust: Trust = False,
    live: Annotated[bool, typer.Option("--live", help="Draw a map in the terminal while it runs.")] = False,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    cpus_per_worker: CpusPerWorker = None,
    gpus_per_worker: GpusPerWorker = None,
    as_json: Json = False,
) -> None:
    """Resume a stopped run. Failed points are evaluated again.

    A stored run names code. That code is executed only if you pass --spec or --trust, or confirm.
    """
    from lossnav.cli.terminal_map import TerminalMap
    from lossnav.evaluation.resume import asked_of
    from lossnav.evaluation.resume import resume as run
    from lossnav.surface.zarr_io import open_surface

    per_worker = {"cpus_per_worker": cpus_per_worker, "gpus_per_worker": gpus_per_worker}
    asked = asked_of(open_surface(surface).attrs)
    chosen_engine = engine_of(engine, *asked, address=address, workers=workers, **per_worker)
    with TerminalMap() if live else contextlib.nullcontext() as drawn:
        how: dict[str, Any] = {"spec": spec, "trust": trusted_by(trust), "engine": chosen_engine}
        how |= {"progress": not live, "on_update": drawn}
        print_result(run(surface, **how), surface, as_json)


def _require_control(
    control: int, grid: int, k: int, subset: str | None, sampler: str, auto_range: bool, seeds: int
) -> None:
    """Refuse options that do not fit --control, before anything is computed."""
    from lossnav.evaluation.subset import FEWEST, controls_of

    lacking = ["add --subset auto"] if subset is None else []
    words = {f"--sampler {sampler}": sampler != "grid", "--auto-range": auto_range, "--seeds": seeds > 1}
    lacking += [f"leave out {word}" for word, there in words.items() if there]
    if lacking:
        raise OptionError(f"--control needs a --subset, a grid, a given range and one seed: {' and '.join(lacking)}.")
    fits = controls_of(grid, k)
    if control**k < FEWEST:
        instead = f"--control {fits[0]}" if fits else "--grid 11 --control 6"
        raise OptionError(
            f"--control {control} gives {control**k} points with all the data, but a correction needs {FEWEST}. Use "
            f"{instead}."
        )
    if control not in fits:
        raise OptionError(
            f"--control {control} has points outside --grid {grid}: {grid} - 1 is not a multiple of {control} - 1. "
            f"Use --grid {(grid - 1) // (control - 1) * (control - 1) + control}."
        )
