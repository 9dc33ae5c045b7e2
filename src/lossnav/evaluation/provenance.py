"""The provenance of a surface: objective, chart and engine, and statistics of the samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from lossnav import params as algebra
from lossnav._version import __version__
from lossnav.charts import Chart
from lossnav.engines import Engine, Local
from lossnav.engines.base import description_of
from lossnav.evaluation.center import require_fit
from lossnav.objective.objective import Objective
from lossnav.samplers import Sampler
from lossnav.samplers import base as sampler_base
from lossnav.surface.run_record import RunRecord
from lossnav.surface.sample_spread import spread_of


def provenance(
    objective: Objective,
    chart: Chart,
    sampler: Mapping[str, Any],
    engine: Engine,
    center: Mapping[str, float] = MappingProxyType({}),
    about: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return how the points of a run are measured, for a `RunRecord`.

    Parameters
    ----------
    objective : Objective
    chart : Chart
        Adapted to each other (`lossnav.charts.meet`).
    sampler : mapping
        The choice of points: `Sampler.describe`, or ``{"kind": "MySearch"}`` with everything its points depend on.
    engine : Engine
        The engine; ``Local(plan="plain")`` if the loop calls the objective itself.
    center : mapping, optional
        Result of the objective's ``evaluate`` at the centre of the chart.
    about : mapping, optional
        Further attributes of the surface.

    Returns
    -------
    dict of str to value
        A value that changes during the run is a function that returns it.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.zeros(2)})
    >>> line = ln.Line(bowl.params, {"x": torch.tensor([3.0, 4.0])})
    >>> list(provenance(bowl, line, {"kind": "MySearch"}, ln.Local()))[:3]
    ['objective', 'chart', 'sampler']
    """
    made = measured(objective, chart) | {"sampler": dict(sampler)} | dict(about)
    if sampling := _sampling(objective, chart, center):
        made["sampling"] = sampling
    made |= about_chart(objective, chart)
    return made | {"engine": lambda: description_of(engine), "center": dict(center)} | versions(engine)


def plan_of(objective: Objective, chart: Chart, sampler: Sampler, engine: Engine | None) -> dict[str, Any]:
    """Return the attributes that a run of `evaluate` would have, without evaluating anything.

    Raises
    ------
    StructureMismatchError, SamplerError
        If chart, objective and sampler do not fit.
    """
    objective, chart = require_fit(objective, chart, sampler)
    said = provenance(objective, chart, sampler_base.description_of(sampler), engine or Local())
    return RunRecord(chart.dims, said).attributes()


def measured(objective: Objective, chart: Chart) -> dict[str, Any]:
    """Return the attributes of objective and chart; the number of samples is known after the first pass."""
    described = objective.describe()
    return {"objective": lambda: described | {"samples": objective.samples}, "chart": chart.describe()}


def versions(engine: Engine) -> dict[str, Any]:
    """Return the versions and the number of threads."""
    made = {"lossnav_version": __version__, "torch_version": torch.__version__}
    return made | {"torch_threads": lambda: engine.threads}


def about_chart(objective: Objective, chart: Chart) -> dict[str, Any]:
    """Return further attributes of the chart (docs/schema.md): buffers, files, and entries that do not move."""
    said: dict[str, Any] = {}
    if foreign := _foreign_buffers(objective, chart):
        said["foreign_buffers"] = foreign
    if chart.files:
        said["checkpoints"] = dict(chart.files)
    still = chart.still()
    sizes = {name: tensor.numel() for name, tensor in chart.center.items()}
    of = None if still is None else {name: [count, sizes[name]] for name, count in still.items()}
    return said | {"still": None if of is None else {"entries": sum(sizes.values()), "of": of}}


def _foreign_buffers(objective: Objective, chart: Chart) -> list[str]:
    """Return buffers that are the objective's at every point, if the weights at the centre are not."""
    if chart.knows_buffers or chart.anchors is not None:
        return []
    own = objective.params
    if all(algebra.same(t.to(own[name].device, own[name].dtype), own[name]) for name, t in chart.center.items()):
        return []
    return objective.anatomy.missing(())


def _sampling(objective: Objective, chart: Chart, center: Mapping[str, float]) -> dict[str, Any]:
    """Return statistics of the samples at the centre and of the data, for the errors of the losses (docs/schema.md)."""
    samples = getattr(center, "samples", None)
    if samples is None:
        return {}
    losses, weights = samples
    said = spread_of(losses, weights, objective.labels) | objective.sampling()
    if said.get("population") and algebra.fingerprint(chart.center) == algebra.fingerprint(objective.params):
        error = center.get("loss_se", math.nan)
        if error > 0:
            said["population"]["off"] = (said["population"]["loss"] - center["loss"]) / error
    return said
