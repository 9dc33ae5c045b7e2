"""The verb `report`: read a run, measure what is missing if asked to, and collect the findings of all checks."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import xarray as xr

from lossnav._utils import validation
from lossnav._utils.paths import Location, inside, is_local, is_trajectory, name_of
from lossnav.errors import NotASurfaceError, NotATrajectoryError, OptionError
from lossnav.reports import between, center, curves, directions, held_parameters, noise, paths, points
from lossnav.reports.evidence import Subject
from lossnav.reports.findings import Report
from lossnav.surface.groups import open_group, open_trajectory, save_group
from lossnav.surface.zarr_io import open_surface

if TYPE_CHECKING:
    from lossnav.charts import Chart
    from lossnav.objective.objective import Objective

REPORT, CURVATURE, SPECTRUM = "report", "curvature", "spectrum"  # groups beside a surface

_CHECKS = (points, directions, held_parameters, noise, center, paths, between, curves)


def report(
    subject: xr.Dataset | Location,
    *beside: xr.Dataset,
    objective: Objective | None = None,
    chart: Chart | None = None,
    measure: bool = False,
    seed: int = 0,
    probes: int = 8,
    limit: int = 200,
    progress: bool | None = None,
) -> Report:
    """Report what a picture can and cannot show, with the reasons and what to do.

    A two-dimensional slice of a million dimensions is easily misread. Each check gives one sentence with the numbers
    and one of advice, as a warning (the picture is misleading without this information), a note (the picture does not
    show this), unknown or ok. docs/report.md lists the checks, their thresholds and sources.

    A report on stored values needs no torch. With the objective it measures what is missing at the centre: gradient,
    extreme eigenvalues and trace of the Hessian, curvature along other random directions; standard errors of
    differences of losses, sample by sample; the rounding error; a rescaled twin of the network.

    Parameters
    ----------
    subject : xarray.Dataset, path, fsspec URL or zarr store
        A surface, or a path made by `project` or `evaluate_trajectory`. For a run on disk the groups beside the surface
        are read too: ``trajectory``, ``curvature``, ``spectrum``, and ``report``, which contains earlier measurements.
    *beside : xarray.Dataset
        The same for a surface in memory, in any order: each dataset is recognised by its attributes.
    objective : Objective, optional
        The objective of the surface, to measure with. The measurements are stored in the group ``report`` of the run.
    chart : Chart, optional
        The chart of the surface; by default made again from its recipe or its stored directions. If that is not
        possible, only measurements at the centre are made, and the other lines say so.
    measure : bool
        Measure with the objective that the SPEC of the run makes.
    seed : int
        Seed of all random numbers of the measurements.
    probes : int
        Number of random directions, and of random vectors for the trace: each needs one Hessian-vector product.
    limit : int
        Maximum number of Hessian-vector products for the extreme eigenvalues.
    progress : bool or None
        See `Progress`.

    Returns
    -------
    Report
        It prints as a table and displays in a notebook as a panel; `to_dict` and `to_json` are for programs.

    Raises
    ------
    NotASurfaceError, NotATrajectoryError, SchemaTooNewError
        If the subject cannot be reported on.
    OptionError
        If the datasets do not belong together, or there is no objective to measure with.
    PlanMismatchError
        If the objective or the chart is not the one of the surface.
    Interrupted
        After Ctrl-C during a measurement, with the report so far in ``partial``.

    Examples
    --------
    >>> import torch, lossnav as ln
    >>> saddle = ln.Objective.from_function(lambda p: 5 * p["x"][0] ** 2 - p["x"][1] ** 2, {"x": torch.zeros(2)})
    >>> line = ln.Line(saddle.params, {"x": torch.tensor([1.0, 0.0])})
    >>> surface = ln.evaluate(saddle, line, ln.Grid(alpha=(-1, 1, 11)))
    >>> print(ln.report(surface, objective=saddle, chart=line)["saddle"].said)
    This slice looks convex but the Hessian at its centre has eigenvalue -2 ± ... (20% of the largest, 10): the centre
    is a saddle.
    """
    if objective is not None:
        validation.require(objective, "objective")
    if chart is not None:
        validation.require(chart, "chart")
    if wrong := [other for other in beside if not isinstance(other, xr.Dataset)]:
        raise OptionError(
            f"Positional arguments after the surface must be datasets, got {validation.described(wrong[0])}. Name it: "
            "ln.report(surface, objective=objective, chart=chart)."
        )
    if not isinstance(subject, xr.Dataset):
        validation.require_run(subject)
    place = None if isinstance(subject, xr.Dataset) else subject
    found = [*([subject] if place is None else with_beside(place)), *beside]
    about = Subject.of(found)
    if objective is None and not measure:
        if chart is not None:
            raise OptionError("chart= alone measures nothing: it needs the objective. Pass objective= too.")
        return of(about)
    if about.surface is None:
        raise OptionError(
            "Measuring needs a surface, and only a path was passed. Pass the surface that the path is drawn on."
        )
    from lossnav.errors import Interrupted
    from lossnav.reports.measuring import measure as run

    options: dict[str, Any] = {"seed": seed, "probes": probes, "limit": limit, "progress": progress}
    try:
        measured = run(about, objective, chart, place=place, **options)
    except Interrupted as stopped:
        stopped.partial = _with(about, stopped.partial, place)
        raise
    return _with(about, measured, place)


def of(subject: Subject) -> Report:
    """Return the report on a subject."""
    return Report(subject.words, tuple(line for check in _CHECKS for line in check.check(subject)))


def _with(subject: Subject, measured: xr.Dataset, place: Location | None) -> Report:
    """Return the report with new measurements, and store these beside the run."""
    if place is not None:
        save_group(measured, place, REPORT)
    parts = {name: getattr(subject, name) for name in ("surface", "seeds", "path", "curvature", "spectrum")}
    return of(Subject(**parts, measured=measured))


def with_beside(place: Location, surface: xr.Dataset | None = None) -> list[xr.Dataset]:
    """Return the surface of a store and the groups beside it that a report reads.

    Groups of other programs are left out. If `surface` is given, it is not read again.
    """
    if is_local(place):
        from pathlib import Path

        if is_trajectory(Path(place).expanduser()):
            raise NotASurfaceError(
                f"{name_of(place)} is a recorded trajectory, which has no picture yet. Project it on a chart "
                "(ln.project, ln.evaluate_trajectory) and report on the result."
            )
    found = [open_surface(place) if surface is None else surface]
    if "curvature" in found[0].attrs:
        return found
    with suppress(NotATrajectoryError):
        found.append(open_trajectory(place))
    with suppress(NotASurfaceError):
        found.append(open_surface(inside(place, CURVATURE)))
    return [*found, *(group for name in (SPECTRUM, REPORT) if (group := open_group(place, name)) is not None)]
