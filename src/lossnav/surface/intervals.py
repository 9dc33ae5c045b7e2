"""Confidence intervals of a mean over samples, and reasons why they may be too narrow. NumPy, and SciPy on use.

The standard error of a mean is correct for independent samples whose losses have light tails. If a few samples dominate
the loss, weights are uneven, or samples are duplicated, the interval value ± 1.96 standard errors has less than its
nominal coverage. The statistics that show this are recorded beside every surface (``attrs["sampling"]``,
``loss_skewness``).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lossnav._utils.geometry import nearest
from lossnav.errors import OptionError
from lossnav.storage import samples as kept
from lossnav.surface.assemble import points_of
from lossnav.surface.run_identity import put_together
from lossnav.surface.sample_spread import spread_of
from lossnav.surface.variables import OK, STATUS_WORDS, validate

if TYPE_CHECKING:
    import xarray as xr

FEW = 15
"""Number of samples below which skewness cannot be judged: the skewness of n numbers is at most sqrt(n)."""

SKEWED, SKEWED_FEW = 0.3, 0.25
"""Skewness / sqrt(n) above which even a corrected interval has too little coverage; the second below 40 samples.
Exponential losses (skewness 2) reach it below 45 samples; if 1 % of the samples have all the loss, below 1,100."""

HEAVY, HEAVY_FEW, HEAVY_SKEWED = 0.6, 0.55, 0.2
"""Hill's estimate of the tail index of the largest 5 % (at least 10, of at least 150 samples) above which the variance
itself may not exist (from 0.5 on); the same below 200 samples, whose largest 10 reach less far; and the minimum
skewness / sqrt(n) for a warning."""

SHAPED, SHAPED_FROM = 0.1, 500
"""Shape of the excesses of the largest 5 % below which Hill's estimate is ignored, and the number of samples from which
it is certain enough. The shape is about 0 for an exponential tail and 0.5 without a variance. Hill's estimate alone
calls the tail of a trained classifier's losses heavy, since most of them are almost 0."""

EFFECTIVE = 20
"""Effective samples of weighted means, (sum w)^2 / sum w^2, below which a few large weights dominate."""

COPIES = 1.2
"""Factor of the variance of a mean due to duplicated samples: sum of squared multiplicities / n."""

ORDERED = 3.5
"""Correlation of neighbouring samples, in standard deviations of independent samples, above which they are grouped."""

UNSEEN = 3.0
"""Rule of three: what none of n samples shows is at most 3/n of all, at 95 % confidence (Hanley, Lippman-Hand 1983)."""

UNSEEN_WEIGHT = 0.1
"""Share of the denominator of a class without samples, if it were 3/n of all, above which there is a warning."""

ROUNDED = {"float64": 2.0**-50, "float32": 2.0**-21, "bfloat16": 2.0**-6, "float16": 2.0**-9}
"""A standard error below this fraction of the value is rounding, not the spread of the samples."""


@dataclass(frozen=True)
class Interval:
    """A value with a confidence interval, and reasons why it may be too narrow.

    Attributes
    ----------
    value : float
    error : float
        Standard error over the samples, as recorded.
    low, high : float
        Ends of the interval: Student's t, corrected for skewness (Hall 1992) and duplicated samples. nan if unknown.
    level : float
        Nominal coverage.
    samples : int
        Number of samples.
    method : str
        How the interval was computed.
    warnings : tuple of str
        Reasons why value ± 1.96 standard errors is too narrow or unknown; empty if all checks pass.
    """

    value: float
    error: float
    low: float
    high: float
    level: float
    samples: int
    method: str
    warnings: tuple[str, ...] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether all checks pass."""
        return not self.warnings

    def to_dict(self) -> dict[str, Any]:
        """Return the interval as JSON values."""
        return {**vars(self), "warnings": list(self.warnings), "holds": self.holds}

    def __str__(self) -> str:
        words = f"{self.value:.6g} ± {self.error:.2g}, {self.level:.0%} interval {self.low:.6g} to {self.high:.6g}"
        words += f" ({self.samples:,} samples; {self.method})"
        return "\n".join([words, *(f"The interval is not reliable: {warning}" for warning in self.warnings)])


def interval_of(
    value: float,
    error: float,
    spread: Mapping[str, Any],
    *,
    level: float = 0.95,
    rounding: float = 0.0,
    of: str = "losses",
) -> Interval:
    """Return a confidence interval for a mean over samples, from statistics of the samples.

    Student's t of the effective samples, with Hall's (1992) cubic transformation for their skewness (the monotone form
    of Johnson's 1978 correction); for two values Wilson's (1927). Duplicated samples count once.

    Parameters
    ----------
    value, error : float
        Mean and its standard error over n samples, without regard to duplicates.
    spread : mapping
        Result of `spread_of`; optionally ``copies`` (factor of the variance), ``distinct`` (number of distinct
        samples), ``unseen_weight``, ``part`` (fraction of the population that was drawn), ``population`` (its skewness,
        and the distance of its mean in standard errors).
    level : float
        Nominal coverage.
    rounding : float
        Numerical error: a smaller standard error is meaningless.
    of : str
        What is averaged, in the plural.
    """
    if not isinstance(level, int | float) or not 0 < level < 1:
        raise OptionError(f"level must be a number between 0 and 1, got {level!r}. Example: level=0.95.")
    n, part = int(spread.get("samples", 0)), float(spread.get("part", 0.0))
    given: dict[str, Any] = {"value": value, "error": error, "level": level, "samples": n}
    if part >= 1 and error == 0:
        return Interval(**given, low=value, high=value, method="all the data, not a sample")
    if n < 2 or not math.isfinite(error):
        why = (f"{n} samples have no standard error." if n < 2 else "The standard error is not finite.",)
        return Interval(**given, low=math.nan, high=math.nan, method="not known", warnings=why)
    if error <= rounding:
        why = (
            f"All {n:,} {of} are equal up to rounding, so the spread of others is unknown (up to "
            f"{UNSEEN / n:.1%} of all "
            "may differ).",
        )
        return Interval(**given, low=value - rounding, high=value + rounding, method="rounding only", warnings=why)
    copies = max(1.0, float(spread.get("copies", 1.0)))
    m = n / copies
    dof = max(1.0, min(float(spread.get("distinct") or n), float(spread.get("effective", n)), m) - 1)
    skewness = float(spread.get("skewness", math.nan))
    skewness = 0.0 if math.isnan(skewness) else skewness
    wide = error * math.sqrt(copies)
    if spread.get("two_valued") and dof >= 2:  # two distinct samples, however often repeated, are not enough
        below, above = _wilson(wide, skewness, m, level)
        method = "Wilson, for two values"
    else:
        below, above = _hall(wide, skewness, m, dof, level)
        method = "Student's t, corrected for skewness"
    method += ", duplicates counted once" if copies > COPIES else ""
    warnings = tuple(_reasons(spread, n, m, skewness, max(below, above) / (1.96 * error)))
    return Interval(**given, low=value - below, high=value + above, method=method, warnings=warnings)


def _reasons(spread: Mapping[str, Any], n: int, m: float, skewness: float, factor: float) -> list[str]:
    """Return the reasons why value ± 1.96 standard errors is unreliable, each a sentence with its numbers."""
    reasons, two_valued, wider = (
        [],
        bool(spread.get("two_valued")),
        f"one end should be {factor:.1f} times as far from the mean",
    )
    r, tail = abs(skewness) / math.sqrt(m), float(spread.get("tail", math.nan))
    ends = n >= SHAPED_FROM and float(spread.get("shape", math.nan)) < SHAPED
    if n < FEW:
        reasons.append(f"{n} samples are too few to estimate the skewness of their losses; {wider}.")
    elif not two_valued and r > (SKEWED if m >= 40 else SKEWED_FEW):
        largest = float(spread.get("largest", math.nan))
        share = f", the largest has {largest:.0%} of the sum of squares" if largest > 0.1 else ""
        reasons.append(f"A few of {n:,} samples dominate the mean (skewness {skewness:.1f}{share}); {wider}.")
    elif not two_valued and tail > (HEAVY if n >= 200 else HEAVY_FEW) and r > HEAVY_SKEWED and not ends:
        reasons.append(
            f"The tail of the largest losses is too heavy for {n:,} samples (index {tail:.2f}; from 0.5 on "
            "the variance "
            f"does not exist); {wider}."
        )
    effective = float(spread.get("effective", n))
    if effective < EFFECTIVE <= n:
        reasons.append(f"Because of their weights {n:,} samples count as {effective:.1f}; {wider}.")
    if (unseen := float(spread.get("unseen_weight") or 0.0)) > UNSEEN_WEIGHT:
        reasons.append(
            f"A class with its own weight has no sample: if it were {UNSEEN / n:.1%} of the data, which {n:,} samples "
            f"cannot exclude, it would have {unseen:.0%} of the weight."
        )
    if float(spread.get("copies", 1.0)) > COPIES:
        reasons.append(
            f"Only {int(spread.get('distinct') or 0):,} of {n:,} samples are distinct: the true standard error is "
            f"{math.sqrt(float(spread['copies'])):.2g} times as large."
        )
    if (ordered := float(spread.get("ordered", 0.0))) > ORDERED:
        reasons.append(
            f"Neighbouring samples of the data have similar losses ({ordered:.0f} standard deviations beyond chance): "
            "they come in groups, so the effective number of samples is smaller."
        )
    population = spread.get("population") or {}
    of_all = abs(float(population.get("skewness", 0.0))) / math.sqrt(n)
    if of_all > SKEWED and not any("dominate the mean" in reason for reason in reasons):
        reasons.append(
            f"In all the data a few samples dominate the loss (skewness {population['skewness']:.1f}), and "
            f"{n:,} samples "
            "contain too few of them."
        )
    if (off := abs(float(population.get("off", 0.0)))) > 3:
        reasons.append(f"At the centre the loss over all the data is known, and differs by {off:.1f} standard errors.")
    return reasons


def _hall(error: float, skewness: float, n: float, dof: float, level: float) -> tuple[float, float]:
    """Return the distances of the ends below and above the mean, by Hall's transformation of Student's t."""
    from scipy.special import stdtrit

    q = float(stdtrit(dof, (1 + level) / 2))
    g = skewness / math.sqrt(n)
    if abs(g) < 1e-6:
        return q * error, q * error

    def inverse(y: float) -> float:
        return 3 / g * (float(np.cbrt(1 + g * (y - g / 6))) - 1)

    # 1 + g (y - g/6) of the upper end is negative for large g, where the cube root is still defined
    return max(0.0, inverse(q)) * error, max(0.0, -inverse(-q)) * error


def _wilson(error: float, skewness: float, n: float, level: float) -> tuple[float, float]:
    """Return these distances for two values: Wilson's score interval of their frequencies."""
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    p = (1 - skewness / math.sqrt(4 + skewness**2)) / 2  # frequency of the larger value
    apart = error / math.sqrt(p * (1 - p) / max(1.0, n - 1))  # distance of the two values
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    return (p - low) * apart, (high - p) * apart


# ---------------------------------------------------------------------- at a point of a surface


def interval(surface: xr.Dataset, point: Sequence[float] | Mapping[str, float], *, level: float = 0.95) -> Interval:
    """Return a confidence interval for the loss at a point of a surface, over samples like those of its data.

    Parameters
    ----------
    surface : xarray.Dataset
        With `loss_se`. With stored samples (``evaluate(…, keep_samples=True)``) the interval uses those of the point;
        without, the skewness at the point and the statistics recorded at the centre.
    point : sequence of float, or mapping of coordinate to float
        An evaluated point.
    level : float
        Nominal coverage.

    Returns
    -------
    Interval
        Its ``warnings`` are reasons why value ± 1.96 standard errors would be too narrow.

    Raises
    ------
    OptionError
        If the point was not evaluated, its loss is not finite, or the losses of single samples are not available.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> x = torch.linspace(-1, 1, 100).reshape(-1, 1)
    >>> objective = ln.Objective(torch.nn.Linear(1, 1), "mse", (x, x**2))
    >>> line = ln.Line(objective.params, ln.directions.random(objective, seed=0, exclude=())[0])
    >>> surface = ln.evaluate(objective, line, ln.Grid(alpha=(-1, 1, 3)))
    >>> found = ln.interval(surface, [0.0])
    >>> found.low < found.value < found.high, found.samples
    (True, 100)
    """
    at = place_of(surface, point)
    if made_by := put_together(surface.attrs):
        raise OptionError(
            f"The losses of this surface are not means over samples: its attribute {made_by} gives their "
            "error. Pass the "
            "surface that was evaluated."
        )
    value = float(surface["loss"].values[at])
    if "loss_se" not in surface:
        raise OptionError(
            "The losses of single samples are not available, so the error of their mean is unknown. Use a loss with a "
            "reduction= argument, or one that returns a value per sample (reduction='none')."
        )
    error = float(surface["loss_se"].values[at])
    return interval_of(value, error, spread_at(surface, at), level=level, rounding=rounding_of(surface, value))


def spread_at(surface: xr.Dataset, at: tuple[int, ...]) -> dict[str, Any]:
    """Return statistics of the samples at a point: from stored samples, or from the centre and the skewness there."""
    sampling = recorded(surface)
    if kept.LOSS in surface:
        here = spread_of(surface[kept.LOSS][at].values, surface[kept.WEIGHT].values)
        return sampling | {name: here[name] for name in here if name != "ordered"}
    if "loss_skewness" in surface:
        same = abs(float(surface["loss_skewness"].values[at]) - float(sampling.get("skewness", math.nan))) < 1e-6
        if not same:  # the tail was recorded at another point
            sampling |= {"tail": math.nan, "shape": math.nan, "largest": math.nan}
        sampling["skewness"] = float(surface["loss_skewness"].values[at])
    if "samples" not in sampling:
        sampling["samples"] = int(surface.attrs.get("objective", {}).get("samples") or 0)
    return sampling


def recorded(surface: xr.Dataset) -> dict[str, Any]:
    """Return the recorded statistics of the samples at the centre; strings for inf and nan become numbers."""
    said = dict(surface.attrs.get("sampling", {}))
    objective = surface.attrs.get("objective", {})
    if objective.get("population"):
        said["part"] = float(objective.get("samples") or 0) / float(objective["population"])
    return {name: float(value) if value in ("nan", "inf", "-inf") else value for name, value in said.items()}


def rounding_of(surface: xr.Dataset, value: float) -> float:
    """Return the largest standard error that may be only rounding."""
    dtype = str(surface.attrs.get("objective", {}).get("dtype", "float32"))
    asked = str(surface.attrs.get("engine", {}).get("precision", "native"))
    return ROUNDED.get(dtype if asked == "native" else asked, ROUNDED["float32"]) * abs(value)


def place_of(surface: xr.Dataset, point: Sequence[float] | Mapping[str, float]) -> tuple[int, ...]:
    """Return the index of a point along each dim of a surface.

    Raises
    ------
    OptionError
        If it was not evaluated, failed, or has no finite loss; the message names the nearest point that has one.
    """
    validate(surface)
    if "seed" in surface.dims:
        raise OptionError(
            "This surface has several seeds, and one is needed. Use surface.lossnav.seed(0), or their mean, "
            "surface.lossnav.over_seeds()."
        )
    dims = [str(dim) for dim in (surface.attrs["chart"]["dims"] if "point" in surface.dims else surface["loss"].dims)]
    values: list[Any] = []
    with contextlib.suppress(TypeError, ValueError):  # text, or something else that is not a point
        given = [point.get(dim) for dim in dims] if isinstance(point, Mapping) else list(np.atleast_1d(point))
        values = [float(value) for value in given]  # type: ignore[arg-type]
    if len(values) != len(dims):
        example = ", ".join("0.0" for _ in dims)
        raise OptionError(f"A point needs the coordinates ({', '.join(dims)}), got {point}. Example: [{example}].")
    wanted, places = np.array(values, np.float64).reshape(1, -1), points_of(surface)
    if not np.isfinite(wanted).all():
        raise OptionError(f"The coordinates of a point must be finite, got {point}. Pass an evaluated point.")
    status = surface["status"].values.reshape(-1)
    distance, which = nearest(places, wanted)
    number = int(which[0])
    if distance[0] > 1e-9 or status[number] != OK:
        known = np.flatnonzero(status == OK)
        words = STATUS_WORDS[int(status[number])] if distance[0] <= 1e-9 else "not evaluated"
        hint = "No point has a finite loss."
        if len(known):
            near = places[known[int(nearest(places[known], wanted)[1][0])]]
            hint = f"The nearest point with a finite loss is [{', '.join(f'{x:g}' for x in near)}]."
        raise OptionError(f"The point [{', '.join(f'{x:g}' for x in wanted[0])}] is {words}. {hint}")
    return tuple(int(i) for i in np.unravel_index(number, surface["loss"].shape))
