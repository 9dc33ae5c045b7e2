"""Checks of how sure the values are: the data, its standard errors against the relief, rounding and the plan."""

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

MOST_FOR_MINIMA = 40_000  # points of a surface up to which local minima are looked for: Python visits each

_PAIRED = 200  # local minima whose depth is held against kept samples
_INTERVALS = 50  # points whose intervals are looked at


def check(subject: Subject) -> Iterator[Finding]:
    """Say what of the picture would be otherwise with other samples, or with exact arithmetic."""
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
        because, do = "the surface does not say how many samples stand behind the loss.", "Say it in the caption."
        if subject.is_function and objective.get("batches") is None:
            because = (
                "the function was given no data of its own: whether samples stand behind it, and how many, is not seen."
            )
            do = "Where it has some, pass them: ln.Objective.from_function(function, params, data)."
        return unknown("data", because, do, values)
    whose = "Nothing says whether the centre was fitted to them" if subject.is_function else ""
    whose = (
        whose
        or "Nothing says whether they are training or held-out data, on which a centre is a minimum or need not be"
    )
    if samples < thresholds.FEW_SAMPLES:
        return Finding(
            "data",
            "warning" if population else "note",
            f"{samples} sample{' is' if samples == 1 else 's are'} so few that a standard error is itself a guess.",
            "Use more samples, thirty at the least.",
            values,
        )
    if population:
        drawn = f"{samples:,} of {population:,} samples, drawn once by seed {objective.get('subset_seed')}"
        return Finding(
            "data",
            "note",
            f"{drawn}: the picture is an estimate of the one of all of them. {whose}.",
            "Say so in the caption; ln.control_variate corrects it by a few evaluations on all the data.",
            values,
        )
    return Finding(
        "data", "note", f"All {samples:,} samples of the data were used. {whose}.", "Say which in the caption.", values
    )


def _cut(subject: Subject) -> Iterator[Finding]:
    """Whether the loss was found to be another one in other batches, when the objective was made."""
    objective = subject.objective
    cut = objective.get("cut")
    if cut:
        yield Finding(
            "batches",
            "warning",
            f"The loss depends on how the data is cut into batches: {cut['samples']} samples gave {cut['whole']:.6g} "
            f"as one batch and {cut['parts']:.6g} as two.",
            "Say how long the batches were; or let the loss return one value a sample, or say by count= what it is a "
            "mean over.",
            dict(cut),
        )
    metrics = objective.get("metrics_cut") or {}
    for name, seen in metrics.items():
        yield Finding(
            "batches",
            "warning",
            f"The metric {name!r} depends on how the data is cut into batches: {seen['samples']} samples gave "
            f"{seen['whole']:.6g} as one batch and {seen['parts']:.6g} as two.",
            "Say how long the batches were; or let it return one value a sample.",
            {"metric": name, **seen},
        )
    if cut or metrics or not objective.get("samples"):
        return
    if compared := objective.get("cut_samples"):
        said = f"{compared} samples gave the same loss as one batch and as two."
        yield Finding("batches", "ok", said, values={"samples": compared})
        return
    because = "the loss was not held against itself in other batches"
    if "cut_samples" in objective:
        because += " (a loss of its batch, count=, batch statistics, or data that cannot be cut)"
    do = "Evaluate it with two lengths of the batches (batch_size=), and compare."
    yield unknown("batches", f"{because}.", do)


# ---------------------------------------------------------------------- standard errors


def _intervals(subject: Subject) -> Iterator[Finding]:
    """Whether loss ± 1.96 standard errors is the interval it looks like, at the centre and elsewhere."""
    assert subject.surface is not None
    samples, attrs = subject.objective.get("samples"), subject.attrs
    if not samples or "control_variate" in attrs or "interpolation" in attrs:
        return
    if subject.errors is None:
        because = "the loss hides the losses of single samples: nothing says how sure it is."
        do = "Use a loss with a reduction= argument, or one that returns a value a sample (reduction='none')."
        if "loss_se" in subject.surface:
            few = f"Of {samples:,} sample{'' if samples == 1 else 's'} no standard error is finite"
            because, do = f"{few[0].lower()}{few[1:]}.", "Use more samples, with losses below 1e150."
        yield unknown("intervals", because, do, {"known": False})
        return
    if "sampling" not in attrs and "loss_skewness" not in subject.surface:
        because = "the surface does not say how its samples are spread: its standard errors may hold or not."
        yield unknown("intervals", because, "Evaluate it with this version of lossnav.", {"known": False})
        return
    status = subject.surface["status"]
    places = np.argwhere(status.values == OK)
    # without kept samples a point is cheap; with them each is a read
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
    missed = f"what {unseen:.2%} of the population does, none of {samples:,} samples may show"
    if worst is None:
        said = f"Nothing speaks against the standard errors at {len(found)} points; {missed}."
        yield Finding("intervals", "ok", said, values=values)
        return
    everywhere = worst is center or 2 * len(doubtful) > len(found)
    where = f"at {len(doubtful)} of {len(found)} points" + (" and the centre" if worst is center else "")
    yield Finding(
        "intervals",
        "warning" if everywhere else "note",
        f"This interval is too narrow: loss ± 1.96 loss_se, {where}. {' '.join(worst.warnings)} Besides, {missed}.",
        "Take ln.interval(surface, point) in its place, which says how far it holds; use more samples, each once.",
        values,
    )


def _interval_at(subject: Subject, at: tuple[int, ...]) -> Interval:
    surface = subject.surface
    assert surface is not None
    value, error = (float(surface[name].values[at]) for name in ("loss", "loss_se"))
    return interval_of(value, error, spread_at(surface, at), rounding=rounding_of(surface, value))


def _center_interval(subject: Subject) -> Interval | None:
    """The interval at the centre by what was measured before the run; None where it was not."""
    said = subject.attrs.get("center", {})
    if subject.surface is None or "sampling" not in subject.attrs or "loss_se" not in said:
        return None
    value, error = float(said["loss"]), float(said["loss_se"])
    return interval_of(value, error, recorded(subject.surface), rounding=rounding_of(subject.surface, value))


def _noise(subject: Subject) -> Finding:
    """The relief of the middle against the standard error of a difference of losses there.

    Every point has the same samples, so errors of two losses mostly cancel. Of the difference the single errors a and b
    say no more than abs(a - b) <= error <= a + b; sqrt(a^2 + b^2) is that of independent samples. What was measured
    sample by sample counts before that.
    """
    errors, relief = subject.errors, subject.relief
    values: dict[str, Any] = {"relief": relief}
    if not relief > 0:
        said = "In the middle of the picture the loss does not rise at all: no shape is there that others could change."
        return Finding("noise", "note", said, "Take a larger range.", values)
    if errors is None:
        return unknown("noise", f"{_without_errors(subject)}.", _do_without_errors(subject), values)
    middle = errors[subject.middle]
    level = float(np.median(middle[np.isfinite(middle)])) if np.isfinite(middle).any() else math.nan
    error, how = math.sqrt(2) * level, "as of independent samples; common ones mostly give less"
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
    known = f"; the level is known to ± {level:.2g}" if math.isfinite(level) else ""
    rise = f"In the middle of the picture the loss rises by {relief:.3g}"
    if relief > thresholds.SURE * error:
        said = f"{rise}, with a standard error of {error:.2g} ({how}){known}."
        return Finding("noise", "ok", said, values=values)
    if subject.is_subset and paired is None and relief > thresholds.SURE * _least_error(subject):
        because = (
            f"{rise[0].lower()}{rise[1:]}, and of its standard error only that as of independent samples is known, "
            f"{error:.2g}: the samples are the same at all points, which mostly gives less. Other samples may give "
            "another shape there."
        )
        do = f"{subject.how_to_measure[:-1]}, which has it sample by sample; or keep_samples=True."
        return unknown("noise", because, do, values)
    if subject.is_subset:
        sure = f"at least {_least_error(subject):.2g} (the errors at its ends differ by that)"
        is_ = f"{error:.2g} ({how})" if paired is not None else sure
        return Finding(
            "noise",
            "warning",
            f"{rise}, and the standard error of that is {is_}: other samples may give another shape there.",
            "Take more samples.",
            values,
        )
    return Finding(
        "noise",
        "note",
        f"{rise}, less than two standard errors over the samples ({error:.2g} each, {how}): it is the shape for these "
        "data, and may be another for other data of their kind.",
        "Claim no more than that, or use more data.",
        values,
    )


def _least_error(subject: Subject) -> float:
    """What the standard error of the rise in the middle is at least, by those of its ends: abs(a - b)."""
    assert subject.errors is not None
    a, b = (float(subject.errors[i]) for i in subject.ends_of_middle)
    return abs(a - b) if math.isfinite(a) and math.isfinite(b) else math.inf


def _without_errors(subject: Subject) -> str:
    """Why nothing says how much the picture would change with other samples."""
    if not subject.objective.get("samples"):
        return "no samples are seen behind the loss, so nothing says how much others would change"
    return "the loss hides the losses of single samples, so nothing says how much others would change"


def _do_without_errors(subject: Subject) -> str:
    if not subject.objective.get("samples"):
        return "Where it has samples, pass them as data, with a loss that returns one value a sample."
    return "Use a loss with a reduction= argument, or one that returns a value a sample (reduction='none')."


def local_minima_of(subject: Subject) -> list[tuple[LocalMinimum, int, int]]:
    """Local minima of the picture, deepest first, with the numbers of their bottoms and passes among the points."""
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
    """Whether local minima would be there with other samples, and in exact arithmetic, too."""
    assert subject.surface is not None
    loss = subject.surface["loss"]
    if "point" in loss.dims and len(subject.axes) != 1:
        because = "the points lie on no grid: which of them are local minima was not looked at."
        return unknown("ripples", because, "Take ln.Grid, or interpolate: surface.lossnav.to_grid().")
    if loss.size > MOST_FOR_MINIMA and "point" not in loss.dims:
        because = f"local minima of more than {MOST_FOR_MINIMA:,} points are not looked for ({loss.size:,})."
        return unknown("ripples", because, "Look at a part of them: surface[{dim: slice(None, None, 2)}].")
    if len(subject.losses) < 3 or ("point" not in loss.dims and max(loss.shape) < 3):
        because = "no point of the picture has neighbours on both sides."
        return unknown("ripples", because, "Take more points along each axis.")
    found = local_minima_of(subject)
    if not found:
        said = "Inside its border the picture has no local minimum beside its lowest."
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
            f"{many} beside the lowest, the deepest by {deepest:.2g}: no more than the error of the arithmetic, "
            f"{rounding:.1g}.",
            "Do not call the surface rough for them; compute in more digits.",
            values,
        )
    known = [(minimum, each) for (minimum, *_), each in zip(found, noise, strict=True) if each is not None]
    if len(known) < len(found):
        because = (
            f"{_without_errors(subject)} ({many[0].lower()}{many[1:]} beside the lowest, the deepest by {deepest:.3g})."
        )
        return unknown("ripples", because, _do_without_errors(subject), values)
    unsure = [minimum for minimum, each in known if not minimum.depth > thresholds.SURE * each]
    values |= {"unsure": len(unsure)}
    if not unsure:
        said = f"{many} beside the lowest, the deepest by {deepest:.3g} ± {error:.2g}: more than noise of the samples"
        also = f"; {shallow} of them no more than the arithmetic" if shallow else ""
        return Finding("ripples", "ok", f"{said}{also}.", values=values)
    if subject.is_subset and values["paired"] < len(found):
        because = (
            f"of the depths of {many[0].lower()}{many[1:]} beside the lowest only standard errors as of independent "
            f"samples are known (the deepest is {deepest:.3g} ± {error:.2g}): the samples are the same at all points, "
            "which mostly gives less. Other samples may have none there."
        )
        return unknown(
            "ripples",
            because,
            f"{subject.how_to_measure[:-1]}, which has them sample by sample; or keep_samples=True.",
            values,
        )
    which = f"{len(unsure)} of them" if len(found) > 1 else "and it is"
    return Finding(
        "ripples",
        "warning" if subject.is_subset else "note",
        f"{many} beside the lowest, {which} shallower than two standard errors (the deepest is {deepest:.3g} ± "
        f"{error:.2g}): other samples may have none there.",
        "Take more samples before you call the surface rough, or measure the differences: ln.report(…, "
        "objective=objective).",
        values,
    )


def _measured_minima(subject: Subject) -> dict[tuple[float, ...], float]:
    """Standard errors of the depths of local minima that were measured sample by sample, by their ends."""
    return {
        (*pair["low"], *pair["high"]): float(pair["error"])
        for pair in subject.facts.get("differences", [])
        if pair["what"] == "minimum"
    }


def _errors_of_minima(subject: Subject, found: list[tuple[LocalMinimum, int, int]]) -> list[float | None]:
    """Standard errors of the depths of minima: measured, of kept samples, as of independent ones, or not known."""
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
    """The error of computing against the relief of the middle."""
    engine, found = subject.attrs.get("engine", {}), arithmetic(subject)
    dtype, precision = subject.objective.get("dtype"), precision_of(subject)
    if found is None:
        what = f"{precision} is no precision whose digits are known" if precision else "it does not say its dtype"
        return unknown("precision", f"{what}.", subject.how_to_measure, {"precision": precision})
    (error, how), relief = found, subject.relief
    values: dict[str, Any] = {"precision": precision, "dtype": dtype, "relief": relief, "error": error}
    values |= {"plan_error": engine.get("plan_error"), "measured": bool(subject.facts.get("rounding"))}
    said = f"Computed in {precision}; the error of the loss, {how}, is {error:.1g}"
    if not relief > 0:
        what = "nothing rises in the middle of the picture"
        return Finding("precision", "note", f"{said}, and {what}.", "Take a larger range.", values)
    part = error / relief
    if part <= thresholds.ROUNDED_NOTE:
        said = f"{said} ({part:.1%} of the rise in the middle of the picture)."
        return Finding("precision", "ok", said, values=values)
    return Finding(
        "precision",
        "warning" if part > thresholds.ROUNDED else "note",
        f"{said}, {part:.0%} of the rise in the middle of the picture: shapes that small are of the arithmetic, not of "
        "the loss.",
        'Compute in more digits (precision="float32" or "float64"), or look at a larger range.',
        values,
    )
