"""Checks before a run: objective, chart and sampler fit, and the loss at the centre is finite and deterministic."""

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
from lossnav.params import Params
from lossnav.samplers import Sampler

_REPEAT_TOLERANCE = 1e-5  # relative; another order of summation stays below it, dropout does not


def require_fit(objective: Objective, chart: Chart, sampler: Sampler) -> tuple[Objective, Chart]:
    """Raise unless chart, objective and sampler fit together and no metric has the name of a coordinate.

    Returns the objective and the chart adapted to each other (see `meet`).
    """
    objective, chart = meet(objective, chart)
    objective.require_same_structure(chart.center, "the chart's centre")
    if tuple(sampler.dims) != tuple(chart.dims):
        raise SamplerError(
            f"The sampler has the coordinates ({', '.join(sampler.dims)}), but the chart has "
            f"({', '.join(chart.dims)}). "
            f"Pass ln.Grid({', '.join(f'{dim}=(-1, 1, 51)' for dim in chart.dims)})."
        )
    if taken := set(objective.metrics) & {*chart.dims, "point"}:
        raise OptionError(f"A metric and a coordinate have the same name, {taken.pop()!r}. Rename the metric.")
    return objective, chart


def probe_points(sampler: Sampler, seed: int = 0) -> NDArray[np.float64]:
    """Return the points at which a faster path must agree with the plain one: centre, three random points, corners.

    Two of the random points are drawn by the seed of the run; the other points are the same for every run.
    """
    box = sampler.box
    drawn = np.random.default_rng([seed, *b"probes"]).uniform(box[:, 0], box[:, 1], size=(2, len(box)))
    between = np.random.default_rng(0).uniform(box[:, 0], box[:, 1], size=(1, len(box)))
    return np.concatenate([np.zeros((1, len(box))), drawn, between, mesh(box)])


def losses_of(
    objective: Objective, chart: Chart, at: Callable[[Point], Params] | None = None
) -> Callable[[Point], Point]:
    """Return a function that evaluates losses by the plain path; nan if a point raises.

    `at` returns the weights at some coordinates; by default it is the chart.
    """
    there = chart if at is None else at

    def losses(points: Point) -> Point:
        found = np.full(len(points), math.nan)
        for outcome in Local(plan="plain").run(lambda point: objective.evaluate(there(point)), points):
            found[outcome.number] = outcome.values.get("loss", math.nan)
        return found

    return losses


def _check_center(function: ChartFunction) -> dict[str, float]:
    """Evaluate the loss at the centre twice: both must be finite and equal."""
    objective, origin = function.objective, np.zeros(len(function.chart.dims))
    keeping = objective.keeping_samples()
    first, second = (keeping.evaluate(function.at(origin)) for _ in range(2))
    objective.samples = keeping.samples
    loss, again = first["loss"], second["loss"]
    if not math.isfinite(loss):
        raise NonFiniteCenterError(
            f"The loss at the centre is {loss}. {_likely_reason(objective)} "
            "To evaluate the chart anyway, pass check=False."
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
        return f"The subset of {objective.samples} samples may have no target that counts: use more, or another seed."
    for name, tensor in objective.params.items():
        if not bool(torch.isfinite(tensor).all()):
            return f'The weights contain NaN or inf in "{name}": check the checkpoint.'
    with random_state.preserved(objective.seed, objective.device):
        for i, batch in enumerate(objective.batches or []):
            if any(part.is_floating_point() and not bool(torch.isfinite(part).all()) for part in tensors(batch)):
                return f"The data contains NaN or inf in batch {i}: remove it."
    return "Weights and data are finite: check the loss, and whether training diverged."
