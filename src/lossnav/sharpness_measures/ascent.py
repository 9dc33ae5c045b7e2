"""Ascent within bounds: a lower bound of the largest loss near a point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from lossnav.sharpness_measures.neighborhood import Neighborhood, Stopped
from lossnav.sharpness_measures.result import Bounds

Map = Callable[[Tensor], Tensor]
Ahead = Callable[[Tensor, Tensor, float], Tensor]


def ascents(
    ground: Neighborhood, lift: Map, pull: Map, ahead: Ahead, starts: Sequence[Tensor], elsewhere: Tensor, steps: int
) -> list[float]:
    """Return the rise of the loss that the ascent from each start reaches; fewer if it was stopped.

    Parameters
    ----------
    ground : Neighborhood
    lift, pull : callable
        A linear map from bounded coordinates u to a step, and its transpose, from a gradient by steps to one by u.
    ahead : callable
        ``ahead(u, uphill, stride)`` with a stride in (0, 1] returns the next u within the bounds.
    starts : sequence of Tensor
        Start values of u; zeros for the centre.
    elsewhere : Tensor
        Start value instead of the centre, if the centre is exactly stationary.
    steps : int
        Number of steps of each ascent.
    """
    rises: list[float] = []
    with suppress(Stopped):
        for start in starts:
            rises.append(_ascend(ground, lift, pull, ahead, start, elsewhere, steps))  # noqa: PERF401 - see `suppress`
    return rises


def _ascend(
    ground: Neighborhood, lift: Map, pull: Map, ahead: Ahead, start: Tensor, elsewhere: Tensor, steps: int
) -> float:
    """Take steps of stride 1; halve the stride after a step that decreased the loss."""
    at, stride = start, 1.0
    height, slope = ground.slope(lift(at))
    if not at.any() and not pull(slope).any():
        at = elsewhere
        height, slope = ground.slope(lift(at))
    with suppress(Stopped):
        for step in range(1, steps + 1):
            uphill = pull(slope)
            if not math.isfinite(height) or not uphill.any():
                break
            if not bool(torch.isfinite(uphill).all()):
                return math.nan
            onwards = ahead(at, uphill, stride)
            if step < steps:
                found, its = ground.slope(lift(onwards))
            else:
                found, its = ground.loss(lift(onwards)), slope
            if found <= height:
                stride /= 2
            else:  # higher, or not a number
                at, height, slope = onwards, found, its
    return height - ground.center


def largest(found: Sequence[float]) -> tuple[float, float, Bounds, str]:
    """Return value, error, interval and their description from several ascents; non-finite ones count first."""
    if not found:
        return math.nan, math.nan, (-math.inf, math.inf), "stopped before the first ascent ended"
    value = next((rise for rise in found if not math.isfinite(rise)), max(0.0, *found))  # 0 is the rise at the centre
    if not math.isfinite(value):
        lowest = -math.inf if math.isnan(value) else value
        return value, math.nan, (lowest, math.inf), f"the loss or gradient is {value} somewhere within reach"
    said = "a lower bound of the maximum, which an ascent may miss"
    if len(found) == 1:
        return value, math.nan, (value, math.inf), said
    said += f"; the error is the difference between the best and the worst of {len(found)} starts"
    return value, max(found) - min(found), (value, math.inf), said


def ascent_words(steps: int, starts: int) -> str:
    """Describe the search for the maximum."""
    uphill = f"{steps} step{'s' * (steps > 1)} uphill from "
    return uphill + ("the centre" if starts == 1 else f"each of {starts} starts, the centre and random ones")
