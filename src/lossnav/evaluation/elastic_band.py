"""AutoNEB: a band of pivots between two networks that relaxes to a path of low loss, with more pivots where needed.

Each pivot moves by the gradient without its part along the band; the tangent is that to the neighbour of higher loss,
and at a pivot that is the highest or lowest of three a mean of both. Then equal distances along the band are restored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lossnav import params as algebra
from lossnav._utils.progress import Progress
from lossnav._utils.signals import StopRequests
from lossnav.evaluation.minibatches import ShuffledData
from lossnav.evaluation.path_training import (
    PathState,
    TrainingOptions,
    _seed,
    distances,
    learning_rate,
    require_finite_step,
    update,
    zeros_like,
)
from lossnav.evaluation.slopes import Slopes
from lossnav.params import Checkpoint, Params

Array = NDArray[np.float64]

EXCESS = 0.1  # of the range of the profile: a segment that rises by more above its own chord gets a pivot
BETWEEN = 4  # points of the profile inside each segment


def tangent(points: Sequence[Params], losses: Sequence[float], i: int) -> Params:
    """Return the unit tangent at pivot i by its uphill neighbour (Henkelman and Jónsson 2000, eq. 8-11).

    Parameters
    ----------
    points : sequence of n points
    losses : sequence of n float
    i : int
        From 1 to n - 2.
    """
    ahead, behind = (algebra.subtract(points[i + 1], points[i]), algebra.subtract(points[i], points[i - 1]))
    up, down = losses[i + 1] - losses[i], losses[i - 1] - losses[i]
    if up > 0 >= down:
        weights = (1.0, 0.0)
    elif down > 0 >= up:
        weights = (0.0, 1.0)
    else:  # the highest or the lowest of three: both, the larger difference for the higher neighbour
        larger, smaller = max(abs(up), abs(down)), min(abs(up), abs(down))
        weights = (larger, smaller) if losses[i + 1] > losses[i - 1] else (smaller, larger)
        weights = weights if larger > 0 else (1.0, 1.0)
    made = algebra.combine(zeros_like(ahead), list(weights), [ahead, behind])
    length = algebra.norm(made)
    return {name: tensor / length for name, tensor in made.items()} if length else made


def without_part_along(slope: Params, along: Params) -> Params:
    """Return a gradient minus its part along a unit vector."""
    part = algebra.dot(slope, along)
    return {name: tensor - part * along[name].to(tensor.dtype) for name, tensor in slope.items()}


def space_equally(points: list[Params]) -> None:
    """Move the inner points along the segments between them until all distances along the band are the same.

    In place; the ends stay.
    """
    steps = np.array(distances(points))
    at = np.concatenate([[0.0], np.cumsum(steps)])
    if not at[-1] > 0:
        return
    wanted = np.linspace(0.0, at[-1], len(points))[1:-1]
    made = []
    for place in wanted:
        j = min(int(np.searchsorted(at, place, side="right")) - 1, len(steps) - 1)
        share = float((place - at[j]) / steps[j]) if steps[j] else 0.0
        a, b = points[j], points[j + 1]
        made.append({name: tensor.lerp(b[name], share) for name, tensor in a.items()})
    points[1:-1] = made


def places_for_pivots(profile: Array, excess: float = EXCESS) -> list[tuple[int, float]]:
    """Return the segments in which a pivot is to be inserted, and where in each: at the largest rise above its chord.

    Parameters
    ----------
    profile : array of shape (segments, k + 2)
        Losses at equal distances along every segment, its ends included.
    excess : float
        Smallest rise, as a fraction of the range of the profile.

    Examples
    --------
    >>> places_for_pivots(np.array([[0.0, 0.5, 1.0], [1.0, 2.0, 0.0]]))
    [(1, 0.5)]
    """
    spread = float(np.ptp(profile))
    share = np.linspace(0.0, 1.0, profile.shape[1])
    above = profile - (profile[:, :1] * (1 - share) + profile[:, -1:] * share)
    best = above.argmax(axis=1)
    return [(i, float(share[j])) for i, j in enumerate(best) if spread > 0 and above[i, j] > excess * spread]


def insert_pivots(state: PathState, profile: Array) -> int:
    """Insert pivots where a profile asks for them, at rest; return how many."""
    wanted = places_for_pivots(profile)
    for i, share in reversed(wanted):
        a, b = state.points[i], state.points[i + 1]
        state.points.insert(i + 1, {name: tensor.lerp(b[name], share) for name, tensor in a.items()})
        state.velocities.insert(i, zeros_like(a))
    return len(wanted)


def train_band(
    slopes: Slopes,
    data: ShuffledData,
    state: PathState,
    options: TrainingOptions,
    cycles: int,
    buffers_at: Callable[[float], Params],
    profile: Callable[[list[Params]], Array],
    bar: Progress,
    stop: StopRequests,
    keep: Callable[[], None],
) -> None:
    """Relax a band, in place, until done or stopped (Draxler et al. 2018, algorithm 1 and 2).

    A cycle is `epochs` passes; after each but the last, pivots are inserted. All pivots see the same minibatch.
    """
    while state.cycle < cycles:
        total = options.epochs * data.steps
        while state.passes < options.epochs:
            number = state.cycle * options.epochs + state.passes
            for batch, _ in data.batches(number, state.step):
                done = state.passes * data.steps + state.step
                seed = _seed(options.seed, number * data.steps + state.step)
                lr = learning_rate(options.lr, (state.cycle + done / total) / cycles)
                state.losses.append(_relax(slopes, batch, state, options, lr, seed, buffers_at))
                state.places.append(0.5)
                state.step += 1
                bar.advance()
                if stop.signal is not None:
                    break
                keep()
            if state.step == data.steps:
                state.passes, state.step = state.passes + 1, 0
            if stop.signal is not None:
                return
        if state.cycle + 1 < cycles:
            insert_pivots(state, profile(state.points))
        state.cycle, state.passes = state.cycle + 1, 0


def _relax(
    slopes: Slopes,
    batch: object,
    state: PathState,
    options: TrainingOptions,
    lr: float,
    seed: int,
    buffers_at: Callable[[float], Params],
) -> float:
    """Move all pivots by one step; return their mean loss."""
    last = len(state.points) - 1
    losses, gradients = [], []
    for i, point in enumerate(state.points):
        inner = 0 < i < last
        loss, slope = slopes(Checkpoint(point, buffers_at(i / last)), batch, seed, differentiate=inner)
        require_finite_step(loss, f"at pivot {i} of {last - 1}", options.lr)
        decay = options.weight_decay
        losses.append(loss + (decay / 2 * algebra.dot(point, point) if decay else 0.0))
        gradients.append({name: g.to(point[name].dtype).add(point[name], alpha=decay) for name, g in slope.items()})
    along = [tangent(state.points, losses, i) for i in range(1, last)]
    for i in range(1, last):
        force = without_part_along(gradients[i], along[i - 1])
        update(state.points[i], state.velocities[i - 1], force, 1.0, lr, options.momentum)
    space_equally(state.points)
    return float(np.mean(losses[1:-1]))
