"""A ball: an optimiser that is dropped at a place of the chart and rolls through all of weight space.

It moves in every direction that the objective has, not in the chart alone; what is drawn of it is its shadow, beside
how far it left the chart and the loss where it truly is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lossnav import curvature
from lossnav import params as algebra
from lossnav.charts import Chart
from lossnav.errors import ChartError, DataError, OptionError
from lossnav.objective.objective import Objective

MOMENTUM = 0.9


class OptimizerStep(NamedTuple):
    """Where the ball is.

    Attributes
    ----------
    number : int
        Steps taken; 0 is where it was dropped.
    loss : float
        Of the objective, over all its data, at the ball itself.
    at : ndarray of shape (k,)
        Coordinates of the closest point of the chart.
    off : float
        Distance from there, in units of weights.
    """

    number: int
    loss: float
    at: NDArray[np.float64]
    off: float


def roll(
    objective: Objective,
    chart: Chart,
    start: ArrayLike,
    optimizer: str = "sgd",
    lr: float = 0.1,
    steps: int = 200,
    batch: int | None = None,
    seed: int = 0,
) -> Iterator[OptimizerStep]:
    """Roll from a place of an affine chart, and say at every step where it is.

    The optimisers are torch's own, SGD (momentum 0.9) and Adam. BatchNorm and dropout are as the objective has them: it
    is the landscape on the screen that the ball rolls over, not a training run.

    Parameters
    ----------
    objective : Objective
    chart : Chart
    start : array of shape (k,)
    optimizer : "sgd", "momentum" or "adam"
    lr : float
    steps : int
    batch : int, optional
        Samples a step, drawn without replacement until too few are left for a batch; None: all of them.
    seed : int
        Of the order in which samples are drawn.

    Yields
    ------
    OptimizerStep
        One where it was dropped and one after each step; the last is where the loss is no longer finite.

    Raises
    ------
    ChartError
        If the chart is bent: there is no shadow on it.
    OptionError
        If the batch is larger than the data, or there is none.

    Examples
    --------
    >>> from lossnav.charts import Line
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    >>> line = Line(bowl.params, {"x": torch.tensor([1.0, 0.0])})
    >>> [round(step.loss, 4) for step in roll(bowl, line, [1.0], lr=0.25, steps=2)]
    [1.0, 0.25, 0.0625]
    """
    if not chart.affine:
        raise ChartError(f"A {type(chart).__name__} is bent, and a ball has no shadow on it. Use a line or a plane.")
    batches = _MiniBatches(objective, batch, seed) if batch is not None else None
    point = {name: tensor.clone() for name, tensor in chart(start).items()}
    moving = _optimizer(optimizer, list(point.values()), lr)
    for number in range(steps + 1):
        last = number == steps
        place = chart.project(point)
        here = algebra.Checkpoint(point, chart.buffers(place.coords))  # those of its shadow: of the landscape shown
        if batches is None and not last:
            hessian = curvature.Hessian(objective, here)
            loss, flat, _ = hessian.derive()  # both in one pass over the data
        else:
            loss = objective.evaluate(here)["loss"]
        yield OptimizerStep(number, loss, place.coords, place.residual)
        if last or not math.isfinite(loss):
            return
        if batches is not None:
            hessian = curvature.Hessian(next(batches), here)
            flat = hessian.derive().gradient
        for name, slope in hessian.from_flat(flat).items():
            point[name].grad = slope.to(point[name].dtype)
        moving.step()


class _MiniBatches(Iterator[Objective]):
    """The objective on one mini-batch after the other."""

    def __init__(self, objective: Objective, size: int, seed: int) -> None:
        if objective.batches is None:
            raise OptionError("This objective has no data to draw batches of. Roll without them.")
        if objective.samples is None:
            objective.evaluate(objective.params)
        self.objective, self.size, self.total = objective, size, int(objective.samples or 0)
        if size > self.total:
            raise OptionError(f"A batch of {size:,} is more than the {self.total:,} samples. Ask for fewer.")
        self.generator = torch.Generator().manual_seed(seed)
        self.waiting: list[int] = []

    def __next__(self) -> Objective:
        if len(self.waiting) < self.size:  # what is left is too few for a batch
            self.waiting = torch.randperm(self.total, generator=self.generator).tolist()
        rows, self.waiting = self.waiting[: self.size], self.waiting[self.size :]
        assert self.objective.batches is not None
        part = copy.copy(self.objective)
        try:
            part.batches = self.objective.batches.take(sorted(rows))
        except DataError as error:
            raise OptionError(f"No batches can be drawn: {error} Roll without them.") from error
        return part


def _optimizer(kind: str, tensors: list[Tensor], lr: float) -> torch.optim.Optimizer:
    if kind == "adam":
        return torch.optim.Adam(tensors, lr=lr)
    return torch.optim.SGD(tensors, lr=lr, momentum=MOMENTUM if kind == "momentum" else 0.0)
