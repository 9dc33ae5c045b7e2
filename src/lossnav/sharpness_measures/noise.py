"""The average case: what the loss rises by under random noise in the weights, and how much noise it bears."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lossnav._utils.lazy_import import lazily
from lossnav.directions.normalize import Normalization
from lossnav.sharpness_measures.crossing import crossing, require_crossing, rise_settings, rise_words, target_rise
from lossnav.sharpness_measures.neighborhood import Neighborhood, Stopped
from lossnav.sharpness_measures.options import require_count, require_normalization, require_positive
from lossnav.sharpness_measures.registry import RANDOM, register
from lossnav.sharpness_measures.result import Bounds, KindResult
from lossnav.sharpness_measures.scaling import INVARIANCES, scales

if TYPE_CHECKING:
    from scipy import special
else:
    special = lazily("scipy.special")

_NOISES: dict[Normalization, str] = {
    None: "N(0, sigma^2)",
    "weight": "N(0, sigma^2 theta_i^2)",
    "filter": "N(0, sigma^2 |f|^2 / n) for the n entries of a filter f (of a vector: N(0, sigma^2 theta_i^2))",
    "layer": "N(0, sigma^2 |W|^2 / n) for the n entries of a tensor W",
}
_BY_SLOPE = (
    "the error is the standard error of the mean loss over its slope by sigma, the interval that of the mean at 95 %"
)
_NO_SKEW = 1e-6
_STRIDE = 0.1  # of sigma, on both sides: between them the slope of the mean rise is taken


@register(
    "average",
    formula="E L(θ+e) − L(θ), e normal noise of size σT",
    source="Neyshabur et al. 2017, section 2.4",
    invariant_under="as T",
    uncertainty="standard error; 95 % interval by Student's t, less skewness",
    exclude=RANDOM,
)
def average(
    ground: Neighborhood,
    seed: int,
    *,
    sigma: float = 0.05,
    normalize: Normalization = "filter",
    draws: int = 20,
    antithetic: bool = True,
) -> KindResult:
    """Find the mean rise of the loss under normal noise: E L(theta + e) - L(theta).

    Parameters
    ----------
    sigma : float
        Of the noise; in units of weights with ``normalize=None``, else in parts of the weights' own size.
    normalize : "filter", "weight", "layer" or None
        What noise is measured by. With "filter" and sigma = 1 it is as long as each filter, in the mean of squares.
    draws : int
    antithetic : bool
        Whether each draw is taken with both signs, at two evaluations: the part of the rise that is odd, as the
        gradient's is, cancels. Where there is none (at an exact minimum) single draws are as good at half the price.

    References
    ----------
    Neyshabur et al. 2017, "Exploring Generalization in Deep Learning", section 2.4 (the expected sharpness of
    PAC-Bayes bounds). Filters as in Li et al. 2018, section 4.
    """
    require_positive("sigma", sigma)
    require_normalization(normalize)
    require_count("draws", draws)
    rises: list[float] = []
    with suppress(Stopped):
        for rise in _rises(ground, sigma * scales(ground, normalize, shared=True), draws, antithetic, seed):
            rises.append(rise)  # noqa: PERF402 - what came before it was stopped is kept
    return KindResult(
        *mean_of(rises),
        f"E L(theta + e) - L(theta), e from {_NOISES[normalize]}, sigma = {sigma:g}; {len(rises)} draws"
        + (", each with both signs" if antithetic else ""),
        "Neyshabur et al. 2017, section 2.4" + ("; filters as in Li et al. 2018" if normalize == "filter" else ""),
        INVARIANCES[normalize],
        tuple(rises),
        {"sigma": sigma, "normalize": normalize, "draws": draws, "antithetic": antithetic},
    )


@register(
    "magnitude",
    formula="σ at which the mean loss under normal noise of size σT is `rise` times the centre's (or `rise_by` "
    "above it); large is flat",
    source="Jiang et al. 2020",
    invariant_under="as T",
    uncertainty="standard error over slope; 95 % interval",
    exclude=RANDOM,
)
def magnitude(
    ground: Neighborhood,
    seed: int,
    *,
    rise: float = 2.0,
    rise_by: float | None = None,
    normalize: Normalization = "filter",
    draws: int = 20,
    limit: float = 16.0,
    tolerance: float = 1e-3,
) -> KindResult:
    """Find how much normal noise the weights bear: the sigma at which the mean loss has risen so far.

    The same draws, with both signs, serve every sigma. Large is flat.

    Parameters
    ----------
    rise : float
        The mean loss has risen where it is this multiple of the centre's.
    rise_by : float, optional
        Or where it is so much above the centre's, in units of the loss.
    normalize, draws
        As of `average`.
    limit : float
        No larger sigma is tried.
    tolerance : float
        Of sigma, relative.

    References
    ----------
    Jiang et al. 2020, "Fantastic Generalization Measures and Where to Find Them", section 7 and appendix C (their
    measure is 1 / sigma^2). Departure: the rise is of the loss, not of the error.
    """
    require_normalization(normalize)
    require_count("draws", draws)
    require_crossing(limit, tolerance)
    target = target_rise(ground.center, rise, rise_by)
    scale = scales(ground, normalize, shared=True)
    found: dict[float, list[float]] = {}

    def mean_rise(sigma: float) -> float:
        if sigma not in found:
            found[sigma] = list(_rises(ground, sigma * scale, draws, True, seed))
        return sum(found[sigma]) / draws

    value, error, interval = math.nan, math.nan, (0.0, math.inf)
    said = "stopped before it was found"
    with suppress(Stopped):
        crossed = crossing(lambda sigma: 1 + mean_rise(sigma) / target, limit, tolerance)
        if crossed is None:
            value, interval, said = limit, (limit, math.inf), "a lower bound: within the limit it does not rise so far"
        else:
            value, said = crossed, "stopped before the error was known"
            ahead, behind, _ = (mean_rise(crossed * (1 + part)) for part in (_STRIDE, -_STRIDE, 0.0))
            slope = (ahead - behind) / (2 * _STRIDE * crossed)
            mean, spread, (low, high), _ = mean_of(found[crossed])
            error = spread / slope if slope > 0 else math.nan
            if math.isfinite(error):
                interval = (max(0.0, value - (high - mean) / slope), value + (mean - low) / slope)
                said = _BY_SLOPE
            else:
                said = "the error is not known: the mean loss does not rise here, or is not finite beside it"
    return KindResult(
        value,
        error,
        interval,
        said,
        f"sigma at which E L(theta + e) is {rise_words(rise, rise_by)}, e from {_NOISES[normalize]}; {draws} draws, "
        "each with both signs",
        "Jiang et al. 2020, of the loss instead of the error"
        + ("; filters as in Li et al. 2018" if normalize == "filter" else ""),
        INVARIANCES[normalize],
        (),
        {"normalize": normalize, "draws": draws} | rise_settings(rise, rise_by, limit, tolerance),
    )


def mean_of(found: Sequence[float]) -> tuple[float, float, Bounds, str]:
    """Mean, standard error, 95 % interval, and these in words.

    Where few directions bend much more than all others, rises are skewed as squares are, and of 20 draws Student's t
    holds the truth at 89 %. Hall's transformation takes the skewness out (94 %).

    References
    ----------
    Hall 1992, "On the removal of skewness by transformation", section 2 (the cubic one).
    """
    if not found:
        return math.nan, math.nan, (-math.inf, math.inf), "stopped before the first sample"
    numbers = np.array(found)
    lost = int((~np.isfinite(numbers)).sum())
    if lost:
        return float(numbers.sum()), math.nan, (-math.inf, math.inf), f"{lost} of {len(numbers)} samples are not finite"
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return mean, math.nan, (-math.inf, math.inf), "of one sample nothing is known of the error"
    error = float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    n, reach = len(numbers), float(special.stdtrit(len(numbers) - 1, 0.975))
    a = (
        float(((numbers - mean) ** 3).mean()) / (error * math.sqrt(n)) ** 3 / 3 if error else 0.0
    )  # a third of the skewness

    def untransformed(x: float) -> float:
        """T with T + a T^2 + a^2 T^3 / 3 + a / (2 n) = x."""
        y = x - a / (2 * n)
        return (float(np.cbrt(1 + 3 * a * y)) - 1) / a if abs(a) > _NO_SKEW else y

    low, high = (mean - untransformed(x / math.sqrt(n)) * error * math.sqrt(n) for x in (reach, -reach))
    said = f"the error is the standard error of {n} samples, the interval that of Student's t at 95 %, less skewness"
    return mean, error, (low, high), said


def _rises(ground: Neighborhood, spread: Tensor, draws: int, antithetic: bool, seed: int) -> Iterator[float]:
    """What the loss rises by at each draw, the mean of both signs where they are taken."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        step = spread * ground.normal(generator)
        sides = [ground.loss(step), ground.loss(-step)] if antithetic else [ground.loss(step)]
        yield sum(sides) / len(sides) - ground.center
