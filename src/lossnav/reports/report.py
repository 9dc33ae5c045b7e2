"""The verb: open what is there, measure what is asked for, and let every check say its line."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import xarray as xr

from lossnav._utils import validation
from lossnav._utils.paths import Location, inside, is_local, is_trajectory, name_of
from lossnav.errors import NotASurfaceError, NotATrajectoryError, OptionError
from lossnav.reports import center, directions, held_parameters, noise, paths, points
from lossnav.reports.evidence import Subject
from lossnav.reports.findings import Report
from lossnav.surface.groups import open_group, open_trajectory, save_group
from lossnav.surface.zarr_io import open_surface

if TYPE_CHECKING:
    from lossnav.charts import Chart
    from lossnav.objective.objective import Objective

REPORT, CURVATURE, SPECTRUM = "report", "curvature", "spectrum"  # groups beside a surface

_CHECKS = (points, directions, held_parameters, noise, center, paths)


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
    """Say what a picture can and cannot say: what misleads, what it does not show, and what to do about it.

    A two-dimensional slice of a million dimensions misleads easily. Each check gives one sentence with the numbers and
    one of advice, as a warning (the picture misleads whoever does not know this), a note (it does not show this) or ok.
    docs/report.md lists the checks, their thresholds and sources.

    Of what is stored alone this takes no torch. With the objective it measures what is missing at the centre: gradient,
    the ends of the Hessian's spectrum, its trace, curvature along other random directions; standard errors of
    differences of losses sample by sample; the error of the arithmetic; a rescaled twin of the network.

    Parameters
    ----------
    subject : xarray.Dataset, path, fsspec URL or zarr store
        A surface, or a path that `project` or `evaluate_trajectory` made. Of a run on disk also what lies beside the
        surface: the groups ``trajectory``, ``curvature``, ``spectrum``, and ``report``, which holds what was measured.
    *beside : xarray.Dataset
        The same for a surface in memory, in any order: each says itself what it is.
    objective : Objective, optional
        Of the surface, to measure by; what is measured is kept in the run's group ``report``.
    chart : Chart, optional
        Of the surface; by default made again from its recipe or the directions that were kept. Where that cannot be,
        only what is of the centre alone is measured, where the objective is there, and the lines of the rest say so.
    measure : bool
        Measure with the objective of the run's own SPEC, made again.
    seed : int
        Of everything random that is measured.
    probes : int
        Random directions and random vectors for the trace: each is one Hessian-vector product.
    limit : int
        Most Hessian-vector products for the ends of the spectrum.
    progress : bool or None
        See `Progress`.

    Returns
    -------
    Report
        Printed, a table; in a notebook, a panel; `to_dict` and `to_json` for programs.

    Raises
    ------
    NotASurfaceError, NotATrajectoryError, SchemaTooNewError
        If there is nothing to report on.
    OptionError
        If the datasets do not belong together, or there is nothing to measure by.
    PlanMismatchError
        If the objective or the chart is not the one of the surface.
    Interrupted
        After Ctrl-C while it measures, with the report of what is known in ``surface``.

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
            f"Beside a surface lies {validation.described(wrong[0])}, and only datasets do. Name what it is: "
            "ln.report(surface, objective=objective, chart=chart)."
        )
    if not isinstance(subject, xr.Dataset):
        validation.require_run(subject)
    place = None if isinstance(subject, xr.Dataset) else subject
    found = [*([subject] if place is None else with_beside(place)), *beside]
    about = Subject.of(found)
    if objective is None and not measure:
        if chart is not None:
            raise OptionError("A chart alone measures nothing. Pass objective= too.")
        return of(about)
    if about.surface is None:
        raise OptionError("There is no surface to measure at. Pass the surface that the path is drawn on.")
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
    """The report of what is known of a subject."""
    return Report(subject.words, tuple(line for check in _CHECKS for line in check.check(subject)))


def _with(subject: Subject, measured: xr.Dataset, place: Location | None) -> Report:
    """The report with what was measured, which is kept beside the run."""
    if place is not None:
        save_group(measured, place, REPORT)
    parts = {name: getattr(subject, name) for name in ("surface", "seeds", "path", "curvature", "spectrum")}
    return of(Subject(**parts, measured=measured))


def with_beside(place: Location, surface: xr.Dataset | None = None) -> list[xr.Dataset]:
    """The surface of a store, and what lies beside it that a report looks at.

    A group that is none of ours is left out. The surface is not read again where it is given.
    """
    if is_local(place):
        from pathlib import Path

        if is_trajectory(Path(place).expanduser()):
            raise NotASurfaceError(
                f"{name_of(place)} is a recorded trajectory, of which nothing is drawn yet. Project it on a chart "
                "(ln.project, ln.evaluate_trajectory) and report on that."
            )
    found = [open_surface(place) if surface is None else surface]
    if "curvature" in found[0].attrs:
        return found
    with suppress(NotATrajectoryError):
        found.append(open_trajectory(place))
    with suppress(NotASurfaceError):
        found.append(open_surface(inside(place, CURVATURE)))
    return [*found, *(group for name in (SPECTRUM, REPORT) if (group := open_group(place, name)) is not None)]
