"""What grows with the number of points: saving, files, opening, going on with a finished run, drawing; and memory.

Three sizes each, so that what grows faster than the points is seen. A surface of grid shape and one of point shape
(scattered points, as `Adaptive` and `Points` make them) of a function that costs next to nothing: what is timed is
ours.

    python -m benchmarks.growth [--quick] [--json] [--only save,resume,contour,explore,trajectory,ensemble,memory]

Seconds are those of the processor, which others on the machine disturb less, and the least of three where what is timed
can be done again. The explorer's figures are beyond reading the store, recording is beyond a bare write of the same
tensors.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lossnav as ln
from benchmarks.common import Told, machine, options, report

SIZES = {False: (10_000, 30_000, 100_000), True: (1_000, 3_000, 10_000)}
SNAPSHOTS = {False: (1_000, 4_000, 20_000), True: (100, 200, 400)}  # of a small model
SEEDS = {False: (10, 100, 1_000), True: (2, 4, 8)}
MANY = {False: (100_000, 300_000, 1_000_000), True: (1_000, 3_000, 10_000)}  # of `Points`, for the memory


def made(n: int, shape: str) -> Any:
    """A surface of about n points."""
    from lossnav.surface import assemble

    side = round(math.sqrt(n))
    axis = np.linspace(-1, 1, side)
    if shape == "grid":
        points = np.stack([part.reshape(-1) for part in np.meshgrid(axis, axis, indexing="ij")], 1)
    else:
        points = np.random.default_rng(0).uniform(-1, 1, (side * side, 2))
    losses = 1 + (points**2).sum(1) + 0.3 * np.sin(7 * points[:, 0])
    rows = [{"loss": loss, "loss_se": 0.1, "accuracy": 0.5} for loss in losses.tolist()]
    chart = {"kind": "Plane", "dims": ["alpha", "beta"], "directions": [{"kind": "random", "normalize": "filter"}] * 2}
    attributes = {"chart": chart, "objective": {"model": "Bowl", "loss": "cross_entropy", "samples": 100}}
    axes = {"alpha": axis, "beta": axis} if shape == "grid" else None
    return assemble.assemble(["alpha", "beta"], axes, points, rows, [1] * len(rows), attributes)


def problem() -> tuple[Any, Any]:
    """A bowl, and a plane through it."""
    bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    e1, e2 = torch.eye(2)
    return bowl, ln.Plane(bowl.params, {"x": e1}, {"x": e2})


def sampler(n: int, shape: str) -> Any:
    """Of about n points."""
    side = round(math.sqrt(n))
    if shape == "grid":
        return ln.Grid(alpha=(-1, 1, side), beta=(-1, 1, side))
    return ln.Points(np.random.default_rng(0).uniform(-1, 1, (n, 2)))


def processor(step: Callable[[], Any], rounds: int = 1) -> tuple[float, Any]:
    """The least seconds of the processor that a step takes in some rounds, and what it returns."""
    spent = math.inf
    for _ in range(rounds):
        started = time.process_time()
        found = step()
        spent = min(spent, time.process_time() - started)
    return spent, found


def saving(n: int, shape: str, folder: Path) -> dict[str, float]:
    """Save and open a surface."""
    surface, place = made(n, shape), folder / f"{shape}-{n}.zarr"
    found: dict[str, float] = {"save: cpu s": processor(lambda: ln.save(surface, place, overwrite=True), 3)[0]}
    files = [path for path in place.rglob("*") if path.is_file()]
    found |= {"files": len(files), "MB": sum(path.stat().st_size for path in files) / 1e6}
    return found | {"open: cpu s": processor(lambda: ln.open(place), 3)[0]}


def resuming(n: int, shape: str, folder: Path) -> dict[str, float]:
    """Evaluate into a store, open it, and make the same call again."""
    place, asked = folder / f"run-{shape}-{n}.zarr", sampler(n, shape)

    def run() -> None:
        ln.evaluate(*problem(), asked, store=place, check=False, progress=False)

    found = {"run: cpu s": processor(run)[0], "open: cpu s": processor(lambda: ln.open(place), 3)[0]}
    return found | {"finished again: cpu s": processor(run, 3)[0], "files": files_in(place)}


def files_in(place: Path) -> int:
    """How many files there are below a folder."""
    return sum(path.is_file() for path in place.rglob("*"))


def drawing(n: int, shape: str, folder: Path) -> dict[str, float]:
    """Draw contours, to a file."""
    surface = made(n, shape)
    ln.plot.write("contour", made(100, shape), folder / "a.png", overwrite=True)  # loads the libraries
    found = {}
    for kind in ("contour", "heatmap", "surface"):
        draw = partial(ln.plot.write, kind, surface, folder / "a.png", overwrite=True)
        found[f"{kind}: cpu s"] = processor(draw, 3)[0]
    return found


def exploring(n: int, shape: str, folder: Path) -> dict[str, float]:
    """Open a stored surface in the explorer, up to the first frames that a page is sent, and all of them."""
    from lossnav.explorer.stored.session import open_session

    place = folder / f"explored-{shape}-{n}.zarr"
    ln.save(made(n, shape), place, overwrite=True)
    reading, _ = processor(lambda: ln.open(place), 3)
    opening, session = processor(lambda: open_session(place), 3)
    first, frames = processor(lambda: (session.message(0), session.place(0).first_frames())[1], 3)
    rest, _ = processor(session.place(0).frames)
    if frames is None:
        first, rest = first + rest, 0.0
    return {
        "read the store: cpu s": reading,
        "open and show, beyond that: cpu s": opening - reading + first,
        "drawn finely after: cpu s": rest,
    }


def recording(n: int, shape: str, folder: Path) -> dict[str, float]:
    """Record a small model that does not move, find principal components, project."""
    from safetensors.torch import save_file

    from benchmarks.memory import growth

    model = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.ReLU(), torch.nn.Linear(20, 3))
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    spent = bare = 0.0
    generator = torch.Generator().manual_seed(0)
    with ln.Trajectory(model, store=folder / f"{n}.trajectory", overwrite=True) as recorder, torch.no_grad():
        for i in range(n):
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
            spent += processor(lambda: recorder.step(loss=1.0))[0]
            if i % 10 == 0:
                bare += processor(lambda: save_file(state, folder / "bare.safetensors"))[0]
    trajectory = ln.Trajectory.open(folder / f"{n}.trajectory")
    taken: dict[str, float] = {}
    made_of: list[Any] = []
    ln.directions.pca(trajectory[:20])  # loads the libraries
    pca = growth(lambda: taken.update(pca=processor(lambda: made_of.append(ln.directions.pca(trajectory)))[0]))
    plane = ln.Plane(made_of[0].center, *made_of[0])
    grown = growth(lambda: taken.update(project=processor(lambda: ln.project(trajectory, plane))[0]))
    return {
        "record, beyond a bare write: cpu ms": 1e3 * (spent / n - bare / -(-n // 10)),
        "pca: cpu s": taken["pca"],
        "pca: growth MB": pca,
        "project: cpu s": taken["project"],
        "project: growth MB": grown,
    }


def joining(n: int, shape: str, folder: Path) -> dict[str, float]:
    """An ensemble of so many seeds, of lines of 21 points, with a store."""
    from benchmarks.memory import growth

    bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.ones(50)})

    def line(seed: int) -> Any:
        return ln.Line(bowl.params, *ln.directions.random(bowl, n=1, seed=seed, normalize=None))

    place, taken, most = folder / f"band-{n}.zarr", [], [0]
    grid = ln.Grid(alpha=(-1, 1, 21))

    def looking(seed: int) -> Any:
        most[0] = max(most[0], files_in(place.with_suffix(".parts")) if seed % 4 == 0 else 0)
        return line(seed)

    def run() -> None:
        taken.append(processor(lambda: ln.ensemble(bowl, looking, grid, range(n), store=place, progress=False))[0])

    grown = growth(run)
    return {
        "cpu ms a seed": 1e3 * taken[0] / n,
        "growth MB": grown,
        "files while it goes": most[0],
        "files": files_in(place),
    }


def remembering(n: int, shape: str, folder: Path) -> dict[str, float]:
    """The peak of a process that evaluates so many points with a store, in a process of its own."""
    code = (
        "import resource, sys; from benchmarks import growth; import lossnav as ln; from pathlib import Path;"
        "base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        f"asked = growth.sampler({n}, {shape!r});"
        "s = ln.evaluate(*growth.problem(), asked, store=Path(sys.argv[1]), check=False, progress=False);"
        "print(base / 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, len(s['loss'].values.reshape(-1)))"
    )
    started = os.times().children_user + os.times().children_system
    said = subprocess.run(
        [sys.executable, "-c", code, str(folder / f"memory-{shape}-{n}.zarr")],
        capture_output=True,
        text=True,
        check=True,
    )
    base, peak, _ = map(float, said.stdout.split())
    spent = os.times().children_user + os.times().children_system - started
    return {"peak: GB": peak, "of which torch and all: GB": base, "run: cpu s": spent}


STEPS = {"save": saving, "resume": resuming, "contour": drawing} | {
    "explore": exploring,
    "trajectory": recording,
    "ensemble": joining,
    "memory": remembering,
}
SHAPES = {"memory": ("points",), "trajectory": ("small",), "ensemble": ("small",)}  # of others both
COUNTS = {"memory": MANY, "trajectory": SNAPSHOTS, "ensemble": SEEDS}  # of others SIZES


def main() -> None:
    """Measure, and report."""
    chosen = options(__doc__ or "", only=",".join(STEPS))
    result: dict[str, Any] = Told({"machine": machine()})
    with tempfile.TemporaryDirectory() as folder:
        for part in chosen.only.split(","):
            for shape in SHAPES.get(part, ("grid", "points")):
                for n in COUNTS.get(part, SIZES)[chosen.quick]:
                    for name, value in STEPS[part](n, shape, Path(folder)).items():
                        result[f"{part}, {shape}, {n:,}: {name}"] = value
    report(dict(result), chosen.json)


if __name__ == "__main__":
    main()
