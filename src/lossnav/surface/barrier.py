"""The barrier on a path between two networks: how high, where, and with which error. NumPy, and SciPy on use.

The barrier is a maximum over t, and the t at which it is found was selected by the same samples. Its interval is
therefore simultaneous: with the bands D(t) ± c(t) that hold for all evaluated t at once, the true maximum lies between
the maximum of the lower ends and the maximum of the upper ends.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lossnav._utils import mixing
from lossnav._utils.geometry import Array
from lossnav.errors import OptionError
from lossnav.storage import samples as kept
from lossnav.surface.assemble import points_of
from lossnav.surface.difference import has_samples, paired, ratio
from lossnav.surface.intervals import Interval, place_of, recorded
from lossnav.surface.run_identity import put_together
from lossnav.surface.variables import NON_FINITE, OK, validate

if TYPE_CHECKING:
    import xarray as xr

_DRAWS, _BLOCK = 20_000, 2**16  # of the maximum of correlated normal numbers; samples that are multiplied at once
_ERROR_OF = {"error": (1.0, 0.0), "accuracy": (-1.0, 1.0)}  # the classification error from a metric: factor, constant


@dataclass(frozen=True)
class Barrier:
    """How far the loss rises on a path between two networks. Printed, it says so in words.

    Attributes
    ----------
    above_line : Interval
        Largest loss above the linear interpolation of the losses at the ends; at least 0. ``low`` and ``high`` are
        simultaneous over all evaluated points.
    above_end : Interval
        Largest loss minus the larger loss of the ends; at least 0.
    at : float
        Where the first is largest; ``highest``, where the loss is.
    ends : tuple of two float
        The coordinates of the ends; ``end_losses``, the losses there.
    larger_end : float
        The coordinate of the end with the larger loss.
    instability : Interval or None
        Largest classification error minus the mean of those at the ends (Frankle et al. 2020), a fraction; None without
        the metric "error" or "accuracy".
    profile : dict of str to dict
        For the loss and every metric: ``start``, ``end``, ``min``, ``max``, ``mean`` over t, and ``length_mean``, the
        mean over the length of the path (Garipov et al. 2018, table 1; None if the length is unknown).
    length : float or None
        Of the path, in units of weights.
    points : int
        Evaluated points from end to end.
    upper_bound : bool
        Whether the path was optimised: another path may be lower, so the barrier is an upper bound.
    dim : str
    """

    above_line: Interval
    above_end: Interval
    at: float
    highest: float
    ends: tuple[float, float]
    end_losses: tuple[float, float]
    larger_end: float
    instability: Interval | None
    profile: dict[str, dict[str, float | None]]
    length: float | None
    points: int
    upper_bound: bool
    dim: str

    def to_dict(self) -> dict[str, Any]:
        """Return the barrier as JSON values."""
        said = dict(vars(self)) | {"ends": list(self.ends), "end_losses": list(self.end_losses)}
        for name in ("above_line", "above_end", "instability"):
            said[name] = None if said[name] is None else said[name].to_dict()
        return said

    def __str__(self) -> str:
        a, b = self.end_losses
        lines = [
            f"ends                  {a:.6g} at {self.dim} = {self.ends[0]:g}, {b:.6g} at {self.dim} = {self.ends[1]:g}",
            f"above their line      {_in_words(self.above_line)}, at {self.dim} = {self.at:.4g}",
            f"above the larger end  {_in_words(self.above_end)}, at {self.dim} = {self.highest:.4g}; the larger is at "
            f"{self.dim} = {self.larger_end:g}",
        ]
        if self.instability is not None:
            lines.append(f"instability           {_in_words(self.instability)}, of the classification error")
        for name, numbers in self.profile.items():
            words = "  ".join(f"{key.replace('_', ' ')} {value:.5g}" for key, value in numbers.items()
                              if value is not None)  # fmt: skip
            lines.append(f"{name:<21} {words}")
        lines.append(f"length                {'unknown' if self.length is None else f'{self.length:.5g}'}, "
                     f"{self.points} points")  # fmt: skip
        if self.upper_bound:
            lines.append("note                  an upper bound: the path was optimised, and a better one may exist")
        return "\n".join([*lines, *(f"The interval is not reliable: {w}" for w in self.above_line.warnings)])


def _in_words(found: Interval) -> str:
    if math.isnan(found.error):
        return f"{found.value:.6g}, error unknown"
    low, high = (f"{x:.5g}" for x in (found.low, found.high))
    return f"{found.value:.6g} ± {found.error:.2g}, {found.level:.0%} interval {low} to {high}"


def barrier(surface: xr.Dataset, *, ends: Sequence[float] = (0.0, 1.0), level: float = 0.95) -> Barrier:
    """Return how far the loss rises between two ends of a path, with simultaneous intervals.

    With stored samples (``evaluate(…, keep_samples=True)``) all errors are paired: d_i(t) = l_i(t) - (1 - s) l_i(0) - s
    l_i(1), s from 0 to 1 between the ends, is averaged as the loss is. The critical value is the quantile of the
    maximum of normal numbers with the correlations of these differences over t; at the level that it implies for each
    point, the interval of `difference` is taken, corrected for skewness. Without stored samples the standard error of a
    difference is at most the sum of those of its parts, and Bonferroni's level is used: valid, and wide. Without
    standard errors they are unknown. Nothing is said about places between the evaluated points: `Adaptive` finds them.

    Parameters
    ----------
    surface : xarray.Dataset
        On a chart of one coordinate.
    ends : two floats
        The coordinates of the two networks; both must have been evaluated.
    level : float
        Nominal simultaneous coverage.

    Returns
    -------
    Barrier

    Raises
    ------
    NotASurfaceError
        If it is no surface.
    OptionError
        If the chart has several coordinates, an end was not evaluated, a loss between is not finite, or there is no
        point between.

    References
    ----------
    Frankle et al. 2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", section 2 (instability).
    Garipov et al. 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", table 1.
    Hothorn et al. 2008, "Simultaneous Inference in General Parametric Models" (the maximum of correlated statistics).

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> hill = ln.Objective.from_function(lambda p: 1 - p["x"] ** 2 / 4 + p["x"] / 4, {"x": torch.tensor(-1.0)})
    >>> line = ln.Line(hill.params, ln.directions.between(hill, {"x": torch.tensor(1.0)}))
    >>> found = barrier(ln.evaluate(hill, line, ln.Grid(alpha=(0, 1, 5))))
    >>> found.above_line.value, found.at, round(found.above_end.value, 6)
    (0.25, 0.5, 0.0625)
    """
    validate(surface)
    if not 0 < level < 1:
        raise OptionError(f"level must be a number between 0 and 1, got {level!r}. Example: level=0.95.")
    dims = list(surface.attrs.get("chart", {}).get("dims", ()))
    if len(dims) != 1:
        raise OptionError(
            f"A barrier is measured along one coordinate, and this surface has {len(dims)} ({', '.join(dims)}). "
            "Evaluate a line or a curve: ln.Grid(t=(0, 1, 61))."
        )
    start, end = _two(ends)
    t, order = _between(surface, start, end)
    share = (t - t[0]) / (t[-1] - t[0])
    losses = surface["loss"].values.reshape(-1)[order].astype(np.float64)
    line = (1 - share) * losses[0] + share * losses[-1]
    above = losses - line
    larger = 0 if losses[0] >= losses[-1] else len(t) - 1
    bands = _bands(surface, order, share, losses, level)
    best, top = int(above.argmax()), int(losses.argmax())
    attributes = surface.attrs["chart"]
    stretch = _lengths(attributes, t)
    return Barrier(
        above_line=_maximum(bands.lines, best, float(above[best]), level, bands.method),
        above_end=_maximum(_least(bands.starts, bands.stops), top, float(losses[top] - losses[larger]), level,
                           bands.method),
        at=float(t[best]),
        highest=float(t[top]),
        ends=(start, end),
        end_losses=(float(losses[0]), float(losses[-1])),
        larger_end=float(t[larger]),
        instability=_instability(surface, order, level),
        profile={name: _profile(surface[name].values.reshape(-1)[order], share, stretch)
                 for name in ("loss", *_metrics(surface))},
        length=None if stretch is None else float(stretch.sum()),
        points=len(t),
        upper_bound=is_optimised(attributes),
        dim=str(dims[0]),
    )  # fmt: skip


def is_optimised(chart: dict[str, Any]) -> bool:
    """Return whether a chart, by its description, is a curve with bends, which somebody chose."""
    return chart.get("kind") in mixing.CURVES and len(chart.get("points", ())) > 2


# ---------------------------------------------------------------------- points


def _two(ends: Sequence[float]) -> tuple[float, float]:
    try:
        start, end = (float(x) for x in ends)
    except (TypeError, ValueError):
        raise OptionError(f"ends must be two coordinates, got {ends!r}. Example: ends=(0, 1).") from None
    if start == end:
        raise OptionError(f"The two ends are both {start:g}. Pass two different coordinates: ends=(0, 1).")
    return start, end


def _between(surface: xr.Dataset, start: float, end: float) -> tuple[Array, Any]:
    """Return the coordinates of the evaluated points from one end to the other, and their numbers."""
    for place in (start, end):
        place_of(surface, [place])  # raises where it was not evaluated
    t, status = points_of(surface)[:, 0], surface["status"].values.reshape(-1)
    low, high = min(start, end), max(start, end)
    inside = (t >= low - 1e-9) & (t <= high + 1e-9)
    dim = surface.attrs["chart"]["dims"][0]
    if (bad := inside & (status == NON_FINITE)).any():
        raise OptionError(
            f"At {dim} = {t[bad][0]:.4g} the loss is not finite, so the barrier is not a number. Evaluate the path "
            "in a higher precision, or take another one."
        )
    order = np.flatnonzero(inside & (status == OK))
    order = order[np.argsort(t[order], kind="stable")]
    order = order if start < end else order[::-1]
    if len(order) < 3:
        raise OptionError(
            f"No point between {dim} = {start:g} and {end:g} was evaluated. Evaluate some: ln.Grid({dim}=({low:g}, "
            f"{high:g}, 61))."
        )
    return t[order], order


def _lengths(chart: dict[str, Any], t: Array) -> Array | None:
    """Return the length of the path between neighbouring points; None if it is unknown."""
    kind, shift = chart.get("kind"), float((chart.get("origin") or [0.0])[0])
    pairs = [(float(min(a, b)) + shift, float(max(a, b)) + shift) for a, b in itertools.pairwise(t)]
    if kind in mixing.CURVES and "gram" in chart:
        count = len(chart["points"])
        return np.array([mixing.arc_length(kind, low, high, count, chart["gram"]) for low, high in pairs])
    if kind == "Simplex" and "gram" in chart:
        return np.array([math.sqrt(float(chart["gram"][0][0])) * (high - low) for low, high in pairs])
    norms = [direction.get("norm") for direction in chart.get("directions", ())]
    if kind == "Line" and norms and norms[0] is not None:
        return np.array([float(norms[0]) * (high - low) for low, high in pairs])
    return None


def _metrics(surface: xr.Dataset) -> list[str]:
    named = surface.attrs.get("objective", {}).get("metrics") or ()
    return [name for name in named if name in surface and surface[name].dims == surface["loss"].dims]


def _profile(values: Array, share: Array, stretch: Array | None) -> dict[str, float | None]:
    """Return start, end, smallest, largest, and the means over t and over the length."""
    means = (values[:-1] + values[1:]) / 2
    whole = None if stretch is None or not stretch.sum() > 0 else float(means @ stretch / stretch.sum())
    return {
        "start": float(values[0]),
        "end": float(values[-1]),
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(means @ np.diff(share)),
        "length_mean": whole,
    }


# ---------------------------------------------------------------------- errors


@dataclass(frozen=True)
class _Bands:
    """Intervals at every point that hold at once: above the line, the first end and the last."""

    lines: list[Interval]
    starts: list[Interval]
    stops: list[Interval]
    method: str


def _bands(surface: xr.Dataset, order: Any, share: Array, losses: Array, level: float) -> _Bands:
    if put_together(surface.attrs):
        return _unknown(share, losses, level, "the losses of this surface are not means over samples")
    if has_samples(surface):
        return _paired_bands(surface, order, share, losses, level)
    if "loss_se" in surface:
        errors = surface["loss_se"].values.reshape(-1)[order].astype(np.float64)
        return _summed_bands(errors, share, losses, level, int(recorded(surface).get("samples", 0)))
    return _unknown(share, losses, level, "the per-sample losses are not available")


def _paired_bands(surface: xr.Dataset, order: Any, share: Array, losses: Array, level: float) -> _Bands:
    weights = np.asarray(surface[kept.WEIGHT].values, np.float64)
    rows = surface[kept.LOSS].values.reshape(-1, len(weights))[order]  # (m, n), float32
    if not np.isfinite(rows).all():
        return _unknown(share, losses, level, "the loss of a sample is not finite")
    first, last = rows[0].astype(np.float64), rows[-1].astype(np.float64)
    inner = list(range(1, len(rows) - 1))

    def contrast(name: int, k: int, part: slice = slice(None)) -> Array:
        here = rows[k, part].astype(np.float64)
        base = (1 - share[k]) * first[part] + share[k] * last[part] if name == 0 else (first, last)[name - 1][part]
        made: Array = here - base
        return made

    def interval(name: int, k: int, at: float) -> Interval:
        here = rows[k].astype(np.float64)
        base = (1 - share[k]) * first + share[k] * last if name == 0 else first if name == 1 else last
        floor = (1 - share[k]) * losses[0] + share[k] * losses[-1] if name == 0 else losses[0 if name == 1 else -1]
        return paired(here, base, weights, surface, at, float(losses[k] - floor))

    names = {0: inner, 1: [*inner, len(rows) - 1], 2: [0, *inner]}
    made: dict[int, list[Interval]] = {}
    for groups in ((0,), (1, 2)):  # each of the two barriers has its own band
        columns = [(name, k) for name in groups for k in names[name]]
        single = _level_of_each(columns, contrast, weights, level)
        zero = Interval(0.0, 0.0, 0.0, 0.0, single, len(weights), "the end itself")
        for name in groups:
            made[name] = [interval(name, k, single) if k in names[name] else zero for k in range(len(rows))]
    return _Bands(made[0], made[1], made[2], "paired, sample by sample; simultaneous over the points")


def _level_of_each(columns: Sequence[tuple[int, int]], contrast: Any, weights: Array, level: float) -> float:
    """Return the level at which each interval is taken, so that all hold at once at `level`."""
    from scipy.special import ndtr

    values = [ratio(contrast(name, k), weights)[0] for name, k in columns]
    gram = np.zeros((len(columns), len(columns)))
    for start in range(0, len(weights), _BLOCK):
        part = slice(start, start + _BLOCK)
        block = np.stack([contrast(name, k, part) - value * weights[part]
                          for (name, k), value in zip(columns, values, strict=True)])  # fmt: skip
        gram += block @ block.T
    sizes = np.sqrt(gram.diagonal())
    used = sizes > 0
    if not used.any():
        return level
    correlation = gram[np.ix_(used, used)] / np.outer(sizes[used], sizes[used])
    roots, vectors = np.linalg.eigh(correlation)
    draws = np.random.default_rng(0).normal(size=(_DRAWS, len(roots)))
    largest = np.abs(draws * np.sqrt(np.maximum(roots, 0)) @ vectors.T).max(axis=1)
    critical = float(np.quantile(largest, level))
    return float(2 * ndtr(critical) - 1)


def _summed_bands(errors: Array, share: Array, losses: Array, level: float, samples: int) -> _Bands:
    """Bands from standard errors of single losses: that of a difference is at most the sum of those of its parts."""
    from scipy.special import ndtri

    single = 1 - (1 - level) / (2 * max(1, len(share) - 1))  # Bonferroni over the points, and over both ends
    z = float(ndtri((1 + single) / 2))

    def of(k: int, base: float, error: float) -> Interval:
        value = float(losses[k] - base)
        method = "not paired: the sum of the standard errors"
        return Interval(value, error, value - z * error, value + z * error, single, samples, method)

    count, last = len(share), len(share) - 1
    zero = Interval(0.0, 0.0, 0.0, 0.0, single, samples, "the end itself")
    lines = [of(k, float((1 - share[k]) * losses[0] + share[k] * losses[-1]),
                float(errors[k] + (1 - share[k]) * errors[0] + share[k] * errors[-1])) if 0 < k < last else zero
             for k in range(count)]  # fmt: skip
    both = [[of(k, float(losses[e]), float(errors[k] + errors[e])) if k != e else zero for k in range(count)]
            for e in (0, last)]  # fmt: skip
    method = "not paired: samples are not stored (keep_samples=True), so errors are added; simultaneous"
    return _Bands(lines, both[0], both[1], method)


def _unknown(share: Array, losses: Array, level: float, because: str) -> _Bands:
    why = (f"The error is unknown: {because}. Evaluate with keep_samples=True.",)

    def of(value: float) -> Interval:
        return Interval(value, math.nan, math.nan, math.nan, level, 0, "not known", why)

    line = (1 - share) * losses[0] + share * losses[-1]
    rows = [[of(float(a - b)) for a, b in zip(losses, base, strict=True)]
            for base in (line, np.full(len(losses), losses[0]), np.full(len(losses), losses[-1]))]  # fmt: skip
    return _Bands(rows[0], rows[1], rows[2], "not known")


def _least(starts: list[Interval], stops: list[Interval]) -> list[Interval]:
    """Return at each point the bounds above the larger end, which may be either: the smaller of the two differences."""
    made = []
    for a, b in zip(starts, stops, strict=True):
        smaller = a if a.value <= b.value else b
        bounds = {"low": min(a.low, b.low), "high": min(a.high, b.high)}
        made.append(Interval(**vars(smaller) | bounds))
    return made


def _maximum(band: list[Interval], best: int, value: float, level: float, method: str) -> Interval:
    """Return the interval of the largest of all points, from a band that holds for all at once."""
    here = band[best]
    low, high = (max(float(x) for x in bounds) for bounds in
                 ([i.low for i in band], [i.high for i in band]))  # fmt: skip
    # of all points one is an end, where the true difference is 0 (of the larger end, or of the line)
    low, high = (math.nan, math.nan) if math.isnan(here.error) else (max(0.0, low), max(0.0, high))
    samples = max(interval.samples for interval in band)
    # a band that cannot be trusted near the top cannot be trusted at the top
    warnings = dict.fromkeys(w for i in band if not i.high < low for w in i.warnings)
    return Interval(value, here.error, low, high, level, samples, method, tuple(warnings))


def _instability(surface: xr.Dataset, order: Any, level: float) -> Interval | None:
    """Return the largest classification error minus the mean of the ends', with binomial errors added."""
    name = next((name for name in _ERROR_OF if name in surface), None)
    if name is None:
        return None
    factor, constant = _ERROR_OF[name]
    errors = constant + factor * surface[name].values.reshape(-1)[order].astype(np.float64)
    value = float(errors.max() - (errors[0] + errors[-1]) / 2)
    n = int(surface.attrs.get("objective", {}).get("samples") or 0)
    if n < 2 or put_together(surface.attrs) or ((errors < 0) | (errors > 1)).any():
        why = ("The error is unknown: the number of samples is.",)
        return Interval(value, math.nan, math.nan, math.nan, level, n, "not known", why)
    from scipy.special import ndtri

    single = np.sqrt(errors * (1 - errors) / (n - 1))  # binomial
    at = 1 - (1 - level) / len(errors)  # Bonferroni
    z, base = float(ndtri((1 + at) / 2)), float((errors[0] + errors[-1]) / 2)
    bounds = single + (single[0] + single[-1]) / 2
    bounds[[0, -1]] = (single[0] + single[-1]) / 2
    method = "not paired: binomial standard errors are added; simultaneous"
    band = [Interval(float(e - base), float(se), float(e - base - z * se), float(e - base + z * se), at, n, method)
            for e, se in zip(errors, bounds, strict=True)]  # fmt: skip
    return _maximum(band, int(errors.argmax()), value, level, method)
