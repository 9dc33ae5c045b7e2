"""Uphill within bounds: a lower bound of the largest loss near a point."""

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
    """The rises of the loss that ascents from some starts reach; fewer where it was stopped.

    Parameters
    ----------
    ground : Neighborhood
    lift, pull : callable
        From bounded coordinates u to a step, and from a gradient by steps to one by u: a linear map and its transpose.
    ahead : callable
        ``ahead(u, uphill, stride)`` with a stride in (0, 1]: the next u within the bounds.
    starts : sequence of Tensor
        u to begin with; zeros for the centre.
    elsewhere : Tensor
        u to begin with instead, where the centre is an exact stationary point and nothing leads away from it.
    steps : int
        Of each ascent.
    """
    rises: list[float] = []
    with suppress(Stopped):
        for start in starts:
            rises.append(_ascend(ground, lift, pull, ahead, start, elsewhere, steps))  # noqa: PERF401 - see `suppress`
    return rises


def _ascend(
    ground: Neighborhood, lift: Map, pull: Map, ahead: Ahead, start: Tensor, elsewhere: Tensor, steps: int
) -> float:
    """Take steps of stride 1; halve the stride where one led down."""
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
    """Value, error, interval and what they are, of ascents to the same maximum; what is not finite comes first."""
    if not found:
        return math.nan, math.nan, (-math.inf, math.inf), "stopped before the first ascent ended"
    value = next((rise for rise in found if not math.isfinite(rise)), max(0.0, *found))  # 0 is that of no step at all
    if not math.isfinite(value):
        lowest = -math.inf if math.isnan(value) else value
        return value, math.nan, (lowest, math.inf), f"loss or gradient is {value} somewhere in reach"
    said = "a lower bound of the maximum, which an ascent may miss"
    if len(found) == 1:
        return value, math.nan, (value, math.inf), said
    said += f"; the error is the difference between the best and the worst of {len(found)} starts"
    return value, max(found) - min(found), (value, math.inf), said


def ascent_words(steps: int, starts: int) -> str:
    """How the maximum was looked for."""
    uphill = f"{steps} step{'s' * (steps > 1)} uphill from "
    return uphill + ("the centre" if starts == 1 else f"each of {starts} starts, the centre and random ones")
