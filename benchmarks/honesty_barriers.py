"""Whether intervals of a barrier cover the true maximum, although the same samples select its place.

A draw is a data set, the losses of its samples along a path, and ``ln.barrier``. The truth is the largest rise of the
population's mean loss above the line of its ends. *plain* is how often value ± 1.96 standard errors at the highest
point covers, which does not regard the selection.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

import lossnav as ln

Array = NDArray[np.float64]
Random = np.random.Generator

POINTS = 21
_T = np.linspace(0.0, 1.0, POINTS)
_HILL = 4 * _T * (1 - _T)
_WAVES = np.sin(np.pi * np.outer(np.arange(1, 9), _T))  # zero at both ends


def rows(seed: int, draws: int) -> Iterator[dict[str, Any]]:
    """Coverage of every case: case, benign, draws, covered, warned, honest, plain (fractions)."""
    for name, benign, draw, truth in cases(np.random.default_rng(seed)):
        counts = dict.fromkeys(("covered", "warned", "honest", "plain"), 0)
        for i in range(draws):
            rng = np.random.default_rng([seed, i, zlib.crc32(name.encode())])
            found = ln.barrier(surface_of(draw(rng))).above_line
            covers, warns = bool(found.low <= truth <= found.high), bool(found.warnings)
            plain = abs(found.value - truth) <= 1.96 * found.error
            for key, value in zip(counts, (covers, warns, covers or warns, plain), strict=True):
                counts[key] += value
        yield {"case": name, "benign": benign, "draws": draws} | {key: n / draws for key, n in counts.items()}


Case = tuple[str, bool, Callable[[Random], Array], float]


def cases(rng: Random) -> list[Case]:
    """The cases of a seed: name, whether benign, losses of a draw of shape (samples, points), and the truth."""
    size, height = int(rng.integers(100, 300)), float(rng.uniform(0.2, 2.0))

    def hill(r: Random, n: int = size, h: float = height) -> Array:
        """Every sample has a hill of its own height."""
        return r.exponential(0.4, (n, 1)) + r.gamma(2.0, h / 2, (n, 1)) * _HILL

    def rough(r: Random, n: int = size, h: float = height) -> Array:
        """A flat top, on which samples differ from place to place: the highest point is chance."""
        flat = np.minimum(1.0, 8 * _T * (1 - _T))
        return 1 + h * flat + h * r.normal(0, 1, (n, 8)) @ _WAVES

    def none(r: Random, n: int = size) -> Array:
        """No barrier at all."""
        return 1 + r.normal(0, 1, (n, 8)) @ _WAVES

    def few(r: Random, n: int = size) -> Array:
        """One sample in fifty has the whole barrier."""
        return r.exponential(0.4, (n, 1)) + np.where(r.random((n, 1)) < 0.02, r.exponential(5.0, (n, 1)), 0.0) * _HILL

    return [
        (f"hill of {height:.2f}, n={size}", True, hill, height),
        (f"flat top of {height:.2f}, n={size}", True, rough, height),
        (f"no barrier, n={size}", True, none, 0.0),
        (f"2 % of the samples have it, n={size}", False, few, 0.1),
    ]


def surface_of(losses: Array) -> xr.Dataset:
    """A surface of these losses, of shape (samples, points), through the public call."""
    values = torch.as_tensor(losses)
    objective = ln.Objective.from_function(
        lambda p, row: row @ torch.clamp(1 - (p["t"] * (POINTS - 1) - torch.arange(POINTS)).abs(), min=0).double(),
        {"t": torch.zeros((), dtype=torch.float64)}, values, reduction="none", batch_size=len(values),
    )  # fmt: skip
    line = ln.Line(objective.params, {"t": torch.ones((), dtype=torch.float64)})
    grid, engine = ln.Grid(alpha=(0, 1, POINTS)), ln.Local(plan="plain")
    return ln.evaluate(objective, line, grid, engine=engine, keep_samples=True, check=False, progress=False)
