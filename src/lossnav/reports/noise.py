"""Checks of the errors of the values: the data, standard errors compared with the rise, rounding and the plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lossnav.reports import thresholds
from lossnav.reports.digits import arithmetic, precision_of
from lossnav.reports.evidence import Subject
from lossnav.reports.findings import Finding, unknown
from lossnav.surface.intervals import UNSEEN, Interval, interval_of, recorded, rounding_of, spread_at
from lossnav.surface.ruggedness import LocalMinimum, local_minima
from lossnav.surface.variables import OK

MOST_FOR_MINIMA = 40_000  # maximum number of points in which local minima are searched: Python visits each

_PAIRED = 200  # maximum number of local minima that are tested with stored samples
_INTERVALS = 50  # points whose intervals are checked


def check(subject: Subject) -> Iterator[Finding]:
    """Check what would change with other samples, or with exact arithmetic."""
    if subject.objective:
        yield _data(subject)
        yield from _cut(subject)
    if subject.surface is not None and len(subject.losses) and subject.seeds is None:
        yield from _intervals(subject)
    if subject.surface is not None and len(subject.losses) > 1 and not subject.is_constant:
        if subject.seeds is None:
            yield _noise(subject)
            yield _ripples(subject)
        yield _rounding(subject)


# ---------------------------------------------------------------------- data


def _data(subject: Subject) -> Finding:
    objective = subject.objective
    samples, population = objective.get("samples"), objective.get("population")
    values = {name: objective.get(name) for name in ("samples", "population", "subset_seed", "origin")}
    if not samples:
        because, do = "the surface does not record the number of samples of the loss.", "State it in the caption."
        if subject.is_function and objective.get("batches") is None:
            because = "the function has no data= of its own, so the number of its samples, if any, cannot be seen."
            do = "If it has data, pass them: ln.Objective.from_function(function, params, data)."
        return unknown("data", because, do, values)
    whose = "It is not recorded whether the centre was fitted to them" if subject.is_function else ""
    whose = whose or "It is not recorded whether they are training data, for which the centre should be a minimum"
    if samples < thresholds.FEW_SAMPLES:
        return Finding(
            "data",
            "warning" if population else "note",
            f"{samples} sample{' is' if samples == 1 else 's are'} too few to estimate a standard error.",
            "Use at least thirty samples.",
            values,
        )
    if population:
        drawn = f"The data are {samples:,} of {population:,} samples, drawn with seed {objective.get('subset_seed')}"
        return Finding(
            "data",
            "note",
            f"{drawn}: the picture is an estimate of that of all samples. {whose}.",
            "Mention it in the caption; ln.control_variate corrects it by a few evaluations on all the data.",
            values,
        )
    return Finding(
        "data", "note", f"All {samples:,} samples of the data were used. {whose}.", "State it in the caption.", values
    )


def _cut(subject: Subject) -> Iterator[Finding]:
    """Check if the loss depends on the batches, as tested when the objective was made."""
    objective = subject.objective
    cut = objective.get("cut")
    if cut:
        yield Finding(
            "batches",
            "warning",
            f"The loss depends on how the data is split into batches: {cut['samples']} samples gave {cut['whole']:.6g} "
            f"as one batch and {cut['parts']:.6g} as two.",
            "State the batch size in the caption, or let the loss return one value per sample, or set count= to what "
            "it is a mean over.",
            dict(cut),
        )
    metrics = objective.get("metrics_cut") or {}
    for name, seen in metrics.items():
        yield Finding(
            "batches",
            "warning",
            f"The metric {name!r} depends on how the data is split into batches: {seen['samples']} samples gave "
            f"{seen['whole']:.6g} as one batch and {seen['parts']:.6g} as two.",
            "State the batch size in the caption, or let the metric return one value per sample.",
            {"metric": name, **seen},
        )
    if cut or metrics or not objective.get("samples"):
        return
    if compared := objective.get("cut_samples"):
        said = f"{compared} samples gave the same loss as one batch and as two."
        yield Finding("batches", "ok", said, values={"samples": compared})
        return
    because = "the loss was not compared with itself in other batches"
    if "cut_samples" in objective:
        because += " (a loss of its batch, count=, batch statistics, or data that cannot be split)"
    do = "Evaluate it with two batch sizes (batch_size=), and compare."
    yield unknown("batches", f"{because}.", do)


# ---------------------------------------------------------------------- standard errors


def _intervals(subject: Subject) -> Iterator[Finding]:
    """Check if loss ± 1.96 loss_se is a 95 % interval, at the centre and at other points."""
    assert subject.surface is not None
    samples, attrs = subject.objective.get("samples"), subject.attrs
    if not samples or "control_variate" in attrs or "interpolation" in attrs:
        return
    if subject.errors is None:
        because = "the losses of single samples are not available, so the loss has no standard error."
        do = "Use a loss with a reduction= argument, or one that returns a value per sample (reduction='none')."
        if "loss_se" in subject.surface:
            few = f"No standard error of {samples:,} sample{'' if samples == 1 else 's'} is finite"
            because, do = f"{few[0].lower()}{few[1:]}.", "Use more samples, with losses below 1e150."
        yield unknown("intervals", because, do, {"known": False})
        return
    if "sampling" not in attrs and "loss_skewness" not in subject.surface:
        because = (
            "the surface does not record the distribution of its samples, so its standard errors cannot be checked."
        )
        yield unknown("intervals", because, "Evaluate it with this version of lossnav.", {"known": False})
        return
    status = subject.surface["status"]
    places = np.argwhere(status.values == OK)
    # with stored samples every point is a read
    some = places[np.unique(np.linspace(0, len(places) - 1, _INTERVALS).astype(int))] if len(places) else places
    found = [_interval_at(subject, tuple(int(i) for i in place)) for place in some]
    center = _center_interval(subject)
    doubtful = [each for each in found if each.warnings]
    worst = center if center is not None and center.warnings else (doubtful[0] if doubtful else None)
    unseen = UNSEEN / samples
    values: dict[str, Any] = {
        "points": len(found),
        "doubtful": len(doubtful),
        "center": None if center is None else center.to_dict(),
        "unseen": unseen,
        "sampling": recorded(subject.surface),
    }
    missed = f"{samples:,} samples may contain none of {unseen:.2%} of the population"
    if worst is None:
        said = f"The standard errors at {len(found)} points pass all checks; {missed}."
        yield Finding("intervals", "ok", said, values=values)
        return
    everywhere = worst is center or 2 * len(doubtful) > len(found)
    where = f"at {len(doubtful)} of {len(found)} points" + (" and the centre" if worst is center else "")
    yield Finding(
        "intervals",
        "warning" if everywhere else "note",
        f"The interval loss ± 1.96 loss_se is too narrow {where}. {' '.join(worst.warnings)} Also, {missed}.",
        "Use ln.interval(surface, point), which reports its own reliability, or use more samples, each only once.",
        values,
    )


def _interval_at(subject: Subject, at: tuple[int, ...]) -> Interval:
    surface = subject.surface
    assert surface is not None
    value, error = (float(surface[name].values[at]) for name in ("loss", "loss_se"))
    return interval_of(value, error, spread_at(surface, at), rounding=rounding_of(surface, value))


def _center_interval(subject: Subject) -> Interval | None:
    """Return the interval at the centre, from what was measured before the run; None if it was not."""
    said = subject.attrs.get("center", {})
    if subject.surface is None or "sampling" not in subject.attrs or "loss_se" not in said:
        return None
    value, error = float(said["loss"]), float(said["loss_se"])
    return interval_of(value, error, recorded(subject.surface), rounding=rounding_of(subject.surface, value))


def _noise(subject: Subject) -> Finding:
    """Compare the rise in the middle with the standard error of that difference of losses.

    All points use the same samples, so the errors of two losses mostly cancel. The single errors a and b only give
    abs(a - b) <= error <= a + b for the difference; sqrt(a^2 + b^2) is the error for independent samples. An error that
    was measured sample by sample takes precedence.
    """
    errors, relief = subject.errors, subject.relief
    values: dict[str, Any] = {"relief": relief}
    if not relief > 0:
        said = "In the middle of the picture the loss is constant: there is no shape that other samples could change."
        return Finding("noise", "note", said, "Use a larger range.", values)
    if errors is None:
        return unknown("noise", f"{_without_errors(subject)}.", _do_without_errors(subject), values)
    middle = errors[subject.middle]
    level = float(np.median(middle[np.isfinite(middle)])) if np.isfinite(middle).any() else math.nan
    error, how = math.sqrt(2) * level, "as for independent samples; with common samples it is mostly smaller"
    measured = next((pair for pair in subject.facts.get("differences", []) if pair["what"] == "middle"), None)
    paired = subject.paired_error(*reversed(subject.ends_of_middle))
    if paired is None and measured is not None:
        paired = float(measured["error"])
    if paired is not None:
        error, how = paired, "sample by sample"
    values |= {"loss_se": level, "difference_se": error, "paired": paired is not None}
    if not math.isfinite(error):
        because = "the standard errors in the middle of the picture are not finite."
        return unknown("noise", because, "Use more samples.", values)
    known = f"; the loss itself has a standard error of {level:.2g}" if math.isfinite(level) else ""
    rise = f"In the middle of the picture the loss rises by {relief:.3g}"
    if relief > thresholds.SURE * error:
        said = f"{rise}, with a standard error of {error:.2g} ({how}){known}."
        return Finding("noise", "ok", said, values=values)
    if subject.is_subset and paired is None and relief > thresholds.SURE * _least_error(subject):
        because = (
            f"{rise[0].lower()}{rise[1:]}, and its standard error is known only for independent samples, {error:.2g}; "
            "with the same samples at all points it is mostly smaller. Other samples may give another shape there."
        )
        do = f"{subject.how_to_measure[:-1]}, which compares sample by sample; or use keep_samples=True."
        return unknown("noise", because, do, values)
    if subject.is_subset:
        sure = f"at least {_least_error(subject):.2g} (the difference of the errors of the two losses)"
        is_ = f"{error:.2g} ({how})" if paired is not None else sure
        return Finding(
            "noise",
            "warning",
            f"{rise}, with a standard error of {is_}: other samples may give another shape there.",
            "Use more samples.",
            values,
        )
    return Finding(
        "noise",
        "note",
        f"{rise}, less than two standard errors over the samples ({error:.2g} each, {how}): this is the "
        "shape for these "
        "data, and other data of the same kind may give another.",
        "Restrict your statement to these data, or use more.",
        values,
    )


def _least_error(subject: Subject) -> float:
    """Return the lower bound abs(a - b) of the standard error of the rise in the middle."""
    assert subject.errors is not None
    a, b = (float(subject.errors[i]) for i in subject.ends_of_middle)
    return abs(a - b) if math.isfinite(a) and math.isfinite(b) else math.inf


def _without_errors(subject: Subject) -> str:
    """Return why it is unknown how much the picture would change with other samples."""
    if not subject.objective.get("samples"):
        return "the loss has no visible samples, so the effect of other samples cannot be estimated"
    return "the losses of single samples are not available, so the effect of other samples cannot be estimated"


def _do_without_errors(subject: Subject) -> str:
    if not subject.objective.get("samples"):
        return "If it has samples, pass them as data, with a loss that returns one value per sample."
    return "Use a loss with a reduction= argument, or one that returns a value per sample (reduction='none')."


def local_minima_of(subject: Subject) -> list[tuple[LocalMinimum, int, int]]:
    """Return the local minima of the picture, deepest first, with the point numbers of the minimum and its saddle."""
    assert subject.surface is not None
    loss = subject.surface["loss"]
    numbers = np.cumsum(np.isfinite(loss.values).reshape(-1)) - 1  # of the points with a finite loss
    if "point" in subject.surface.dims:
        if len(subject.axes) != 1:
            return []
        order = np.argsort(subject.places[:, 0], kind="stable")
        found = local_minima(subject.losses[order])
        return _deepest([(minimum, int(order[minimum.at[0]]), int(order[minimum.saddle[0]])) for minimum in found])
    if loss.size > MOST_FOR_MINIMA:
        return []
    shape = loss.shape

    def number(place: tuple[int, ...]) -> int:
        return int(numbers[np.ravel_multi_index(place, shape)])

    return _deepest([(minimum, number(minimum.at), number(minimum.saddle)) for minimum in local_minima(loss.values)])


def _deepest(found: list[tuple[LocalMinimum, int, int]]) -> list[tuple[LocalMinimum, int, int]]:
    return sorted(found, key=lambda each: -each[0].depth)


def _ripples(subject: Subject) -> Finding:
    """Compare the depth of local minima with its standard error over the samples, and with rounding."""
    assert subject.surface is not None
    loss = subject.surface["loss"]
    if "point" in loss.dims and len(subject.axes) != 1:
        because = "the points are not on a grid, so local minima were not searched."
        return unknown("ripples", because, "Use ln.Grid, or interpolate: surface.lossnav.to_grid().")
    if loss.size > MOST_FOR_MINIMA and "point" not in loss.dims:
        because = f"local minima are searched in at most {MOST_FOR_MINIMA:,} points, and there are {loss.size:,}."
        return unknown("ripples", because, "Report on a part of the surface: surface[{dim: slice(None, None, 2)}].")
    if len(subject.losses) < 3 or ("point" not in loss.dims and max(loss.shape) < 3):
        because = "no point of the picture has neighbours on both sides."
        return unknown("ripples", because, "Use more points along each axis.")
    found = local_minima_of(subject)
    if not found:
        said = "Apart from its lowest point the picture has no local minimum inside its border."
        return Finding("ripples", "ok", said, values={"local_minima": 0})
    noise = _errors_of_minima(subject, found)
    deepest, error = found[0][0].depth, noise[0]
    values: dict[str, Any] = {"local_minima": len(found), "deepest": deepest, "deepest_se": error}
    values["paired"] = min(len(found), _PAIRED) if subject.has_samples else len(_measured_minima(subject))
    many = f"{len(found)} local minima" if len(found) > 1 else "One local minimum"
    known_error = arithmetic(subject)
    rounding = 0.0 if known_error is None else known_error[0]
    shallow = sum(not minimum.depth > rounding for minimum, *_ in found)
    values |= {"rounded": shallow}
    if shallow == len(found):
        return Finding(
            "ripples",
            "note",
            f"{many} besides the lowest, with a depth of up to {deepest:.2g}: within the numerical error, "
            f"{rounding:.1g}.",
            "Do not describe the surface as rough because of them; use a higher precision.",
            values,
        )
    known = [(minimum, each) for (minimum, *_), each in zip(found, noise, strict=True) if each is not None]
    if len(known) < len(found):
        because = (
            f"{_without_errors(subject)} ({many[0].lower()}{many[1:]} besides the lowest; largest depth {deepest:.3g})."
        )
        return unknown("ripples", because, _do_without_errors(subject), values)
    unsure = [minimum for minimum, each in known if not minimum.depth > thresholds.SURE * each]
    values |= {"unsure": len(unsure)}
    if not unsure:
        said = (
            f"{many} besides the lowest, of depths beyond two standard errors (the largest is {deepest:.3g} ± "
            f"{error:.2g})"
        )
        also = f"; {shallow} of them are within the numerical error" if shallow else ""
        return Finding("ripples", "ok", f"{said}{also}.", values=values)
    if subject.is_subset and values["paired"] < len(found):
        because = (
            f"the standard errors of the depths of {many[0].lower()}{many[1:]} besides the lowest are known only for "
            f"independent samples (the largest depth is {deepest:.3g} ± {error:.2g}); with the same samples "
            "at all points "
            "they are mostly smaller. Other samples may have no minimum there."
        )
        return unknown(
            "ripples",
            because,
            f"{subject.how_to_measure[:-1]}, which compares sample by sample; or use keep_samples=True.",
            values,
        )
    which = f"{len(unsure)} of them" if len(found) > 1 else "and it is"
    return Finding(
        "ripples",
        "warning" if subject.is_subset else "note",
        f"{many} besides the lowest, {which} shallower than two standard errors (the largest depth is {deepest:.3g} ± "
        f"{error:.2g}): other samples may have no minimum there.",
        "Use more samples before you describe the surface as rough, or measure the differences: ln.report(…, "
        "objective=objective).",
        values,
    )


def _measured_minima(subject: Subject) -> dict[tuple[float, ...], float]:
    """Return the measured standard errors of the depths of local minima, by their points."""
    return {
        (*pair["low"], *pair["high"]): float(pair["error"])
        for pair in subject.facts.get("differences", [])
        if pair["what"] == "minimum"
    }


def _errors_of_minima(subject: Subject, found: list[tuple[LocalMinimum, int, int]]) -> list[float | None]:
    """Return the standard errors of the depths: measured, from stored samples, for independent samples, or None."""
    known, errors = _measured_minima(subject), subject.errors
    noise: list[float | None] = []
    for number, (_, low, high) in enumerate(found):
        ends = (*subject.places[low].tolist(), *subject.places[high].tolist())
        error = subject.paired_error(high, low) if number < _PAIRED else None
        if error is None:
            error = known.get(ends, math.nan if errors is None else float(np.hypot(errors[low], errors[high])))
        noise.append(error if math.isfinite(error) else None)
    return noise


# ---------------------------------------------------------------------- rounding


def _rounding(subject: Subject) -> Finding:
    """Compare the numerical error with the rise in the middle."""
    engine, found = subject.attrs.get("engine", {}), arithmetic(subject)
    dtype, precision = subject.objective.get("dtype"), precision_of(subject)
    if found is None:
        what = f"the number of digits of {precision} is not known" if precision else "the surface records no dtype"
        return unknown("precision", f"{what}.", subject.how_to_measure, {"precision": precision})
    (error, how), relief = found, subject.relief
    values: dict[str, Any] = {"precision": precision, "dtype": dtype, "relief": relief, "error": error}
    values |= {"plan_error": engine.get("plan_error"), "measured": bool(subject.facts.get("rounding"))}
    said = f"Computed in {precision}; the numerical error of the loss ({how}) is {error:.1g}"
    if not relief > 0:
        what = "the loss is constant in the middle of the picture"
        return Finding("precision", "note", f"{said}, and {what}.", "Use a larger range.", values)
    part = error / relief
    if part <= thresholds.ROUNDED_NOTE:
        said = f"{said} ({part:.1%} of the rise in the middle of the picture)."
        return Finding("precision", "ok", said, values=values)
    return Finding(
        "precision",
        "warning" if part > thresholds.ROUNDED else "note",
        f"{said}, {part:.0%} of the rise in the middle of the picture: shapes of this size are rounding, not the loss.",
        'Use a higher precision (precision="float32" or "float64"), or a larger range.',
        values,
    )
