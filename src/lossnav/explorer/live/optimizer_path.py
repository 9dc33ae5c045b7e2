"""The path of an optimiser that starts at a point of the chart.

It moves through the whole weight space, not only in the chart. The picture shows its projection on the chart; each step
also has the distance from the chart and the loss at the true position.
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
    """One step of an optimiser.

    Attributes
    ----------
    number : int
        Number of the step; 0 is the start.
    loss : float
        Of the objective, over all its data, at the true position.
    at : ndarray of shape (k,)
        Coordinates of the closest point of the chart (the projection).
    off : float
        Distance from the projection, in units of weights.
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
    """Run an optimiser from a point of an affine chart, and yield every step.

    The optimisers are torch's SGD (momentum 0.9) and Adam. BatchNorm and dropout are those of the objective: the
    optimiser minimises the landscape that is shown, which is not a training run.

    Parameters
    ----------
    objective : Objective
    chart : Chart
    start : array of shape (k,)
    optimizer : "sgd", "momentum" or "adam"
    lr : float
    steps : int
    batch : int, optional
        Samples per step, drawn without replacement until too few are left for a batch; None: all samples.
    seed : int
        Seed of the order of samples.

    Yields
    ------
    OptimizerStep
        The start and the position after each step; ends at the first loss that is not finite.

    Raises
    ------
    ChartError
        If the chart is not affine: there is no unique projection on it.
    OptionError
        If the batch is larger than the data, or the objective has no data.

    Examples
    --------
    >>> from lossnav.charts import Line
    >>> bowl = Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    >>> line = Line(bowl.params, {"x": torch.tensor([1.0, 0.0])})
    >>> [round(step.loss, 4) for step in roll(bowl, line, [1.0], lr=0.25, steps=2)]
    [1.0, 0.25, 0.0625]
    """
    if not chart.affine:
        raise ChartError(
            f"An optimiser path needs a flat chart to be projected on, got a {type(chart).__name__}. Use a "
            "line or a plane."
        )
    batches = _MiniBatches(objective, batch, seed) if batch is not None else None
    point = {name: tensor.clone() for name, tensor in chart(start).items()}
    moving = _optimizer(optimizer, list(point.values()), lr)
    for number in range(steps + 1):
        last = number == steps
        place = chart.project(point)
        here = algebra.Checkpoint(point, chart.buffers(place.coords))  # buffers as in the landscape that is shown
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
    """Iterate over copies of the objective, each on one mini-batch."""

    def __init__(self, objective: Objective, size: int, seed: int) -> None:
        if objective.batches is None:
            raise OptionError("This objective has no data, so batches cannot be drawn. Use all samples (no batch).")
        if objective.samples is None:
            objective.evaluate(objective.params)
        self.objective, self.size, self.total = objective, size, int(objective.samples or 0)
        if size > self.total:
            raise OptionError(f"batch must be at most {self.total:,}, the number of samples, got {size:,}. Use fewer.")
        self.generator = torch.Generator().manual_seed(seed)
        self.waiting: list[int] = []

    def __next__(self) -> Objective:
        if len(self.waiting) < self.size:  # too few samples are left for a batch
            self.waiting = torch.randperm(self.total, generator=self.generator).tolist()
        rows, self.waiting = self.waiting[: self.size], self.waiting[self.size :]
        assert self.objective.batches is not None
        part = copy.copy(self.objective)
        try:
            part.batches = self.objective.batches.take(sorted(rows))
        except DataError as error:
            raise OptionError(f"Batches cannot be drawn: {error} Use all samples (no batch).") from error
        return part


def _optimizer(kind: str, tensors: list[Tensor], lr: float) -> torch.optim.Optimizer:
    if kind == "adam":
        return torch.optim.Adam(tensors, lr=lr)
    return torch.optim.SGD(tensors, lr=lr, momentum=MOMENTUM if kind == "momentum" else 0.0)
