"""Do intervals of a loss over samples cover, or does the report warn? Through the public call alone.

A draw is a data set of a known kind: an objective on it, a surface of two points, its report, and the interval at the
centre (for differences: between the two points). *Covered*: the truth of the kind lies in ``ln.interval`` or
``ln.difference``. *Warned*: the report's line ``intervals`` is a warning, or the interval has warnings itself. *plain*
is how often value ± 1.96 standard errors covers; a case is benign where that is 93 % or more.

Sizes and shapes of every case are drawn from the seed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn

import lossnav as ln

Array = NDArray[np.float64]
Random = np.random.Generator

_POINTS = ln.Points([[0.0], [1.0]], dims=("alpha",))


@dataclass(frozen=True)
class Case:
    """A kind of data: how a draw is made, and its truth.

    Attributes
    ----------
    name : str
    benign : bool
        Whether value ± 1.96 standard errors covers in 93 % or more.
    draw : callable
        From a generator to a surface and the truth at its centre.
    of_difference : bool
        Whether the truth is that of the loss at alpha = 1 minus the loss at alpha = 0.
    """

    name: str
    benign: bool
    draw: Callable[[Random], tuple[xr.Dataset, float]]
    of_difference: bool = False


def rows(seed: int, draws: int) -> Iterator[dict[str, Any]]:
    """Coverage of every case: case, benign, draws, covered, warned, honest, plain (fractions)."""
    for case in cases(np.random.default_rng(seed)):
        covered = warned = honest = plain = 0
        for i in range(draws):
            # a case is the same whichever others there are
            rng = np.random.default_rng([seed, i, zlib.crc32(case.name.encode())])
            surface, truth = case.draw(rng)
            found = ln.difference(surface, [1.0], [0.0]) if case.of_difference else ln.interval(surface, [0.0])
            covers = bool(found.low <= truth <= found.high)
            warns = bool(found.warnings)
            warns |= not case.of_difference and ln.report(surface)["intervals"].level == "warning"
            covered, warned, honest = covered + covers, warned + warns, honest + (covers or warns)
            plain += abs(found.value - truth) <= 1.96 * found.error
        shares = {"covered": covered, "warned": warned, "honest": honest, "plain": plain}
        said = {"case": case.name, "benign": case.benign, "draws": draws}
        yield said | {name: count / draws for name, count in shares.items()}


def cases(rng: Random) -> list[Case]:
    """The cases of a seed."""
    real = rng.uniform
    made: list[Case] = []

    def n(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    def bare(name: str, benign: bool, draw: Callable[..., Any], truth: float) -> None:
        made.append(Case(name, benign, lambda r: (surface_of(draw(r)), truth)))

    size, spread = n(20, 400), real(0.1, 1)
    bare(f"normal, n={size}", True, lambda r, n=size, s=spread: r.normal(1, s, n), 1.0)
    size = n(20, 400)
    bare(f"uniform, n={size}", True, lambda r, n=size: r.random(n), 0.5)
    size, scale = n(150, 500), real(0.1, 10)
    bare(f"exponential, n={size}", True, lambda r, n=size, s=scale: r.exponential(s, n), scale)
    size, p = n(100, 400), real(0.15, 0.85)
    bare(f"errors, p={p:.2f}, n={size}", True, lambda r, n=size, p=p: (r.random(n) < p) * 1.0, p)
    size, sigma = n(120, 400), real(0.2, 0.5)
    bare(
        f"lognormal, sigma={sigma:.2f}, n={size}",
        True,
        lambda r, n=size, s=sigma: r.lognormal(0, s, n),
        float(np.exp(sigma**2 / 2)),
    )
    size = n(100, 400)
    bare(f"normal, sorted, n={size}", True, lambda r, n=size: np.sort(r.normal(1, 0.3, n)), 1.0)

    size = n(350, 700)
    bare(
        f"1 % lose 100, n={size}",
        False,
        lambda r, n=size: np.where(r.random(n) < 0.01, 100.0, r.exponential(0.3, n)),
        0.99 * 0.3 + 1.0,
    )
    for sigma, low in ((real(1.4, 1.6), 60), (2.0, 60)):
        size = n(low, 400)
        bare(
            f"lognormal, sigma={sigma:.2f}, n={size}",
            False,
            lambda r, n=size, s=sigma: r.lognormal(0, s, n),
            float(np.exp(sigma**2 / 2)),
        )
    size, alpha = n(100, 400), real(1.5, 2.2)
    bare(
        f"Pareto, alpha={alpha:.2f}, n={size}",
        False,
        lambda r, n=size, a=alpha: r.pareto(a, n) + 1,
        alpha / (alpha - 1),
    )
    size, times = n(10, 40), n(8, 12)
    bare(
        f"{times} copies of {size} samples, in turn",
        False,
        lambda r, n=size, t=times: np.tile(r.normal(1, 0.3, n), t),
        1.0,
    )
    bare("10 copies of 10 samples, shuffled", False, lambda r: r.permutation(np.repeat(r.normal(1, 0.3, 10), 10)), 1.0)
    size = n(5, 14)
    bare(f"exponential, n={size}", False, lambda r, n=size: r.exponential(1, n), 1.0)
    size = n(15, 25)
    bare(f"exponential, n={size}", False, lambda r, n=size: r.exponential(1, n), 1.0)
    size = n(5, 14)
    bare(f"normal, n={size}", False, lambda r, n=size: r.normal(1, 0.3, n), 1.0)
    size, p = n(60, 150), real(0.01, 0.04)
    bare(f"errors, p={p:.3f}, n={size}", False, lambda r, n=size, p=p: (r.random(n) < p) * 1.0, p)
    bare("nearly constant", False, lambda r: (1 + 1e-9 * r.normal(size=100)).astype(np.float32), 1.0)
    groups, each, like = n(30, 50), n(15, 25), real(0.3, 0.6)
    bare(
        f"{groups} batches of {each}, alike by {like:.2f}",
        False,
        lambda r, g=groups, e=each, c=like: (
            1 + np.repeat(r.normal(0, c**0.5, g), e) + r.normal(0, (1 - c) ** 0.5, g * e)
        ),
        1.0,
    )

    def part(name: str, benign: bool, population: Callable[..., Any], count: int) -> None:
        def draw(r: Random) -> tuple[xr.Dataset, float]:
            values = population(r)
            return surface_of(values, subset=count, seed=int(r.integers(2**31))), float(values.mean())

        made.append(Case(name, benign, draw))

    size = n(60, 150)
    part(f"{size} drawn of 3,000, normal", True, lambda r: r.normal(1, 0.3, 3000), size)
    part(
        "100 drawn of 3,000, of which 1 % lose 100",
        False,
        lambda r: np.where(r.permutation(3000) < 30, 100.0, r.exponential(0.3, 3000)),
        100,
    )
    size, loss = n(40, 90), real(5, 20)
    part(
        f"{size} drawn of 3,000, of which a class of 0.7 % loses {loss:.1f}",
        False,
        lambda r, a=loss: np.where(r.permutation(3000) < 21, a, r.uniform(0.2, 0.4, 3000)),
        size,
    )

    def weighted(name: str, benign: bool, shares: list[float], weights: list[float], count: int) -> None:
        truth = _weighted_truth(shares, weights)
        made.append(Case(name, benign, lambda r: (classifier(r, shares, weights, count), truth)))

    size = n(200, 400)
    weighted(f"cross-entropy, no weights, n={size}", True, [0.4, 0.3, 0.3], [1.0, 1.0, 1.0], size)
    weighted("class weights .1/1/10, rare classes, n=100", False, [0.8, 0.17, 0.03], [0.1, 1.0, 10.0], 100)
    rare = real(0.01, 0.05)
    size = n(80, 250)
    shares = [0.9 - rare, 0.1, rare]
    weighted(f"class weights .1/1/10, a class of {rare:.1%}, n={size}", False, shares, [0.1, 1.0, 10.0], size)

    def contrast(name: str, benign: bool, draw: Callable[..., Any], truth: float) -> None:
        made.append(Case(name, benign, lambda r: (surface_of(draw(r), keep_samples=True), truth), of_difference=True))

    size = n(60, 300)
    contrast(f"difference, normal, n={size}", True, lambda r, n=size: r.normal(1, 0.3, n), 1.0)
    size = n(100, 300)
    contrast(f"difference, lognormal, n={size}", False, lambda r, n=size: r.lognormal(0, 1.8, n), float(np.exp(1.62)))
    contrast("difference, 10 copies of 20", False, lambda r: np.tile(r.normal(1, 0.3, 20), 10), 1.0)
    return made


# ---------------------------------------------------------------------- surfaces


def surface_of(losses: Any, *, subset: int | None = None, seed: int = 0, keep_samples: bool = False) -> xr.Dataset:
    """A surface whose i-th sample loses b_i (1 + x²) at x, so that b_i is also how much it rises from 0 to 1."""
    values = torch.as_tensor(np.asarray(losses))
    objective = ln.Objective.from_function(
        lambda p, b: b * (1 + p["x"] ** 2),
        {"x": torch.zeros(1, dtype=values.dtype)},
        values,
        reduction="none",
        batch_size=len(values),
    )
    if subset is not None:
        objective = objective.subset(subset, seed=seed)
    return _evaluated(objective, {"x": torch.ones(1, dtype=values.dtype)}, keep_samples)


def classifier(rng: Random, shares: list[float], weights: list[float], n: int) -> xr.Dataset:
    """A surface of a network with class weights on n samples of three classes."""
    x, y = _classes(rng, shares, n)
    model = nn.Linear(3, 3, bias=False).requires_grad_(False)
    model.weight.copy_(torch.eye(3))
    loss = nn.CrossEntropyLoss(weight=torch.tensor(weights))
    data = (torch.from_numpy(x).float(), torch.from_numpy(y))
    objective = ln.Objective(model, loss, data, batch_size=n)
    return _evaluated(objective, {"weight": torch.eye(3)}, False)


def _evaluated(objective: ln.Objective, direction: dict[str, torch.Tensor], keep_samples: bool) -> xr.Dataset:
    chart, engine = ln.Line(objective.params, direction), ln.Local(plan="plain")
    return ln.evaluate(objective, chart, _POINTS, engine=engine, keep_samples=keep_samples, progress=False)


def _classes(rng: Random, shares: list[float], n: int) -> tuple[Array, NDArray[np.int64]]:
    """Logits and classes; the rarer a class, the worse it is known."""
    y = rng.choice(3, n, p=shares)
    return rng.normal(size=(n, 3)) + np.eye(3)[y] * np.array([2.0, 1.0, 0.0])[y][:, None], y


def _weighted_truth(shares: list[float], weights: list[float]) -> float:
    """The loss over the whole population, of 400,000 samples a class."""
    rng, numerator, denominator = np.random.default_rng(0), 0.0, 0.0
    for label, (share, weight) in enumerate(zip(shares, weights, strict=True)):
        logits, _ = _classes(rng, [float(label == other) for other in range(3)], 400_000)
        losses = np.log(np.exp(logits).sum(1)) - logits[:, label]
        numerator, denominator = numerator + share * weight * losses.mean(), denominator + share * weight
    return numerator / denominator
