"""Training the bends of a curve between two networks: the state of a training, and its steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossnav import params as algebra
from lossnav._utils import mixing
from lossnav._utils.progress import Progress
from lossnav._utils.signals import StopRequests
from lossnav.errors import ObjectiveError
from lossnav.evaluation.minibatches import ShuffledData
from lossnav.evaluation.slopes import Slopes
from lossnav.params import Checkpoint, Params

_FULL, _LEAST, _LOW = 0.5, 0.9, 0.01  # Garipov et al.'s code: lr is full for half of the training, then falls to 1 %


@dataclass
class PathState:
    """Where a training stands: it goes on from here to the same bits.

    Attributes
    ----------
    points : list of dict of str to Tensor
        The control points, ends included; bends in float32 or wider.
    velocities : list of dict of str to Tensor
        Of the bends.
    passes, step : int
        Complete passes over the data, and steps in the current one.
    cycle : int
        Complete cycles of a band.
    places, losses : list of float
        Of every step: t, and the loss of the minibatch there (of a band 0.5, and the mean over its pivots).
    """

    points: list[Params]
    velocities: list[Params]
    passes: int = 0
    step: int = 0
    cycle: int = 0
    places: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training, as `connect` documents them."""

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    seed: int


def straight(a: Mapping[str, Tensor], b: Mapping[str, Tensor], bends: int) -> PathState:
    """Return the state before a training: bends on the straight line, at equal distances."""
    ends = [{name: _wide(tensor) for name, tensor in end.items()} for end in (a, b)]
    inner = [{name: torch.lerp(tensor, ends[1][name], j / (bends + 1)) for name, tensor in ends[0].items()}
             for j in range(1, bends + 1)]  # fmt: skip
    return PathState([ends[0], *inner, ends[1]], [zeros_like(point) for point in inner])


def zeros_like(point: Mapping[str, Tensor]) -> Params:
    """Return zeros with the shapes of a point."""
    return {name: torch.zeros_like(tensor) for name, tensor in point.items()}


def _wide(tensor: Tensor) -> Tensor:
    """A copy in float32 or wider: a step of training is smaller than the rounding of half precision."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)


def mixture(coefficients: NDArray[np.float64], points: list[Params]) -> Params:
    """Return Σ c_j w_j."""
    made = {name: tensor * float(coefficients[0]) for name, tensor in points[0].items()}
    for c, point in zip(coefficients[1:], points[1:], strict=True):
        if c:
            for name, tensor in made.items():
                tensor.add_(point[name], alpha=float(c))
    return made


def learning_rate(lr: float, fraction: float) -> float:
    """Return the learning rate after a fraction of the training: constant for half of it, then linear down to 1 %.

    Examples
    --------
    >>> [round(learning_rate(1.0, fraction), 3) for fraction in (0.0, 0.5, 0.7, 0.9, 1.0)]
    [1.0, 1.0, 0.505, 0.01, 0.01]
    """
    if fraction <= _FULL:
        return lr
    return lr * max(_LOW, 1 - (1 - _LOW) * (fraction - _FULL) / (_LEAST - _FULL))


def update(
    point: Params, velocity: Params, slope: Mapping[str, Tensor], factor: float, lr: float, momentum: float
) -> None:
    """Move a bend by a step of SGD with momentum, in place; the gradient is `factor` times `slope`."""
    for name, gradient in slope.items():
        velocity[name].mul_(momentum).add_(gradient.to(velocity[name].dtype), alpha=factor)
        point[name].add_(velocity[name], alpha=-lr)


def require_finite_step(loss: float, where: str, lr: float) -> None:
    """Raise ObjectiveError if the loss of a step is not finite."""
    if not math.isfinite(loss):
        raise ObjectiveError(
            f"The loss became {loss} {where}, so the curve would be lost. Use a smaller lr than {lr:g}; a store keeps "
            "what there was before."
        )


def train_bends(
    kind: str,
    slopes: Slopes,
    data: ShuffledData,
    state: PathState,
    options: TrainingOptions,
    buffers_at: Callable[[float], Params],
    bar: Progress,
    stop: StopRequests,
    keep: Callable[[], None],
) -> None:
    """Train the bends of a Bézier curve or a chain, in place, until done or stopped (Garipov et al. 2018, algorithm).

    One step: t ~ U[0, 1], a minibatch, and the gradient of its loss at w(t) + wd/2 |w(t)|²; bend j takes dw/dw_j =
    c_j(t) times that.
    """
    of, n = mixing.CURVES[kind][0], len(state.points)
    total = options.epochs * data.steps
    while state.passes < options.epochs:
        for batch, t in data.batches(state.passes, state.step):
            done = state.passes * data.steps + state.step
            c = of(t, n)
            point = mixture(c, state.points)
            loss, slope = slopes(Checkpoint(point, buffers_at(t)), batch, _seed(options.seed, done))
            require_finite_step(loss, f"at t = {t:.3f}, after {done:,} of {total:,} steps", options.lr)
            if options.weight_decay:
                slope = {name: g.to(point[name].dtype).add(point[name], alpha=options.weight_decay)
                         for name, g in slope.items()}  # fmt: skip
            lr = learning_rate(options.lr, done / total)
            for j in range(1, n - 1):
                update(state.points[j], state.velocities[j - 1], slope, float(c[j]), lr, options.momentum)
            state.places.append(t)
            state.losses.append(loss)
            state.step += 1
            bar.advance()
            if stop.signal is not None:
                break
            keep()
        if state.step == data.steps:
            state.passes, state.step = state.passes + 1, 0
        if stop.signal is not None:
            return


def _seed(seed: int, step: int) -> int:
    """Seed of the random numbers that the model draws in a step."""
    return int(np.random.SeedSequence([seed, step, 1]).generate_state(1)[0])


def distances(points: list[Params]) -> list[float]:
    """Return the distances of neighbouring control points."""
    return [algebra.norm(algebra.subtract(b, a)) for a, b in itertools.pairwise(points)]
