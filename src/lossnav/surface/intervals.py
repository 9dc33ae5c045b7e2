"""How sure a mean over samples is: an interval, and what makes it too narrow. NumPy, and SciPy on use.

The standard error of a mean is right for independent samples whose losses have light tails. Where a few samples make
most of the loss, weights are uneven, or samples are there several times, value ± 1.96 standard errors covers less often
than it says. What is needed to tell is recorded beside every surface (``attrs["sampling"]``, ``loss_skewness``).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.geometry import Array, nearest
from lossnav.errors import OptionError
from lossnav.storage import samples as kept
from lossnav.surface.assemble import points_of
from lossnav.surface.run_identity import put_together
from lossnav.surface.variables import OK, STATUS_WORDS, validate

if TYPE_CHECKING:
    import xarray as xr

FEW = 15
"""Samples below which nobody can see how skewed their losses are: the skewness of n numbers is at most sqrt(n)."""

SKEWED, SKEWED_FEW = 0.3, 0.25
"""Skewness / sqrt(n) from which an interval covers too rarely, even a corrected one; the second below 40 samples.
Exponential losses (skewness 2) reach it below 45 samples; 1 % of samples that lose all the rest, below 1,100."""

HEAVY, HEAVY_FEW, HEAVY_SKEWED = 0.6, 0.55, 0.2
"""Hill's estimate of the tail index of the largest 5 % (of 10 at least, in 150 at least) from which the variance itself
may not exist (0.5 and more), the same below 200 samples, of which the largest 10 reach less far out, and the skewness /
sqrt(n) that must go with it."""

SHAPED, SHAPED_FROM = 0.1, 500
"""Shape of the excesses of the largest 5 %, which is about 0 where a tail ends as an exponential does and 0.5 where
there is no variance, below which Hill's estimate is not believed; from so many samples on, since of few it is too
uncertain. Hill alone takes the losses of a trained classifier, most of which are almost 0, for heavy."""

EFFECTIVE = 20
"""Effective samples of weighted means, (sum w)^2 / sum w^2, below which few samples with large weights decide."""

COPIES = 1.2
"""Factor on the variance of a mean by exact copies among the samples, sum of multiplicities squared / n."""

ORDERED = 3.5
"""Standard deviations by which neighbours in the data are more alike than independent samples are."""

TREND = 0.65
"""Correlation of neighbouring blocks of √n samples from which the data is sorted, and not in groups; half of it where
neighbouring samples have a correlation of `SMOOTH`."""

SMOOTH = 0.85

UNSEEN = 3.0
"""Rule of three: what none of n samples shows may be 3/n of all, with 95 % confidence (Hanley, Lippman-Hand 1983)."""

UNSEEN_WEIGHT = 0.1
"""Part of the denominator that a class without a sample may have, were it 3/n of all."""

ROUNDED = {"float64": 2.0**-50, "float32": 2.0**-21, "bfloat16": 2.0**-6, "float16": 2.0**-9}
"""A standard error below so much of the value is rounding of the arithmetic, not spread of the samples."""


@dataclass(frozen=True)
class Interval:
    """A value with an interval, and whether it holds.

    Attributes
    ----------
    value : float
    error : float
        Standard error over the samples, as it is recorded.
    low, high : float
        Ends of the interval: of Student's t, corrected for skewness (Hall 1992) and for copies. nan where nothing is
        known.
    level : float
        Share of intervals of this kind that should cover.
    samples : int
        That stand behind it.
    method : str
        How the interval was made.
    warnings : tuple of str
        Why value ± 1.96 standard errors is too narrow, or not known; empty where nothing speaks against it.
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
        """Whether nothing speaks against it."""
        return not self.warnings

    def to_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return {**vars(self), "warnings": list(self.warnings), "holds": self.holds}

    def __str__(self) -> str:
        words = f"{self.value:.6g} ± {self.error:.2g}, {self.level:.0%} interval {self.low:.6g} to {self.high:.6g}"
        words += f" ({self.samples:,} samples; {self.method})"
        return "\n".join([words, *(f"The interval does not hold: {warning}" for warning in self.warnings)])


# ---------------------------------------------------------------------- what samples say


def spread_of(losses: Array, weights: Array, labels: NDArray[Any] | None = None) -> dict[str, Any]:
    """What the samples at one point say of how sure their mean is.

    Parameters
    ----------
    losses, weights : ndarray of shape (n,)
        What each sample adds to numerator and denominator, in the order of the data.
    labels : ndarray of int, shape (n,), optional
        Classes: that data is sorted by class does not make neighbours dependent.

    Returns
    -------
    dict
        ``samples`` (with a weight), ``effective`` ((sum w)²/sum w²; Kish 1965), ``skewness`` of the residuals, ``tail``
        (Hill 1975, of the largest 5 %; nan below 150 samples), ``shape`` (of a generalised Pareto distribution of
        the excesses of the same, by Hosking and Wallis 1987), ``largest`` (share of the largest in the sum of squares),
        ``two_valued``, ``ordered`` (standard deviations by which neighbours are more alike than by chance).
    """
    counts = weights > 0
    a, w = np.asarray(losses, np.float64)[counts], np.asarray(weights, np.float64)[counts]
    n = len(a)
    with np.errstate(over="ignore", invalid="ignore"):  # of losses beyond 1e38 (float32), 1e154 (their squares)
        residuals = a - (a.sum() / w.sum() if n else 0.0) * w
        squares = residuals**2
        variance = squares.mean() if n else 0.0
    said: dict[str, Any] = {"samples": n, "effective": float(w.sum() ** 2 / (w**2).sum()) if n else 0.0}
    if not n or not math.isfinite(variance) or variance <= 0:
        nothing: dict[str, Any] = {"skewness": math.nan, "tail": math.nan, "shape": math.nan, "largest": math.nan}
        nothing |= {"two_valued": False, "ordered": 0.0}
        return said | nothing
    skewness = float((squares * residuals).mean() / variance**1.5)
    kurtosis = float((squares**2).mean() / variance**2)
    tail, shape = _tail(residuals * (1 if skewness >= 0 else -1))
    said |= {"skewness": skewness, "tail": tail, "shape": shape}
    said["largest"] = float(squares.max() / squares.sum())
    # Pearson 1916: kurtosis >= skewness^2 + 1, with equality for two values alone, which any two numbers are
    said["two_valued"] = bool(n > 2 and kurtosis - skewness**2 - 1 < 1e-6 * kurtosis)
    if labels is not None and len(labels) == len(counts):
        _, groups = np.unique(np.asarray(labels)[counts], return_inverse=True)
        residuals = residuals - (np.bincount(groups, residuals) / np.bincount(groups))[groups]
    return said | {"ordered": _ordered(residuals)}


def _tail(residuals: Array) -> tuple[float, float]:
    """Hill's estimate of the tail index of the largest 5 %, 1/α of a Pareto tail, and the shape of their excesses."""
    if len(residuals) < 150:
        return math.nan, math.nan
    k = max(10, len(residuals) // 20)
    largest = np.sort(np.partition(residuals, -k - 1)[-k - 1 :])
    hill = float(np.log(largest[1:] / largest[0]).mean()) if largest[0] > 0 else math.nan
    excesses = largest[1:] - largest[0]
    first, second = excesses.mean(), (excesses * (1 - (np.arange(1, k + 1) - 0.35) / k)).mean()
    return hill, float(2 - first / (first - 2 * second)) if first > 2 * second else math.nan


def _ordered(residuals: Array) -> float:
    """Standard deviations by which neighbours are alike: the first autocorrelation, and sums over blocks of √n.

    0 where blocks follow a trend: data that was sorted is no less independent than before.
    """
    n = len(residuals)
    total = float((residuals**2).sum())
    if n < 30 or total <= 0:
        return 0.0
    first = float((residuals[1:] * residuals[:-1]).sum() / total) * math.sqrt(n)
    size = math.isqrt(n)
    blocks = residuals[: n // size * size].reshape(-1, size).sum(1)
    deviations = blocks - blocks.mean()
    trend = float(deviations[1:] @ deviations[:-1]) / max(float(deviations @ deviations), 1e-300)
    if trend > TREND or (trend > TREND / 2 and first > SMOOTH * math.sqrt(n)):
        return 0.0
    excess = float((blocks**2).mean() / (size * total / n)) - 1
    # the sums of squares of B blocks vary by sqrt(2 / B), more where tails are heavy
    kurtosis = float((residuals**4).mean() / (total / n) ** 2)
    return max(first, excess / math.sqrt((2 + max(0.0, kurtosis - 3) / size) / len(blocks)))


# ---------------------------------------------------------------------- from them to an interval


def interval_of(
    value: float,
    error: float,
    spread: Mapping[str, Any],
    *,
    level: float = 0.95,
    rounding: float = 0.0,
    of: str = "losses",
) -> Interval:
    """An interval for a mean over samples, by what they say of themselves.

    Student's t of the effective samples, with Hall's (1992) cubic transformation for their skewness (the monotone form
    of Johnson's 1978 correction); of two values Wilson's (1927). Copies among the samples count once.

    Parameters
    ----------
    value, error : float
        Mean and its standard error, of n samples as if none were a copy.
    spread : mapping
        As `spread_of` gives it; further ``copies`` (factor on the variance), ``distinct`` (samples but for copies),
        ``unseen_weight``, ``part`` (of the population that was drawn), ``population`` (skewness of all of it and the
        distance of its mean in standard errors).
    level : float
    rounding : float
        Error of the arithmetic: a smaller standard error says nothing.
    of : str
        What the mean is of, in the plural.
    """
    if not isinstance(level, int | float) or not 0 < level < 1:
        raise OptionError(f"level={level!r} is none. Pass a number between 0 and 1, such as 0.95.")
    n, part = int(spread.get("samples", 0)), float(spread.get("part", 0.0))
    given: dict[str, Any] = {"value": value, "error": error, "level": level, "samples": n}
    if part >= 1 and error == 0:
        return Interval(**given, low=value, high=value, method="all the data, nothing drawn")
    if n < 2 or not math.isfinite(error):
        why = (f"{n} samples have no standard error." if n < 2 else "The standard error is not finite.",)
        return Interval(**given, low=math.nan, high=math.nan, method="not known", warnings=why)
    if error <= rounding:
        why = (
            f"All {n:,} {of} are the same up to rounding: how much others differ is not known (up to "
            f"{UNSEEN / n:.1%} of all may be of another kind).",
        )
        return Interval(**given, low=value - rounding, high=value + rounding, method="rounding alone", warnings=why)
    copies = max(1.0, float(spread.get("copies", 1.0)))
    m = n / copies
    dof = max(1.0, min(float(spread.get("distinct") or n), float(spread.get("effective", n)), m) - 1)
    skewness = float(spread.get("skewness", math.nan))
    skewness = 0.0 if math.isnan(skewness) else skewness
    wide = error * math.sqrt(copies)
    if spread.get("two_valued") and dof >= 2:  # of two samples, each there several times, none knows more than of two
        below, above = _wilson(wide, skewness, m, level)
        method = "Wilson, of two values"
    else:
        below, above = _hall(wide, skewness, m, dof, level)
        method = "Student's t, corrected for skewness"
    method += ", copies counted once" if copies > COPIES else ""
    warnings = tuple(_reasons(spread, n, m, skewness, max(below, above) / (1.96 * error)))
    return Interval(**given, low=value - below, high=value + above, method=method, warnings=warnings)


def _reasons(spread: Mapping[str, Any], n: int, m: float, skewness: float, factor: float) -> list[str]:
    """Why value ± 1.96 standard errors does not hold, each in a sentence with its numbers."""
    reasons, two_valued, wider = [], bool(spread.get("two_valued")), f"one end should lie {factor:.1f} times as far"
    r, tail = abs(skewness) / math.sqrt(m), float(spread.get("tail", math.nan))
    ends = n >= SHAPED_FROM and float(spread.get("shape", math.nan)) < SHAPED
    if n < FEW:
        reasons.append(f"{n} samples are too few to see how skewed their losses are; {wider}.")
    elif not two_valued and r > (SKEWED if m >= 40 else SKEWED_FEW):
        largest = float(spread.get("largest", math.nan))
        share = f", the largest alone {largest:.0%} of the sum of squares" if largest > 0.1 else ""
        reasons.append(f"A few of {n:,} samples make most of it (skewness {skewness:.1f}{share}); {wider}.")
    elif not two_valued and tail > (HEAVY if n >= 200 else HEAVY_FEW) and r > HEAVY_SKEWED and not ends:
        reasons.append(
            f"The largest losses have so heavy a tail (index {tail:.2f}; from 0.5 on there is no variance) that "
            f"{n:,} samples say little of it; {wider}."
        )
    effective = float(spread.get("effective", n))
    if effective < EFFECTIVE <= n:
        reasons.append(f"By their weights {n:,} samples count as {effective:.1f}; {wider}.")
    if (unseen := float(spread.get("unseen_weight") or 0.0)) > UNSEEN_WEIGHT:
        reasons.append(
            f"A class with a weight of its own has no sample: were it {UNSEEN / n:.1%} of the data, which so many "
            f"samples cannot exclude, it would have {unseen:.0%} of the weight."
        )
    if float(spread.get("copies", 1.0)) > COPIES:
        reasons.append(
            f"Only {int(spread.get('distinct') or 0):,} of {n:,} samples are distinct: the standard error is "
            f"{math.sqrt(float(spread['copies'])):.2g} times as large."
        )
    if (ordered := float(spread.get("ordered", 0.0))) > ORDERED:
        reasons.append(
            f"Samples beside each other in the data have like losses ({ordered:.0f} standard deviations more than by "
            "chance): they come in groups, and count as fewer than they are."
        )
    population = spread.get("population") or {}
    of_all = abs(float(population.get("skewness", 0.0))) / math.sqrt(n)
    if of_all > SKEWED and not any("make most of it" in reason for reason in reasons):
        reasons.append(
            f"Of all the data a few samples make most of the loss (skewness {population['skewness']:.1f}), and {n:,} "
            "drawn ones see too few of them."
        )
    if (off := abs(float(population.get("off", 0.0)))) > 3:
        reasons.append(f"At the centre the loss over all the data is known, and lies {off:.1f} standard errors off.")
    return reasons


def _hall(error: float, skewness: float, n: float, dof: float, level: float) -> tuple[float, float]:
    """How far the ends lie below and above the mean, by Hall's cubic transformation of Student's t."""
    from scipy.special import stdtrit

    q = float(stdtrit(dof, (1 + level) / 2))
    g = skewness / math.sqrt(n)
    if abs(g) < 1e-6:
        return q * error, q * error

    def inverse(y: float) -> float:
        return 3 / g * (float(np.cbrt(1 + g * (y - g / 6))) - 1)

    # 1 + g (y - g/6) of the upper end may fall below zero where g is large: the cube root goes on
    return max(0.0, inverse(q)) * error, max(0.0, -inverse(-q)) * error


def _wilson(error: float, skewness: float, n: float, level: float) -> tuple[float, float]:
    """The same of two values: Wilson's score interval for how often each comes."""
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    p = (1 - skewness / math.sqrt(4 + skewness**2)) / 2  # how often the larger one comes
    apart = error / math.sqrt(p * (1 - p) / max(1.0, n - 1))  # the two values
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    return (p - low) * apart, (high - p) * apart


# ---------------------------------------------------------------------- of a surface


def interval(surface: xr.Dataset, point: Sequence[float] | Mapping[str, float], *, level: float = 0.95) -> Interval:
    """An interval for the loss at a point of a surface, over samples of the kind of its data.

    Parameters
    ----------
    surface : xarray.Dataset
        With `loss_se`. With kept samples (``evaluate(…, keep_samples=True)``) the interval is by those of the point
        itself; else by the skewness there and what was recorded at the centre.
    point : sequence of float, or mapping of coordinate to float
        A point that was evaluated.
    level : float

    Returns
    -------
    Interval
        Whose ``warnings`` say why value ± 1.96 standard errors would be too narrow.

    Raises
    ------
    OptionError
        If no such point was evaluated, its loss is not finite, or the loss hides the losses of single samples.

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
            f"The losses of this surface are no means over samples: it has {made_by} in its attributes, which says how "
            "far off they may be. Pass the surface that was evaluated."
        )
    value = float(surface["loss"].values[at])
    if "loss_se" not in surface:
        raise OptionError(
            "The loss hides the losses of single samples, so the error of its mean is not known. Use a loss with a "
            "reduction= argument, or one that returns a value a sample (reduction='none')."
        )
    error = float(surface["loss_se"].values[at])
    return interval_of(value, error, spread_at(surface, at), level=level, rounding=rounding_of(surface, value))


def spread_at(surface: xr.Dataset, at: tuple[int, ...]) -> dict[str, Any]:
    """What is known of the samples at a point: from these themselves, or from the centre and the skewness there."""
    sampling = recorded(surface)
    if kept.LOSS in surface:
        here = spread_of(surface[kept.LOSS][at].values, surface[kept.WEIGHT].values)
        return sampling | {name: here[name] for name in here if name != "ordered"}
    if "loss_skewness" in surface:
        same = abs(float(surface["loss_skewness"].values[at]) - float(sampling.get("skewness", math.nan))) < 1e-6
        if not same:  # of another point the tail is not known
            sampling |= {"tail": math.nan, "shape": math.nan, "largest": math.nan}
        sampling["skewness"] = float(surface["loss_skewness"].values[at])
    if "samples" not in sampling:
        sampling["samples"] = int(surface.attrs.get("objective", {}).get("samples") or 0)
    return sampling


def recorded(surface: xr.Dataset) -> dict[str, Any]:
    """What was recorded of the samples at the centre of a surface; numbers that JSON lacks are numbers again."""
    said = dict(surface.attrs.get("sampling", {}))
    objective = surface.attrs.get("objective", {})
    if objective.get("population"):
        said["part"] = float(objective.get("samples") or 0) / float(objective["population"])
    return {name: float(value) if value in ("nan", "inf", "-inf") else value for name, value in said.items()}


def rounding_of(surface: xr.Dataset, value: float) -> float:
    """How large a standard error may be that is rounding of the arithmetic alone."""
    dtype = str(surface.attrs.get("objective", {}).get("dtype", "float32"))
    asked = str(surface.attrs.get("engine", {}).get("precision", "native"))
    return ROUNDED.get(dtype if asked == "native" else asked, ROUNDED["float32"]) * abs(value)


def place_of(surface: xr.Dataset, point: Sequence[float] | Mapping[str, float]) -> tuple[int, ...]:
    """Which point of a surface this is: its index along each dim.

    Raises
    ------
    OptionError
        If it was not evaluated, raised, or has no finite loss; the message names the nearest that has one.
    """
    validate(surface)
    if "seed" in surface.dims:
        raise OptionError(
            "This surface is of several seeds. Take one: surface.lossnav.seed(0), or their mean over_seeds()."
        )
    dims = [str(dim) for dim in (surface.attrs["chart"]["dims"] if "point" in surface.dims else surface["loss"].dims)]
    values: list[Any] = []
    with contextlib.suppress(TypeError, ValueError):  # words, or another thing that is no point
        given = [point.get(dim) for dim in dims] if isinstance(point, Mapping) else list(np.atleast_1d(point))
        values = [float(value) for value in given]  # type: ignore[arg-type]
    if len(values) != len(dims):
        example = ", ".join("0.0" for _ in dims)
        raise OptionError(f"The point {point} has not the coordinates ({', '.join(dims)}). Pass [{example}], say.")
    wanted, places = np.array(values, np.float64).reshape(1, -1), points_of(surface)
    if not np.isfinite(wanted).all():
        raise OptionError(f"The point {point} is not finite. Pass coordinates that were evaluated.")
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
