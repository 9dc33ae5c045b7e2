"""Checks of how sure the values are: the data, its standard errors against the relief, rounding and the plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lossnav.intervals import UNSEEN, Interval, interval_of, recorded, rounding_of, spread_at
from lossnav.relief import Pit, pits
from lossnav.reports import thresholds
from lossnav.reports.findings import Finding
from lossnav.reports.subject import Subject
from lossnav.surface import OK

MOST_PITS = 40_000  # points of a surface up to which pits are looked for: Python visits each

_PAIRED = 200  # pits whose depth is held against kept samples
_INTERVALS = 50  # points whose intervals are looked at

_UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "tf32": 2.0**-11, "bfloat16": 2.0**-9, "float16": 2.0**-11}


def check(subject: Subject) -> Iterator[Finding]:
    """Say what of the picture would be otherwise with other samples, or with exact arithmetic."""
    if subject.objective:
        yield _data(subject)
        yield from _cut(subject)
    if subject.surface is not None and len(subject.losses) and subject.seeds is None:
        yield from _intervals(subject)
    if subject.surface is not None and len(subject.losses) > 1:
        if subject.seeds is None:
            yield _noise(subject)
            yield from _ripples(subject)
        yield from _rounding(subject)


# ---------------------------------------------------------------------- data


def _data(subject: Subject) -> Finding:
    objective = subject.objective
    samples, population = objective.get("samples"), objective.get("population")
    values = {name: objective.get(name) for name in ("samples", "population", "subset_seed", "origin")}
    if not samples:
        said = "The loss is a function of the weights alone, without data: no sample stands behind it."
        return Finding("data", "ok", said, values=values)
    whose = "Nothing says whether they are training or held-out data, on which a centre is a minimum or need not be"
    if samples < thresholds.FEW_SAMPLES:
        return Finding(
            "data",
            "warning" if population else "note",
            f"{samples} samples are so few that their standard error is itself a guess.",
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
    cut = subject.objective.get("cut")
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
    for name, seen in (subject.objective.get("metrics_cut") or {}).items():
        yield Finding(
            "batches",
            "warning",
            f"The metric {name!r} depends on how the data is cut into batches: {seen['samples']} samples gave "
            f"{seen['whole']:.6g} as one batch and {seen['parts']:.6g} as two.",
            "Say how long the batches were; or let it return one value a sample.",
            {"metric": name, **seen},
        )


# ---------------------------------------------------------------------- standard errors


def _intervals(subject: Subject) -> Iterator[Finding]:
    """Whether loss ± 1.96 standard errors is the interval it looks like, at the centre and elsewhere."""
    assert subject.surface is not None
    samples, attrs = subject.objective.get("samples"), subject.attrs
    if not samples or "control_variate" in attrs or "interpolation" in attrs:
        return
    if subject.errors is None:
        said = "The loss hides the losses of single samples: how sure it is is not known."
        do = "Use a loss with a reduction= argument, or one that returns a value a sample (reduction='none')."
        if "loss_se" in subject.surface:
            few = f"Of {samples:,} sample{'' if samples == 1 else 's'} no standard error is finite"
            said, do = f"{few}: how sure the loss is is not known.", "Use more samples, with losses below 1e150."
        yield Finding("intervals", "note", said, do, {"known": False})
        return
    if "sampling" not in attrs and "loss_skewness" not in subject.surface:
        said = "This surface does not say how its samples are spread: whether its standard errors hold is not known."
        yield Finding("intervals", "note", said, "Evaluate it with this version of lossnav.", {"known": False})
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
    if errors is None:
        if not subject.objective.get("samples"):
            return Finding(
                "noise", "ok", "There are no samples, so no other ones would give another picture.", values=values
            )
        return Finding(
            "noise",
            "note",
            "The loss hides the losses of single samples, so nothing says how much the picture would change with "
            "others.",
            "Use a loss with a reduction= argument, or one that returns a value a sample (reduction='none').",
            values,
        )
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
    rise = f"In the middle of the picture the loss rises by {relief:.3g}"
    if relief > thresholds.SURE * error:
        said = f"{rise}, with a standard error of {error:.2g} ({how}); the level is known to ± {level:.2g}."
        return Finding("noise", "ok", said, values=values)
    if subject.is_subset:
        more = (
            "" if paired is not None else ", or measure the differences themselves: ln.report(…, objective=objective)"
        )
        return Finding(
            "noise",
            "warning",
            f"{rise}, and the standard error of that is {error:.2g} ({how}): other samples may give another shape "
            "there.",
            f"Take more samples{more}.",
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


def pits_of(subject: Subject) -> list[tuple[Pit, int, int]]:
    """Local minima of the picture, deepest first, with the numbers of their bottoms and passes among the points."""
    assert subject.surface is not None
    loss = subject.surface["loss"]
    numbers = np.cumsum(np.isfinite(loss.values).reshape(-1)) - 1  # of the points with a finite loss
    if "point" in subject.surface.dims:
        if len(subject.axes) != 1:
            return []
        order = np.argsort(subject.places[:, 0], kind="stable")
        found = pits(subject.losses[order])
        return _deepest([(pit, int(order[pit.bottom[0]]), int(order[pit.over[0]])) for pit in found])
    if loss.size > MOST_PITS:
        return []
    shape = loss.shape

    def number(place: tuple[int, ...]) -> int:
        return int(numbers[np.ravel_multi_index(place, shape)])

    return _deepest([(pit, number(pit.bottom), number(pit.over)) for pit in pits(loss.values)])


def _deepest(found: list[tuple[Pit, int, int]]) -> list[tuple[Pit, int, int]]:
    return sorted(found, key=lambda each: -each[0].depth)


def _ripples(subject: Subject) -> Iterator[Finding]:
    """Whether local minima would be there with other samples too."""
    assert subject.surface is not None
    if "point" in subject.surface.dims and len(subject.axes) != 1:
        return
    found = pits_of(subject)
    if not found:
        yield Finding(
            "ripples", "ok", "The picture has one valley: no local minimum but the lowest.", values={"pits": 0}
        )
        return
    errors = subject.errors
    known = {
        (*pair["low"], *pair["high"]): float(pair["error"])
        for pair in subject.facts.get("differences", [])
        if pair["what"] == "pit"
    }
    noise = []
    for number, (_, low, high) in enumerate(found):
        paired = subject.paired_error(high, low) if number < _PAIRED else None
        ends = (*subject.places[low].tolist(), *subject.places[high].tolist())
        independent = 0.0 if errors is None else float(np.hypot(errors[low], errors[high]))
        noise.append(known.get(ends, independent) if paired is None else paired)
    unsure = [pit for (pit, *_), error in zip(found, noise, strict=True) if not pit.depth > thresholds.SURE * error]
    deepest, error = found[0][0].depth, noise[0]
    values = {"pits": len(found), "unsure": len(unsure), "deepest": deepest, "deepest_se": error}
    values["paired"] = min(len(found), _PAIRED) if subject.has_samples else len(known)
    many = f"{len(found)} local minima" if len(found) > 1 else "One local minimum"
    if not unsure:
        yield Finding(
            "ripples",
            "ok",
            f"{many} beside the lowest, the deepest by {deepest:.3g} ± {error:.2g}: more than noise of the samples.",
            values=values,
        )
        return
    yield Finding(
        "ripples",
        "warning" if subject.is_subset else "note",
        f"{many} beside the lowest, {len(unsure)} of them shallower than two standard errors (the deepest is "
        f"{deepest:.3g} ± {error:.2g}): other samples may have none there.",
        "Take more samples before you call the surface rough, or measure the differences: ln.report(…, "
        "objective=objective).",
        values,
    )


# ---------------------------------------------------------------------- rounding


def _rounding(subject: Subject) -> Iterator[Finding]:
    """The error of computing against the relief of the middle."""
    engine, measured = subject.attrs.get("engine", {}), subject.facts.get("rounding", {})
    dtype, asked = subject.objective.get("dtype"), engine.get("precision", "native")
    precision = dtype if asked in ("native", None) else asked
    if precision not in _UNITS or subject.center_loss is None:
        return
    relief, level = subject.relief, abs(subject.center_loss)
    values: dict[str, Any] = {"precision": precision, "dtype": dtype, "relief": relief}
    plan_error = float(engine["plan_error"]) if "plan_error" in engine else None
    if measured.get("error") is not None:
        error, how = float(measured["error"]), f"against float64 at {measured['points']} points"
    elif plan_error is not None and precision != dtype:
        error, how = plan_error * level, f"the plan's largest at its probes, {plan_error:.1g} of the loss"
    else:
        error, how = _UNITS[precision] * thresholds.ROUNDINGS * level, f"by the digits of {precision}"
        if plan_error is not None and plan_error * level > error:
            error, how = plan_error * level, f"the plan's largest at its probes, {plan_error:.1g} of the loss"
    values |= {"error": error, "plan_error": plan_error, "measured": bool(measured)}
    part = error / relief if relief > 0 else math.inf
    said = f"Computed in {precision}; the error of the loss, {how}, is {error:.1g}"
    if part <= thresholds.ROUNDED_NOTE:
        yield Finding(
            "precision", "ok", f"{said} ({part:.1%} of the rise in the middle of the picture).", values=values
        )
        return
    what = f"{part:.0%} of the rise in the middle of the picture" if math.isfinite(part) else "and nothing rises"
    yield Finding(
        "precision",
        "warning" if part > thresholds.ROUNDED else "note",
        f"{said}, {what}: shapes that small are of the arithmetic, not of the loss.",
        'Compute in more digits (precision="float32" or "float64"), or look at a larger range.',
        values,
    )
