"""The seed notebook in one call: training, a line, a curved plane, a filter-normalised plane, pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from lossnav import checkpoints, directions, plots
from lossnav._utils.paths import is_scratch, require_writable
from lossnav.charts import Plane, RescaledBilinear, RescaledLine
from lossnav.errors import OutputExistsError
from lossnav.evaluation.evaluate import evaluate
from lossnav.objective.objective import Objective
from lossnav.plots.page import Section, write_page
from lossnav.reports import Report, report
from lossnav.samplers import Grid
from lossnav.zoo.recipes import recipe

# file stems of what the demo writes
_LINE, _BILINEAR, _PLANE = "line", "bilinear", "plane"

_FILES = {
    "index.html",
    "model.safetensors",
    "line.zarr",
    "bilinear.zarr",
    "plane.zarr",
    "line.png",
    "line-log.png",
    "bilinear-surface.png",
    "bilinear-contour.png",
    "bilinear-surface.html",
    "plane-surface.png",
    "plane-contour.png",
    "plane-heatmap.png",
    "plane-surface.html",
}

Say = Callable[[str], None]


@dataclass
class DemoResult:
    """Result of the demo.

    Attributes
    ----------
    folder : Path
    index : Path
        The page with all pictures.
    accuracy : float
        Held-out, in [0, 1].
    surfaces : dict of str to xarray.Dataset
        ``line``, ``bilinear`` and ``plane``.
    seconds : dict of str to float
        ``train``, ``evaluate``, ``report``, ``draw`` and ``all``.
    """

    folder: Path
    index: Path
    accuracy: float
    surfaces: dict[str, xr.Dataset]
    seconds: dict[str, float]

    def table(self) -> dict[str, str]:
        """The main numbers, as text."""
        losses = [surface["loss"] for surface in self.surfaces.values()]
        points = sum(loss.size for loss in losses)
        center = self.surfaces[_PLANE].lossnav.center
        rate = points / self.seconds["evaluate"]
        summaries = [surface.lossnav.summary() for surface in self.surfaces.values()]
        return {
            "held-out accuracy": f"{self.accuracy:.4f}",
            "loss at the centre": f"{center['loss']:.5g} ± {center['loss_se']:.2g} nat",
            "lowest loss": f"{min(s['lowest']['loss'] for s in summaries):.5g} nat",
            "highest loss": f"{max(s['highest']['loss'] for s in summaries):.5g} nat",
            "points": f"{points:,} in {self.seconds['evaluate']:.1f} s ({rate:.0f} points/s)",
            "seconds in all": f"{self.seconds['all']:.1f} (training {self.seconds['train']:.1f}, "
            f"report {self.seconds['report']:.1f}, pictures {self.seconds['draw']:.1f})",
        }


def demo(
    out: str | os.PathLike[str] = "lossnav-demo",
    *,
    data: str = "digits",
    data_root: str | os.PathLike[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool | None = None,
    say: Say = lambda text: None,
) -> DemoResult:
    """Run the seed notebook, and write pictures, page, checkpoint and surfaces into one folder.

    Parameters
    ----------
    out : path
        Output folder.
    data : "digits" or "mnist"
        scikit-learn's digits, or MNIST, read from `data_root`.
    data_root : path, optional
        A folder with MNIST's IDX files.
    seed : int
        Of the initial weights and of every direction.
    overwrite : bool
        Whether to replace an earlier demo in that folder.
    progress : bool or None
        Bars on stderr (None: on a terminal).
    say : callable
        Called with one line before each step.

    Returns
    -------
    DemoResult

    Raises
    ------
    OutputExistsError, OutputNotWritableError, DataError
    """
    started = time.monotonic()
    folder = _make_folder(out, overwrite)
    chosen = recipe(f"notebook-{data}")

    say(f"loading {data}")
    images = chosen.load_data(data_root)
    say("training a small convolutional network")
    model = chosen.model(seed)
    history = chosen.train(model, images, seed=seed, progress=progress)
    held_out_accuracy = history.accuracy[-1][1]
    metadata = {"recipe": chosen.name, "seed": seed, "held_out_accuracy": held_out_accuracy}
    checkpoints.save(model, folder / "model.safetensors", metadata=metadata, overwrite=overwrite)

    objective = chosen.objective(model, images)
    evaluating = time.monotonic()
    surfaces = {}
    for stem, (title, chart, grid) in _runs(objective, seed).items():
        say(f"evaluating {title}")
        surfaces[stem] = evaluate(
            objective, chart, grid, store=folder / f"{stem}.zarr", overwrite=overwrite, progress=progress
        )
    reporting = time.monotonic()
    say("measuring what the plane does not show")
    plane = report(folder / f"{_PLANE}.zarr", objective=objective, progress=progress)
    drawing = time.monotonic()

    say("drawing")
    _draw(surfaces, folder, overwrite)
    done = time.monotonic()
    seconds = {
        "train": history.seconds,
        "evaluate": reporting - evaluating,
        "report": drawing - reporting,
        "draw": done - drawing,
        "all": done - started,
    }
    result = DemoResult(folder, folder / "index.html", held_out_accuracy, surfaces, seconds)
    _write_index(result, data, {_PLANE: plane})
    seconds["draw"], seconds["all"] = time.monotonic() - drawing, time.monotonic() - started
    return result


def _runs(objective: Objective, seed: int) -> dict[str, tuple[str, Any, Grid]]:
    """The notebook's line and plane with its uniform directions, and the plane of Li et al. that it cites."""
    theta0, _, theta2 = directions.random(
        objective, n=3, normalize=None, distribution="uniform", orthogonal=False, seed=seed
    )
    (along,) = directions.random(objective, normalize=None, distribution="uniform", seed=seed + 1)
    d1, d2 = directions.random(objective, n=2, normalize="filter", seed=seed)
    center = objective.params
    return {
        _LINE: ("a line", RescaledLine(center, along), Grid(alpha=(-2, 2, 41))),
        _BILINEAR: (
            "a curved plane",
            RescaledBilinear(center, theta2, theta0),
            Grid(alpha=(-1, 1, 21), beta=(-1, 1, 21)),
        ),
        _PLANE: (
            "the filter-normalised plane",
            Plane(center, d1, d2),
            Grid(alpha=(-1, 1, 51), beta=(-1, 1, 51)),
        ),
    }


def _draw(surfaces: dict[str, xr.Dataset], folder: Path, overwrite: bool) -> None:
    plots.write("line", surfaces[_LINE], folder / "line.png", overwrite=overwrite)
    plots.write("line", surfaces[_LINE], folder / "line-log.png", log=True, overwrite=overwrite)
    for stem in (_BILINEAR, _PLANE):
        plots.write("surface", surfaces[stem], folder / f"{stem}-surface.png", log=True, overwrite=overwrite)
        plots.write("contour", surfaces[stem], folder / f"{stem}-contour.png", overwrite=overwrite)
    plots.write("heatmap", surfaces[_PLANE], folder / "plane-heatmap.png", log=True, overwrite=overwrite)
    plots.write("surface", surfaces[_BILINEAR], folder / "bilinear-surface.html", log=True, overwrite=overwrite)
    plots.write("surface", surfaces[_PLANE], folder / "plane-surface.html", log=True, overwrite=overwrite)


def _write_index(result: DemoResult, data: str, reports: dict[str, Report]) -> None:
    line, bilinear, plane = (result.surfaces[stem] for stem in (_LINE, _BILINEAR, _PLANE))
    folder = result.folder
    write_page(
        result.index,
        title="Navigating through loss space",
        lead=f"A small convolutional network, trained on {data}, and the loss around it: "
        f"{plane.attrs['objective']['parameters']:,} parameters, measured on held-out images.",
        numbers=result.table(),
        sections=[
            Section(
                "Along a line",
                "From the trained network (α = 0) towards a random point of the same norm (α = 1) and away from it. "
                "The band is one standard error of the mean over the images.",
                [plots.line(line)],
                [folder / "line-log.png"],
            ),
            Section(
                "Over a curved plane",
                "Two random uniform directions, each blended with the weights and scaled back to their norm, "
                "so this plane is bent. Drag to turn, scroll to zoom.",
                [plots.surface(bilinear, log=True)],
                [folder / "bilinear-contour.png"],
            ),
            Section(
                "Over a filter-normalised plane",
                "Two Gaussian directions in which every filter has the norm of the network's own filter, exactly "
                "orthogonal (Li et al. 2018). Biases stay where they are.",
                [plots.surface(plane, log=True)],
                [folder / "plane-contour.png", folder / "plane-heatmap.png"],
            ),
        ],
        surfaces=result.surfaces,
        reports=reports,
    )


def _make_folder(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """Make the folder; refuse one that contains anything except an earlier demo, complete or not."""
    folder = Path(out).expanduser()
    there = {path.name for path in folder.iterdir() if not is_scratch(path.name)} if folder.is_dir() else set()
    if there - _FILES:
        raise OutputExistsError(f"{folder} is not empty and not a demo of lossnav. Choose another folder with --out.")
    if there and not overwrite:
        raise OutputExistsError(f"{folder} is not empty. Choose another folder with --out, or pass --overwrite.")
    require_writable(folder / "index.html", overwrite=True)
    return folder
