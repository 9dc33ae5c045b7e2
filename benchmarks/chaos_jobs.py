"""What the parts of the benchmark let lossnav compute, and how they look at what it wrote."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from benchmarks.chaos_commands import Attempt
from benchmarks.chaos_events import POINT

FILE = "job.py"
TEXT = f"from {__name__} import network, valley\n"
LOG, WORN = "CHAOS_LOG", "CHAOS_WORN"  # variables: a file that each point is written to; half of the points raise
_MADE_AT = ("created", "seconds", "points_per_second", "plan_seconds", "plan_compiling_seconds")  # of no matter


def project(folder: Path) -> Path:
    """A folder with a job in it, from which commands are typed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(TEXT)
    return folder


def valley() -> Any:
    """A function of two numbers with a region where it is infinite; each point is an event, and written down."""
    import torch

    import lossnav as ln

    held: list[Any] = [None, False]  # in a list: no part of what the objective is known by

    def f(p: Any) -> Any:
        x = p["x"]
        if held[0] is not None:
            os.write(held[0], f"{float(x[0])!r} {float(x[1])!r}\n".encode())
        sys.audit(POINT)
        if held[1] and x[0] > 0.2:
            raise RuntimeError("worn out")
        value = 1 + (x[0] - 0.3) ** 2 * (1 + x[1] ** 2) + torch.exp(1.5 * x[1])
        return value / 0 if x[0] + x[1] > 1.6 else value

    objective = ln.Objective.from_function(f, {"x": torch.zeros(2, dtype=torch.float64)})
    if LOG in os.environ:  # from here on: an objective is tried as it is made
        held[0] = os.open(os.environ[LOG], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    held[1] = WORN in os.environ
    return objective


def network() -> Any:
    """A small network with per-sample losses; each batch is an event."""
    import torch

    import lossnav as ln

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))

        def forward(self, x: Any) -> Any:
            return self.inner(x)

    model = Net().requires_grad_(False)
    for i, parameter in enumerate(model.parameters()):
        parameter.copy_(torch.linspace(-1, 1 + i, parameter.numel()).reshape(parameter.shape))
    x = torch.linspace(-1, 1, 37).reshape(-1, 1)
    return ln.Objective(model, "mse", (x, x.sin()), batch_size=10)


def points_in(log: Path) -> list[tuple[float, float]]:
    """Weights that were computed at, in order."""
    if not log.exists():
        return []
    lines = log.read_text().split("\n")[:-1]
    return [(float(a), float(b)) for a, b in (line.split() for line in lines)]


# ---------------------------------------------------------------------- what was written


Measured = dict[tuple[float, ...], tuple[Any, ...]]


def measured(store: Path) -> Measured:
    """Points that a store has measured, with the bits of their values; none where there is no store yet."""
    import lossnav as ln
    from lossnav.surface.assemble import rows_of

    if not (store / "zarr.json").exists():
        return {}
    with quiet():
        surface = ln.open(store)
    if "seed" in surface.dims:
        seeds = [surface.lossnav.seed(int(seed)) for seed in surface["seed"]]
        return {(i, *row.point): _bits(row) for i, each in enumerate(seeds) for row in rows_of(each)}
    return {row.point: _bits(row) for row in rows_of(surface) if row.status != 3}


def none_lost(attempt: Attempt, store: Path, before: Measured) -> Measured:
    """Require that a store has what it had measured before, to the bit; return what it has now."""
    import lossnav as ln

    try:
        now = measured(store)
    except ln.errors.StoreError as error:
        attempt.fault("lost", f"the store does not open: {error}")
        now = before
    gone = before.items() - now.items()
    attempt.require(not gone, "lost", f"{len(gone)} of {len(before)} points that were measured")
    return now


def _bits(row: Any) -> tuple[Any, ...]:
    values = ((name, np.float64(value).tobytes()) for name, value in sorted(row.values.items()) if value == value)
    return (row.status, *values)


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """In what two surfaces, or parts of their attributes, differ; how long it took is no part of them."""
    if isinstance(a, xr.Dataset):
        if {*a.variables} != {*b.variables}:
            yield f"variables {sorted(map(str, {*a.variables} ^ {*b.variables}))}"
        for name in {*a.variables} & {*b.variables}:
            one, other = a[name].values, b[name].values
            if one.dtype != other.dtype or one.shape != other.shape:
                yield f"{name} is {one.dtype} {one.shape} and {other.dtype} {other.shape}"
            elif not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
                yield f"{name} at {int((~((one == other) | ((one != one) & (other != other)))).sum())} points"
        yield from differences(a.attrs, b.attrs, "attributes")
    elif isinstance(a, dict) and isinstance(b, dict):
        for key in a.keys() | b.keys():
            if key not in _MADE_AT:
                yield from differences(a.get(key), b.get(key), f"{where}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from differences(one, other, f"{where}[{i}]")
    elif repr(a) != repr(b):
        yield f"{where}: {str(a)[:80]} and {str(b)[:80]}"


def require_same(attempt: Attempt, store: Path, whole: Path) -> None:
    """Count it as wrong where a store is not, bit for bit, what an uninterrupted run wrote."""
    import lossnav as ln

    try:
        found = list(differences(ln.open(store).load(), ln.open(whole).load()))
    except ln.errors.StoreError as error:
        found = [str(error)]
    attempt.require(not found, "wrong", "; ".join(found[:5]))


@contextmanager
def quiet() -> Iterator[None]:
    """Without warnings."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
