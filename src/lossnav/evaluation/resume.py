"""Resume a run from its store alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lossnav import samplers
from lossnav._utils.paths import Location, beside, is_local, is_there_file, is_url, name_of
from lossnav.charts.io import open_chart, require_same
from lossnav.errors import ChartError, CheckpointError, DirectionError, NotATrajectoryError, OptionError
from lossnav.evaluation import views
from lossnav.evaluation.evaluate import evaluate
from lossnav.specs.objective_of import rebuild
from lossnav.specs.trust import Asked, require_trust
from lossnav.storage.keys import StoredDocument
from lossnav.surface.run_identity import put_together
from lossnav.surface.zarr_io import open_surface

if TYPE_CHECKING:
    import xarray as xr

if TYPE_CHECKING:
    from lossnav.charts import Chart
    from lossnav.engines import Engine
    from lossnav.objective.objective import Objective


def resume(
    store: Location,
    objective: Objective | None = None,
    *,
    spec: str | None = None,
    trust: bool | Asked = False,
    engine: Engine | None = None,
    progress: bool | None = None,
    on_update: Callable[[xr.Dataset], object] | None = None,
) -> xr.Dataset:
    """Resume a stopped run from its store alone.

    A store is data: the code that it names as the origin of its objective is run only if you allow it.

    Parameters
    ----------
    store : path, fsspec URL or zarr store
        The ``store=`` of `evaluate`. A complete run is returned as it is.
    objective : Objective, optional
        The objective of the run. By default it is made from the SPEC of the command line that it came from.
    spec : str, optional
        That SPEC, given again; the one that the store names is then ignored. (The zoo needs none.)
    trust : bool or callable
        Whether the code that the store names may be run, if it is in the project of the working directory; a function
        is called with ``file:name`` and decides.
    engine : Engine, optional
        By default `Local` with the precision of the run.
    progress, on_update
        As in `evaluate`.

    Returns
    -------
    xarray.Dataset
        The surface.

    Raises
    ------
    NotASurfaceError
        If the store is not a surface.
    UntrustedCodeError
        If the store names code, and neither `objective`, `spec` nor `trust` allows it to be run.
    OptionError
        If the store does not record its objective, chart or sampler.
    ChartError
        If the directions cannot be made from their recipes or from stored tensors.
    PlanMismatchError
        If objective, weights, data or versions differ from those of the run; the message lists the differences.

    Examples
    --------
    >>> import lossnav as ln
    >>> surface = ln.resume("run.zarr", spec="my_project.py:objective")  # doctest: +SKIP
    """
    surface = open_surface(store)
    said = StoredDocument(surface.attrs)
    if made_by := put_together(said):
        raise OptionError(
            f"{name_of(store)} is not the measurement of one run: its attributes contain {made_by}. Evaluate it again."
        )
    if "curvature" in said:
        raise OptionError(
            f"{name_of(store)} contains curvature, which resume does not evaluate. Repeat the same call of "
            "ln.evaluate_curvature: it resumes the run."
        )
    if "repair" in said:
        raise OptionError(
            f"{name_of(store)} was evaluated with repair=, and does not contain the repair data. Repeat the same call "
            "of ln.evaluate, with the same repair= and store=: it resumes the run."
        )
    if objective is None:
        objective = objective_of(said["objective"], store, trust, spec=spec)
    objective = objective.moving_as(said["objective"])
    kind = samplers.kinds().get(str(said["sampler"]["kind"]))
    if kind is None:
        raise OptionError(
            f"The sampler of {name_of(store)}, {said['sampler']['kind']}, is not registered. Repeat the same call of "
            "ln.evaluate, or register its class: @lossnav.samplers.register()."
        )
    chart = chart_of(said, objective, store)
    if engine is None:
        from lossnav.engines import Local

        engine = Local(*asked_of(said))
    options: dict[str, Any] = {"engine": engine, "progress": progress, "on_update": on_update}
    return evaluate(objective, chart, kind.sampler.again(said["sampler"]), store=store, **options)


def chart_of(attributes: Mapping[str, Any], objective: Objective, store: Location | None = None) -> Chart:
    """Make the chart of a stored run: from its recipe, from checkpoints, or from tensors stored beside it.

    Parameters
    ----------
    attributes : mapping
        Attributes of the surface.
    objective : Objective
        Objective of the run.
    store : path, fsspec URL or zarr store, optional
        The store, beside which directions may be stored.

    Raises
    ------
    ChartError
        If it cannot be made, or differs; the message says why.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> bowl = ln.Objective.from_function(lambda p: (p["x"] ** 2).sum(), {"x": torch.ones(2)})
    >>> line = ln.Line(bowl.params, ln.directions.gradient(bowl))
    >>> surface = ln.evaluate(bowl, line, ln.Grid(alpha=(-1, 1, 3)))
    >>> chart_of(surface.attrs, bowl)
    Line(alpha; Direction(kind='gradient', norm=2.828))
    """
    kept = beside(store) if store is not None and (is_local(store) or is_url(store)) else None
    view = (attributes["objective"].get("origin") or {}).get("view")
    if view is None or (kept is not None and is_there_file(kept)):
        return open_chart(attributes["chart"], objective, kept, attributes.get("checkpoints"))
    try:
        chart = views.again(
            objective.moving(objective.moves), view
        ).chart  # as it was before it was adapted to this chart
    except (CheckpointError, DirectionError, NotATrajectoryError, OptionError) as error:
        raise ChartError(f"The source of the chart's directions is no longer available. {error}") from error
    require_same(chart, attributes["chart"])
    return chart


def asked_of(attributes: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the requested plan and precision of a run's engine, from the attributes of its surface."""
    said = attributes.get("engine", {})
    plan = said.get("asked")
    return plan if plan in ("plain", "tuned") else "auto", said.get("precision", "native")


def objective_of(
    said: Mapping[str, Any], store: Location, trust: bool | Asked = False, **elsewhere: str | None
) -> Objective:
    """Build the objective of a surface from its origin, with its subset.

    Parameters
    ----------
    said : mapping
        ``surface.attrs["objective"]``.
    store : path, fsspec URL or zarr store
        Named in messages.
    trust : bool or callable
        Whether code that the store names may be run (`lossnav.specs.trust`). A ``spec`` in `elsewhere` comes from the
        user and is trusted.
    **elsewhere : str or None
        ``spec``, ``checkpoint`` or ``data_root`` that have moved, or that the surface does not record.

    Raises
    ------
    OptionError
        If the surface does not record its origin.
    UntrustedCodeError
        If the surface names code that the user has not allowed.
    SpecError, CheckpointError
        As `load_objective` does.
    """
    moved = {name: place for name, place in elsewhere.items() if place is not None}
    origin = (said.get("origin") or {}) | moved
    if not origin.get("spec"):
        raise OptionError(
            f"{name_of(store)} does not record the origin of its objective: it was made in Python. Repeat the "
            "same call "
            "of evaluate, or pass the objective: ln.resume(store, objective), or its SPEC: --spec."
        )
    if "spec" not in moved:
        require_trust(str(origin["spec"]), store, trust)
    drawn = said.get("population"), said.get("samples"), said.get("subset_seed")
    return rebuild(origin, *drawn).moving_as(said)
