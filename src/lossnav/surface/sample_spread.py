"""The distribution of the samples' losses at one point: skewness, tails and order. NumPy only.

`lossnav.surface.intervals` makes from it an interval for their mean. It is recorded beside every surface
(``attrs["sampling"]``).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossnav._utils.geometry import Array

TREND = 0.65
"""Correlation of neighbouring blocks of √n samples above which the data counts as sorted, not as grouped; half of it if
neighbouring samples have a correlation of `SMOOTH`."""

SMOOTH = 0.85


def spread_of(losses: Array, weights: Array, labels: NDArray[Any] | None = None) -> dict[str, Any]:
    """Return statistics of the samples at one point that decide how reliable the standard error of their mean is.

    Parameters
    ----------
    losses, weights : ndarray of shape (n,)
        Terms of numerator and denominator of the mean, in the order of the data.
    labels : ndarray of int, shape (n,), optional
        Classes. Their means are subtracted for ``ordered``: data sorted by class is not dependent.

    Returns
    -------
    dict
        ``samples`` (with a positive weight), ``effective`` ((sum w)²/sum w²; Kish 1965), ``skewness`` of the residuals,
        ``tail`` (Hill 1975, of the largest 5 %; nan below 150 samples), ``shape`` (of the generalised Pareto
        distribution of their excesses; Hosking and Wallis 1987), ``largest`` (share of the largest in the sum of
        squares), ``two_valued``, ``ordered`` (correlation of neighbours, in standard deviations of independent ones).
    """
    counts = weights > 0
    a, w = np.asarray(losses, np.float64)[counts], np.asarray(weights, np.float64)[counts]
    n = len(a)
    with np.errstate(over="ignore", invalid="ignore"):  # losses above 1e38 (float32), squares above 1e154
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
    # Pearson 1916: kurtosis >= skewness^2 + 1, with equality for two values only (as any two numbers are)
    said["two_valued"] = bool(n > 2 and kurtosis - skewness**2 - 1 < 1e-6 * kurtosis)
    if labels is not None and len(labels) == len(counts):
        _, groups = np.unique(np.asarray(labels)[counts], return_inverse=True)
        residuals = residuals - (np.bincount(groups, residuals) / np.bincount(groups))[groups]
    return said | {"ordered": _ordered(residuals)}


def _tail(residuals: Array) -> tuple[float, float]:
    """Return Hill's tail index of the largest 5 % (1/α of a Pareto tail), and the shape of their excesses."""
    if len(residuals) < 150:
        return math.nan, math.nan
    k = max(10, len(residuals) // 20)
    largest = np.sort(np.partition(residuals, -k - 1)[-k - 1 :])
    hill = float(np.log(largest[1:] / largest[0]).mean()) if largest[0] > 0 else math.nan
    excesses = largest[1:] - largest[0]
    first, second = excesses.mean(), (excesses * (1 - (np.arange(1, k + 1) - 0.35) / k)).mean()
    return hill, float(2 - first / (first - 2 * second)) if first > 2 * second else math.nan


def _ordered(residuals: Array) -> float:
    """Return the correlation of neighbours in standard deviations: first autocorrelation, and sums over blocks of √n.

    0 if the blocks follow a trend: sorting does not make data dependent.
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
    # the sum of squares of B blocks varies by sqrt(2 / B), and more with heavy tails
    kurtosis = float((residuals**4).mean() / (total / n) ** 2)
    return max(first, excess / math.sqrt((2 + max(0.0, kurtosis - 3) / size) / len(blocks)))
