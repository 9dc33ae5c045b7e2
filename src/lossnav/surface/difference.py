"""The difference of two losses over the same samples, with its paired standard error. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from lossnav._utils.geometry import Array
from lossnav._utils.lazy_import import lazily
from lossnav.errors import OptionError
from lossnav.storage import samples as kept
from lossnav.surface.intervals import ROUNDED, Interval, interval_of, place_of, recorded, rounding_of
from lossnav.surface.sample_spread import spread_of

if TYPE_CHECKING:
    import xarray as xr
else:
    xr = lazily("xarray")

PointLike = Sequence[float] | Mapping[str, float]


def difference(
    surface: xr.Dataset,
    first: xr.Dataset | PointLike,
    second: PointLike,
    *,
    level: float = 0.95,
) -> Interval:
    """Return the difference of the losses at two points, or of two surfaces at one point, with its paired error.

    Both losses use the same samples, so the error of the difference is not that of two independent losses: with d_i the
    difference of sample i, D = Σ d_i / Σ w_i, and its standard error is that of a ratio with the residuals d_i - D w_i
    (Cochran 1977, eq. 6.13); without weights s(d) / sqrt(n). For a subset of N it is multiplied by sqrt(1 - n / N).

    Parameters
    ----------
    surface : xarray.Dataset
        With stored samples: ``evaluate(…, keep_samples=True)``.
    first, second : sequence of float, or mapping of coordinate to float
        ``difference(surface, p, q)`` is the loss at p minus the loss at q. Both must have been evaluated.
        ``difference(a, b, p)`` is the loss of surface a minus that of surface b at p.
    level : float

    Returns
    -------
    Interval
        ``value``, its paired standard ``error``, ``low`` and ``high``; ``warnings`` if the interval is not reliable.
        At equal points all of them are exactly 0.

    Raises
    ------
    OptionError
        If samples are not stored, the two surfaces have different samples, or a point was not evaluated.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> x = torch.linspace(-1, 1, 100).reshape(-1, 1)
    >>> objective = ln.Objective(torch.nn.Linear(1, 1), "mse", (x, x**2))
    >>> line = ln.Line(objective.params, ln.directions.random(objective, seed=0, exclude=())[0])
    >>> surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)), keep_samples=True)
    >>> found = ln.difference(surface, [1.0], [0.0])
    >>> round(found.value - float(surface["loss"][2] - surface["loss"][1]), 6)
    0.0
    """
    if isinstance(cast(object, second), xr.Dataset):
        raise OptionError(
            "The last argument must be a point, got a surface. Call difference(surface, p, q) or difference(a, b, p)."
        )
    if isinstance(first, xr.Dataset):
        ends = ((surface, second), (first, second))
        _require_same_samples(surface, first)
    else:
        ends = ((surface, first), (surface, second))
    (a, weights), (b, _) = (_samples_at(*end) for end in ends)
    one, other = (float(of["loss"].values[place_of(of, point)]) for of, point in ends)
    return paired(a, b, weights, surface, level, one - other)


def paired(
    a: Array, b: Array, weights: Array, surface: xr.Dataset, level: float = 0.95, value: float | None = None
) -> Interval:
    """Return the difference from losses of single samples: numerators a and b, shape (n,), and their weights.

    Samples are stored in float32, but the mean losses in float64: if given, `value` is their difference.
    """
    d = a - b
    kept_value, error = ratio(d, weights, float(recorded(surface).get("part", 0.0)))
    value = kept_value if value is None else value
    spread = recorded(surface) | {name: v for name, v in spread_of(d, weights).items() if name != "ordered"}
    spread["population"] = None  # that of the losses, not of their differences
    if value == 0 and not (d != 0).any():
        n = int(spread["samples"])
        return Interval(0.0, 0.0, 0.0, 0.0, level, n, "the same losses, sample by sample")
    size = float((np.abs(a) + np.abs(b)).sum() / weights.sum())
    rounding = max(rounding_of(surface, size), ROUNDED["float32"] * size)
    rounding /= math.sqrt(max(1, spread["samples"]))  # independent for single samples
    found = interval_of(value, error, spread, level=level, rounding=rounding, of="differences")
    return Interval(**vars(found) | {"method": f"paired, sample by sample; {found.method}"})


def ratio(d: Array, weights: Array, part: float = 0.0) -> tuple[float, float]:
    """Return Σ d_i / Σ w_i and its standard error (Cochran 1977, eq. 6.13), for a fraction `part` of a population."""
    n, total = int((weights > 0).sum()), float(weights.sum())
    value = float(d.sum()) / total
    residuals = d - value * weights
    error = math.sqrt(float((residuals**2).sum()) / (n - 1) * n) / total if n > 1 else math.nan
    return value, error * math.sqrt(max(0.0, 1 - part))


def has_samples(surface: xr.Dataset) -> bool:
    """Return whether the losses of single samples are stored."""
    return kept.LOSS in surface and kept.WEIGHT in surface


def _samples_at(surface: xr.Dataset, point: PointLike) -> tuple[Array, Array]:
    at = place_of(surface, point)
    if not has_samples(surface):
        raise OptionError(
            "This surface lacks the losses of single samples, so the error of the difference is unknown. Evaluate "
            "it with keep_samples=True (--keep-samples)."
        )
    losses = np.asarray(surface[kept.LOSS][at].values, np.float64)
    if not np.isfinite(losses).all():
        raise OptionError(f"At {point} the losses of {int((~np.isfinite(losses)).sum())} samples are not finite.")
    return losses, np.asarray(surface[kept.WEIGHT].values, np.float64)


def _require_same_samples(a: xr.Dataset, b: xr.Dataset) -> None:
    """Raise unless two surfaces have the same samples in the same order; batches do not matter."""
    one, other = (surface.attrs.get("objective", {}).get("data") for surface in (a, b))
    rows, others = (surface.attrs.get("sampling", {}).get("rows") for surface in (a, b))
    if not (one and one == other) and not (rows and rows == others):
        raise OptionError(
            f"The two surfaces have different data (fingerprints {one or 'unknown'} and {other or 'unknown'}). A "
            "paired difference needs the same samples in the same order: evaluate both with one data set, and for a "
            "subset with one seed."
        )
    if has_samples(a) and has_samples(b):
        u, v = a[kept.WEIGHT].values, b[kept.WEIGHT].values
        if u.shape != v.shape or not np.array_equal(u, v):
            raise OptionError(
                "The two surfaces weight their samples differently. Evaluate both with the same class weights and "
                "ignored targets."
            )
