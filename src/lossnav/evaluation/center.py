"""The centre of a chart, evaluated before anything else: whether it is the objective's own, and repeats."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from lossnav._utils import random_state
from lossnav._utils.geometry import mesh
from lossnav.acceleration import ChartFunction
from lossnav.charts import Chart, meet
from lossnav.engines import Local
from lossnav.engines.base import Point
from lossnav.errors import (
    NonFiniteCenterError,
    NotDeterministicError,
    OptionError,
    SamplerError,
)
from lossnav.objective.batch_tensors import tensors
from lossnav.objective.objective import Objective
from lossnav.samplers import Sampler

_REPEAT_TOLERANCE = 1e-5  # relative; kernels that add in another order stay below it, dropout does not


def require_fit(objective: Objective, chart: Chart, sampler: Sampler) -> tuple[Objective, Chart]:
    """Raise unless chart, objective and sampler belong together, and no metric is called as a coordinate is.

    Returns objective and chart as they are for each other (see `meet`).
    """
    objective, chart = meet(objective, chart)
    objective.require_same_structure(chart.center, "the chart's centre")
    if tuple(sampler.dims) != tuple(chart.dims):
        raise SamplerError(
            f"The sampler asks for ({', '.join(sampler.dims)}) and the chart has ({', '.join(chart.dims)}). "
            f"Pass ln.Grid({', '.join(f'{dim}=(-1, 1, 51)' for dim in chart.dims)})."
        )
    if taken := set(objective.metrics) & {*chart.dims, "point"}:
        raise OptionError(f"A metric and a coordinate are both called {taken.pop()!r}. Give the metric another name.")
    return objective, chart


def probe_points(sampler: Sampler, seed: int = 0) -> NDArray[np.float64]:
    """Points at which a faster way must agree with the plain one: centre, two random ones, one between, corners.

    The random ones are the run's own, drawn by the seed; the others are the same for every run.
    """
    box = sampler.box
    drawn = np.random.default_rng([seed, *b"probes"]).uniform(box[:, 0], box[:, 1], size=(2, len(box)))
    between = np.random.default_rng(0).uniform(box[:, 0], box[:, 1], size=(1, len(box)))
    return np.concatenate([np.zeros((1, len(box))), drawn, between, mesh(box)])


def losses_of(objective: Objective, chart: Chart) -> Callable[[Point], Point]:
    """Losses by the plain path, nan where a point raises."""

    def losses(points: Point) -> Point:
        found = np.full(len(points), math.nan)
        for outcome in Local(plan="plain").run(ChartFunction(objective, chart), points):
            found[outcome.number] = outcome.values.get("loss", math.nan)
        return found

    return losses


def _check_center(objective: Objective, chart: Chart) -> dict[str, float]:
    """Evaluate the centre twice: it must be finite, and the same."""
    origin = np.zeros(len(chart.dims))
    keeping = objective.keeping_samples()
    first, second = (keeping.evaluate(chart(origin)) for _ in range(2))
    objective.samples = keeping.samples
    loss, again = first["loss"], second["loss"]
    if not math.isfinite(loss):
        raise NonFiniteCenterError(
            f"The loss at the centre is {loss}. {_likely_reason(objective)} "
            "Pass check=False to evaluate the chart all the same."
        )
    if not math.isclose(loss, again, rel_tol=_REPEAT_TOLERANCE):
        raise NotDeterministicError(
            f"Two passes over the data gave {loss:.6g} and {again:.6g} at the same point. Usual causes: augmentation, "
            "shuffled data with drop_last=True, a model that keeps state between calls. Try a loader without "
            "augmentation, or pass check=False to accept the noise."
        )
    return first


def _likely_reason(objective: Objective) -> str:
    if objective.population is not None:
        return f"The {objective.samples} samples drawn may hold no target that counts: draw more, or by another seed."
    for name, tensor in objective.params.items():
        if not bool(torch.isfinite(tensor).all()):
            return f'The weights hold NaN or inf in "{name}": check the checkpoint.'
    with random_state.preserved(objective.seed, objective.device):
        for i, batch in enumerate(objective.batches or []):
            if any(part.is_floating_point() and not bool(torch.isfinite(part).all()) for part in tensors(batch)):
                return f"The data holds NaN or inf in batch {i}: clean it."
    return "Weights and data are finite: check the loss, and that training did not diverge."
