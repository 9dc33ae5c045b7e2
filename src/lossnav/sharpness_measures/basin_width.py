"""The width of a basin: the distance along random directions at which the loss has risen."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from lossnav import directions as makers
from lossnav.charts import Line
from lossnav.directions.normalize import Normalization
from lossnav.sharpness_measures.crossing import crossing, require_crossing, rise_settings, rise_words, target_rise
from lossnav.sharpness_measures.neighborhood import Neighborhood, Stopped
from lossnav.sharpness_measures.options import require_count, require_normalization
from lossnav.sharpness_measures.registry import RANDOM, register
from lossnav.sharpness_measures.result import Bounds, KindResult
from lossnav.sharpness_measures.scaling import INVARIANCES


@register(
    "width",
    formula="median over random directions of the distance between the two points, one on each side, where the "
    "loss is `rise` times the centre's; large is flat",
    source="Huang et al. 2020; directions of Li et al. 2018",
    invariant_under="as T",
    uncertainty="interval of the median by order statistics; directions that do not rise within `limit` are counted",
    exclude=RANDOM,
)
def width(
    ground: Neighborhood,
    seed: int,
    *,
    rise: float = 2.0,
    rise_by: float | None = None,
    normalize: Normalization = "filter",
    directions: int = 20,
    limit: float = 16.0,
    tolerance: float = 1e-2,
) -> KindResult:
    """Find the median width of the basin along random directions, between the points where the loss has risen.

    On each side of each direction the smallest power of two is found at which the loss has risen, then the crossing
    between it and the previous power. A side that does not rise within the limit is wider than the limit.

    Parameters
    ----------
    rise : float
        Multiple of the loss at the centre that counts as risen.
    rise_by : float, optional
        Or the amount above the loss at the centre, in units of the loss.
    normalize : "filter", "layer", "weight" or None
        As in `directions.random`; with "filter" a distance of 1 is the length of each filter. With None widths are in
        units of weights.
    directions : int
        Number of directions ``ln.directions.random(objective, n, orthogonal=False, seed=seed)``.
    limit : float
        Maximum distance on each side, in units of the directions.
    tolerance : float
        Relative error of each crossing.

    References
    ----------
    Huang et al. 2020, "Understanding Generalization through Visualizations" (how far to a cutoff of the loss along
    filter-normalised directions); directions of Li et al. 2018, section 4. Departures: both sides; the median.
    """
    require_count("directions", directions)
    require_normalization(normalize)
    require_crossing(limit, tolerance)
    target = target_rise(ground.center, rise, rise_by)
    still = [_only(name) for name in ground.objective.params if name not in ground.names]
    drawn = makers.random(
        ground.objective, directions, normalize=normalize, orthogonal=False, exclude=still, seed=seed, lazy=True
    )
    sides: list[tuple[float | None, float | None]] = []
    walls = 0

    def find(line: Line, sign: int) -> float | None:
        def height(x: float) -> float:
            nonlocal walls
            loss = ground.loss_at(line([sign * x]))
            walls += not math.isfinite(loss)
            return 1 + (loss - ground.center) / target

        return crossing(height, limit, tolerance)

    with suppress(Stopped):
        for direction in drawn:
            line = Line(ground.objective.params, direction)
            sides.append((find(line, -1), find(line, 1)))
    units = [float(d.recipe["norm"]) if normalize is None else 1.0 for d in drawn[: len(sides)]]
    least = np.array([sum(limit if side is None else side for side in pair) for pair in sides]) * np.array(units)
    unending = np.array([None in pair for pair in sides], dtype=bool)
    value, error, interval, said = _median(least, unending)
    if walls:
        said += f"; {walls} losses were not finite and count as risen"
    unit = "in units of weights" if normalize is None else f"in parts of the weights (normalize={normalize!r})"
    return KindResult(
        value,
        error,
        interval,
        said,
        f"median over {len(sides)} random directions of the distance between the places on both sides where the loss "
        f"is {rise_words(rise, rise_by)}, {unit}",
        "Huang et al. 2020, with both sides; directions of Li et al. 2018, section 4",
        INVARIANCES[normalize],
        tuple(map(float, least)),
        {"normalize": normalize, "directions": directions, "not_risen": np.flatnonzero(unending).tolist()}
        | rise_settings(rise, rise_by, limit, tolerance),
    )


def _median(least: NDArray[np.float64], unending: NDArray[np.bool_]) -> tuple[float, float, Bounds, str]:
    """Return the median of widths, some of which are only lower bounds, and an interval for it.

    The median lies between the k-th smallest and the k-th largest of n with probability 1 - 2 P(B(n, 1/2) < k), for any
    distribution (David and Nagaraja 2003, "Order Statistics", section 7.1).
    """
    n = len(least)
    if not n:
        return math.nan, math.nan, (0.0, math.inf), "stopped before the first direction was measured"
    low, high = np.sort(least), np.sort(np.where(unending, math.inf, least))
    k = max([1, *(k for k in range(1, n // 2 + 1) if 2 * bdtr(k - 1, n, 0.5) <= 0.05)])
    interval = (float(low[k - 1]), float(high[n - k]))
    value = float(np.median(low))
    sure = 1 - 2 * float(bdtr(k - 1, n, 0.5))
    said = f"by their order the {n} widths hold the median in the interval at {sure:.1%}; the error is half of it"
    if unending.any():
        said += (
            f"; along {int(unending.sum())} directions the loss does not rise within "
            "the limit, so they are wider than counted"
        )
        if float(np.median(high)) != value:
            said += ", so that the value is a lower bound"
    return value, (interval[1] - interval[0]) / 2 if n > 1 else math.nan, interval, said


def _only(name: str) -> str:
    """Return a name as a glob pattern that is not the role "bias" or "norm"."""
    return f"[{name[0]}]{name[1:]}"
