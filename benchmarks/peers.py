"""The peers' own loops over a 3x3 plane, each as a function that evaluates nine points of a workload.

They are looked for where they are installed, or in the folder named by LOSSNAV_PEERS:
``pip install --no-deps --target DIR loss-landscapes==3.0.6 losscape landscaper`` (and ``h5py tqdm``). Each is called
through its own entry; what it prints or draws is kept away. The paper's own code is not on PyPI: its method is
rewritten here in a dozen lines from its description.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import io
import os
import sys
import tempfile
import types
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.workloads import Workload

POINTS = 9


def available(workload: Workload) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Peers that can run this workload, and why the others cannot."""
    if folder := os.environ.get("LOSSNAV_PEERS"):
        sys.path.append(folder)
    found: dict[str, Callable[[], Any]] = {"paper's method (batch 128)": lambda: _paper(workload)}
    missing: dict[str, str] = {}
    for name, make in (
        ("loss-landscapes", _loss_landscapes),
        ("landscaper", _landscaper),
        ("losscape (batch 125)", _losscape),
    ):
        try:
            run = make(workload)
            with _quiet():
                run()
            found[name] = _quietly(run)
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    return found, missing


def _paper(workload: Workload) -> None:
    """Weights built anew on the CPU and written into the model, the data set walked in batches of 128 by a loader."""
    model = copy.deepcopy(workload.model)
    center = [parameter.detach().clone() for parameter in model.parameters()]
    directions = [[torch.randn_like(tensor) * 0.01 for tensor in center] for _ in range(2)]
    loader = DataLoader(TensorDataset(workload.x, workload.y), batch_size=128)
    for alpha in (-1, 0, 1):
        for beta in (-1, 0, 1):
            total = 0.0
            with torch.no_grad():
                for p, c, d, e in zip(model.parameters(), center, *directions, strict=True):
                    p.data = c + alpha * d + beta * e
                for x, y in loader:
                    total += workload.loss(model(x), y).item() * len(x)


def _loss_landscapes(workload: Workload) -> Callable[[], Any]:
    package = importlib.import_module("loss_landscapes")
    metrics = importlib.import_module("loss_landscapes.metrics")
    metric = metrics.Loss(workload.loss, workload.x, workload.y)
    model = copy.deepcopy(workload.model)
    return lambda: package.random_plane(model, metric, distance=1, steps=3, normalization="filter", deepcopy_model=True)


def _landscaper(workload: Workload) -> Callable[[], Any]:
    if "landscaper" not in sys.modules:  # without its topology packages, which the loop does not need
        spec = importlib.util.find_spec("landscaper")
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError("not installed")
        package = types.ModuleType("landscaper")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["landscaper"] = package
    compute = importlib.import_module("landscaper.compute")
    model = copy.deepcopy(workload.model)
    directions = [[torch.randn_like(parameter) for parameter in model.parameters()] for _ in range(2)]

    def scalar(network: torch.nn.Module, data: Any) -> float:
        return workload.loss(network(data[0]), data[1]).item()

    data = (workload.x, workload.y)
    return lambda: compute.compute_loss_landscape(model, data, directions, scalar, steps=3, dim=2, device="cpu")


def _losscape(workload: Workload) -> Callable[[], Any]:
    create = importlib.import_module("losscape.create_landscape")
    model = copy.deepcopy(workload.model)
    size = 125 if len(workload.x) >= 125 else len(workload.x)
    loader = DataLoader(TensorDataset(workload.x, workload.y), batch_size=size)
    folder = tempfile.mkdtemp()

    def run() -> None:
        create.create_3D_losscape(
            model,
            loader,
            criterion=workload.loss,
            num_batches=len(loader),
            save_only=True,
            output_path=folder,
            output_h5=False,
            num_points=3,
        )

    return run


@contextlib.contextmanager
def _quiet() -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _quietly(run: Callable[[], Any]) -> Callable[[], Any]:
    def quiet() -> None:
        with _quiet():
            run()

    return quiet
