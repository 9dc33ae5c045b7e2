"""Reproduction of the main result of Li et al. 2018: planes around a network with and without shortcuts."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import xarray as xr
from torch import nn

from lossnav import checkpoints, directions
from lossnav._utils.paths import is_scratch, require_writable, write_whole
from lossnav._utils.signals import signal_of
from lossnav._version import __version__
from lossnav.charts import Plane
from lossnav.errors import DeviceError, Interrupted, OptionError, OutputExistsError
from lossnav.evaluation.estimate import estimate
from lossnav.evaluation.evaluate import evaluate
from lossnav.objective.modes import resolve_device
from lossnav.objective.objective import Objective
from lossnav.reproductions.li2018 import plan
from lossnav.reproductions.li2018.plan import SCALES, Scale
from lossnav.reproductions.li2018.report import PAGE, PICTURES, REPORT, write_report
from lossnav.samplers import Grid
from lossnav.zoo.data import Data, load_data
from lossnav.zoo.recipes import Recipe, recipe
from lossnav.zoo.training import accuracy

Say = Callable[[str], None]

_RECORD = "run.json"
_TRIED = 8  # batches, to learn what a step takes
_LOOKED_AT = 500  # held-out images, for the accuracy during a training


@dataclass
class Reproduction:
    """Result of a reproduction.

    Attributes
    ----------
    folder, report, page : Path
        The report is Markdown, the page HTML.
    surfaces : dict of str to list of xarray.Dataset
        By the name of the network: the drawn plane, then those of other directions.
    record : dict
        Settings and results as JSON values; ``run.json`` in the folder.
    """

    folder: Path
    report: Path
    page: Path
    surfaces: dict[str, list[xr.Dataset]]
    record: dict[str, Any]

    def table(self) -> dict[str, str]:
        """The main numbers, as text."""
        rows = {}
        for name, planes in self.surfaces.items():
            center, label = planes[0].lossnav.center, planes[0].attrs["objective"]["model"]
            rows[f"{label}: test error"] = f"{self.record['networks'][name]['test_error']:.2%}"
            rows[f"{label}: training loss"] = f"{center['loss']:.4g} ± {center['loss_se']:.2g} nat"
        rows["minutes"] = f"{self.record['seconds'] / 60:.1f}"
        return rows


def reproduce(
    out: str | os.PathLike[str],
    *,
    scale: Literal["small", "full"] = "small",
    data_root: str | os.PathLike[str] | None = None,
    minutes: float | None = None,
    depth: int | None = None,
    passes: int | None = None,
    samples: int | None = None,
    side: int | None = None,
    images: int | None = None,
    device: str | None = None,
    force: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool | None = None,
    say: Say = lambda text: None,
) -> Reproduction:
    """Train a ResNet with shortcuts and one without, evaluate the same plane around both, and write a report.

    Results are stored in the folder: the same call resumes a stopped run, between two passes of a training or at any
    point of a plane. A few steps and points are timed first; the plan that fits the time is printed before it starts,
    and the grid of the planes is chosen again after the training.

    Parameters
    ----------
    out : path
        Output folder; a stopped run in it is resumed.
    scale : "small" or "full"
        ``small``: ResNet-20 in 20 minutes on two cores. ``full``: ResNet-56 as in the paper (300 passes over 50,000
        images, planes of 51x51 on all of them), on a GPU.
    data_root : path, optional
        Location of CIFAR-10; see `cifar10`.
    minutes : float, optional
        Time limit of this call. Default: 20 for small, no limit for full.
    depth, passes, samples : int, optional
        Layers of the networks, passes of the training, number of training images. Default: by scale and time.
    side, images : int, optional
        Points along each side of the plane (at most 11, or 21, 31, 41, 51, ...), and number of training images it is
        measured on. Default: by scale and time.
    device : str, optional
        Default: the CPU for small, a GPU for full.
    force : bool
        Whether full may run without a GPU.
    seed : int
        Of initial weights (the same for both networks), order, augmentation, images and directions.
    overwrite : bool
        Whether to delete an earlier run in that folder.
    progress : bool or None
        Bars on stderr (None: on a terminal).
    say : callable
        Called with one line before each step.

    Returns
    -------
    Reproduction

    Raises
    ------
    OptionError
        If an option has an invalid value, or the time is too short.
    DeviceError
        If full finds no GPU, or the device does not exist.
    OutputExistsError
        If the folder contains something else, or a run with other settings.
    DataError
        If CIFAR-10 cannot be read.
    Interrupted
        After Ctrl-C or SIGTERM; finished parts are stored.

    References
    ----------
    Li, Xu, Taylor, Studer, Goldstein 2018, "Visualizing the Loss Landscape of Neural Nets", arXiv:1712.09913,
    section 6 and figures 1 and 5.
    """
    started = time.monotonic()
    if scale not in SCALES:
        raise OptionError(f"scale must be 'small' or 'full', got {scale!r}.")
    options = {"depth": depth, "passes": passes, "samples": samples, "side": side, "images": images}
    wanted: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    elsewhere: dict[str, Any] = {"minutes": minutes, "device": device}
    elsewhere = {name: value for name, value in elsewhere.items() if value is not None}
    size = replace(SCALES[scale], **wanted, **elsewhere)
    size = replace(size, device=_device(size, scale, force))
    size.require_sensible()
    recipes = [recipe(f"resnet{size.depth}{end}") for end in ("", "-noshort")]
    place = resolve_device(size.device, nn.Identity())
    asked = {"paper": "li2018", "scale": scale, "device": place.type, "seed": seed, **wanted, "depth": size.depth}
    folder = Path(out).expanduser()
    record = _open_folder(folder, asked, overwrite)
    run = _Reproduction(folder, record, size, recipes, place, seed, started, progress, say)
    try:
        return run.all(data_root)
    except KeyboardInterrupt as error:
        words = f"Stopped. What was done is kept in {folder}; the same call goes on from there."
        raise Interrupted(words, getattr(error, "partial", None), signal_of(error)) from error


def _device(size: Scale, scale: str, force: bool) -> str:
    """Choose the device; the full scale refuses a CPU unless forced."""
    if scale != "full" or (torch.cuda.is_available() and size.device != "cpu"):
        return size.device
    if not force:
        raise DeviceError(
            "The full scale (two networks of 56 layers, 300 passes each) needs a GPU, and there is none. Use --scale "
            "small, or add --force to run on the CPU, which takes weeks."
        )
    return "cpu"


def _open_folder(folder: Path, asked: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """Make the folder, or read from it the record of the run to resume."""
    there = {path.name for path in folder.iterdir() if not is_scratch(path.name)} if folder.is_dir() else set()
    before = _read_record(folder)
    if there and before is None:
        raise OutputExistsError(f"{folder} is not empty and is not such a run. Choose another folder.")
    if before is not None and not overwrite:
        kept = before["asked"]
        differing = [key for key in {**asked, **kept} if asked.get(key) != kept.get(key)]
        if differing:
            said = ", ".join(f"{key}={kept.get(key)} where {asked.get(key)} is asked" for key in differing)
            raise OutputExistsError(
                f"{folder} contains another run: {said}. Choose another folder, or pass --overwrite."
            )
        return before
    require_writable(folder / _RECORD, overwrite=True)
    for path in folder.iterdir():
        if path.name.startswith("resnet") or path.name in (_RECORD, REPORT, PAGE, *PICTURES.values()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {"asked": asked, "networks": {}, "seconds": 0.0}


def _read_record(folder: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads((folder / _RECORD).read_text())
        return record if record["asked"]["paper"] == "li2018" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass
class _Reproduction:
    """One call: the record in the folder, and the steps that complete it."""

    folder: Path
    record: dict[str, Any]
    size: Scale
    recipes: list[Recipe]
    device: torch.device
    seed: int
    started: float
    progress: bool | None
    say: Say

    def __post_init__(self) -> None:
        self._before = float(self.record["seconds"])  # of earlier calls
        cuda = self.device.type == "cuda"
        self.record["machine"] = {
            "device": torch.cuda.get_device_name(self.device) if cuda else platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "lossnav": __version__,
            "torch": torch.__version__,
        }

    @property
    def elapsed(self) -> float:
        """Seconds since this call began."""
        return time.monotonic() - self.started

    @property
    def left(self) -> float:
        """Seconds that training and planes may still take."""
        return math.inf if self.size.minutes is None else 60 * self.size.minutes - self.elapsed - plan.ENDING

    def save(self) -> None:
        """Write the record completely or not at all."""
        self.record["seconds"] = round(self._before + self.elapsed, 1)
        write_whole(self.folder / _RECORD, json.dumps(self.record, indent=2))

    def all(self, data_root: str | os.PathLike[str] | None) -> Reproduction:
        """Do the remaining steps."""
        self.save()
        self.say("loading CIFAR-10")
        images = load_data("cifar10", data_root)
        self.record["lossy"], self.record["training_images"] = images.lossy, len(images.train[0])
        self._plan(images)
        data = self.recipes[0].prepare(images.first(self.record["samples"]))
        del images
        models = {each.name: self._trained(each, data) for each in self.recipes}
        objectives = {each.name: self._objective(each, models[each.name], data) for each in self.recipes}
        if "side" not in self.record:
            self._settle_planes(next(iter(objectives.values())))
        surfaces = {name: self._planes(name, objective) for name, objective in objectives.items()}
        self.say("drawing")
        self.save()
        report, page = write_report(self.folder, self.record, surfaces)
        self.save()
        return Reproduction(self.folder, report, page, surfaces, self.record)

    # ------------------------------------------------------------------ planning

    def _plan(self, images: Data) -> None:
        """Plan the run from the durations of a few steps and points, and print the plan."""
        if "passes" in self.record:
            return
        self.say("timing a few steps and points")
        available = len(images.train[0])
        few = self.recipes[0].prepare(images.first(min(available, _TRIED * plan.BATCH)))
        step, point, planning = 0.0, 0.0, 0.0
        for each in self.recipes:
            model = each.model(self.seed, self.device)
            for part in (few.first(min(plan.BATCH, len(few.train[0]))), few):  # the first step also fills caches
                history = each.train(model, part, passes=1, held_out=1, seed=self.seed, progress=False)
            step += history.seconds / plan.batches_of(len(few.train[0]))
            objective = each.measure(model, tuple(part[: plan.IMAGES] for part in few.train))
            found, once = self._time_a_point(objective)
            point, planning = max(point, found), max(planning, once)
        limit = self.size.minutes
        if limit is not None and self.left <= 0:
            least = math.ceil((self.elapsed + plan.ENDING) / 30)
            raise OptionError(f"minutes={limit:g} is too short for loading, timing and drawing. Use {least} or more.")
        passes, samples = plan.training_that_fits(self.size, plan.TRAINING * self.left / step, available)
        training = passes * plan.batches_of(samples) * step
        for_planes = min(plan.PLANES * self.left, plan.LATER * (self.left - training)) if limit else math.inf
        side, drawn = plan.planes_that_fit(self.size, for_planes - plan.planes() * planning, point, samples)
        planes = plan.points(side) * drawn * point + plan.planes() * planning
        self.record |= {"passes": passes, "samples": samples, "seconds_a_step": step / 2, "seconds_an_image": point}
        self.save()
        whole = self.elapsed + training + planes + plan.ENDING
        words = f" of {limit:g}" if limit else ""
        if limit and whole > 60 * limit:
            words += ": longer than asked, but less would show nothing"
        coarse = min(side, plan.COARSE)
        self.say(
            f"plan: two networks, {passes} passes over {samples:,} images each ({step / 2:.3g} s a step): "
            f"{plan.in_minutes(training)}; then 2 planes of {side}x{side} and {2 * len(plan.OTHER_SEEDS)} of "
            f"{coarse}x{coarse} points on {drawn:,} images ({drawn * point:.3g} s a point): "
            f"{plan.in_minutes(planes)}; in all about {plan.in_minutes(whole)}{words}"
        )

    def _time_a_point(self, objective: Objective) -> tuple[float, float]:
        """Seconds per image and point, and seconds of planning an evaluation."""
        found = estimate(objective, self._chart(objective, self.seed), Grid(alpha=(-1, 1, 51), beta=(-1, 1, 51)))
        assert objective.samples is not None
        return found.seconds_per_point / objective.samples, found.checking_seconds + found.planning_seconds

    def _settle_planes(self, objective: Objective) -> None:
        """Choose the planes for the remaining time, since trainings may have taken longer than planned."""
        samples = self.record["samples"]
        point, planning = self._time_a_point(objective.subset(min(plan.IMAGES, samples), self.seed))
        seconds = plan.LATER * self.left - plan.planes() * planning
        side, images = plan.planes_that_fit(self.size, seconds, point, samples)
        self.record |= {"side": side, "images": images}
        self.save()
        seconds = plan.points(side) * images * point + plan.planes() * planning
        self.say(f"planes of {side}x{side} points on {images:,} images: about {plan.in_minutes(seconds)}")

    # ------------------------------------------------------------------ doing

    def _trained(self, each: Recipe, data: Data) -> nn.Module:
        """The trained network: from its checkpoint, or after completing its training."""
        known = self.record["networks"].setdefault(each.name, {})
        model = each.model(self.seed, self.device)
        checkpoint, unfinished = (self.folder / f"{each.name}{end}.safetensors" for end in ("", ".training"))
        if "test_error" in known and checkpoint.is_file():
            checkpoints.load_into(model, checkpoint)
            return model
        self.say(f"training {each.label}")
        history = each.train(
            model,
            data,
            passes=self.record["passes"],
            held_out=_LOOKED_AT,
            seed=self.seed,
            keep=unfinished,
            progress=self.progress,
        )
        error = 1 - accuracy(model, data)
        known |= {"test_error": error, "test_images": len(data.test[0]), "training_loss": history.loss}
        known |= {"lr": each.training["lr"], "training_seconds": round(history.seconds, 1)}
        metadata = {"recipe": each.name, "seed": self.seed, "passes": self.record["passes"], "test_error": error}
        checkpoints.save(model, checkpoint, overwrite=True, metadata=metadata)
        self.save()
        unfinished.unlink(missing_ok=True)
        self.say(f"{each.label}: test error {error:.2%}, training loss {history.loss[-1]:.3g}")
        return model

    def _objective(self, each: Recipe, model: nn.Module, data: Data) -> Objective:
        """Cross-entropy and accuracy on the training images of the network, without augmentation."""
        return each.measure(model, data.train)

    def _planes(self, name: str, objective: Objective) -> list[xr.Dataset]:
        """The drawn plane, and those of other directions on a coarser grid."""
        side, images = self.record["side"], self.record["images"]
        part = objective if images == self.record["samples"] else objective.subset(images, self.seed)
        made = []
        for shift in (0, *plan.OTHER_SEEDS):
            seed, n = self.seed + shift, min(side, plan.COARSE) if shift else side
            self.say(f"evaluating {n}x{n} points around {objective.name}, directions of seed {seed}")
            grid = Grid(alpha=(-1, 1, n), beta=(-1, 1, n))
            stem = f"{name}-seed{seed}" if shift else name
            chart = self._chart(part, seed)
            made.append(evaluate(part, chart, grid, store=self.folder / f"{stem}.zarr", progress=self.progress))
        return made

    @staticmethod
    def _chart(objective: Objective, seed: int) -> Plane:
        return Plane(objective.params, *directions.random(objective, n=2, normalize="filter", seed=seed))
