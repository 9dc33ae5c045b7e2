"""The worst case in a ball: what sharpness-aware minimisation takes for sharpness, plain and adaptive."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from lossnav.directions import Normalization
from lossnav.errors import OptionError
from lossnav.flatness.ground import Ground, Stopped
from lossnav.flatness.options import require_count, require_normalization, require_positive
from lossnav.flatness.result import Finding, Interval, Invariance
from lossnav.flatness.scaling import INVARIANCES, WORDS, scales


def sam(ground: Ground, seed: int, *, radius: float = 0.05, steps: int = 10, starts: int = 3) -> Finding:
    """Find the largest rise of the loss in a ball: max L(theta + e) - L(theta) over |e|_2 <= radius.

    One ascent begins at the centre; its first step is that of sharpness-aware minimisation, radius * grad / |grad|, and
    with ``steps=1, starts=1`` it is all there is. The others begin at random on the sphere.

    Parameters
    ----------
    radius : float
        rho, in units of weights.
    steps : int
        Of each ascent; a step takes a gradient.
    starts : int
        Ascents.

    References
    ----------
    Foret et al. 2021, "Sharpness-Aware Minimization for Efficiently Improving Generalization", eq. 1 (the maximum) and
    eq. 2 (one step). Departure: more steps and starts.
    """
    require_positive("radius", radius)
    rises = _ascents(ground, ground.origin() + 1, radius, steps, starts, seed)
    return Finding(
        *largest(rises),
        f"max L(theta + e) - L(theta) over |e|_2 <= {radius:g}; {_ascent_words(steps, starts)}",
        "Foret et al. 2021, eq. 1 and 2"
        + ("" if steps == starts == 1 else "; more ascent steps or starts than their one"),
        INVARIANCES[None],
        tuple(rises),
        {"radius": radius, "steps": steps, "starts": starts},
    )


def asam(
    ground: Ground,
    seed: int,
    *,
    radius: float = 0.5,
    normalize: Normalization = "weight",
    eta: float = 0.0,
    steps: int = 10,
    starts: int = 3,
) -> Finding:
    """Find the largest rise of the loss for steps bounded by what they change: |T^-1 e|_2 <= radius.

    Parameters
    ----------
    radius : float
        rho, in parts of the weights: 0.1 lets each weight (or filter) change by a tenth of itself if it alone moves.
    normalize : "weight", "filter" or "layer"
        T_theta: |theta| entry by entry; the norm of each filter, of vectors |theta| entry by entry; of each tensor.
    eta : float
        Added to T_theta, so that weights of zero move too; then it is not scale-invariant any more.
    steps, starts : int
        As of `sam`.

    References
    ----------
    Kwon et al. 2021, "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural
    Networks", definition 2, with T_theta of section 3.1. Departures: more steps and starts; eta is 0, not 0.01; whole
    tensors as a third normalisation.
    """
    require_positive("radius", radius)
    require_normalization(normalize)
    if normalize is None:
        raise OptionError(
            "normalize=None leaves steps as they are: that is kind='sam'. Use 'weight', 'filter' or 'layer'."
        )
    if eta:
        require_positive("eta", eta)
    scale = scales(ground, normalize) + eta
    rises = _ascents(ground, scale, radius, steps, starts, seed)
    added = f" plus {eta:g}" if eta else ""
    kept = INVARIANCES[normalize]
    if eta and kept.holds:
        kept = Invariance(False, f"eta = {eta:g} is added to the weights' own scale")
    return Finding(
        *largest(rises),
        f"max L(theta + e) - L(theta) over |T^-1 e|_2 <= {radius:g}, T = {WORDS[normalize]}{added}; "
        + _ascent_words(steps, starts),
        "Kwon et al. 2021, definition 2"
        + ("" if steps == starts == 1 else "; more ascent steps or starts than their one"),
        kept,
        tuple(rises),
        {"radius": radius, "normalize": normalize, "eta": eta, "steps": steps, "starts": starts},
    )


def largest(found: Sequence[float]) -> tuple[float, float, Interval, str]:
    """Value, error, interval and what they are, of ascents to the same maximum; what is not finite comes first."""
    if not found:
        return math.nan, math.nan, (-math.inf, math.inf), "stopped before the first ascent ended"
    value = next((rise for rise in found if not math.isfinite(rise)), max(0.0, *found))  # 0 is that of no step at all
    spread = max(found) - min(found) if len(found) > 1 and math.isfinite(value) else math.nan
    said = "a lower bound of the maximum, which an ascent may miss"
    if not math.isfinite(value):
        return (
            value,
            math.nan,
            (max(map(_or_below, found)), math.inf),
            f"loss or gradient is {value} somewhere in reach",
        )
    if len(found) > 1:
        said += f"; the error is the difference between the best and the worst of {len(found)} starts"
    return value, spread, (value, math.inf), said


def _or_below(rise: float) -> float:
    return -math.inf if math.isnan(rise) else rise


def _ascent_words(steps: int, starts: int) -> str:
    if starts == 1:
        return f"{steps} steps uphill from the centre"
    return f"{steps} steps uphill from each of {starts} starts, the centre and random ones"


def _ascents(ground: Ground, scale: Tensor, radius: float, steps: int, starts: int, seed: int) -> list[float]:
    """The rise that each ascent reaches, in as many as there was time for."""
    require_count("steps", steps)
    require_count("starts", starts)
    generator = torch.Generator().manual_seed(seed)
    rises: list[float] = []
    with suppress(Stopped):
        for number in range(starts):
            drawn = ground.normal(generator)
            drawn *= radius / torch.linalg.vector_norm(drawn)
            rises.append(_ascend(ground, scale, ground.origin() if number == 0 else drawn, drawn, radius, steps))
    return rises


def _ascend(ground: Ground, scale: Tensor, start: Tensor, elsewhere: Tensor, radius: float, steps: int) -> float:
    """Go uphill in the ball |u| <= radius, where the step is scale * u; halve the stride where that led down.

    From the centre a stride of the ball's diameter is cut off at its surface: that is the step of the papers. Further
    steps of that stride are nearly those of a power iteration, which on a quadratic ends at the largest eigenvalue.
    """
    at, stride = start, 2 * radius
    height, slope = ground.slope(scale * at)
    if not at.any() and not (scale * slope).any():  # nothing leads away from an exact stationary point
        at = elsewhere
        height, slope = ground.slope(scale * at)
    with suppress(Stopped):
        for step in range(1, steps + 1):
            uphill = scale * slope
            length = float(torch.linalg.vector_norm(uphill))
            if not math.isfinite(height) or not length:
                break
            if not math.isfinite(length):
                return math.nan
            ahead = at + stride / length * uphill
            ahead = ahead * (radius / max(radius, float(torch.linalg.vector_norm(ahead))))
            if step < steps:
                found, its = ground.slope(scale * ahead)
            else:
                found, its = ground.loss(scale * ahead), slope
            if found <= height:
                stride /= 2
            else:  # higher, or not a number
                at, height, slope = ahead, found, its
    return height - ground.center
