"""What it takes to record a training and to find its principal components, on ResNet-20 (269,722 parameters).

Asked: components of at least 500 snapshots in less than 1 GB. A ResNet-20 is trained on 2,000 images of CIFAR-10 where
they are (else noise) and every step is recorded. Then recording alone, `directions.pca` and `project` are timed and the
peak of the resident size over each is read, with all snapshots and with every fifth: memory should not follow their
number.

    python -m benchmarks.trajectory [--quick] [--json] [--keep FOLDER]

With ``--keep`` the trajectory stays there, with pictures of it. Linux only: see benchmarks.memory.
"""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import lossnav as ln
from benchmarks import workloads
from benchmarks.common import machine, options, report
from benchmarks.memory import growth


def images(samples: int) -> tuple[Tensor, Tensor]:
    """CIFAR-10's first training images where they are, else noise."""
    parquet = workloads.shared("cifar10/train.parquet")
    if parquet is None:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(samples, 3, 32, 32, generator=generator), torch.arange(samples) % 10
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.ParquetFile(parquet).read_row_group(0).slice(0, samples)
    pixels = [np.asarray(Image.open(io.BytesIO(row["bytes"])).convert("RGB")) for row in table["img"].to_pylist()]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((x - mean) / std).contiguous(), torch.tensor(table["label"].to_pylist())


def train(model: torch.nn.Module, data: tuple[Tensor, Tensor], steps: int, batch: int, store: Path) -> ln.Trajectory:
    """Train by SGD with momentum and weight decay, the rate falling to 0, and record every step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    a_pass = len(data[0]) // batch
    model.train()
    with ln.Trajectory(model, store=store, overwrite=True) as trajectory:
        for i in range(steps):
            if i % a_pass == 0:
                order = torch.randperm(len(data[0]), generator=generator)
            chosen = order[i % a_pass * batch :][:batch]
            loss = F.cross_entropy(model(data[0][chosen]), data[1][chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            trajectory.step(epoch=i // a_pass, loss=loss)
    model.eval()
    return trajectory


def recording(model: torch.nn.Module, store: Path, steps: int) -> dict[str, float]:
    """Record a model that does not move: milliseconds a snapshot, and megabytes by which the process grows."""
    seconds: list[float] = []

    def record(recorder: ln.Trajectory, count: int) -> None:
        for _ in range(count):
            started = time.perf_counter()
            recorder.step()
            seconds.append(time.perf_counter() - started)

    with ln.Trajectory(model, store=store, overwrite=True) as recorder:
        record(recorder, 5)
        few = growth(lambda: record(recorder, max(2, steps // 10)))
        many = growth(lambda: record(recorder, steps))
    return {
        "record: ms a snapshot": 1e3 * statistics.median(seconds),
        "record: growth MB, a tenth of the snapshots": few,
        "record: growth MB": many,
    }


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and megabytes by which the process grows."""
    started = time.perf_counter()
    grown = growth(run)
    return time.perf_counter() - started, grown


def pictures(model: torch.nn.Module, data: tuple[Tensor, Tensor], trajectory: ln.Trajectory, folder: Path) -> None:
    """Draw the run on its principal plane: a surface of 31x31 points, 300 images."""
    objective = ln.Objective(model, F.cross_entropy, tuple(part[:300] for part in data), metrics=["accuracy"])
    plane = ln.Plane(objective.params, *ln.directions.pca(trajectory))
    path = ln.project(trajectory, plane)
    grid = ln.Grid.around({dim: path[dim] for dim in plane.dims}, 31)
    surface = ln.evaluate(objective, plane, grid, store=folder / "run.zarr", overwrite=True)
    path = ln.evaluate_trajectory(objective, plane, trajectory[::5], store=folder / "run.zarr")
    for name, log in (("contour", True), ("heatmap", True), ("surface", True)):
        for suffix in ("png", "html"):
            ln.plot.write(name, surface, folder / f"{name}.{suffix}", trajectory=path, log=log, overwrite=True)


def main() -> None:
    chosen = options(__doc__ or "", keep=True)
    steps, samples, batch, depth = (24, 64, 16, 1) if chosen.quick else (520, 2000, 64, 3)
    torch.manual_seed(0)
    model, data = workloads.ResNet(depth), images(samples)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    result: dict[str, Any] = {"machine": machine(), "parameters": parameters, "model MB": 4 * parameters / 2**20}
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.keep or Path(scratch)
        started = time.perf_counter()
        trajectory = train(model, data, steps, batch, folder / "run.trajectory")
        result["training and recording: s"] = time.perf_counter() - started
        result["snapshots"] = len(trajectory)
        stored = sum(file.stat().st_size for file in trajectory.path.iterdir())
        result["MB a snapshot on disk"] = stored / len(trajectory) / 2**20
        result["all snapshots MB"] = stored / 2**20
        result |= recording(model, Path(scratch) / "still.trajectory", steps)
        ln.project(trajectory[:3], ln.Plane(trajectory[-1], *ln.directions.pca(trajectory[:4])))  # loads the libraries
        found = None
        for words, part in (("a fifth of the snapshots", trajectory[::5]), ("all snapshots", trajectory)):
            seconds, grown = timed(lambda part=part: ln.directions.pca(part))  # type: ignore[misc]
            result |= {f"pca, {words}: s": seconds, f"pca, {words}: growth MB": grown}
            found = ln.directions.pca(part)
            plane = ln.Plane(found.center, *found)
            seconds, grown = timed(lambda part=part, plane=plane: ln.project(part, plane))  # type: ignore[misc]
            result |= {f"project, {words}: s": seconds, f"project, {words}: growth MB": grown}
        assert found is not None
        for i in range(2):
            result[f"component {i + 1} explains"] = float(found.explained[i])
            result[f"component {i + 1} of a random walk"] = float(found.random_walk[i])
        result["norm drift"] = found.norm_drift
        if chosen.keep:
            pictures(model, data, trajectory, folder)
    report(result, chosen.json)


if __name__ == "__main__":
    main()
